"""The source of a view: activations, a bundle, or a model with its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack, cast

import xarray as xr

from .._capture import capture
from .._io.activations import layer_names
from .._io.bundles import Bundle
from .._io.images import load_images
from .._models import Model, load_model
from ..errors import SpectralToolkitError
from .recipe import picture_expression
from .view import LiveModel

QUANTITIES = ("query", "key", "value", "token")
"""The quantities that are captured for a view, where the model has them."""


class Capturing(TypedDict, total=False):
    """Keyword arguments of ``st.capture``."""

    layers: str | Sequence[str | int]
    quantities: str | Sequence[str]
    size: int | tuple[int, int] | None
    batch_size: int
    seed: int
    progress: bool


@dataclass(frozen=True)
class Source:
    """Activations, the images to show with them, a Python expression for the images, if their origin is known, and the
    model, if there is one.
    """

    activations: xr.DataTree
    images: object
    expression: str | None = None
    live: LiveModel | None = None


def open_source(source: object, images: object, **settings: Unpack[Capturing]) -> Source:
    """Return activations and images, captured now if a model is given.

    Parameters
    ----------
    source
        Activations from ``st.capture``, a bundle from ``st.load_bundle``, or a model: what ``st.load_model`` returned,
        or anything it takes.
    images
        Anything ``st.load_images`` takes. None takes the images in the activations or the bundle; a model needs images.
    **settings
        Keyword arguments of ``st.capture``, for a model.

    Raises
    ------
    SpectralToolkitError
        If a model comes without images, or a bundle holds none.
    """
    if isinstance(source, Bundle):
        shown = source.pictures if images is None else images
        if shown is None:
            raise SpectralToolkitError("The bundle holds no images: give the original ones as images=.")
        return Source(source.activations, shown)
    if isinstance(source, xr.DataTree):
        return Source(source, source if images is None else images)
    if images is None:
        raise SpectralToolkitError(
            f"No images were given with the model {_short(source)}: give (model, images), or what st.capture or "
            "st.load_bundle returned."
        )
    expression = picture_expression(images)
    images = load_images(images)
    model = cast("Model", source) if hasattr(source, "quantities") else load_model(source)
    quantities = tuple(name for name in QUANTITIES if name in model.quantities)
    captured = capture(model, images, **{"quantities": quantities, **settings})
    live = LiveModel(model, images, tuple(layer_names(captured)), settings.get("size"))
    return Source(captured, images, expression, live)


def open_sources(source: object, images: object, **settings: Unpack[Capturing]) -> list[Source]:
    """Return what `open_source` gives for one source, or for each of two in a list.

    Raises
    ------
    SpectralToolkitError
        If there are more or fewer in the list.
    """
    if not isinstance(source, list | tuple):
        return [open_source(source, images, **settings)]
    if len(source) != 2:
        raise SpectralToolkitError(
            f"{len(source)} sources were given in a list: an explorer shows one, or two side by side as [a, b]."
        )
    first, second = (open_source(one, images, **settings) for one in source)
    return [first, second]


def _short(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"(a {type(value).__name__})"
