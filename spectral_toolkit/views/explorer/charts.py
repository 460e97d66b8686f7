"""The two charts: eigenvalues with their widest gap, and what a cut costs in each layer. Drawn once by HoloViews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import FixedTicker, HoverTool, Quad, Scatter, Segment, Text

from ...trust import suggests_groups
from ..colour import categorical, hex_colours
from ..figures import layer_bars, short_names
from .tiles import render

INKS = hex_colours(categorical(2))
"""One colour for each setting that is compared."""
_WIDTH, _HEIGHT = 640, 340
_BAR = 0.38
_POINTS = ("x", "y", "number", "ink", "fill", "of")
_ENDS = ("x0", "y0", "x1", "y1", "ink")
_BARS = ("left", "right", "bottom", "top", "ink", "name", "share", "mass", "of")


@dataclass
class SpectrumChart:
    """Eigenvalues of one or two settings, the chosen component filled, the widest eigengap marked and named."""

    def __post_init__(self) -> None:
        stems = hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Gap").opts(backend="bokeh", line_width=3, alpha=0.55)
        points = hv.Points([(0.0, 0.0)], group="Eigenvalues").opts(backend="bokeh", size=10, line_width=2)
        words = hv.Labels([(0.0, 0.0, " ")], vdims="text", group="Words").opts(
            backend="bokeh", text_font_size="11px", text_align="left", text_color="#1a1a1a"
        )
        self.figure = _drawn([stems, points, words], "eigenvector", "eigenvalue: what its cut costs")
        self._points, self._stems, self._words = _sources(self.figure, Scatter, Segment, Text)
        self._points.data, self._stems.data = _columns(*_POINTS), _columns(*_ENDS)
        glyphs = {type(r.glyph): r.glyph for r in self.figure.renderers}
        glyphs[Scatter].update(fill_color="fill", line_color="ink")
        glyphs[Segment].line_color = "ink"
        _add_hover(self.figure, Scatter, [("eigenvector", "@number"), ("eigenvalue", "@y{0.0000}"), ("", "@of")])

    def show(self, answers: Sequence[tuple[str, xr.Dataset]], component: int) -> None:
        """Eigenvalues of the first image of each answer, named as given."""
        points, stems, words = _columns(*_POINTS), _columns(*_ENDS), _columns("x", "y", "text")
        highest = 0.05
        for place, (name, eig) in enumerate(answers):
            shift = 0.16 * (place - (len(answers) - 1) / 2)
            values = eig["eigenvalue"].isel(image=0).values
            gaps = eig["eigengap"].isel(image=0).values
            for number, value in zip(eig["component"].values.tolist(), values, strict=True):
                points["x"].append(number + shift)
                points["y"].append(float(value))
                points["number"].append(number)
                points["ink"].append(INKS[place])
                points["fill"].append(INKS[place] if number == component else "#ffffff")
                points["of"].append(name)
            highest = max(highest, float(values.max()))
            if suggests_groups(values, gaps):
                widest = int(np.nanargmax(gaps))
                low, high = float(values[widest]), float(values[widest] + gaps[widest])
                across = widest + 1.5 + shift
                for key, value in zip(
                    ("x0", "y0", "x1", "y1", "ink"), (across, low, across, high, INKS[place]), strict=True
                ):
                    stems[key].append(value)
                words["x"].append(across + 0.12)
                words["y"].append((low + high) / 2)
                words["text"].append(f"{name}: widest gap, {widest + 2} groups")
                highest = max(highest, high)
        self._points.data, self._stems.data, self._words.data = points, stems, words
        n = max(eig.sizes["component"] for _, eig in answers)
        _fit(self.figure, (0.5, n + 1.5), (0.0, highest * 1.1))

    def hit(self, x: float, n_eigenvectors: int) -> int:
        """The component nearest to a place of the chart."""
        return int(np.clip(round(x), 1, n_eigenvectors))


@dataclass
class LayersChart:
    """What the cut of one component costs in every layer alone, beside what it costs in all together."""

    def __post_init__(self) -> None:
        bars = hv.Rectangles([(0.0, 0.0, 0.1, 0.1)], group="Cost").opts(backend="bokeh", line_color=None, alpha=0.85)
        joint = hv.Segments([(0.0, 0.0, 0.0, 0.0)], group="Joint").opts(
            backend="bokeh", line_width=2, line_dash="dashed"
        )
        words = hv.Labels([(0.0, 0.0, " ")], vdims="text", group="Words").opts(
            backend="bokeh", text_font_size="11px", text_align="right", text_baseline="top", text_color="#1a1a1a"
        )
        self.figure = _drawn([bars, joint, words], "layer", "cost of this cut in the layer alone")
        self._bars, self._joint, self._words = _sources(self.figure, Quad, Segment, Text)
        self._bars.data, self._joint.data = _columns(*_BARS), _columns(*_ENDS)
        glyphs = {type(r.glyph): r.glyph for r in self.figure.renderers}
        glyphs[Quad].fill_color = "ink"
        glyphs[Segment].line_color = "ink"
        tips = [("layer", "@name"), ("cost alone", "@top{0.000}"), ("share of the cost", "@share{0%}")]
        _add_hover(self.figure, Quad, [*tips, ("share of the weight", "@mass{0%}"), ("", "@of")])

    def show(self, answers: Sequence[tuple[str, xr.Dataset]], component: int, layers: Sequence[str]) -> None:
        """Costs of one component; layers of weight 0 have none."""
        bars, joint, words = _columns(*_BARS), _columns(*_ENDS), _columns("x", "y", "text")
        wide = 2 * _BAR / len(answers)
        highest = 0.05
        for place, (name, eig) in enumerate(answers):
            value = float(eig["eigenvalue"].isel(image=0).sel(component=component))
            for bar in layer_bars(eig, 0, component):
                left = layers.index(bar.name) - _BAR + place * wide
                cut = bar.cut or 0.0
                entry = (left, left + wide * 0.95, 0.0, cut, INKS[place], bar.name, bar.share, bar.mass, name)
                for key, item in zip(bars, entry, strict=True):
                    bars[key].append(item)
                highest = max(highest, cut)
            for key, item in zip(joint, (-0.5, value, len(layers) - 0.5, value, INKS[place]), strict=True):
                joint[key].append(item)
            words["x"].append(len(layers) - 0.5)
            words["text"].append(f"{name}, dashed: all layers together {value:.3g}")
            highest = max(highest, value)
        top = highest * 1.25
        words["y"] = [top * (0.995 - 0.06 * place) for place in range(len(answers))]
        self._bars.data, self._joint.data, self._words.data = bars, joint, words
        _fit(self.figure, (-0.6, len(layers) - 0.4), (0.0, top))
        names = dict(enumerate(short_names(list(layers))))
        if self.figure.xaxis[0].major_label_overrides != names:
            self.figure.xaxis[0].update(ticker=FixedTicker(ticks=list(names)), major_label_overrides=names)


def _columns(*names: str) -> dict[str, list[Any]]:
    return {name: [] for name in names}


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
    drawn: Any = render(view)
    drawn.toolbar.update(logo=None, autohide=True)
    drawn.update(toolbar_inner=True, sizing_mode="stretch_width", max_width=_WIDTH, outline_line_color=None)
    drawn.toolbar.tools = [tool for tool in drawn.toolbar.tools if not isinstance(tool, HoverTool)]
    drawn.xgrid[0].grid_line_color = None
    drawn.ygrid[0].grid_line_color = "#e5e5e5"
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
