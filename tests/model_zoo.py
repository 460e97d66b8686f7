"""One table of tiny models, one line per supported family (and per way of wrapping one); it drives all their tests.

Nothing is downloaded. Weights that transformers initialises with zeros (position embeddings of a ViT-MAE, tables of
relative positions, CLS tokens, biases, layer scales) are drawn at random, so that no test passes because of a hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers as tf

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}


@dataclass(frozen=True)
class Case:
    """A tiny model, and what a capture of it must say."""

    name: str
    family: str
    make: Callable[[], Any]
    special: tuple[str, ...]
    layers: tuple[str, str]
    other_size: tuple[int, int] | None = (24, 40)
    """A size the model was not made for and takes all the same; None if it takes only its own."""
    own_size: tuple[int, int] = (32, 32)
    projection: str = "o_proj"
    """The module in the attention that gets the heads' joined outputs."""
    rotary: bool = False
    biased: bool = False


def _build(model: Any, config: Any) -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(0)
        module = model(config())
        module.eval()
        with torch.no_grad():
            for parameter in module.parameters():
                # Large enough for attention to differ visibly from the average of all values.
                parameter.normal_(std=0.15)
        return module

    return make


def _config(kind: type, **changes: Any) -> Callable[[], Any]:
    return lambda: kind(**{**_BASE, **changes})


_CLS = ("cls",)
_PLAIN = ("layers.0", "layers.1")
_ENCODER = ("encoder.layers.0", "encoder.layers.1")

CASES = (
    Case("vit", "ViT", _build(tf.ViTModel, _config(tf.ViTConfig)), _CLS, _PLAIN),
    Case("deit", "DeiT", _build(tf.DeiTModel, _config(tf.DeiTConfig)), ("cls", "distillation"), _PLAIN),
    Case(
        "dinov2",
        "DINOv2",
        _build(tf.Dinov2Model, _config(tf.Dinov2Config)),
        _CLS,
        ("encoder.layer.0", "encoder.layer.1"),
    ),
    Case(
        "dinov2_with_registers",
        "DINOv2 with registers",
        _build(tf.Dinov2WithRegistersModel, _config(tf.Dinov2WithRegistersConfig, num_register_tokens=3)),
        ("cls", "register_0", "register_1", "register_2"),
        ("encoder.layer.0", "encoder.layer.1"),
    ),
    Case(
        "dinov3",
        "DINOv3 ViT",
        _build(tf.DINOv3ViTModel, _config(tf.DINOv3ViTConfig, num_register_tokens=2)),
        ("cls", "register_0", "register_1"),
        ("model.layer.0", "model.layer.1"),
        rotary=True,
    ),
    Case(
        "clip",
        "CLIP vision",
        _build(tf.CLIPVisionModel, _config(tf.CLIPVisionConfig)),
        _CLS,
        _ENCODER,
        projection="out_proj",
    ),
    Case(
        "siglip",
        "SigLIP vision",
        _build(tf.SiglipVisionModel, _config(tf.SiglipVisionConfig)),
        (),
        _ENCODER,
        projection="out_proj",
    ),
    Case(
        "siglip2",
        "SigLIP 2 vision",
        _build(tf.Siglip2VisionModel, _config(tf.Siglip2VisionConfig, num_patches=16)),
        (),
        _ENCODER,
        projection="out_proj",
    ),
    Case("mae", "ViT-MAE", _build(tf.ViTMAEModel, _config(tf.ViTMAEConfig)), _CLS, _PLAIN),
    Case(
        "beit",
        "BEiT",
        _build(tf.BeitModel, _config(tf.BeitConfig, use_relative_position_bias=True)),
        _CLS,
        _PLAIN,
        biased=True,
    ),
    Case(
        "beit_shared",
        "BEiT",
        _build(tf.BeitModel, _config(tf.BeitConfig, use_shared_relative_position_bias=True)),
        _CLS,
        _PLAIN,
        biased=True,
    ),
    Case("ijepa", "I-JEPA", _build(tf.IJepaModel, _config(tf.IJepaConfig)), (), _PLAIN),
    Case(
        "aimv2",
        "AIMv2 vision",
        _build(tf.Aimv2VisionModel, _config(tf.Aimv2VisionConfig)),
        (),
        _ENCODER,
        projection="out_proj",
        other_size=None,
    ),
    Case(
        "aimv2_native",
        "AIMv2 vision",
        _build(tf.Aimv2VisionModel, _config(tf.Aimv2VisionConfig, is_native=True)),
        (),
        _ENCODER,
        projection="out_proj",
    ),
    Case(
        "pixtral",
        "Pixtral vision",
        _build(tf.PixtralVisionModel, _config(tf.PixtralVisionConfig)),
        (),
        ("transformer.layers.0", "transformer.layers.1"),
        rotary=True,
    ),
    Case(
        "internvl",
        "InternVL vision",
        _build(
            tf.InternVLVisionModel,
            _config(tf.InternVLVisionConfig, image_size=[32, 32], patch_size=[8, 8], use_qk_norm=True),
        ),
        _CLS,
        ("encoder.layer.0", "encoder.layer.1"),
        projection="projection_layer",
    ),
    Case("vit_msn", "ViT-MSN", _build(tf.ViTMSNModel, _config(tf.ViTMSNConfig)), _CLS, _PLAIN),
    # The same towers inside something larger.
    Case(
        "vit_classifier",
        "ViT",
        _build(tf.ViTForImageClassification, _config(tf.ViTConfig, num_labels=3)),
        _CLS,
        ("vit.layers.0", "vit.layers.1"),
    ),
    Case(
        "mae_pretraining",
        "ViT-MAE",
        _build(
            tf.ViTMAEForPreTraining,
            _config(
                tf.ViTMAEConfig,
                decoder_hidden_size=16,
                decoder_intermediate_size=16,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
            ),
        ),
        _CLS,
        ("vit.layers.0", "vit.layers.1"),
    ),
    Case(
        "clip_full",
        "CLIP vision",
        _build(tf.CLIPModel, lambda: tf.CLIPConfig(vision_config=_BASE, text_config=_TEXT, projection_dim=16)),
        _CLS,
        ("vision_model.encoder.layers.0", "vision_model.encoder.layers.1"),
        projection="out_proj",
    ),
    Case(
        "siglip_full",
        "SigLIP vision",
        _build(tf.SiglipModel, lambda: tf.SiglipConfig(vision_config=_BASE, text_config=_TEXT)),
        (),
        ("vision_model.encoder.layers.0", "vision_model.encoder.layers.1"),
        projection="out_proj",
    ),
    Case(
        "llava",
        "CLIP vision",
        _build(
            tf.LlavaForConditionalGeneration,
            lambda: tf.LlavaConfig(
                vision_config=tf.CLIPVisionConfig(**_BASE), text_config=tf.LlamaConfig(**_TEXT), image_token_index=3
            ),
        ),
        _CLS,
        ("model.vision_tower.encoder.layers.0", "model.vision_tower.encoder.layers.1"),
        projection="out_proj",
    ),
)
BY_NAME = {case.name: case for case in CASES}


@cache
def pictures() -> np.ndarray:
    """Three different pictures (3, 40, 56, 3), smooth enough to survive resizing."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def joined(node: Any, quantity: str) -> np.ndarray:
    """Special tokens, then patches row by row: (image, head, token, channel), or (image, token, feature)."""
    array = node[quantity].to_numpy()
    flat = array.reshape(*array.shape[:-3], -1, array.shape[-1])
    special = f"special_{quantity}"
    return np.concatenate([node[special].to_numpy(), flat], axis=-2) if special in node else flat
