"""Defines a study: models x images x affinities x layers, as frozen dataclasses, which ``reading.py`` makes."""

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
        Its name in the results.
    source
        A bundled name, a hub name, or a folder as written in the file.
    dtype
        Precision of its weights; None takes the precision of the checkpoint.
    revision
        The revision of a hub model.
    """

    label: str
    source: str
    dtype: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class ScenesChoice:
    """Generated scenes, which come with labels."""

    n: int
    seed: int = 0
    size: int = 96


@dataclass(frozen=True)
class PictureChoice:
    """One set of images: files (paths, folders and patterns as written), or generated scenes.

    Attributes
    ----------
    labels
        Patterns of label maps, one file per image with the same stem; scenes have labels of their own.
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
    """One affinity: its kind, its kernel, and the kernel's options."""

    label: str
    kind: str
    kernel: str | None = None
    heads: str = "mean"
    options: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class LayerChoice:
    """Layers solved jointly: the name of a preset, or names and numbers (negative numbers count from the end)."""

    label: str
    layers: str | tuple[int | str, ...]


@dataclass(frozen=True)
class Tolerances:
    """How far a number may move before ``--check`` reports it.

    Attributes
    ----------
    eigenvalue
        For eigenvalues and eigengaps, which lie in [0, 2]: absolute.
    share
        For a layer's part of a component's eigenvalue or degrees, which sum to 1 over the layers: absolute.
    score
        For scores, which lie in [0, 1] ([-1, 1] for the adjusted Rand index): absolute.
    subspace
        For components that cannot be told apart: the sine of the largest angle between their old and their new space.
    """

    eigenvalue: float = 1e-4
    share: float = 0.01
    score: float = 0.01
    subspace: float = 0.05


@dataclass(frozen=True)
class Study:
    """A whole study: every model runs on every set of images, and every affinity is solved for every choice of layers.

    Attributes
    ----------
    folder
        The folder of the file, from which relative paths start.
    scope
        ``"image"``: every image alone; ``"dataset"``: all images of a set as one problem.
    tolerance
        Tolerance of the solver: the largest residual that counts as converged.
    threads
        Number of torch's threads, so that sums are rounded alike on machines with different numbers of cores; None
        leaves torch's own.
    scores
        Whether to score the affinities over sets of two or more images.
    show
        How many images of every set the page shows; the numbers are over all images.
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
        """The study as plain data without paths of this machine: absolute paths keep their last part only."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name != "folder"}


def portable(text: str) -> str:
    """A path as written if it is relative, otherwise its last part: the folders above it are specific to this machine.

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
