"""A copy of a module with random weights, of which the places of patches are proven where its own hide them.

Which token stands for which patch does not depend on the weights. So it can be proven of a module whose weights are
still on torch's ``meta`` device, or through which a change to one patch does not come: deep convolutions whose units
are off, or in which it drowns in rounding. The weights of the copy are as large as lets signals pass, and are views of
one short row of random numbers, in which each row of a weight starts a little later than the one before: a model of
any size costs no memory.
"""

from __future__ import annotations

import copy
import math

import torch

_POSITIONS = 0.02
"""Standard deviation of weights that are added to tokens rather than multiplied with them."""


def is_empty(module: torch.nn.Module) -> bool:
    """Whether any weight or buffer of a module is on the device ``meta``, without numbers."""
    return any(one.is_meta for one in (*module.parameters(), *module.buffers()))


def stand_in(module: torch.nn.Module, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Copy a module onto the CPU, with random weights (in ``dtype``, its own by default).

    Buffers keep their numbers, but for the statistics of normalisations, which become 0 and 1. On ``meta`` they have
    none: numbers are drawn, and whole numbers are 0.
    """
    generator = torch.Generator().manual_seed(0)
    known: dict[int, object] = {}  # what deepcopy takes for copied already: the weights themselves are never copied
    for part in module.modules():
        mixes = isinstance(part, torch.nn.Linear | torch.nn.modules.conv._ConvNd | torch.nn.MultiheadAttention)
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) not in known:
                drawn = _weight(name, parameter, dtype, generator, mixes=mixes)
                known[id(parameter)] = torch.nn.Parameter(drawn, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and id(buffer) not in known:
                known[id(buffer)] = _buffer(name, buffer, dtype, generator)
    return copy.deepcopy(module, known)


def _weight(
    name: str, like: torch.Tensor, dtype: torch.dtype | None, generator: torch.Generator, *, mixes: bool
) -> torch.Tensor:
    wanted = (dtype or like.dtype) if like.is_floating_point() else like.dtype
    if like.ndim < 2:
        return torch.full(like.shape, 0.0 if "bias" in name else 1.0, dtype=wanted)
    spread = math.sqrt(2 / like[0].numel()) if mixes and "bias" not in name and like.numel() else _POSITIONS
    return _drawn(like.shape, wanted, generator, spread)


def _buffer(name: str, like: torch.Tensor, dtype: torch.dtype | None, generator: torch.Generator) -> torch.Tensor:
    wanted = (dtype or like.dtype) if like.is_floating_point() else like.dtype
    if name in ("running_mean", "running_var"):
        return torch.full(like.shape, float(name == "running_var"), dtype=wanted)
    if not like.is_meta:
        return like.detach().to("cpu", wanted, copy=True)
    return (
        _drawn(like.shape, wanted, generator, 1.0)
        if wanted.is_floating_point
        else torch.zeros(like.shape, dtype=wanted)
    )


def _drawn(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator, spread: float) -> torch.Tensor:
    """Numbers whose rows along any axis are windows of one row."""
    # Strides of 1 along the last axis and a few numbers along the others: entries repeat, but no two rows are alike.
    strides = [2 * step + 1 for step in range(len(shape))][::-1]
    n = 1 + sum(stride * (side - 1) for stride, side in zip(strides, shape, strict=True)) if math.prod(shape) else 1
    row = torch.empty(n).normal_(std=spread, generator=generator).to(dtype)
    return row.as_strided(shape, strides) if math.prod(shape) else row.new_empty(shape)
