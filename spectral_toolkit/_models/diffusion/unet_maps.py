"""Proof for UNets, whose convolutions blur what an image changes long before attention sees it.

A feature map keeps its place in the image through convolutions, halvings and doublings. What has to be proven is how
attention makes tokens of a feature map: the map that enters each part with attention is therefore replaced by another
one, of which single places are changed, in place of single patches of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..passes import Prober
from ..probing import NotProvenError
from ..token_maps import Grid
from ..watching import Call, watching
from .protocols import Inputs

_WHOLE = ("SDCascadeAttnBlock",)
"""Parts that give attention their map twice, as queries and among the keys, so that the part's own map counts."""


@dataclass(frozen=True)
class _Map:
    """The feature map that enters a part: its grid and its channels."""

    grid: Grid
    channels: int


class MapProber(Prober):
    """Passes in which the feature maps before attention hold the given image, whatever the model makes of its own.

    ``forward`` runs the model on anything.
    """

    def __init__(self, root: torch.nn.Module, forward: Callable[[], object], size: Grid) -> None:
        super().__init__(root, self._shown, size)
        self._plain = forward
        self._maps = _maps_before_attention(root, forward, size)

    def _shown(self, pixels: np.ndarray) -> object:
        if len(pixels) != 1:
            raise NotProvenError("one image at a time")
        with ExitStack() as stack:
            for name, found in self._maps.items():
                hook = _replacing(_at_places((pixels[0] != self.base).any(-1), found))
                part = self.root.get_submodule(name)
                stack.callback(part.register_forward_pre_hook(hook, with_kwargs=True).remove)
            return self._plain()


def _at_places(changed: np.ndarray, found: _Map) -> Tensor:
    """A map (1, channel, y, x) of signs, which are turned round at the places that are changed.

    Neighbouring channels have opposite signs, so that the means and variances of a group of channels, by which maps are
    normalised before attention, stay what they are: a place moves if it was changed, and only then.
    """
    rows, columns = (np.arange(n) * (side // n) for n, side in zip(found.grid, changed.shape, strict=True))
    turned = np.where(changed[rows][:, columns], -1.0, 1.0)
    signs = _signs(found) * turned
    pairs = np.stack([signs, -signs], 1).reshape(-1, *found.grid)[: found.channels]
    return torch.from_numpy(pairs.astype(np.float32))[None]


@lru_cache(maxsize=32)
def _signs(found: _Map) -> np.ndarray:
    rng = np.random.default_rng(found.channels)
    return rng.choice([-1.0, 1.0], (math.ceil(found.channels / 2), *found.grid))


def _replacing(values: Tensor) -> Callable[[object, tuple[object, ...], Inputs], tuple[tuple[object, ...], Inputs]]:
    def hook(_part: object, args: tuple[object, ...], kwargs: Inputs) -> tuple[tuple[object, ...], Inputs]:
        def new(one: object) -> object:
            if isinstance(one, Tensor) and one.dim() == 4 and one.shape[1:] == values.shape[1:]:
                return values.to(one).expand_as(one)
            return one

        return tuple(map(new, args)), {name: new(one) for name, one in kwargs.items()}

    return hook


def _maps_before_attention(root: torch.nn.Module, forward: Callable[[], object], size: Grid) -> dict[str, _Map]:
    """The innermost part around each module that calls attention that a feature map enters, by its name."""
    entered: dict[str, _Map] = {}
    callers: list[str] = []
    with _noting(root, entered), watching(root, lambda call: _note_caller(call, callers), mute=True):
        forward()
    found: dict[str, _Map] = {}
    for caller in callers:
        steps = caller.split(".")
        names = (".".join(steps[:depth]) for depth in range(len(steps), 0, -1))
        around = [one for one in names if one in entered]
        whole = [one for one in around if type(root.get_submodule(one)).__name__ in _WHOLE]
        name = next(iter(whole + around), None)
        if name is None:
            continue
        rows, columns = entered[name].grid
        if size[0] % rows or size[1] % columns or size[0] // rows != size[1] // columns:
            raise NotProvenError(
                f"a map of {rows} x {columns} places does not divide the latents of {size[0]} x {size[1]} evenly, as "
                "it would be padded"
            )
        found[name] = entered[name]
    return found


def _note_caller(call: Call, callers: list[str]) -> None:
    if call.module not in callers:
        callers.append(call.module)


@contextmanager
def _noting(root: torch.nn.Module, entered: dict[str, _Map]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, part in root.named_modules():

            def note(_part: object, args: tuple[object, ...], kwargs: Inputs, name: str = name) -> None:
                given = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
                if given is not None and given.dim() == 4 and given.is_floating_point():
                    entered[name] = _Map((int(given.shape[2]), int(given.shape[3])), int(given.shape[1]))

            if name:
                stack.callback(part.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield
