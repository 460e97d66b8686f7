"""From pixels to latents, by the pipeline's own VAE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...errors import UnsupportedModelError
from ..processing import Processing


def latent_factor(vae: Any) -> int:
    """Pixels per latent position in each direction; 1 without a VAE."""
    if vae is None:
        return 1
    ratio = getattr(vae, "spatial_compression_ratio", None)
    if isinstance(ratio, int):
        return ratio
    config = vae.config
    channels = config.get("block_out_channels") or config.get("encoder_block_out_channels")
    if not channels:
        raise UnsupportedModelError(
            f"{type(vae).__name__} does not say how many pixels become one latent position: give the AutoencoderKL "
            "that belongs to the model."
        )
    return 2 ** (len(channels) - 1)


def encode(vae: Any, processing: Processing, pixels: np.ndarray) -> torch.Tensor:
    """Bytes (image, height, width, 3) to latents (image, channel, height, width), scaled as in training.

    Nothing is sampled: of a Gaussian, the mean is taken.
    """
    with _precise(vae):
        weights = next(vae.parameters())
        found = vae.encode(processing.normalise(pixels, weights.device, weights.dtype))
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
    config = vae.config
    scaling, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        centre, spread = (torch.tensor(list(values)).to(latents).view(1, -1, 1, 1) for values in (mean, std))
        return (latents - centre) * scaling / spread
    return (latents - shift) * scaling


def overflows(vae: Any) -> bool:
    """Whether a VAE is in float16 and declares that this is not enough."""
    return next(vae.parameters()).dtype == torch.float16 and bool(vae.config.get("force_upcast"))


@contextmanager
def _precise(vae: Any) -> Iterator[None]:
    """Let a VAE that declares an overflow in float16 compute in float32, as in its own pipeline; its bits are kept."""
    if not overflows(vae):
        yield
        return
    own = torch.float16
    try:
        vae.to(torch.float32)
        yield
    finally:
        vae.to(own)
