"""What a study is: models x pictures x affinities x layers, as frozen dataclasses, which ``reading.py`` makes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelChoice:
    """One model.

    Attributes
    ----------
    label
        How it is called in the results.
    source
        Bundled name, hub name, or a folder as the file wrote it.
    dtype
        Precision of its weights; None takes that of the checkpoint.
    revision
        Of a hub model.
    """

    label: str
    source: str
    dtype: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ScenesChoice:
    """Generated scenes, which bring their labels."""

    n: int
    seed: int = 0
    size: int = 96


@dataclass(frozen=True)
class PictureChoice:
    """One set of pictures: files (paths, folders and patterns as written), or generated scenes.

    Attributes
    ----------
    labels
        Patterns of label maps, one file per picture with the same stem; scenes have labels of their own.
    ignore
        Labels that mean 'no label', besides -1.
    """

    label: str
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    scenes: ScenesChoice | None = None
    ignore: tuple[int, ...] = ()


@dataclass(frozen=True)
class AffinityChoice:
    """One affinity: what is compared, by which kernel, with which options of it."""

    label: str
    kind: str
    kernel: str | None = None
    heads: str = "mean"
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class LayerChoice:
    """Layers solved jointly: a preset's name, or names and numbers (negative ones count from the end)."""

    label: str
    layers: str | tuple[int | str, ...]


@dataclass(frozen=True)
class Tolerances:
    """How far a number may move before ``--check`` says so.

    Attributes
    ----------
    eigenvalue
        Absolute, of eigenvalues and eigengaps, which lie in [0, 2].
    share
        Absolute, of a layer's part of a component's eigenvalue or mass; parts sum to 1.
    score
        Absolute, of scores, which lie in [0, 1] ([-1, 1] for the adjusted Rand index).
    subspace
        Sine of the largest angle between the old and the new space of components that cannot be told apart.
    """

    eigenvalue: float = 1e-4
    share: float = 0.01
    score: float = 0.01
    subspace: float = 0.05


@dataclass(frozen=True)
class Study:
    """A whole study; every model is run on every set of pictures, and every affinity solved for every choice of layers.

    Attributes
    ----------
    folder
        What relative paths start from: where the file lies.
    scope
        ``"image"``: every picture alone; ``"dataset"``: all pictures of a set as one problem.
    tolerance
        Of the solver: the largest residual that counts as converged.
    threads
        Of torch, so that sums are rounded alike on machines with other numbers of cores; None leaves torch its own.
    scores
        Whether to score the affinities over sets of two pictures and more.
    show
        How many pictures of every set the page shows; the numbers are of all.
    keep_activations
        Whether activations stay in the cache after the last cell that needs them.
    check
        How far numbers may move.
    """

    models: tuple[ModelChoice, ...]
    pictures: tuple[PictureChoice, ...]
    folder: Path
    affinities: tuple[AffinityChoice, ...] = (AffinityChoice("qk", "qk"), AffinityChoice("vv", "vv"))
    layers: tuple[LayerChoice, ...] = (LayerChoice("all", "all"),)
    title: str = "A study"
    scope: str = "image"
    n_eigenvectors: int = 10
    tolerance: float = 1e-6
    seed: int = 0
    device: str = "auto"
    size: int | None = None
    batch_size: int = 8
    threads: int | None = None
    scores: bool = True
    show: int = 4
    keep_activations: bool = False
    check: Tolerances = field(default_factory=Tolerances)

    def record(self) -> dict[str, Any]:
        """The study as plain data without paths of this machine: absolute ones keep their last part."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name != "folder"}


def portable(text: str) -> str:
    """A path as written if it is relative, else its last part: what lies above it is this machine's business.

    Examples
    --------
    >>> portable("photos/*.jpg"), portable("/home/ada/photos/*.jpg")
    ('photos/*.jpg', '.../*.jpg')
    """
    path = Path(text)
    return f".../{path.name}" if path.is_absolute() or text.startswith("~") else text


def _plain(value: Any) -> Any:
    if isinstance(value, PictureChoice):
        paths = {one: [portable(path) for path in getattr(value, one)] for one in ("files", "labels")}
        ignored = {"ignore": list(value.ignore)} if value.ignore else {}
        return {"label": value.label, **paths, "scenes": _plain(value.scenes), **ignored}
    if isinstance(value, ModelChoice):
        return {**vars(value), "source": portable(value.source)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value
