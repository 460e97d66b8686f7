"""The figures of the explorer: a pair for images, one for the tapped patch, and charts; made when first needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import holoviews as hv
import xarray as xr
from bokeh.events import Event, Tap
from bokeh.layouts import group_tools, row
from bokeh.models import CrosshairTool, GridPlot, HoverTool, Plot, SaveTool, Span, Toolbar
from PIL import Image

from ..._explorer import views, wording
from ..._explorer.lit import with_marks
from ..._explorer.session import ShownState, Side
from ..._explorer.view import View
from ..._io.grids import moved
from ..._table import located
from ...errors import SpectralToolkitError
from ..charts import layers_chart, spectrum_chart
from ..fitting import fitting_columns
from ..still_picture import bokeh_model, figure_picture, side_by_side
from .boxes import full_width
from .charts import LayersChart, SpectrumChart
from .live import LiveFigure
from .parts import Tapped, only_plot, place_of
from .save import SavedPanel, sheet
from .tiles import CAPTION, TileFigure, read

WIDTH = 560  # of one setting, in the units of its figure: the page makes it as wide as there is room
GAP = 24  # screen pixels between two settings, as in the style of the words above and below them


class Chart(Protocol):
    """What draws a view that is not tiles over an image."""

    widget: LiveFigure

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw what the state shows of a result."""
        ...


