"""The parts of a Bokeh figure that HoloViews made once, and of which only the data change afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from bokeh.events import Event, PointEvent
from bokeh.models import ColumnDataSource, CustomJS, GlyphRenderer, Plot, Row
from bokeh.models.glyph import Glyph

from ..still_picture import ends

G = TypeVar("G", bound=Glyph)

Tapped = Callable[..., None]
"""Called with the fields of the state that a tap changes."""


def marks(drawn: Plot, kind: type[G]) -> list[GlyphRenderer[G]]:
    """Everything that the figure draws with this kind of mark."""
    return [one for one in drawn.renderers if isinstance(one, GlyphRenderer) and isinstance(one.glyph, kind)]


def glyph_of(drawn: Plot, kind: type[G]) -> G:
    """The first mark of a kind."""
    return marks(drawn, kind)[0].glyph


def source_of(drawn: Plot, kind: type[Glyph], place: int = 0) -> ColumnDataSource:
    """The columns of the first mark of a kind, or of a later one."""
    source = marks(drawn, kind)[place].data_source
    assert isinstance(source, ColumnDataSource)
    return source


def fill(source: ColumnDataSource, columns: Mapping[str, Sequence[object] | np.ndarray]) -> None:
    """Draw other columns, all at once."""
    source.data = {**columns}


def fit_axes(drawn: Plot, *wanted: tuple[float, float]) -> None:
    """Let x, and then y, reach from one number to another, at once and after a reset."""
    for axis, (start, end) in zip((drawn.x_range, drawn.y_range), wanted, strict=True):
        if ends(axis) != (start, end):
            axis.update(start=start, end=end, reset_start=start, reset_end=end)


def only_plot(box: Row) -> Plot:
    """The first figure in a box."""
    figure = box.children[0]
    assert isinstance(figure, Plot)
    return figure


def place_of(event: Event) -> tuple[float, float]:
    """Where a figure was tapped, in its own coordinates."""
    assert isinstance(event, PointEvent)
    assert event.x is not None
    assert event.y is not None
    return event.x, event.y


def dress(drawn: Plot, **settings: object) -> None:
    """Put a figure on the page without a ground or a frame of its own, its words in the colour of the theme."""
    drawn.toolbar.update(logo=None)
    drawn.update(
        outline_line_color=None, background_fill_color=None, border_fill_color=None, tags=["st-ink"], **settings
    )
    # The page's script gives its words the colour of the theme as soon as it is drawn.
    code = "window.spectralToolkitInk?.(figure)"
    drawn.js_on_change("inner_width", CustomJS(args={"figure": drawn}, code=code))


def take_tools(drawn: Plot, *kinds: type) -> None:
    """Take tools of these kinds away."""
    drawn.toolbar.tools = [tool for tool in drawn.toolbar.tools if not isinstance(tool, kinds)]
