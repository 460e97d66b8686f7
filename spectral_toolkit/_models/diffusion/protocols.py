"""What is used of the parts of diffusers, whose own annotations say less or differ from class to class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import torch

from ..untyped import Untyped

Inputs: TypeAlias = dict[str, object]
"""Inputs of a denoiser by name, besides latents and timestep; they are passed on as they are."""

Pipeline: TypeAlias = Untyped
"""A pipeline, which has its parts as attributes."""


class Configured(Protocol):
    """A part that has settings, such as a scheduler."""

    @property
    def config(self) -> Any: ...


class Autoencoder(Configured, Protocol):
    """What turns images into latents and back."""

    _buffers: dict[str, torch.Tensor | None]

    def encode(self, values: torch.Tensor, /) -> Untyped: ...

    def decode(self, latents: torch.Tensor, /) -> Untyped: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def to(self, dtype: torch.dtype, /) -> object: ...


def whole_number(module: torch.nn.Module, name: str) -> int:
    """An attribute of a module that is a whole number, which torch's annotations do not foresee."""
    return int(getattr(module, name))