class ExplorerFigures:
    """One or two figures of tiles side by side, with the same zoom and cursor; and the charts shown in their place."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._view: View | None = None
        self.charts: dict[View, Chart] = {}
        self._grid = (1, 1)
        self.figures = (TileFigure("first"), TileFigure("second"))
        first, second = (one.figure for one in self.figures)
        second.x_range, second.y_range = first.x_range, first.y_range
        second.visible = False
        spans = tuple(Span(dimension=way, line_dash="dotted", line_color="#1a1a1a") for way in ("width", "height"))
        for one in self.figures:
            one.figure.add_tools(CrosshairTool(overlay=(spans[0], spans[1]), description="A cursor in both images"))
            one.figure.on_event(Tap, lambda event, one=one: self._on_tap(one, event))
        # Beside the images and never over them: it would cover patches, and take their taps.
        tools = [tool for one in (first, second) for tool in one.toolbar.tools]
        tools = [tool for tool in tools if not isinstance(tool, CrosshairTool | HoverTool | SaveTool)]
        bar = Toolbar(tools=group_tools(tools), logo=None, active_drag=None, active_scroll=None)
        beside = row(first, second, sizing_mode="stretch_width", spacing=GAP)
        framed = GridPlot(children=[(beside, 0, 0)], toolbar=bar, toolbar_location="above", sizing_mode="stretch_width")
        self.widget = LiveFigure(framed, layout=full_width())

    @property
    def widgets(self) -> list[LiveFigure]:
        """Everything that was made so far."""
        return [self.widget, *(chart.widget for chart in self.charts.values())]

    def draw(self, view: View, shown: ShownState, layers: Sequence[str]) -> LiveFigure:
        """Draw a view; return the widget that shows it.

        Raises
        ------
        SpectralToolkitError
            If it cannot be drawn: the drawing may be somebody else's.
        """
        self._view = view
        try:
            if view.tiles is not None:
                self._show(view, shown)
                return self.widget
            if view not in self.charts:
                self.charts[view] = chart_of(view, self._tapped)
            self.charts[view].show(shown, layers)
        except Exception as error:
            raise SpectralToolkitError(
                f"view {view.name!r} cannot be drawn ({type(error).__name__}: {error}): choose another view."
            ) from error
        return self.charts[view].widget

    @property
    def is_wide(self) -> bool:
        """Whether what is shown takes the whole width, with nothing beside it."""
        chart = self.charts.get(self._view) if self._view is not None else None
        return getattr(chart, "is_wide", False)

    def drawn(self) -> Image.Image:
        """What is shown, as an image."""
        chart = self.charts.get(self._view) if self._view is not None else None
        if chart is None:
            return sheet(self.panels())
        figures = [one for one in getattr(chart, "figures", [getattr(chart, "figure", None)]) if one.visible]
        return side_by_side([figure_picture(one) for one in figures], len(figures))

    def _show(self, view: View, shown: ShownState) -> None:
        assert view.tiles is not None
        self._grid = shown.sides[0].eig["eigenvector"].shape[1:3]
        sides = shown.sides[:1] if view.alone else shown.sides
        with self.widget.together():
            for place, (figure, side) in enumerate(zip(self.figures, sides, strict=False)):
                own = replace(shown, state=shown.state.of_side(place))
                tiles = with_marks(view.tiles(own, side), own, side)
                figure.show(
                    tiles,
                    width=WIDTH,
                    aspect=shown.picture.aspect,
                    columns=_columns(len(tiles), shown.picture.aspect),
                    heading=wording.title(own.state, side)[0],
                    tooltips=read(view.reads, view.decimals),
                    labels=side.labels,
                    categories=side.categories,
                )
            second = self.figures[1].figure
            if second.visible != (len(sides) > 1):
                second.visible = len(sides) > 1

    def panels(self) -> list[SavedPanel]:
        """What the figures show, as panels to be saved."""
        return [_panel(one, one.heading) for one in self.figures if one.figure.visible]

    def _on_tap(self, one: TileFigure, event: Event) -> None:
        hit = one.hit(*place_of(event))
        if hit is None:
            return
        index, cell = hit
        if self._view is not None and self._view.tap == "component":
            self._tapped(component=index + 1)
        else:
            self._tapped(patch=moved(cell, one.places[index].grid, self._grid))


class Rows:
    """The tapped patch's row of the joint affinity and of each layer's affinity, those of a setting under its image."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._grid = (1, 1)
        self.figures = (TileFigure("rows"), TileFigure("other rows"))
        for one in self.figures:
            one.figure.on_event(Tap, lambda event, one=one: self._on_tap(one, event))
        beside = row(*(one.figure for one in self.figures), sizing_mode="stretch_width", spacing=GAP)
        self.widget = LiveFigure(beside, layout=full_width())

    def show(self, answer: ShownState) -> None:
        """Draw the rows of every side."""
        self._grid = answer.sides[0].eig["eigenvector"].shape[1:3]
        with self.widget.together():
            for one, side in zip(self.figures, answer.sides, strict=False):
                tiles = views.row_tiles(side, answer.small)
                columns = fitting_columns(len(tiles), 8 if len(tiles) > 16 else 5)
                heading = f"{wording.short_title(side)}: the tapped patch"
                one.show(tiles, width=WIDTH, aspect=answer.picture.aspect, columns=columns, heading=heading)
            second = self.figures[1].figure
            if second.visible != (len(answer.sides) > 1):
                second.visible = len(answer.sides) > 1

    def panels(self) -> list[SavedPanel]:
        """What the figures show, as panels to be saved."""
        return [_panel(one, one.heading) for one in self.figures if one.figure.visible]

    def _on_tap(self, one: TileFigure, event: Event) -> None:
        hit = one.hit(*place_of(event))
        if hit is not None:
            self._tapped(patch=moved(hit[1], one.places[hit[0]].grid, self._grid))


