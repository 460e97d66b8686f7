"""Says in plain sentences what to believe of a result, and what not; shown wherever an eigenvector is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from .._compute.settings import computing
from .._io.activations import DRAWS, image_coordinates, image_names, layer_names
from .._io.pairing import image_hashes, refuse_other_images
from ..errors import ActivationsError
from ..solvers.result import ZERO_EIGENVALUE

Level = Literal["ok", "note", "warning"]

WEAK_GAP = 0.005
"""A component is exposed to small changes of the input where its eigengap is below this part of its eigenvalue."""
WEAK_CUT = 0.9
"""If the first eigenvalue is above this, no two-way cut is much better than a random one (about 1)."""
FLAT_ROW, FLAT_FROM = 0.8, 6
"""Noise gives a last affinity (1 - eigenvalue) above this part of the first, among this many eigenvectors..."""
FLAT_CUT = 0.5
"""...unless the cuts are good ones, as with many groups of equal size..."""
FLAT_GAP = 0.2
"""...or the gap after the last is this part of the first affinity, in which case there are as many groups."""
OUTLYING_NORM = 5.0
"""Robust standard deviations (1.4826 times the median absolute deviation) above which a token's norm is outlying."""


@dataclass(frozen=True)
class Statement:
    """One sentence on one question, and how serious it is."""

    level: Level
    text: str


@computing
def trust_statements(
    eig: xr.Dataset,
    activations: xr.DataTree | None = None,
    *,
    outlying: Mapping[str, xr.DataArray] | None = None,
) -> list[Statement]:
    """Judge the result for one image, or for a dataset solved as one.

    It considers convergence, eigengaps, degenerate groups, weak cuts, isolated patches and tokens of outlying norm.

    Parameters
    ----------
    eig
        A result of :func:`spectral_toolkit.solve`, reduced to one image (``eig.isel(image=0)``).
    activations
        The tree that the result came from, in which tokens of outlying norm are searched for. Without it, nothing is
        said about them.
    outlying
        What :func:`outlying_masks` found in the images of the result, instead of ``activations``; this is useful for
        judging many results of the same images.

    Returns
    -------
    list of Statement
        Warnings first.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=2)
    >>> trust_statements(eig.isel(image=0))[-1].level
    'ok'
    """
    if "image" in eig["eigenvalue"].dims:
        raise ActivationsError(
            f"The result holds {eig.sizes['image']} images: choose one, as in eig.isel(image=0), to judge it."
        )
    if outlying is None:
        outlying = {}
        if activations is not None:
            names = [str(name) for name in eig["image"].values.ravel()]
            hashes = image_hashes(eig, names), image_hashes(activations, names)
            refuse_other_images(names, *hashes, ("the result", "the activations"), ActivationsError)
            outlying = outlying_masks(activations, names)
    statements = [
        _convergence(eig),
        *_pieces(eig),
        *_weak_cut(eig),
        *_flat_row(eig),
        *_degenerate(eig),
        *_gaps(eig),
        *_isolated(eig),
        *_outlying_tokens(outlying),
    ]
    if eig.attrs.get("notes"):
        statements.append(Statement("note", str(eig.attrs["notes"])))
    order = {"warning": 0, "note": 1, "ok": 2}
    return sorted(statements, key=lambda statement: order[statement.level])


def _convergence(eig: xr.Dataset) -> Statement:
    worst = float(eig["residual"].max())
    missed = [int(c) for c in eig["component"].values[~eig["converged"].values]]
    if missed:
        return Statement(
            "warning",
            f"Eigenvectors {_listed(missed)} did not converge (largest residual {worst:.1e}, tolerance "
            f"{eig.attrs.get('tolerance', float('nan')):.0e}): do not interpret them.",
        )
    return Statement("ok", f"All {eig.sizes['component']} eigenvectors converged; largest residual {worst:.1e}.")


def _pieces(eig: xr.Dataset) -> list[Statement]:
    zeros = int((eig["eigenvalue"] < ZERO_EIGENVALUE).sum())
    if not zeros:
        return []
    more = " or more" if zeros == eig.sizes["component"] else ""
    return [
        Statement(
            "warning",
            f"The graph falls apart into {zeros + 1}{more} pieces (eigenvalue 0): the eigenvectors up to {zeros} only "
            "name these pieces.",
        )
    ]


