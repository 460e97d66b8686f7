"""Labelled images on your own disk: folders of yours, and the layouts of published data sets. Nothing is downloaded.

`load` opens a data set by the name of its layout, and `folder` your own images and label maps. Both return
`LabelledImages`: images, label maps and names of categories, read when they are asked for. `register` adds a layout.
"""

from __future__ import annotations

from .files import folder
from .labelled import LabelledFile, LabelledImages, LabelMaps
from .layout import DatasetLayout, load, register, unregister
from .table import LAYOUTS

__all__ = [
    "LAYOUTS",
    "DatasetLayout",
    "LabelMaps",
    "LabelledFile",
    "LabelledImages",
    "folder",
    "load",
    "register",
    "unregister",
]
