"""What is used of the parts of diffusers, whose own annotations say less or differ from class to class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import torch

Inputs: TypeAlias = dict[str, object]
"""Inputs of a denoiser by name, besides latents and timestep; they are passed on as they are."""

Arguments: TypeAlias = dict[str, Any]
"""Arguments of a function of diffusers, by name."""


class Settings(Protocol):
    """Settings by name, as a configuration file holds them."""

    def get(self, name: str, default: Any = None, /) -> Any: ...


class Config(Settings, Protocol):
    """Settings of a part that is loaded, by name and as attributes."""

    def __getattr__(self, name: str) -> Any: ...


class Configured(Protocol):
    """A part that has settings, such as a scheduler."""

    @property
    def config(self) -> Any: ...


class Autoencoder(Configured, Protocol):
    """What turns images into latents and back."""

    _buffers: dict[str, torch.Tensor | None]

    def encode(self, values: torch.Tensor, /) -> Any: ...

    def decode(self, latents: torch.Tensor, /) -> Any: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def modules(self) -> Iterator[torch.nn.Module]: ...

    def to(self, dtype: torch.dtype, /) -> object: ...


class Pipeline(Protocol):
    """A pipeline, which has its parts as attributes."""

    def __getattr__(self, name: str) -> Any: ...

    def __call__(self, **settings: Any) -> Any: ...


def config_of(part: object) -> Config:
    """The settings of a module, of which torch's annotations know nothing."""
    configured: Any = part
    return configured.config


def whole_number(module: torch.nn.Module, name: str) -> int:
    """An attribute of a module that is a whole number, which torch's annotations do not foresee."""
    return int(getattr(module, name))
