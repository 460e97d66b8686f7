"""Passes of a module over images, with muted attention: what each call of attention sees, in a few numbers a token."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import token_maps
from .token_maps import Grid
from .watching import Call, watching

_CHANNELS = 16
"""Random directions in which each token is looked at."""
AXES = ("image first", "channel second", "token first")


def as_tokens(tensor: Tensor, axes: str) -> Tensor:
    """What a block gives out as (image, token, channel)."""
    if axes == "channel second":
        tensor = tensor.movedim(1, -1)
    if axes == "token first":
        tensor = tensor.transpose(0, 1)
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


class Enough(BaseException):
    """Ends a pass early; not an Exception, so that no module takes it for an error of its own."""


@dataclass
class PassSeen:
    """One pass: modules, shapes and projections of all calls."""

    modules: list[str] = field(default_factory=list)
    shapes: list[tuple[torch.Size, ...]] = field(default_factory=list)
    values: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    biases: list[np.ndarray | None] = field(default_factory=list)
    linear: set[str] = field(default_factory=set)
    """Modules that attend linearly."""
    outputs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    output_shapes: dict[str, torch.Size] = field(default_factory=dict)
    maps: list[tuple[Grid, int]] = field(default_factory=list)
    """The grid of each map of features that convolutions give out, and how many calls of attention came before it."""
    kept: dict[int, np.ndarray] = field(default_factory=dict)
    """Some of those maps, by their numbers, as (place, channel)."""


@lru_cache(maxsize=64)
def _directions(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).standard_normal((channels, _CHANNELS)) / math.sqrt(channels)


def _looked_at(tensor: Tensor) -> np.ndarray:
    """``(..., channel)`` in a few random directions."""
    values = tensor.detach()
    values = values if values.dtype == torch.float64 else values.to(torch.float32)
    directions = torch.as_tensor(_directions(values.shape[-1]), dtype=values.dtype, device=values.device)
    return (values @ directions).cpu().numpy().astype(np.float64)


def _sketch(bias: Tensor | None) -> np.ndarray | None:
    """Enough of a bias to see whether it is another one; None where it is all zero."""
    if bias is None or not bool(torch.any(bias != 0)):
        return None
    flat = bias.detach().to(torch.float32).clamp(min=-1e4).reshape(-1, bias.shape[-1])
    return torch.cat([flat.sum(0), flat.sum(1)]).cpu().numpy()


class Prober:
    """Passes of one module over images of one size.

    ``forward`` runs the module on bytes (image, height, width, 3).
    """

    def __init__(self, root: torch.nn.Module, forward: Callable[[np.ndarray], object], size: Grid, seed: int = 0):
        self.root, self.forward, self.size = root, forward, size
        rng = np.random.default_rng(seed)
        self.base, self.other = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2))
        self.hooked: tuple[str, ...] = ()
        self.passes = 0

    def look(
        self,
        *pixels: np.ndarray,
        only: int | None = None,
        injected: Mapping[int, np.ndarray] | None = None,
        keep: Collection[int] = (),
    ) -> PassSeen:
        """Run one pass.

        ``only`` stops it after that many calls, ``injected`` says which places in which maps of features are changed,
        and ``keep`` has the numbers of maps to look at, after the last of which it stops.
        """
        seen = PassSeen()
        self.passes += 1

        def changed(out: Tensor) -> Tensor:
            number = len(seen.maps)
            seen.maps.append(((out.shape[-2], out.shape[-1]) if len(out) == 1 else (0, 0), len(seen.modules)))
            if number in keep:
                seen.kept[number] = _looked_at(out[0].flatten(1).T)
                if len(seen.kept) == len(keep):
                    raise Enough
            if injected is None or number not in injected:
                return out
            # In a random direction and as strong as the map itself, so that it is seen through any normalisation.
            direction = torch.as_tensor(_directions(out.shape[1])[:, 0], dtype=out.dtype, device=out.device)
            size = (math.sqrt(out.shape[1]) * out.std()).clamp(min=torch.finfo(out.dtype).tiny)
            where = torch.tensor(injected[number], dtype=out.dtype, device=out.device)
            return out + size * direction[:, None, None] * where

        def listen(call: Call) -> None:
            tensors = (call.query, call.key, call.value)
            seen.modules.append(call.module)
            seen.shapes.append(tuple(one.shape for one in tensors))
            seen.values.append(tuple(_looked_at(one) for one in tensors))
            seen.biases.append(_sketch(call.bias) if only is None else None)  # those of whole passes are compared
            if call.linear:
                seen.linear.add(call.module)
            if only is not None and len(seen.modules) >= only:
                raise Enough

        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(Enough))
            for name in self.hooked:

                def note(_module: object, _args: object, output: object, name: str = name) -> None:
                    found = first_tensor(output)
                    if found is not None and name not in seen.outputs:
                        seen.output_shapes[name] = found.shape
                        fit = [axes for axes in AXES if (axes == "channel second") <= (found.ndim == 4)]
                        fit = [axes for axes in fit if (axes == "token first") <= (found.ndim == 3)]
                        ways = {axes: _looked_at(as_tokens(found, axes)) for axes in fit}
                        seen.outputs[name] = ways

                stack.callback(self.root.get_submodule(name).register_forward_hook(note).remove)
            stack.enter_context(watching(self.root, listen, mute=True, maps=changed))
            self.forward(np.stack(pixels))
        return seen

    def changed(self, where: np.ndarray, grid: Grid, share: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
        """The base image with the patches of ``where`` (y, x), or a share of each, from the other one."""
        chosen = where.ravel()[token_maps.cell_of_pixels(grid, self.size)] & token_maps.within(grid, self.size, share)
        return np.where(chosen[..., None], self.other, self.base)


def first_tensor(output: object) -> Tensor | None:
    """The hidden states among what a module gives out: the tensor itself, or the first one inside."""
    if isinstance(output, Tensor):
        return output if output.ndim in (3, 4) and output.is_floating_point() else None
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((found for one in output if (found := first_tensor(one)) is not None), None)
    return None


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.square(one - other).sum(-1)
