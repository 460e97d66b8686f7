"""The cells of a study, each with a hash over everything that determines its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._affinity.features import KINDS
from .._affinity.presets import PRESETS, preset_weights
from .._affinity.table import default_kernel
from .._analysis.scores.table import SCORES
from .._capture.plan import choose_layers, make_plan
from .._compute.devices import resolve_device, some_threads
from ..errors import SpectralToolkitError, StudyError
from .config import EACH, AffinityChoice, LayerChoice, ModelChoice, PictureChoice, Study
from .sources import PictureSet, load_pictures, load_study_model

if TYPE_CHECKING:
    from .._models import Model

LIBRARIES = ("spectral-toolkit", "torch", "transformers", "diffusers", "numpy", "scipy", "scikit-learn", "xarray")
"""Libraries whose version may change a number."""
_SHOWING = (
    "_views",
    "_render",
    "_explorer",
    "studies",
    "_io/bundles",
    "_io/outputs.py",
    "_io/reprs.py",
    "_io/console.py",
    "cli",
)
"""Parts of the package that compute no number of a cell, except for `_COMPUTING`."""
_COMPUTING = ("studies/computing.py", "studies/controls.py", "studies/evaluation.py")
_GROUP_ONLY = ("layers", "quantities", "versions", "format")
"""Attributes of a capture that determine no number of a cell, or are recorded elsewhere."""


@dataclass(frozen=True)
class Cell:
    """One model, one set of images, one affinity, one choice of layers.

    Attributes
    ----------
    layers
        Names of the layers, in depth order.
    ingredients
        Everything that determines the numbers.
    """

    model: str
    pictures: str
    affinity: AffinityChoice
    choice: str
    layers: tuple[str, ...]
    ingredients: dict[str, object]

    @property
    def content_sha256(self) -> str:
        """Hash over the ingredients: equal hashes mean equal numbers."""
        return sha256_of(self.ingredients)

    @property
    def label(self) -> str:
        """The cell in words."""
        return " · ".join((self.model, self.pictures, self.affinity.label, self.choice))


@dataclass(frozen=True)
class Group:
    """The cells that share a capture: one model on one set of images."""

    model: ModelChoice
    pictures: PictureChoice
    opened: PictureSet
    layers: tuple[str, ...]
    quantities: tuple[str, ...]
    capture: dict[str, object]
    cells: tuple[Cell, ...]

    @property
    def activations_sha256(self) -> str:
        """Hash over everything that determines the activations."""
        return sha256_of({**self.capture, "layers": self.layers, "quantities": self.quantities, "code": code_sha256()})

    @property
    def untrained_sha256(self) -> str:
        """The same for the untrained model's activations, which are a control."""
        return sha256_of({"untrained": self.activations_sha256})


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study: what will be computed, and from what."""

    study: Study
    groups: tuple[Group, ...]

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.groups for cell in group.cells]


def plan_study(study: Study) -> StudyPlan:
    """Open every model and every set of images once, and list all cells.

    Models are opened one after the other and freed; nothing is computed yet.

    Raises
    ------
    SpectralToolkitError
        If a model or image cannot be opened, or a model lacks a layer or a quantity that the study needs.
    """
    resolve_device(study.device)
    sets = [(choice, _opened(choice, study.folder)) for choice in study.pictures]
    if study.evaluate is not None and all(opened.labels is None for _, opened in sets):
        raise StudyError(
            "evaluate needs labels, but no set of images has any: give labels= beside files, a dataset or scenes."
        )
    groups = []
    for choice in study.models:
        model = load_study_model(choice, study)
        layers = layer_choices(model, choice, study)
        groups += [_group(study, choice, model, layers, pictures, opened) for pictures, opened in sets]
    return StudyPlan(study, tuple(groups))


def layer_choices(model: Model, choice: ModelChoice, study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """Names and layers of all choices for one model; choices of the same layers are made once."""
    found: dict[tuple[str, ...], str] = {}
    for one in study.layers:
        for label, layers in _expanded(one, model, choice):
            found.setdefault(layers, label)
    return [(label, layers) for layers, label in found.items()]


def _expanded(one: LayerChoice, model: Model, choice: ModelChoice) -> Iterator[tuple[str, tuple[str, ...]]]:
    if one.layers == EACH:
        yield from ((f"layer {place}", (name,)) for place, name in enumerate(model.layers))
    elif isinstance(one.layers, str) and one.layers in PRESETS:
        weights = preset_weights(model.layers, one.layers)
        yield one.label, tuple(name for name in model.layers if weights[name] > 0)
    else:
        try:
            yield one.label, choose_layers(model, list(one.layers))
        except SpectralToolkitError as error:
            raise StudyError(f"layers {one.label!r} of the model {choice.label!r}: {error}") from error


def _group(
    study: Study,
    choice: ModelChoice,
    model: Model,
    layers: Sequence[tuple[str, tuple[str, ...]]],
    pictures: PictureChoice,
    opened: PictureSet,
) -> Group:
    used = {name for _, names in layers for name in names}
    wanted = tuple(name for name in model.layers if name in used)
    quantities = _quantities(study, model)
    capture = make_plan(model, opened.pictures, list(wanted), quantities, study.size, study.batch_size, study.seed)
    facts = {name: value for name, value in capture.attrs.items() if name not in _GROUP_ONLY}
    cells = []
    for label, names in layers:
        for affinity in study.affinities:
            settings = {
                "kind": affinity.kind,
                "kernel": affinity.kernel or default_kernel(affinity.kind, study.scope),
                # By default the kernel of a dataset depends on its size, and kernel=None leaves that choice open.
                "kernel_asked": affinity.kernel,
                "options": dict(affinity.options),
                "heads": affinity.heads,
                "scope": study.scope,
                "layers": names,
                "n_eigenvectors": study.n_eigenvectors,
                "tolerance": study.tolerance,
                "seed": study.seed,
                "solve_device": str(resolve_device(study.device)),
                "scores": list(SCORES) if study.scores else False,
                "controls": study.controls and bool(study.scores or study.evaluate) and opened.labels is not None,
                "evaluate": None if study.evaluate is None else study.evaluate.model_dump(mode="json"),
            }
            ingredients = {
                "capture": facts,
                "settings": settings,
                "labels_sha256": opened.labels_sha256 if study.scores or study.evaluate else None,
                "n_categories": len(opened.categories) if study.evaluate else None,
                "versions": versions(),
                "code_sha256": code_sha256(),
                "arithmetic": arithmetic(study),
            }
            cells.append(Cell(choice.label, pictures.label, affinity, label, names, ingredients))
    return Group(choice, pictures, opened, wanted, quantities, facts, tuple(cells))


def _quantities(study: Study, model: Model) -> tuple[str, ...]:
    """The quantities that the affinities compare, and tokens, whose norms the trust statements need."""
    needed = {name for affinity in study.affinities for name in KINDS[affinity.kind]}
    if "token" in model.quantities and not model.draws:
        needed.add("token")
    return tuple(sorted(needed))


def _opened(choice: PictureChoice, folder: Path) -> PictureSet:
    try:
        return load_pictures(choice, folder)
    except StudyError:
        raise
    except SpectralToolkitError as error:
        raise StudyError(f"images {choice.label!r}: {error}") from error


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that may change a number; those that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def arithmetic(study: Study) -> dict[str, object]:
    """The properties of this machine that determine how sums are rounded: equal values give equal bytes."""
    return {"threads": study.threads or torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


def threads_of(study: Study) -> AbstractContextManager[None]:
    """Use the number of threads that the study asks for, while its cells are computed."""
    return nullcontext() if study.threads is None else some_threads(study.threads)


@cache
def code_sha256() -> str:
    """Hash over the files of this package that compute numbers, because a version may be under development."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_SHOWING) or name in _COMPUTING:
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def sha256_of(value: object) -> str:
    """Hash of plain data, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
