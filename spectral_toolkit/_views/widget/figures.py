"""The figures of the explorer: a pair for images, one for the tapped patch, and charts; made when first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from bokeh.events import Tap
from bokeh.layouts import row
from bokeh.models import CrosshairTool, Span
from PIL import Image

from ..._explorer import views, wording
from ..._explorer.session import ShownState
from ..._explorer.state import moved
from ..._explorer.view import View
from ..._table import located
from ...errors import SpectralToolkitError
from ..fitting import fitting_columns
from ..still_picture import bokeh_figure, figure_picture
from .charts import LayersChart, SpectrumChart
from .live import LiveFigure
from .save import SavedPanel, sheet
from .tiles import TileFigure, read

WIDTH = 520  # screen pixels of a single image, where the page has room for them
COMPARED = 390  # screen pixels of each of two images
_HIGHEST = 560  # the largest height of an image in screen pixels

Tapped = Callable[..., None]
"""Called with the fields of the state that a tap changes."""


class ExplorerFigures:
    """One or two figures of tiles side by side, with the same zoom and cursor; and the charts shown in their place."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._view: View | None = None
        self.charts: dict[View, Any] = {}
        self._grid = (1, 1)
        self.figures = (TileFigure("first"), TileFigure("second"))
        first, second = (one.figure for one in self.figures)
        second.x_range, second.y_range = first.x_range, first.y_range
        self.figures[1].root.visible = False
        spans = tuple(Span(dimension=way, line_dash="dotted", line_color="#1a1a1a") for way in ("width", "height"))
        for one in self.figures:
            one.figure.add_tools(CrosshairTool(overlay=(spans[0], spans[1]), description="A cursor in both images"))
            one.figure.on_event(Tap, lambda event, one=one: self._on_tap(one, event))
        roots = [one.root for one in self.figures]
        self.widget = LiveFigure(row(*roots, sizing_mode="stretch_width"), layout=full_width())

    @property
    def widgets(self) -> list[Any]:
        """Everything that was made so far."""
        return [self.widget, *(chart.widget for chart in self.charts.values())]

    def draw(self, view: View, shown: ShownState, layers: Sequence[str]) -> Any:
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

    def drawn(self) -> Image.Image:
        """What is shown, as an image."""
        chart = self.charts.get(self._view) if self._view is not None else None
        return sheet(self.panels()) if chart is None else figure_picture(chart.figure)

    def _show(self, view: View, shown: ShownState) -> None:
        assert view.tiles is not None
        self._grid = shown.sides[0].eig["eigenvector"].shape[1:3]
        aspect = shown.picture.aspect
        sides = shown.sides[:1] if view.alone else shown.sides
        compared = len(sides) > 1
        width = min(COMPARED if compared else WIDTH, _HIGHEST / aspect)
        with self.widget.together():
            for figure, side in zip(self.figures, sides, strict=False):
                tiles = view.tiles(shown, side)
                figure.show(
                    tiles,
                    width=max(width, WIDTH) if len(tiles) > 1 and not compared else width,
                    aspect=aspect,
                    columns=fitting_columns(len(tiles), 2 if compared else 4),
                    title=wording.title(shown.state, side),
                    tooltips=read(view.reads, view.decimals),
                )
            second = self.figures[1].root
            if second.visible != compared:
                second.visible = compared

    def panels(self) -> list[SavedPanel]:
        """What the figures show, as panels to be saved."""
        shown = [one for one in self.figures if one.root.visible]
        return [SavedPanel(one.tiles, one.places, (one.width, one.height), one.heading[0]) for one in shown]

    def _on_tap(self, one: TileFigure, event: Any) -> None:
        hit = one.hit(event.x, event.y)
        if hit is None:
            return
        index, cell = hit
        if self._view is not None and self._view.tap == "component":
            self._tapped(component=index + 1)
        else:
            self._tapped(patch=moved(cell, one.places[index].grid, self._grid))


