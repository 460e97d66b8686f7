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
    from .affinities import affinity
    from .bundling import load_bundle, save_bundle
    from .capturing import capture
    from .comparing import align, layer_distances, subspace_distance
    from .diagnosis import doctor
    from .estimating import estimate_memory
    from .images import load_images
    from .models import load_model
    from .projecting import project
    from .regions import cut_costs, instances, refine, segment
    from .scoring import evaluate, pathways, prepare_labels
    from .solvers import solve
    from .views.explorer import Explorer
    from .views.frozen import frozen
    from .views.heat_map import heat_map
    from .views.notebook import extension
    from .views.overlay import overlay
    from .views.report import report
