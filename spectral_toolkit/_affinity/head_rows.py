"""The affinities of one patch in every head of a layer at once, without the matrix of any head.

A kernel averages over heads. Here every head is handed to it as if it were an image, so every kernel works unchanged,
and one batch of products serves all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import AffinityError
from .features import LayerFeatures, read_features
from .kernel import Kernel
from .layer_graph import SMALL, LayerGraph
from .resampling import Grid, Resampling
from .rows import member_rows
from .windows import WindowPlaces, by_window, window_places

TILE_ELEMENTS = 2**20
"""Affinities that are held at a time for a column: a few MiB, which stay in a processor's cache."""


def head_rows(graph: LayerGraph, image: int, cell: tuple[int, int], grid: Grid) -> Float[Tensor, "heads n"]:
    """The row of a patch of ``grid`` in the affinity of every head of a layer, as `member_rows` gives it.

    Parameters
    ----------
    graph
        A graph of one layer with ``heads="each"``; it need not hold any operator, and none is made.
    image
        Position of the image.
    cell, grid
        Row and column of the patch, and the grid on which they are counted.
    """
    (layer,) = {member.layer for member in graph.members}
    first, recipe = graph.members[0], graph.recipe
    options = dict(recipe.options)
    if options.pop("steps", 1) != 1:  # a walk is made of the whole matrix
        rows = [member_rows(graph, member, image, [cell], grid)[0] for member in graph.members]
        return torch.stack(rows)
    kernel = graph.kernel
    features = _heads_as_images(
        read_features(
            graph.activations,
            layer,
            recipe.kind,
            slice(image, image + 1),
            graph.device,
            for_softmax=kernel.attention,
        )
    )
    one = torch.zeros(1, 1, grid[0] * grid[1], dtype=torch.float64, device=graph.device)
    one[0, 0, cell[0] * grid[1] + cell[1]] = 1.0
    vector = Resampling(grid, first.grid)(one)[0, 0]
    vector = vector / vector.sum()
    keep = graph.unmasked(first, slice(image, image + 1))
    if keep is not None:
        vector = vector * keep[0]
    windows = None
    if first.window is not None:
        windows = window_places(graph.activations.children[layer], graph.device)

    def computed(features: LayerFeatures) -> Tensor:
        if windows is None:
            return _row(kernel, options, features, vector)
        total = torch.zeros(len(features.left), features.n, dtype=features.left.dtype, device=graph.device)
        for number in range(len(windows.cells)):
            cells, held = windows.cells[number], windows.held[number]
            own = vector[cells] * held
            if bool(own.any()):
                inside = by_window(*_of_window(features, windows, number))
                total[:, cells[held]] += _row(kernel, options, inside, own)[:, held]
        return total

    rows = computed(features)
    if bool(((rows.sum(dim=1) < SMALL) & bool(vector.any())).any()):
        rows = computed(features.doubled())  # single precision has lost the smaller affinities
    if not bool(torch.isfinite(rows).all()):
        raise AffinityError(
            f"The affinities of layer {layer!r} in image {graph.images[image]!r} are not finite: its {recipe.kind} "
            "products overflow; check the activations, or use kernel='cosine'."
        )
    if keep is not None:
        rows = rows * keep[0]
    # The heads of all noise samples of a denoiser follow each other.
    return rows.reshape(first.n_draws, -1, rows.shape[1]).mean(dim=0).clamp_min(0.0)


def _heads_as_images(features: LayerFeatures) -> LayerFeatures:
    """The features of one image with each head in the place of an image."""
    left = features.left.transpose(0, 1)
    bias = features.bias
    if bias is not None:
        own = bias if bias.ndim == 3 else bias[0]  # (biases, ...)
        bias = own[torch.arange(len(left), device=own.device) % len(own)][:, None]
    special = features.special_right
    return replace(
        features,
        left=left,
        right=left if features.is_symmetric else features.right.transpose(0, 1),
        special_right=None if special is None else special.transpose(0, 1),
        bias=bias,
    )


def _of_window(features: LayerFeatures, windows: WindowPlaces, number: int) -> tuple[LayerFeatures, WindowPlaces]:
    """What belongs to one window."""
    part = slice(number, number + 1)
    bias = features.bias
    places = WindowPlaces(*(table[part] for table in vars(windows).values()))
    return replace(features, bias=None if bias is None else bias[:, :, part]), places


def _row(
    kernel: Kernel, options: Mapping[str, object], features: LayerFeatures, vector: Float[Tensor, " n"]
) -> Float[Tensor, "heads n"]:
    """(W + W') / 2 times a vector that is zero at nearly all patches."""
    assert kernel.prepare is not None
    rows = kernel.prepare(features, **options)
    n, n_heads = len(vector), len(features.left)
    places = vector.nonzero()[:, 0].tolist()
    row = torch.zeros(n_heads, n, dtype=features.left.dtype, device=vector.device)
    for place in places:
        row += float(vector[place]) * rows(place, place + 1)[:, 0]
    if features.is_symmetric or not places:
        return row
    if kernel.columns is not None:
        columns = kernel.columns(features, places, **options)
    else:
        step = max(1, TILE_ELEMENTS // (n_heads * n))
        columns = torch.cat([rows(i, min(i + step, n))[..., places] for i in range(0, n, step)], dim=1)
    return (row + columns @ vector[places].to(columns)) / 2
