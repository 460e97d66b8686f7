"""Results other than eigenvectors over their images: segments, masks of instances, label maps, and maps of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import holoviews as hv
import numpy as np
import xarray as xr

from .._io.activations import as_stack
from .._io.pairing import analysed_box
from .._render.colour import N_LABEL_COLOURS
from .._render.composite import (
    colour_field,
    highest_other,
    label_colours,
    magnitude_colours,
    stacked_masks,
    symmetric_limit,
    with_opacity,
)
from .._render.underlay import ShownPicture
from ..errors import SpectralToolkitError
from .elements import cells_element, even_titles, framed, mark_elements, picture_element, rgb_element, styled, tooltips

DRAWN = (
    "eigenvectors (st.solve, st.project, st.align), segments, masks of instances and what st.refine makes of them, "
    "label maps, maps of numbers (image, y, x), or a mapping of these by name"
)
"""What can be drawn over images, in words."""

_GROUPS = {"labels": "Labels", "masks": "Instances", "numbers": "Map"}


@dataclass(frozen=True)
class Field:
    """One array to draw, and the sort of its values, over (image, y, x); masks have the dimension instance, too."""

    kind: str
    array: xr.DataArray
    name: str = ""


def as_field(result: object, name: str = "") -> Field:
    """Recognise what an array holds by its dimensions and type.

    Examples
    --------
    >>> as_field(xr.DataArray([[[0, 1]]], dims=("image", "y_px", "x_px"))).kind
    'labels'
    """
    if isinstance(result, xr.DataArray):
        pixels = {old: new for old, new in (("y_px", "y"), ("x_px", "x")) if old in result.dims}
        array = as_stack(result.rename(pixels))
        dims, kind = set(array.dims), array.dtype.kind
        if dims == {"image", "y", "x"} and kind in "iuf":
            array = array.transpose("image", "y", "x")
            return Field("numbers" if kind == "f" else "labels", array, name)
        if dims in ({"image", "y", "x"}, {"image", "instance", "y", "x"}) and kind == "b":
            array = array if "instance" in dims else array.expand_dims("instance")
            return Field("masks", array.transpose("image", "instance", "y", "x"), name)
        found = f"A DataArray of {result.dtype} over {', '.join(map(str, result.dims)) or 'nothing'}"
    elif isinstance(result, xr.Dataset):
        found = f"A Dataset of {', '.join(map(str, result.data_vars)) or 'nothing'}"
    else:
        found = f"An object of type {type(result).__name__}"
    raise SpectralToolkitError(f"{found} cannot be drawn over images: give {DRAWN}.")


def draw_field(
    pictures: Iterable[ShownPicture], field: Field, marked: Marked, opacity: float, width: int
) -> list[hv.Overlay]:
    """Yield one overlay for every image."""
    codes = _colour_codes(field)
    own = field.array.attrs.get("patch")
    tapped = [] if own is None else [(int(own[0]), int(own[1]))]  # an affinity row records its patch
    views = []
    for shown in pictures:
        values, colours = _coloured(field, codes, shown.index, opacity, tapped)
        form = "0.0000" if field.kind == "numbers" else "0"
        hover = styled(
            cells_element(values[..., None], ["value"], _GROUPS[field.kind]),
            alpha=0.0,
            colorbar=False,
            tools=["hover"],
            hover_tooltips=tooltips(["value"], form),
        )
        marks = mark_elements([*tapped, *marked.of(shown.index)], (values.shape[0], values.shape[1]))
        (title,) = even_titles([_title(field, shown)], width)
        layers = [picture_element(shown), rgb_element(colours, "Colours"), hover, *marks]
        views.append(framed(hv.Overlay(layers), shown, width, title))
    return views


@dataclass(frozen=True)
class Marked:
    """Patches to frame: rows and columns, or booleans (image, y, x), or a mapping from names of results to these."""

    given: object
    name: str

    def of(self, index: int) -> list[tuple[int, int]]:
        """The patches of one image."""
        given = self.given.get(self.name) if isinstance(self.given, Mapping) else self.given
        return list(_patches(given, index))


def _patches(given: object, index: int) -> Iterator[tuple[int, int]]:
    if given is None:
        return
    if isinstance(given, xr.DataArray) and given.dtype.kind == "b" and {"y", "x"} <= set(given.dims):
        mask = as_stack(given).transpose("image", "y", "x").values
        yield from ((int(row), int(column)) for row, column in np.argwhere(mask[index]))
        return
    try:
        for row, column in cast("Iterable[tuple[int, int]]", given):
            yield int(row), int(column)
    except (TypeError, ValueError) as error:
        raise SpectralToolkitError(
            f"marked={given!r:.60} is not understood: give patches as (row, column) in a list, booleans (image, y, x), "
            "or a mapping from the names of the maps to these."
        ) from error


def _coloured(
    field: Field, codes: np.ndarray | None, index: int, opacity: float, tapped: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the cursor reads (y, x), and the colours (y, x, 4) of one image."""
    values = field.array.values[index]
    if field.kind == "masks":
        labels = stacked_masks(values)
        numbers = field.array.coords["instance"].values if "instance" in field.array.coords else np.ones(len(values))
        none = -1 if "instance" in field.array.coords else 0  # a mask alone reads 1 inside and 0 outside
        return np.append(numbers, none)[labels].astype(np.int64), label_colours(labels, opacity, unlabelled=False)
    if codes is not None:
        return values, label_colours(codes[index], opacity)
    if np.nanmin(values, initial=0.0) < 0:
        colours = colour_field(values, symmetric_limit(values))
        return values, with_opacity(colours, opacity, np.zeros(values.shape, dtype=bool))
    highest = highest_other(values, tapped[0] if tapped else None)
    return values, magnitude_colours(values, highest, opacity)


def _colour_codes(field: Field) -> np.ndarray | None:
    """The colour of every label, the same in all images: its own number, or its rank where numbers are large."""
    if field.kind != "labels":
        return None
    labels = field.array.values.astype(np.int64)
    if labels.max(initial=0) < N_LABEL_COLOURS:
        return labels
    return np.where(labels < 0, -1, np.searchsorted(np.unique(labels[labels >= 0]), labels))


def _title(field: Field, shown: ShownPicture) -> str:
    values = field.array.values[shown.index]
    if field.kind == "masks":
        n = int(values.any(axis=(-2, -1)).sum())
        what = (
            f"{n} instance{'' if n == 1 else 's'}" if field.array.sizes["instance"] > 1 else str(field.array.name or "")
        )
    elif field.kind == "labels":
        n = len(np.unique(values[values >= 0]))
        what = f"{n} {'segment' if field.array.name == 'segment' else 'label'}{'' if n == 1 else 's'}"
    else:
        what = str(field.array.name or "")
    affinity = str(field.array.attrs.get("affinity", "")).upper()
    return " · ".join(part for part in (shown.name, field.name, f"{affinity} {what}".strip()) if part)


def check_part(images: object, field: Field) -> None:
    """Refuse a map of whole images over pixels of which the model saw only a part."""
    if not isinstance(images, xr.DataTree) or analysed_box(field.array.coords, 0) is not None:
        return
    for index in range(images.sizes.get("image", 0)):
        box = analysed_box(images.coords, index)
        if box is None or "original_height" not in images.coords:
            continue
        whole = (0, 0, *(float(images.coords[f"original_{side}"][index]) for side in ("height", "width")))
        if box != whole:
            raise SpectralToolkitError(
                "The map does not say which part of the images it covers, and these activations cover only a part: "
                "st.prepare_labels(activations, labels) takes that part of a label map."
            )
