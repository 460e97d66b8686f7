"""What an explorer shows, as a view of HoloViews for `st.save_figure`: with colour bars, names and what was solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import holoviews as hv
import numpy as np

from ..._explorer import wording
from ..._explorer.session import ShownState, Side
from ..._explorer.view import View
from ..._explorer.views import VIEWS, row_tiles
from ..._render.colour import SEQUENTIAL, hex_colours
from ..._render.outline import CASING, CASING_WIDTH, INK, INK_WIDTH
from ..._render.tile import Tile
from ..._render.underlay import ShownPicture
from ..._table import located
from ...errors import SpectralToolkitError
from ..elements import arranged, cells_element, even_titles, framed, mark_elements, rgb_element, styled
from ..fitting import fitting_columns
from ..notebook import load_bokeh

_WIDTH, _SMALL = 380, 190
"""Screen pixels of an image that is alone, and of one among several."""


def still_view(shown: ShownState, layers: Sequence[str], picture: str) -> hv.core.Dimensioned:
    """Everything that is shown, side by side; ``picture`` is the name of the image."""
    load_bokeh()
    view = VIEWS[shown.state.view]
    if view.tiles is None:
        chart = located(view.chart)
        drawn = chart.still(shown, layers) if hasattr(chart, "still") else None
        if drawn is None and isinstance(chart, type):
            raise SpectralToolkitError(
                f"view={view.name!r} is a chart: save it with the disk icon in its toolbar, or show images."
            )
        return chart(shown) if drawn is None else drawn
    panels: list[hv.Overlay] = []
    for place, side in enumerate(shown.sides[:1] if view.alone else shown.sides):
        own = replace(shown, state=shown.state.of_side(place))
        panels += _panels(view, own, side, picture)
    for side in shown.sides if shown.state.patch is not None else ():
        tiles = row_tiles(side, shown.small)
        heading = f"{picture} · {wording.short_title(side)} affinities of patch {side.patch}"
        strongest = (0.0, 1.0, SEQUENTIAL)
        panels += [_panel(tile, shown.picture, f"{heading}, {tile.caption}", _SMALL, strongest) for tile in tiles]
    return panels[0] if len(panels) == 1 else arranged(panels, min(4, fitting_columns(len(panels), 4)))


def _panels(view: View, shown: ShownState, side: Side, picture: str) -> list[hv.Overlay]:
    tiles = list(view.tiles(shown, side)) if view.tiles is not None else []
    bar = None
    if view.scale is not None:
        low, high = view.ends(shown.state, side) if view.ends is not None else ("0", "1")
        bar = (_number(low, 0.0), _number(high, 1.0), view.scale)
    heading = f"{picture} · {wording.title(shown.state, side)[0]}\n{_solved(side)}"
    wide = _WIDTH if len(tiles) == 1 else _SMALL
    return [
        _panel(tile, shown.picture, f"{heading}{f' · {tile.caption}' if tile.caption else ''}", wide, bar)
        for tile in tiles
    ]


def _solved(side: Side) -> str:
    """What was solved, in a few words."""
    eig, question = side.eig, side.question
    model = str(eig.attrs.get("model") or eig.attrs.get("activations_model") or "")
    whole = "all images as one" if question.image is None else "this image alone"
    n = len(question.weights)
    return ", ".join(filter(None, [model, f"{n} layer{'s' if n > 1 else ''}", whole]))


def _panel(
    tile: Tile, picture: ShownPicture, title: str, width: int, bar: tuple[float, float, np.ndarray] | None
) -> hv.Overlay:
    grid = tile.values.shape[:2]
    layers: list[hv.Element] = [] if tile.picture is None else [rgb_element(picture.pixels, "Picture")]
    layers.append(rgb_element(tile.colours, "Colours"))
    if len(tile.lines):
        for colour, wide in ((CASING, CASING_WIDTH), (INK, INK_WIDTH)):
            lines = hv.Segments(tuple(tile.lines.T), kdims=["x", "y", "right", "bottom"], group="Cut")
            layers.append(styled(lines, color=colour, line_width=wide, line_cap="square"))
    if bar is not None:
        cells = cells_element(np.zeros((*grid, 1)), ["value"], "Scale")
        low, high, colours = bar
        layers.append(styled(cells, cmap=hex_colours(colours), clim=(low, high), alpha=0.0, colorbar=True, clabel=""))
    layers += mark_elements(list(tile.framed), (grid[0], grid[1]))
    (title,) = even_titles([title], width)
    return framed(hv.Overlay(layers), picture, width, title)


def _number(text: str, otherwise: float) -> float:
    """A number at the end of a scale; words at both ends stand for 0 and 1, a fraction of the strongest."""
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return otherwise
