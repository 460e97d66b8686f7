"""Charts: the eigenvalues with their widest gap, and one component layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import holoviews as hv
import numpy as np
import xarray as xr

from .._analysis.trust import suggests_groups
from .._compute.settings import computing
from .._render.colour import categorical, hex_colours
from .._render.marks import layer_bars, short_names
from ..errors import SpectralToolkitError
from .elements import styled
from .notebook import load_bokeh
from .still_picture import has_still

INKS = hex_colours(categorical(8))
"""The colours of the results that are compared."""
X_NUMBER, Y_EIGENVALUE = "eigenvector", "eigenvalue (cut value)"
X_LAYER, Y_COST = "layer", "cut value in the layer alone (1: a random cut)"
POINTS = ("x", "y", "number", "ink", "fill", "of")
ENDS = ("x0", "y0", "x1", "y1", "ink")
BARS = ("left", "right", "bottom", "top", "ink", "name", "share", "mass", "of")
WORDS = ("x", "y", "text", "ink")
"""What is said of a result is in its colour, above all marks, so that it lies over none."""

Columns = dict[str, list[object]]
Range = tuple[float, float]
_SIZE = {
    "width": 640,
    "height": 340,
    "toolbar": "above",
    "active_tools": [],
    "show_legend": False,
    "title": "",
    "hooks": [has_still],
}
_BAR = 0.38
_WORDS_HIGH = 0.085
"""Height of a line of words, as a share of the chart."""


def columns(names: Sequence[str]) -> Columns:
    """Columns without rows."""
    return {name: [] for name in names}


def eigenvalue_columns(
    results: Mapping[str, xr.Dataset], component: int
) -> tuple[Columns, Columns, Columns, tuple[Range, Range]]:
    """Points, widest gaps, labels and ranges of both axes, for the first image of every result, by name."""
    points, stems, words = columns(POINTS), columns(ENDS), columns(WORDS)
    highest = 0.05
    for place, (name, eig) in enumerate(results.items()):
        shift = 0.16 * (place - (len(results) - 1) / 2)
        values, gaps = (_of_first(eig[key]).values for key in ("eigenvalue", "eigengap"))
        for number, value in zip(eig["component"].values.tolist(), values, strict=True):
            fill = INKS[place] if number == component else "#ffffff"
            _add(points, (number + shift, float(value), number, INKS[place], fill, name))
        highest = max(highest, float(values.max()))
        if suggests_groups(values, gaps):
            widest = int(np.nanargmax(gaps))
            low, high = float(values[widest]), float(values[widest] + gaps[widest])
            across = widest + 1.5 + shift
            _add(stems, (across, low, across, high, INKS[place]))
            said = f"{name}: widest gap after {widest + 1}, so {widest + 2} segments"
            highest = max(highest, high)
        else:
            said = f"{name}: no gap that suggests a number of segments"
        _add(words, (0.6, 0.0, said, INKS[place]))
    n = max(eig.sizes["component"] for eig in results.values())
    return points, stems, words, ((0.5, n + 1.5), (0.0, _headed(words, highest)))


def _headed(words: Columns, highest: float) -> float:
    """Put words below each other above the highest mark; return the end of the axis."""
    lines = len(words["text"])
    top = highest * 1.05 / (1 - _WORDS_HIGH * (lines + 0.3))
    words["y"] = [top * (1 - _WORDS_HIGH * (place + 0.15)) for place in range(lines)]
    return top


def layer_columns(
    results: Mapping[str, xr.Dataset], component: int, layers: Sequence[str]
) -> tuple[Columns, Columns, Columns, tuple[Range, Range]]:
    """Bars of a component's cut value in every layer, lines of its joint value, labels, and both ranges."""
    bars, joint, words = columns(BARS), columns(ENDS), columns(WORDS)
    wide = 2 * _BAR / len(results)
    highest = 0.05
    for place, (name, eig) in enumerate(results.items()):
        value = float(_of_first(eig["eigenvalue"]).sel(component=component))
        for bar in layer_bars(eig, 0, component):
            left = layers.index(bar.name) - _BAR + place * wide
            cut = bar.cut or 0.0
            _add(bars, (left, left + wide * 0.95, 0.0, cut, INKS[place], bar.name, bar.share, bar.mass, name))
            highest = max(highest, cut)
        _add(joint, (-0.5, value, len(layers) - 0.5, value, INKS[place]))
        _add(words, (-0.5, 0.0, f"{name}: bars; dashed, {value:.3g} in all layers together", INKS[place]))
        highest = max(highest, value)
    return bars, joint, words, ((-0.6, len(layers) - 0.4), (0.0, _headed(words, highest)))


