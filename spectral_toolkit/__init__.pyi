# The one list of public names: lazy_loader reads it at run time, type checkers read it as it stands.
from . import errors as errors
from . import kernels as kernels
from . import scenes as scenes
from . import solvers as solvers
from . import studies as studies
from ._affinity import affinity as affinity
from ._affinity.presets import preset_weights as preset_weights
from ._affinity.rows import affinity_row as affinity_row
from ._analysis.comparison import align as align
from ._analysis.comparison import layer_distances as layer_distances
from ._analysis.comparison import subspace_distance as subspace_distance
from ._analysis.memory import estimate_memory as estimate_memory
from ._analysis.regions import cut_costs as cut_costs
from ._analysis.regions import hierarchy as hierarchy
from ._analysis.regions import instances as instances
from ._analysis.regions import recut as recut
from ._analysis.regions import refine as refine
from ._analysis.regions import segment as segment
from ._analysis.scores import evaluate as evaluate
from ._analysis.scores import pathways as pathways
from ._analysis.scores import prepare_labels as prepare_labels
from ._analysis.scores.controls import pixel_tree as pixel_tree
from ._analysis.scores.results import eigenvector_scores as eigenvector_scores
from ._analysis.scores.variance import variance_shares as variance_shares
from ._analysis.trust import outlying_masks as outlying_masks
from ._analysis.trust import token_norms as token_norms
from ._analysis.trust import trust_statements as trust_statements
from ._capture import capture as capture
from ._io.bundles import load_bundle as load_bundle
from ._io.bundles import save_bundle as save_bundle
from ._io.images import load_images as load_images
from ._models import load_model as load_model
from ._views.charts import layers_chart as layers_chart
from ._views.charts import spectrum_chart as spectrum_chart
from ._views.frozen_page import freeze as freeze
from ._views.heat_map import heat_map as heat_map
from ._views.notebook import extension as extension
from ._views.overlay import overlay as overlay
from ._views.report import render_report as render_report
from ._views.report import report as report
from ._views.widget import Explorer as Explorer
from .cli.diagnosis import doctor as doctor
from .solvers import solve as solve
from .solvers.extension import project as project

__all__: list[str]
__version__: str
