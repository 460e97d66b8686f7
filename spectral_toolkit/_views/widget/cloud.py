"""The cloud in the widget: a scatter of patches for every setting, with box and lasso, and crops under the cursor."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import holoviews as hv
import numpy as np
from bokeh.events import Event, Reset, SelectionGeometry, Tap
from bokeh.layouts import row
from bokeh.models import HoverTool, LassoSelectTool, Plot, Scatter

from ..._explorer.cloud import CloudData, Points, all_places, inside, patches_of, points
from ..._explorer.selection import Patches, chosen_mask, in_order, moved_selection
from ..._explorer.session import ShownState, Side
from ..._explorer.state import State
from ..._io.grids import moved
from ..._render.colour import hex_colours
from ..elements import styled
from ..still_picture import bokeh_figure, ends
from .boxes import full_width
from .live import LiveFigure
from .parts import Tapped, dress, fit_axes, marks, place_of, source_of, take_tools

GAP = 24
_WIDTH, _HEIGHT = 560, 440
_CROP, _ACROSS = 132, 7  # screen pixels of what is cut out, and the patches along it
_NEAR = 0.03  # how far from a point a tap may be, as a part of the cloud


class CloudShown:
    """Clouds of one or two settings; a selection chooses patches, and a tap one patch."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self.name = f"st-images-{uuid.uuid4().hex[:8]}"  # a page may have clouds of several explorers
        self._shown: list[tuple[Side, CloudData, Points]] = []
        self._components: Sequence[int] = (1, 2)
        self.figures = (_drawn("cloud"), _drawn("other cloud"))
        self._sources = [source_of(one, Scatter) for one in self.figures]
        for place, one in enumerate(self.figures):
            one.on_event(SelectionGeometry, lambda event, place=place: self._on_selected(place, event))
            one.on_event(Tap, lambda event, place=place: self._on_tap(place, event))
            one.on_event(Reset, lambda _: self._tapped(selection=()))  # it takes back the selection of the page, too
        self.figures[1].visible = False
        self.widget = LiveFigure(row(*self.figures, sizing_mode="stretch_width", spacing=GAP), layout=full_width())

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the cloud of every side."""
        state = shown.state
        self._components = state.axes
        before = [one[2] for one in self._shown]
        self._shown = [(one, one.data, points(one.whole, one.data, state.axes, state.coloured)) for one in shown.sides]
        grid = shown.sides[0].eig["eigenvector"].shape[1:3]
        with self.widget.together():
            for place, (_side, data, found) in enumerate(self._shown):
                source, figure = self._sources[place], self.figures[place]
                if place >= len(before) or not _alike(before[place], found):
                    _fit(figure, found.at)
                    source.data = {
                        "x": found.at[:, 0].astype(np.float32),
                        "y": found.at[:, 1].astype(np.float32),
                        "ink": hex_colours(found.colours),
                        "image": found.image.astype(np.int32),
                        "row": found.row.astype(np.int32),
                        "column": found.column.astype(np.int32),
                        "name": [shown.names[place] for place in found.image.tolist()],
                    }
                lit = lit_points(state.selection, found, grid, data.shape[1:])
                if list(source.selected.indices) != lit:
                    source.selected.indices = lit
                high = round(_WIDTH * min(1.0, max(0.6, shown.picture.aspect)))  # as high as the image would be
                if figure.height != high:
                    figure.height = high
                _name_axes(figure, state)
                tips = _crop(self.name, data.shape[1:], shown.picture.aspect)
                hover = next(tool for tool in figure.toolbar.tools if isinstance(tool, HoverTool))
                if hover.tooltips != tips:
                    hover.tooltips = tips
            second = self.figures[1]
            if second.visible != (len(self._shown) > 1):
                second.visible = len(self._shown) > 1

    def _on_selected(self, place: int, event: Event) -> None:
        assert isinstance(event, SelectionGeometry)
        if event.geometry is None or not event.final or place >= len(self._shown):
            return
        side, data, _ = self._shown[place]
        at, numbers = all_places(side.whole, data, self._components)
        found = patches_of(numbers[inside(at, event.geometry)], data)
        if place:  # the selection is on the grid of the first setting
            self._tapped(selection=moved_selection(in_order(found), data.shape[1:], self._shown[0][1].shape[1:]))
        else:
            self._tapped(selection=in_order(found))

    def _on_tap(self, place: int, event: Event) -> None:
        if place >= len(self._shown):
            return
        figure, (_, data, found) = self.figures[place], self._shown[place]
        size = [end - start for start, end in map(ends, (figure.x_range, figure.y_range))]
        away = np.hypot(*((found.at - place_of(event)) / size).T)
        nearest = int(away.argmin())
        if away[nearest] <= _NEAR:
            cell = int(found.row[nearest]), int(found.column[nearest])
            first = self._shown[0][1].shape[1:]
            self._tapped(image=int(found.image[nearest]), patch=moved(cell, data.shape[1:], first))


def lit_points(selection: Patches, found: Points, here: Sequence[int], there: Sequence[int]) -> list[int]:
    """Which of the points that are shown are chosen."""
    if not selection:
        return []
    lit = np.zeros(len(found.image), dtype=bool)
    rows = np.asarray(selection)
    for image in np.unique(rows[:, 0]):
        of_image = found.image == image
        if of_image.any():
            mask = chosen_mask(rows, int(image), here, there)
            lit[of_image] = mask[found.row[of_image], found.column[of_image]]
    return np.flatnonzero(lit).tolist()


def image_variables(name: str, uris: dict[int, str]) -> str:
    """The style that names images for crops under the cursor: Bokeh's tooltips are parts of the page's body."""
    rules = " ".join(f"--{name}-{place}: url({uri});" for place, uri in uris.items())
    return f"<style>:root {{ {rules} }}</style>"


def _crop(name: str, grid: Sequence[int], aspect: float) -> str:
    """What is shown under the cursor: the patch, framed, with its surroundings; Bokeh puts in the columns."""
    rows, columns = grid
    wide = _CROP / _ACROSS
    high = wide * aspect * columns / rows
    tall = 2 * int(_CROP / high / 2) + 1  # an odd number of patches, so that one is in the middle
    middle = _ACROSS // 2, tall // 2
    box = f"position:relative;overflow:hidden;width:{_CROP}px;height:{tall * high:.1f}px;background-color:#808080"
    picture = (
        f"position:absolute;left:calc({middle[0] * wide:.2f}px - @column{{0}} * {wide:.3f}px);"
        f"top:calc({middle[1] * high:.2f}px - @row{{0}} * {high:.3f}px);width:{wide * columns:.1f}px;"
        f"height:{high * rows:.1f}px;background:var(--{name}-@image{{0}}) 0 0 / 100% 100% no-repeat"
    )
    frame = (
        f"position:absolute;left:{middle[0] * wide:.1f}px;top:{middle[1] * high:.1f}px;width:{wide:.1f}px;"
        f"height:{high:.1f}px;box-sizing:border-box;border:2px solid #d55e00"
    )
    return (
        f'<div style="{box}"><div style="{picture}"></div><div style="{frame}"></div></div>'
        '<div style="font:12px sans-serif;padding-top:4px;color:#1a1a1a">@name<br>row @row{0}, column @column{0}</div>'
    )


def _alike(before: Points, now: Points) -> bool:
    return all(
        np.array_equal(getattr(before, name), getattr(now, name))
        for name in ("at", "colours", "image", "row", "column")
    )


def _fit(figure: Plot, at: np.ndarray) -> None:
    low, high = at.min(0).astype(float), at.max(0).astype(float)
    more = [0.05 * wide or 1.0 for wide in (high - low).tolist()]
    fit_axes(figure, *zip((low - more).tolist(), (high + more).tolist(), strict=True))


def _name_axes(figure: Plot, state: State) -> None:
    names = [f"eigenvector {number}" for number in state.axes]
    if state.projection == "tsne":
        names = ["t-SNE, first axis", "t-SNE, second axis"]
    for axis, name in zip((figure.xaxis[0], figure.yaxis[0]), names, strict=True):
        if axis.axis_label != name:
            axis.axis_label = name


def _drawn(name: str) -> Plot:
    view = styled(
        hv.Points([(0.0, 0.0)], group="Patches"),
        size=6,
        line_color=None,
        width=_WIDTH,
        height=_HEIGHT,
        toolbar="above",
        default_tools=["pan", "box_zoom", "wheel_zoom", "reset", "save", "box_select", "lasso_select"],
        active_tools=["box_select"],
        title="",
    )
    drawn = bokeh_figure(view)
    (renderer,) = marks(drawn, Scatter)
    quiet = {"line_color": "#808080", "line_alpha": 0.35, "line_width": 0.5}
    renderer.glyph.update(fill_color="ink", fill_alpha=0.85, **quiet)
    chosen, rest = (renderer.glyph.clone() for _ in range(2))
    chosen.update(fill_alpha=1.0, size=9, line_color="#d55e00", line_alpha=1.0, line_width=1.5)
    rest.update(fill_alpha=0.25, line_alpha=0.1)
    renderer.update(selection_glyph=chosen, nonselection_glyph=rest)
    source_of(drawn, Scatter).data = {one: [] for one in ("x", "y", "ink", "image", "row", "column", "name")}
    drawn.toolbar.active_scroll = None  # otherwise a page that is scrolled past it zooms
    take_tools(drawn, HoverTool)
    for tool in drawn.toolbar.tools:
        if isinstance(tool, LassoSelectTool):
            tool.continuous = False
    drawn.add_tools(HoverTool(renderers=[renderer], tooltips="", limit=1, description="The patch under the cursor"))
    dress(
        drawn,
        name=name,
        toolbar_inner=False,  # beside the cloud, and never over it
        sizing_mode="scale_width",
        styles={"flex": "1 1 0", "min-width": "0", "max-width": "var(--st-widest)"},
    )
    for grid in (drawn.xgrid[0], drawn.ygrid[0]):
        grid.update(grid_line_color="#808080", grid_line_alpha=0.2)
    return drawn
