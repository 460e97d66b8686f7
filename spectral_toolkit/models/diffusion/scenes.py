"""The bundled generative model: a Flux transformer that sees patches of pixels, at one level of noise, told a caption.

Its layers are watched as those of `FluxModel` are; caption tokens are its special tokens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import SpectralToolkitError, UnsupportedModelError
from ...scenes import PATCH, flow
from ...scenes.captions import TOKENS, parse_caption
from ..model import UNROTATED, LayerShape, Model
from ..processing import Processing
from .flux import FluxBlocks, blocks_of
from .noising import noise_of


@dataclass
class ScenesDiffusionModel(FluxBlocks):
    """The bundled generative model; see `spectral_toolkit.scenes.flow`.

    Attributes
    ----------
    noise
        Level in 0..1 at which pictures are shown: ``(1 - noise) * picture + noise * gaussian``.
    noise_seed
        Each picture's noise follows from this number and the picture's bytes alone.
    caption
        What the model is told is in every picture; empty by default.
    """

    noise: float = 0.1
    noise_seed: int = 0
    caption: str = ""

    def __post_init__(self) -> None:
        self.layers = blocks_of(self.tower)
        self.special_tokens = tuple(f"caption_{index}" for index in range(TOKENS))
        self.quantities = (*Model.quantities, *UNROTATED)

    def at(self, *, noise: float | None = None, caption: str | None = None, seed: int | None = None) -> Any:
        """The same model shown pictures at another noise level, caption or seed of the noise."""
        level = self.noise if noise is None else float(noise)
        if not 0 <= level <= 1:
            raise SpectralToolkitError(f"noise={noise!r} is not a noise level: expected 0 (clean) to 1 (noise alone).")
        words = self.caption if caption is None else caption
        parse_caption(words)
        return replace(self, noise=level, caption=words, noise_seed=self.noise_seed if seed is None else int(seed))

    @property
    def patch_size(self) -> tuple[int, int]:
        return (PATCH, PATCH)

    @property
    def own_size(self) -> tuple[int, int]:
        return self.processor.size or (96, 96)

    def check_size(self, size: tuple[int, int]) -> None:
        pass  # rotary positions: any grid

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        config: Any = self.tower.config
        heads, channels = config.num_attention_heads, config.attention_head_dim
        return LayerShape((size[0] // PATCH, size[1] // PATCH), heads, channels, channels, heads * channels)

    @property
    def implementation(self) -> str:
        return f"{super().implementation}, noise {self.noise:g} of seed " + (
            f"{self.noise_seed}, caption {self.caption!r}"
        )

    def config_sha256(self) -> str:
        config: Any = self.tower.config
        settings = {key: value for key, value in dict(config).items() if not key.startswith("_")}
        shown = [settings, self.noise, self.noise_seed, self.caption]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()

    def untrained(self, seed: int) -> tuple[Model, tuple[str, ...]]:
        config: Any = self.tower.config
        heads = config.num_attention_heads
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tower: Any = flow.build(config.num_layers, heads, heads * config.attention_head_dim)
        # diffusers warns of any change of precision, even to the one the weights have.
        tower.to(self.device).eval()
        if tower.dtype != self.dtype:
            tower.to(self.dtype)
        return replace(self, module=tower, tower=tower, _hash=None), ()

    def forward(self, pixels: np.ndarray) -> Any:
        clean = flow.to_tokens(self.processor.normalise(pixels, self.device, self.dtype))
        noise = np.stack([noise_of(picture, (self.noise_seed,), tuple(clean.shape[1:])) for picture in pixels])
        noisy = (1 - self.noise) * clean + self.noise * torch.from_numpy(noise).to(clean)
        counts = np.tile(parse_caption(self.caption), (len(pixels), 1))
        grid = (pixels.shape[1] // PATCH, pixels.shape[2] // PATCH)
        return flow.predict(self.tower, noisy, torch.full((len(pixels),), self.noise).to(clean), counts, grid)


def load_scenes_diffusion(folder: Path, device: torch.device, dtype: torch.dtype | None) -> ScenesDiffusionModel:
    """Load the bundled model; weights are stored in float16 and computed with in float32 unless ``dtype`` says else."""
    try:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    except ImportError as error:
        raise UnsupportedModelError(
            "The model 'scenes-diffusion' needs diffusers, which is not installed: pip install "
            "'spectral-toolkit[diffusers]'."
        ) from error
    tower: Any = FluxTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=dtype or torch.float32)
    record = json.loads((folder / "training.json").read_text())
    tower.to(device).eval()
    size = record["recipe"]["size"]
    shown = Processing((flow.MEAN,) * 3, (flow.STD,) * 3, size=(size, size), source="of the model's training")
    return ScenesDiffusionModel(
        "scenes-diffusion", "scenes diffusion", tower, tower, shown, noise=record.get("noise", 0.1)
    )
