"""Observes queries, keys and values of diffusers' attention modules, whatever processor the user has installed.

While a capture runs, each watched module's ``forward`` is wrapped: the module's own processor computes as usual, and
the arguments that it passes to PyTorch's scaled dot product attention are recorded. Nothing is computed differently or
twice, and the recorded values include normalisation, rotary positions, fused projections, adapters and joint attention.
Processors themselves are never changed. The few that compute attention without that function are known by name, and
their projections are computed a second time. In an intervention, what takes the place of queries, keys and values is
passed to that function, or given out by the projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NotRequired, TypeAlias, TypedDict, cast

import torch
from torch.nn.functional import scaled_dot_product_attention

from ..._compute.torch_calls import TorchCalls
from ...errors import SpectralToolkitError, UnsupportedModelError
from ..untyped import Untyped, untyped
from .protocols import whole_number

_PROJECTING = ("AttnProcessor", "SlicedAttnProcessor", "XFormersAttnProcessor", "AttnProcessorNPU")
"""Processors of diffusers that do not use PyTorch's function; all of them project like their base class."""

_Part: TypeAlias = Literal["query", "key", "value"]
_PARTS: tuple[_Part, _Part, _Part] = ("query", "key", "value")
_COMPUTES_ITSELF = "computes attention by code of its own, which cannot be watched"


Rotary: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the angles by which positions turn queries and keys."""


@dataclass(frozen=True)
class Seen:
    """What one softmax saw: (image, head, token, channel), with keys and values repeated to the query heads.

    ``bias`` is added to the scores, (image, head, query, key), or None; ``rotary`` is the module's argument for the
    rotation of queries and keys, unchanged, or None.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None
    rotary: Rotary | None = None


Listener = Callable[[Seen], Seen]
"""Receives what a softmax is about to see, and returns what it is to see: the same tensors where nothing changes."""


@contextmanager
def watching(listeners: Mapping[torch.nn.Module, Listener], name: str) -> Iterator[None]:
    """Report every call of the attention modules to their listeners, and leave no trace afterwards.

    ``name`` is the name of the model, for messages.

    Raises
    ------
    UnsupportedModelError
        When a module is called, if its processor cannot be watched.
    """
    own: dict[torch.nn.Module, object] = {}
    try:
        for module, listener in listeners.items():
            # Libraries that offload models also keep a forward of their own there.
            before = module.__dict__.get("forward")
            if hasattr(before, "_spectral_toolkit"):
                raise SpectralToolkitError(f"{name} is already being captured: wait for the first capture to end.")
            own[module] = before
            object.__setattr__(module, "forward", _watched(module, module.forward, listener, name))
        yield
    finally:
        for module, before in own.items():
            module.__dict__.pop("forward", None)
            if before is not None:
                object.__setattr__(module, "forward", before)


