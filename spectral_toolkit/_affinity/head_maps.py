"""The affinities of one patch to all others, in every head of every layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from .._compute.settings import computing
from .._io.activations import check_tree, image_coordinates, image_names, layer_names, patch_centres
from .._io.grids import on_grid
from ..errors import ActivationsError
from . import affinity, checked_layers
from .head_rows import head_rows
from .layer_graph import LayerGraph
from .resampling import Grid
from .rows import checked_cell
from .table import kernels_of, several_kinds


@computing
def head_maps(
    activations: xr.DataTree,
    patch: tuple[int, int],
    image: int | str = 0,
    *,
    kinds: str | Sequence[str] = ("qk", "vv"),
    kernel: str | Mapping[str, str] | None = None,
    layers: str | Sequence[str] = "all",
    mask: Mapping[str, xr.DataArray] | None = None,
    device: str = "auto",
) -> xr.Dataset:
    """Return the affinities of one patch to all others, in every head of every layer.

    No matrix of a head is held: 24 layers of 16 heads over 1,024 patches take seconds.

    Parameters
    ----------
    activations
        Activations from :func:`spectral_toolkit.capture`, or a tree built by hand with the same names.
    patch
        Row and column of the patch on the finest grid of these layers.
    image
        Position or name of the image.
    kinds
        Which vectors are compared, as in :func:`spectral_toolkit.affinity`: one kind, or several.
    kernel
        One kernel for all kinds, or a mapping from kind to kernel; None takes the default of each.
    layers
        ``"all"``, or the names of the layers.
    mask
        Tokens to leave out, as in :func:`spectral_toolkit.affinity`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    xarray.Dataset
        ``affinity`` (kind, layer, head, y, x): rows of the symmetric affinity of each head, as
        :func:`spectral_toolkit.affinity_row` gives them for ``heads="each"``. A layer whose grid is coarser than the
        finest one repeats the value of each of its patches; ``grid_y`` and ``grid_x`` (kind, layer) are its own sizes.
        ``entropy`` (kind, layer, head): how far the map is spread, from 0 (all of it at one patch) to 1 (the same
        everywhere), -sum p log p / log n over the n patches of the layer. Both are NaN where a layer has fewer heads,
        or cannot be compared in this way; ``attrs["left_out"]`` then has the reason, in one sentence for each.

    Raises
    ------
    AffinityError
        If the patch is not on the grid, or a kind or kernel does not exist.
    ActivationsError
        If one of the kinds exists in no layer: the reason is that of the first layer.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> maps = st.head_maps(activations, (5, 4))
    >>> dict(maps.affinity.sizes)
    {'kind': 2, 'layer': 6, 'head': 4, 'y': 12, 'x': 12}
    """
    check_tree(activations)
    chosen = several_kinds(kinds)
    names = checked_layers(layers, layer_names(activations))
    graphs, reasons = _graphs(activations, chosen, names, kernels_of(kernel, chosen), mask, device)
    grid: Grid = max((graph.members[0].grid for graph in graphs.values()), key=lambda one: one[0] * one[1])
    cell = checked_cell(patch, grid, "patch")
    some = next(iter(graphs.values()))
    index = some.image_index(image)
    rows: dict[tuple[str, str], np.ndarray] = {}
    for key, graph in graphs.items():
        try:
            values = head_rows(graph, index, cell, grid).cpu().numpy()
        except ActivationsError as error:
            reasons[key] = str(error)
        else:
            rows[key] = values.reshape(len(values), *graph.members[0].grid)
    _refuse_none(chosen, rows, reasons)
    n_heads = max(len(values) for values in rows.values())
    maps = np.full((len(chosen), len(names), n_heads, *grid), np.nan, dtype=np.float32)
    entropy = np.full(maps.shape[:3], np.nan)
    sizes = np.full((2, *maps.shape[:2]), 0)
    for (kind, layer), values in rows.items():
        place = chosen.index(kind), names.index(layer)
        sizes[(slice(None), *place)] = values.shape[1:]
        entropy[place][: len(values)] = _entropy(values)
        maps[place][: len(values)] = on_grid(values, grid)
    known = {name: one[index] for name, one in image_coordinates(activations).items()}
    attrs: dict[str, object] = {
        "patch": list(cell),
        "kernels": json.dumps({kind: graph.recipe.kernel for (kind, _), graph in graphs.items()}),
        "left_out": list(dict.fromkeys(reasons.values())),
    }
    dims = ("kind", "layer", "head")
    return xr.Dataset(
        {
            "affinity": ((*dims, "y", "x"), maps),
            "entropy": (dims, entropy),
            "grid_y": (dims[:2], sizes[0]),
            "grid_x": (dims[:2], sizes[1]),
        },
        {
            **known,
            "image": image_names(activations)[index],
            "kind": chosen,
            "layer": names,
            "head": np.arange(n_heads),
            "y": patch_centres(grid[0]),
            "x": patch_centres(grid[1]),
        },
        attrs,
    )


def _graphs(
    activations: xr.DataTree,
    kinds: Sequence[str],
    layers: Sequence[str],
    kernels: Mapping[str, str | None],
    mask: Mapping[str, xr.DataArray] | None,
    device: str,
) -> tuple[dict[tuple[str, str], LayerGraph], dict[tuple[str, str], str]]:
    """A graph of every layer and kind, none of which holds anything yet; and why some cannot be made."""
    graphs: dict[tuple[str, str], LayerGraph] = {}
    reasons: dict[tuple[str, str], str] = {}
    for kind in kinds:
        for layer in layers:
            try:
                graphs[kind, layer] = affinity(
                    activations, kind, kernel=kernels[kind], heads="each", layers=[layer], mask=mask, device=device
                )
            except ActivationsError as error:
                reasons[kind, layer] = str(error)
    _refuse_none(kinds, graphs, reasons)
    return graphs, reasons


def _refuse_none(
    kinds: Sequence[str], found: Mapping[tuple[str, str], object], reasons: Mapping[tuple[str, str], str]
) -> None:
    """Raise the model's own reason where nothing at all can be shown."""
    if not found:
        reason = next(reasons[key] for key in reasons if key[0] == kinds[0])
        raise ActivationsError(reason)


def _entropy(rows: np.ndarray) -> np.ndarray:
    """Entropy of every map (heads, y, x), as a fraction of the largest there can be."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    total = flat.sum(axis=1, keepdims=True)
    share = np.divide(flat, total, out=np.zeros_like(flat), where=total > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    most = np.log(flat.shape[1]) if flat.shape[1] > 1 else 1.0
    return np.where(total[:, 0] > 0, -(share * logs).sum(axis=1) / most, np.nan)
