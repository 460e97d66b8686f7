"""Which picture belongs to which result, and the part of it that was analysed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SpectralToolkitError

if TYPE_CHECKING:
    import xarray as xr

_PLACE = re.compile(r"(image_)?\d{1,6}")
"""A name that was only given for want of another; photos of some collections have longer numbers as names."""
_BOX = ("box_top", "box_left", "box_bottom", "box_right")
Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge of the analysed part, in pixels of the original."""


def picture_order(available: Sequence[str], wanted: Sequence[str], what: str, *, named: bool = False) -> list[int]:
    """Positions of the pictures wanted: by name where every name is there.

    By place where one side has no names of its own and there are as many.

    Parameters
    ----------
    available, wanted
        Names of the pictures given, and of those a result is of.
    what
        What the result is, for the message.
    named
        Whether the pictures' names are labels that they carry, whatever they look like; see `are_named`.

    Examples
    --------
    >>> picture_order(["b.png", "a.png"], ["a.png"], "segments"), picture_order(["image_0"], ["a.png"], "segments")
    ([1], [0])
    """
    there, asked = _places(available), _places(wanted)
    if not named and there and asked and len(there) == len(asked) and there != asked:
        raise SpectralToolkitError(
            f"The pictures have no names of their own, only places, and {what} have them in another order "
            f"({_few(wanted)}): give both in the same order, or pictures with names."
        )
    if set(wanted) <= set(available):
        return [list(available).index(name) for name in wanted]
    nameless = all(map(_PLACE.fullmatch, available)) or all(map(_PLACE.fullmatch, wanted))
    if nameless and len(available) == len(wanted):
        return list(range(len(wanted)))
    raise SpectralToolkitError(
        f"{len(available)} pictures were given ({_few(available)}) for {what} of {len(wanted)} images "
        f"({_few(wanted)}): give the same pictures, or pictures with the same names "
        "(arrays have none, and go by place)."
    )


def are_named(pictures: Any) -> bool:
    """Whether pictures carry their names: a tree, Dataset or DataArray with the coordinate ``image``."""
    return "image" in getattr(pictures, "coords", ())


def analysed_box(coords: Mapping[Any, xr.DataArray], index: int) -> Box | None:
    """The box of one image, from the coordinates of a result; None where there is none."""
    if any(name not in coords for name in _BOX):
        return None
    top, left, bottom, right = (float(coords[name].isel(image=index)) for name in _BOX)
    return (top, left, bottom, right) if bottom > top and right > left else None


def analysed_part(pixels: np.ndarray, box: Box, coords: Mapping[Any, xr.DataArray], index: int) -> np.ndarray:
    """Cut out the box, which counts pixels of the original; ``pixels`` may be a smaller copy of that."""
    height, width = pixels.shape[:2]
    vertical, horizontal = (
        size / float(coords[name].isel(image=index)) if name in coords else 1.0
        for size, name in ((height, "original_height"), (width, "original_width"))
    )
    top, left, bottom, right = (
        round(edge * scale) for edge, scale in zip(box, (vertical, horizontal) * 2, strict=True)
    )
    cut = pixels[max(top, 0) : bottom, max(left, 0) : right]
    return cut if cut.size else pixels


def _places(names: Sequence[str]) -> list[str] | None:
    """Names that were only given for want of others, as places; None for other names."""
    places = [name.removeprefix("image_") for name in names]
    return places if set(places) == {str(place) for place in range(len(places))} else None


def _few(names: Sequence[str], n_shown: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:n_shown])
    return shown + (", ..." if len(names) > n_shown else "")
