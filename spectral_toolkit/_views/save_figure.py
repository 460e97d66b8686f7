"""Figures for papers: what a view shows, drawn by matplotlib from the marks of its Bokeh figures."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, TypedDict, cast

import holoviews as hv
from bokeh.models import (
    Axis,
    ColorBar,
    FactorRange,
    GlyphRenderer,
    GridPlot,
    ImageRGBA,
    Line,
    LinearColorMapper,
    MultiLine,
    Plot,
    Quad,
    Range,
    Rect,
    Scatter,
    Segment,
    Text,
)
from bokeh.models import Image as Cells
from bokeh.models.glyph import Glyph

from .._compute.arguments import flag, number, whole
from .._compute.settings import computing
from .._io.outputs import writable_path, write_whole
from ..errors import SpectralToolkitError, StoreError
from .still_picture import Mark, Parts, bokeh_model, columns_of, ends, limits, marks_of, plots_in, sorts_of

FORMATS: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {"Software": None},
}
"""What can be written, without the time of writing: two runs give the same bytes."""
_SETTINGS = {
    "pdf.fonttype": 42,  # TrueType, which every journal takes, and whose text can be searched
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "spectral_toolkit",
    "font.family": "DejaVu Sans",  # comes with matplotlib, and has the Greek letters
    "text.usetex": False,
    "text.parse_math": False,
}
_POINTS = 0.75
"""Points in a pixel of the screen."""
_DOTS = 96
"""Pixels of the screen in an inch."""
_INK = "#1a1a1a"
_CHART = (760, 380)
"""Pixels of a chart whose size is decided by the page."""
_SPACE, _LINE, _BAR, _UPWARDS = 12, 14, 64, 56
_MARKERS = {
    "square": "s",
    "triangle": "^",
    "inverted_triangle": "v",
    "diamond": "D",
    "star": "*",
    "cross": "+",
    "x": "x",
}
_MANY = 500
_At = Callable[[object], float]


class _FaceStyle(TypedDict):
    """How a face and its edge are drawn, as matplotlib takes it."""

    facecolor: tuple[str, float] | str
    edgecolor: tuple[str, float] | str
    linewidth: float


class _LineStyle(TypedDict):
    """How a line is drawn, as matplotlib takes it."""

    color: tuple[str, float] | str
    linewidth: float
    linestyle: str
    zorder: int


_DASHES = {"dashed": "--", "dotted": ":", "dotdash": "-."}
_ALIGNED = {"middle": "center"}


@computing
def save_figure(
    view: object,
    path: str | os.PathLike[str],
    *,
    width: float | None = None,
    dpi: int = 300,
    overwrite: bool = False,
) -> Path:
    """Save a view as a figure for a paper.

    Text, lines, frames and colour bars are vectors, with their fonts; images and patches have their full resolution.
    Two runs write the same bytes. It needs matplotlib: ``pip install 'spectral-toolkit[figures]'``.

    Parameters
    ----------
    view
        What ``st.overlay``, ``st.heat_map``, ``st.effect_plot`` or another function returned, also with elements of
        yours added to it, as in ``st.overlay(...) * hv.Points(...)``, or several side by side. It must have no slider.
    path
        A file that ends in ``.pdf``, ``.svg`` or ``.png``.
    width
        Width of the whole figure in inches; the height follows. None takes its size on the screen.
    dpi
        Dots per inch of a PNG, and of nothing else.
    overwrite
        Whether to replace a file that is there.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    SpectralToolkitError
        If the view cannot be drawn, the ending is another, matplotlib is missing, or a number is out of range.
    StoreError
        If a file is there, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, layers=[0], progress=False)
    >>> view = st.overlay(activations, st.solve(st.affinity(activations, "vv"), 2), layout="grid")
    >>> save_figure(view, f"{tempfile.mkdtemp()}/figure.pdf", width=3.3).name
    'figure.pdf'
    """
    target = writable_path(path, "path")
    if target.suffix.lower() not in FORMATS:
        raise SpectralToolkitError(f"path={str(path)!r} has no known ending: use one of {', '.join(FORMATS)}.")
    inches = None if width is None else number("width", width, above=0)
    dots = whole("dpi", dpi, least=1, most=4800)
    if target.exists() and not flag("overwrite", overwrite):
        raise StoreError(f"{str(target)!r} exists already: pass overwrite=True to replace it, or choose another name.")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SpectralToolkitError(
            "Figures for papers need matplotlib: install it with pip install 'spectral-toolkit[figures]'."
        ) from error
    panels = _panels(view)
    settings = {**matplotlib.rcParamsDefault, **_SETTINGS}
    with matplotlib.rc_context(settings):  # pyright: ignore[reportArgumentType]
        columns, rows = ([0.0] * (1 + max(getattr(one, side) for one in panels)) for side in ("column", "row"))
        for one in panels:
            columns[one.column] = max(columns[one.column], one.width)
            rows[one.row] = max(rows[one.row], one.height)
        size = (sum(columns), sum(rows))
        # Everything is scaled, letters and lines too, as it would be where the figure is included.
        factor = 1.0 if inches is None else inches * _DOTS / size[0]
        figure = Figure(figsize=(size[0] * factor / _DOTS, size[1] * factor / _DOTS))
        for one in panels:
            _Drawing(figure, one, (sum(columns[: one.column]), sum(rows[: one.row])), size, factor).draw()
        buffer = io.BytesIO()
        ending = target.suffix.lower()
        figure.savefig(buffer, format=ending[1:], dpi=dots, facecolor="white", metadata=FORMATS[ending])
    write_whole(target, buffer.getvalue())
    return target


if TYPE_CHECKING:
    from matplotlib.axis import Axis as MplAxis
    from matplotlib.figure import Figure

# --- what there is to draw -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Panel:
    """One Bokeh figure, its place among the others, and the pixels around its frame."""

    figure: Plot
    row: int
    column: int

    @property
    def frame(self) -> tuple[float, float]:
        wide, high = self.figure.frame_width, self.figure.frame_height
        return (wide, high) if wide and high else _CHART

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.figure)

    @property
    def left(self) -> float:
        labels = self.figure.y_range.factors if isinstance(self.figure.y_range, FactorRange) else [""]
        longest = max((len(str(one)) for one in labels), default=0)
        return _SPACE + (_UPWARDS + 5 * max(0, longest - 4) if self.parts.upwards is not None else 0)

    @property
    def top(self) -> float:
        return _SPACE + _LINE * len(self.parts.title) + (2 * _LINE if self.parts.above else 0)

    @property
    def bottom(self) -> float:
        if self.parts.across is None or self.parts.above:
            return _SPACE
        labels = self.figure.x_range.factors if isinstance(self.figure.x_range, FactorRange) else []
        labels = [*labels, *self.parts.across.major_label_overrides.values()]
        lines = max((str(one).count("\n") + 1 for one in labels), default=1)
        return _SPACE + _LINE * (lines + 1.5 * bool(self.parts.across.axis_label))

    @property
    def width(self) -> float:
        return self.left + self.frame[0] + _SPACE + _BAR * len(self.parts.bars)

    @property
    def height(self) -> float:
        return self.top + self.frame[1] + self.bottom


def _panels(view: object) -> list[_Panel]:
    if isinstance(view, hv.HoloMap) or (isinstance(view, hv.core.Dimensioned) and _has_slider(view)):
        raise SpectralToolkitError(
            "The view has a slider, and a figure for a paper has none: choose what is shown, as in "
            "st.overlay(..., component=2), or draw all side by side with layout='grid'."
        )
    if isinstance(view, Plot | GridPlot):
        drawn = view
    elif isinstance(view, hv.core.Dimensioned):
        drawn = bokeh_model(view)
    else:
        raise SpectralToolkitError(
            f"view={type(view).__name__} cannot be saved: expected what st.overlay, st.heat_map or another function "
            "that draws returned."
        )
    grids = (
        [drawn]
        if isinstance(drawn, GridPlot)
        else [one for one in drawn.select({"type": GridPlot}) if isinstance(one, GridPlot)]
    )
    if grids:
        placed = grids[0].children
        return [_Panel(figure, row, column) for figure, row, column, *_ in placed if isinstance(figure, Plot)]
    return [_Panel(figure, 0, place) for place, figure in enumerate(plots_in(drawn))]


def _has_slider(view: hv.core.Dimensioned) -> bool:
    return bool(view.traverse(lambda one: one, [lambda one: isinstance(one, hv.HoloMap) and bool(one.kdims)]))


# --- drawing ---------------------------------------------------------------------------------------------------------


class _Drawing:
    """Draws one panel into a figure of matplotlib.

    ``corner`` is its place, and ``size`` the size of the whole, in pixels of the screen; ``factor`` is what letters and
    lines are multiplied by.
    """

    def __init__(
        self, figure: Figure, panel: _Panel, corner: tuple[float, float], size: tuple[float, float], factor: float
    ) -> None:
        self.figure, self.panel, self.corner, self.size = figure, panel, corner, size
        self.point = _POINTS * factor
        self.axes = figure.add_axes(self.place(panel.left, panel.top, *panel.frame))
        self.x_at, self.y_at = _positions(panel.figure.x_range), _positions(panel.figure.y_range)

    def place(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Shares of the whole figure, counted from below, as matplotlib has them."""
        left, top = self.corner[0] + left, self.corner[1] + top
        return left / self.size[0], 1 - (top + height) / self.size[1], width / self.size[0], height / self.size[1]

    def draw(self) -> None:
        panel = self.panel
        self.axes.set_facecolor("none")
        for renderer in sorts_of(panel.figure):
            if renderer.visible:
                self.marks(renderer)
        self.axes.set_xlim(*_limits(panel.figure.x_range))
        self.axes.set_ylim(*_limits(panel.figure.y_range))
        self.axis("x", panel.parts.across, panel.figure.x_range, "top" if panel.parts.above else "bottom")
        self.axis("y", panel.parts.upwards, panel.figure.y_range, "left")
        for line, text in enumerate(panel.parts.title):
            x, y, *_ = self.place(panel.left, _SPACE / 2 + _LINE * line, 0, _LINE * 0.8)
            style = {"fontsize": 11 * self.point, "fontweight": "bold", "color": _INK}
            self.figure.text(x, y, text, va="bottom", **style)
        for number_, bar in enumerate(panel.parts.bars):
            self.bar(bar, panel.left + panel.frame[0] + _SPACE + number_ * _BAR)

    def axis(self, which: str, axis: Axis | None, extent: Range, side: str) -> None:
        own = self.axes.xaxis if which == "x" else self.axes.yaxis
        for one in ("bottom", "top") if which == "x" else ("left", "right"):
            self.axes.spines[one].set(visible=axis is not None and one == side, linewidth=self.point, color=_INK)
        if axis is None:
            own.set_visible(False)
            return
        if side == "top":
            self.axes.xaxis.tick_top()
            self.axes.xaxis.set_label_position("top")
        names = {value: str(text) for value, text in axis.major_label_overrides.items()}
        fixed = getattr(axis.ticker, "ticks", None)
        if isinstance(extent, FactorRange):
            own.set_ticks(range(len(extent.factors)), [str(one) for one in extent.factors])
        elif names:
            own.set_ticks([float(value) for value in names], list(names.values()))
        elif isinstance(fixed, Sequence) and len(fixed):
            own.set_ticks([float(value) for value in fixed])
        self.ticks(own)
        own.set_label_text(str(axis.axis_label or ""), fontsize=10 * self.point, color=_INK)

    def ticks(self, axis: MplAxis) -> None:
        point = self.point
        axis.set_tick_params(
            color=_INK, labelcolor=_INK, labelsize=9 * point, width=point, length=4 * point, pad=4 * point
        )

    def bar(self, bar: ColorBar, left: float) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colorbar import Colorbar
        from matplotlib.colors import ListedColormap, Normalize

        mapper = bar.color_mapper
        assert isinstance(mapper, LinearColorMapper)
        low, high = limits(mapper)
        axes = self.figure.add_axes(self.place(left, self.panel.top, 10, self.panel.frame[1]))
        drawn = Colorbar(axes, ScalarMappable(Normalize(low, high), ListedColormap(list(mapper.palette))))
        drawn.outline.set_visible(False)
        assert drawn.solids is not None
        drawn.solids.set(rasterized=False, edgecolor="face")  # viewers would draw the joints of its colours as lines
        values = [low, (low + high) / 2, high]
        drawn.set_ticks(values, labels=[f"{value:.2g}" for value in values])
        self.ticks(axes.yaxis)
        if bar.title:
            axes.set_title(str(bar.title), fontsize=9 * self.point, color=_INK)

    def marks(self, renderer: GlyphRenderer[Glyph]) -> None:
        glyph = renderer.glyph
        if isinstance(glyph, Line):  # its columns are one line
            names = (str(getattr(one, "field", one)) for one in (glyph.x, glyph.y))
            data = columns_of(renderer)
            x, y = (data[name] for name in names)
            self.axes.plot([*map(self.x_at, x)], [*map(self.y_at, y)], **self.stroke(Mark(glyph, {})))
            return
        draw = next((method for kinds, method in _MARKS.items() if isinstance(glyph, kinds)), None)
        if draw is None:
            raise SpectralToolkitError(
                f"The view has a {type(glyph).__name__}, which cannot be drawn for a paper: use points, lines, "
                "rectangles, text and images, or save it with holoviews.save."
            )
        found = marks_of(renderer)
        if isinstance(glyph, Scatter) and len(found) > _MANY:
            self.many_points(found)
            return
        for mark in found:
            draw(self, mark)

    def along(self, mark: Mark, *names: str, side: str = "x") -> list[float]:
        at = self.x_at if side == "x" else self.y_at
        return [at(mark.get(name)) for name in names]

    def rectangle(self, mark: Mark) -> None:
        from matplotlib.patches import Rectangle

        if isinstance(mark.glyph, Quad):
            left, right = self.along(mark, "left", "right")
            bottom, top = self.along(mark, "bottom", "top", side="y")
        else:
            (x,), (y,) = self.along(mark, "x"), self.along(mark, "y", side="y")
            left, right = (x + part * mark.number("width") / 2 for part in (-1, 1))
            bottom, top = (y + part * mark.number("height") / 2 for part in (-1, 1))
        self.axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **self.surface(mark)))

    def segment(self, mark: Mark) -> None:
        x, y = self.along(mark, "x0", "x1"), self.along(mark, "y0", "y1", side="y")
        self.axes.plot(x, y, solid_capstyle="projecting", **self.stroke(mark))

    def path(self, mark: Mark) -> None:
        x, y = (cast("Iterable[object]", mark.get(name)) for name in ("xs", "ys"))
        self.axes.plot([*map(self.x_at, x)], [*map(self.y_at, y)], **self.stroke(mark))

    def point_mark(self, mark: Mark) -> None:
        marker, style = _MARKERS.get(str(mark.get("marker")), "o"), self.surface(mark)
        face = style["edgecolor"] if marker in ("+", "x") else style["facecolor"]
        self.axes.plot(
            self.along(mark, "x"),
            self.along(mark, "y", side="y"),
            marker,
            markersize=mark.number("size") * self.point,
            markerfacecolor=face,
            markeredgecolor=style["edgecolor"],
            markeredgewidth=style["linewidth"],
            zorder=3,
        )

    def many_points(self, found: Sequence[Mark]) -> None:
        """Points of one form in one go, as a cloud has thousands."""
        from matplotlib.colors import to_rgba

        styles = [self.surface(mark) for mark in found]
        self.axes.scatter(
            [self.x_at(mark.get("x")) for mark in found],
            [self.y_at(mark.get("y")) for mark in found],
            s=[(mark.number("size") * self.point) ** 2 for mark in found],
            facecolors=[to_rgba(one["facecolor"]) for one in styles],
            edgecolors=[to_rgba(one["edgecolor"]) for one in styles],
            linewidths=[one["linewidth"] for one in styles],
            marker=_MARKERS.get(str(found[0].get("marker")), "o"),
            zorder=3,
        )

    def text(self, mark: Mark) -> None:
        size = re.fullmatch(r"([\d.]+)\s*(px|pt|em)?", str(mark.get("text_font_size")).lower())
        pixels = float(size[1]) * {"px": 1.0, "em": 16.0}.get(size[2], 1 / _POINTS) if size else 16.0
        across, upwards = str(mark.get("text_align")), str(mark.get("text_baseline"))
        self.axes.text(
            self.along(mark, "x")[0],
            self.along(mark, "y", side="y")[0],
            str(mark.get("text")),
            ha=across if across in ("right", "center") else "left",
            va=_ALIGNED.get(upwards, upwards) if upwards in ("top", "bottom", "middle") else "center",
            color=mark.ink("text") or "none",
            fontsize=pixels * self.point,
            zorder=4,
        )

    def image(self, mark: Mark) -> None:
        cells = mark.cells().astype(float) / 255
        cells[..., 3] *= mark.number("global_alpha")
        x, y = mark.number("x"), mark.number("y")
        extent = (x, x + mark.number("dw"), y, y + mark.number("dh"))
        # "none" keeps every cell as one pixel of the file, which viewers draw with sharp edges.
        self.axes.imshow(cells, extent=extent, origin="lower", aspect="auto", interpolation="none")

    def stroke(self, mark: Mark) -> _LineStyle:
        dashes = mark.get("line_dash") if hasattr(mark.glyph, "line_dash") else "solid"
        style = _DASHES.get(dashes, "-") if isinstance(dashes, str) else "--" if dashes else "-"
        wide = mark.number("line_width") * self.point
        return {"color": mark.ink("line") or "none", "linewidth": wide, "linestyle": style, "zorder": 2}

    def surface(self, mark: Mark) -> _FaceStyle:
        return {
            "facecolor": mark.ink("fill") or "none",
            "edgecolor": mark.ink("line") or "none",
            "linewidth": mark.number("line_width") * self.point,
        }


_MARKS: dict[type | tuple[type, ...], Callable[[_Drawing, Mark], None]] = {
    (Quad, Rect): _Drawing.rectangle,
    Segment: _Drawing.segment,
    MultiLine: _Drawing.path,
    Scatter: _Drawing.point_mark,
    Text: _Drawing.text,
    (ImageRGBA, Cells): _Drawing.image,
}


def _limits(extent: Range) -> tuple[float, float]:
    if isinstance(extent, FactorRange):
        return (-0.5, len(extent.factors) - 0.5)
    start, end = ends(extent)
    return (float(start), float(end))


def _positions(extent: Range) -> _At:
    """From a value of a range to its number on the axis."""
    if not isinstance(extent, FactorRange):
        return lambda value: float(cast("SupportsFloat", value))
    names = [str(one) for one in extent.factors]
    return lambda value: float(names.index(str(value)))
