"""The recorder: every call of attention that happens while a module runs, named by the module in whose forward it is.

`TorchCalls` sees what is asked of torch: `scaled_dot_product_attention`, `multi_head_attention_forward` (run
with the parts of it that torch would fuse taken apart), and the products and softmax of attention written by hand
(`products`). Functions of xformers and flash-attention, which torch does not see, are wrapped where the model's own
modules refer to them. All of it ends with the context; the model's numbers are its own throughout, unless operations
are given other factors (`Watch.factors`).
"""

from __future__ import annotations

import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..._compute.torch_calls import TorchCalls
from . import products


@dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes
    ----------
    module
        Name of the innermost module in whose forward it happened.
    query, key, value
        ``(..., token, channel)`` with equal axes in front, keys and values repeated to the query heads.
    scale
        The factor of the products of queries and keys.
    bias
        What is added to them, broadcastable to ``(..., query, key)``, or None.
    linear
        Whether no softmax is taken: values and keys are multiplied first.
    path
        The modules in whose forward it happened, outermost first, with a number for each time one was entered.
    factors
        By what factors of which operations the call would have other queries, keys and values, given by name.
    """

    module: str
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    bias: Tensor | None
    linear: bool = False
    path: tuple[tuple[str, int], ...] = ()
    factors: Callable[[dict[str, Tensor]], products.Factors] = field(default=lambda changed: {}, repr=False)


Listener = Callable[[Call], None]
Maps = Callable[[Tensor], Tensor]
_OF_MAPS = frozenset(
    {"conv2d", "max_pool2d", "_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "interpolate", "batch_norm"}
)
"""Operations that give out a map of features (image, channel, y, x)."""


@contextmanager
def watching(
    root: torch.nn.Module, listener: Listener, *, mute: bool = False, maps: Maps | None = None
) -> Iterator[Watch]:
    """Report every call of attention in ``root`` to ``listener`` while the context is open.

    Parameters
    ----------
    root
        The module whose parts give calls their names.
    listener
        Receives each ``Call`` as it happens.
    mute
        Whether attention gives zeros in place of its values, so that no token learns of another one by it.
    maps
        Receives every map of features (image, channel, y, x) that a convolution or a pooling gives out, and returns
        what takes its place.

    Yields
    ------
    Watch
        What may be told during the pass.
    """
    path: list[tuple[str, int]] = [("", 0)]
    entered = itertools.count(1)
    owner = threading.get_ident()  # another thread may run the same module meanwhile
    with ExitStack() as stack:
        for name, part in root.named_modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue

            def enter(*_: object, name: str = name) -> None:
                if threading.get_ident() == owner:
                    path.append((name, next(entered)))

            def leave(*_: object) -> None:
                if threading.get_ident() == owner:
                    path.pop()

            stack.callback(part.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(part.register_forward_hook(leave, always_call=True).remove)

        def report(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            scale: float,
            bias: Tensor | None,
            *,
            linear: bool = False,
            factors: Callable[[dict[str, Tensor]], products.Factors],
        ) -> None:
            watch.listener(Call(path[-1][0], query, key, value, scale, bias, linear, tuple(path), factors))

        watch = Watch(listener)
        _wrap_libraries(root, stack, report, mute, watch)
        stack.enter_context(_Mode(watch, report, mute, maps))
        yield watch


@dataclass
class Watch:
    """What may be told to a watch during a pass.

    Operations by which attention may be computed are counted. A call of attention says by which factors of which of
    them it would be another (`Call.factors`); put into ``factors``, they are used the next time, if the count begins
    at the same operation of the model. ``rehearsing`` says that a part of the model is run only to see it.
    """

    listener: Listener
    factors: products.Factors = field(default_factory=dict)
    count: int = 0
    rehearsing: bool = False

    def next(self) -> tuple[int, dict[str, Tensor]]:
        """The place of the next operation, and what takes the place of its factors."""
        self.count += 1
        return self.count, self.factors.pop(self.count, {})

    def fused(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Callable[[dict[str, Tensor]], products.Factors]]:
        """What one operation is to attend with, and its ``factors`` (see `Call`)."""
        place, new = self.next()
        used = (new.get("query", query), new.get("key", key), new.get("value", value))
        return used, lambda changed: {place: changed}


_paused = threading.local()


@contextmanager
def unwatched() -> Iterator[None]:
    """Report nothing, and mute nothing, of what this thread does inside."""
    before = getattr(_paused, "on", False)
    _paused.on = True
    try:
        yield
    finally:
        _paused.on = before


class _Mode(TorchCalls):
    def __init__(self, watch: Watch, report: products.Found, mute: bool, maps: Maps | None) -> None:
        super().__init__()
        self.watch, self.report, self.mute, self.maps = watch, report, mute, maps

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if getattr(_paused, "on", False):
            return func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            fused: Callable[..., Tensor] = self._fused
            return fused(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            with self:
                return _unfused_forward(*args, **kwargs)
        name, place = getattr(func, "__name__", ""), 0
        if products.is_product(name):
            place, factors = self.watch.next()
            if factors:
                args, kwargs = products.replaced(name, args, kwargs, factors)
        out = func(*args, **kwargs)
        if self.maps is not None and name in _OF_MAPS and isinstance(out, Tensor) and out.ndim == 4:
            return self.maps(out)
        if products.follow(name, args, kwargs, out, self.report, place) and self.mute and isinstance(out, Tensor):
            return torch.zeros_like(out)
        return out

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        seen_key, seen_value = key, value
        if enable_gqa and key.shape[-3] != query.shape[-3]:
            seen_key, seen_value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        given = seen_key, seen_value
        (query, seen_key, seen_value), factors = self.watch.fused(query, seen_key, seen_value)
        if seen_key is not given[0] or seen_value is not given[1]:  # they have every query head now
            key, value, enable_gqa = seen_key, seen_value, False
        if self.mute:
            front = torch.broadcast_shapes(query.shape[:-2], seen_value.shape[:-2])
            out = query.new_zeros((*front, query.shape[-2], value.shape[-1]))
        else:
            out = functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        bias = additive(attn_mask, query.dtype)
        if is_causal:
            hidden = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
            bias = query.new_zeros(hidden.shape).masked_fill(hidden, torch.finfo(query.dtype).min)
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        self.report(query, seen_key, seen_value, scale, bias, factors=factors)
        return out


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask in the form in which it is added to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _copy_of(function: types.FunctionType) -> Callable[..., object]:
    """The same function that does not look again whether somebody watches: its parts are then watched one by one."""
    known = {**function.__globals__, "has_torch_function": lambda *_: False}
    copied = types.FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


_unfused_forward = _copy_of(cast("types.FunctionType", functional.multi_head_attention_forward))

# --- functions of other libraries ------------------------------------------------------------------------------------

_HEADS_SECOND_LAST = {"memory_efficient_attention", "flash_attn_func"}
"""Functions of xformers and flash-attention that take (image, token, head, channel)."""


def _wrap_libraries(root: torch.nn.Module, stack: ExitStack, report: products.Found, mute: bool, watch: Watch) -> None:
    """Wrap the functions of other libraries wherever a module of the model's own code refers to them."""
    if not any(name.partition(".")[0] in ("xformers", "flash_attn") for name in sys.modules):
        return
    for module in {sys.modules.get(type(part).__module__) for part in root.modules()}:
        for name, value in list(vars(module).items()) if module is not None else ():
            of_library = str(getattr(value, "__module__", "")).partition(".")[0] in ("xformers", "flash_attn")
            if of_library and getattr(value, "__name__", "") in _HEADS_SECOND_LAST:
                setattr(module, name, _wrapped(value, report, mute, watch))
                stack.callback(setattr, module, name, value)


