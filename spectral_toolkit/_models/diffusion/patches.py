"""Transformers of diffusers, with the same grid of latent patches in every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..model import LayerShape
from .base import DiffusionModel
from .encoding import latent_factor
from .protocols import whole_number


@dataclass
class PatchModel(DiffusionModel):
    """A denoiser that cuts latents into patches; a family defines its layers and its inputs."""

    def __post_init__(self) -> None:
        self.check_channels(self.config.in_channels // self.packed**2)
        super().__post_init__()

    @property
    def packed(self) -> int:
        """Latent positions, in each direction, that are packed into the channels before the transformer sees them."""
        return 1

    def attentions(self, ending: str) -> tuple[str, ...]:
        """Names of the modules with this ending, in order of execution, which is the order of blocks."""
        return tuple(name for name, module in self.tower.named_modules() if name.endswith(ending))

    @property
    def patch_size(self) -> tuple[int, int]:
        side = latent_factor(self.vae) * self.config.patch_size * self.packed
        return (side, side)

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        attention = self.attention_of(layer)
        height, width = self.patch_size
        heads = whole_number(attention, "heads")
        channels = whole_number(attention, "inner_dim") // heads
        grid = (size[0] // height, size[1] // width)
        return LayerShape(grid, heads, channels, channels, whole_number(self.tower, "inner_dim"))

    def times(self, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        """The timestep of every image, in the precision of the latents."""
        return torch.full((len(latents),), timestep, dtype=latents.dtype, device=latents.device)

    def zeros(self, *shape: int) -> torch.Tensor:
        """The substitute for text states where nothing reads a prompt."""
        return torch.zeros(1, *shape, dtype=self.dtype, device=self.device)
