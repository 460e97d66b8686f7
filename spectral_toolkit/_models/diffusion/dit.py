"""DiT (Peebles & Xie 2023, arXiv 2212.09748): conditioned on a class instead of a text, with self-attention only.

A prompt is the name or the number of a class. The empty prompt is the null class, which replaces one class in ten
during training; guidance is therefore off. Timesteps and classes enter through adaptive norms, not through attention.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch

from ...errors import SpectralToolkitError
from .patches import PatchModel
from .protocols import Inputs


@dataclass
class DiTModel(PatchModel):
    """A ``DiTTransformer2DModel`` with a VAE."""

    def find_layers(self) -> tuple[str, ...]:
        return self.attentions(".attn1")

    def check_size(self, size: tuple[int, int]) -> None:
        if size[0] != size[1]:
            step = self.patch_size[0]
            side = max(step, round(sum(size) / 2 / step) * step)
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}: diffusers' {type(self.tower).__name__} takes square images "
                f"only; the nearest is {(side, side)}."
            )

    @property
    def classes(self) -> int:
        """Number of classes; the null class has the next number."""
        return self.config.num_embeds_ada_norm

    @property
    def labels(self) -> dict[str, int]:
        """Names of the classes, if the pipeline has them."""
        return dict(getattr(self.pipeline, "labels", None) or {})

    @property
    def reads_prompts(self) -> bool:
        return True  # at least their numbers are known

    @property
    def text(self) -> str:
        return "a class" if self.prompt else "the null class"

    def read_prompt(self, prompt: object) -> str:
        self.number_of(prompt)
        return str(prompt)

    def number_of(self, prompt: object) -> int:
        """The number of a class by its name or number; that of no class for an empty prompt."""
        labels = self.labels
        if prompt == "":
            return self.classes
        if isinstance(prompt, str) and prompt in labels:
            return labels[prompt]
        number = int(prompt) if isinstance(prompt, str) and prompt.isdecimal() else prompt
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < self.classes:
            return number
        close = difflib.get_close_matches(str(prompt), labels, 3, 0.5)
        names = f" or a name of pipeline.labels ({', '.join([*close, '...'])})" if labels else ""
        raise SpectralToolkitError(
            f"prompt={prompt!r} is not a class of {self.name}: expected a number from 0 to {self.classes - 1}{names}, "
            "or an empty text for no class."
        )

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        return {"class_labels": torch.tensor([self.number_of(self.prompt)], device=self.device)}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        times = torch.full((len(latents),), timestep, device=latents.device)
        return self.tower(latents, times, return_dict=False, **conditioning)[0]
