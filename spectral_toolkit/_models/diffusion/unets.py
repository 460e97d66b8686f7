"""UNets of Stable Diffusion 1.x, 2.x and XL: their self-attention, at all of their resolutions.

Layers are the ``attn1`` of every transformer block, named as the UNet names them and ordered as they run: down, middle,
up. Cross-attention to the prompt (``attn2``) is not captured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import UnsupportedModelError
from ..model import LayerShape
from ..untyped import Config, Settings
from .base import DiffusionModel, FurtherInputsError
from .protocols import Inputs, whole_number

TEXT_LENGTH = 77
"""Number of tokens to which CLIP pads a prompt."""


def is_xl(config: Settings) -> bool:
    """Whether a UNet also takes sizes and a pooled prompt, like SDXL."""
    return config.get("addition_embed_type") == "text_time"


@dataclass
class UNetModel(DiffusionModel):
    """A ``UNet2DConditionModel`` with a VAE."""

    def __post_init__(self) -> None:
        self._refuse_others()
        super().__post_init__()

    def _refuse_others(self) -> None:
        config = self.config
        self.check_channels(config.in_channels)
        needs = {
            "class_embed_type": (None,),
            "num_class_embeds": (None,),
            "addition_embed_type": (None, "text_time"),
            "encoder_hid_dim_type": (None, "text_proj"),
        }
        for setting, known in needs.items():
            # The attribute and not the item, because loading an IP-Adapter changes only the attribute.
            if (value := getattr(config, setting, None)) not in known:
                refusal = UnsupportedModelError if "ip" in str(value).split("_") else FurtherInputsError
                raise refusal(
                    f"{self.name} ({type(self.tower).__name__}) needs more than images and a prompt "
                    f"({setting}={value!r}): unload its additions (IP-Adapter: pipe.unload_ip_adapter()), or "
                    "use a text-to-image UNet."
                )

    def find_layers(self) -> tuple[str, ...]:
        names = [name for name, module in self.tower.named_modules() if name.endswith(".attn1") and _is_self(module)]
        stages = {
            "down_blocks": 0,
            "mid_block": 1,
            "up_blocks": 2,
        }  # which is not the order in which modules are registered
        return tuple(sorted(names, key=lambda name: stages[name.partition(".")[0]]))

    @property
    def _halvings(self) -> int:
        return sum(block.downsamplers is not None for block in _blocks(self.tower, "down_blocks"))

    @property
    def size_step(self) -> tuple[int, int]:
        # The UNet itself would pad a grid that cannot be halved, and patches would then no longer match the image.
        step = self.patch_size[0] * 2**self._halvings
        return (step, step)

    @property
    def reads_prompts(self) -> bool:
        if not is_xl(self.config):
            return super().reads_prompts
        # The pooled prompt comes from the second encoder, which is the only one of the refiner.
        first, second = (
            [getattr(self.pipeline, f"{name}{number}", None) is not None for name in ("text_encoder", "tokenizer")]
            for number in ("", "_2")
        )
        return all(second) and first[0] == first[1]

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        attention = self.attention_of(layer)
        cell = self.patch_size[0] * 2 ** self._level(layer)
        heads, inner, out = (whole_number(attention, name) for name in ("heads", "inner_dim", "out_dim"))
        return LayerShape((size[0] // cell, size[1] // cell), heads, inner // heads, inner // heads, out)

    def _level(self, layer: str) -> int:
        """How often the image has been halved before the layer."""
        stage, place = layer.split(".")[:2]
        if stage == "down_blocks":
            return sum(block.downsamplers is not None for block in _blocks(self.tower, stage)[: int(place)])
        doublings = 0
        if stage == "up_blocks":
            doublings = sum(block.upsamplers is not None for block in _blocks(self.tower, stage)[: int(place)])
        return self._halvings - doublings

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        config = self.config
        pooled = None
        if self.reads_prompts:
            encoded = self.encoded_prompt(do_classifier_free_guidance=False)
            states = encoded[0]
            pooled = encoded[2] if is_xl(config) else None
        else:
            states = torch.zeros(1, TEXT_LENGTH, _text_width(config), device=self.device)
        told: Inputs = {"encoder_hidden_states": states.to(self.device, self.dtype)}
        if is_xl(config):
            told["added_cond_kwargs"] = self._sizes_and_pooled(size, pooled)
        return told

    def _sizes_and_pooled(self, size: tuple[int, int], pooled: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """SDXL's further inputs: the size of the image, no cropping, and the wanted size."""
        config = self.config
        # The refiner takes one number instead of the wanted size: the aesthetic score of the image.
        base, refiner = [*size, 0, 0, *size], [*size, 0, 0, 6.0]
        width = config.addition_time_embed_dim
        known = [len(ids) * width for ids in (base, refiner)]
        rest = config.projection_class_embeddings_input_dim
        if pooled is None:
            encoder = getattr(self.pipeline, "text_encoder_2", None)
            projected = getattr(getattr(encoder, "config", None), "projection_dim", None) or rest - known[0]
            pooled = torch.zeros(1, projected)
        numbers = dict(zip(known, (base, refiner), strict=True)).get(rest - pooled.shape[-1])
        if numbers is None:
            raise UnsupportedModelError(
                f"{self.name} takes {rest - pooled.shape[-1]} numbers about sizes, but {known[0]} or {known[1]} are "
                "known: it is neither SDXL's base nor its refiner."
            )
        ids = torch.tensor([numbers], dtype=self.dtype, device=self.device)
        return {"text_embeds": pooled.to(self.device, self.dtype), "time_ids": ids}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        return self.tower(latents, timestep, return_dict=False, **conditioning)[0]


def _blocks(tower: torch.nn.Module, stage: str) -> list[torch.nn.Module]:
    return list(tower.get_submodule(stage).children())


def _is_self(attention: torch.nn.Module) -> bool:
    return not attention.is_cross_attention


def _text_width(config: Config) -> int:
    width = config.get("encoder_hid_dim") or config.cross_attention_dim
    return int(width[0] if isinstance(width, tuple | list) else width)
