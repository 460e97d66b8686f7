"""Cityscapes, fine annotations: the ids of its labels, of which 19 are evaluated, and instances by 1000 id + number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .._io.label_files import read_label_map
from ..errors import DatasetError
from .labelled import NONE, LabelledFile, LabelledImages
from .reading import Numbers, existing, needed, pictures, refuse_unknown

_VOID = ("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground")
_LABELS = (
    "road", "sidewalk", "(parking)", "(rail track)", "building", "wall", "fence", "(guard rail)", "(bridge)",
    "(tunnel)", "pole", "(polegroup)", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person",
    "rider", "car", "truck", "bus", "(caravan)", "(trailer)", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Labels by id: those of no use come first, 0 to 6, then 7 to 33. Those in brackets are not among the 19 evaluated
ones (Cordts et al., CVPR 2016; cityscapesscripts, helpers/labels.py)."""
_ENDING = "_leftImg8bit.png"
_GROUP = 1000
"""Where the instances of a label begin: 26003 is the fourth car, and 26 a group of cars."""


@dataclass(frozen=True)
class Instances:
    """Reads a map of instances: groups and labels without instances are numbered below 1000, and are none."""

    path: Path

    def __call__(self) -> np.ndarray:
        values = read_label_map(self.path, error=DatasetError)
        return np.where(values < _GROUP, NONE, values)


def _open(root: Path, split: str, *, all_labels: bool) -> LabelledImages:
    home = existing(root, "leftImg8bit", what="the images")
    maps = existing(root, "gtFine", what="the fine annotations")
    refuse_unknown(split, home, "of images")
    found = [one for one in pictures(home / split, below=True) if one.name.endswith(_ENDING)]
    if not found:
        raise DatasetError(f"The folder {str(home / split)!r} holds no image: expected files ending in {_ENDING}.")
    stems = [one.name.removesuffix(_ENDING) for one in found]
    labels = [
        maps / split / one.parent.name / f"{stem}_gtFine_labelIds.png" for one, stem in zip(found, stems, strict=True)
    ]
    needed(zip(stems, labels, strict=True), "label map")
    objects = [path.with_name(path.name.replace("_labelIds", "_instanceIds")) for path in labels]
    first = len(_VOID)
    kept = [number for number, name in enumerate(_LABELS, first) if all_labels or name[0] != "("]
    names = tuple(_LABELS[number - first].strip("()") for number in kept)
    void = tuple(number for number in range(first + len(_LABELS)) if number not in kept)
    ids = f"0 to {first + len(_LABELS) - 1}"
    place = {number: at for at, number in enumerate(kept)}
    files = [
        LabelledFile(one, Numbers(own, place, void, ids), Instances(instances) if instances.is_file() else None)
        for one, own, instances in zip(found, labels, objects, strict=True)
    ]
    return LabelledImages(files, names, title=f"Cityscapes ({len(names)} categories)")


open_evaluated = partial(_open, all_labels=False)
open_all = partial(_open, all_labels=True)
