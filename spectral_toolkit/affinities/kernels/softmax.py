"""The model's own attention, exactly: scale, bias and special tokens included."""

from __future__ import annotations

import torch

from ..features import LayerFeatures
from ..operators import Rows
from .heads import sum_over_heads


def prepare(features: LayerFeatures) -> Rows:
    """Rows of softmax(scale q k' + bias), special tokens dropped after the softmax, heads averaged."""
    n_special = 0
    keys = features.right
    if features.special_right is not None:
        n_special = features.special_right.shape[2]
        keys = torch.cat([features.special_right, keys], dim=2)
    assert features.scale is not None
    queries = features.left * features.scale
    n_heads = keys.shape[1]

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_head(head: int) -> torch.Tensor:
            logits = queries[:, head, start:stop] @ keys[:, head].transpose(-1, -2)
            if features.bias is not None:
                logits += features.bias[head % len(features.bias), n_special + start : n_special + stop]
            logits -= logits.amax(dim=-1, keepdim=True)
            logits.exp_()
            logits /= logits.sum(dim=-1, keepdim=True) * n_heads
            return logits[..., n_special:]

        return sum_over_heads(n_heads, of_head)

    return rows
