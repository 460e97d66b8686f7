"""The small generative model of scenes: how it is built, its noise, and how it reads images and captions.

It is a Flux transformer built from a configuration (Black Forest Labs, 2024;
https://github.com/black-forest-labs/flux): blocks in which image and caption tokens attend to each other, positions by
rotation alone, RMS-normalised queries and keys. It sees pixels: a token is a patch of 8 x 8 pixels, and there is no
autoencoder. ``x_t = (1 - t) x_0 + t noise`` (rectified flow, Liu et al. 2022, https://arxiv.org/abs/2209.03003), and
the model predicts the clean image ``x_0``.

Flux's own rotation is meant for longer heads and larger grids: of the seven pairs of channels that one of our heads has
for each axis, only three would turn noticeably over twelve patches. Here, therefore, every pair is an axis of its own,
turns once within 5 to 24 patches, and does so along its own direction (after RoPE-Mixed, Heo et al. 2024,
https://arxiv.org/abs/2403.13298, whose directions are learned): a head that attends by position attends to a spot and
not to rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import PATCH
from .captions import WIDTH, encode_captions

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

MEAN, STD = 0.5, 0.5
PERIODS = (5.0, 24.0)
"""The numbers of patches within which the fastest and the slowest pair of channels turn once."""
GOLDEN = (5**0.5 - 1) / 2


def build(layers: int, heads: int, width: int) -> FluxTransformer2DModel:
    """Build a new ``FluxTransformer2DModel`` whose blocks start as plain transformer blocks, whatever the noise."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    channels = width // heads
    turning = (channels - channels // 8) // 2  # pairs of channels
    made_by: Any = FluxTransformer2DModel  # annotated as if there were always three axes
    model = made_by(
        patch_size=1,
        in_channels=3 * PATCH**2,
        num_layers=layers,
        num_single_layers=0,
        attention_head_dim=channels,
        num_attention_heads=heads,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(channels - 2 * turning, *[2] * turning),
    )
    for block in model.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            torch.nn.init.zeros_(norm.linear.weight)
            torch.nn.init.zeros_(norm.linear.bias)
            # Shift, scale and gate of the attention, then of the perceptron: both gates start open.
            norm.linear.bias.data.view(6, width)[[2, 5]] = 1.0
    for linear in (model.norm_out.linear, model.proj_out):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return model


def to_tokens(pixels: torch.Tensor) -> torch.Tensor:
    """Cut ``(image, rgb, y_px, x_px)`` into ``(image, patch, 192)``, row by row."""
    n, colours, height, width = pixels.shape
    cut = pixels.reshape(n, colours, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, colours * PATCH**2)


def to_pixels(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Assemble ``(image, patch, 192)`` into ``(image, rgb, y_px, x_px)``."""
    cut = tokens.reshape(len(tokens), *grid, 3, PATCH, PATCH)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), 3, grid[0] * PATCH, grid[1] * PATCH)


def caption_inputs(counts: np.ndarray, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the caption arguments of the transformer for counts ``(image, category)``."""
    weight = next(model.parameters())
    tokens, pooled = (torch.from_numpy(part).to(weight) for part in encode_captions(counts))
    return {
        "encoder_hidden_states": tokens,
        "pooled_projections": pooled,
        "txt_ids": weight.new_zeros(tokens.shape[1], len(_axes(model))),
    }


def _axes(model: Any) -> tuple[int, ...]:
    return tuple(model.config.axes_dims_rope)


def place_ids(grid: tuple[int, int], model: torch.nn.Module) -> torch.Tensor:
    """Return one row per patch: 0, then the angles in radians by which each pair of channels turns there."""
    n_turning = len(_axes(model)) - 1
    periods = np.geomspace(*PERIODS, n_turning)
    directions = np.pi * (GOLDEN * np.arange(n_turning) % 1)  # far from each other, whichever pairs are used
    y, x = (places[..., None] for places in np.indices(grid))
    angles = 2 * np.pi * (x * np.cos(directions) + y * np.sin(directions)) / periods
    ids = np.concatenate([np.zeros((*grid, 1)), angles], axis=-1)
    return torch.from_numpy(ids.reshape(grid[0] * grid[1], -1)).to(next(model.parameters()))


def predict(
    model: torch.nn.Module,
    noisy: torch.Tensor,
    level: torch.Tensor,
    counts: np.ndarray,
    grid: tuple[int, int],
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """Predict, as tokens, the clean image behind ``noisy`` tokens at noise ``level`` (image,) in 0..1.

    ``places`` are the patches that the tokens stand for, row by row, if they are not all patches.
    """
    ids = place_ids(grid, model)
    return model(
        hidden_states=noisy,
        timestep=level,
        img_ids=ids if places is None else ids[places],
        return_dict=False,
        **caption_inputs(counts, model),
    )[0]
