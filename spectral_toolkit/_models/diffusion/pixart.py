"""PixArt-alpha (arXiv 2310.00426) and -sigma (arXiv 2403.04692): self-attention, and cross-attention to T5 states.

Only the self-attention (``attn1``) is captured. Positions are added, and computed for every grid, so any size works.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .patches import PatchModel
from .protocols import Inputs


@dataclass
class PixArtModel(PatchModel):
    """A ``PixArtTransformer2DModel`` with a VAE."""

    def find_layers(self) -> tuple[str, ...]:
        return self.attentions(".attn1")

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        config = self.config
        if self.reads_prompts:
            states, mask = self.encoded_prompt(do_classifier_free_guidance=False)[:2]
            told: Inputs = {"encoder_attention_mask": mask.to(self.device)}
        else:
            # One state is enough: the cross-attention gives the same for any number of equal states.
            states, told = self.zeros(1, config.caption_channels or config.cross_attention_dim), {}
        told["encoder_hidden_states"] = states.to(self.device, self.dtype)
        sizes = {"resolution": None, "aspect_ratio": None}
        if self.tower.use_additional_conditions:
            resolution, ratio = torch.tensor([size], dtype=self.dtype), torch.tensor([[size[0] / size[1]]])
            sizes = {"resolution": resolution.to(self.device), "aspect_ratio": ratio.to(resolution).to(self.device)}
        return {**told, "added_cond_kwargs": sizes}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        times = torch.full((len(latents),), timestep, device=latents.device)
        return self.tower(latents, timestep=times, return_dict=False, **conditioning)[0]
