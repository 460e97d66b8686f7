"""Images side by side in one figure: HoloViews draws it once, and afterwards only its data change.

Places are in screen pixels from the top left corner, and so is the axis: `overlay` and this module invert Bokeh's
upward axis in the same way, and nothing else is ever flipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import holoviews as hv
import holoviews.plotting.bokeh  # registers Bokeh with HoloViews
import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    CustomJSHover,
    GlyphRenderer,
    HoverTool,
    ImageRGBA,
    Plot,
    Quad,
    Segment,
    Text,
)

from ..._render.composite import enlarge
from ..._render.outline import CASING, CASING_WIDTH, INK, INK_WIDTH
from ..._render.tile import Tile
from ..still_picture import bokeh_figure
from .parts import fill, fit_axes, glyph_of, marks, source_of, take_tools

GAP = 10  # screen pixels between tiles
CAPTION = 20  # screen pixels above a tile that has a caption
CAPTION_FONT, SMALLEST_FONT = 11, 8  # screen pixels, at full width and at least

_READ = ("value", "second", "third")


def read(names: Sequence[str], decimals: int) -> list[tuple[str, str]]:
    """What stands under the cursor: up to three values by their names, and the patch.

    Examples
    --------
    >>> read(("segment",), 0)
    [('segment', '@value{0}'), ('patch (row, column)', '@row, @column')]
    """
    form = f"{0:.{decimals}f}"
    values = [(name, f"@{column}{{{form}}}") for name, column in zip(names, _READ, strict=False)]
    return [*values, ("patch (row, column)", "@row, @column")]


_VALUE = read(("value",), 4)


Columns: TypeAlias = dict[str, Sequence[object]]
"""Columns of a Bokeh source, by name."""


@dataclass(frozen=True)
class TilePlace:
    """The place of a tile, in screen pixels from the top left, and its number of patches."""

    left: float
    top: float
    width: float
    height: float
    grid: tuple[int, int]


@dataclass
class TileFigure:
    """A Bokeh figure of tiles."""

    name: str
    tiles: list[Tile] = field(default_factory=list)
    places: list[TilePlace] = field(default_factory=list)
    width: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        self.figure = _drawn(self.name)
        self.heading = ""
        self._pictures, self._colours = (source_of(self.figure, ImageRGBA, place) for place in range(2))
        self._frames, self._captions, self._lines = (source_of(self.figure, kind) for kind in (Quad, Text, Segment))
        glyph_of(self.figure, Quad).line_color = "ink"
        self._captions_shrink()
        self.hover = HoverTool(
            renderers=[*marks(self.figure, ImageRGBA)[1:]], tooltips=_VALUE, description="Values under the cursor"
        )
        self.figure.add_tools(self.hover)
        for source, columns in (
            (self._pictures, image_columns([])),
            (self._colours, {**image_columns([]), **_values([])}),
            (self._frames, _frame_columns([], [])),
            (self._captions, {"x": [], "y": [], "text": []}),
            (self._lines, line_columns([], [])),
        ):
            fill(source, columns)
        self._shown: tuple[object, ...] = ()

    def show(
        self,
        tiles: Sequence[Tile],
        *,
        width: float,
        aspect: float,
        columns: int = 1,
        heading: str = "",
        tooltips: Sequence[tuple[str, str]] = _VALUE,
        labels: np.ndarray | None = None,
        categories: Sequence[str] = (),
    ) -> None:
        """Show other tiles: ``columns`` of them in ``width`` screen pixels, each ``aspect`` times as high as wide."""
        self.tiles = list(tiles)
        self.places, size = arrange(tiles, width, aspect, columns)
        self._resize(*size)
        below = [(tile.picture, place) for tile, place in zip(tiles, self.places, strict=True)]
        shown = tuple((id(picture), place) for picture, place in below)
        if shown != self._shown:  # images are large and seldom change
            self._shown = shown
            fill(self._pictures, image_columns([(p, place) for p, place in below if p is not None]))
        self._colours.data = {
            **image_columns([(tile.colours, place) for tile, place in zip(tiles, self.places, strict=True)]),
            **_values(tiles),
            **_labels(tiles, labels),
        }
        lines = line_columns(tiles, self.places)
        if len(lines["x0"]) or len(self._lines.data["x0"]):  # most views have none
            fill(self._lines, lines)
        fill(self._frames, _frame_columns(tiles, self.places))
        captioned = [(tile.caption, place) for tile, place in zip(tiles, self.places, strict=True) if tile.caption]
        self._captions.data = {
            "x": [place.left for _, place in captioned],
            "y": [place.top - 3 for _, place in captioned],
            "text": [caption for caption, _ in captioned],
        }
        self.heading = heading
        told = list(tooltips)
        if labels is not None:
            told.append(("label", "@label{custom}"))
            if "@label" not in self.hover.formatters:
                code = "return value < 0 ? 'no label' : categories[value] ?? `${value}`"
                self.hover.formatters = {"@label": CustomJSHover(args={"categories": list(categories)}, code=code)}
        if self.hover.tooltips != told:
            self.hover.tooltips = told

    def hit(self, x: float, y: float) -> tuple[int, tuple[int, int]] | None:
        """The tile, and its patch (row, column), at a place of the figure."""
        for index, place in enumerate(self.places):
            across, down = (x - place.left) / place.width, (y - place.top) / place.height
            if 0 <= across < 1 and 0 <= down < 1:
                return index, (int(down * place.grid[0]), int(across * place.grid[1]))
        return None

    def _captions_shrink(self) -> None:
        """Let captions grow and shrink with the figure, as the space for them does."""
        glyph = glyph_of(self.figure, Text)
        code = """
            const wide = figure.x_range.reset_end - figure.x_range.reset_start
            const size = Math.max(least, Math.min(most, most * figure.inner_width / wide))
            if (isFinite(size)) glyph.text_font_size = {value: `${size}px`}
            window.spectralToolkitInk?.(figure)
        """
        sizes = {"most": CAPTION_FONT, "least": SMALLEST_FONT}
        shrink = CustomJS(args={"figure": self.figure, "glyph": glyph, **sizes}, code=code)
        self.figure.js_on_change("inner_width", shrink)
        self.figure.x_range.js_on_change("reset_end", shrink)

    def _resize(self, width: float, height: float) -> None:
        if (width, height) == (self.width, self.height):
            return
        self.width, self.height = width, height
        fit_axes(self.figure, (0, width), (height, 0))
        # A responsive figure keeps the ratio of width to height, and contains nothing but its frame.
        self.figure.update(width=round(width), height=round(height))


def arrange(
    tiles: Sequence[Tile], width: float, aspect: float, columns: int
) -> tuple[list[TilePlace], tuple[float, float]]:
    """The places of tiles, row by row, and the size of the whole.

    Examples
    --------
    >>> tile = Tile(np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)))
    >>> [(place.left, place.top) for place in arrange([tile] * 3, 210, 1.0, 2)[0]]
    [(0.0, 0.0), (110.0, 0.0), (0.0, 110.0)]
    """
    side = (width - GAP * (columns - 1)) / columns
    head = CAPTION if any(tile.caption for tile in tiles) else 0
    step = side * aspect + head + (0 if head else GAP)
    places = [
        TilePlace(
            left=(index % columns) * (side + GAP),
            top=head + (index // columns) * (step + (GAP / 2 if head else 0)),
            width=side,
            height=side * aspect,
            grid=(tile.values.shape[0], tile.values.shape[1]),
        )
        for index, tile in enumerate(tiles)
    ]
    bottom = max((place.top + place.height for place in places), default=1.0)
    return places, (max(width, 1.0), max(bottom, 1.0))


def image_columns(placed: Sequence[tuple[np.ndarray, TilePlace]]) -> Columns:
    """Columns of Bokeh's ImageRGBA, one entry for each image: row 0 is at the top, as the axis counts downwards."""
    return {
        "image": [_packed(colours) for colours, _ in placed],
        "x": [place.left for _, place in placed],
        "y": [place.top for _, place in placed],
        "dw": [place.width for _, place in placed],
        "dh": [place.height for _, place in placed],
    }