@computing
def spectrum_chart(results: Mapping[str, xr.Dataset], component: int = 1) -> hv.Overlay:
    """Draw the eigenvalues of one or several results, with the chosen component filled and the widest gap marked.

    Parameters
    ----------
    results
        Results of ``st.solve`` by their name in the chart; the first image of each is shown.
    component
        Which component to fill.

    Returns
    -------
    holoviews.Overlay

    Examples
    --------
    >>> eig = xr.Dataset({"eigenvalue": ("component", [0.1, 0.5]), "eigengap": ("component", [0.4, 0.1])},
    ...                  {"component": [1, 2]})
    >>> spectrum_chart({"QK": eig}).Eigenvalues.I.dimension_values("y").tolist()
    [0.1, 0.5]
    """
    _check(results, component)
    load_bokeh()
    points, stems, words, (xlim, ylim) = eigenvalue_columns(results, component)
    dots = hv.Points(points, ["x", "y"], list(POINTS[2:]), group="Eigenvalues")
    tips = [("eigenvector", "@number"), ("eigenvalue", "@y{0.0000}"), ("", "@of")]
    dots = styled(dots, size=10, color="fill", line_color="ink", line_width=2, tools=["hover"], hover_tooltips=tips)
    gaps = styled(hv.Segments(stems, list(ENDS[:4]), ["ink"], group="Gap"), color="ink", line_width=3, alpha=0.55)
    view = hv.Overlay([gaps, dots, _labels(words)])
    return styled(view, xlim=xlim, ylim=ylim, xlabel=X_NUMBER, ylabel=Y_EIGENVALUE, **_SIZE)


@computing
def layers_chart(
    results: Mapping[str, xr.Dataset], component: int = 1, layers: Sequence[str] | None = None
) -> hv.Overlay:
    """Draw the value of one component's cut in every layer alone, with a dashed line for all layers together.

    Parameters
    ----------
    results
        Results of ``st.solve`` by their name in the chart; the first image of each is shown.
    component
        The component to show.
    layers
        The layers from left to right; None takes the layers of the results.

    Returns
    -------
    holoviews.Overlay

    Examples
    --------
    >>> import numpy as np, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> view = layers_chart({"VV": st.solve(st.affinity(activations, "vv", device="cpu"), 2)})
    >>> view.Cost.I.dimension_values("name").tolist()
    ['block.0']
    """
    _check(results, component)
    load_bokeh()
    if layers is None:
        layers = list(dict.fromkeys(str(name) for eig in results.values() for name in eig["layer"].values))
    bars, joint, words, (xlim, ylim) = layer_columns(results, component, layers)
    order = ["left", "bottom", "right", "top"]
    tips = [("layer", "@name"), ("cut value alone", "@top{0.000}"), ("share of the eigenvalue", "@share{0%}")]
    tips += [("share of the degrees", "@mass{0%}"), ("", "@of")]
    costs = hv.Rectangles(bars, order, list(BARS[4:]), group="Cost")
    costs = styled(costs, color="ink", line_color=None, alpha=0.85, tools=["hover"], hover_tooltips=tips)
    lines = hv.Segments(joint, list(ENDS[:4]), ["ink"], group="Joint")
    lines = styled(lines, color="ink", line_width=2, line_dash="dashed")
    view = hv.Overlay([costs, lines, _labels(words)])
    ticks = list(enumerate(short_names(list(layers))))
    return styled(view, xlim=xlim, ylim=ylim, xlabel=X_LAYER, ylabel=Y_COST, xticks=ticks, **_SIZE)


def _labels(words: Columns) -> hv.Labels:
    labels = hv.Labels(words, ["x", "y"], ["text", "ink"], group="Words")
    return styled(labels, text_font_size="11px", text_color="ink", text_align="left", text_baseline="top")


def _of_first(values: xr.DataArray) -> xr.DataArray:
    """Values of the first image, or of all images that were solved as one problem."""
    return values.isel(image=0) if "image" in values.dims else values


def _add(table: Columns, row: Sequence[object]) -> None:
    for key, value in zip(table, row, strict=True):
        table[key].append(value)


def _check(results: Mapping[str, xr.Dataset], component: int) -> None:
    if isinstance(results, xr.Dataset) or not isinstance(results, Mapping) or not 0 < len(results) <= len(INKS):
        raise SpectralToolkitError(
            f"results are a {type(results).__name__}: give one to {len(INKS)} results of st.solve by name, such as "
            "{'QK': eig}."
        )
    for name, eig in results.items():
        if component not in eig["component"].values:
            raise SpectralToolkitError(
                f"component={component!r} was not computed: {name!r} has components {eig['component'].values.tolist()}."
            )
