"""The model's own attention, exactly, with scale, bias and special tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import AffinityError
from ..features import LayerFeatures
from ..operators import Rows
from ..resampling import shares
from .heads import sum_over_slices
from .precision import DOUBLE_ROUNDING, careful_images, doubled

NOTHING = 40
"""A logit this far below the largest has a weight of less than 1e-17."""
TILE = 256
"""Rows of one head that `columns` holds at a time, so that they stay in a processor's cache."""


def prepare(features: LayerFeatures) -> Rows:
    """Return rows of softmax(scale q k' + bias): special tokens are dropped after the softmax, heads averaged.

    Weights of pooled keys are spread over the patches that were pooled, in equal shares.

    Logits so large that rounding would show in the weights are computed in double precision, image by image.
    """
    queries, keys, n_special, spread = _sides(features)
    n_heads = keys.shape[1]
    scale = features.scale
    assert scale is not None
    size = queries.norm(dim=-1).amax(-1) * keys.norm(dim=-1).amax(-1)
    if features.bias is not None:
        size = size + features.bias.amax().clamp_min(0.0)
    careful = careful_images(size, queries.dtype)

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_heads(heads: slice) -> torch.Tensor:
            numbers = list(range(heads.start, heads.stop))
            each = [_bias(features, head, start, stop) for head in numbers]
            bias = None if features.bias is None else torch.stack([own for own in each if own is not None], dim=-3)
            logits = queries[:, heads, start:stop] @ keys[:, heads].transpose(-1, -2)
            weights = _softmax(logits, bias, n_heads)
            for place, head in enumerate(numbers):
                for image in careful[head]:
                    query, key = doubled(features.left[image, head, start:stop]) * scale, doubled(keys[image, head])
                    logits = query @ key.T
                    own = None if bias is None else (bias if bias.ndim == 3 else bias[image])[place]
                    _check_decided(logits if own is None else logits + doubled(own), query, key, features.layer)
                    weights[image, place] = _softmax(logits, None if own is None else doubled(own), n_heads)
            patches = weights[..., n_special:]
            if spread is None:
                return patches
            return patches @ (spread if spread.ndim == 2 else spread[:, None])  # it may differ between images

        elements = len(queries) * (stop - start) * keys.shape[2]
        return sum_over_slices(n_heads, of_heads, elements=elements, device=queries.device)

    return rows


def columns(features: LayerFeatures, places: Sequence[int]) -> torch.Tensor:
    """Return the columns (images, n, places) of what `prepare` gives, of which only a few rows are held at a time."""
    queries, keys, n_special, spread = _sides(features)
    n_images, n_heads, n, _ = queries.shape
    longest = keys.norm(dim=-1).amax(-1)
    highest = 0.0 if features.bias is None else features.bias.amax().clamp_min(0.0)
    found = queries.new_zeros(n_images, n, len(places))
    for start in range(0, n, TILE):
        part = slice(start, min(start + TILE, n))
        careful = careful_images(queries[:, :, part].norm(dim=-1).amax(-1) * longest + highest, queries.dtype)
        for head in range(n_heads):
            bias = _bias(features, head, start, start + TILE)
            for image in range(n_images):
                own = bias if bias is None or bias.ndim == 2 else bias[image]
                query, key = queries[image, head, part], keys[image, head]
                if image in careful[head]:
                    assert features.scale is not None
                    query, key = doubled(features.left[image, head, part]) * features.scale, doubled(key)
                    own = None if own is None else doubled(own)
                logits = query @ key.T
                if own is not None:
                    logits += own
                if image in careful[head]:
                    _check_decided(logits, query, key, features.layer)
                weights = logits.softmax(dim=-1)[:, n_special:]
                if spread is not None:
                    weights = weights @ (spread if spread.ndim == 2 else spread[image]).to(weights)
                found[image, part] += weights[:, places].to(found)
    return found / n_heads


def _sides(features: LayerFeatures) -> tuple[torch.Tensor, torch.Tensor, int, torch.Tensor | None]:
    """Queries, scaled; special keys and those of the patches; how many are special; and where pooled keys belong."""
    n_special = 0
    keys = features.right
    if features.special_right is not None:
        n_special = features.special_right.shape[2]
        keys = torch.cat([features.special_right, keys], dim=2)
    assert features.scale is not None
    spread = features.spread
    queries = features.left * features.scale
    if spread is None and features.key_grid is not None:
        spread = shares(features.key_grid, features.grid).to(queries)
    return queries, keys, n_special, spread


def _bias(features: LayerFeatures, head: int, start: int, stop: int) -> torch.Tensor | None:
    """The bias of some queries; its rows start with those of special queries, of which there may be none."""
    if features.bias is None:
        return None
    first = features.bias.shape[-2] - features.left.shape[2]
    stop = min(stop, features.left.shape[2])
    return features.bias[..., head % features.bias.shape[-3], first + start : first + stop, :]


def _softmax(logits: torch.Tensor, bias: torch.Tensor | None, n_heads: int) -> torch.Tensor:
    """Compute softmax over the last dimension, divided by the number of heads, in place."""
    if bias is not None:
        logits += bias
    logits -= logits.amax(dim=-1, keepdim=True)
    logits.exp_()
    logits /= logits.sum(dim=-1, keepdim=True) * n_heads
    return logits


def _check_decided(logits: torch.Tensor, query: torch.Tensor, key: torch.Tensor, layer: str) -> None:
    """Refuse logits that equal the largest of their row within the rounding of double precision."""
    reach = query.norm(dim=-1), key.norm(dim=-1)
    eps = torch.finfo(logits.dtype).eps
    if float(reach[0].max() * reach[1].max()) * eps <= DOUBLE_ROUNDING or not bool(torch.isfinite(logits).all()):
        return  # values that are not finite are refused where degrees are checked
    rounding = eps * reach[0][:, None] * reach[1]
    largest, place = logits.max(dim=-1, keepdim=True)
    rounding = rounding + rounding.gather(-1, place)
    rival = (largest - logits <= NOTHING + rounding) & (rounding > DOUBLE_ROUNDING)
    rival.scatter_(-1, place, False)
    if bool(rival.any()):
        raise AffinityError(
            f"The logits of layer {layer!r} reach {float(logits.abs().max()):.0e}, where double precision rounds by "
            f"{float(rounding[rival].max()):.0e}, and within that several of one row equal the largest, so it is "
            "undecided which patches attend to which: divide the queries or the layer's scale by a power of ten, or "
            "use kernel='cosine'."
        )
