"""From pixels to latents and back, by the pipeline's own VAE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ...errors import UnsupportedModelError
from ..processing import Processing
from ..untyped import Settings
from .protocols import Autoencoder, Pipeline


def latent_factor(vae: Autoencoder | None) -> int:
    """Pixels per latent position in each direction; 1 without a VAE."""
    if vae is None:
        return 1
    if _of_flux_2(vae):
        return 2 * 2 ** (len(vae.config.block_out_channels) - 1)
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


def encode(vae: Autoencoder, processing: Processing, pixels: np.ndarray) -> torch.Tensor:
    """Bytes (image, height, width, 3) to latents (image, channel, height, width), scaled as in training.

    Nothing is sampled: of a Gaussian, the mean is taken.
    """
    with _precise(vae):
        weights = next(vae.parameters())
        values = processing.normalise(pixels, weights.device, weights.dtype)
        found = vae.encode(values[:, :, None] if _of_videos(vae) else values)
    if hasattr(found, "latent_dist"):
        latents = found.latent_dist.mode()
    else:
        latents = found.latents if hasattr(found, "latents") else found.latent
    if latents.dim() == 5:  # one frame
        latents = latents[:, :, 0]
    config = vae.config
    if (bn := getattr(vae, "bn", None)) is not None:
        latents = torch.nn.functional.pixel_unshuffle(latents, 2)
        mean, variance = (part.view(1, -1, 1, 1).to(latents) for part in (bn.running_mean, bn.running_var))
        return (latents - mean) / torch.sqrt(variance + config.batch_norm_eps)
    scaling, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    mean, std = (config.get(name, vae._buffers.get(name)) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        centre, spread = (torch.tensor(list(values)).to(latents).view(1, -1, 1, 1) for values in (mean, std))
        return (latents - centre) * scaling / spread
    return (latents - shift) * scaling


def decode(vae: Autoencoder | None, latents: torch.Tensor) -> torch.Tensor | None:
    """The opposite of `encode`: latents to normalised values (image, 3, height, width); None where it is not known."""
    if vae is None:
        return latents.expand(-1, 3, -1, -1) if latents.shape[1] in (1, 3) else None
    if _of_flux_2(vae) or _of_videos(vae) or vae.config.get("latents_mean") is not None:
        return None
    config = vae.config
    with _precise(vae):
        weights = next(vae.parameters())
        scaled = latents / (config.get("scaling_factor") or 1.0) + (config.get("shift_factor") or 0.0)
        return vae.decode(scaled.to(weights)).sample


def _of_flux_2(vae: Autoencoder) -> bool:
    """Whether four positions become one, with channels that a batch normalisation scales."""
    return hasattr(vae, "bn")


def _of_videos(vae: Autoencoder) -> bool:
    return any(isinstance(part, torch.nn.Conv3d) for part in vae.modules())


def latent_channels(vae: Autoencoder) -> int:
    """Channels of the latents that `encode` gives."""
    config = vae.config
    n = config.get("latent_channels") or config.get("z_dim")
    if not n:
        raise UnsupportedModelError(
            f"{type(vae).__name__} does not say how many channels its latents have: give the AutoencoderKL that "
            "belongs to the model."
        )
    return int(n) * (4 if _of_flux_2(vae) else 1)


def sees_pixels(config: Settings, pipeline: Pipeline | None) -> bool:
    """Whether a denoiser that came without a VAE takes pixels."""
    encoders = (getattr(pipeline, name, None) for name in ("vae", "movq", "vqvae", "vqgan"))
    return int(config.get("in_channels") or 0) in (1, 3, 6) and all(one is None for one in encoders)


def pixel_channels(config: Settings) -> int:
    """Channels of an image as a denoiser without a VAE sees it: colours, or grey."""
    return 1 if int(config.get("in_channels") or 3) == 1 else 3


def overflows(vae: Autoencoder) -> bool:
    """Whether a VAE is in float16 and declares that this is not enough."""
    return next(vae.parameters()).dtype == torch.float16 and bool(vae.config.get("force_upcast"))


@contextmanager
def _precise(vae: Autoencoder) -> Iterator[None]:
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
