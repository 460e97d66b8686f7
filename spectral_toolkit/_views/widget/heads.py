"""The view of every layer and head: one image of all maps, and beside it the map that the cursor points at."""

from __future__ import annotations

from collections.abc import Sequence

import holoviews as hv
import numpy as np
from bokeh.events import Event, Tap
from bokeh.layouts import row
from bokeh.models import (
    CustomJS,
    FixedTicker,
    HoverTool,
    ImageRGBA,
    Plot,
    Quad,
    SaveTool,
    Text,
    Title,
)

from ..._explorer.head_view import sort_of
from ..._explorer.session import ShownState
from ..._io.grids import moved
from ..._render.head_matrix import HeadMap, HeadMatrix, head_matrix
from ..._render.marks import short_names
from ..heads_chart import CELL_COLUMNS, TIPS, axes, cell_columns, elements, frame, heads_chart
from ..still_picture import bokeh_figure
from .live import LiveFigure
from .parts import Tapped, dress, fill, marks, only_plot, place_of, source_of, take_tools
from .tiles import TilePlace, image_columns

_LARGE = 420  # screen pixels of the large map's figure
_POINT = """
    // The map under the cursor, or the one that was kept; only the place that the large figure shows changes.
    const {data} = maps, found = cb_data.index.indices;
    const at = found.length ? found[0] : data.kept.indexOf(1);
    if (at < 0 || large.tags[1] === at) return;
    large.tags = ["st-ink", at];
    const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((side) => data[side][at]);
    large.x_range.setv({start: left, end: right});
    large.y_range.setv({start: bottom, end: top});
    beneath.data = {...beneath.data, x: [left], y: [top], dw: [right - left], dh: [bottom - top]};
    const {grid} = frames.tags[0], [row, column] = frames.tags[0].patch;
    const wide = (right - left) / grid[1], high = (bottom - top) / grid[0];
    frames.data = {left: [left + column * wide], right: [left + (column + 1) * wide],
                   top: [top + row * high], bottom: [top + (row + 1) * high]};
    title.text = data.caption[at];
"""


