"""Figures that fit the notebook cell in which they are shown: they shrink and wrap, and never lose their shape.

HoloViews' and Bokeh's own responsive sizes stretch a figure with its titles and colour bars, so that patches are no
longer square. Here a figure keeps the size that Python gave it wherever there is room; where there is not, a short
script in the page makes frames smaller, and rows shorter, until the figure fits.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import holoviews as hv

if TYPE_CHECKING:
    from holoviews.plotting.bokeh import ElementPlot

PAGE = 900
"""The width, in screen pixels, that figures are made for: a notebook cell on a small screen, beside the file list."""

BACKEND = "canvas"
"""What Bokeh draws with, in place of HoloViews' choice of WebGL: a page has few WebGL contexts and loses the oldest,
and a figure whose context is lost stays white, without an error."""

_FITS, _AS_HIGH = "st-fits", "st-as-high"

_SCRIPT = """
(() => {
  const place = document.getElementById(%(root)s), least = 0.75;
  let figures = [], grid, columns, usual;
  const find = () => {
    const views = [window.Bokeh, ...(window.Bokeh?.versions?.values() ?? [])].map((one) => one?.index?.[%(root)s]);
    const models = [...(views.find(Boolean)?.model.references() ?? [])];
    grid = models.find((one) => one.type === "GridPlot");
    const ours = grid ? grid.children.map(([one]) => one) : models;
    figures = ours.filter((one) => one.tags?.includes("%(fits)s") && one.inner_width > 0);
    columns = grid ? 1 + Math.max(...grid.children.map((child) => child[2])) : 1;
    usual = figures.map((one) => ({one, width: one.frame_width, height: one.frame_height,
      beside: one.outer_width - one.inner_width}));
    return figures.length > 0;
  };
  const fit = () => {
    const room = place.clientWidth - 4;
    if (room <= 0) return;
    const sum = (row, name) => row.reduce((total, one) => total + one[name], 0);
    const rows = (n) => usual.flatMap((_, place) => place %% n ? [] : [usual.slice(place, place + n)]);
    const scale = (n) => Math.min(1, ...rows(n).map((row) => (room - sum(row, "beside")) / sum(row, "width")));
    let n = columns;
    while (n > 1 && scale(n) < least) n -= 1;
    for (const {one, width, height} of usual) {
      const size = {frame_width: Math.max(40, Math.round(width * scale(n)))};
      if (!one.tags.includes("%(as_high)s")) size.frame_height = Math.round(height * size.frame_width / width);
      if (size.frame_width !== one.frame_width) one.setv(size);
    }
    const children = (grid?.children ?? []).map(([one], place) => [one, Math.floor(place / n), place %% n]);
    if (children.some(([, row], place) => row !== grid.children[place][1])) grid.children = children;
  };
  let tries = 0;
  const begin = () => {
    if (find()) new ResizeObserver(fit).observe(place);
    else if (tries++ < 300 && document.contains(place)) setTimeout(begin, 40);
  };
  if (place) begin();
})();
"""


def fits(plot: ElementPlot, _element: object) -> None:
    """For HoloViews' option ``hooks``: this figure keeps its shape when it is made smaller."""
    plot.state.tags = [_FITS]
    plot.state.output_backend = BACKEND


def fits_as_high(plot: ElementPlot, _element: object) -> None:
    """For HoloViews' option ``hooks``: this figure keeps its height when it is made narrower."""
    plot.state.tags = [_FITS, _AS_HIGH]
    plot.state.output_backend = BACKEND


def is_fitting(view: hv.core.Dimensioned) -> bool:
    """Whether what HoloViews is about to draw contains such a figure."""
    found = view.traverse(lambda one: hv.Store.lookup_options("bokeh", one, "plot").kwargs.get("hooks"), [hv.Overlay])
    return any(hook in (fits, fits_as_high) for hooks in found for hook in hooks or ())


def fitting_script(root: str) -> str:
    """JavaScript that makes figures fit in the element of this id, as long as it is in the page."""
    return _SCRIPT % {"root": json.dumps(root), "fits": _FITS, "as_high": _AS_HIGH}


def fitting_columns(n_tiles: int, most: int) -> int:
    """The number of columns, at most ``most``, that leaves the last row fullest.

    Examples
    --------
    >>> fitting_columns(8, 5), fitting_columns(3, 5), fitting_columns(7, 4)
    (4, 3, 4)
    """
    return min(math.ceil(n_tiles / math.ceil(n_tiles / most)), n_tiles)