class Rows:
    """The tapped patch's row of the joint affinity and of each layer's affinity."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._grid = (1, 1)
        self.figure = TileFigure("rows")
        self.figure.figure.on_event(Tap, self._on_tap)
        self.widget = LiveFigure(row(self.figure.root, sizing_mode="stretch_width"), layout=full_width())

    def show(self, answer: ShownState) -> None:
        """Draw the rows of every side, one side after the other."""
        self._grid = answer.sides[0].eig["eigenvector"].shape[1:3]
        tiles: list[Any] = []
        for side in answer.sides:
            own = views.row_tiles(side, answer.small)
            if len(answer.sides) > 1:
                own = [views.renamed(tile, f"{wording.short_title(side)}: {tile.caption}") for tile in own]
            tiles += own
        per_side = max(1, len(tiles) // len(answer.sides))
        columns = fitting_columns(per_side, 8)
        width = min(800.0, 160.0 * columns)
        with self.widget.together():
            self.figure.show(tiles, width=width, aspect=answer.picture.aspect, columns=columns)

    def panels(self) -> list[SavedPanel]:
        """What the figure shows, as panels to be saved."""
        one = self.figure
        return [SavedPanel(one.tiles, one.places, (one.width, one.height), "The tapped patch")]

    def _on_tap(self, event: Any) -> None:
        hit = self.figure.hit(event.x, event.y)
        if hit is not None:
            self._tapped(patch=moved(hit[1], self.figure.places[hit[0]].grid, self._grid))


class Drawn:
    """A view that is not tiles over an image, from its row: HoloViews makes its figure anew whenever it is shown."""

    def __init__(self, chart: Callable[[ShownState], Any]) -> None:
        self._chart = chart
        self._box = row(sizing_mode="stretch_width")
        self.widget = LiveFigure(self._box, layout=full_width())

    @property
    def figure(self) -> Any:
        """The figure, as Bokeh has it."""
        return self._box.children[0]

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw what the state shows of a result."""
        with self.widget.together():
            self._box.children = [bokeh_figure(self._chart(shown))]


class SpectrumShown:
    """The chart of eigenvalues; a tap chooses a component."""

    def __init__(self, tapped: Tapped) -> None:
        self._tapped = tapped
        self._n = 1
        self.chart = SpectrumChart()
        self.figure = self.chart.figure
        self.figure.on_event(Tap, self._on_tap)
        self.widget = LiveFigure(row(self.figure, sizing_mode="stretch_width"), layout=full_width())

    def _on_tap(self, event: Any) -> None:
        self._tapped(component=self.chart.hit(event.x, self._n))

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the eigenvalues of every side."""
        self._n = shown.state.n_eigenvectors
        with self.widget.together():
            self.chart.show(_named(shown), shown.state.component)


class LayersShown:
    """The chart of the cut value in each layer."""

    def __init__(self, tapped: Tapped) -> None:
        self.chart = LayersChart()
        self.figure = self.chart.figure
        self.widget = LiveFigure(row(self.figure, sizing_mode="stretch_width"), layout=full_width())

    def show(self, shown: ShownState, layers: Sequence[str]) -> None:
        """Draw the cut values of the chosen component."""
        with self.widget.together():
            self.chart.show(_named(shown), shown.state.component, layers)


def chart_of(view: View, tapped: Tapped) -> Any:
    """What draws a view that is not tiles over an image: a class of ours, or the function of its row."""
    chart = located(view.chart)
    return chart(tapped) if isinstance(chart, type) else Drawn(chart)


def full_width() -> widgets.Layout:
    """A box as wide as the page allows; each figure has its own maximum width."""
    return widgets.Layout(width="100%")


def _named(answer: ShownState) -> dict[str, Any]:
    names = wording.setting_names([side.question.affinity for side in answer.sides])
    return {name: side.eig for name, side in zip(names, answer.sides, strict=True)}