class HeadsShown:
    """Drawn once; afterwards only the data change. Pointing at a map is answered by the page alone."""

    is_wide = True

    @staticmethod
    def still(shown: ShownState, layers: Sequence[str]) -> hv.Overlay:
        """The same as a view of HoloViews."""
        return heads_chart(shown.sides[0].data, sort_of(shown.state))

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._matrix: HeadMatrix | None = None
        self._grid = self._own = (1, 1)
        self._box = row(sizing_mode="stretch_width", spacing=16, styles={"flex-wrap": "wrap"})
        self.widget = LiveFigure(self._box)
        self.widget.layout.width = "100%"

    @property
    def figure(self) -> Plot:
        """The figure of all maps, as Bokeh has it."""
        return only_plot(self._box)

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the maps of a state."""
        side = shown.sides[0]
        matrix = self._matrix = head_matrix(side.data, sort_of(shown.state))
        self._grid = side.data.sizes["y"], side.data.sizes["x"]
        self._own = side.eig["eigenvector"].shape[1:3]
        kept = next((one for one in matrix.cells if one.key == shown.state.head_map), matrix.cells[0])
        with self.widget.together():
            if not self._box.children or self._size != matrix.size:
                self._make(matrix, shown.picture.aspect)
            columns = cell_columns(matrix)
            columns["kept"] = [int(one is kept) for one in matrix.cells]
            columns["ink"] = ["#d55e00" if one is kept else "rgba(0,0,0,0)" for one in matrix.cells]
            short = dict(zip(matrix.columns, short_names(list(matrix.columns)), strict=True))
            columns["caption"] = [_caption(one, short[one.layer]) for one in matrix.cells]
            fill(self._cells, columns)
            whole = TilePlace(0.0, 0.0, float(matrix.size[0]), float(matrix.size[1]), self._grid)
            fill(self._maps, image_columns([(matrix.colours, whole)]))
            self._large_map.global_alpha = shown.state.opacity
            self._frames.tags = [{"grid": list(self._grid), "patch": side.data.attrs["patch"]}]
            fill(self._words, {name: [one[i] for one in matrix.words] for i, name in enumerate(("x", "y", "text"))})
            self._keep(kept, shown.small, side.data.attrs["patch"])
            self._title.text = _caption(kept, short[kept.layer])

    def _keep(self, cell: HeadMap, picture: np.ndarray, patch: Sequence[int]) -> None:
        """Show one map large."""
        wide, high = (cell.right - cell.left) / self._grid[1], (cell.bottom - cell.top) / self._grid[0]
        place = TilePlace(cell.left, cell.top, cell.right - cell.left, cell.bottom - cell.top, self._grid)
        fill(self._picture, image_columns([(picture, place)]))
        self._large.x_range.update(start=cell.left, end=cell.right)
        self._large.y_range.update(start=cell.bottom, end=cell.top)
        self._large.tags = ["st-ink", -1]
        left, top = cell.left + patch[1] * wide, cell.top + patch[0] * high
        self._frames.data = {"left": [left], "right": [left + wide], "top": [top], "bottom": [top + high]}

    def _make(self, matrix: HeadMatrix, aspect: float) -> None:
        self._size = matrix.size
        wide, tall = frame(matrix)
        view = hv.Overlay(elements(matrix))
        view.opts(backend="bokeh", width=wide, height=tall, title="", **{**axes(matrix), "toolbar": None})
        figure = bokeh_figure(view)
        self._maps = source_of(figure, ImageRGBA)
        self._cells, self._words = source_of(figure, Quad), source_of(figure, Text)
        (quad,) = marks(figure, Quad)
        quad.glyph.update(line_color="ink", line_width=2.5)
        self._cells.data = {name: [] for name in (*CELL_COLUMNS, "kept", "ink", "caption")}
        take_tools(figure, HoverTool, SaveTool)
        _dress(figure, f"calc(74vh * {wide / tall:.4f})", "3 1 300px")
        names = dict(zip(matrix.columns.values(), short_names(list(matrix.columns)), strict=True))
        figure.xaxis[0].update(ticker=FixedTicker(ticks=list(names)), major_label_overrides=names)
        figure.xaxis[0].major_label_orientation = 0.9 if max(map(len, names.values())) > 2 else 0.0
        self._make_large(aspect)
        point = CustomJS(
            args={
                "maps": self._cells,
                "large": self._large,
                "beneath": self._picture,
                "frames": self._frames,
                "title": self._title,
            },
            code=_POINT,
        )
        figure.add_tools(
            HoverTool(renderers=[quad], tooltips=TIPS, callback=point, description="The map under the cursor")
        )
        figure.on_event(Tap, self._on_tap)
        self._box.children = [figure, self._large]

    def _make_large(self, aspect: float) -> None:
        """The same image again, of which one map is seen, over the image below."""
        dot = np.zeros((2, 2), np.uint8)
        places = ([0.25, 0.75], [0.25, 0.75])
        below = hv.RGB((*places, dot, dot, dot), bounds=(0, 0, 1, 1), group="Image")
        view = hv.Overlay([below, hv.Rectangles([(0.0, 0.0, 1.0, 1.0)], group="Frames")])
        height = round(_LARGE * aspect)
        view.opts(
            backend="bokeh", width=_LARGE, height=height, xlim=(0, 1), ylim=(0, 1), invert_yaxis=True, xaxis=None,
            yaxis=None, toolbar=None, title="", show_legend=False,
        )  # fmt: skip
        large = bokeh_figure(view)
        self._picture, self._frames = source_of(large, ImageRGBA), source_of(large, Quad)
        (frames,) = marks(large, Quad)
        frames.glyph.update(fill_color=None, line_color="#d55e00", line_width=2.5)
        self._large_map = ImageRGBA(image="image", x="x", y="y", dw="dw", dh="dh")
        maps = large.add_glyph(self._maps, self._large_map)
        large.renderers = [*(one for one in large.renderers if one not in (maps, frames)), maps, frames]
        large.toolbar.tools = []
        self._title = Title(text="", text_font_size="12px", text_font_style="normal")
        large.add_layout(self._title, "above")
        _dress(large, "var(--st-widest)", "2 1 180px")
        large.on_event(Tap, self._on_large_tap)
        self._large = large

    def _on_tap(self, event: Event) -> None:
        hit = self._matrix.hit(*place_of(event)) if self._matrix is not None else None
        if hit is not None:
            self._tapped(head_map=hit[0].key)

    def _on_large_tap(self, event: Event) -> None:
        hit = self._matrix.hit(*place_of(event)) if self._matrix is not None else None
        if hit is not None:
            cell, place = hit
            patch = tuple(min(int(part * n), n - 1) for part, n in zip(place, self._grid, strict=True))
            self._tapped(head_map=cell.key, patch=moved(patch, self._grid, self._own))


def _caption(cell: HeadMap, short: str) -> str:
    return f"{cell.kind.upper()}, layer {short}, head {cell.head}\nentropy {cell.entropy:.2f}"


def _dress(figure: Plot, widest: str, flex: str) -> None:
    dress(figure, sizing_mode="scale_width", styles={"flex": flex, "min-width": "0", "max-width": widest})
