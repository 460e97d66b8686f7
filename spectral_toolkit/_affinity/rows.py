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
from .dataset_pencil import make_pencil
from .layer_graph import LayerGraph, Member
from .pencil import base_grid, positive_members
from .resampling import Grid, Resampling


@computing
def affinity_row(
    graph: LayerGraph, cell: tuple[int, int], image: int | str = 0
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Return the row of one patch in the joint affinity, and in that of every layer.

    Parameters
    ----------
    graph
        What :func:`spectral_toolkit.affinity` returned, of either scope.
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

        In a graph of scope ``"dataset"`` a patch has affinities to the patches of all images: rows are (image, y, x),
        ``attrs["image"]`` names the image of the patch, and layers of weight 0 have none.

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
    index = graph.image_index(image)
    grid = base_grid(graph)
    cells = [checked_cell(cell, grid)]
    known = {name: one[index] for name, one in image_coordinates(graph.activations).items()}
    coords = {"image": graph.images[index], **known}

    def labelled(rows: Tensor, own: Grid) -> xr.DataArray:
        attrs: dict[str, object] = {"patch": list(cells[0])} if own == grid else {}
        centres = {"y": patch_centres(own[0]), "x": patch_centres(own[1])}
        values = rows[0].cpu().numpy()
        if _is_dataset(graph):
            attrs["image"] = graph.images[index]
            shape = (len(graph.images), *own)
            return xr.DataArray(
                values.reshape(shape), {"image": list(graph.images), **centres}, ("image", "y", "x"), "affinity", attrs
            )
        return xr.DataArray(values.reshape(own), {**coords, **centres}, ("y", "x"), "affinity", attrs)

    shown = positive_members(graph) if _is_dataset(graph) else graph.members
    layers = {member.name: labelled(member_rows(graph, member, index, cells, grid), member.grid) for member in shown}
    return labelled(joint_rows(graph, index, cells, grid), grid), layers


def joint_rows(graph: LayerGraph, image: int, cells: Sequence[tuple[int, int]], grid: Grid) -> Float[Tensor, "k n"]:
    """Rows of the joint affinity for several patches of the base grid at once; of a dataset, to all its patches."""
    pencil = make_pencil(graph, _solved_with(graph, image), grid, exact=False)
    ones = _placed(_indicators(cells, grid, pencil.dtype, graph.device), graph, image)
    return pencil.affinity_matmul(ones, exact=False)[0].clamp_min(0.0)


def member_rows(
    graph: LayerGraph, member: Member, image: int, cells: Sequence[tuple[int, int]], grid: Grid
) -> Float[Tensor, "k m"]:
    """Rows of one layer's own affinity, on its own grid, for several patches of ``grid`` at once."""
    operator = graph.operators(member, _solved_with(graph, image))
    coarse = Resampling(grid, member.grid)(_indicators(cells, grid, operator.degree.dtype, graph.device))
    coarse = _placed(coarse / coarse.sum(dim=2, keepdim=True), graph, image)
    return operator.matmul(coarse, exact=False)[0].clamp_min(0.0)


def _is_dataset(graph: LayerGraph) -> bool:
    return graph.recipe.scope == "dataset"


def _solved_with(graph: LayerGraph, image: int) -> slice:
    """The images of the problem to which an image belongs."""
    return slice(0, len(graph.images)) if _is_dataset(graph) else slice(image, image + 1)


def _placed(own: Float[Tensor, "1 k m"], graph: LayerGraph, image: int) -> Float[Tensor, "1 k n"]:
    """Vectors over one image as vectors over all that is solved with it."""
    if not _is_dataset(graph):
        return own
    n = own.shape[2]
    whole = own.new_zeros(1, own.shape[1], n * len(graph.images))
    whole[:, :, image * n : (image + 1) * n] = own
    return whole


def _indicators(
    cells: Sequence[tuple[int, int]], grid: Grid, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "1 k n"]:
    ones = torch.zeros(1, len(cells), grid[0] * grid[1], dtype=dtype, device=device)
    for place, (row, column) in enumerate(cells):
        ones[0, place, row * grid[1] + column] = 1.0
    return ones


def checked_cell(cell: tuple[int, int], grid: Grid, name: str = "cell") -> tuple[int, int]:
    """Row and column of a patch on a grid; raise an error that says what is wrong with them."""
    values = tuple(cell) if isinstance(cell, tuple | list) else ()
    whole = [isinstance(v, numbers.Integral) and 0 <= v < size for v, size in zip(values, grid, strict=False)]
    if len(values) != 2 or not all(whole):
        raise AffinityError(
            f"{name}={cell!r} is not on the grid: expected a row below {grid[0]} and a column below "
            f"{grid[1]}, counted from 0."
        )
    return int(values[0]), int(values[1])
