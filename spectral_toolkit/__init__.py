"""Open up vision transformers: capture every layer, solve one spectral problem, see the eigenvectors.

Every name is loaded on first use (PEP 562), so that ``import spectral_toolkit`` stays instant.
No submodule carries the name of a public function: importing it would replace the function here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "load_images": "images",
    "load_model": "models",
    "capture": "capturing",
    "estimate_memory": "estimating",
    "affinity": "affinities",
    "solve": "solvers",
    "project": "projecting",
    "align": "comparing",
    "subspace_distance": "comparing",
    "layer_distances": "comparing",
    "load_bundle": "bundling",
    "cut_costs": "regions",
    "segment": "regions",
    "instances": "regions",
    "refine": "regions",
    "prepare_labels": "scoring",
    "pathways": "scoring",
    "evaluate": "scoring",
    "overlay": "views.overlay",
    "heat_map": "views.heat_map",
    "extension": "views.notebook",
    "report": "views.report",
    "frozen": "views.frozen",
    "doctor": "diagnosis",
    "save_bundle": "bundling",
    "Explorer": "views.explorer",
}
_MODULES = ("errors", "scenes", "solvers", "studies")

__all__ = [
    "Explorer",
    "__version__",
    "affinity",
    "align",
    "capture",
    "cut_costs",
    "doctor",
    "errors",
    "estimate_memory",
    "evaluate",
    "extension",
    "frozen",
    "heat_map",
    "instances",
    "layer_distances",
    "load_bundle",
    "load_images",
    "load_model",
    "overlay",
    "pathways",
    "prepare_labels",
    "project",
    "refine",
    "report",
    "save_bundle",
    "scenes",
    "segment",
    "solve",
    "solvers",
    "studies",
    "subspace_distance",
]


def __getattr__(name: str):
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)


if TYPE_CHECKING:
    from . import errors, scenes, solvers, studies
    from ._affinity import affinity
    from ._analysis.comparison import align, layer_distances, subspace_distance
    from ._analysis.memory import estimate_memory
    from ._analysis.regions import cut_costs, instances, refine, segment
    from ._analysis.scores import evaluate, pathways, prepare_labels
    from ._capture import capture
    from ._io.bundles import load_bundle, save_bundle
    from ._io.images import load_images
    from ._models import load_model
    from ._views.frozen_page import freeze
    from ._views.heat_map import heat_map
    from ._views.notebook import extension
    from ._views.overlay import overlay
    from ._views.report import report
    from ._views.widget import Explorer
    from .cli.doctor import doctor
    from .solvers import solve
    from .solvers.extension import project
