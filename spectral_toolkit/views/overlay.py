"""Eigenvectors over pictures, as HoloViews objects drawn by Bokeh.

Coordinates are those of the data: ``x`` and ``y`` are fractions of the picture, ``y`` counts from the top. Bokeh
draws from the bottom; `_FRAME` turns its axis round, and that is the only place where anything is flipped.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import holoviews as hv
import numpy as np
import xarray as xr
from holoviews.core.util import dimension_sanitizer

from ..activations import patch_centres
from ..errors import SpectralToolkitError
from .colour import DIVERGING, ISOLATED, hex_colours
from .composite import (
    check_opacity,
    check_threshold,
    colour_field,
    colour_three,
    is_above,
    resize_field,
    robust_limit,
    symmetric_limit,
)
from .fitting import PAGE, fits, fitting_columns
from .notebook import load_bokeh
from .outline import CASING, CASING_WIDTH, INK, INK_WIDTH, boundary
from .shown import ShownPicture, choose_images, shown_pictures
from .wording import component_title, three_title

if TYPE_CHECKING:
    from collections.abc import Sequence

_Styled = TypeVar("_Styled", bound=hv.core.Dimensioned)

KINDS = ("component", "grid", "rgb")
"""What `overlay` can draw."""

_BOUNDS = (0.0, 0.0, 1.0, 1.0)
_FRAME = {"invert_yaxis": True, "xaxis": None, "yaxis": None, "toolbar": "above", "active_tools": []}
_SMOOTH_SIDE = 256  # pixels of the longer side of an interpolated field: more cannot be seen
_GRID_WIDTH = 150
_LAYOUT_WIDTH = 300
_SINGLE_WIDTH = 480
_LEAST_WIDTH = 60
_BESIDE = 74  # pixels of a colour bar with its numbers, and of the space between figures
_LETTER_WIDTH = 6  # pixels of a letter of the title, on average
_TITLE_LINES = 3


def overlay(
    images: Any,
    eig: xr.Dataset,
    *,
    image: int | str | Sequence[int | str] | None = None,
    component: int | None = None,
    components: Sequence[int] | None = None,
    kind: str = "component",
    opacity: float = 0.7,
    smooth: bool = False,
    threshold: float | None = None,
    like: xr.Dataset | None = None,
    width: int | None = None,
    columns: int | None = None,
    max_side: int | None = None,
) -> hv.Overlay | hv.HoloMap | hv.Layout:
    """Lay eigenvectors over the pictures they were computed from.

    Blue and gold are the two signs of an eigenvector and white is zero; which side is which means nothing by
    itself, but is the same every time (the solver fixes it). Point at a cell to read its value, position and row and
    column. Grey hatched cells are joined to nothing by the affinity; their values are interpolated.

    Parameters
    ----------
    images
        Anything `load_images` takes, or a tree of activations (its pixels). Pictures of any size; only the part that
        was analysed is shown, in the shape of the original.
    eig
        Eigenvectors as returned by ``st.solve``.
    image
        Which images: a position, a name, or several; all of them if None.
    component
        Which component, counted from 1, for ``kind="component"``. None gives a slider over all of them, which needs
        no running kernel.
    components
        For ``kind="grid"`` the components to show (all), for ``kind="rgb"`` the three that become red, green and blue
        (1, 2, 3).
    kind
        ``"component"``: one eigenvector over each picture. ``"grid"``: all of them side by side, one picture a row.
        ``"rgb"``: three at once, on one scale (99th percentile of the magnitudes), grey where all three are zero.
    opacity
        From 0, the picture alone, to 1, the eigenvector alone.
    smooth
        Interpolate between patch centres. Off by default: patches are what was measured.
    threshold
        For ``kind="component"``: colour only the side above it, and draw the line where it ends. A number from -1 to
        1, the part of the end of the colours, so that 0 cuts by sign; None colours both sides.
        :func:`spectral_toolkit.cut_costs` says what a cut costs.
    like
        Another answer, on whose scale the colours are: of :func:`spectral_toolkit.project` the one that pictures were
        laid into, so that a colour is one value in both.
    width
        Width of each picture on the page, in screen pixels; the height follows from its shape. None takes what fits
        900 pixels. In a notebook whose cell is narrower than the figure, pictures are smaller and rows shorter.
    columns
        Pictures in a row, where there are several; None takes as many as fit 900 pixels.
    max_side
        Longer side to which pictures are reduced, in pixels; None shows them at full resolution.

    Returns
    -------
    holoviews.Overlay, holoviews.HoloMap or holoviews.Layout
        One picture with one component or in RGB is an Overlay, with a slider over components a HoloMap; several
        pictures, or a grid, are a Layout of these. The eigenvector is the element ``Image`` named ``Eigenvector``.

    Notes
    -----
    Colours mean the same in all pictures of an answer that was solved over the dataset; where each picture was solved
    alone, each has its own scale, unless ``like`` gives one to all.

    Raises
    ------
    SpectralToolkitError
        If a picture, component or kind is asked for that does not exist.

    Examples
    --------
    >>> import xarray as xr
    >>> field = np.linspace(-1, 1, 12).reshape(1, 3, 4, 1)
    >>> eig = xr.Dataset({"eigenvector": (("image", "y", "x", "component"), field)}, {"component": [1]})
    >>> picture = np.zeros((1, 30, 40, 3), dtype=np.uint8)
    >>> view = overlay(picture, eig, component=1)
    >>> view.Eigenvector.I.vdims
    [Dimension('value'), Dimension('row'), Dimension('column')]
    """
    if kind not in KINDS:
        raise SpectralToolkitError(f"kind={kind!r} is not a kind of overlay: use one of {', '.join(map(repr, KINDS))}.")
    unused, used = ("components", "component") if kind == "component" else ("component", "components")
    if {"component": component, "components": components}[unused] is not None:
        raise SpectralToolkitError(f"{unused}= means nothing to kind={kind!r}: use {used}=, or another kind.")
    check_opacity(opacity)
    if check_threshold(threshold) is not None and kind != "component":
        raise SpectralToolkitError(f"threshold= means nothing to kind={kind!r}: use kind='component', or leave it out.")
    chosen = choose_images(eig, image)
    if not chosen:
        raise SpectralToolkitError("image=[] asks for no picture: give at least one position or name, or None for all.")
    load_bokeh()
    shown = shown_pictures(images, eig, chosen, max_side)
    usual = _GRID_WIDTH if kind == "grid" else _SINGLE_WIDTH if len(chosen) == 1 else _LAYOUT_WIDTH
    style = _Style(opacity, smooth, threshold, _checked_like(like), width or _fitting_width(usual, columns))
    most = columns or max(1, PAGE // (style.width + _BESIDE))
    if kind == "grid":
        wanted = _checked_components(eig, components)
        views = [view for picture in shown for view in _draw_components(picture, eig, wanted, style)]
        return _layout(views, columns or fitting_columns(len(wanted), most))
    if kind == "rgb":
        three = _checked_components(eig, components or _all_components(eig)[:3])
        if len(three) != 3:
            raise SpectralToolkitError(
                f"components={tuple(three)} cannot be red, green and blue: exactly three are needed"
                f" (these eigenvectors have {eig.sizes['component']})."
            )
        views = [_draw_three(picture, eig, three, style) for picture in shown]
    elif component is not None:
        wanted = _checked_components(eig, [component])
        views = [_draw_components(picture, eig, wanted, style)[0] for picture in shown]
    else:
        wanted = _all_components(eig)
        views = [
            hv.HoloMap(dict(zip(wanted, drawn, strict=True)), "component")
            for picture in shown
            for drawn in [_draw_components(picture, eig, wanted, style)]
        ]
    return views[0] if len(views) == 1 else _layout(views, most)


@dataclass(frozen=True)
class _Style:
    """How eigenvectors are drawn, as the arguments of `overlay` of these names say."""

    opacity: float
    smooth: bool
    threshold: float | None
    like: xr.Dataset | None
    width: int


def _fitting_width(usual: int, columns: int | None) -> int:
    """Width of a picture so that a row of them fits the page."""
    return usual if columns is None else max(_LEAST_WIDTH, min(usual, PAGE // columns - _BESIDE))


def _all_components(eig: xr.Dataset) -> list[int]:
    return [int(number) for number in eig.coords["component"].values]


def _checked_components(eig: xr.Dataset, components: Sequence[int] | None) -> list[int]:
    available = _all_components(eig)
    wanted = available if components is None else list(components)
    for number in wanted:
        if number not in available:
            raise SpectralToolkitError(
                f"component={number!r} was not computed: these eigenvectors have components {available[0]} to "
                f"{available[-1]}; ask st.solve for more with n_eigenvectors."
            )
    return wanted


def _checked_like(like: object) -> xr.Dataset | None:
    if like is not None and not (isinstance(like, xr.Dataset) and "eigenvector" in like):
        raise SpectralToolkitError(
            f"like is a {type(like).__name__} without 'eigenvector': give an answer of st.solve."
        )
    return like


def colour_limit(eig: xr.Dataset, index: int, component: int, like: xr.Dataset | None = None) -> float:
    """End of the colour map for one component: over all images if they were solved as one problem, else of this one."""
    return symmetric_limit(_scaling(eig, index, [component], like))


def _scaling(eig: xr.Dataset, index: int, components: Sequence[int], like: xr.Dataset | None) -> np.ndarray:
    """The values that a colour scale is taken from."""
    source = eig if like is None else like
    _checked_components(source, components)
    fields = source["eigenvector"].sel(component=list(components))
    whole = like is not None or eig.attrs.get("scope") == "dataset"
    return (fields if whole else fields.isel(image=index)).values


def _draw_components(
    shown: ShownPicture, eig: xr.Dataset, components: Sequence[int], style: _Style
) -> list[hv.Overlay]:
    picture = picture_element(shown)
    above = isolated_elements(eig, shown.index)
    titles = _even([component_title(eig, shown.index, number, shown.name) for number in components], style.width + 40)
    views = []
    for component, title in zip(components, titles, strict=True):
        limit = colour_limit(eig, shown.index, component, style.like)
        field = field_element(eig, shown.index, component)
        if style.smooth or style.threshold is not None:
            # What is seen may be interpolated or cut; the values under the cursor are the ones that were computed.
            values = field.dimension_values(2, flat=False)
            fine = _interpolated(values, shown) if style.smooth else values
            cut = [] if style.threshold is None else _cut_elements(is_above(fine, style.threshold, limit))
            layers = [picture, _colours_element(fine, limit, style), *cut, _coloured(field, limit, 0.0)]
        else:
            layers = [picture, _coloured(field, limit, style.opacity)]
        views.append(_framed(hv.Overlay([*layers, *above]), shown, style.width, title))
    return views


def _draw_three(shown: ShownPicture, eig: xr.Dataset, components: Sequence[int], style: _Style) -> hv.Overlay:
    fields = eig["eigenvector"].sel(component=list(components)).transpose("image", "y", "x", "component").values
    limit = robust_limit(_scaling(eig, shown.index, components, style.like))
    values = fields[shown.index]
    if style.smooth:
        values = np.stack([_interpolated(values[..., channel], shown) for channel in range(3)], axis=-1)
    colours = _styled(rgb_element(colour_three(values, limit), "Three"), alpha=style.opacity)
    names = [f"component {number}" for number in components]
    hover = _styled(
        _cells(fields[shown.index], names, "Eigenvectors"),
        alpha=0.0,
        colorbar=False,
        tools=["hover"],
        hover_tooltips=_tooltips(names),
    )
    layers = [picture_element(shown), colours, hover, *isolated_elements(eig, shown.index)]
    (title,) = _even([three_title(eig, shown.index, components, shown.name)], style.width)
    return _framed(hv.Overlay(layers), shown, style.width, title)


def picture_element(shown: ShownPicture) -> hv.RGB:
    """The picture, in the frame of the eigenvectors."""
    return rgb_element(shown.pixels, "Picture")


def rgb_element(colours: np.ndarray, group: str) -> hv.RGB:
    """uint8 colours, shape (y, x, 3 or 4), row 0 at the top, as an element in the frame of the eigenvectors."""
    ys, xs = (patch_centres(size) for size in colours.shape[:2])
    channels = [*hv.RGB.vdims, hv.RGB.alpha_dimension][: colours.shape[2]]
    return hv.RGB((xs, ys, *np.moveaxis(colours, -1, 0)), kdims=_kdims(), vdims=channels, bounds=_BOUNDS, group=group)


def field_element(eig: xr.Dataset, index: int, component: int) -> hv.Image:
    """One eigenvector of one picture, with the row and column of every cell for the cursor."""
    field = eig["eigenvector"].isel(image=index).sel(component=component).transpose("y", "x").values
    return _cells(field[..., None], ["value"], "Eigenvector")


def _cells(fields: np.ndarray, names: Sequence[str], group: str) -> hv.Image:
    n_rows, n_columns = fields.shape[:2]
    row, column = np.mgrid[:n_rows, :n_columns]
    data = (patch_centres(n_columns), patch_centres(n_rows), *np.moveaxis(fields, -1, 0), row, column)
    return hv.Image(data, kdims=_kdims(), vdims=[*names, "row", "column"], bounds=_BOUNDS, group=group)


def _coloured(field: hv.Image, limit: float, opacity: float) -> hv.Image:
    return _styled(
        field,
        cmap=hex_colours(DIVERGING),
        clim=(-limit, limit),
        alpha=opacity,
        colorbar=True,
        clabel="",
        colorbar_opts={"width": 10, "padding": 4, "bar_line_color": None, "major_label_text_font_size": "8pt"},
        tools=["hover"],
        hover_tooltips=_tooltips(["value"]),
        clipping_colors={"NaN": (0, 0, 0, 0)},
    )


def _tooltips(names: Sequence[str]) -> list[tuple[str, str]]:
    # HoloViews hands Bokeh the first dimension of an image under the name ``image``.
    columns = ["image", *(dimension_sanitizer(name) for name in names[1:])]
    values = [(name, f"@{column}{{0.0000}}") for name, column in zip(names, columns, strict=True)]
    return [*values, ("cell (row, column)", "@{row}, @{column}"), ("position (y, x)", "$y{0.00}, $x{0.00}")]


def _colours_element(fine: np.ndarray, limit: float, style: _Style) -> hv.RGB:
    colours = colour_field(fine, limit)
    if style.threshold is not None:
        above = np.where(is_above(fine, style.threshold, limit), 255, 0).astype(np.uint8)
        colours = np.concatenate([colours, above[..., None]], axis=-1)
    return _styled(rgb_element(colours, "Colours"), alpha=style.opacity)


def _cut_elements(side: np.ndarray) -> list[hv.Element]:
    """Where a side (y, x) ends, dark on light so that it is seen on any picture."""
    ends = tuple(boundary(side).T)
    lines = [hv.Segments(ends, kdims=["x", "y", "right", "bottom"], group=group) for group in ("Casing", "Cut")]
    return [
        _styled(lines[0], color=CASING, line_width=CASING_WIDTH, line_cap="square"),
        _styled(lines[1], color=INK, line_width=INK_WIDTH, line_cap="square"),
    ]


def _interpolated(field: np.ndarray, shown: ShownPicture) -> np.ndarray:
    longer = max(1.0, shown.aspect)
    shape = (round(_SMOOTH_SIDE * shown.aspect / longer), round(_SMOOTH_SIDE / longer))
    return resize_field(field, (max(shape[0], field.shape[0]), max(shape[1], field.shape[1])))


def isolated_elements(eig: xr.Dataset, index: int) -> list[hv.Element]:
    """Grey and a diagonal over every cell that the affinity joins to nothing; an empty list where there is none."""
    if "isolated" not in eig:
        return []
    mask = eig["isolated"].isel(image=index).transpose("y", "x").values
    if not mask.any():
        return []
    n_rows, n_columns = mask.shape
    rows, cols = np.nonzero(mask)
    left, right, top, bottom = cols / n_columns, (cols + 1) / n_columns, rows / n_rows, (rows + 1) / n_rows
    grey = "#" + bytes(ISOLATED).hex()
    cells = hv.Rectangles((left, top, right, bottom), kdims=["x", "y", "right", "bottom"], group="Isolated")
    diagonals = hv.Segments((left, bottom, right, top), kdims=["x", "y", "right", "bottom"], group="Hatching")
    return [
        _styled(cells, color=grey, alpha=0.55, line_color=None),
        _styled(diagonals, color="white", line_width=1.5),
    ]


def _kdims() -> list[hv.Dimension]:
    return [hv.Dimension("x", range=(0, 1)), hv.Dimension("y", range=(0, 1))]


def _framed(view: hv.Overlay, shown: ShownPicture, width: int, title: str) -> hv.Overlay:
    return _styled(
        view,
        frame_width=width,
        frame_height=max(1, round(width * shown.aspect)),
        title=title,
        fontsize={"title": "8pt"},
        hooks=[fits],
        **_FRAME,
    )


def _even(titles: Sequence[str], width: int) -> list[str]:
    """Titles broken to a width and of one height, so that neighbours stay in line; a colour bar adds to the width."""
    broken = [
        [part for line in title.split("\n") for part in textwrap.wrap(line, max(20, width // _LETTER_WIDTH))]
        for title in titles
    ]
    n_lines = max([_TITLE_LINES, *map(len, broken)])
    return ["\n".join(lines + ["\u00a0"] * (n_lines - len(lines))) for lines in broken]


def _layout(views: Sequence[Any], columns: int) -> hv.Layout:
    # Every picture keeps its own colours and cursor: axes of one name would otherwise be linked, and rescaled as one.
    return _styled(hv.Layout(list(views)).cols(columns), shared_axes=False, title="")  # the slider says it


def _styled(element: _Styled, **options: Any) -> _Styled:
    """Options for Bokeh, whatever backend is the current one."""
    element.opts(backend="bokeh", **options)
    return element
