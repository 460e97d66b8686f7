"""One row of an affinity: how strongly one patch is tied to every other, jointly and in each layer."""

from __future__ import annotations

import numbers

import torch
import xarray as xr

from ..activations import patch_centres
from ..errors import AffinityError
from .layer_graph import LayerGraph
from .pencil import JointPencil, base_grid
from .resampling import Grid, Resampling


def affinity_row(
    graph: LayerGraph, cell: tuple[int, int], image: int | str = 0
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """The row of one patch in the joint affinity, and in that of every layer.

    Parameters
    ----------
    graph
        Of scope ``"image"``, from :func:`spectral_toolkit.affinity`.
    cell
        Row and column of the patch on the base grid, the finest layer of positive weight.
    image
        Position or name of the image.

    Returns
    -------
    xarray.DataArray, dict
        The joint row (y, x) on the base grid, sum_l w_l s_l G_l' W_l G_l with the weights over the largest and every
        layer scaled to one total degree, as the solver sees it; and per entry of ``graph.layers``, whatever its weight,
        the row of W_l (y, x) on the layer's own grid. Where that is coarser or finer than the base grid, the patch is
        what the solver makes of it there: an area average, or an interpolation.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> acts = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> joint, layers = affinity_row(st.affinity(acts, "vv", device="cpu"), (1, 2))
    >>> joint.shape, bool(joint.argmax() == 1 * 4 + 2)
    ((3, 4), True)
    """
    if graph.recipe.scope != "image":
        raise AffinityError("A row is of one picture: use affinity(..., scope='image').")
    index = graph.image_index(image)
    images = slice(index, index + 1)
    grid = base_grid(graph)
    place = _checked_cell(cell, grid)
    pencil = JointPencil(graph, images, grid, exact=False)
    one = torch.zeros(1, 1, grid[0] * grid[1], dtype=pencil.dtype, device=graph.device)
    one[0, 0, place[0] * grid[1] + place[1]] = 1.0
    layers = {}
    for member in graph.members:
        coarse = Resampling(grid, member.grid)(one)
        coarse = coarse / coarse.sum()
        layers[member.name] = _labelled(graph.operators(member, images).matmul(coarse), member.grid)
    return _labelled(pencil.affinity_matmul(one), grid), layers


def _labelled(row: torch.Tensor, grid: Grid) -> xr.DataArray:
    values = row[0, 0].clamp_min(0.0).reshape(grid).cpu().numpy()
    return xr.DataArray(values, {"y": patch_centres(grid[0]), "x": patch_centres(grid[1])}, ("y", "x"))


def _checked_cell(cell: tuple[int, int], grid: Grid) -> tuple[int, int]:
    values = tuple(cell) if isinstance(cell, tuple | list) else ()
    whole = [isinstance(v, numbers.Integral) and 0 <= v < size for v, size in zip(values, grid, strict=False)]
    if len(values) != 2 or not all(whole):
        raise AffinityError(
            f"cell={cell!r} is not on the grid: expected a row below {grid[0]} and a column below "
            f"{grid[1]}, counted from 0."
        )
    return int(values[0]), int(values[1])
