"""What a layout is: one row that says how a data set lies on the disk, and the table of those there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._compute.settings import computing
from .._table import NamedRow, NamedTable
from ..errors import DatasetError
from .labelled import LabelledImages
from .reading import checked_root


@dataclass(frozen=True, eq=False, repr=False)
class DatasetLayout(NamedRow):
    """How a data set lies on the disk.

    A layout that is registered (:func:`spectral_toolkit.datasets.register`) is found by its name in
    :func:`spectral_toolkit.datasets.load`, in study files, and in the table of the documentation.

    Attributes
    ----------
    name
        The name by which it is chosen.
    title
        Its name in words.
    files
        Which files it reads below the root, in a sentence; ``SPLIT`` stands for the split.
    hint
        What has no label, and what its instances are, in one sentence.
    open
        A function of the root and the split that returns :class:`~spectral_toolkit.datasets.LabelledImages`, such as
        one of :func:`spectral_toolkit.datasets.folder`.
    split
        The split that is read if none is named.
    """

    title: str
    files: str
    hint: str
    open: Callable[[Path, str], LabelledImages]
    split: str = ""

    def __repr__(self) -> str:
        return f"<Layout {self.name!r}: {self.title}>"


LAYOUTS = NamedTable("layout", DatasetLayout, "st.datasets", DatasetError)
"""Every layout there is, by name. `register` adds to it."""


def register(layout: DatasetLayout) -> DatasetLayout:
    """Add a layout to those that are read everywhere.

    Parameters
    ----------
    layout
        The row of the table. A layout of the same name is replaced, unless it is one of ours.

    Returns
    -------
    DatasetLayout
        The same, so that it can be assigned in the same line.

    Raises
    ------
    DatasetError
        If it is no layout, or has the name of one of ours.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> def open_leaves(root, split):
    ...     return st.datasets.folder(root / split / "photos", root / split / "masks", ["leaf", "soil"])
    >>> _ = st.datasets.register(
    ...     st.datasets.DatasetLayout("leaves", "Leaves", "SPLIT/photos/*.jpg, SPLIT/masks/*.png", "255: no label.",
    ...                        open_leaves, split="all")
    ... )
    >>> st.datasets.unregister("leaves")
    """
    return LAYOUTS.register(layout)


def unregister(name: str) -> None:
    """Take a layout that `register` added away again.

    Raises
    ------
    DatasetError
        If there is none of that name, or it is one of ours.
    """
    LAYOUTS.unregister(name)


@computing
def load(layout: str | DatasetLayout, root: str | os.PathLike[str], split: str | None = None) -> LabelledImages:
    """Open a data set on this machine's disk; nothing is downloaded.

    Parameters
    ----------
    layout
        How it lies there: a name in ``st.datasets.LAYOUTS``.
    root
        The folder into which it was unpacked.
    split
        Which part of it; None takes that of the layout.

    Returns
    -------
    LabelledImages
        Images, label maps and names of the categories, in the order of the data set's list or of the file names. They
        are read when they are asked for.

    Raises
    ------
    DatasetError
        If a list, an image or a label map is missing. What is wrong inside a file is found when it is read: another
        id than those of the data set, a file of another kind, a map of another size than its image.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> list(st.datasets.LAYOUTS)[:3]
    ['voc', 'coco_stuff', 'coco_stuff_27']
    """
    row, options = LAYOUTS.choose(layout)
    del options  # a layout has none
    if split is not None and (not isinstance(split, str) or Path(split).is_absolute() or ".." in Path(split).parts):
        raise DatasetError(f"split={split!r} is not understood: give the name of a part, such as {row.split!r}.")
    return row.open(checked_root(root, row.title), row.split if split is None else split)
