"""The two charts: eigenvalues with their widest gap, and the value of a cut in each layer. Drawn once by HoloViews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import FixedTicker, HoverTool, Plot, Quad, Scatter, Segment, Text
from bokeh.models.glyph import Glyph

from ..._render.marks import short_names
from .. import charts
from ..elements import styled
from ..still_picture import bokeh_figure
from .parts import dress, fill, fit_axes, glyph_of, marks, source_of, take_tools

_WIDTH, _HEIGHT = 640, 340


@dataclass
class SpectrumChart:
    """Eigenvalues of one or two settings: the chosen component is filled, the widest eigengap is marked and named."""

    def __post_init__(self) -> None:
        stems = styled(hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Gap"), line_width=3, alpha=0.55)
        points = styled(hv.Points([(0.0, 0.0)], group="Eigenvalues"), size=10, line_width=2)
        words = _words()
        self.figure = _drawn([stems, points, words], charts.X_NUMBER, charts.Y_EIGENVALUE)
        self._points, self._stems, self._words = (source_of(self.figure, kind) for kind in (Scatter, Segment, Text))
        fill(self._points, charts.columns(charts.POINTS))
        fill(self._stems, charts.columns(charts.ENDS))
        glyph_of(self.figure, Scatter).update(fill_color="fill", line_color="ink")
        glyph_of(self.figure, Segment).line_color = glyph_of(self.figure, Text).text_color = "ink"
        _add_hover(self.figure, Scatter, [("eigenvector", "@number"), ("eigenvalue", "@y{0.0000}"), ("", "@of")])

    def show(self, results: Mapping[str, xr.Dataset], component: int) -> None:
        """Show the eigenvalues of the first image of each result, by its name."""
        *columns, ranges = charts.eigenvalue_columns(results, component)
        for source, own in zip((self._points, self._stems, self._words), columns, strict=True):
            fill(source, own)
        fit_axes(self.figure, *ranges)

    def hit(self, x: float, n_eigenvectors: int) -> int:
        """The component nearest to a place of the chart."""
        return int(np.clip(round(x), 1, n_eigenvectors))


@dataclass
class LayersChart:
    """The value of one component's cut in every layer alone, beside its value in all layers together."""

    def __post_init__(self) -> None:
        bars = styled(hv.Rectangles([(0.0, 0.0, 0.1, 0.1)], group="Cost"), line_color=None, alpha=0.85)
        joint = styled(hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Joint"), line_width=2, line_dash="dashed")
        words = _words()
        self.figure = _drawn([bars, joint, words], charts.X_LAYER, charts.Y_COST)
        self._bars, self._joint, self._words = (source_of(self.figure, kind) for kind in (Quad, Segment, Text))
        fill(self._bars, charts.columns(charts.BARS))
        fill(self._joint, charts.columns(charts.ENDS))
        glyph_of(self.figure, Quad).fill_color = "ink"
        glyph_of(self.figure, Segment).line_color = glyph_of(self.figure, Text).text_color = "ink"
        tips = [("layer", "@name"), ("cut value alone", "@top{0.000}"), ("share of the eigenvalue", "@share{0%}")]
        _add_hover(self.figure, Quad, [*tips, ("share of the degrees", "@mass{0%}"), ("", "@of")])

    def show(self, results: Mapping[str, xr.Dataset], component: int, layers: Sequence[str]) -> None:
        """Show the cut values of one component; layers of weight 0 have none."""
        *columns, ranges = charts.layer_columns(results, component, layers)
        for source, own in zip((self._bars, self._joint, self._words), columns, strict=True):
            fill(source, own)
        fit_axes(self.figure, *ranges)
        names = dict(enumerate(short_names(list(layers))))
        if self.figure.xaxis[0].major_label_overrides != names:
            self.figure.xaxis[0].update(ticker=FixedTicker(ticks=list(names)), major_label_overrides=names)


def _words() -> hv.Labels:
    """What is said of each result, in its colour."""
    words = hv.Labels([(0.0, 0.0, " ")], vdims="text", group="Words")
    return styled(words, text_font_size="11px", text_align="left", text_baseline="top")


def _drawn(elements: Sequence[hv.Element], x: str, y: str) -> Plot:
    view = hv.Overlay(list(elements))
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
    drawn = bokeh_figure(view)
    dress(drawn, toolbar_inner=False, sizing_mode="stretch_width")  # tools beside the chart, and never over it
    take_tools(drawn, HoverTool)
    drawn.xgrid[0].grid_line_color = None
    drawn.ygrid[0].update(grid_line_color="#808080", grid_line_alpha=0.3)
    return drawn


def _add_hover(drawn: Plot, kind: type[Glyph], tips: list[tuple[str, str]]) -> None:
    drawn.add_tools(HoverTool(renderers=[*marks(drawn, kind)], tooltips=tips, description="Values under the cursor"))
