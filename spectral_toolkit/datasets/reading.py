"""From the numbers in a file to places in the list of categories, and the lists and folders of a layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._compute.arguments import shown
from .._io.images import SUFFIXES
from .._io.label_files import read_label_map
from .._io.pairing import first_names
from ..errors import DatasetError
from .labelled import NONE


@dataclass(frozen=True)
class Numbers:
    """Reads a map of one number per pixel: a label by its number, -1 for the numbers that mean no label.

    Attributes
    ----------
    place
        The place in the categories of every number that may occur.
    void
        The numbers that mean 'no label'.
    ids
        The numbers in words, for the message about another one.
    """

    path: Path
    place: Mapping[int, int]
    void: tuple[int, ...]
    ids: str

    def __call__(self) -> np.ndarray:
        values = read_label_map(self.path, error=DatasetError)
        return placed(values, {**dict.fromkeys(self.void, NONE), **self.place}, self.path, self.ids)


@dataclass(frozen=True)
class AsStored:
    """Reads a map of one number per pixel, of a category without a name or of an object: ``void`` means neither."""

    path: Path
    void: tuple[int, ...]

    def __call__(self) -> np.ndarray:
        values = read_label_map(self.path, error=DatasetError)
        return np.where(np.isin(values, self.void), NONE, values)


def placed(values: np.ndarray, place: Mapping[int, int], path: Path, ids: str) -> np.ndarray:
    """Replace every number of a map; one that is not in the table is refused.

    Examples
    --------
    >>> placed(np.array([[7, 9], [255, 7]]), {7: 0, 9: 1, 255: -1}, Path("a.png"), "7, 9").tolist()
    [[0, 1], [-1, 0]]
    """
    known, inverse = np.unique(values, return_inverse=True)
    strange = [int(value) for value in known if int(value) not in place]
    if strange:
        n_pixels = int(np.isin(values, strange).sum())
        also = f" (and {len(strange) - 1} other such numbers)" if len(strange) > 1 else ""
        raise DatasetError(
            f"The label map {path.name!r} holds the id {strange[0]}{also} at {n_pixels} pixels, but its ids are {ids}: "
            "check that it belongs to this layout, or name the id among those that mean 'no label'."
        )
    return np.array([place[int(value)] for value in known], np.int64)[inverse].reshape(values.shape)


def existing(root: Path, *folders: str, what: str) -> Path:
    """The first of several folders that exists."""
    for folder in folders:
        if (root / folder).is_dir():
            return root / folder
    raise DatasetError(
        f"There is no folder {' or '.join(map(repr, folders))} in {str(root)!r}, which should hold {what}: give the "
        "folder into which the data set was unpacked."
    )


def listed(path: Path) -> list[str]:
    """The first word of every line of a list."""
    if not path.is_file():
        others = sorted(one.stem for one in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        there = f"there are {', '.join(map(repr, others[:8]))}" if others else "its folder holds no list"
        raise DatasetError(f"There is no list {str(path)!r} for split={path.stem!r}: {there}.")
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.split()
    ]
    if not names:
        raise DatasetError(f"The list {str(path)!r} is empty: expected the name of an image in each line.")
    return names


def pictures(folder: Path, *, below: bool = False) -> list[Path]:
    """The images in a folder, or in it and all folders below, in order of their paths."""
    found = folder.rglob("*") if below else folder.iterdir()
    chosen = sorted(one for one in found if one.suffix.lower() in SUFFIXES and one.is_file() and one.name[0] != ".")
    if not chosen:
        raise DatasetError(
            f"The folder {str(folder)!r} holds no image: expected files ending in {', '.join(SUFFIXES)}."
        )
    return chosen


def needed(files: Iterable[tuple[str, Path]], what: str) -> None:
    """Refuse a set in which files are missing; each comes with the name of what it belongs to."""
    pairs = list(files)
    absent = [(name, path) for name, path in pairs if not path.is_file()]
    if absent:
        name, path = absent[0]
        raise DatasetError(
            f"{len(absent)} of {len(pairs)} images have no {what}, such as {name!r}, for which {str(path)!r} is "
            "missing: add the files, or leave the images out."
        )


def numbered(names: Sequence[str], first: int = 0) -> dict[int, int]:
    """The table of categories whose ids follow each other from ``first``."""
    return {first + place: place for place in range(len(names))}


def checked_root(root: object, name: str) -> Path:
    """The folder of a data set.

    Raises
    ------
    DatasetError
        If it is no folder of this machine.
    """
    try:
        path = Path(root).expanduser()  # pyright: ignore[reportArgumentType]
        if path.is_dir():
            return path
    except (TypeError, ValueError, RuntimeError):
        pass
    raise DatasetError(
        f"root={shown(root)} is not a folder of this machine: give the folder into which {name} was unpacked "
        "(nothing is downloaded)."
    )


def refuse_unknown(split: str, folder: Path, what: str) -> None:
    """Refuse a split whose folder does not exist, naming those that do."""
    if not (folder / split).is_dir():
        others = sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
        there = f"there are {first_names(others, 8)}" if others else "there is none"
        raise DatasetError(f"split={split!r} has no folder {what} in {str(folder)!r}: {there}.")
