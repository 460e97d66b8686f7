"""The patches that are chosen: in the state as numbers, for Python as a table, and as masks over grids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from .._compute.arguments import shown
from .._io.activations import patch_centres
from .._io.grids import on_grid
from ..errors import SpectralToolkitError

Patches = tuple[tuple[int, int, int], ...]
"""Image, row and column of every chosen patch, in order, on the grid of the first setting."""


def in_order(patches: Iterable[Sequence[int]] | np.ndarray) -> Patches:
    """The same patches, each once.

    Examples
    --------
    >>> in_order([(1, 0, 2), (0, 3, 1), (1, 0, 2)])
    ((0, 3, 1), (1, 0, 2))
    """
    rows = np.asarray(patches if isinstance(patches, np.ndarray) else list(patches), dtype=int).reshape(-1, 3)
    return tuple(map(tuple, np.unique(rows, axis=0).tolist()))


def checked_selection(given: object, n_images: int, grid: tuple[int, int]) -> Patches:
    """A selection of the state; raises an error that says what is wrong with it."""
    rows = np.asarray(given if isinstance(given, np.ndarray) else list(given) if isinstance(given, Iterable) else given)
    if rows.size == 0:
        return ()
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype.kind not in "iu":
        raise SpectralToolkitError(
            f"selection={shown(given)} is not understood: give (image, row, column) of every patch, or assign "
            "explorer.selection a DataFrame or a boolean DataArray."
        )
    outside = (rows < 0) | (rows >= (n_images, *grid))
    if outside.any():
        one = tuple(rows[outside.any(axis=1)][0].tolist())
        raise SpectralToolkitError(
            f"The selection names the patch {one}, which does not exist: expected an image below {n_images}, a row "
            f"below {grid[0]} and a column below {grid[1]}, counted from 0."
        )
    return in_order(rows)


def moved_selection(patches: Patches, here: Sequence[int], there: Sequence[int]) -> Patches:
    """The patches of another grid in which the centres of patches lie."""
    if not patches or tuple(here) == tuple(there):
        return patches
    rows = np.asarray(patches)
    rows[:, 1:] = (2 * rows[:, 1:] + 1) * np.asarray(there) // (2 * np.asarray(here))
    return in_order(rows)


def chosen_mask(patches: Patches | np.ndarray, image: int, here: Sequence[int], there: Sequence[int]) -> np.ndarray:
    """Which patches of an image are chosen, (y, x), on a grid that may be another than that of the selection.

    For many images, an array is quicker than the state's own tuples.

    Examples
    --------
    >>> chosen_mask(((0, 0, 1),), 0, (1, 2), (1, 4)).tolist()
    [[False, False, True, True]]
    """
    mask = np.zeros(tuple(here), dtype=bool)
    if len(patches):
        rows = np.asarray(patches)
        rows = rows[rows[:, 0] == image]
        mask[rows[:, 1], rows[:, 2]] = True
    return on_grid(mask, there)


def as_table(patches: Patches, names: Sequence[str], eig: xr.Dataset, segments: np.ndarray, first: int) -> pd.DataFrame:
    """The chosen patches as a table; numbers are NaN, and segments -1, of images that the result does not hold.

    Parameters
    ----------
    names
        Names of all images.
    eig
        The result that is shown, of all images or of one.
    segments
        Segments (image, y, x) of the same patches.
    first
        Position of the first image of the result.
    """
    grid = eig.sizes["y"], eig.sizes["x"]
    rows = np.asarray(patches, dtype=int).reshape(-1, 3)
    image, row, column = rows.T
    known = (image >= first) & (image < first + eig.sizes["image"])
    at = (image[known] - first, row[known], column[known])
    values = np.full((len(rows), eig.sizes["component"]), np.nan, dtype=eig["eigenvector"].dtype)
    values[known] = eig["eigenvector"].transpose("image", "y", "x", "component").to_numpy()[at]
    own = np.full(len(rows), -1)
    own[known] = segments[at]
    table = {
        "image": np.asarray(names, dtype=object)[image],
        "y": patch_centres(grid[0])[row],
        "x": patch_centres(grid[1])[column],
        **{f"eigenvector_{number}": values[:, k] for k, number in enumerate(eig["component"].values.tolist())},
        "segment": own,
        "row": row,
        "column": column,
    }
    return pd.DataFrame(table)


def from_python(given: object, names: Sequence[str], grid: tuple[int, int], only: int | None = None) -> Patches:
    """A selection from what is assigned in Python.

    Parameters
    ----------
    given
        A DataFrame with columns image, y and x, where an image is a name or a position, and y and x are fractions of
        the image; a boolean DataArray (image, y, x), or (y, x) of the image shown; (image, row, column) of every patch,
        as in the state; or None, for nothing.
    names
        Names of all images.
    grid
        Rows and columns of what is shown.
    only
        Position of the image shown, for an array without images.
    """
    if given is None:
        return ()
    if isinstance(given, pd.DataFrame):
        return _from_table(given, names, grid)
    if isinstance(given, xr.DataArray):
        return _from_array(given, names, grid, only)
    if isinstance(given, list | tuple | np.ndarray):
        return checked_selection(given, len(names), grid)
    raise SpectralToolkitError(
        f"The selection is a {type(given).__name__}: give a DataFrame with the columns image, y and x, a boolean "
        "DataArray (image, y, x), or None."
    )


def _from_table(table: pd.DataFrame, names: Sequence[str], grid: tuple[int, int]) -> Patches:
    if missing := [name for name in ("image", "y", "x") if name not in table.columns]:
        raise SpectralToolkitError(
            f"The selection has no column {missing[0]!r}: give image (a name or a position), and y and x as fractions "
            "of the image, from 0 at the top left."
        )
    images = _positions(table["image"].tolist(), names)
    sides = []
    for name, n in zip(("y", "x"), grid, strict=True):
        try:
            values = table[name].to_numpy(dtype=float)
        except (TypeError, ValueError) as error:
            raise SpectralToolkitError(
                f"The column {name!r} of the selection holds something else than numbers: give fractions of the image, "
                "from 0 to 1."
            ) from error
        if wrong := [float(value) for value in values if not 0 <= value <= 1]:
            raise SpectralToolkitError(
                f"The selection has {name}={wrong[0]:g}: expected a fraction of the image, from 0 to 1, such as the "
                "coordinates of the eigenvectors, and not a row, a column or a pixel."
            )
        sides.append(np.minimum((values * n).astype(int), n - 1))
    return in_order(np.stack([np.asarray(images, dtype=int), *sides], axis=1))


def _from_array(array: xr.DataArray, names: Sequence[str], grid: tuple[int, int], only: int | None) -> Patches:
    if array.dtype != bool:
        raise SpectralToolkitError(
            f"The selection is an array of {array.dtype}: give booleans, such as st.segment(eig) == 2."
        )
    dims = set(map(str, array.dims))
    if dims == {"y", "x"} and only is not None:
        array = array.expand_dims(image=[only])
    elif dims != {"image", "y", "x"}:
        raise SpectralToolkitError(
            f"The selection has dimensions {tuple(map(str, array.dims))}: expected image, y and x."
        )
    array = array.transpose("image", "y", "x")
    if array.shape[1:] != grid:
        raise SpectralToolkitError(
            f"The selection has a grid of {array.shape[1]}x{array.shape[2]} patches, but {grid[0]}x{grid[1]} are "
            "shown: make it from explorer.eigenvectors."
        )
    if "image" in array.coords:
        images = _positions(array["image"].values.tolist(), names)
    elif len(array) in (1, len(names)):
        images = list(range(len(names))) if len(array) == len(names) else [only or 0]
    else:
        raise SpectralToolkitError(
            f"The selection is of {len(array)} images, but there are {len(names)}: give it a coordinate 'image' with "
            "their names."
        )
    image, row, column = np.nonzero(array.values)
    return in_order(np.stack([np.asarray(images, dtype=int)[image], row, column], axis=1))


def _positions(given: Sequence[object], names: Sequence[str]) -> list[int]:
    """Positions of images, by their names or their positions."""
    known: dict[object, int] = {**{place: place for place in range(len(names))}, **{n: p for p, n in enumerate(names)}}
    found = []
    for one in given:
        if isinstance(one, bool) or not isinstance(one, str | float | np.integer | int) or one not in known:
            raise SpectralToolkitError(
                f"The selection names the image {one!r}, which is not among those explored: use "
                f"{', '.join(map(repr, list(names)[:6]))}{' ...' if len(names) > 6 else ''}, or a position."
            )
        found.append(known[one])
    return found
