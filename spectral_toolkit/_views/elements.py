"""The parts of every overlay: images and patches as HoloViews elements, in one frame, under one title.

Coordinates are those of the data: ``x`` and ``y`` are fractions of the image, and ``y`` counts from the top. Bokeh
draws from the bottom; `_FRAME` inverts its axis, and that is the only place where anything is flipped.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, TypeVar

import holoviews as hv
import numpy as np
from holoviews.core.util import dimension_sanitizer

from .._io.activations import patch_centres
from .._render.underlay import ShownPicture
from .fitting import fits
from .still_picture import has_still

if TYPE_CHECKING:
    from collections.abc import Sequence

_Styled = TypeVar("_Styled", bound=hv.core.Dimensioned)

_BOUNDS = (0.0, 0.0, 1.0, 1.0)
_FRAME = {"invert_yaxis": True, "xaxis": None, "yaxis": None, "toolbar": "above", "active_tools": []}
_LETTER_WIDTH = 6  # average width of a letter of the title, in pixels
_TITLE_LINES = 3


def picture_element(shown: ShownPicture) -> hv.RGB:
    """The image, in the frame of the eigenvectors."""
    return rgb_element(shown.pixels, "Picture")


def rgb_element(colours: np.ndarray, group: str) -> hv.RGB:
    """uint8 colours, shape (y, x, 3 or 4), row 0 at the top, as an element in the frame of the eigenvectors."""
    ys, xs = (patch_centres(size) for size in colours.shape[:2])
    channels = [*hv.RGB.vdims, hv.RGB.alpha_dimension][: colours.shape[2]]
    return hv.RGB((xs, ys, *np.moveaxis(colours, -1, 0)), kdims=_kdims(), vdims=channels, bounds=_BOUNDS, group=group)


def cells_element(fields: np.ndarray, names: Sequence[str], group: str) -> hv.Image:
    """Values of every patch, shape (y, x, one per name), with its row and column for the cursor."""
    n_rows, n_columns = fields.shape[:2]
    row, column = np.mgrid[:n_rows, :n_columns]
    data = (patch_centres(n_columns), patch_centres(n_rows), *np.moveaxis(fields, -1, 0), row, column)
    return hv.Image(data, kdims=_kdims(), vdims=[*names, "row", "column"], bounds=_BOUNDS, group=group)


def mark_elements(patches: Sequence[tuple[int, int]], grid: tuple[int, int]) -> list[hv.Element]:
    """A frame around every marked patch; an empty list where none is marked."""
    if not patches:
        return []
    rows, columns = np.array(patches).T
    ends = (columns / grid[1], rows / grid[0], (columns + 1) / grid[1], (rows + 1) / grid[0])
    frames = hv.Rectangles(ends, kdims=["x", "y", "right", "bottom"], group="Marked")
    return [styled(frames, fill_color=None, line_color="#d55e00", line_width=2.5)]


def tooltips(names: Sequence[str], form: str = "0.0000") -> list[tuple[str, str]]:
    """What the cursor reads from `cells_element`: values in the format ``form``, row, column and position."""
    # HoloViews gives Bokeh the first dimension of an image under the name ``image``.
    columns = ["image", *(dimension_sanitizer(name) for name in names[1:])]
    values = [(name, f"@{column}{{{form}}}") for name, column in zip(names, columns, strict=True)]
    return [*values, ("patch (row, column)", "@{row}, @{column}"), ("position (y, x)", "$y{0.00}, $x{0.00}")]


def _kdims() -> list[hv.Dimension]:
    return [hv.Dimension("x", range=(0, 1)), hv.Dimension("y", range=(0, 1))]


def framed(view: hv.Overlay, shown: ShownPicture, width: int, title: str) -> hv.Overlay:
    """A finished overlay: the right way up, in the shape of its image, under its title."""
    frame = {
        "frame_width": width,
        "frame_height": max(1, round(width * shown.aspect)),
        "title": title,
        "fontsize": {"title": "8pt"},
        **_FRAME,
    }
    # An overlay with more elements is a new one, which takes its options from the elements that it has.
    styled(next(iter(view)), **frame)
    return styled(view, hooks=[fits, has_still], **frame)


def even_titles(titles: Sequence[str], width: int) -> list[str]:
    """Titles broken to a width and padded to one height, so that neighbouring figures stay aligned."""
    broken = [
        [part for line in title.split("\n") for part in textwrap.wrap(line, max(20, width // _LETTER_WIDTH))]
        for title in titles
    ]
    n_lines = max([_TITLE_LINES, *map(len, broken)])
    return ["\n".join(lines + ["\u00a0"] * (n_lines - len(lines))) for lines in broken]


def arranged(views: Sequence[hv.core.Dimensioned], columns: int) -> hv.Layout:
    """Several overlays, with ``columns`` of them in a row."""
    # Every image keeps its own colours and cursor: axes of one name would otherwise be linked and rescaled together.
    return styled(hv.Layout(list(views)).cols(columns), shared_axes=False, title="")  # the slider shows it


def styled(element: _Styled, **options: object) -> _Styled:
    """Options for Bokeh, whichever backend is current."""
    element.opts(backend="bokeh", **options)
    return element
