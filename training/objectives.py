"""What the bundled model is asked while it trains: hidden patches, and captions.

Two phases. First each hidden patch's grey values, normalised within the patch (He et al. 2022). Then also each hidden
patch's histogram of oriented gradients (MaskFeat, Wei et al. 2022), which brightness does not enter, and the caption:
how many of each category the picture shows. Captions are weak supervision, and they are the only place where
categories enter. They are asked of the CLS token and, by multiple-instance learning, of the patches: every patch must
name something from the caption, and of everything in the caption a few patches must be sure. Which patches is nowhere
told: no category is ever given for a place.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

N_ORIENTATIONS = 9
CELLS_PER_SIDE = 2
MOST_COUNTED = 3
# Gradients weaker than this, summed over a patch, count as flat: about what the grain of the pictures amounts to.
FLAT = 1.0
# A named thing covers at least this many patches, so that many are asked to name it (fewer if many are hidden).
PATCHES_PER_THING = 4
PATCHES_PER_BACKGROUND = 8
N_BACKGROUNDS = 2


class Heads(nn.Module):
    """The read-outs, thrown away after training."""

    def __init__(self, width: int, patch: int, n_categories: int) -> None:
        super().__init__()
        self.pixels = nn.Linear(width, patch * patch)
        self.gradients = nn.Linear(width, CELLS_PER_SIDE**2 * N_ORIENTATIONS)
        self.picture = nn.Linear(width, n_categories * MOST_COUNTED)
        nn.Linear(width, n_categories)  # dropped; its draws come before those of the next one in the bundled weights
        self.patches_last = nn.Linear(width, n_categories)


def grey(pictures: torch.Tensor) -> torch.Tensor:
    """Luma of ``(image, 3, height, width)`` pictures in 0..1."""
    return (pictures * pictures.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(1)


def patch_pixels(luma: torch.Tensor, patch: int) -> torch.Tensor:
    """Grey values of each patch, of mean 0 and variance 1 within it: ``(image, n_patches, patch * patch)``."""
    values = functional.unfold(luma[:, None], patch, stride=patch).transpose(1, 2)
    centred = values - values.mean(-1, keepdim=True)
    return centred / (values.var(-1, keepdim=True) + 1e-4).sqrt()


def patch_gradients(luma: torch.Tensor, patch: int, places: torch.Tensor | None = None) -> torch.Tensor:
    """Histogram of oriented gradients of patches: ``(image, n_places, cells * orientations)``, of norm below 1.

    Orientations are without sign, shared between the two nearest bins, weighted by magnitude and summed over 2 x 2
    cells; the patch's histograms are divided by their common norm. ``places (image, n_places)`` are indices of
    patches, row by row; None takes all.
    """
    padded = functional.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    both = functional.unfold(torch.stack([across, down], 1), patch, stride=patch).transpose(1, 2)
    if places is not None:
        both = both.gather(1, places[..., None].expand(-1, -1, both.shape[-1]))
    across, down = both.unflatten(-1, (2, patch * patch)).unbind(2)
    magnitude = (across**2 + down**2).sqrt()
    position = (torch.atan2(down, across) / math.pi % 1) * N_ORIENTATIONS
    lower = position.floor().clamp(max=N_ORIENTATIONS - 1)
    share = position - lower
    side = torch.arange(patch, device=luma.device) * CELLS_PER_SIDE // patch
    cell = (side[:, None] * CELLS_PER_SIDE + side).flatten()
    bins = lower.long()
    # Orientation by orientation, cells within: the order of a picture's channels cut into cells.
    values = luma.new_zeros(*magnitude.shape[:2], N_ORIENTATIONS * CELLS_PER_SIDE**2)
    values.scatter_add_(2, bins * CELLS_PER_SIDE**2 + cell, (1 - share) * magnitude)
    values.scatter_add_(2, (bins + 1) % N_ORIENTATIONS * CELLS_PER_SIDE**2 + cell, share * magnitude)
    return values / (values.square().sum(-1, keepdim=True) + FLAT**2).sqrt()


def caption_loss_picture(logits: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of "at least 1, 2, 3 of these", from the CLS token.

    ``logits (image, category * MOST_COUNTED)``, ``captions (image, category)`` counts.
    """
    truth = captions[..., None] > torch.arange(MOST_COUNTED)
    return functional.binary_cross_entropy_with_logits(logits, truth.flatten(1).to(logits.dtype))


def caption_loss_patches(logits: torch.Tensor, captions: torch.Tensor, share_seen: float) -> torch.Tensor:
    """Multiple-instance loss of captions on patches.

    The first term asks every patch to name any category of its picture's caption; the second asks, for each category
    of the caption, that the patches most sure of it (four for each thing counted) are sure.

    Parameters
    ----------
    logits
        ``(image, n_patches, category)``.
    captions
        ``(image, category)`` counts.
    share_seen
        Part of the patches that is shown; where less is seen, less can be asked.
    """
    log_probability = logits.log_softmax(-1)
    named = captions > 0
    any_named = log_probability.masked_fill(~named[:, None], -torch.inf).logsumexp(-1)

    per_thing = captions.float() * PATCHES_PER_THING
    per_thing[:, :N_BACKGROUNDS] = captions[:, :N_BACKGROUNDS].float() * PATCHES_PER_BACKGROUND
    n_asked = (per_thing * share_seen).round().long().clamp(1, logits.shape[1])
    surest = log_probability.exp().sort(dim=1, descending=True).values.cumsum(1)
    sure = surest.gather(1, (n_asked - 1)[:, None])[:, 0] / n_asked
    each_named = -(sure.clamp(min=1e-6).log() * named).sum() / named.sum()
    return -any_named.mean() + share_seen * each_named
