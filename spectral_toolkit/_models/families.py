"""The table of supported models: support, error messages, documentation and tests all read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from . import entries, general
from .diffusion import families as denoisers
from .masked_autoencoders import MaskedAutoencoderModel
from .model import Model
from .packed import PixtralModel, Siglip2Model
from .processing import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Processing
from .transformers_encoders import EncoderModel
from .untyped import Config, config_of

_IMAGENET = Processing(IMAGENET_MEAN, IMAGENET_STD)
_CLIP = Processing(CLIP_MEAN, CLIP_STD)
_HALF = Processing(HALF, HALF, resample="bilinear")


@dataclass(frozen=True)
class Family:
    """One line of the table.

    Attributes
    ----------
    label
        Its usual name.
    tower
        Name of the transformers class that sees the images (a subclass counts).
    model_type
        Its name in configuration files.
    attention
        Name of the class of its attention modules.
    processing
        Image settings where the model has none.
    special
        Labels of its tokens that are not patches, from its configuration.
    sizes
        ``"own"``, ``"interpolated"``, ``"any"`` or ``"square"``; see ``EncoderModel``. A function where it depends on
        the model.
    rotary
        Whether positions enter by rotating queries and keys.
    model
        The class with its special treatment.
    note
        What a capture does differently from the plain model.
    """

    label: str
    tower: str
    model_type: str
    attention: str
    processing: Processing
    special: Callable[[Config], tuple[str, ...]]
    sizes: str | Callable[[Config], str] = "interpolated"
    rotary: bool = False
    model: type[EncoderModel] = EncoderModel
    note: str = ""

    def describe(self) -> str:
        """One line for the documentation."""
        sizes = {"own": "its own image size only", "interpolated": "any size, by interpolating position embeddings"}
        size = "the size its configuration allows" if callable(self.sizes) else sizes.get(self.sizes, "any size")
        facts = [size, *(["rotary positions"] if self.rotary else []), *([self.note] if self.note else [])]
        return f"{self.label} (`{self.tower}`): {'; '.join(facts)}"


def _none(config: Config) -> tuple[str, ...]:
    return ()


def _cls(config: Config) -> tuple[str, ...]:
    return ("cls",)


def _cls_distillation(config: Config) -> tuple[str, ...]:
    return ("cls", "distillation")


def _cls_registers(config: Config) -> tuple[str, ...]:
    return ("cls", *(f"register_{index}" for index in range(config.num_register_tokens)))


def _aimv2_sizes(config: Config) -> str:
    return "any" if config.is_native else "own"


FAMILIES = (
    Family("ViT", "ViTModel", "vit", "ViTAttention", _HALF, _cls),
    Family("DeiT", "DeiTModel", "deit", "DeiTAttention", _IMAGENET, _cls_distillation),
    Family("DINOv2", "Dinov2Model", "dinov2", "Dinov2Attention", _IMAGENET, _cls, sizes="square"),
    Family(
        "DINOv2 with registers",
        "Dinov2WithRegistersModel",
        "dinov2_with_registers",
        "Dinov2WithRegistersAttention",
        _IMAGENET,
        _cls_registers,
        sizes="square",
    ),
    Family(
        "DINOv3 ViT",
        "DINOv3ViTModel",
        "dinov3_vit",
        "DINOv3ViTAttention",
        _IMAGENET,
        _cls_registers,
        sizes="any",
        rotary=True,
    ),
    Family("CLIP vision", "CLIPVisionModel", "clip_vision_model", "CLIPAttention", _CLIP, _cls),
    Family("SigLIP vision", "SiglipVisionModel", "siglip_vision_model", "SiglipAttention", _HALF, _none),
    Family(
        "SigLIP 2 vision",
        "Siglip2VisionModel",
        "siglip2_vision_model",
        "Siglip2Attention",
        _HALF,
        _none,
        sizes="any",
        model=Siglip2Model,
        note="images of one size, so no patch is padding",
    ),
    Family(
        "ViT-MAE",
        "ViTMAEModel",
        "vit_mae",
        "ViTMAEAttention",
        _IMAGENET,
        _cls,
        model=MaskedAutoencoderModel,
        note="no patch is masked, none is shuffled; the decoder is left out",
    ),
    Family(
        "BEiT",
        "BeitModel",
        "beit",
        "BeitAttention",
        _HALF,
        _cls,
        sizes="any",
        note="the relative position bias is captured as attention_bias",
    ),
    Family("I-JEPA", "IJepaModel", "ijepa", "IJepaAttention", _IMAGENET, _none),
    Family(
        "AIMv2 vision", "Aimv2VisionModel", "aimv2_vision_model", "Aimv2Attention", _CLIP, _none, sizes=_aimv2_sizes
    ),
    Family(
        "Pixtral vision",
        "PixtralVisionModel",
        "pixtral",
        "PixtralAttention",
        _CLIP,
        _none,
        sizes="any",
        rotary=True,
        model=PixtralModel,
        note="one image at a time, because it packs a batch into one sequence",
    ),
    Family(
        "InternVL vision",
        "InternVLVisionModel",
        "internvl_vision",
        "InternVLVisionAttention",
        _IMAGENET,
        _cls,
        sizes="square",
    ),
    Family("ViT-MSN", "ViTMSNModel", "vit_msn", "ViTMSNAttention", _IMAGENET, _cls),
)


def supported() -> str:
    """The supported families in one phrase."""
    labels = [family.label for family in FAMILIES]
    return (
        f"{', '.join(labels[:-1])} and {labels[-1]}, alone, under a task head, or as the vision tower of a multimodal "
        f"model (CLIP, SigLIP, LLaVA and the like); and {denoisers.supported()}"
    )


def unsupported(name: str, reason: str = "is not a supported model") -> UnsupportedModelError:
    """The error for a model that is not in the table."""
    return UnsupportedModelError(f"{name} {reason}: queries, keys and values can be captured from {supported()}.")


def find_tower(module: torch.nn.Module) -> tuple[Family, torch.nn.Module] | None:
    """The part of a model that sees images, with its line of the table; the outermost if several match.

    One for clips (Video-LLaVA) comes after those for images.
    """
    by_tower = {family.tower: family for family in FAMILIES}
    for _, part in sorted(module.named_modules(), key=lambda item: "video" in item[0]):
        for base in type(part).__mro__:
            if base.__name__ in by_tower and isinstance(part, PreTrainedModel):
                return by_tower[base.__name__], part
    return None


_OF_IMAGES = (
    "image_size",
    "patch_size",
    "num_channels",
    "in_channels",
    "vision_config",
    "backbone_config",
    "num_patches",
)
"""Settings of which a model of images has at least one, at any depth."""


def config_sees_images(config: object) -> bool:
    """Whether a configuration speaks of images, at any depth; asked before its weights are fetched."""
    return any(getattr(part, name, None) is not None for part in _configs(config) for name in _OF_IMAGES)


def _configs(config: object) -> Iterator[object]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None:
            yield from _configs(inner)


def build(
    module: torch.nn.Module,
    processing: Callable[[Processing], Processing],
    told: entries.Told,
    *,
    name: str,
    revision: str = "",
) -> Model:
    """Wrap a live module as its family requires; ``processing`` turns the family's image settings into the model's.

    A module that no line of the table speaks of is watched: see ``general.py``.
    """
    found = find_tower(module if told.tower is None else entries.part_named(module, told.tower))
    if found is None or told.overrides:
        return general.make(module, entries.find(module, told), processing, told, name=name, revision=revision)
    family, tower = found
    config = config_of(tower)
    if (n_channels := getattr(config, "num_channels", 3)) != 3:
        raise UnsupportedModelError(
            f"{type(tower).__name__} takes images of {n_channels} channels; expected 3: images are read as RGB."
        )
    return family.model(
        family=family.label,
        module=module,
        tower=tower,
        processor=processing(family.processing),
        special_tokens=family.special(config),
        attention_class=family.attention,
        sizes=family.sizes if isinstance(family.sizes, str) else family.sizes(config),
        rotary=family.rotary,
        name=name,
        revision=revision,
    )