def _packed(colours: np.ndarray) -> np.ndarray:
    """Pack uint8 (y, x, 3 or 4) into the single number per pixel that Bokeh reads."""
    rgba = np.full((*colours.shape[:2], 4), 255, dtype=np.uint8)
    rgba[..., : colours.shape[-1]] = colours
    return rgba.view(np.uint32)[..., 0]


def _values(tiles: Sequence[Tile]) -> dict[str, list[np.ndarray]]:
    """What the cursor reads, at the resolution of the colours, because Bokeh looks values up by pixel."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("value", "row", "column")}
    for tile in tiles:
        values, shape = tile.values, (tile.colours.shape[0], tile.colours.shape[1])
        row, column = np.mgrid[: values.shape[0], : values.shape[1]].astype(np.int32)
        parts: dict[str, np.ndarray] = {"value": values}
        if values.ndim == 3:
            parts = {name: values[..., place] for place, name in enumerate(_READ)}
        for name, part in {**parts, "row": row, "column": column}.items():
            part = part if part.dtype == np.int32 else part.astype(np.float32)
            fine = part if part.shape == shape else enlarge(part, shape)
            columns.setdefault(name, []).append(np.ascontiguousarray(fine))
    return columns


def _labels(tiles: Sequence[Tile], labels: np.ndarray | None) -> dict[str, list[np.ndarray]]:
    """The label under the cursor, at the resolution of the colours."""
    if labels is None:
        return {}
    shapes = [(tile.colours.shape[0], tile.colours.shape[1]) for tile in tiles]
    return {"label": [np.ascontiguousarray(enlarge(labels.astype(np.int32), shape)) for shape in shapes]}


def line_columns(tiles: Sequence[Tile], places: Sequence[TilePlace]) -> dict[str, np.ndarray]:
    """The lines of all tiles at their places: columns of Bokeh's Segment."""
    ends = np.empty((0, 4))
    for tile, place in zip(tiles, places, strict=True):
        scale = np.array([place.width, place.height] * 2)
        ends = np.concatenate([ends, tile.lines * scale + [place.left, place.top] * 2])
    return dict(zip(("x0", "y0", "x1", "y1"), ends.T, strict=True))


