"""The two charts: eigenvalues with their widest gap, and the value of a cut in each layer. Drawn once by HoloViews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import CustomJS, FixedTicker, HoverTool, Quad, Scatter, Segment, Text

from ..._render.marks import short_names
from .. import charts
from ..still_picture import bokeh_figure

_WIDTH, _HEIGHT = 640, 340


@dataclass
class SpectrumChart:
    """Eigenvalues of one or two settings: the chosen component is filled, the widest eigengap is marked and named."""

    def __post_init__(self) -> None:
        stems = hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Gap").opts(backend="bokeh", line_width=3, alpha=0.55)
        points = hv.Points([(0.0, 0.0)], group="Eigenvalues").opts(backend="bokeh", size=10, line_width=2)
        words = _words()
        self.figure = _drawn([stems, points, words], charts.X_NUMBER, charts.Y_EIGENVALUE)
        self._points, self._stems, self._words = _sources(self.figure, Scatter, Segment, Text)
        self._points.data, self._stems.data = charts.columns(charts.POINTS), charts.columns(charts.ENDS)
        glyphs = {type(r.glyph): r.glyph for r in self.figure.renderers}
        glyphs[Scatter].update(fill_color="fill", line_color="ink")
        glyphs[Segment].line_color = glyphs[Text].text_color = "ink"
        _add_hover(self.figure, Scatter, [("eigenvector", "@number"), ("eigenvalue", "@y{0.0000}"), ("", "@of")])

    def show(self, results: Mapping[str, xr.Dataset], component: int) -> None:
        """Show the eigenvalues of the first image of each result, by its name."""
        *columns, ranges = charts.eigenvalue_columns(results, component)
        self._points.data, self._stems.data, self._words.data = columns
        _fit(self.figure, *ranges)

    def hit(self, x: float, n_eigenvectors: int) -> int:
        """The component nearest to a place of the chart."""
        return int(np.clip(round(x), 1, n_eigenvectors))


@dataclass
class LayersChart:
    """The value of one component's cut in every layer alone, beside its value in all layers together."""

    def __post_init__(self) -> None:
        bars = hv.Rectangles([(0.0, 0.0, 0.1, 0.1)], group="Cost").opts(backend="bokeh", line_color=None, alpha=0.85)
        joint = hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Joint").opts(
            backend="bokeh", line_width=2, line_dash="dashed"
        )
        words = _words()
        self.figure = _drawn([bars, joint, words], charts.X_LAYER, charts.Y_COST)
        self._bars, self._joint, self._words = _sources(self.figure, Quad, Segment, Text)
        self._bars.data, self._joint.data = charts.columns(charts.BARS), charts.columns(charts.ENDS)
        glyphs = {type(r.glyph): r.glyph for r in self.figure.renderers}
        glyphs[Quad].fill_color = "ink"
        glyphs[Segment].line_color = glyphs[Text].text_color = "ink"
        tips = [("layer", "@name"), ("cut value alone", "@top{0.000}"), ("share of the eigenvalue", "@share{0%}")]
        _add_hover(self.figure, Quad, [*tips, ("share of the degrees", "@mass{0%}"), ("", "@of")])

    def show(self, results: Mapping[str, xr.Dataset], component: int, layers: Sequence[str]) -> None:
        """Show the cut values of one component; layers of weight 0 have none."""
        *columns, ranges = charts.layer_columns(results, component, layers)
        self._bars.data, self._joint.data, self._words.data = columns
        _fit(self.figure, *ranges)
        names = dict(enumerate(short_names(list(layers))))
        if self.figure.xaxis[0].major_label_overrides != names:
            self.figure.xaxis[0].update(ticker=FixedTicker(ticks=list(names)), major_label_overrides=names)


def _words() -> Any:
    """What is said of each result, in its colour."""
    words = hv.Labels([(0.0, 0.0, " ")], vdims="text", group="Words")
    return words.opts(backend="bokeh", text_font_size="11px", text_align="left", text_baseline="top")


def _drawn(elements: list[Any], x: str, y: str) -> Any:
    view = hv.Overlay(elements)
    view.opts(
        backend="bokeh",
        width=_WIDTH,
        height=_HEIGHT,
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=x,
        ylabel=y,
        toolbar="above",
        default_tools=["save", "reset"],
        active_tools=[],
        show_legend=False,
        title="",
    )
    drawn: Any = bokeh_figure(view)
    drawn.toolbar.update(logo=None)
    drawn.update(
        toolbar_inner=False,  # beside the chart, and never over it
        sizing_mode="stretch_width",
        outline_line_color=None,
        background_fill_color=None,
        border_fill_color=None,
        tags=["st-ink"],
    )
    # The page's script gives its words the colour of the theme as soon as it is drawn.
    drawn.js_on_change("inner_width", CustomJS(args={"figure": drawn}, code="window.spectralToolkitInk?.(figure)"))
    drawn.toolbar.tools = [tool for tool in drawn.toolbar.tools if not isinstance(tool, HoverTool)]
    drawn.xgrid[0].grid_line_color = None
    drawn.ygrid[0].update(grid_line_color="#808080", grid_line_alpha=0.3)
    return drawn


def _sources(drawn: Any, *kinds: type) -> list[Any]:
    return [next(r.data_source for r in drawn.renderers if isinstance(r.glyph, kind)) for kind in kinds]


def _add_hover(drawn: Any, kind: type, tips: list[tuple[str, str]]) -> None:
    renderers = [r for r in drawn.renderers if isinstance(r.glyph, kind)]
    drawn.add_tools(HoverTool(renderers=renderers, tooltips=tips, description="Values under the cursor"))


def _fit(drawn: Any, x: tuple[float, float], y: tuple[float, float]) -> None:
    for axis, (start, end) in ((drawn.x_range, x), (drawn.y_range, y)):
        if (axis.start, axis.end) != (start, end):
            axis.update(start=start, end=end, reset_start=start, reset_end=end)
