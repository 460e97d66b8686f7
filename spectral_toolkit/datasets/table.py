"""Our layouts, one row each."""

from __future__ import annotations

from . import ade20k, ade20k_full, cityscapes, coco_panoptic, coco_stuff, voc
from .layout import LAYOUTS, DatasetLayout, register

register(
    DatasetLayout(
        "voc",
        "Pascal VOC 2012",
        "ImageSets/Segmentation/SPLIT.txt, JPEGImages, SegmentationClass, SegmentationObject",
        "255, the borders of objects, has no label; instances are the objects, and background is none.",
        voc.open_voc,
        "val",
    )
)
_STUFF = "images/SPLIT or SPLIT; annotations/SPLIT or stuffthingmaps/SPLIT"
register(
    DatasetLayout(
        "coco_stuff",
        "COCO-Stuff, 171 categories",
        _STUFF,
        "255 has no label; there are no instances.",
        coco_stuff.open_fine,
        "val2017",
    )
)
register(
    DatasetLayout(
        "coco_stuff_27",
        "COCO-Stuff, 27 coarse categories",
        _STUFF,
        "255 has no label; there are no instances.",
        coco_stuff.open_coarse,
        "val2017",
    )
)
register(
    DatasetLayout(
        "coco_panoptic",
        "COCO panoptic, 133 categories",
        "images/SPLIT or SPLIT; annotations/panoptic_SPLIT.json and the folder of the same name",
        "Segment 0 has no label; instances are the segments of objects, but not crowds, which keep their label.",
        coco_panoptic.open_panoptic,
        "val2017",
    )
)
register(
    DatasetLayout(
        "ade20k",
        "ADE20K, 150 categories (scene parsing)",
        "images/SPLIT, annotations/SPLIT",
        "0 has no label; there are no instances.",
        ade20k.open_ade20k,
        "validation",
    )
)
register(
    DatasetLayout(
        "ade20k_full",
        "ADE20K, full release of 2021",
        "images/ADE/SPLIT and all folders below, with NAME.jpg, NAME_seg.png and NAME.json",
        "Class 0 has no label; instances are those of the blue channel.",
        ade20k_full.open_full,
        "validation",
    )
)
_CITY = "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png and *_instanceIds.png"
register(
    DatasetLayout(
        "cityscapes",
        "Cityscapes, the 19 evaluated categories",
        _CITY,
        "The other labels have no label; instances are single objects, and groups are none.",
        cityscapes.open_evaluated,
        "val",
    )
)
register(
    DatasetLayout(
        "cityscapes_27",
        "Cityscapes, all 27 categories",
        _CITY,
        "The ids 0 to 6 have no label; instances are single objects, and groups are none.",
        cityscapes.open_all,
        "val",
    )
)
LAYOUTS.complete()
