"""The transformers that are trained on scenes: twins that differ in where positions enter, and in nothing else.

``rotary`` turns queries and keys by their place (RoPE, Su et al. 2021, https://arxiv.org/abs/2104.09864), so that
values never hold it; ``absolute`` adds a learned vector for each place to the patches, so that everything may.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

from spectral_toolkit.scenes import PATCH

EPSILON = 1e-5  # of layer normalisation
# The default 0.02 is meant for models three times as wide.
INITIAL = 0.04


def build_rotary(size: int, width: int, layers: int, heads: int, registers: int) -> Any:
    """DINOv3's vision transformer from its configuration."""
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            patch_size=PATCH,
            image_size=size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_register_tokens=registers,
            layer_norm_eps=EPSILON,
            initializer_range=INITIAL,
            key_bias=True,  # as its twin has
            pos_embed_rescale=None,  # pictures have one size here, and places should be learnt exactly
        )
    )


def build_absolute(size: int, width: int, layers: int, heads: int, registers: int) -> Any:
    """DINOv2's vision transformer with registers: the same blocks, positions learned and added to the patches."""
    backbone: Any = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            patch_size=PATCH,
            image_size=size,
            hidden_size=width,
            mlp_ratio=4,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_register_tokens=registers,
            layer_norm_eps=EPSILON,
            initializer_range=INITIAL,
        )
    )
    # The table starts as that of masked autoencoders: small random vectors were not found beside the patches' content
    # in 1,400 steps, and the twin would have had no positions at all.
    backbone.embeddings.position_embeddings.data[0, 1:] = waves(size // PATCH, width)
    return backbone


def waves(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of rows and of columns, ``(side * side, width)``, of the periods that rotary positions have."""
    frequency = 2 * math.pi * 100.0 ** (-torch.arange(width // 4) / (width // 4))
    angle = (2 * torch.arange(side) + 1)[:, None] / side * frequency
    along = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([along.repeat_interleave(side, 0), along.repeat(side, 1)], 1)


BUILDERS = {"rotary": build_rotary, "absolute": build_absolute}


def build(positions: str, **shape: int) -> Any:
    """A fresh backbone with ``positions`` as in `BUILDERS`."""
    backbone = BUILDERS[positions](**shape)
    # Tokens that start at zero have no direction that layer normalisation could keep, and equal ones stay equal.
    for token in (backbone.embeddings.mask_token, backbone.embeddings.register_tokens):
        torch.nn.init.trunc_normal_(token, std=INITIAL)
    return backbone


def encode(backbone: Any, pixels: torch.Tensor, seen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Run a backbone on a part of the patches.

    Seen patches enter with their content, asked ones as the model's mask token at their place; all others are left
    out, which saves their time.

    Parameters
    ----------
    pixels
        ``(image, 3, height, width)``, normalised.
    seen, asked
        Indices of patches, row by row, ``(image, n_seen)`` and ``(image, n_asked)``.

    Returns
    -------
    torch.Tensor
        Tokens after the last layer, normalised: special tokens, seen, asked.
    """
    embeddings = backbone.embeddings
    # One has a convolution for its patches, the other a module around it.
    project = getattr(embeddings.patch_embeddings, "projection", embeddings.patch_embeddings)
    content = project(pixels).flatten(2).transpose(1, 2)
    n_images, _, width = content.shape
    content = content.gather(1, seen[..., None].expand(-1, -1, width))
    hidden = embeddings.mask_token.view(1, 1, width).expand(n_images, asked.shape[1], -1)
    patches = torch.cat([content, hidden], dim=1)
    first = embeddings.cls_token
    places = torch.cat([seen, asked], dim=1)
    rotary = hasattr(backbone, "rope_embeddings")
    arguments: dict[str, Any] = {}
    if rotary:
        cosine, sine = (table[places][:, None] for table in backbone.rope_embeddings(pixels))
        arguments["position_embeddings"] = (cosine, sine)
    else:
        table = embeddings.position_embeddings[0]
        first, patches = first + table[0], patches + table[1:][places]
    registers = embeddings.register_tokens.expand(n_images, -1, -1)
    tokens = torch.cat([first.expand(n_images, -1, -1), registers, patches], dim=1)
    for layer in backbone.model.layer if rotary else backbone.encoder.layer:
        tokens = layer(tokens, **arguments)
    return (backbone.norm if rotary else backbone.layernorm)(tokens)
