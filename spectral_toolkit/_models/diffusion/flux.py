"""Flux transformers (Black Forest Labs 2024): image and text attend to each other, and positions are rotary.

A layer has the name of its block, as each block has one attention: first the blocks with separate weights for text and
image, then those that treat all tokens alike (``single_transformer_blocks``). Patches form the grid; text tokens, which
all have one position, are special tokens, ``text_0`` and so on. Latents are packed 2 x 2 into one token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, Unpack

import torch
from torch.nn.functional import pixel_shuffle

from ...errors import SpectralToolkitError
from ..model import UNROTATED, Model
from ..untyped import untyped
from .base import Chosen
from .encoding import latent_factor
from .forms import packed
from .noising import steps_of
from .patches import PatchModel
from .protocols import Inputs
from .recording import WatchedModel
from .watching import Rotary

OWN_CELLS = 128
"""Latent positions, in each direction, of an image of diffusers' default size; the configuration names no size."""
TEXT_LENGTH = {True: 512, False: 256}
"""Tokens of a prompt as T5 reads it, for FLUX.1 dev, which takes a guidance, and for schnell, which takes no more."""


def blocks_of(tower: torch.nn.Module) -> tuple[str, ...]:
    """Names of a Flux transformer's blocks in order of execution."""
    kinds = ("transformer_blocks", "single_transformer_blocks")
    return tuple(f"{kind}.{index}" for kind in kinds for index in range(len(getattr(tower, kind))))


class FluxBlocks(WatchedModel):
    """What all models on a Flux transformer share: a layer is a block, text comes first, and positions are rotary."""

    def attention_of(self, layer: str) -> torch.nn.Module:
        return self.tower.get_submodule(f"{layer}.attn")

    def block_of(self, layer: str) -> torch.nn.Module:
        return self.tower.get_submodule(layer)

    def token_of(self, layer: str, output: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.cat(output, 1)

    def unrotated(self, part: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        from diffusers.models.embeddings import apply_rotary_emb

        assert rotary is not None
        turn = untyped(apply_rotary_emb)  # annotated as if it took and gave something else
        return turn(part, (rotary[0], -rotary[1]), sequence_dim=2)


@dataclass
class FluxModel(FluxBlocks, PatchModel):
    """A ``FluxTransformer2DModel`` with a VAE.

    Attributes
    ----------
    guidance
        The guidance of a model that was distilled from guidance, such as FLUX.1 dev: 1 by default, which means no
        guidance. Other models take none.
    """

    guidance: float = 1.0

    def __post_init__(self) -> None:
        self.special_tokens = tuple(f"text_{index}" for index in range(TEXT_LENGTH[self._guided]))
        self.quantities = (*Model.quantities, *UNROTATED)
        super().__post_init__()

    def at(self, *, guidance: float | None = None, **settings: Unpack[Chosen]) -> Self:
        """As `DiffusionModel.at`, with ``guidance``: a number of at least 0 for a distilled model."""
        other = super().at(**settings)
        if guidance is not None:
            if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance < float("inf"):
                raise SpectralToolkitError(f"guidance={guidance!r} is not a number of at least 0.")
            if not self._guided:
                raise SpectralToolkitError(
                    f"guidance={guidance!r} cannot be used: {self.name} takes no guidance, so leave it out."
                )
            other.guidance = float(guidance)
        return other

    @property
    def _guided(self) -> bool:
        return bool(self.config.guidance_embeds)

    @property
    def provenance(self) -> dict[str, str | int | float]:
        told = {"guidance": f"told {self.guidance:g}, as it is distilled"} if self._guided else {}
        return {**super().provenance, **told}

    @property
    def packed(self) -> int:
        return 2

    @property
    def own_size(self) -> tuple[int, int]:
        if self.processor.size is not None:
            return self.processor.size
        side = int(getattr(self.pipeline, "default_sample_size", OWN_CELLS)) * latent_factor(self.vae)
        return (side, side)

    def find_layers(self) -> tuple[str, ...]:
        return blocks_of(self.tower)

    @property
    def reads_prompts(self) -> bool:
        names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        return all(getattr(self.pipeline, name, None) is not None for name in names)

    @property
    def sampling(self) -> Inputs:
        return {"max_sequence_length": len(self.special_tokens)}

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        config = self.config
        length = len(self.special_tokens)
        if self.reads_prompts:
            states, pooled = self.encoded_prompt(prompt_2=None, max_sequence_length=length)[:2]
        else:
            states, pooled = self.zeros(length, config.joint_attention_dim), self.zeros(config.pooled_projection_dim)
        return {
            "encoder_hidden_states": states.to(self.device, self.dtype),
            "pooled_projections": pooled.to(self.device, self.dtype),
        }

    def clean(self, predicted: torch.Tensor, noisy: torch.Tensor, timestep: int) -> torch.Tensor | None:
        rows, columns = (side // 2 for side in noisy.shape[2:])
        unpacked = pixel_shuffle(predicted.transpose(1, 2).unflatten(2, (rows, columns)), 2)
        return super().clean(unpacked, noisy, timestep)

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        grid = (latents.shape[2] // 2, latents.shape[3] // 2)
        places = torch.stack([torch.zeros(grid), *torch.meshgrid(*map(torch.arange, grid), indexing="ij")], -1)
        return self.tower(
            packed(latents),
            timestep=self.times(latents, timestep) / steps_of(self.scheduler),
            img_ids=places.reshape(-1, 3).to(latents),
            txt_ids=latents.new_zeros(len(self.special_tokens), 3),
            guidance=self.times(latents, self.guidance) if self._guided else None,
            return_dict=False,
            **conditioning,
        )[0]
