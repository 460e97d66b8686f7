"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): image and text attend to each other.

Patches form the grid; text tokens are special tokens, ``text_0`` and so on, CLIP's before T5's. The model puts them
after the patches, and a capture puts them first. The last block discards its text states, so it has queries, keys and
values of text but no tokens. In some blocks of 3.5 the patches also attend to each other alone (``attn2``), which is a
separate layer without special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...errors import SpectralToolkitError
from ..untyped import Untyped
from .patches import PatchModel
from .protocols import Inputs
from .watching import Seen

T5_LENGTH = 256
"""Tokens of a prompt as T5 reads it, by diffusers' default; CLIP's 77 tokens come before them."""


@dataclass
class SD3Model(PatchModel):
    """An ``SD3Transformer2DModel`` with a VAE."""

    def __post_init__(self) -> None:
        self.special_tokens = tuple(f"text_{index}" for index in range(self._clip_length + T5_LENGTH))
        super().__post_init__()

    def find_layers(self) -> tuple[str, ...]:
        return tuple(name for name in self.attentions("") if name.rpartition(".")[2] in ("attn", "attn2"))

    def special_tokens_of(self, layer: str, quantity: str, size: tuple[int, int] | None = None) -> tuple[str, ...]:
        alone = layer.endswith(".attn2") or (quantity == "token" and bool(self.block_of(layer).context_pre_only))
        return () if alone else self.special_tokens

    def check_size(self, size: tuple[int, int]) -> None:
        config = self.config
        largest = (config.pos_embed_max_size or max(size)) * self.patch_size[0]
        if max(size) > largest:
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}: it has positions for {config.pos_embed_max_size} patches in "
                f"each direction; the nearest is {(min(size[0], largest), min(size[1], largest))}."
            )

    def tokens_of(self, layer: str, seen: Seen) -> Seen:
        n = len(self.special_tokens_of(layer, "key"))
        if not n:
            return seen
        parts = (torch.cat([part[..., -n:, :], part[..., :-n, :]], -2) for part in (seen.query, seen.key, seen.value))
        return replace(seen, **dict(zip(("query", "key", "value"), parts, strict=True)))

    def token_of(self, layer: str, output: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        text, patches = output
        return torch.cat([text, patches], 1) if self.special_tokens_of(layer, "token") else patches

    # --- text --------------------------------------------------------------------------------------------------------

    @property
    def _clip_length(self) -> int:
        return int(getattr(self.pipeline, "tokenizer_max_length", 77))

    def _reader(self, ending: str) -> tuple[Untyped, Untyped] | None:
        found = (getattr(self.pipeline, name + ending, None) for name in ("tokenizer", "text_encoder"))
        tokenizer, encoder = found
        return None if tokenizer is None or encoder is None else (tokenizer, encoder)

    @property
    def missing_encoders(self) -> tuple[str, ...]:
        return tuple(f"text_encoder{ending}" for ending in ("", "_2", "_3") if self._reader(ending) is None)

    @property
    def reads_prompts(self) -> bool:
        return len(self.missing_encoders) < 3

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        if self._reader("") and self._reader("_2"):
            # diffusers itself uses zeros where there is no T5.
            every: Inputs = {"prompt_2": None, "prompt_3": None, "max_sequence_length": T5_LENGTH}
            states, _, pooled, _ = self.encoded_prompt(**every, do_classifier_free_guidance=False)
        else:
            states, pooled = self._pieces()
        told = {"encoder_hidden_states": states, "pooled_projections": pooled}
        return {name: part.to(self.device, self.dtype) for name, part in told.items()}

    def _pieces(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Text states where a CLIP is missing, which the pipeline cannot compute: zeros take its place."""
        config = self.config
        states = self.zeros(len(self.special_tokens), config.joint_attention_dim)
        pooled = self.zeros(config.pooled_projection_dim)
        for ending in ("", "_2"):
            if reader := self._reader(ending):
                found = reader[1](self._ids(reader[0], self._clip_length), output_hidden_states=True)
                hidden, summary = found.hidden_states[-2], found[0]
                # The first CLIP's states come first, the second's last: the missing part is as wide as the remaining
                # width.
                start = 0 if not ending else config.pooled_projection_dim - summary.shape[-1]
                states[:, : self._clip_length, start : start + hidden.shape[-1]] = hidden
                pooled[:, start : start + summary.shape[-1]] = summary
        if reader := self._reader("_3"):
            states[:, self._clip_length :] = reader[1](self._ids(reader[0], T5_LENGTH))[0]
        return states, pooled

    def _ids(self, tokenizer: Untyped, length: int) -> torch.Tensor:
        settings = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return tokenizer([self.prompt], max_length=length, **settings).input_ids.to(self.device)

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        return self.tower(latents, timestep=self.times(latents, timestep), return_dict=False, **conditioning)[0]
