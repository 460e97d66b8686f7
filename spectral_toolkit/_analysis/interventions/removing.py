"""``remove``: queries, keys or values without what eigenvectors span over the patches, or with that alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..._affinity.layer_graph import LayerGraph
from ..._affinity.resampling import Resampling
from ..._capture.edits import Edit, Tokens, quantities_of
from ..._compute.arguments import flag, instance, shown, whole
from ..._compute.settings import computing
from ...errors import SpectralToolkitError

_RANK = 1e-10
"""Directions whose share of the largest is smaller are no directions: a coarse grid cannot hold all eigenvectors."""


@computing
def remove(
    eigenvectors: xr.Dataset,
    components: object,
    quantity: object,
    layers: object = "all",
    keep: bool = False,
    *,
    graph: LayerGraph | None = None,
    random_span: int | None = None,
) -> Edit:
    """Project out what eigenvectors span over the patches, or keep it alone; the mean over patches stays.

    With V the chosen eigenvectors on the layer's grid, orthogonal to the constant vector, and B the diagonal matrix of
    the patches' degrees, what a head has at its patches, M (patch x channel), becomes M - V (V' B V)^-1 V' B M.

    Parameters
    ----------
    eigenvectors
        What ``st.solve`` returned for the images that are edited, in the same order.
    components
        ``"all"``, the number of a component, or several numbers, as in the coordinate ``component``.
    quantity
        ``"query"``, ``"key"`` or ``"value"``, or several of them.
    layers
        ``"all"``; or a name, a number, a slice, or a list of these.
    keep
        Whether the span is kept and the rest removed.
    graph
        The graph of the eigenvectors, whose layers' degrees are B. Without it every patch counts alike, and B is the
        identity.
    random_span
        A seed: in place of the eigenvectors, as many vectors of normal numbers, which is the control of a removal.

    Returns
    -------
    Edit
        For ``st.intervene``. Special tokens stay as they are.

    Raises
    ------
    SpectralToolkitError
        If there is no such component or quantity.

    Examples
    --------
    >>> eig = xr.Dataset({"eigenvector": (("image", "y", "x", "component"), np.ones((1, 2, 2, 3)))},
    ...                  {"component": [1, 2, 3]})
    >>> remove(eig, [1, 2], ["query", "key"]).name
    'remove(query, key, components 1, 2)'
    """
    instance("eigenvectors", eigenvectors, xr.Dataset, "what st.solve returned", has="eigenvector")
    held = eigenvectors["component"].values.tolist()
    chosen = held if isinstance(components, str) and components == "all" else components
    chosen = [chosen] if isinstance(chosen, int | np.integer) and not isinstance(chosen, bool) else chosen
    if not isinstance(chosen, list | tuple | range | np.ndarray) or not len(chosen) or not set(chosen) <= set(held):
        raise SpectralToolkitError(
            f"components={shown(components)} is not understood: the eigenvectors hold {held[0]} to {held[-1]}; give "
            "'all', one of these numbers, or several."
        )
    vectors = eigenvectors["eigenvector"].sel(component=list(chosen)).transpose("image", "component", "y", "x")
    base = (vectors.sizes["y"], vectors.sizes["x"])
    values = np.asarray(vectors.values, np.float64)
    if random_span is not None:
        values = np.random.default_rng(whole("random_span", random_span)).standard_normal(values.shape)
    columns, edited = torch.from_numpy(values).flatten(2), quantities_of(quantity)
    alone = flag("keep", keep)
    if graph is not None:
        instance("graph", graph, LayerGraph, "what st.affinity returned, or None")

    def alter(tokens: Tokens, learned: Tokens | None) -> Tokens:
        own = tokens.patches
        images, grid = slice(tokens.images.start, tokens.images.stop), (own.shape[2], own.shape[3])
        degrees = torch.ones(len(own), grid[0] * grid[1], dtype=torch.float64)
        if graph is not None:
            degrees = _degrees(graph, tokens.layer, images, grid)
        spanned = Resampling(base, grid)(columns[images])
        moved = projected(own.flatten(2, 3).to("cpu", torch.float64), spanned, degrees, alone)
        return replace(tokens, patches=moved.unflatten(2, grid).to(own))

    told = f"components {', '.join(map(str, chosen))}" if random_span is None else f"{len(chosen)} random vectors"
    name = f"{'keep' if alone else 'remove'}({', '.join(edited)}, {told})"
    images = tuple(map(str, vectors["image"].values if "image" in vectors.coords else range(len(columns))))
    return Edit(name, edited, layers, alter, images=images)


def projected(matrix: Tensor, vectors: Tensor, degrees: Tensor, keep: bool) -> Tensor:
    """What is left of ``matrix (image, head, patch, channel)`` without the span of ``vectors (image, k, patch)``."""
    weight = degrees / degrees.sum(-1, keepdim=True)
    vectors = vectors - (vectors * weight[:, None]).sum(-1, keepdim=True)
    weighted = vectors * weight[:, None]
    inverse = torch.linalg.pinv(weighted @ vectors.mT, rtol=_RANK, hermitian=True)
    within = (vectors.mT @ (inverse @ weighted))[:, None] @ matrix
    if not keep:
        return matrix - within
    return (matrix * weight[:, None, :, None]).sum(2, keepdim=True) + within


def _degrees(graph: LayerGraph, layer: str, images: slice, grid: tuple[int, int]) -> Tensor:
    members = [member for member in graph.members if member.layer == layer]
    if not members or members[0].grid != grid:
        raise SpectralToolkitError(
            f"The graph has no degrees for {grid[0]} x {grid[1]} patches of layer {layer!r}: make it of the "
            "layers that are edited, or leave graph out."
        )
    return sum(
        (graph.operators(member, images).degree.to("cpu", torch.float64) for member in members),
        start=torch.zeros(1, dtype=torch.float64),
    )
