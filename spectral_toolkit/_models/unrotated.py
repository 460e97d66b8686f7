"""Queries and keys before rotary positions, of modules whose attention is watched.

A rotation turns pairs of channels and keeps the length of each pair. So one of the tensors that a module computes
before its attention is the unrotated form of a query or key where all of its pairs are as long, in every token and
head, and it is not the query or key itself. It is found in one pass, and again by its place among the operations of
its module in every later one, where the lengths are compared once more.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .._compute.torch_calls import TorchCalls
from ..errors import ActivationsError
from .model import UNROTATED
from .watching import Call

QUANTITIES: dict[str, str] = dict(zip(UNROTATED, ("query", "key"), strict=True))
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_MOST_OPERATIONS = 400
"""So many results of a module are looked at, the latest ones."""
_LARGEST = 8
"""How many times larger than what a module is given a result may be; scores of all pairs of tokens are larger."""


@dataclass(frozen=True)
class Origin:
    """Where the unrotated form of a query or key is to be found.

    Attributes
    ----------
    operation
        Its place among the operations of the module, counted from the start of its forward pass.
    view
        Number of the view of that operation's result, of those of `_views`.
    pairing
        Name of the way in which channels are rotated in pairs.
    ratio
        What the query or key was multiplied by besides.
    """

    operation: int
    view: int
    pairing: str
    ratio: float


class Operations(TorchCalls):
    """Keeps what the operations of some modules give out, from the start of a module's forward pass.

    Parameters
    ----------
    wanted
        For each module's name, the places of the operations to keep; None keeps all.
    """

    def __init__(self, wanted: Mapping[str, frozenset[int]] | None = None) -> None:
        super().__init__()
        self.wanted = wanted
        self.within: list[str] = []
        self.counts: dict[str, int] = {}
        self.results: dict[str, dict[int, Tensor]] = {}
        self.largest: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        """For each module, how many tokens its calls had so far: it may cut them into windows, a call each."""

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        out = func(*args, **kwargs)
        if self.within:
            name = self.within[-1]
            place = self.counts[name]
            self.counts[name] = place + 1
            if (
                isinstance(out, Tensor)
                and out.is_floating_point()
                and out.ndim > 1
                and out.numel() <= self.largest[name]
                and (self.wanted is None or place in self.wanted[name])
            ):
                results = self.results[name]
                results[place] = out
                if len(results) > _MOST_OPERATIONS:
                    del results[min(results)]
        return out

    @contextmanager
    def following(self, root: torch.nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Follow the named modules while the context is open."""
        owner = threading.get_ident()
        with ExitStack() as stack:
            for name in names:

                def enter(_: object, args: tuple[object, ...], kwargs: dict[str, object], name: str = name) -> None:
                    if threading.get_ident() == owner:
                        given = [one.numel() for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
                        self.largest[name] = _LARGEST * max(given, default=math.inf)
                        self.counts[name], self.results[name], self.tokens[name] = 0, {}, 0
                        self.within.append(name)

                def leave(*_: object, name: str = name) -> None:
                    if threading.get_ident() == owner:
                        self.within.pop()
                        self.results[name] = {}

                part = root.get_submodule(name)
                stack.callback(part.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
                stack.callback(part.register_forward_hook(leave, always_call=True).remove)
            stack.enter_context(self)
            yield


def find(operations: Operations, call: Call) -> dict[str, Origin]:
    """Where the unrotated query and key of a call come from; empty if one of them is not rotated, or is not found."""
    found: dict[str, Origin] = {}
    results = operations.results.get(call.module, {})
    for unrotated, quantity in QUANTITIES.items():
        rotated = getattr(call, quantity)
        origins = (
            Origin(place, number, pairing, ratio)
            for place, result in reversed(results.items())
            for number, one in enumerate(_views(result, rotated, operations.tokens[call.module]))
            if one is not None
            for pairing, ratio in _rotations(one, rotated)
        )
        origin = next(origins, None)
        if origin is None:
            return {}
        found[unrotated] = origin
    return found


def taken(operations: Operations, call: Call, origins: Mapping[str, Origin]) -> dict[str, Tensor]:
    """The unrotated query and key of a call; raises `ActivationsError` where they are not what they were."""
    tensors: dict[str, Tensor] = {}
    for unrotated, quantity in QUANTITIES.items():
        origin, rotated = origins[unrotated], getattr(call, quantity)
        result = operations.results.get(call.module, {}).get(origin.operation)
        one = None if result is None else list(_views(result, rotated, operations.tokens[call.module]))[origin.view]
        if one is None or not _as_long(one * origin.ratio, rotated, origin.pairing):
            raise ActivationsError(
                f"The {quantity} of {call.module!r} before rotation is not computed as it was when its rotation was "
                f"found: capture {quantity!r} alone."
            )
        tensors[unrotated] = one * origin.ratio
    operations.tokens[call.module] += call.query.shape[-2]
    return tensors


# --- views of a result -----------------------------------------------------------------------------------------------


def _views(result: Tensor, rotated: Tensor, start: int) -> Iterator[Tensor | None]:
    """A result in the shapes in which it could be the query or key ``(image, head, token, channel)``, or None each.

    Tokens from ``start`` on are taken of a longer one.
    """
    n, heads, tokens, channels = (1, *rotated.shape)[-4:]
    for groups in dict.fromkeys((heads, *(one for one in (heads // 2, heads // 4, heads // 8, 1) if one))):
        repeats = heads // groups
        if result.ndim >= 3 and result.shape[-1] == channels and result.shape[-3] == groups:
            yield _fit(result[..., start : start + tokens, :] if n == 1 else result, rotated, repeats)
        else:
            yield None
        for together, index in ((1, 0), (3, 0), (3, 1)):  # alone, or the first or second of queries, keys and values
            rows = result.numel() // (together * groups * channels)
            whole = rows * together * groups * channels == result.numel() and not result.shape[-1] % channels
            if not whole or (rows < start + tokens if n == 1 else rows != n * tokens):
                yield from (None, None)
                continue
            for shape, axis in (((n, -1, together, groups, channels), 2), ((n, -1, groups, together, channels), 3)):
                one = result.reshape(shape).select(axis, index).transpose(1, 2)
                yield _fit(one[..., start : start + tokens, :] if n == 1 else one, rotated, repeats)


def _fit(one: Tensor, rotated: Tensor, repeats: int) -> Tensor | None:
    """Keys that several queries share are repeated to the heads of queries, as in a call."""
    one = one.repeat_interleave(repeats, -3) if repeats > 1 else one
    return one.reshape(rotated.shape) if one.numel() == rotated.numel() else None


# --- pairs of channels -----------------------------------------------------------------------------------------------


def _halves(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(2, -1), -1)


def _neighbours(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 2))


def _halves_by_axis(x: Tensor) -> Tensor:
    return torch.cat([_halves(one) for one in x.chunk(2, -1)], -2)


_PAIRINGS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "channels half a head apart": (2, _halves),
    "neighbouring channels": (2, _neighbours),
    "channels half an axis apart": (4, _halves_by_axis),
}
"""Ways to rotate channels in pairs, and of what number they have to be a multiple."""


def _rotations(one: Tensor, rotated: Tensor) -> Iterator[tuple[str, float]]:
    """The pairings, with the factor, by which a tensor is a rotation of another one, and not the same."""
    size = float(one.detach().float().square().sum().sqrt())
    ratio = float(rotated.detach().float().square().sum().sqrt()) / size if size > 0 else 0.0
    if not 1e-6 < ratio < 1e6:
        return
    ratio = 1.0 if abs(ratio - 1) < 1e-4 else ratio
    scaled = one * ratio
    if float((scaled - rotated).abs().max()) <= 10 * _tolerance(rotated) * float(rotated.abs().max()):
        return
    for name in _PAIRINGS:
        if _as_long(scaled, rotated, name):
            yield name, ratio


def _as_long(one: Tensor, other: Tensor, pairing: str) -> bool:
    """Whether the pairs of channels of two tensors have the same lengths."""
    multiple, paired = _PAIRINGS[pairing]
    if one.shape[-1] % multiple:
        return False
    lengths = [paired(x.detach().float()).square().sum(-1).sqrt() for x in (one, other)]
    return float((lengths[0] - lengths[1]).abs().max()) <= _tolerance(other) * float(lengths[1].max())


def _tolerance(tensor: Tensor) -> float:
    return _TOLERANCE.get(tensor.dtype, 1e-4)