class _Attention(TypedDict):
    """Arguments of scaled dot product attention."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: NotRequired[torch.Tensor | None]
    dropout_p: NotRequired[float]
    is_causal: NotRequired[bool]
    scale: NotRequired[float | None]
    enable_gqa: NotRequired[bool]


def _watched(
    module: torch.nn.Module, forward: Callable[..., object], listener: Listener, name: str
) -> Callable[..., object]:
    project: Callable[..., Seen] = _projected

    def watched(*args: object, **kwargs: object) -> object:
        processor = type(getattr(module, "processor", None))
        if processor.__name__ in _PROJECTING and processor.__module__.startswith("diffusers."):
            seen = project(untyped(module), *args, **kwargs)
            with _projecting(module, seen, listener(seen)):
                return forward(*args, **kwargs)

        def see(call: _Attention) -> _Attention:
            seen = replace(_seen(module, call, name), rotary=kwargs.get("image_rotary_emb"))
            return _replaced(call, seen, listener(seen))

        with _Noting(see) as noted:
            output = forward(*args, **kwargs)
        if noted.calls > 1:
            raise _refused(processor, name, f"attends {noted.calls} times in one call, and which is meant is unclear")
        if not noted.calls:
            raise _refused(processor, name, _COMPUTES_ITSELF)
        return output

    watched._spectral_toolkit = True  # type: ignore[attr-defined]
    return watched


class _Noting(TorchCalls):
    """Shows the arguments of scaled dot product attention in its context to ``see``, and passes on what it returns."""

    def __init__(self, see: Callable[[_Attention], _Attention]) -> None:
        super().__init__()
        self.see, self.calls = see, 0

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls += 1
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        call = cast("_Attention", dict(zip(names, args, strict=False)) | kwargs)
        return func(**(self.see(call) if self.calls == 1 else call))


def _replaced(call: _Attention, seen: Seen, edited: Seen) -> _Attention:
    """The arguments of a call, with what takes the place of its queries, keys and values."""
    changed: dict[_Part, torch.Tensor] = {
        part: getattr(edited, part) for part in _PARTS if getattr(edited, part) is not getattr(seen, part)
    }
    new = call.copy()
    if {"key", "value"} & set(changed) and call.get("enable_gqa"):  # they have every query head now
        for part in changed:
            new[part] = changed[part]
        new["key"], new["value"], new["enable_gqa"] = edited.key, edited.value, False
        return new
    for part, one in changed.items():
        new[part] = one.reshape(call[part].shape)
    return new


@contextmanager
def _projecting(module: torch.nn.Module, seen: Seen, edited: Seen) -> Iterator[None]:
    """Let the projections of a module give out what takes the place of queries, keys and values."""
    with ExitStack() as stack:
        for part, name in zip(_PARTS, ("to_q", "to_k", "to_v"), strict=True):
            if (new := getattr(edited, part)) is not getattr(seen, part):
                given = new.transpose(1, 2).flatten(2)
                stack.callback(module.get_submodule(name).register_forward_hook(_giving(given)).remove)
        yield


def _giving(given: torch.Tensor) -> Callable[[torch.nn.Module, object, torch.Tensor], torch.Tensor]:
    return lambda _part, _args, out: given.reshape(out.shape)


def _seen(module: torch.nn.Module, call: _Attention, name: str) -> Seen:
    query, key, value = (call[part].detach() for part in _PARTS)
    if query.dim() == 3:  # heads are part of the batch
        query, key, value = (part.unflatten(0, (-1, whole_number(module, "heads"))) for part in (query, key, value))
    if key.shape[-2] != query.shape[-2]:
        what = f"lets {query.shape[-2]} tokens attend to {key.shape[-2]}, some of which are not from the image"
        raise _refused(type(getattr(module, "processor", None)), name, what)
    if key.shape[1] != query.shape[1]:  # grouped queries
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scale = call.get("scale")
    bias = _additive(call.get("attn_mask"), query)
    return Seen(query, key, value, query.shape[-1] ** -0.5 if scale is None else float(scale), bias)


def _projected(
    module: Untyped,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    temb: torch.Tensor | None = None,
    **kwargs: object,
) -> Seen:
    """Queries, keys and values as diffusers' plain processors compute them."""
    if module.spatial_norm is not None:
        hidden_states = module.spatial_norm(hidden_states, temb)
    if hidden_states.dim() == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if module.group_norm is not None:
        hidden_states = module.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    query, key, value = module.to_q(hidden_states), module.to_k(context), module.to_v(context)
    query, key, value = (part.unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in (query, key, value))
    return Seen(query.detach(), key.detach(), value.detach(), float(module.scale), _additive(attention_mask, query))


def _additive(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill(~mask, lowest)
    while mask.dim() < 4:
        mask = mask.unsqueeze(1 if mask.dim() == 3 else 0)
    return mask


def _refused(processor: type, name: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The attention processor {processor.__name__} of {name} {what}: put diffusers' own back before the capture, "
        "with set_default_attn_processor() or set_attention_backend('native')."
    )
