"""Bokeh figures as still images for pages without BokehJS, drawn by Pillow from the columns of their sources.

Only the marks of our own figures and their colours are drawn, without tools and widgets.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsFloat, TypeAlias, cast

import holoviews as hv
import holoviews.plotting.bokeh  # registers Bokeh with HoloViews
import numpy as np
from bokeh.core.property.vectorization import Field, Value
from bokeh.models import (
    Axis,
    ColorBar,
    DataRange1d,
    FactorRange,
    GlyphRenderer,
    ImageRGBA,
    LayoutDOM,
    LinearColorMapper,
    Plot,
    Quad,
    Range,
    Range1d,
    Rect,
    Scatter,
    Segment,
    Text,
)
from bokeh.models import Image as Cells
from bokeh.models.glyph import Glyph
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ..errors import SpectralToolkitError
from .fitting import BACKEND

if TYPE_CHECKING:
    from holoviews.plotting.bokeh import ElementPlot

    from .._explorer.session import ShownState
    from .._explorer.view import View

MOST = 120_000
"""The largest size of a still image in bytes: a notebook keeps it twice, for pages and for print."""

_WIDEST = 1000  # pixels of its longer side
_SCALE = 2  # pixels of the image for each pixel of the screen
_CHART = (1140, 570)  # pixels of a frame whose size is decided by the page
_INK = "#1a1a1a"
_KNOWN = (Quad, Rect, Segment, Scatter, Text, ImageRGBA, Cells)
_LINE = 30  # pixels of a line of text
_SPACE = 24
_CLEAR = "none"
_BAR = 150  # pixels for a colour bar with its numbers


def small_png(picture: Image.Image, most: int = MOST) -> bytes:
    """An image as a PNG of at most this many bytes: first with fewer colours, then with fewer pixels."""
    tried = picture.copy()
    tried.thumbnail((_WIDEST, _WIDEST))  # encoding also takes time before the first view
    while True:
        for one in (tried, tried.quantize(256, dither=Image.Dither.NONE)):
            buffer = io.BytesIO()
            one.save(buffer, "PNG")
            if buffer.tell() <= most:
                return buffer.getvalue()
        tried = tried.resize((max(1, tried.width * 3 // 4), max(1, tried.height * 3 // 4)), Image.Resampling.LANCZOS)


def side_by_side(pictures: Sequence[Image.Image], columns: int = 1) -> Image.Image:
    """Join several images into one, with this many in a row; below each other if it is one."""
    rows = [pictures[first : first + columns] for first in range(0, len(pictures), columns)]
    width = max(sum(one.width for one in row) for row in rows)
    whole = Image.new("RGB", (width, sum(max(one.height for one in row) for row in rows)), "white")
    top = 0
    for row in rows:
        left = 0
        for one in row:
            whole.paste(one, (left, top))
            left += one.width
        top += max(one.height for one in row)
    return whole


_noted: list[list[Plot]] = []
"""For every display in progress, the figures that were drawn for it."""


def has_still(plot: ElementPlot, _element: object) -> None:
    """For HoloViews' option ``hooks``: the notebook keeps a still image of this figure."""
    if _noted and not any(one is plot.state for one in _noted[-1]):
        _noted[-1].append(plot.state)


