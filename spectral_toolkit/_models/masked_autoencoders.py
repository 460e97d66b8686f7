"""Masked autoencoders: by default they hide three of four patches and shuffle the rest; a capture needs them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from .model import Recorder
from .transformers_encoders import EncoderModel


@dataclass
class MaskedAutoencoderModel(EncoderModel):
    """A ViT-MAE encoder, run with every patch visible and in its place."""

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        ratio = self.config.mask_ratio
        self.config.mask_ratio = 0.0
        try:
            with super().recording(recorder):
                yield
        finally:
            self.config.mask_ratio = ratio

    def inputs(self, pixels: np.ndarray) -> dict[str, object]:
        inputs = super().inputs(pixels)
        n_patches = (pixels.shape[1] // self.patch_size[0]) * (pixels.shape[2] // self.patch_size[1])
        # The model keeps patches in the order of this noise: increasing noise leaves them row by row.
        noise = torch.linspace(0, 1, n_patches, device=self.device)
        return {**inputs, "noise": noise.expand(len(pixels), -1)}
