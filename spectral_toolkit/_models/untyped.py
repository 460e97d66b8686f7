"""Objects of other libraries of which annotations say nothing: their attributes differ from class to class."""

from __future__ import annotations

from typing import Any, Protocol, cast


class Untyped(Protocol):
    """An object that is asked for attributes, and called, as its own documentation says."""

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object, /) -> None: ...

    def __call__(self, *args: object, **options: object) -> Any: ...


class Settings(Protocol):
    """Settings by name, as a configuration file holds them."""

    def get(self, name: str, default: Any = None, /) -> Any: ...


class Config(Untyped, Settings, Protocol):
    """Settings of a part that is loaded, by name and as attributes."""


def untyped(part: object) -> Untyped:
    """The same object, for what its annotations do not say."""
    return cast("Untyped", part)


def config_of(part: object) -> Config:
    """The settings of a module, of which torch's annotations know nothing."""
    return untyped(part).config
