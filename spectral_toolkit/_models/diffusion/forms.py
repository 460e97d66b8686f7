"""How a denoiser wants its latents: as an image, as one frame of a video, or cut up into tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from ..untyped import Settings, config_of

Packed: TypeAlias = Tensor | list[Tensor]
"""Latents as a denoiser takes them."""


@dataclass(frozen=True)
class Shown:
    """What one pass shows to a denoiser.

    ``picture`` is the image (1, 3, height, width) from -1 to 1, ``clean`` its latents, ``noisy`` those with noise.
    """

    noisy: Tensor
    clean: Tensor
    picture: Tensor
    timestep: int


@dataclass(frozen=True)
class Form:
    """One form of latents.

    Attributes
    ----------
    name
        What it is called in messages.
    pack
        From latents (1, channel, y, x) to what the denoiser takes.
    side
        Latent positions, in each direction, that become one token before the denoiser sees them.
    """

    name: str
    pack: Callable[[Tensor], Packed]
    side: int = 1


def _flat(latents: Tensor) -> Tensor:
    return latents.flatten(2).transpose(1, 2)


def packed(latents: Tensor) -> Tensor:
    """2 x 2 positions as one token, (image, token, channel): a channel's positions stand beside each other."""
    return _flat(pixel_unshuffle(latents, 2))


IMAGE = Form("images", lambda latents: latents)
FRAME = Form("one frame", lambda latents: latents[:, :, None])
FRAME_FIRST = Form("one frame, frames first", lambda latents: latents[:, None])
CHANNELS_LAST = Form("one frame, channels last", lambda latents: latents.permute(0, 2, 3, 1)[:, None])
PIECES = Form("one frame in pieces of 2 x 2", lambda latents: _pieces(latents), side=2)
LIST = Form("a list of frames", lambda latents: [latents[0][:, None]])
FLAT = Form("tokens", _flat)
PACKED = Form("tokens of 2 x 2", packed, side=2)


def _pieces(latents: Tensor) -> Tensor:
    """(1, piece, channel, frame, y, x), with pieces of one frame and 2 x 2 positions."""
    tokens = packed(latents)
    return tokens.reshape(1, tokens.shape[1], latents.shape[1], 1, 2, 2)


_BY_CLASS = {
    "CogVideoXTransformer3DModel": FRAME_FIRST,
    "ConsisIDTransformer3DModel": FRAME_FIRST,
    "AnyFlowTransformer3DModel": FRAME_FIRST,
    "UNetSpatioTemporalConditionModel": FRAME_FIRST,
    "Kandinsky5Transformer3DModel": CHANNELS_LAST,
    "JoyImageEditPlusTransformer3DModel": PIECES,
    "ZImageTransformer2DModel": LIST,
    "ZImageControlNetModel": LIST,
    "LTXVideoTransformer3DModel": FLAT,
    "LTX2VideoTransformer3DModel": FLAT,
    "Ideogram4Transformer2DModel": PACKED,
    "Krea2Transformer2DModel": PACKED,
    "HiDreamImageTransformer2DModel": IMAGE,
}


def class_names(tower: torch.nn.Module) -> list[str]:
    """The name of a denoiser's class, and of those that it is made from."""
    return [base.__name__ for base in type(tower).__mro__]


def form_of(tower: torch.nn.Module, channels: int) -> Form:
    """The form that a denoiser takes, whose latents have so many channels."""
    classes, config = class_names(tower), config_of(tower)
    for name in classes:
        if name in _BY_CLASS:
            return _repeated(_in_tokens(_BY_CLASS[name], config, channels), config)
    if {"img_ids", "img_shapes"} & set(inspect.signature(tower.forward).parameters):
        return _in_tokens(PACKED, config, channels)
    three = any("3D" in name or "Motion" in name or "I2VGen" in name or "Cosmos" in name for name in classes)
    return FRAME if three else IMAGE


def _repeated(form: Form, config: Settings) -> Form:
    """One frame as often as the denoiser makes one token of."""
    count = int(config.get("patch_size_t") or 1)
    if form is not FRAME_FIRST or count == 1:
        return form
    return Form(f"{count} times the same frame", lambda latents: latents[:, None].repeat(1, count, 1, 1, 1))


def _in_tokens(form: Form, config: Settings, channels: int) -> Form:
    """Tokens of 2 x 2 positions, unless a token has as many channels as a position."""
    if form is PACKED and in_channels(config) in (channels, 2 * channels):
        return FLAT
    return form


def in_channels(config: Settings) -> int:
    """Channels that a denoiser takes."""
    for name in ("in_channels", "in_visual_dim", "in_dim", "latent_channel"):
        if found := config.get(name):
            return int(found)
    return 0
