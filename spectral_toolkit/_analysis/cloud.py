"""All patches as a cloud of points: which of them are shown, and where each lies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from .._compute.arguments import choice
from .._compute.threads import serial
from ..errors import SpectralToolkitError

PROJECTIONS = ("components", "tsne")
"""Two eigenvectors as they are, or t-SNE of all of them (van der Maaten & Hinton 2008)."""
MOST = 12_000
"""The largest number of points that is drawn: a canvas redraws so many within a tenth of a second."""
MOST_TSNE = 2_000
"""The same for t-SNE, which takes seconds for every thousand points."""


def shown_patches(n_images: int, n_patches: int, most: int = MOST, seed: int = 0) -> Int[np.ndarray, " points"]:
    """Which patches are shown, numbered image by image and row by row: all, or a sample of as many from every image.

    Examples
    --------
    >>> shown_patches(2, 3).tolist(), len(shown_patches(4, 100, most=40))
    ([0, 1, 2, 3, 4, 5], 40)
    """
    if n_images * n_patches <= most:
        return np.arange(n_images * n_patches)
    random = np.random.default_rng(seed)
    each = np.full(n_images, most // n_images)
    each[random.permutation(n_images)[: most % n_images]] += 1
    drawn = [image * n_patches + np.sort(random.permutation(n_patches)[:n]) for image, n in enumerate(each)]
    return np.concatenate(drawn)


def places(
    eig: xr.Dataset, shown: Int[np.ndarray, " points"], components: Sequence[int], projection: str, seed: int = 0
) -> Float[np.ndarray, "points 2"]:
    """Where the patches lie: by two components, or by t-SNE of all of them."""
    values = eig["eigenvector"].transpose("image", "y", "x", "component")
    if projection == "components":
        flat = values.sel(component=list(components)).to_numpy()
        return flat.reshape(-1, 2)[shown]
    flat = values.to_numpy().reshape(-1, values.sizes["component"])[shown]
    return neighbour_embedding(flat, seed)


def neighbour_embedding(values: Float[np.ndarray, "points components"], seed: int) -> Float[np.ndarray, "points 2"]:
    """t-SNE with a perplexity of 30, or less where there are few points; the same seed gives the same map."""
    from sklearn.manifold import TSNE

    if len(values) < 3:
        return np.zeros((len(values), 2), np.float32)
    perplexity = min(30.0, (len(values) - 1) / 3)
    # A deterministic start, scaled as Kobak & Berens (2019) recommend: the seed then matters little.
    init: Any = values[:, : min(2, values.shape[1])].astype(np.float32)
    init = np.pad(init, ((0, 0), (0, 2 - init.shape[1])))
    init = 1e-4 * init / max(float(init.std()), 1e-12)
    with serial(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(values.astype(np.float32))


def checked_pair(name: str, value: object, eig: xr.Dataset) -> tuple[int, int]:
    """Two components of a result."""
    known = eig["component"].values.tolist()
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if len(pair) != 2 or any(one not in known for one in pair):
        raise SpectralToolkitError(
            f"{name}={value!r} is not understood: give two of the components {known}, such as (1, 2)."
        )
    return int(pair[0]), int(pair[1])


def checked_projection(value: object) -> str:
    """A projection by its name."""
    return choice("projection", value, PROJECTIONS)


def how_many(shown: int, total: int) -> str:
    """What is said of a sample; empty where all patches are shown.

    Examples
    --------
    >>> how_many(12_000, 98_304), how_many(5, 5)
    ('12,000 of 98,304 patches shown, as many of every image', '')
    """
    return f"{shown:,} of {total:,} patches shown, as many of every image" if shown < total else ""
