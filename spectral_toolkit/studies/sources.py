"""The inputs of a study: models, images and labels, relative to the folder of its file, as objects and as Python."""

from __future__ import annotations

import glob as globbing
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._compute.settings import computing
from .._io.decoding import read_numbers
from .._io.images import Images, load_images
from ..errors import SpectralToolkitError, StudyError
from ..scenes import sample
from .config import ModelChoice, PictureChoice, Study, portable

if TYPE_CHECKING:
    from .._models import Model

_WILD = "*?["


@dataclass(frozen=True)
class PictureSet:
    """Images with their labels, if there are any.

    Attributes
    ----------
    labels
        One integer map (height, width) per image; None where there are no labels.
    expression, labels_expression
        Python expressions for the same, to be run in the folder of the study's file.
    ignore
        Labels that mean 'no label', besides -1.
    """

    pictures: Images
    labels: list[np.ndarray] | None
    expression: str
    labels_expression: str | None
    ignore: tuple[int, ...] = ()

    @property
    def labels_sha256(self) -> str | None:
        """Hash over all label maps; None without labels."""
        if self.labels is None:
            return None
        digest = sha256()
        for one in self.labels:
            digest.update(f"{one.shape}".encode() + np.ascontiguousarray(one, dtype="<i8").tobytes())
        if self.ignore:
            digest.update(repr(sorted(self.ignore)).encode())
        return digest.hexdigest()


def load_pictures(choice: PictureChoice, folder: Path) -> PictureSet:
    """Open a set of images.

    Raises
    ------
    StudyError
        If labels and images do not correspond one to one.
    SpectralToolkitError
        If there is no such image.
    """
    if choice.scenes is not None:
        asked = choice.scenes
        drawn = sample(asked.n, seed=asked.seed, size=asked.size)
        source = f"st.scenes.sample({asked.n}, seed={asked.seed}, size={asked.size})"
        labels = list(drawn["label"].to_numpy())
        expressions = f"{source}.pixels", f"{source}.label"
        return PictureSet(load_images(drawn["pixels"]), labels, *expressions, choice.ignore)
    found = [_found(pattern, folder) for pattern in choice.files]
    pictures = load_images(found[0] if len(found) == 1 else found)
    written = [portable(pattern) for pattern in choice.files]
    expression = repr(written[0]) if len(written) == 1 else repr(written)
    if not choice.labels:
        return PictureSet(pictures, None, expression, None)
    from_files = f"st.studies.label_maps({[portable(pattern) for pattern in choice.labels]!r}, images)"
    return PictureSet(pictures, label_maps(choice.labels, pictures, folder), expression, from_files, choice.ignore)


@computing
def label_maps(
    patterns: list[str] | tuple[str, ...], pictures: Images | Sequence[str], folder: Path | str = "."
) -> list[np.ndarray]:
    """Read label maps, each from the file with the stem of its image, and in the same folder where there are several.

    Folders are compared without what all images, or all label maps, have in common: ``photos/good/000.jpg`` belongs
    to ``labels/good/000.png``, and ``good/photos/000.jpg`` to ``good/labels/000.png``. Where the two sets have no
    folder of the same name, the stem alone decides.

    Parameters
    ----------
    patterns
        Paths and patterns of files whose pixels are integers: PNG with one channel or with a palette.
    pictures
        The result of ``load_images``, or names or paths of the images, in order.
    folder
        The folder from which relative patterns start.

    Raises
    ------
    StudyError
        If an image has no map or more than one, if two images would share one, or if a file holds no integers.
    """
    found = [Path(path).absolute() for pattern in patterns for path in _matches(pattern, Path(folder))]
    files = list(dict.fromkeys(found))
    names = list(pictures.names if isinstance(pictures, Images) else pictures)
    paths = pictures.paths if isinstance(pictures, Images) else [""] * len(names)
    places = _folders([Path(path or name) for path, name in zip(paths, names, strict=True)])
    by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for place, path in zip(_folders(files), files, strict=True):
        by_stem.setdefault(path.stem, []).append((place, path))
    nested = set(places) & {place for entries in by_stem.values() for place, _ in entries}
    given = f"the {len(files)} files of {', '.join(map(repr, patterns))}"
    taken: dict[Path, tuple[tuple[str, ...], str]] = {}
    chosen = []
    for name, path, place in zip(names, paths, places, strict=True):
        entries = by_stem.get(Path(path or name).stem, [])
        fitting = [one for own, one in entries if not nested or own == place]
        if len(fitting) != 1:
            shown = fitting or [one for _, one in entries]
            which = f" ({', '.join(repr('/'.join(one.parts[-2:])) for one in shown[:3])})" if shown else ""
            which = f"{' in its folder' if nested and entries else ''}{which}"
            raise StudyError(
                f"The image {name!r} has {len(fitting)} label maps among {given}{which}: give one file of the same "
                "stem for each image, in folders with the names of the images' folders where stems are not unique."
            )
        other = taken.setdefault(fitting[0], (place, name))
        if other[0] != place:
            raise StudyError(
                f"The label map {fitting[0].name!r} would belong to two images, {other[1]!r} and {name!r}: put the "
                "label maps into folders with the names of the images' folders."
            )
        chosen.append(fitting[0])
    return [_label_map(path) for path in chosen]


def _folders(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """The folders that distinguish files: whatever lies above and below them in all paths is left out.

    Examples
    --------
    >>> _folders([Path("all/good/photos/1.png"), Path("all/bad/photos/1.png")])
    [('good',), ('bad',)]
    """
    parts = [path.parent.parts for path in paths]
    above = _n_common(parts)
    parts = [one[above:] for one in parts]
    below = _n_common([one[::-1] for one in parts])
    return [one[: len(one) - below] for one in parts]


def _n_common(parts: Sequence[tuple[str, ...]]) -> int:
    """The number of parts that all of them have in common at the beginning."""
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))


def _label_map(path: Path) -> np.ndarray:
    try:
        pixels = read_numbers(path)
    except SpectralToolkitError as error:
        raise StudyError(f"The label map {path.name!r} cannot be read as an image: save it as PNG.") from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "iub":
        raise StudyError(
            f"The label map {path.name!r} has shape {pixels.shape} and type {pixels.dtype}: expected one integer per "
            "pixel, as in a PNG with one channel or a palette."
        )
    return pixels.astype(np.int64)


def load_study_model(choice: ModelChoice, study: Study) -> Model:
    """Load a model by name, or from a folder beside the study's file."""
    from .._models import load_model

    return load_model(
        model_source(choice, study.folder), device=study.device, dtype=choice.dtype, revision=choice.revision
    )


def model_source(choice: ModelChoice, folder: Path) -> str:
    """The folder of that name, if it exists, otherwise the name itself."""
    beside = folder / Path(choice.source).expanduser()
    return str(beside) if beside.is_dir() else choice.source


def _found(pattern: str, folder: Path) -> str:
    """A path or pattern that is valid anywhere; brackets and stars in the folder's own name are escaped."""
    expanded = Path(pattern).expanduser()
    if expanded.is_absolute():
        return str(expanded)
    is_pattern = any(sign in pattern for sign in _WILD) and not (folder / pattern).exists()
    return str(Path(globbing.escape(str(folder)) if is_pattern else folder) / pattern)


def _matches(pattern: str, folder: Path) -> list[str]:
    found = _found(pattern, folder)
    return [found] if Path(found).is_file() else sorted(globbing.glob(found, recursive=True))
