"""The bundled generative model: a Flux transformer that sees patches of pixels, noised as in its training.

Its layers are watched like those of `FluxModel`; caption tokens are its special tokens. There is no autoencoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ...errors import UnsupportedModelError
from ...scenes import PATCH, flow
from ...scenes.captions import TOKENS, parse_caption
from ..model import UNROTATED, LayerShape, Model
from ..processing import Processing
from ..untyped import untyped
from .base import DiffusionModel
from .flux import FluxBlocks, blocks_of
from .noising import steps_of
from .protocols import Inputs


@dataclass
class ScenesDiffusionModel(FluxBlocks, DiffusionModel):
    """The bundled generative model; see `spectral_toolkit.scenes.flow`.

    A timestep of 700 mixes 300 parts of the image with 700 parts of noise. Prompts are captions of scenes, such as "two
    rings and a star".
    """

    def __post_init__(self) -> None:
        self.special_tokens = tuple(f"caption_{index}" for index in range(TOKENS))
        self.quantities = (*Model.quantities, *UNROTATED)
        super().__post_init__()

    def find_layers(self) -> tuple[str, ...]:
        return blocks_of(self.tower)

    def read_prompt(self, prompt: object) -> str:
        parse_caption(prompt)
        return str(prompt)

    @property
    def reads_prompts(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return "the model's own captions"

    @property
    def patch_size(self) -> tuple[int, int]:
        return (PATCH, PATCH)

    @property
    def own_size(self) -> tuple[int, int]:
        return self.processor.size or (96, 96)

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        config = self.config
        heads, channels = config.num_attention_heads, config.attention_head_dim
        return LayerShape((size[0] // PATCH, size[1] // PATCH), heads, channels, channels, heads * channels)

    def untrained_tower(self) -> torch.nn.Module:
        config = self.config
        heads = config.num_attention_heads
        return flow.build(config.num_layers, heads, heads * config.attention_head_dim)

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        """Images as patches (image, patch, 192), because the model sees pixels."""
        return flow.to_tokens(self.processor.normalise(pixels, self.device, self.dtype))

    def denoised(
        self, predicted: torch.Tensor, noisy: torch.Tensor, timestep: int, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        values = flow.to_pixels(predicted, (size[0] // PATCH, size[1] // PATCH))
        return {"denoised": self.processor.shown(values).permute(0, 2, 3, 1)}

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        return {"counts": parse_caption(self.prompt), "grid": (size[0] // PATCH, size[1] // PATCH)}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        level = torch.full((len(latents),), timestep / steps_of(self.scheduler)).to(latents)
        counts, grid = cast("tuple[np.ndarray, tuple[int, int]]", (conditioning["counts"], conditioning["grid"]))
        return flow.predict(self.tower, latents, level, np.tile(counts, (len(latents), 1)), grid)


def load_scenes_diffusion(folder: Path, device: torch.device, dtype: torch.dtype | None) -> ScenesDiffusionModel:
    """Load the bundled model; weights are stored in float16, and by default computation is in float32."""
    try:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    except ImportError as error:
        raise UnsupportedModelError(
            "The model 'scenes-diffusion' needs diffusers, which is not installed: pip install "
            "'spectral-toolkit[diffusers]'."
        ) from error
    tower: torch.nn.Module = untyped(FluxTransformer2DModel).from_pretrained(
        folder / "transformer", torch_dtype=dtype or torch.float32
    )
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    tower.to(device).eval()
    size = record["recipe"]["size"]
    shown = Processing((flow.MEAN,) * 3, (flow.STD,) * 3, size=(size, size), source="of the model's training")
    scheduler = FlowMatchEulerDiscreteScheduler()
    return ScenesDiffusionModel(
        "scenes-diffusion",
        "scenes diffusion",
        tower,
        tower,
        shown,
        scheduler=scheduler,
        chosen=(round(record["noise"] * steps_of(scheduler)),) if "noise" in record else None,
    )