def _weak_cut(eig: xr.Dataset) -> list[Statement]:
    first = float(eig["eigenvalue"].min())
    if first <= WEAK_CUT:
        return []
    return [
        Statement(
            "warning",
            f"Weak cut: the best eigenvalue is {first:.2f}, hardly better than a random cut (about 1); there may be "
            "nothing to find here.",
        )
    ]


@computing
def is_flat(eigenvalue: np.ndarray, eigengap: np.ndarray) -> bool:
    """Tell whether eigenvalues (k,) hardly differ, so that no eigenvector stands out, as for unrelated patches.

    On images of a hundred patches, random vectors have a best eigenvalue of 0.7 to 0.9, far from 1: the more layers and
    channels, the larger. They differ from images with content in that one eigenvalue is like the next.

    Examples
    --------
    >>> row = np.array([0.74, 0.74, 0.75, 0.76, 0.77, 0.77])
    >>> is_flat(row, np.diff(row, append=0.78)), is_flat(np.linspace(0.6, 0.9, 6), np.full(6, 0.06))
    (True, False)
    """
    if len(eigenvalue) < FLAT_FROM or eigenvalue[0] < FLAT_CUT or eigenvalue[0] >= 1:
        return False
    affinity = 1 - eigenvalue
    stands_out = np.isfinite(eigengap[-1]) and eigengap[-1] > FLAT_GAP * affinity[0]
    return bool(affinity[-1] > FLAT_ROW * affinity[0] and not stands_out)


@computing
def doubt(eigenvalue: np.ndarray, eigengap: np.ndarray) -> str:
    """Say in a few words why eigenvalues (k,) suggest that there is nothing to find; empty where they do not.

    Examples
    --------
    >>> doubt(np.array([0.95, 0.99]), np.array([0.04, 0.01])), doubt(np.array([0.1, 0.6]), np.array([0.5, 0.1]))
    ('weak cut', '')
    """
    if eigenvalue.min() > WEAK_CUT:
        return "weak cut"
    return "flat row of eigenvalues" if is_flat(eigenvalue, eigengap) else ""


@computing
def suggests_groups(eigenvalue: np.ndarray, eigengap: np.ndarray) -> bool:
    """Tell whether the widest eigengap (k,) may be read as a number of groups: not for a weak cut or a flat row.

    Examples
    --------
    >>> suggests_groups(np.array([0.1, 0.6]), np.array([0.5, 0.1]))
    True
    """
    return bool(np.isfinite(eigengap).any()) and not doubt(eigenvalue, eigengap)


def _flat_row(eig: xr.Dataset) -> list[Statement]:
    value = eig["eigenvalue"].values
    if not is_flat(value, eig["eigengap"].values):
        return []
    return [
        Statement(
            "warning",
            f"Flat row: {len(value)} eigenvalues from {value[0]:.2f} to {value[-1]:.2f} hardly differ, as those of "
            "patches that have nothing to do with each other; there may be nothing to find here.",
        )
    ]


def _degenerate(eig: xr.Dataset) -> list[Statement]:
    groups = eig["degenerate_group"].values
    components = eig["component"].values
    sets = [components[groups == group].tolist() for group in np.unique(groups) if (groups == group).sum() > 1]
    if not sets:
        return []
    named = "; ".join(_listed(members) for members in sets)
    return [
        Statement(
            "note",
            f"Eigenvectors {named} have equal eigenvalues: only the space they span has a meaning, not each vector.",
        )
    ]


def _gaps(eig: xr.Dataset) -> list[Statement]:
    gap, value = eig["eigengap"].values, eig["eigenvalue"].values
    if not np.isfinite(gap).any():
        return []
    best = int(np.nanargmax(gap)) + 1
    text = f"The widest eigengap comes after eigenvector {best} ({np.nanmax(gap):.3f})"
    text += f", which suggests {best + 1} groups." if suggests_groups(value, gap) else ", which says little here."
    last = gap[-1]
    if np.isfinite(last) and last < WEAK_GAP * max(value[-1], 1e-12):
        text += (
            f" The gap after the last eigenvector is narrow ({last:.1e}), so small changes of the input may change it."
        )
    return [Statement("note", text)]


