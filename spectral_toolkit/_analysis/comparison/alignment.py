"""Turns the eigenvectors of one result towards those of another, as far as they are free to turn."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..._affinity.layer_graph import LayerGraph
from ..._compute.settings import computing
from ...errors import ComparisonError
from ...solvers.result import degenerate_groups
from .angles import Product, centred
from .common_ground import CELLS, common


@computing
def align(eig: xr.Dataset, reference: xr.Dataset, *, inner: str | LayerGraph = CELLS) -> xr.Dataset:
    """Align eigenvectors to a reference, so that the two can be looked at side by side.

    Nothing that the problem itself determines is changed. An eigenvector whose eigenvalue is its own is free in its
    sign; those of equal eigenvalues (one ``degenerate_group``) are free to turn into each other, and are turned as
    close to the reference's components of the same numbers as an orthogonal matrix can (orthogonal Procrustes;
    Schönemann 1966). Components do not change places: where two cuts of different value have swapped, ``similarity`` is
    low.

    Parameters
    ----------
    eig
        The result of :func:`spectral_toolkit.solve`, whole or for one image.
    reference
        A result for the same images, of any model, layers or affinity. Where the grids differ, both are averaged down
        to the coarser one along each axis to find the rotation, which is then applied on the grid of ``eig``.
    inner
        The inner product that measures closeness: ``"cells"``, the plain one, in which every patch counts once (patches
        that are isolated in either result do not count); or a graph of :func:`spectral_toolkit.affinity`, x' B y with B
        its joint degrees, under which the eigenvectors of that graph are orthonormal.

    Returns
    -------
    xarray.Dataset
        Like ``eig``, with turned eigenvectors and ``similarity`` (per component, in [-1, 1]): the cosine with the
        reference's component of that number, after both means are subtracted; NaN where the reference has none. For a
        group of equal eigenvalues, whose members have been mixed, ``layer_share`` and ``layer_mass`` are the means of
        the group. ``attrs["notes"]`` says what was turned.

    Raises
    ------
    ComparisonError
        If the two are of different images, or one was solved over the dataset and the other image by image.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=2)
    >>> turned = eig.assign(eigenvector=-eig.eigenvector)
    >>> bool(abs(st.align(turned, eig).eigenvector - eig.eigenvector).max() < 1e-12)
    True
    """
    both = common(eig, reference, inner, ("eig", "reference"))
    mine, theirs = both.first, both.second
    shared = [c for c in mine.components if c in theirs.components]
    if not shared:
        raise ComparisonError(
            f"eig has components {mine.components} and reference has {theirs.components}: solve both for common ones."
        )
    n_problems = 1 if mine.joint else len(mine.names)
    groups = _groups(eig, n_problems, len(mine.components))
    n = len(mine.components)
    turns, similarity = np.zeros((n_problems, n, n)), np.full((n_problems, n), np.nan)
    at = [mine.components.index(c) for c in shared], [theirs.components.index(c) for c in shared]
    for problem, (x, y, product, _) in enumerate(both.problems(inner)):
        target = np.zeros_like(x)
        target[:, at[0]] = y[:, at[1]]
        turns[problem] = turn(x, target, groups[problem], product)
        similarity[problem, at[0]] = _cosines(x @ turns[problem], target, product)[at[0]]
    return _turned(eig, turns, groups, similarity, mine.joint)


def turn(x: np.ndarray, target: np.ndarray, groups: np.ndarray, product: Product) -> np.ndarray:
    """Return the orthogonal matrix, in blocks of ``groups``, that brings x Q closest to ``target``, (nodes, component).

    Columns of the target that are zero are ignored; a block with only such columns is left unchanged.
    """
    Q = np.eye(x.shape[1])
    x = centred(x, product)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        own, wanted = x[:, members], centred(target[:, members], product)
        if np.any(wanted):
            left, _, right = np.linalg.svd(own.T @ product(wanted))
            Q[np.ix_(members, members)] = left @ right
    return Q


def _groups(eig: xr.Dataset, n_problems: int, n_components: int) -> np.ndarray:
    if "degenerate_group" in eig:
        groups = eig["degenerate_group"].values
    elif "eigenvalue" in eig:
        groups = degenerate_groups(np.asarray(eig["eigenvalue"].values))
    else:
        groups = np.arange(n_components)
    return np.broadcast_to(groups, (n_problems, n_components))


def _cosines(x: np.ndarray, y: np.ndarray, product: Product) -> np.ndarray:
    x, y = centred(x, product), centred(y, product)
    across, lengths = (x * product(y)).sum(0), np.sqrt((x * product(x)).sum(0) * (y * product(y)).sum(0))
    return np.divide(across, lengths, out=np.full(len(across), np.nan), where=lengths > 0).clip(-1, 1)


def _turned(eig: xr.Dataset, turns: np.ndarray, groups: np.ndarray, similarity: np.ndarray, joint: bool) -> xr.Dataset:
    single = joint or "image" not in eig["eigenvector"].dims
    turn_dims = ("component", "to") if single else ("image", "component", "to")
    matrix = xr.DataArray(turns[0] if single else turns, dims=turn_dims)
    dims = eig["eigenvector"].dims
    vectors = eig["eigenvector"].drop_vars("component", errors="ignore")
    turned = (vectors * matrix).sum("component").rename(to="component").transpose(*dims)
    changed: dict[str, xr.DataArray] = {"eigenvector": turned.astype(eig["eigenvector"].dtype)}
    # For vectors that were mixed, only sums over their group are known.
    means = (groups[:, :, None] == groups[:, None, :]).astype(float)
    means /= means.sum(axis=1, keepdims=True)
    for name in ("layer_share", "layer_mass"):
        if name in eig:
            mean = xr.DataArray(means[0] if single else means, dims=turn_dims)
            values = eig[name].drop_vars("component", errors="ignore")
            changed[name] = (values * mean).sum("component").rename(to="component").transpose(*eig[name].dims)
    per_component = ("component",) if single else ("image", "component")
    found = {name: values.variable for name, values in changed.items()}
    out = eig.assign({**found, "similarity": (per_component, similarity[0] if single else similarity)})
    flipped, mixed = int((np.diagonal(turns, axis1=1, axis2=2) < 0).sum()), _n_mixed(groups)
    note = f"Aligned to a reference: {flipped} signs and {mixed} groups of equal eigenvalues were turned."
    out.attrs = {**eig.attrs, "notes": " ".join(filter(None, [str(eig.attrs.get("notes", "")), note]))}
    return out


def _n_mixed(groups: np.ndarray) -> int:
    return sum(int((np.unique(row, return_counts=True)[1] > 1).sum()) for row in groups)
