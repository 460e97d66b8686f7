"""ADE20K, the full release: objects written in the colours of a PNG, their names in a JSON beside each image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._io.label_files import read_channels
from ..errors import DatasetError, first_line
from .labelled import NONE, LabelledFile, LabelledImages
from .reading import existing, needed, pictures, placed

VOID = 0


@dataclass(frozen=True)
class Objects20k:
    """Reads the class of every pixel, 256 [R / 10] + G, with 0 for no label."""

    path: Path
    place: Mapping[int, int]

    def __call__(self) -> np.ndarray:
        red, green, _ = np.moveaxis(read_channels(self.path, error=DatasetError), -1, 0)
        ids = f"the name_ndx of its JSON file, and {VOID} for no label"
        return placed(red // 10 * 256 + green, {VOID: NONE, **self.place}, self.path, ids)


@dataclass(frozen=True)
class Instances20k:
    """Reads the number of every object from the blue channel; 0 belongs to none."""

    path: Path

    def __call__(self) -> np.ndarray:
        blue = read_channels(self.path, error=DatasetError)[..., 2]
        return np.where(blue == 0, NONE, blue)


def open_full(root: Path, split: str) -> LabelledImages:
    """Read all images below the folder of a split, with the ``_seg.png`` and the JSON beside each."""
    home = existing(root, f"images/ADE/{split}", f"images/{split}", split, what="the images of the full release")
    found = pictures_of_scenes(home)
    pairs = [(one, one.with_name(f"{one.stem}_seg.png")) for one in found]
    needed(((one.name, labels) for one, labels in pairs), "map of objects")
    needed(((one.name, one.with_suffix(".json")) for one in found), "JSON file with the names of its objects")
    tables = [_names(one.with_suffix(".json")) for one in found]
    names: dict[int, str] = {}
    for table in tables:
        names |= {number: name for number, name in table.items() if number not in names}
    names = dict(sorted(names.items()))
    place = {number: at for at, number in enumerate(names)}
    files = [
        LabelledFile(one, Objects20k(labels, {number: place[number] for number in table}), Instances20k(labels))
        for (one, labels), table in zip(pairs, tables, strict=True)
    ]
    return LabelledImages(files, tuple(names.values()), title="ADE20K, full release")


def pictures_of_scenes(home: Path) -> list[Path]:
    """The JPEG files in all folders below: the maps beside them are images, too."""
    found = [one for one in pictures(home, below=True) if one.suffix.lower() in (".jpg", ".jpeg")]
    if not found:
        raise DatasetError(
            f"The folder {str(home)!r} holds no image: expected files ending in .jpg, each with a _seg.png."
        )
    return found


def _names(path: Path) -> dict[int, str]:
    """The names of an image's objects by the number of their class."""
    try:
        # Some of these files are not in UTF-8; what is read here is.
        record = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        return {int(one["name_ndx"]): str(one["name"]) for one in record["annotation"]["object"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{str(path)!r} is not the JSON of an image of ADE20K ({type(error).__name__}: {first_line(error)}): it "
            "needs annotation.object with name and name_ndx, as in the release of 2021."
        ) from error
