"""Matches images with results, and cuts out the part that was analysed."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SpectralToolkitError
from .images import IMAGE_HASH, load_images

if TYPE_CHECKING:
    import xarray as xr

_PLACE = re.compile(r"(image_)?\d{1,6}")
"""A name that was given only because there was no other; some collections use longer numbers as file names."""
BOX = ("box_top", "box_left", "box_bottom", "box_right")
Box = tuple[float, float, float, float]
"""Top, left, bottom and right edge of the analysed part, in pixels of the original."""


def picture_order(available: Sequence[str], wanted: Sequence[str], what: str, *, named: bool = False) -> list[int]:
    """Positions of the wanted images: by name where every name is available.

    They are matched by position where one side has no names of its own and both have the same number of images.

    Parameters
    ----------
    available, wanted
        Names of the images given, and of the images of a result.
    what
        What the result is, for messages.
    named
        Whether the images' names are labels of their own, whatever they look like; see `are_named`.

    Examples
    --------
    >>> picture_order(["b.png", "a.png"], ["a.png"], "segments"), picture_order(["image_0"], ["a.png"], "segments")
    ([1], [0])
    """
    there, asked = _places(available), _places(wanted)
    if not named and there and asked and len(there) == len(asked) and there != asked:
        raise SpectralToolkitError(
            f"The images have no names of their own, only positions, and {what} have them in another order "
            f"({first_names(wanted)}): give both in the same order, or images with names."
        )
    if set(wanted) <= set(available):
        return [list(available).index(name) for name in wanted]
    nameless = all(map(_PLACE.fullmatch, available)) or all(map(_PLACE.fullmatch, wanted))
    if nameless and len(available) == len(wanted):
        return list(range(len(wanted)))
    raise SpectralToolkitError(
        f"{len(available)} images were given ({first_names(available)}) for {what} of {len(wanted)} images "
        f"({first_names(wanted)}): give the same images, or images with the same names "
        "(arrays have none and are matched by position)."
    )


def paired_pictures(
    images: object, names: Sequence[str], hashes: Sequence[str], what: str, chosen: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Pixels of the images that belong to a result, one at a time, as `picture_order` finds them.

    Parameters
    ----------
    images
        Whatever ``load_images`` takes.
    names, hashes
        Names and hashes of the result's images, in order; see `image_hashes`.
    what
        What the result is, for messages.
    chosen
        Positions along the result's images; None takes all.

    Raises
    ------
    SpectralToolkitError
        If an image is missing, or is not the image of the result.
    """
    pictures = load_images(images)
    order = picture_order(pictures.names, names, what, named=are_named(images))
    for index in range(len(names)) if chosen is None else chosen:
        if not hashes[index]:
            yield np.asarray(pictures[order[index]])
            continue
        pixels, found = pictures.hashed(order[index])
        refuse_other_images([names[index]], [found], [hashes[index]], ("the images given", what))
        yield np.asarray(pixels)


def image_hashes(of: object, names: Sequence[str]) -> list[str]:
    """Hashes of images, in the order of ``names``, as a result records them; empty where it does not.

    Parameters
    ----------
    of
        A tree, Dataset or DataArray, or one image of it.
    names
        Names of the images; they are matched by position where ``of`` has the same number of images but none of these
        names.

    Examples
    --------
    >>> import xarray as xr
    >>> eig = xr.Dataset(coords={"image": ["a.png", "b.png"], "image_sha256": ("image", ["12", "ab"])})
    >>> image_hashes(eig, ["b.png", "c.png"]), image_hashes(eig.isel(image=1), ["b.png"])
    (['ab', ''], ['ab'])
    """
    coords = getattr(of, "coords", {})
    known = [_hash(value) for value in np.atleast_1d(coords[IMAGE_HASH].values)] if IMAGE_HASH in coords else []
    own = [str(name) for name in np.atleast_1d(coords["image"].values)] if known and "image" in coords else []
    if known and len(known) == len(names) and not set(own) & set(names):
        return known
    by_name = dict(zip(own, known, strict=False))
    return [by_name.get(name, "") for name in names]


def hash_coordinate(hashes: Sequence[str]) -> dict[str, tuple[str, np.ndarray]]:
    """The coordinate of images' hashes for a result over ``image``; empty where no hash is known."""
    return {IMAGE_HASH: ("image", np.array(hashes, dtype=object))} if any(hashes) else {}


def refuse_other_images(
    names: Sequence[str],
    hashes: Sequence[str],
    others: Sequence[str],
    what: tuple[str, str],
    error: type[SpectralToolkitError] = SpectralToolkitError,
) -> None:
    """Refuse to pair two results whose images have the same name but different pixels.

    Parameters
    ----------
    names, hashes, others
        Names and hashes of the images, in one order; an empty hash is unknown, and matches any other.
    what
        What the hashes and the others belong to, for the message.

    Raises
    ------
    SpectralToolkitError
        Or the class given as ``error``; the message names the first such image.
    """
    for name, one, other in zip(names, hashes, others, strict=True):
        if one and other and one != other:
            raise error(
                f"Image {name!r} of {what[0]} has other pixels than image {name!r} of {what[1]}, so they are two "
                f"different images: give both for the same images. If they are one image in two versions, delete the "
                f"hashes of one side, as in `del eig.coords[{IMAGE_HASH!r}]`."
            )


def are_named(pictures: object) -> bool:
    """Whether images carry their names: a tree, Dataset or DataArray with the coordinate ``image``."""
    return "image" in getattr(pictures, "coords", ())


def analysed_box(coords: Mapping[Hashable, xr.DataArray], index: int) -> Box | None:
    """The box of one image, from the coordinates of a result; None where there is no box."""
    if any(name not in coords for name in BOX):
        return None
    top, left, bottom, right = (float(coords[name].isel(image=index)) for name in BOX)
    return (top, left, bottom, right) if bottom > top and right > left else None


def analysed_part(pixels: np.ndarray, box: Box, coords: Mapping[Hashable, xr.DataArray], index: int) -> np.ndarray:
    """Cut out the box, which is in pixels of the original; ``pixels`` may be a smaller copy."""
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


def _hash(value: object) -> str:
    """A hash as text; empty for the placeholder of a missing value where results were concatenated."""
    return str(value) if isinstance(value, str) else ""


def _places(names: Sequence[str]) -> list[str] | None:
    """The positions in names that were given only because there were no others; None for other names."""
    places = [name.removeprefix("image_") for name in names]
    return places if set(places) == {str(place) for place in range(len(places))} else None


def first_names(names: Sequence[str], n_shown: int = 3) -> str:
    """The first few names of images, in a sentence."""
    return ", ".join(map(repr, names[:n_shown])) + (", ..." if len(names) > n_shown else "")
