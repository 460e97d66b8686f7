"""``resemblance``: whose final token a patch of an edited image has, its own or the donor's."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..._compute.arguments import flag
from ..._compute.settings import computing
from ..._io.activations import patch_centres
from ...errors import ActivationsError
from .decoding import seen_in


@computing
def resemblance(
    edited: xr.DataTree, plain: xr.DataTree, donors: xr.DataTree, *, mirrored: bool = False
) -> xr.DataArray:
    """By how much every patch's final token is more like the donor's than like its own.

    Needs no labels and no other images, unlike :func:`spectral_toolkit.effects`, and tells nothing of *what* the tokens
    have in common.

    Parameters
    ----------
    edited
        What ``st.intervene`` returned with edits; or without them, for what there is before any edit.
    plain, donors
        What it returned without edits: for the images, and for their donors.
    mirrored
        Whether donors were mirrored (``st.exchange(..., mirrored=True)``).

    Returns
    -------
    xarray.DataArray
        ``(image, y, x)`` from -2 to 2: the cosine of the edited token with the donor's token of the same patch, less
        that with the image's own; the mean over noise samples. Below 0 a patch is still more like its own.

    Raises
    ------
    ActivationsError
        If a tree holds no final tokens, or the trees do not belong together.

    Examples
    --------
    >>> def tree(number):
    ...     tokens = np.eye(2)[[[[number]]]]
    ...     return xr.DataTree(xr.Dataset({"final_token": (("image", "final_y", "final_x", "final_feature"), tokens)}))
    >>> own, donor = tree(0), tree(1)
    >>> float(resemblance(donor, own, donor).squeeze()), float(resemblance(own, own, donor).squeeze())
    (1.0, -1.0)
    """
    given = {"edited": edited, "plain": plain, "donors": donors}
    tokens = {name: seen_in(tree, name, None).tokens.astype(np.float64) for name, tree in given.items()}
    shapes = {name: values.shape for name, values in tokens.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ActivationsError(
            f"The final tokens (image, noise sample, y, x, feature) have different shapes ({told}): give trees of the "
            "same model at the same size, with one donor an image."
        )
    after, own, other = (
        values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.finfo(float).tiny)
        for values in tokens.values()
    )
    if flag("mirrored", mirrored):
        other = other[:, :, :, ::-1]
    found = (after * (other - own)).sum(-1).mean(1)
    named = plain["final_token"].coords
    places = {"y": patch_centres(found.shape[1]), "x": patch_centres(found.shape[2])}
    images = {"image": named["image"].values} if "image" in named else {}
    return xr.DataArray(found, {**images, **places}, ("image", "y", "x"), "resemblance")
