"""Figures that others have published for the data sets that a study can read, each with the page it was read on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published result, with as many clusters as categories, matched one to one.

    Attributes
    ----------
    layout
        The name of the data set's layout.
    method
        The method, with its paper.
    miou, accuracy
        As fractions of 1; None where it is not known.
    source
        The page on which the figures were read.
    """

    layout: str
    method: str
    miou: float | None
    accuracy: float | None
    source: str


_STEGO = "https://paperswithcode.com/paper/unsupervised-semantic-segmentation-by-2"
_PICIE = "https://paperswithcode.com/paper/picie-unsupervised-semantic-segmentation"

PUBLISHED = (
    Published("coco_stuff_27", "STEGO, ViT-B/8 (Hamilton et al., ICLR 2022)", 0.282, 0.569, _STEGO),
    Published("coco_stuff_27", "STEGO, ViT-S/8 (Hamilton et al., ICLR 2022)", 0.245, None, _STEGO),
    Published("coco_stuff_27", "PiCIE + H (Cho et al., CVPR 2021)", 0.1436, 0.4999, _PICIE),
    Published(
        "coco_stuff",
        "PiCIE, ResNet-50 (Cho et al., CVPR 2021)",
        0.056,
        0.298,
        "https://paperswithcode2.com/paper/210899",
    ),
    Published("cityscapes_27", "STEGO (Hamilton et al., ICLR 2022)", 0.210, 0.732, _STEGO),
    Published("cityscapes_27", "PiCIE (Cho et al., CVPR 2021)", 0.123, 0.655, _PICIE),
)
"""Trained on the data set, on lists of images and crops of their own: neighbours, not the same experiment. The figures
of the source paper (Zhang, Yunis & Maire, CVPR 2024) are not among them, because we could not read its tables."""


def published_for(layouts: set[str]) -> list[Published]:
    """The results for some data sets, in the order of the table."""
    return [one for one in PUBLISHED if one.layout in layouts]
