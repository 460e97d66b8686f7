"""Generates images with the bundled generative model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .._compute.arguments import number, whole
from .._compute.settings import computing
from ..errors import SpectralToolkitError

if TYPE_CHECKING:
    import torch
    import xarray


@computing
def generate(caption: str = "", n: int = 4, *, seed: int = 0, steps: int = 30, guidance: float = 2.0) -> xarray.Dataset:
    """Generate images of what a caption names, with the bundled model ``scenes-diffusion``.

    The model draws a plain ground with heaps of patches on it, in the texture of what the caption names; the shapes of
    the objects do not form, and a small object is often left out.

    It takes Euler steps from noise to image along the rectified flow (Liu et al. 2022,
    https://arxiv.org/abs/2209.03003), with classifier-free guidance (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598, equation 6).

    Parameters
    ----------
    caption
        A text such as ``"two rings and a star on the ground"``; see `captions.parse_caption`.
    n
        Number of images.
    seed
        The seed of the noise that the images start from.
    steps
        Number of Euler steps.
    guidance
        How far to go beyond what the model draws without a caption; 1 switches guidance off.

    Returns
    -------
    xarray.Dataset
        ``pixels (image, y_px, x_px, rgb)`` uint8; the attributes hold caption, seed, steps and guidance.

    Raises
    ------
    SpectralToolkitError
        If the caption is not understood, or ``n`` or ``steps`` is not positive.
    """
    import torch

    try:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    except ImportError as error:
        raise SpectralToolkitError(
            "Generating images needs diffusers, which is not installed: pip install 'spectral-toolkit[diffusers]'."
        ) from error
    folder = Path(__file__).parent / "weights" / "scenes-diffusion" / "transformer"
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    return sampled(model, caption, n, seed=seed, steps=steps, guidance=guidance)


def sampled(model: torch.nn.Module, caption: str, n: int, *, seed: int, steps: int, guidance: float) -> xarray.Dataset:
    """Generate images as `generate` does, with a transformer that is loaded already."""
    import numpy as np
    import torch
    import xarray

    from . import PATCH, flow
    from .captions import parse_caption

    n, steps, seed = whole("n", n, 1), whole("steps", steps, 1), whole("seed", seed, 0, 2**63 - 1)
    guidance = number("guidance", guidance)
    told = np.tile(parse_caption(caption), (n, 1))
    start = next(model.parameters())
    grid = (96 // PATCH, 96 // PATCH)
    x = torch.randn(n, grid[0] * grid[1], 3 * PATCH**2, generator=torch.Generator().manual_seed(seed)).to(start)
    levels = torch.linspace(1, 0, steps + 1).to(start)
    with torch.no_grad():
        for level, following in pairwise(levels):
            noise = level.expand(n)
            clean = flow.predict(model, x, noise, told, grid)
            if told.any() and guidance != 1:
                without = flow.predict(model, x, noise, np.zeros_like(told), grid)
                clean = without + guidance * (clean - without)
            x = x + (following - level) * (x - clean) / level
    values = (flow.to_pixels(x.float().cpu(), grid) * flow.STD + flow.MEAN).clamp(0, 1).permute(0, 2, 3, 1)
    return xarray.Dataset(
        {"pixels": (("image", "y_px", "x_px", "rgb"), (values * 255).round().to(torch.uint8).numpy())},
        coords={"image": np.array([f"generated_{index:04d}" for index in range(n)], dtype=str)},
        attrs={"caption": caption, "seed": seed, "steps": steps, "guidance": guidance},
    )
