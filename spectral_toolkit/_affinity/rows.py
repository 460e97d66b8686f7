"""Rows of affinities: how strongly a patch belongs together with every other, jointly and in each layer."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from .._compute.settings import computing
from .._io.activations import image_coordinates, patch_centres
from ..errors import AffinityError
from .layer_graph import LayerGraph, Member
from .pencil import JointPencil, base_grid
from .resampling import Grid, Resampling


@computing
def affinity_row(
    graph: LayerGraph, cell: tuple[int, int], image: int | str = 0
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Return the row of one patch in the joint affinity, and in that of every layer.

    Parameters
    ----------
    graph
        A graph of scope ``"image"``, from :func:`spectral_toolkit.affinity`.
    cell
        Row and column of the patch on the base grid, the finest layer of positive weight.
    image
        Position or name of the image.

    Returns
    -------
    xarray.DataArray, dict
        First, the joint row (y, x) on the base grid, sum_l w_l s_l G_l' W_l G_l with the weights divided by the largest
        and every layer scaled to one total degree, as the solver sees it. Second, per entry of ``graph.layers``,
        whatever its weight, the row of W_l (y, x) on the layer's own grid. Where that is coarser or finer than the base
        grid, the patch is what the solver makes of it there: an area average, or an interpolation. Each row names its
        image, and those on the base grid name the patch, in ``attrs["patch"]``; :func:`spectral_toolkit.overlay` draws
        one row, or all by name.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> joint, layers = affinity_row(st.affinity(activations, "vv", device="cpu"), (1, 2))
    >>> joint.shape, bool(joint.values.argmax() == 1 * 4 + 2)
    ((3, 4), True)
    """
    if graph.recipe.scope != "image":
        raise AffinityError("A row of affinities belongs to one image: use affinity(..., scope='image').")
    index = graph.image_index(image)
    grid = base_grid(graph)
    cells = [_checked_cell(cell, grid)]
    known = {name: one[index] for name, one in image_coordinates(graph.activations).items()}
    coords = {"image": graph.images[index], **known}

    def labelled(rows: Tensor, own: Grid) -> xr.DataArray:
        attrs = {"patch": list(cells[0])} if own == grid else {}
        centres = {"y": patch_centres(own[0]), "x": patch_centres(own[1])}
        return xr.DataArray(rows[0].reshape(own).cpu().numpy(), {**coords, **centres}, ("y", "x"), "affinity", attrs)

    layers = {
        member.name: labelled(member_rows(graph, member, index, cells, grid), member.grid) for member in graph.members
    }
    return labelled(joint_rows(graph, index, cells, grid), grid), layers


def joint_rows(graph: LayerGraph, image: int, cells: Sequence[tuple[int, int]], grid: Grid) -> Float[Tensor, "k n"]:
    """Rows of the joint affinity for several patches of the base grid at once."""
    pencil = JointPencil(graph, slice(image, image + 1), grid, exact=False)
    ones = _indicators(cells, grid, pencil.dtype, graph.device)
    return pencil.affinity_matmul(ones, exact=False)[0].clamp_min(0.0)


def member_rows(
    graph: LayerGraph, member: Member, image: int, cells: Sequence[tuple[int, int]], grid: Grid
) -> Float[Tensor, "k m"]:
    """Rows of one layer's own affinity, on its own grid, for several patches of ``grid`` at once."""
    operator = graph.operators(member, slice(image, image + 1))
    coarse = Resampling(grid, member.grid)(_indicators(cells, grid, operator.degree.dtype, graph.device))
    return operator.matmul(coarse / coarse.sum(dim=2, keepdim=True), exact=False)[0].clamp_min(0.0)


def _indicators(
    cells: Sequence[tuple[int, int]], grid: Grid, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 k n"]:
    ones = torch.zeros(1, len(cells), grid[0] * grid[1], dtype=dtype, device=device)
    for place, (row, column) in enumerate(cells):
        ones[0, place, row * grid[1] + column] = 1.0
    return ones


def _checked_cell(cell: tuple[int, int], grid: Grid) -> tuple[int, int]:
    values = tuple(cell) if isinstance(cell, tuple | list) else ()
    whole = [isinstance(v, numbers.Integral) and 0 <= v < size for v, size in zip(values, grid, strict=False)]
    if len(values) != 2 or not all(whole):
        raise AffinityError(
            f"cell={cell!r} is not on the grid: expected a row below {grid[0]} and a column below "
            f"{grid[1]}, counted from 0."
        )
    return int(values[0]), int(values[1])
