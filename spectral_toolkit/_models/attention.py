"""Observes queries, keys and values of transformers models, through the library's own registry.

One attention function is registered under one name. While a capture runs, the tower is switched to it; it reports its
arguments and then calls the function that the model would have used, with the same arguments, so that the model's
outputs do not change, or with those that an intervention puts in their place. The attention module that makes a call
determines the capture to which it belongs, so that captures of different models can run side by side.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import SpectralToolkitError, UnsupportedModelError
from .untyped import untyped
from .watching.calls import additive

NAME = "spectral_toolkit"

Seen = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Listener = Callable[
    [torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float], Seen | None
]


@dataclass(frozen=True)
class _Call:
    """What to do when an attention module is called: the listener, and how the model computes."""

    own: str
    listener: Listener | None


@dataclass
class _Switched:
    """A configuration that is switched to us (models may share it): its own setting, and how many captures use it."""

    own: str | None
    captures: int = 0


_calls: dict[int, _Call] = {}  # by id of the attention module
_switched: dict[int, _Switched] = {}  # by id of the configuration
_switching = threading.Lock()


def delegate(own: str | None) -> str:
    """The implementation that computes in place of ``own`` during a capture.

    Flash and flex attention take no additive mask in the form that the models build for other implementations, so
    PyTorch's scaled dot product computes in their place; all other implementations compute themselves.
    """
    if own is None:
        return "eager"
    return "sdpa" if "flash" in own or "flex" in own or own.startswith("paged|") else own


class AttentionConfig(Protocol):
    """A configuration of transformers, as the attention interface keeps its setting there."""

    _attn_implementation: str | None
    _attn_implementation_internal: str | None


def _config(module: torch.nn.Module) -> AttentionConfig:
    return untyped(module).config


def _own(config: AttentionConfig) -> str | None:
    """The setting of a configuration outside captures."""
    state = _switched.get(id(config))
    return state.own if state else config._attn_implementation


def _delegated(config: AttentionConfig) -> str:
    return delegate(_own(config))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: object,
) -> object:
    # A model that shares its configuration with one that is being captured also comes here, and computes as usual.
    call = _calls.get(id(module)) or _Call(_delegated(_config(module)), None)
    if call.listener is not None:
        scaling, position_bias = cast(
            "tuple[float | None, torch.Tensor | None]", (kwargs.get("scaling"), kwargs.get("position_bias"))
        )
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        bias = additive(attention_mask, query.dtype)
        if position_bias is not None:
            bias = position_bias if bias is None else bias + position_bias
        if key.shape[1] != query.shape[1]:  # grouped queries
            key_seen, value_seen = (repeat_kv(t, query.shape[1] // t.shape[1]) for t in (key, value))
        else:
            key_seen, value_seen = key, value
        edited = call.listener(module, query, key_seen, value_seen, bias, scale)
        if edited is not None:
            query, key_edited, value_edited = edited
            if key_edited is not key_seen or value_edited is not value_seen:
                module, key, value = _ungrouped(module), key_edited, value_edited
    return _function(module, call.own)(module, query, key, value, attention_mask, **kwargs)


def _ungrouped(module: torch.nn.Module) -> torch.nn.Module:
    """An attention module for keys and values that have every query head."""
    if getattr(module, "num_key_value_groups", 1) == 1:
        return module
    other = copy.copy(module)  # shares all weights; the module itself stays as it is
    untyped(other).num_key_value_groups = 1
    return other


def _function(module: torch.nn.Module, own: str) -> Callable[..., object]:
    if own != "eager":
        return ALL_ATTENTION_FUNCTIONS[own]
    # "eager" is not in the registry, because every modelling file has its own.
    for base in type(module).__mro__:
        function = getattr(sys.modules.get(base.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise UnsupportedModelError(
        f"{type(module).__name__} computes attention by code of its own, which cannot be observed: load the model "
        "with attn_implementation='sdpa'."
    )


def _mask(*args: object, config: AttentionConfig, **kwargs: object) -> object:
    return AttentionMaskInterface()[_delegated(config)](*args, config=config, **kwargs)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


@contextmanager
def listening(tower: torch.nn.Module, listeners: dict[torch.nn.Module, Listener]) -> Iterator[None]:
    """Switch ``tower`` to the observing attention function, and restore its own setting whatever happens.

    Parameters
    ----------
    tower
        A transformers ``PreTrainedModel``.
    listeners
        For each attention module to observe, the function to call with (module, query, key, value, bias, scale).
        Tensors are (image, head, token, channel) as the softmax sees them: after rotary embedding and normalisation,
        with keys and values repeated to the query heads. The bias is additive, (image, head, query, key), or None.
        What it returns, if anything, takes the place of queries, keys and values.

    Raises
    ------
    UnsupportedModelError
        If the model does not follow the switch.
    """
    configs = _configs(tower)
    with _switching:
        mine = _switch(tower, configs, listeners)
    try:
        for module in listeners:
            if getattr(getattr(module, "config", None), "_attn_implementation", None) != NAME:
                raise UnsupportedModelError(
                    f"{type(tower).__name__} does not let its attention be switched, so queries, keys and values "
                    "cannot be seen: use a model whose class supports transformers' attention interface."
                )
        yield
    finally:
        with _switching:
            for key in mine:
                del _calls[key]
            _put_back(configs)


def _switch(
    tower: torch.nn.Module, configs: list[AttentionConfig], listeners: dict[torch.nn.Module, Listener]
) -> list[int]:
    """Switch the configurations over, and return the attention modules that belong to this capture."""
    own = {id(config): _own(config) for config in configs}
    if NAME in own.values() or any(id(module) in _calls for module in listeners):
        raise SpectralToolkitError(
            f"{type(tower).__name__} is already being captured: wait for the first capture to end, or copy the model "
            "before."
        )
    for config in configs:
        _switched.setdefault(id(config), _Switched(own[id(config)])).captures += 1
    try:
        untyped(tower).set_attn_implementation(NAME)
        if _config(tower)._attn_implementation == NAME:
            # The switch does not reach a copied block, or a tower to which another model gave its own configuration.
            for config in (getattr(module, "config", None) for module in listeners):
                if config is not None and id(config) in own:
                    config._attn_implementation_internal = NAME
    except BaseException:
        _put_back(configs)
        raise
    calls = {
        id(module): _Call(delegate(own[id(_config(module))]), listeners.get(module))
        for module in tower.modules()
        if id(getattr(module, "config", None)) in own
    }
    _calls.update(calls)
    return list(calls)


def _put_back(configs: list[AttentionConfig]) -> None:
    for config in configs:
        state = _switched[id(config)]
        state.captures -= 1
        if not state.captures:
            # Not set_attn_implementation, which would give nested configurations the setting of the outer one, and
            # would check the previous setting again.
            config._attn_implementation_internal = state.own
            del _switched[id(config)]


def _configs(tower: torch.nn.Module) -> list[AttentionConfig]:
    """Every configuration object in the tower, including nested ones, each once."""
    found: dict[int, AttentionConfig] = {}
    waiting: list[AttentionConfig | None] = [_config(module) for module in tower.modules() if hasattr(module, "config")]
    while waiting:
        config = waiting.pop()
        if config is None or id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = config
        waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(found.values())


def implementation(modules: Iterable[torch.nn.Module]) -> str:
    """The implementation that computes in attention ``modules`` during a capture, for the provenance."""
    names = {}
    for own in (_own(_config(module)) for module in modules):
        used = delegate(own)
        names[str(used) if used == own or own is None else f"{used} (in place of {own})"] = None
    return ", ".join(names)
