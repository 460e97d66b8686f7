"""Label maps in files: which file belongs to which image, and its numbers as they are stored."""

from __future__ import annotations

import glob as globbing
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from ..errors import SpectralToolkitError
from .decoding import read_numbers

Error = type[SpectralToolkitError]
_WILD = "*?["


def paired_files(
    patterns: Sequence[str],
    names: Sequence[str],
    paths: Sequence[str],
    folder: Path,
    *,
    error: Error,
    what: str = "label map",
) -> list[Path]:
    """The file of each image: the one with the stem of the image, in the same folder where there are several.

    Folders are compared without what all images, or all files, have in common: ``photos/good/000.jpg`` belongs to
    ``labels/good/000.png``, and ``good/photos/000.jpg`` to ``good/labels/000.png``. Where the two sets have no folder
    of the same name, the stem alone decides.

    Parameters
    ----------
    patterns
        Paths, folders and patterns of the files.
    names, paths
        Names and paths of the images, in order; a path may be empty.
    folder
        The folder from which relative patterns start.
    error
        The class that is raised if an image has no file or more than one, or if two images would share one.
    """
    found = [Path(path).absolute() for pattern in patterns for path in _matches(pattern, folder)]
    files = list(dict.fromkeys(found))
    places = _folders([Path(path or name) for path, name in zip(paths, names, strict=True)])
    by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for place, path in zip(_folders(files), files, strict=True):
        by_stem.setdefault(path.stem, []).append((place, path))
    nested = set(places) & {place for entries in by_stem.values() for place, _ in entries}
    given = f"the {len(files)} files of {', '.join(map(repr, patterns))}"
    taken: dict[Path, tuple[tuple[str, ...], str]] = {}
    chosen: list[Path] = []
    for name, path, place in zip(names, paths, places, strict=True):
        entries = by_stem.get(Path(path or name).stem, [])
        fitting = [one for own, one in entries if not nested or own == place]
        if len(fitting) != 1:
            shown = fitting or [one for _, one in entries]
            which = f" ({', '.join(repr('/'.join(one.parts[-2:])) for one in shown[:3])})" if shown else ""
            which = f"{' in its folder' if nested and entries else ''}{which}"
            raise error(
                f"The image {name!r} has {len(fitting)} {what}s among {given}{which}: give one file of the same "
                "stem for each image, in folders with the names of the images' folders where stems are not unique."
            )
        other = taken.setdefault(fitting[0], (place, name))
        if other[0] != place:
            raise error(
                f"The {what} {fitting[0].name!r} would belong to two images, {other[1]!r} and {name!r}: put the "
                f"{what}s into folders with the names of the images' folders."
            )
        chosen.append(fitting[0])
    return chosen


def from_folder(pattern: str, folder: Path) -> str:
    """A path or pattern that is valid anywhere; brackets and stars in the folder's own name are escaped."""
    expanded = Path(pattern).expanduser()
    if expanded.is_absolute():
        return str(expanded)
    is_pattern = any(sign in pattern for sign in _WILD) and not (folder / pattern).exists()
    return str(Path(globbing.escape(str(folder)) if is_pattern else folder) / pattern)


def read_label_map(path: Path, *, error: Error) -> np.ndarray:
    """One integer per pixel, as int64: the indices of a palette rather than its colours."""
    pixels = _numbers(path, error)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iub":
        raise error(
            f"The label map {path.name!r} has shape {pixels.shape} and type {pixels.dtype}: expected one integer per "
            "pixel, as in a PNG with one channel or a palette."
        )
    return pixels.astype(np.int64)


def read_channels(path: Path, *, error: Error) -> np.ndarray:
    """Red, green and blue of every pixel as int64 (height, width, 3), for maps whose labels are written as colours."""
    pixels = _numbers(path, error)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise error(
            f"The label map {path.name!r} has shape {pixels.shape} and type {pixels.dtype}: expected red, green and "
            "blue of 8 bits, in which this layout writes its numbers."
        )
    return pixels.astype(np.int64)


def _numbers(path: Path, error: Error) -> np.ndarray:
    try:
        return read_numbers(path)
    except SpectralToolkitError as cause:
        raise error(f"The label map {path.name!r} cannot be read as an image: save it as PNG.") from cause


def _matches(pattern: str, folder: Path) -> list[str]:
    found = from_folder(pattern, folder)
    if Path(found).is_dir():
        return sorted(str(child) for child in Path(found).iterdir() if child.is_file() and child.name[0] != ".")
    return [found] if Path(found).is_file() else sorted(globbing.glob(found, recursive=True))


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