class _Bias(Protocol):
    """A mask of xformers, which is not made before it is needed."""

    def materialize(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor: ...


def _wrapped(
    function: Callable[..., object], report: products.Found, mute: bool, watch: Watch
) -> Callable[..., object]:
    def turned(one: Tensor) -> Tensor:
        return one.transpose(-3, -2) if one.ndim == 4 else one

    def call(query: Tensor, key: Tensor, value: Tensor, *args: object, **kwargs: object) -> object:
        used, factors = watch.fused(turned(query), turned(key), turned(value))
        query, key, value = (turned(one) for one in used)
        out = torch.zeros_like(query[..., : value.shape[-1]]) if mute else function(query, key, value, *args, **kwargs)
        scale = kwargs.get("scale", kwargs.get("softmax_scale"))
        bias = kwargs.get("attn_bias", args[0] if args and isinstance(args[0], Tensor) else None)
        if not isinstance(bias, Tensor | None):
            bias = cast("_Bias", bias).materialize(
                (*used[0].shape[:-1], used[1].shape[-2]), dtype=query.dtype, device=query.device
            )
        # Where torch calls us, our modes are at rest meanwhile: what a listener computes is not of the model.
        with torch._C.DisableTorchFunction():
            report(
                *used,
                float(scale) if isinstance(scale, int | float) else query.shape[-1] ** -0.5,
                bias,
                factors=factors,
            )
        return out

    return call