@contextmanager
def noting_figures() -> Iterator[list[Plot]]:
    """Collect the figures with that hook that HoloViews draws meanwhile."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


def still_png(figures: Sequence[Plot], columns: int) -> str:
    """An image of figures in this many columns, as base64; empty if there are no figures, or unknown marks in them."""
    if not figures or not all(isinstance(mark.glyph, _KNOWN) for one in figures for mark in sorts_of(one)):
        return ""
    whole = side_by_side([figure_picture(one) for one in figures], columns)
    return base64.b64encode(small_png(whole)).decode("ascii")


class Parts:
    """What there is around the frame of a figure: title, colour bars, and the axes that are seen."""

    def __init__(self, figure: Plot) -> None:
        title = getattr(figure.title, "text", figure.title)
        self.title = [line for line in str(title or "").split("\n") if line.strip()]
        self.bars = [one for one in figure.right if isinstance(one, ColorBar)]
        self.across, self.upwards = (
            next((one for one in axes if isinstance(one, Axis) and one.visible), None)
            for axes in (figure.xaxis, figure.yaxis)
        )
        self.above = self.across is not None and self.across in figure.above


def figure_picture(figure: Plot) -> Image.Image:
    """Draw a figure as it is now: its title, its marks in their frame, its axes, and its colour bar."""
    font = ImageFont.load_default(22)
    wide, high = figure.frame_width, figure.frame_height
    width, height = (wide * _SCALE, high * _SCALE) if wide and high else _CHART
    parts = Parts(figure)
    bars, across, upwards, above = parts.bars, parts.across, parts.upwards, parts.above
    title = [plain(line) for line in parts.title]
    left = _SPACE + (90 if upwards is not None else 0)
    top = _SPACE + _LINE * (len(title) + above)
    names = [] if across is None else across.major_label_overrides.values()
    lines = max((str(name).count("\n") + 1 for name in names), default=1)
    below = _SPACE + ((1 + lines) * _LINE if across is not None and not above else 0)
    wide = left + width + _SPACE + _BAR * len(bars)
    wide = max(wide, left + _SPACE + math.ceil(max(map(font.getlength, title), default=0)))
    drawn = Image.new("RGB", (wide, top + height + below), "white")
    draw = ImageDraw.Draw(drawn)
    draw.text((left, _SPACE // 2), "\n".join(title), fill=_INK, font=font)
    x_at, y_at = _scaled(figure.x_range, left, left + width), _scaled(figure.y_range, top + height, top)
    for sort in sorts_of(figure):
        for mark in marks_of(sort):
            _draw_mark(drawn, mark, (x_at, y_at), font)
    frame = (left, top, left + width, top + height)
    if upwards is not None:
        _draw_axis_up(draw, upwards, figure.y_range, y_at, frame, font)
    if across is not None:
        _draw_axis_across(draw, across, figure.x_range, x_at, frame, font, above)
    if across is not None and upwards is not None and not above:
        middle = ((left + left + width) / 2, drawn.height - 8)
        draw.text(middle, f"{across.axis_label}; upwards: {upwards.axis_label}", _INK, font, anchor="mb")
    for place, bar in enumerate(bars):
        assert isinstance(bar.color_mapper, LinearColorMapper)
        _draw_bar(drawn, bar.color_mapper, (left + width + _SPACE + place * _BAR, top, height), font)
    return drawn


def sorts_of(figure: Plot) -> list[GlyphRenderer[Glyph]]:
    """Everything that a figure draws in its frame."""
    return [one for one in figure.renderers if isinstance(one, GlyphRenderer)]


def columns_of(drawn: GlyphRenderer[Glyph]) -> dict[str, list[object]]:
    """The columns from which a mark is drawn."""
    return {name: list(column) for name, column in getattr(drawn.data_source, "data", {}).items()}


def marks_of(drawn: GlyphRenderer[Glyph]) -> list[Mark]:
    """Every mark that is drawn from a source."""
    data = columns_of(drawn)
    return [Mark(drawn.glyph, dict(zip(data, row, strict=True))) for row in zip(*data.values(), strict=True)]


def ends(extent: Range) -> tuple[float, float]:
    """Where a range of numbers starts and ends."""
    assert isinstance(extent, Range1d | DataRange1d)
    return extent.start, extent.end  # pyright: ignore[reportReturnType]


def limits(mapper: LinearColorMapper) -> tuple[float, float]:
    """The numbers of the first and the last colour."""
    assert mapper.low is not None
    assert mapper.high is not None
    return mapper.low, mapper.high


def bokeh_model(view: object) -> LayoutDOM:
    """Turn a view into a Bokeh figure, or a grid of them, without loading BokehJS into the page: `offline` does that.

    HoloViews' plot, which is only needed to make the figure, registers a callback for the end of Bokeh's current
    document. In a notebook that document never ends, and would keep the plot with all that it drew.
    """
    renderer = hv.renderer("bokeh")
    plot = renderer.get_plot(view)
    drawn: LayoutDOM = plot.state
    for one in plots_in(drawn):
        one.output_backend = BACKEND
    plot.cleanup()
    renderer.last_plot = None
    return drawn


def bokeh_figure(view: object) -> Plot:
    """The same of a view that is one figure."""
    drawn = bokeh_model(view)
    assert isinstance(drawn, Plot)
    return drawn


def plots_in(drawn: LayoutDOM) -> list[Plot]:
    """All figures of a layout, or the figure itself."""
    return [one for one in drawn.select({"type": Plot}) if isinstance(one, Plot)]


def chart_uri(view: View, shown: ShownState) -> str:
    """A view's chart as the address of an image that holds it.

    Raises
    ------
    SpectralToolkitError
        If it has marks that cannot be drawn without a browser.
    """
    assert callable(view.chart)
    figure = bokeh_figure(view.chart(shown))
    strange = [type(one.glyph).__name__ for one in sorts_of(figure) if not isinstance(one.glyph, _KNOWN)]
    if strange:
        raise SpectralToolkitError(
            f"view {view.name!r} draws a {strange[0]}, which a frozen page cannot show: draw it from "
            f"{', '.join(known.__name__ for known in _KNOWN)}, or register the view with page=None."
        )
    return f"data:image/png;base64,{base64.b64encode(small_png(figure_picture(figure))).decode('ascii')}"


_Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont
_Scale = Callable[..., float]
"""Convert places of a range, and how far they are beyond it, to pixels."""


def _scaled(extent: Range, begin: float, end: float) -> _Scale:
    if isinstance(extent, FactorRange):  # each name has the same space
        names = [str(name) for name in extent.factors]
        return lambda name, more=0.0: begin + (names.index(str(name)) + 0.5 + more) / len(names) * (end - begin)
    first, last = ends(extent)
    return lambda value, more=0.0: begin + (value + more - first) / (last - first) * (end - begin)


def _draw_axis_up(
    draw: ImageDraw.ImageDraw,
    axis: Axis,
    extent: Range,
    at: _Scale,
    frame: Sequence[float],
    font: _Font,
) -> None:
    left, top, _, bottom = frame
    draw.line([(left, top), (left, bottom)], fill=_INK, width=2)
    if isinstance(extent, FactorRange):
        labels = {one: str(one) for one in extent.factors}
    else:
        start, end = ends(extent)
        steps = [start + part / 4 * (end - start) for part in range(5)]
        labels = {value: f"{value:.2g}" for value in steps}
    for value, label in labels.items():
        draw.text((left - 10, at(value)), plain(label), fill=_INK, font=font, anchor="rm")


def _draw_axis_across(
    draw: ImageDraw.ImageDraw,
    axis: Axis,
    extent: Range,
    at: _Scale,
    frame: Sequence[float],
    font: _Font,
    above: bool,
) -> None:
    left, top, right, bottom = frame
    if isinstance(extent, FactorRange):
        labels = {one: str(one) for one in extent.factors}
    else:
        names = axis.major_label_overrides
        numbers = names if names else range(*(int(one) + 1 for one in ends(extent)))
        labels = {number: str(names.get(number, number)) for number in numbers}
    y = top if above else bottom
    draw.line([(left, y), (right, y)], fill=_INK, width=2)
    for value, label in labels.items():
        place = (at(value), y - 6) if above else (at(value), y + 10)
        text = plain(label)
        anchor = "mb" if above else "ma" if "\n" in text else "mt"  # of several lines, PIL takes the first
        draw.text(place, text, fill=_INK, font=font, anchor=anchor, align="center")


def _draw_bar(drawn: Image.Image, mapper: LinearColorMapper, place: tuple[int, int, int], font: _Font) -> None:
    """The colours from the highest downwards, with numbers at both ends and in the middle."""
    left, top, height = place
    low, high = limits(mapper)
    colours = [ImageColor.getrgb(colour) for colour in reversed(mapper.palette)]
    strip = Image.new("RGB", (1, len(colours)))
    strip.putdata(colours)
    drawn.paste(strip.resize((20, height)), (left, top))
    draw = ImageDraw.Draw(drawn)
    for part in (0.0, 0.5, 1.0):
        text = f"{high + part * (low - high):.2g}"
        anchor = {0.0: "lt", 0.5: "lm", 1.0: "lb"}[part]
        draw.text((left + 30, top + part * height), text, fill=_INK, font=font, anchor=anchor)


def _draw_mark(drawn: Image.Image, mark: Mark, at: tuple[_Scale, _Scale], font: _Font) -> None:
    draw = ImageDraw.Draw(drawn, "RGBA")  # colours are blended with what is there
    (x_at, y_at), glyph, get = at, mark.glyph, mark.get

    def colour(name: str) -> tuple[int, ...] | None:
        ink = mark.ink(name)
        return None if ink is None else (*ImageColor.getrgb(ink[0])[:3], round(255 * ink[1]))

    def wide() -> int:
        return max(1, round(_SCALE * mark.number("line_width")))

    if isinstance(glyph, Quad):
        xs, ys = sorted(map(x_at, (get("left"), get("right")))), sorted(map(y_at, (get("top"), get("bottom"))))
        draw.rectangle([xs[0], ys[0], xs[1], ys[1]], colour("fill"), colour("line"), wide())
    elif isinstance(glyph, Rect):
        sides = ((x_at, "x", "width"), (y_at, "y", "height"))
        x, y = ([scale(get(name), part * mark.number(side)) for part in (-0.5, 0.5)] for scale, name, side in sides)
        draw.rectangle([min(x), min(y), max(x), max(y)], colour("fill"), colour("line"), wide())
    elif isinstance(glyph, Segment):
        ends = [(x_at(get("x0")), y_at(get("y0"))), (x_at(get("x1")), y_at(get("y1")))]
        draw.line(ends, fill=colour("line"), width=wide())
    elif isinstance(glyph, Scatter):
        x, y = x_at(get("x")), y_at(get("y"))
        half = _SCALE * mark.number("size") / 2
        edges = [x - half, y - half, x + half, y + half]
        draw.ellipse(edges, fill=colour("fill"), outline=colour("line"), width=wide())
    elif isinstance(glyph, Text):
        anchor = {"right": "r", "center": "m"}.get(str(get("text_align")), "l")
        anchor += {"top": "t", "bottom": "b"}.get(str(get("text_baseline")), "m")
        place = (x_at(get("x")), y_at(get("y")))
        draw.text(place, plain(str(get("text"))), fill=colour("text"), font=font, anchor=anchor)
    elif isinstance(glyph, ImageRGBA | Cells):
        cells = mark.cells()
        cells[..., 3] = np.rint(cells[..., 3] * mark.number("global_alpha"))
        x, y = mark.number("x"), mark.number("y")
        (x0, y0), (x1, y1) = (x_at(x), y_at(y)), (x_at(x + mark.number("dw")), y_at(y + mark.number("dh")))
        # The first row is at y, the first column at x.
        cells = np.ascontiguousarray(cells[:: 1 if y1 > y0 else -1, :: 1 if x1 > x0 else -1])
        size = (max(1, round(abs(x1 - x0))), max(1, round(abs(y1 - y0))))
        laid = Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)
        drawn.paste(laid, (round(min(x0, x1)), round(min(y0, y1))), laid)


@dataclass(frozen=True)
class Mark:
    """One mark of a figure: how it is drawn, and a value from every column of its source."""

    glyph: Glyph
    row: Mapping[str, object]

    def get(self, name: str) -> object:
        """A property: one value for all marks, or from a column, perhaps through a colour map."""
        setting: object = getattr(self.glyph, name)
        if isinstance(setting, Value):
            return setting.value
        if isinstance(setting, Field):
            found, mapper = self.row[setting.field], setting.transform
            is_mapped = isinstance(mapper, LinearColorMapper)
            return _mapped(np.array([found], dtype=float), mapper)[0] if is_mapped else found
        return self.row.get(setting, setting) if isinstance(setting, str) else setting

    def number(self, name: str) -> float:
        """A property that is a number."""
        return float(cast("SupportsFloat", self.get(name)))

    def ink(self, name: str) -> tuple[str, float] | None:
        """Colour and opacity of its ``fill``, ``line`` or ``text``; None for nothing."""
        code, alpha = self.get(f"{name}_color"), self.get(f"{name}_alpha")
        return None if code in (None, _CLEAR) or not alpha else (str(code), self.number(f"{name}_alpha"))

    def cells(self) -> np.ndarray:
        """Colours (y, x, 4) of an image."""
        values = np.asarray(self.get("image"))
        if not isinstance(self.glyph, Cells):
            return np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 4).copy()
        mapper = self.glyph.color_mapper
        assert isinstance(mapper, LinearColorMapper)
        codes = _mapped(values.astype(float), mapper)
        table = {code: (*ImageColor.getrgb(code)[:3], 255) for code in set(codes.flat) - {_CLEAR}}
        return np.array([table.get(code, (0, 0, 0, 0)) for code in codes.flat], np.uint8).reshape(*values.shape, 4)


def _mapped(values: np.ndarray, mapper: LinearColorMapper) -> np.ndarray:
    """Codes of the colours of numbers; NaN has the code for no colour."""
    low, high = limits(mapper)
    places = (values - low) / (high - low) * len(mapper.palette)
    places = np.clip(np.nan_to_num(places), 0, len(mapper.palette) - 1).astype(int)
    return np.where(np.isnan(values), _CLEAR, np.asarray(mapper.palette)[places])


def plain(text: str) -> str:
    """The same text without letters that Pillow's own font lacks."""
    return text.replace("λ =", "eigenvalue").replace("λ", "eigenvalue").encode("latin-1", "replace").decode("latin-1")