def _isolated(eig: xr.Dataset) -> list[Statement]:
    count = int(eig["isolated"].sum())
    if not count:
        return []
    return [
        Statement(
            "warning",
            f"{count} of {eig['isolated'].size} patches have hardly any affinity; their values are interpolated.",
        )
    ]


def _outlying_tokens(masks: Mapping[str, xr.DataArray]) -> list[Statement]:
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    if not any(counts.values()):
        return []
    layer = max(counts, key=lambda name: counts[name])
    count, share = counts[layer], counts[layer] / masks[layer].size
    tokens, have, single = ("token", "has an", "") if count == 1 else ("tokens", "have", "s")
    return [
        Statement(
            "warning",
            f"{count} {tokens} ({share:.0%}) of layer {layer} {have} outlying norm{single} "
            "(Darcet et al. 2024): an eigenvector that singles them out shows an artefact.",
        )
    ]


@computing
def outlying_tokens(token: xr.DataArray) -> xr.DataArray:
    """Find the tokens (y, x) whose norm is more than five robust standard deviations above the median.

    Parameters
    ----------
    token
        Residual stream (y, x, feature) of one layer and image; for a denoiser, norms are averaged over its noise
        samples.

    References
    ----------
    Darcet et al., 'Vision Transformers Need Registers', ICLR 2024.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> values = np.random.default_rng(0).normal(size=(4, 4, 64))
    >>> values[1, 2] *= 20
    >>> int(outlying_tokens(xr.DataArray(values, dims=("y", "x", "feature"))).sum())
    1
    """
    norm = _norm(token)
    median = float(norm.median())
    spread = 1.4826 * float(abs(norm - median).median())
    return norm > median + OUTLYING_NORM * max(spread, 1e-6 * median)


def _norm(token: xr.DataArray) -> xr.DataArray:
    """Return the lengths of tokens (..., y, x); for a denoiser, their mean over its noise samples."""
    norm = (token.astype(float) ** 2).sum("feature") ** 0.5
    return norm.mean([name for name in DRAWS if name in norm.dims])


@computing
def token_norms(activations: xr.DataTree) -> dict[str, xr.DataArray]:
    """Return the length of every patch's token in every layer; ``st.overlay`` draws them.

    Parameters
    ----------
    activations
        A tree of activations.

    Returns
    -------
    dict
        Name of the layer to norms (image, y, x); for a denoiser, means over its noise samples. Layers without ``token``
        are left out.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> token = xr.DataArray(np.ones((1, 2, 2, 4)), dims=("image", "y", "x", "feature"))
    >>> token_norms(xr.DataTree.from_dict({"block.0": xr.Dataset({"token": token})}))["block.0"].values.tolist()
    [[[2.0, 2.0], [2.0, 2.0]]]
    """
    known = image_coordinates(activations)
    return {
        name: _norm(node.dataset["token"]).transpose("image", "y", "x").assign_coords(known).rename("norm")
        for name in layer_names(activations)
        if "token" in (node := activations.children[name]).data_vars
    }


@computing
def outlying_masks(activations: xr.DataTree, images: Iterable[object] | None = None) -> dict[str, xr.DataArray]:
    """Find the outlying tokens of every layer and image, as a ``mask`` for :func:`spectral_toolkit.affinity`.

    Parameters
    ----------
    activations
        A tree of activations.
    images
        Names of the images to examine; None examines all.

    Returns
    -------
    dict
        Name of the layer to booleans (image, y, x); layers without ``token`` are left out.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> token = xr.DataArray(np.ones((1, 2, 2, 4)), dims=("image", "y", "x", "feature"))
    >>> masks = outlying_masks(xr.DataTree.from_dict({"block.0": xr.Dataset({"token": token})}))
    >>> int(masks["block.0"].sum())
    0
    """
    names = image_names(activations)
    places = range(len(names)) if images is None else [names.index(str(image)) for image in images]
    known = {name: coordinate[list(places)] for name, coordinate in image_coordinates(activations).items()}
    masks = {}
    for name in layer_names(activations):
        variables = activations.children[name].dataset
        if "token" in variables:
            each = [outlying_tokens(variables["token"].isel(image=place)) for place in places]
            masks[name] = xr.concat(each, dim="image").transpose("image", "y", "x").assign_coords(known)
    return masks


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
