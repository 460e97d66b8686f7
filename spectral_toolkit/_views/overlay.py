"""Results over images, as HoloViews objects drawn by Bokeh: eigenvectors here, all others in `overlay_fields`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import holoviews as hv
import numpy as np
import xarray as xr

from .._compute.settings import computing
from .._render.colour import DIVERGING, ISOLATED, hex_colours
from .._render.composite import (
    check_opacity,
    check_threshold,
    colour_field,
    colour_three,
    is_above,
    resize_field,
    robust_limit,
    symmetric_limit,
)
from .._render.outline import CASING, CASING_WIDTH, INK, INK_WIDTH, boundary
from .._render.principal import principal_colours
from .._render.titles import component_title, principal_title, three_title
from .._render.underlay import ShownPicture, choose_images, shown_pictures
from ..errors import SpectralToolkitError
from .elements import (
    arranged,
    cells_element,
    even_titles,
    framed,
    mark_elements,
    picture_element,
    rgb_element,
    styled,
    tooltips,
)
from .fitting import PAGE, fitting_columns
from .notebook import load_bokeh
from .overlay_fields import DRAWN, Marked, as_field, check_part, draw_field

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYOUTS = ("component", "grid", "rgb", "pca")
"""The layouts of `overlay`."""

_SMOOTH_SIDE = 256  # pixels of the longer side of an interpolated field: more cannot be seen
_GRID_WIDTH = 150
_LAYOUT_WIDTH = 300
_SINGLE_WIDTH = 480
_LEAST_WIDTH = 60
_BESIDE = 74  # pixels for a colour bar with its numbers, and for the space between figures


@computing
def overlay(
    images: object,
    eig: xr.Dataset | xr.DataArray | Mapping[str, xr.Dataset | xr.DataArray],
    *,
    image: int | str | Sequence[int | str] | None = None,
    component: int | None = None,
    components: Sequence[int] | None = None,
    layout: str = "component",
    opacity: float = 0.7,
    smooth: bool = False,
    threshold: float | None = None,
    like: xr.Dataset | None = None,
    width: int | None = None,
    columns: int | None = None,
    max_side: int | None = None,
    marked: object = None,
) -> hv.Overlay | hv.HoloMap | hv.Layout:
    """Draw eigenvectors, segments, instances or any other result over the images from which they were computed.

    In an eigenvector, blue and gold are the two signs and white is zero; which side is which has no meaning, but it is
    the same every time (the solver fixes it). Point at a patch to read its value, its position and its row and column.
    Grey hatched patches are isolated: no edge joins them to any other, and their values are interpolated.

    Segments, label maps and masks have one colour for each label, as in the explorer: patches without a label are grey,
    patches in no mask are clear, and where masks overlap the smaller one lies above. Maps of numbers, such as the
    affinities of a patch or the norms of tokens, go from black at zero to white at their largest value; where they have
    negative values, they are coloured like eigenvectors.

    Parameters
    ----------
    images
        Anything `load_images` takes, or a tree of activations (its pixels). Images may have any size; only the part
        that was analysed is shown, in the shape of the original.
    eig
        Eigenvectors as returned by ``st.solve``, ``st.project`` or ``st.align``; segments from ``st.segment`` or masks
        from ``st.instances``, also as ``st.refine`` returns them; label maps, such as those from ``st.prepare_labels``;
        numbers or booleans (image, y, x); or a mapping from names to such results, drawn one after the other.
    image
        Which images to show: a position, a name, or several; None shows all of them.
    component
        The component to show, counted from 1, for ``layout="component"``. None gives a slider over all components,
        which needs no running kernel.
    components
        For ``layout="grid"``, the components to show (by default all); for ``layout="rgb"``, the three that become red,
        green and blue (by default 1, 2, 3); for ``layout="pca"``, those of which the principal components are taken (by
        default all, at least three).
    layout
        ``"component"``: one eigenvector over each image. ``"grid"``: all of them side by side, with one image per row.
        ``"rgb"``: three at once, on one scale (99th percentile of the magnitudes), grey where all three are zero.
        ``"pca"``: the three leading principal components of many eigenvectors as red, green and blue, each from its 2nd
        to its 98th percentile, as Zhang, Yunis and Maire (2024) show theirs. Eigenvectors of one solve
        are nearly orthonormal, so each counts about the same, and the title says how much of their variance is seen.
    opacity
        From 0, which shows the image alone, to 1, which shows the eigenvector alone.
    smooth
        Whether to interpolate between patch centres. Off by default, because patches are what was measured.
    threshold
        For ``layout="component"``: colour only the side above the threshold, and draw the line where it ends. A number
        from -1 to 1, as a fraction of the end of the colour scale, so that 0 cuts by sign; None colours both sides.
        :func:`spectral_toolkit.cut_costs` returns the cut values.
    like
        Another result, whose colour scale is used: for a result of :func:`spectral_toolkit.project`, for example, the
        result that was extended, so that a colour stands for the same value in both.
    width
        Width of each image on the page, in screen pixels; the height follows from its shape. None takes what fits 900
        pixels. In a notebook cell that is narrower than the figure, images are smaller and rows shorter.
    columns
        How many images to show in a row, where there are several; None takes as many as fit 900 pixels.
    max_side
        Longer side to which images are reduced, in pixels; None shows them at full resolution.
    marked
        Patches to frame: a list of (row, column), booleans (image, y, x), or, where ``eig`` is a mapping, a mapping
        from its names to these.

    Returns
    -------
    holoviews.Overlay, holoviews.HoloMap or holoviews.Layout
        One image with one component or in RGB is an Overlay, and with a slider over components a HoloMap; several
        images, or a grid, are a Layout of these. The eigenvector is the element ``Image`` named ``Eigenvector``; other
        results are named ``Labels``, ``Instances`` or ``Map``.

    Notes
    -----
    Colours mean the same in all images of a result that was solved over the dataset; where each image was solved alone,
    each has its own scale, unless ``like`` gives one to all.

    Raises
    ------
    SpectralToolkitError
        If an image, component or layout is asked for that does not exist, or the result cannot be drawn over images.

    Examples
    --------
    >>> import xarray as xr
    >>> field = np.linspace(-1, 1, 12).reshape(1, 3, 4, 1)
    >>> eig = xr.Dataset({"eigenvector": (("image", "y", "x", "component"), field)}, {"component": [1]})
    >>> picture = np.zeros((1, 30, 40, 3), dtype=np.uint8)
    >>> view = overlay(picture, eig, component=1)
    >>> view.Eigenvector.I.vdims
    [Dimension('value'), Dimension('row'), Dimension('column')]
    >>> segments = xr.DataArray(np.arange(12).reshape(1, 3, 4) // 5, dims=("image", "y", "x"))
    >>> overlay(picture, segments).Labels.I.dimension_values("value", flat=False)[0].tolist()
    [0, 0, 0, 0]
    """
    if layout not in LAYOUTS:
        raise SpectralToolkitError(
            f"layout={layout!r} is not a layout of an overlay: use one of {', '.join(map(repr, LAYOUTS))}."
        )
    unused, used = ("components", "component") if layout == "component" else ("component", "components")
    if {"component": component, "components": components}[unused] is not None:
        raise SpectralToolkitError(f"{unused}= means nothing to layout={layout!r}: use {used}=, or another layout.")
    check_opacity(opacity)
    if check_threshold(threshold) is not None and layout != "component":
        raise SpectralToolkitError(
            f"threshold= means nothing to layout={layout!r}: use layout='component', or leave it out."
        )
    named = dict(eig) if isinstance(eig, Mapping) and not isinstance(eig, xr.Dataset) else {"": eig}
    if not named:
        raise SpectralToolkitError(f"eig is an empty mapping: give {DRAWN}.")
    look = _Look(
        layout, component, components, opacity, smooth, threshold, _checked_like(like), width, columns, len(named) > 1
    )
    load_bokeh()
    views: list[hv.Overlay | hv.HoloMap] = []
    n_pictures = 0
    for name, result in named.items():
        marks = Marked(marked, str(name))
        if isinstance(result, xr.DataArray) and "component" in result.dims:
            result = result.to_dataset(name="eigenvector")
        if isinstance(result, xr.Dataset) and ("eigenvector" in result or not result.data_vars):
            chosen = choose_images(result, image)
            pictures = (
                replace(one, name=f"{one.name} · {name}") if name else one
                for one in shown_pictures(images, result, chosen, max_side)
            )
            views += _draw_eigenvectors(pictures, result, look, marks, look.width_of(len(chosen)))
        else:
            look.check_without_components()
            field = as_field(result, str(name))
            chosen = choose_images(field.array, image)
            pictures = shown_pictures(images, field.array, chosen, max_side)
            check_part(images, field)
            views += draw_field(pictures, field, marks, opacity, look.width_of(len(chosen)))
        n_pictures += len(chosen)
    if not views:
        raise SpectralToolkitError("image=[] is empty: give at least one position or name, or None for all images.")
    if len(views) == 1 and layout != "grid":
        return views[0]
    most = max(1, PAGE // (look.width_of(len(views)) + _BESIDE))
    return arranged(views, columns or (fitting_columns(len(views) // n_pictures, most) if layout == "grid" else most))


def _draw_eigenvectors(
    pictures: Iterable[ShownPicture], eig: xr.Dataset, look: _Look, marked: Marked, width: int
) -> Sequence[hv.Overlay | hv.HoloMap]:
    """The overlays of one result, in the order in which they are shown."""
    style = _Style(look.opacity, look.smooth, look.threshold, look.like, width, marked)
    if look.layout == "grid":
        wanted = _checked_components(eig, look.components)
        return [view for picture in pictures for view in _draw_components(picture, eig, wanted, style)]
    if look.layout == "rgb":
        three = _checked_components(eig, look.components or _all_components(eig)[:3])
        if len(three) != 3:
            raise SpectralToolkitError(
                f"components={tuple(three)} cannot be red, green and blue: exactly three are needed"
                f" (these eigenvectors have {eig.sizes['component']})."
            )
        return [_draw_three(picture, eig, three, style) for picture in pictures]
    if look.layout == "pca":
        return _draw_principal(pictures, eig, _checked_components(eig, look.components), style)
    if look.component is not None:
        wanted = _checked_components(eig, [look.component])
        return [_draw_components(picture, eig, wanted, style)[0] for picture in pictures]
    wanted = _all_components(eig)
    return [
        hv.HoloMap(dict(zip(wanted, drawn, strict=True)), "component")
        for picture in pictures
        for drawn in [_draw_components(picture, eig, wanted, style)]
    ]


@dataclass(frozen=True)
class _Look:
    """What `overlay` was asked to draw, by its arguments of the same names, and whether there are several results."""

    layout: str
    component: int | None
    components: Sequence[int] | None
    opacity: float
    smooth: bool
    threshold: float | None
    like: xr.Dataset | None
    width: int | None
    columns: int | None
    several: bool

    def width_of(self, n_pictures: int) -> int:
        """Width of each image on the page."""
        small = self.layout == "grid" or self.several
        usual = _GRID_WIDTH if small else _SINGLE_WIDTH if n_pictures == 1 else _LAYOUT_WIDTH
        fitting = usual if self.columns is None else max(_LEAST_WIDTH, PAGE // self.columns - _BESIDE)
        return self.width or min(usual, fitting)

    def check_without_components(self) -> None:
        """Refuse arguments that have a meaning for eigenvectors only."""
        used = {
            "layout": self.layout != "component",
            "component": self.component is not None,
            "components": self.components is not None,
            "smooth": bool(self.smooth),
            "threshold": self.threshold is not None,
            "like": self.like is not None,
        }
        for name in (name for name, is_used in used.items() if is_used):
            raise SpectralToolkitError(
                f"{name}= means nothing to a result without components, such as segments: leave it out, or give "
                "eigenvectors."
            )


@dataclass(frozen=True)
class _Style:
    """How eigenvectors are drawn, by the arguments of `overlay` of the same names."""

    opacity: float
    smooth: bool
    threshold: float | None
    like: xr.Dataset | None
    width: int
    marked: Marked


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
        raise SpectralToolkitError(f"like is a {type(like).__name__} without 'eigenvector': give a result of st.solve.")
    return like


def colour_limit(eig: xr.Dataset, index: int, component: int, like: xr.Dataset | None = None) -> float:
    """End of the colour map for one component: over all images if they were solved as one problem, or over this one."""
    return symmetric_limit(_scaling(eig, index, [component], like))


def _scaling(eig: xr.Dataset, index: int, components: Sequence[int], like: xr.Dataset | None) -> np.ndarray:
    """The values from which a colour scale is taken."""
    source = eig if like is None else like
    _checked_components(source, components)
    fields = source["eigenvector"].sel(component=list(components))
    whole = like is not None or eig.attrs.get("scope") == "dataset"
    return (fields if whole else fields.isel(image=index)).values


def _draw_components(
    shown: ShownPicture, eig: xr.Dataset, components: Sequence[int], style: _Style
) -> list[hv.Overlay]:
    picture = picture_element(shown)
    grid = (eig.sizes["y"], eig.sizes["x"])
    above = [*isolated_elements(eig, shown.index), *mark_elements(style.marked.of(shown.index), grid)]
    titles = even_titles(
        [component_title(eig, shown.index, number, shown.name) for number in components], style.width + 40
    )
    views = []
    for component, title in zip(components, titles, strict=True):
        limit = colour_limit(eig, shown.index, component, style.like)
        field = field_element(eig, shown.index, component)
        if style.smooth or style.threshold is not None:
            # What is shown may be interpolated or cut; the values under the cursor are those that were computed.
            values = field.dimension_values(2, flat=False)
            fine = _interpolated(values, shown) if style.smooth else values
            cut = [] if style.threshold is None else _cut_elements(is_above(fine, style.threshold, limit))
            layers = [picture, _colours_element(fine, limit, style), *cut, _coloured(field, limit, 0.0)]
        else:
            layers = [picture, _coloured(field, limit, style.opacity)]
        views.append(framed(hv.Overlay([*layers, *above]), shown, style.width, title))
    return views


def _draw_three(shown: ShownPicture, eig: xr.Dataset, components: Sequence[int], style: _Style) -> hv.Overlay:
    fields = eig["eigenvector"].sel(component=list(components)).transpose("image", "y", "x", "component").values
    limit = robust_limit(_scaling(eig, shown.index, components, style.like))
    values = fine = fields[shown.index]
    if style.smooth:
        fine = np.stack([_interpolated(values[..., channel], shown) for channel in range(3)], axis=-1)
    title = three_title(eig, shown.index, components, shown.name)
    names = [f"component {number}" for number in components]
    return _in_colours(shown, eig, colour_three(fine, limit), (values, names), title, style)


def _draw_principal(
    pictures: Iterable[ShownPicture], eig: xr.Dataset, components: Sequence[int], style: _Style
) -> list[hv.Overlay]:
    """Principal components of all images that were solved as one problem, or of the images to which `like` belongs."""
    if len(components) < 3:
        raise SpectralToolkitError(
            f"components={tuple(components)} have no three principal components: give at least three (these"
            f" eigenvectors have {eig.sizes['component']})."
        )
    if style.like is not None:
        raise SpectralToolkitError("like= means nothing to layout='pca', whose axes are those of the result itself.")
    fields = eig["eigenvector"].sel(component=list(components)).transpose("image", "y", "x", "component").values
    whole = principal_colours(fields) if eig.attrs.get("scope") == "dataset" else None
    views = []
    for shown in pictures:
        one = slice(shown.index, shown.index + 1)
        fractions, share = principal_colours(fields[one]) if whole is None else (whole[0][one], whole[1])
        values = fine = fractions[0]
        if style.smooth:
            fine = np.stack([_interpolated(values[..., channel], shown) for channel in range(3)], axis=-1)
        colours = np.rint(np.nan_to_num(fine, nan=0.5).clip(0, 1) * 255).astype(np.uint8)
        title = principal_title(eig, shown.index, components, share, shown.name)
        views.append(_in_colours(shown, eig, colours, (values, [f"PC {n}" for n in (1, 2, 3)]), title, style))
    return views


def _in_colours(
    shown: ShownPicture,
    eig: xr.Dataset,
    colours: np.ndarray,
    read: tuple[np.ndarray, list[str]],
    title: str,
    style: _Style,
) -> hv.Overlay:
    """Colours of patches over an image; the cursor reads the values (y, x, name) of which they were made."""
    values, names = read
    hover = styled(
        cells_element(values, names, "Eigenvectors"),
        alpha=0.0,
        colorbar=False,
        tools=["hover"],
        hover_tooltips=tooltips(names),
    )
    painted = styled(rgb_element(colours, "Three"), alpha=style.opacity)
    marks = mark_elements(style.marked.of(shown.index), values.shape[:2])
    layers = [picture_element(shown), painted, hover, *isolated_elements(eig, shown.index), *marks]
    (broken,) = even_titles([title], style.width - 20)
    return framed(hv.Overlay(layers), shown, style.width, broken)


def field_element(eig: xr.Dataset, index: int, component: int) -> hv.Image:
    """One eigenvector of one image, with the row and column of every patch for the cursor."""
    field = eig["eigenvector"].isel(image=index).sel(component=component).transpose("y", "x").values
    return cells_element(field[..., None], ["value"], "Eigenvector")


def _coloured(field: hv.Image, limit: float, opacity: float) -> hv.Image:
    return styled(
        field,
        cmap=hex_colours(DIVERGING),
        clim=(-limit, limit),
        alpha=opacity,
        colorbar=True,
        clabel="",
        colorbar_opts={"width": 10, "padding": 4, "bar_line_color": None, "major_label_text_font_size": "8pt"},
        tools=["hover"],
        hover_tooltips=tooltips(["value"]),
        clipping_colors={"NaN": (0, 0, 0, 0)},
    )


def _colours_element(fine: np.ndarray, limit: float, style: _Style) -> hv.RGB:
    colours = colour_field(fine, limit)
    if style.threshold is not None:
        above = np.where(is_above(fine, style.threshold, limit), 255, 0).astype(np.uint8)
        colours = np.concatenate([colours, above[..., None]], axis=-1)
    return styled(rgb_element(colours, "Colours"), alpha=style.opacity)


def _cut_elements(side: np.ndarray) -> list[hv.Element]:
    """The edge of a side (y, x), dark on light so that it is visible on any image."""
    ends = tuple(boundary(side).T)
    lines = [hv.Segments(ends, kdims=["x", "y", "right", "bottom"], group=group) for group in ("Casing", "Cut")]
    return [
        styled(lines[0], color=CASING, line_width=CASING_WIDTH, line_cap="square"),
        styled(lines[1], color=INK, line_width=INK_WIDTH, line_cap="square"),
    ]


def _interpolated(field: np.ndarray, shown: ShownPicture) -> np.ndarray:
    longer = max(1.0, shown.aspect)
    shape = (round(_SMOOTH_SIDE * shown.aspect / longer), round(_SMOOTH_SIDE / longer))
    return resize_field(field, (max(shape[0], field.shape[0]), max(shape[1], field.shape[1])))


def isolated_elements(eig: xr.Dataset, index: int) -> list[hv.Element]:
    """Grey and a diagonal over every isolated patch; an empty list where there is none."""
    if "isolated" not in eig:
        return []
    mask = eig["isolated"].isel(image=index).transpose("y", "x").values
    if not mask.any():
        return []
    n_rows, n_columns = mask.shape
    rows, cols = np.nonzero(mask)
    left, right, top, bottom = cols / n_columns, (cols + 1) / n_columns, rows / n_rows, (rows + 1) / n_rows
    grey = "#" + bytes(ISOLATED).hex()
    squares = hv.Rectangles((left, top, right, bottom), kdims=["x", "y", "right", "bottom"], group="Isolated")
    diagonals = hv.Segments((left, bottom, right, top), kdims=["x", "y", "right", "bottom"], group="Hatching")
    return [
        styled(squares, color=grey, alpha=0.55, line_color=None),
        styled(diagonals, color="white", line_width=1.5),
    ]
