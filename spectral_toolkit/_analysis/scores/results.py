"""Scores of an existing result: what `pathways` gives as a row, without solving anything."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from ..._compute.settings import computing
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import SpectralToolkitError
from .labels import EVERY_CELL_IGNORED, checked_ignore, warn_of_no_label, without
from .paths import all_scores, scored_vectors
from .score import Scored
from .variance import about_intervals, resamples


@computing
def eigenvector_scores(
    eig: xr.Dataset,
    labels: object = None,
    *,
    ignore: object = None,
    n_bootstrap: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Measure how much position and how much category the eigenvectors of a dataset hold.

    Parameters
    ----------
    eig
        The result of ``st.solve`` on a graph of scope ``"dataset"``, of two images or more.
    labels
        Integers ``(image, y, x)`` on the grid of the result, as ``st.prepare_labels`` returns them, -1 where there is
        none; None scores position alone.
    ignore
        One or several labels that are left out like -1; see :func:`spectral_toolkit.prepare_labels`.
    n_bootstrap, confidence, seed
        As for ``st.pathways``.

    Returns
    -------
    xarray.Dataset
        The scores that ``st.pathways`` documents, without dimensions, each with ``<name>_low`` and ``<name>_high``.

    Raises
    ------
    SpectralToolkitError
        If every image was solved separately, so that components of different images have nothing to do with each other,
        or if the labels do not fit.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(3, 1, 3, 3, 4)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", scope="dataset", device="cpu"), n_eigenvectors=2)
    >>> sorted(eigenvector_scores(eig, n_bootstrap=10))[:3]
    ['image_share', 'image_share_high', 'image_share_low']
    """
    if "image" in eig["eigenvalue"].dims or eig.sizes["image"] < 2:
        raise SpectralToolkitError(
            f"This result is of {eig.sizes['image']} images solved alone: use scope='dataset' with at least 2 images."
        )
    n_images, *grid = (eig.sizes[name] for name in ("image", "y", "x"))
    values, note = scored_vectors(eig)
    cells = None
    if labels is not None:
        cells = without(np.asarray(labels), checked_ignore(ignore))
        if cells.shape != (n_images, *grid):
            raise SpectralToolkitError(
                f"labels have shape {cells.shape}, but the result has patches {(n_images, *grid)}: use "
                "st.prepare_labels."
            )
        named = [
            x["image"].values.astype(str)
            for x in (eig, labels)
            if isinstance(x, xr.Dataset | xr.DataArray) and "image" in getattr(x, "coords", ())
        ]
        # If the names are entirely different, or missing, the order counts, as in st.prepare_labels.
        if len(named) == 2 and not np.array_equal(named[0], named[1]) and set(named[0]) & set(named[1]):
            raise SpectralToolkitError(
                "labels name other images than the result, or the same in another order: choose them with "
                ".sel(image=eig['image']), or drop their names with .drop_vars('image')."
            )
        names = list(map(str, named[0] if named else range(n_images)))
        refuse_other_images(names, image_hashes(eig, names), image_hashes(labels, names), ("the result", "labels"))
        if not (cells >= 0).any():
            raise SpectralToolkitError(EVERY_CELL_IGNORED)
        warn_of_no_label(cells)
        cells = cells.reshape(n_images, math.prod(grid))
    weights = resamples(n_images, n_bootstrap, seed)
    found: dict[str, float] = {}
    scored = Scored(values, cells, (grid[0], grid[1]), weights, seed)
    for name, (value, low, high) in all_scores(scored, confidence).items():
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return xr.Dataset(
        found,
        attrs={
            "n_bootstrap": n_bootstrap,
            "confidence": confidence,
            "seed": seed,
            "kernel": eig.attrs["kernel"],
            "notes": " ".join(filter(None, [note, about_intervals(n_images)])),
        },
    )
