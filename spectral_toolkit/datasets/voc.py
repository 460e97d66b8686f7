"""Pascal VOC 2012, segmentation: maps with a palette, lists of names, 255 along the borders of objects."""

from __future__ import annotations

from pathlib import Path

from .labelled import LabelledFile, LabelledImages
from .reading import AsStored, Numbers, listed, needed, numbered

CATEGORIES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
"""Their places are the numbers in the files."""
VOID = 255


def open_voc(root: Path, split: str) -> LabelledImages:
    """Read the list of a split, and the images and maps that it names."""
    names = listed(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    pictures = [root / "JPEGImages" / f"{name}.jpg" for name in names]
    maps = [root / "SegmentationClass" / f"{name}.png" for name in names]
    objects = [root / "SegmentationObject" / f"{name}.png" for name in names]
    needed(zip(names, pictures, strict=True), "file")
    needed(zip(names, maps, strict=True), "label map")
    ids = f"0 to {len(CATEGORIES) - 1}, and {VOID} for no label"
    files = [
        LabelledFile(
            picture,
            Numbers(labels, numbered(CATEGORIES), (VOID,), ids),
            AsStored(instances, (0, VOID)) if instances.is_file() else None,
        )
        for picture, labels, instances in zip(pictures, maps, objects, strict=True)
    ]
    return LabelledImages(files, CATEGORIES, title="Pascal VOC 2012")
