"""One table of tiny diffusers pipelines, one line per supported family; it drives all their tests. No download."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
import transformers as tf

theirs: Any = diffusers


@dataclass(frozen=True)
class Case:
    """A tiny pipeline, and what a capture of it must say.

    ``layers`` are in order of execution, ``grids`` theirs for a picture of ``size``; ``other`` is an oblong size it
    takes, ``wrong`` one it cannot, with the nearest that it can. ``prompt`` is what ``at`` is told, ``asked`` what the
    pipeline itself is, ``settings`` go to ``load_model``.
    """

    name: str
    family: str
    component: str
    make: Callable[[], Any]
    layers: tuple[str, ...]
    size: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    other: tuple[int, int]
    wrong: tuple[tuple[int, int], tuple[int, int]]
    prompt: str = "a cat"
    asked: dict[str, Any] = field(default_factory=lambda: {"prompt": "a cat", "height": 16, "width": 16})
    settings: dict[str, Any] = field(default_factory=dict)

    def tower(self, pipeline: Any) -> Any:
        return getattr(pipeline, self.component)


def randomised(module: Any) -> Any:
    """Weights large enough for attention to differ visibly from the average of all values."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.15)
    return module.eval()


def tokenizer(length: int = 77) -> Any:
    """A CLIP tokenizer of single letters."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocab = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length, pad_token="<|endoftext|>")


def text_encoder(width: int, *, projection: bool = False) -> Any:
    config = tf.CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return randomised((tf.CLIPTextModelWithProjection if projection else tf.CLIPTextModel)(config))


def vae(channels: int = 4, **changes: Any) -> Any:
    """Two pixels to one latent cell."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": channels,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "sample_size": 16,
    }
    return randomised(theirs.AutoencoderKL(**{**settings, **changes}))


def unet(**changes: Any) -> Any:
    """Three resolutions, the lowest without attention but in the middle."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
    }
    torch.manual_seed(0)
    return randomised(theirs.UNet2DConditionModel(**{**settings, **changes}))


def stable_diffusion(scheduler: Any = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    noise: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return theirs.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(12),
        tokenizer=tokenizer(),
        unet=unet(**changes),
        scheduler=scheduler or theirs.PNDMScheduler(skip_prk_steps=True, steps_offset=1, **noise),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2() -> Any:
    """Linear projections, upcast attention and the prediction of v, as Stable Diffusion 2.1."""
    settings: dict[str, Any] = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True, "steps_offset": 1}
    scheduler = theirs.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **settings)
    return stable_diffusion(scheduler, use_linear_projection=True, upcast_attention=True, attention_head_dim=(1, 2, 4))


def stable_diffusion_xl() -> Any:
    torch.manual_seed(0)
    added: dict[str, Any] = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * 6 + 12,
        "cross_attention_dim": 24,
    }
    return theirs.StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=text_encoder(12),
        text_encoder_2=text_encoder(12, projection=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(**added),
        scheduler=theirs.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )


def stable_diffusion_xl_refiner() -> Any:
    """One text encoder, the second, and five numbers about the picture."""
    base = stable_diffusion_xl()
    settings = dict(base.unet.config) | {"cross_attention_dim": 12, "projection_class_embeddings_input_dim": 8 * 5 + 12}
    return theirs.StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer_2=base.tokenizer_2,
        unet=randomised(theirs.UNet2DConditionModel.from_config(settings)),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


_SD_LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "mid_block.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1",
    "up_blocks.2.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.2.attentions.1.transformer_blocks.0.attn1",
)
_SD_GRIDS = ((8, 8), (4, 4), (2, 2), (4, 4), (4, 4), (8, 8), (8, 8))
_XL_LAYERS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "down_blocks.1.attentions.0.transformer_blocks.1.attn1",
    "mid_block.attentions.0.transformer_blocks.0.attn1",
    "mid_block.attentions.0.transformer_blocks.1.attn1",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.0.attentions.0.transformer_blocks.1.attn1",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn1",
    "up_blocks.0.attentions.1.transformer_blocks.1.attn1",
)

_SIZES: dict[str, Any] = {"size": (16, 16), "other": (16, 24), "wrong": ((21, 13), (24, 16))}
_UNET = "Stable Diffusion UNet"

CASES = (
    Case("sd1", _UNET, "unet", stable_diffusion, _SD_LAYERS, grids=_SD_GRIDS, **_SIZES),
    Case("sd2", _UNET, "unet", stable_diffusion_2, _SD_LAYERS, grids=_SD_GRIDS, **_SIZES),
    Case(
        "sdxl",
        "Stable Diffusion XL UNet",
        "unet",
        stable_diffusion_xl,
        _XL_LAYERS,
        size=(16, 16),
        grids=((4, 4),) * 8,
        other=(16, 24),
        wrong=((18, 13), (16, 12)),
    ),
)
BY_NAME = {case.name: case for case in CASES}