class ConnectedFigures:
    """What the tapped patch is connected to in every image, of images that were solved as one; a tap goes there."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._shown: list[Side] = []
        self.figures = (TileFigure("connected"), TileFigure("other connected"))
        for place, one in enumerate(self.figures):
            one.figure.on_event(Tap, lambda event, place=place: self._on_tap(place, event))
        beside = row(*(one.figure for one in self.figures), sizing_mode="stretch_width", spacing=GAP)
        self.widget = LiveFigure(beside, layout=full_width())

    def show(self, answer: ShownState) -> None:
        """Draw what every side found."""
        self._shown = answer.sides
        with self.widget.together():
            for one, side in zip(self.figures, answer.sides, strict=False):
                tiles = [found.tile for found in side.connected]
                one.show(tiles, width=WIDTH, aspect=1.0, columns=min(6, max(1, len(tiles))))
            second = self.figures[1].figure
            if second.visible != (len(answer.sides) > 1):
                second.visible = len(answer.sides) > 1

    def _on_tap(self, place: int, event: Event) -> None:
        hit = self.figures[place].hit(*place_of(event))
        if hit is not None and hit[0] < len(self._shown[place].connected):
            found, own = self._shown[place].connected[hit[0]], self._shown[place].eig["eigenvector"].shape[1:3]
            first = self._shown[0].eig["eigenvector"].shape[1:3]
            self._tapped(image=found.image, patch=moved(found.patch, own, first))


class Drawn:
    """A view that is not tiles over an image, from its row: HoloViews makes its figure anew whenever it is shown."""

    def __init__(self, chart: Callable[[ShownState], object]) -> None:
        self._chart = chart
        self._box = row(sizing_mode="stretch_width")
        self.widget = LiveFigure(self._box, layout=full_width())

    @property
    def figure(self) -> Plot:
        """The figure, as Bokeh has it."""
        return only_plot(self._box)

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw what the state shows of a result."""
        with self.widget.together():
            self._box.children = [bokeh_model(self._chart(shown))]


class SpectrumShown:
    """The chart of eigenvalues; a tap chooses a component."""

    @staticmethod
    def still(shown: ShownState, layers: Sequence[str]) -> hv.Overlay:
        """The same as a view of HoloViews."""
        return spectrum_chart(_named(shown), shown.state.component)

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._n = 1
        self.chart = SpectrumChart()
        self.figure = self.chart.figure
        self.figure.on_event(Tap, self._on_tap)
        self.widget = LiveFigure(row(self.figure, sizing_mode="stretch_width"), layout=full_width())

    def _on_tap(self, event: Event) -> None:
        self._tapped(component=self.chart.hit(place_of(event)[0], self._n))

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the eigenvalues of every side."""
        self._n = shown.state.n_eigenvectors
        with self.widget.together():
            self.chart.show(_named(shown), shown.state.component)


class LayersShown:
    """The chart of the cut value in each layer."""

    @staticmethod
    def still(shown: ShownState, layers: Sequence[str]) -> hv.Overlay:
        """The same as a view of HoloViews."""
        return layers_chart(_named(shown), shown.state.component, _all_layers(shown, layers))

    def __init__(self, tapped: Tapped) -> None:
        self.chart = LayersChart()
        self.figure = self.chart.figure
        self.widget = LiveFigure(row(self.figure, sizing_mode="stretch_width"), layout=full_width())

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the cut values of the chosen component."""
        with self.widget.together():
            self.chart.show(_named(shown), shown.state.component, _all_layers(shown, layers))


def _all_layers(shown: ShownState, layers: Sequence[str]) -> list[str]:
    """The layers of the first capture, and those of a second one that have other names."""
    return list(dict.fromkeys([*layers, *(str(name) for side in shown.sides for name in side.eig["layer"].values)]))


def chart_of(view: View, tapped: Tapped) -> Chart:
    """What draws a view that is not tiles over an image: a class of ours, or the function of its row."""
    chart = located(view.chart)
    return chart(tapped) if isinstance(chart, type) else Drawn(chart)


def _panel(one: TileFigure, heading: str) -> SavedPanel:
    return SavedPanel(one.tiles, one.places, (one.width, one.height), heading)


def _columns(n_tiles: int, aspect: float) -> int:
    """So many columns that the whole is no higher than one tile alone would be: the page stays as it is."""
    if n_tiles < 2:
        return 1
    columns = 2
    while columns < n_tiles and math.ceil(n_tiles / columns) * (aspect / columns + CAPTION / WIDTH) > aspect:
        columns += 1
    # A few columns more than needed, if that leaves fewer places of the last row empty.
    return min(range(columns, min(columns + 3, n_tiles + 1)), key=lambda n: (-n_tiles % n, n))


def _named(answer: ShownState) -> dict[str, xr.Dataset]:
    names = wording.side_names(answer.sides)
    return {name: side.eig for name, side in zip(names, answer.sides, strict=True)}
