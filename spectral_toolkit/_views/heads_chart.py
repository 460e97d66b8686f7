"""The affinity maps of every head of every layer, as one view."""

from __future__ import annotations

from collections.abc import Sequence

import holoviews as hv
import numpy as np
import xarray as xr

from .._compute.settings import computing
from .._render.head_matrix import HeadMatrix, head_matrix
from .._render.marks import short_names
from ..errors import SpectralToolkitError
from .elements import styled
from .fitting import fits
from .notebook import load_bokeh
from .still_picture import has_still

WIDTH, TALLEST = 700, 900
"""Pixels of the view on the screen, at most."""
CELL_COLUMNS = ("left", "top", "right", "bottom", "kind", "layer", "head", "entropy")
TIPS = [("layer", "@layer"), ("head", "@head, @kind"), ("entropy of the map", "@entropy{0.00}")]


@computing
def heads_chart(maps: xr.Dataset, sort: str = "depth") -> hv.Overlay:
    """Draw the affinity maps of every head of every layer side by side.

    Every column is a layer, every row a head; kinds are one above the other, aligned by layer. The colours of every map
    go from black, no affinity, to white, its strongest affinity to another patch.

    Parameters
    ----------
    maps
        What :func:`spectral_toolkit.head_maps` returned.
    sort
        How the heads of each layer follow each other: ``"depth"``, by layer and number; or ``"entropy"``, the most
        concentrated map first.

    Returns
    -------
    holoviews.Overlay
        It can be saved with :func:`spectral_toolkit.save_figure`.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> view = st.heads_chart(st.head_maps(activations, (5, 4)), sort="entropy")
    >>> len(view.Heads.I)
    48
    """
    if not isinstance(maps, xr.Dataset) or not {"affinity", "entropy"} <= set(maps.data_vars):
        raise SpectralToolkitError(
            f"maps are a {type(maps).__name__} without 'affinity' and 'entropy': give what st.head_maps returned."
        )
    load_bokeh()
    matrix = head_matrix(maps, sort)
    row, column = maps.attrs["patch"]
    title = f"{maps['image'].item()} · affinities of the patch in row {row}, column {column}, head by head"
    view = hv.Overlay(elements(matrix))
    width, height = frame(matrix)
    return styled(view, frame_width=width, frame_height=height, title=title, hooks=[fits, has_still], **axes(matrix))


def elements(matrix: HeadMatrix) -> list[hv.Element]:
    """The image, its maps for the cursor, and what is said in the place of missing maps."""
    tall, wide = matrix.colours.shape[:2]
    kdims = [hv.Dimension("x", range=(0, wide)), hv.Dimension("y", range=(0, tall))]
    channels = [*hv.RGB.vdims, hv.RGB.alpha_dimension]
    data = (np.arange(wide) + 0.5, np.arange(tall) + 0.5, *np.moveaxis(matrix.colours, -1, 0))
    image = hv.RGB(data, kdims=kdims, vdims=channels, bounds=(0, 0, wide, tall), group="Maps")
    cells = hv.Rectangles(
        cell_columns(matrix), kdims=list(CELL_COLUMNS[:4]), vdims=list(CELL_COLUMNS[4:]), group="Heads"
    )
    words = hv.Labels(matrix.words or [(0.0, 0.0, " ")], ["x", "y"], "text", group="Words")
    return [
        image,
        styled(cells, fill_alpha=0.0, line_color=None, tools=["hover"], hover_tooltips=TIPS),
        styled(words, text_font_size="10px", text_align="left", text_color="#1a1a1a"),
    ]


def cell_columns(matrix: HeadMatrix) -> dict[str, Sequence[object]]:
    """Places and names of all maps."""
    rows = [
        (one.left, one.top, one.right, one.bottom, one.kind.upper(), one.layer, one.head, one.entropy)
        for one in matrix.cells
    ]
    return dict(zip(CELL_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def axes(matrix: HeadMatrix) -> dict[str, object]:
    """Layers from left to right, kinds from the top."""
    wide, tall = matrix.size
    return {
        "xlim": (0, wide),
        "ylim": (0, tall),
        "invert_yaxis": True,
        "xlabel": "layer",
        "ylabel": "head",
        "xticks": list(zip(matrix.columns.values(), short_names(list(matrix.columns)), strict=True)),
        "yticks": [(middle, kind.upper()) for kind, middle in matrix.blocks.items()],
        "toolbar": "above",
        "active_tools": [],
        "show_legend": False,
    }


def frame(matrix: HeadMatrix) -> tuple[int, int]:
    """Width and height on the screen."""
    wide, tall = matrix.size
    scale = min(WIDTH / wide, TALLEST / tall)
    return max(1, round(wide * scale)), max(1, round(tall * scale))
