"""The transformers among the tiny pipelines, one line per supported family and variant; see `diffusion_zoo`."""

from __future__ import annotations

import string
from typing import Any

import torch
import transformers as tf
from diffusion_zoo import Case, randomised, text_encoder, theirs, tokenizer, vae

LABELS = {0: "tench, Tinca tinca", 1: "goldfish", 2: "tabby cat"}


def t5_tokenizer() -> Any:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    return tf.T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=512)


def t5_encoder(width: int) -> Any:
    config = tf.T5Config(vocab_size=30, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return randomised(tf.T5EncoderModel(config))


def transformer(name: str, **settings: Any) -> Any:
    """Two heads of 8 channels and patches of 2 x 2 latent cells, unless told otherwise."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
    return randomised(getattr(theirs, name)(**{**common, **settings}))


def dit() -> Any:
    tower = transformer("DiTTransformer2DModel", out_channels=8, sample_size=8, num_embeds_ada_norm=1000)
    pipeline = theirs.DiTPipeline(transformer=tower, vae=vae(), scheduler=theirs.DDIMScheduler(), id2label=LABELS)
    pipeline.register_to_config(id2label=LABELS)  # as on the hub; diffusers itself would not save the names
    return pipeline


def pixart_tower(**changes: Any) -> Any:
    settings: dict[str, Any] = {"cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8, **changes}
    return transformer("PixArtTransformer2DModel", out_channels=8, **settings)


def pixart_alpha() -> Any:
    """Told the size of the picture, as PixArt-alpha at 1,024 pixels; values of a third of its width for each number."""
    tower = pixart_tower(sample_size=128, attention_head_dim=24, cross_attention_dim=48)
    return theirs.PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(12),
        vae=vae(),
        transformer=tower,
        scheduler=theirs.DPMSolverMultistepScheduler(),
    )


def pixart_sigma() -> Any:
    return theirs.PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(12),
        vae=vae(),
        transformer=pixart_tower(),
        scheduler=theirs.DPMSolverMultistepScheduler(),
    )


def sd3(**changes: Any) -> Any:
    settings: dict[str, Any] = {"joint_attention_dim": 24, "caption_projection_dim": 16, "pooled_projection_dim": 20}
    settings |= {"in_channels": 4, "out_channels": 4, "sample_size": 8, "pos_embed_max_size": 8, **changes}
    return theirs.StableDiffusion3Pipeline(
        transformer=transformer("SD3Transformer2DModel", **settings),
        scheduler=theirs.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.1),
        text_encoder=text_encoder(8, projection=True),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(12, projection=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5_encoder(24),
        tokenizer_3=t5_tokenizer(),
    )


def sd35() -> Any:
    """Normalised queries and keys, and a block whose patches attend to each other alone besides."""
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(guidance_embeds: bool = False) -> Any:
    tower = transformer(
        "FluxTransformer2DModel",
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance_embeds,
    )
    return theirs.FluxPipeline(
        scheduler=theirs.FlowMatchEulerDiscreteScheduler(),
        vae=vae(scaling_factor=1.5, shift_factor=0.1),
        text_encoder=text_encoder(8),
        tokenizer=tokenizer(),
        text_encoder_2=t5_encoder(12),
        tokenizer_2=t5_tokenizer(),
        transformer=tower,
    )


def flux_dev() -> Any:
    return flux(guidance_embeds=True)


_SIZES: dict[str, Any] = {"size": (16, 16), "other": (16, 24), "wrong": ((18, 13), (16, 12))}
_SELF: dict[str, Any] = {
    "layers": ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1"),
    "grids": ((4, 4),) * 2,
}
# 128 latent cells, which is what Flux without a configured size takes, would be slow.
_SMALL: dict[str, Any] = {"processor": {"size": {"height": 16, "width": 16}}}
_FLUX: dict[str, Any] = {
    "layers": ("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0"),
    "grids": ((4, 4),) * 3,
    "settings": _SMALL,
    **_SIZES,
}
_UNBINNED = {"prompt": "a cat", "height": 16, "width": 16, "use_resolution_binning": False}
_SD3 = "Stable Diffusion 3 and 3.5"
_PIXART = "PixArt-alpha and -sigma"

CASES = (
    Case(
        "dit",
        "DiT",
        "transformer",
        dit,
        size=(16, 16),
        other=(24, 24),
        wrong=((16, 24), (20, 20)),
        prompt="tabby cat",
        asked={"class_labels": [2]},
        **_SELF,
    ),
    Case("pixart alpha", _PIXART, "transformer", pixart_alpha, asked=_UNBINNED, settings=_SMALL, **_SELF, **_SIZES),
    Case("pixart sigma", _PIXART, "transformer", pixart_sigma, asked=_UNBINNED, **_SELF, **_SIZES),
    Case(
        "sd3",
        _SD3,
        "transformer",
        sd3,
        layers=("transformer_blocks.0.attn", "transformer_blocks.1.attn"),
        grids=((4, 4),) * 2,
        size=(16, 16),
        other=(16, 24),
        wrong=((40, 36), (32, 32)),
    ),
    Case(
        "sd35",
        _SD3,
        "transformer",
        sd35,
        layers=("transformer_blocks.0.attn", "transformer_blocks.0.attn2", "transformer_blocks.1.attn"),
        grids=((4, 4),) * 3,
        **_SIZES,
    ),
    Case("flux schnell", "Flux", "transformer", flux, **_FLUX),
    Case("flux dev", "Flux", "transformer", flux_dev, **_FLUX),
)
