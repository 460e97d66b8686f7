"""Tiny pipelines of diffusers with a denoiser of no known family, or one that takes more than its family knows of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from diffusion_transformers_zoo import t5_encoder, t5_tokenizer, transformer
from diffusion_zoo import randomised, text_encoder, theirs, tokenizer, unet, vae

_NOISE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def _flow() -> Any:
    return theirs.FlowMatchEulerDiscreteScheduler()


def _flow_vae() -> Any:
    return vae(scaling_factor=1.5, shift_factor=0.1)


def stable_diffusion_of(kind: Any, controlnet: Any = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    further = {} if controlnet is None else {"controlnet": controlnet}
    return kind(
        vae=vae(),
        text_encoder=text_encoder(12),
        tokenizer=tokenizer(),
        unet=unet(**changes),
        scheduler=theirs.DDIMScheduler(**_NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **further,
    )


def _controlnet() -> Any:
    return randomised(
        theirs.ControlNetModel(
            block_out_channels=(8, 16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=12,
            conditioning_embedding_out_channels=(8, 16),
        )
    )


def _chroma() -> Any:
    tower = transformer(
        "ChromaTransformer2DModel",
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return theirs.ChromaPipeline(
        scheduler=_flow(), vae=_flow_vae(), text_encoder=t5_encoder(12), tokenizer=t5_tokenizer(), transformer=tower
    )


def _flux_of(kind: Any, in_channels: int) -> Any:
    tower = transformer(
        "FluxTransformer2DModel",
        in_channels=in_channels,
        out_channels=16,
        num_single_layers=1,
        joint_attention_dim=12,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    return kind(
        scheduler=_flow(),
        vae=_flow_vae(),
        text_encoder=text_encoder(8),
        tokenizer=tokenizer(),
        text_encoder_2=t5_encoder(12),
        tokenizer_2=t5_tokenizer(),
        transformer=tower,
    )


def _auraflow() -> Any:
    tower = theirs.AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return theirs.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(12),
        vae=vae(),
        transformer=randomised(tower),
        scheduler=_flow(),
    )


def _wan() -> Any:
    settings = tf.UMT5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    tower = transformer(
        "WanTransformer3DModel",
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        rope_max_seq_len=32,
    )
    encoder = theirs.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return theirs.WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=randomised(tf.UMT5EncoderModel(settings)),
        vae=randomised(encoder),
        scheduler=_flow(),
        transformer=tower,
    )


def _cogvideox() -> Any:
    encoder = theirs.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    tower = transformer(
        "CogVideoXTransformer3DModel",
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        sample_width=8,
        sample_height=8,
        sample_frames=1,
    )
    return theirs.CogVideoXPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(16),
        vae=randomised(encoder),
        scheduler=theirs.DDIMScheduler(),
        transformer=tower,
    )


def _kandinsky() -> Any:
    tower = unet(addition_embed_type="image", encoder_hid_dim=12, encoder_hid_dim_type="image_proj", out_channels=8)
    movq = theirs.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
        layers_per_block=1,
    )
    return theirs.KandinskyV22Pipeline(unet=tower, scheduler=theirs.DDIMScheduler(), movq=randomised(movq))


def _unconditional(kind: Any, scheduler: Any) -> Any:
    tower = theirs.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=4,
    )
    return kind(unet=randomised(tower), scheduler=scheduler)


PIPELINES: dict[str, Callable[[], Any]] = {
    "inpainting": lambda: stable_diffusion_of(theirs.StableDiffusionInpaintPipeline, in_channels=9),
    "instructions": lambda: stable_diffusion_of(theirs.StableDiffusionInstructPix2PixPipeline, in_channels=8),
    "controlnet": lambda: stable_diffusion_of(theirs.StableDiffusionControlNetPipeline, _controlnet()),
    "chroma": _chroma,
    "flux fill": lambda: _flux_of(theirs.FluxFillPipeline, 2 * 16 + 16),
    "flux kontext": lambda: _flux_of(theirs.FluxKontextPipeline, 16),
    "auraflow": _auraflow,
    "wan": _wan,
    "cogvideox": _cogvideox,
    "kandinsky": _kandinsky,
    "ddpm": lambda: _unconditional(theirs.DDPMPipeline, theirs.DDPMScheduler()),
    "consistency": lambda: _unconditional(theirs.ConsistencyModelPipeline, theirs.CMStochasticIterativeScheduler()),
}
SIDES = {"wan": 64, "cogvideox": 64}
"""Pixels of a side where 16 are too few."""
