"""Encoders that do not map a batch of images (image, channel, height, width) to one row of tokens each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from .transformers_encoders import EncoderModel


@dataclass
class PixtralModel(EncoderModel):
    """Pixtral packs a whole batch into one sequence under a block mask, so it gets one image at a time."""

    images_at_once: ClassVar[int | None] = 1


@dataclass
class Siglip2Model(EncoderModel):
    """SigLIP 2 takes cut-out patches, a mask of padding and the grid of each image.

    Images of a capture share one size, so no patch is padding and the mask admits every patch.
    """

    @property
    def _size(self) -> tuple[int, int]:
        side = math.isqrt(self.config.num_patches) * self.config.patch_size
        return (side, side)

    def inputs(self, pixels: np.ndarray) -> dict[str, object]:
        values = self.processor.normalise(pixels, self.device, self.dtype)
        n, channels, height, width = values.shape
        (rows, columns), patch = (height // self.patch_size[0], width // self.patch_size[1]), self.config.patch_size
        # The order within a patch is row, column, channel (transformers' convert_image_to_patches).
        patches = values.view(n, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
        return {
            "pixel_values": patches.reshape(n, rows * columns, patch * patch * channels),
            "pixel_attention_mask": torch.ones(n, rows * columns, dtype=torch.int32, device=self.device),
            "spatial_shapes": torch.tensor([[rows, columns]] * n, device=self.device),
        }