_MARK, _CHOSEN = "#d55e00", "#1a1a1a"


def _frame_columns(tiles: Sequence[Tile], places: Sequence[TilePlace]) -> Columns:
    boxes: list[tuple[float, float, float, float, str]] = []
    for tile, place in zip(tiles, places, strict=True):
        if tile.chosen:
            boxes.append((place.left, place.top, place.left + place.width, place.top + place.height, _CHOSEN))
        high, wide = place.height / place.grid[0], place.width / place.grid[1]
        for row, column in tile.framed:
            left, top = place.left + column * wide, place.top + row * high
            boxes.append((left, top, left + wide, top + high, _MARK))
    left, top, right, bottom, ink = zip(*boxes, strict=True) if boxes else ((),) * 5
    return {"left": list(left), "bottom": list(top), "right": list(right), "top": list(bottom), "ink": list(ink)}


def _drawn(name: str) -> Plot:
    """The figure with one element of every sort, so that HoloViews makes everything that will be needed."""
    bounds = (0.0, 0.0, 1.0, 1.0)
    dot = np.zeros((2, 2), dtype=np.uint8)
    picture = hv.RGB((*_centres(), dot, dot, dot), bounds=bounds, group="Image")
    colours = hv.RGB((*_centres(), dot, dot, dot, dot), bounds=bounds, vdims=list("RGBA"), group="Colours")
    frames = hv.Rectangles([(0.0, 0.0, 1.0, 1.0)], group="Frames")
    captions = hv.Labels([(0.0, 0.0, " ")], vdims="text", group="Captions")
    frames.opts(backend="bokeh", fill_color=None, line_width=2.5)
    captions.opts(
        backend="bokeh",
        text_font_size=f"{CAPTION_FONT}px",
        text_align="left",
        text_baseline="bottom",
        text_color="#1a1a1a",
    )
    view = hv.Overlay([picture, colours, frames, captions])
    view.opts(
        backend="bokeh",
        width=100,
        height=100,
        responsive=False,
        xlim=(0, 1),
        ylim=(0, 1),
        invert_yaxis=True,
        xaxis=None,
        yaxis=None,
        toolbar=None,
        default_tools=["pan", "box_zoom", "wheel_zoom", "reset"],
        active_tools=[],
        show_legend=False,
        title="",
    )
    drawn = bokeh_figure(view)
    drawn.name = name
    _add_lines(drawn)
    for side in ("left", "right", "top", "bottom"):
        setattr(drawn, f"min_border_{side}", 0)
    drawn.update(
        outline_line_color=None,
        sizing_mode="scale_width",
        title=None,
        toolbar_location=None,
        background_fill_color=None,
        border_fill_color=None,
        tags=["st-ink"],
        # Every setting has the same share of the row, and is never higher than the screen allows.
        styles={"flex": "1 1 0", "min-width": "0", "max-width": "var(--st-widest)"},
    )
    take_tools(drawn, HoverTool, CrosshairTool)
    return drawn


def _add_lines(drawn: Plot) -> None:
    """Lines of a cut, below frames and captions: Bokeh draws them twice from one source, which is quicker here."""
    below = marks(drawn, ImageRGBA)
    above = [renderer for renderer in drawn.renderers if renderer not in below]
    source = ColumnDataSource()
    lines = [
        GlyphRenderer(data_source=source, glyph=Segment(line_color=colour, line_width=width, line_cap="square"))
        for colour, width in ((CASING, CASING_WIDTH), (INK, INK_WIDTH))
    ]
    drawn.renderers = [*below, *lines, *above]


def _centres() -> tuple[np.ndarray, np.ndarray]:
    return np.array([0.25, 0.75]), np.array([0.25, 0.75])
