"""COCO panoptic: segments numbered in the colours of a PNG, their categories in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._io.label_files import read_channels
from ..errors import DatasetError, first_line
from .labelled import NONE, LabelledFile, LabelledImages
from .reading import existing, needed, placed

VOID = 0


@dataclass(frozen=True)
class Segments:
    """Reads a map of segments, whose number is R + 256 G + 256^2 B, and gives each what the table says."""

    path: Path
    place: Mapping[int, int]

    def __call__(self) -> np.ndarray:
        red, green, blue = np.moveaxis(read_channels(self.path, error=DatasetError), -1, 0)
        ids = f"those of its {len(self.place)} segments in the JSON, and {VOID} for no label"
        return placed(red + 256 * green + 256**2 * blue, {VOID: NONE, **self.place}, self.path, ids)


def open_panoptic(root: Path, split: str) -> LabelledImages:
    """Read the JSON of a split, and the images and maps that it names.

    A crowd (``iscrowd``) has the label of its category, but is no instance, because it is many.
    """
    stem = f"panoptic_{split}" if split else "panoptic"
    path = next((one for one in (root / "annotations" / f"{stem}.json", root / f"{stem}.json") if one.is_file()), None)
    if path is None:
        raise DatasetError(
            f"There is no '{stem}.json' in {str(root)!r} or in its folder 'annotations': give the folder into which "
            "COCO's images and panoptic annotations were unpacked, and the name of a split."
        )
    home = existing(root, f"images/{split}" if split else "images", split or "train2017", what="the images")
    maps = existing(root, f"annotations/{stem}", stem, what="the maps of segments")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = {int(one["id"]): str(one["name"]) for one in record["categories"]}
        things = {int(one["id"]) for one in record["categories"] if one["isthing"]}
        pictures = {one["id"]: str(one["file_name"]) for one in record["images"]}
        entries = [
            (pictures[one["image_id"]], str(one["file_name"]), [_segment(part) for part in one["segments_info"]])
            for one in record["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{str(path)!r} is not the JSON of COCO panoptic ({type(error).__name__}: {first_line(error)}): it needs "
            "categories, images, and annotations with segments_info."
        ) from error
    place = {number: at for at, number in enumerate(names)}
    needed(((picture, home / picture) for picture, _, _ in entries), "file")
    needed(((picture, maps / labels) for picture, labels, _ in entries), "map of segments")
    files: list[LabelledFile] = []
    for picture, labels, parts in sorted(entries, key=lambda entry: entry[0]):
        strange = [(number, category) for number, category, _ in parts if category not in place]
        if strange:
            raise DatasetError(
                f"{path.name!r} gives segment {strange[0][0]} of {labels!r} the category id {strange[0][1]}, which is "
                "not among its categories: download the file again."
            )
        table = {number: place[category] for number, category, _ in parts}
        own = {number: number if category in things and not crowd else NONE for number, category, crowd in parts}
        files.append(LabelledFile(home / picture, Segments(maps / labels, table), Segments(maps / labels, own)))
    return LabelledImages(files, tuple(names.values()), title="COCO panoptic")


def _segment(part: Mapping[str, str | int]) -> tuple[int, int, bool]:
    """The number of a segment, its category, and whether it is a crowd."""
    return int(part["id"]), int(part["category_id"]), bool(part.get("iscrowd", 0))
