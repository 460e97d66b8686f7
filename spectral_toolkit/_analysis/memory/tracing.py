"""Determines how much memory a forward pass takes, without computing it.

The modules are copied with fake tensors in place of their weights, which have shapes but no numbers (PyTorch's
``FakeTensorMode``), and the sizes of all live tensors are added up after every operation. PyTorch's fused attention
keeps no matrix of all pairs, and is counted without one.
"""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Callable
from typing import cast

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..._compute.torch_calls import TorchCalls


def peak_bytes(prepare: Callable[[Callable[[torch.nn.Module], torch.nn.Module]], Callable[[], object]]) -> int:
    """Return the largest number of bytes that a pass holds at once besides weights and inputs.

    Parameters
    ----------
    prepare
        A function that receives a function which copies a module without its numbers, and returns the pass to run on
        such copies.

    Examples
    --------
    >>> layers = torch.nn.Sequential(torch.nn.Linear(4, 100), torch.nn.ReLU(), torch.nn.Linear(100, 2))
    >>> shown = torch.zeros(8, 4)
    >>> def prepare(convert):
    ...     copied = convert(layers)
    ...     return lambda: copied(shown)
    >>> peak_bytes(prepare) == 4 * (8 * 100 + 8 * 100)
    True
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def convert(module: torch.nn.Module) -> torch.nn.Module:
        tensors = [*module.parameters(), *module.buffers()]
        return copy.deepcopy(module, {id(tensor): mode.from_tensor(tensor) for tensor in tensors})

    run = prepare(convert)
    live = _Live()
    calls = {id(cache): cache.cache_info().misses for cache in _caches()}
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), mode, _FusedAttention(), live:
            run()
    finally:
        # Some models keep tables of positions in a cache of the whole program: none without numbers may remain there.
        for cache in _caches():
            if cache.cache_info().misses != calls.get(id(cache)):
                cache.cache_clear()
    return live.peak


def _caches() -> list[functools._lru_cache_wrapper[object]]:
    kind = type(functools.lru_cache(len))
    return [found for found in gc.get_objects() if type(found) is kind]


class _Live(TorchDispatchMode):
    """Adds up the tensors that operations made and that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        # Views, and operations in place, allocate nothing.
        if not any(returned.alias_info is not None for returned in func._schema.returns):
            for tensor in tree_leaves(output):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._storages = {key: held for key, held in self._storages.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(n_bytes for _, n_bytes in self._storages.values()))
        return output


class _FusedAttention(TorchCalls):
    """Gives the shape of what the fused attention returns."""

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if func is scaled_dot_product_attention:
            query, value = (
                cast("torch.Tensor", args[place] if len(args) > place else kwargs[name])
                for place, name in ((0, "query"), (2, "value"))
            )
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **kwargs)
