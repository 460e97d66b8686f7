"""A module with numbers in the place of weights that are not there yet.

Which token stands for which patch does not depend on the weights, so it can be proven of a module on torch's ``meta``
device, too: of a copy whose weights are random. They are views of one short row of random numbers, in which each row of
a weight starts a little later than the one before: a model of any size costs no memory.
"""

from __future__ import annotations

import copy
import math

import torch

_SPREAD = 0.1
"""Standard deviation of the numbers."""


def is_empty(module: torch.nn.Module) -> bool:
    """Whether any weight or buffer of a module is on the device ``meta``, without numbers."""
    return any(one.is_meta for one in (*module.parameters(), *module.buffers()))


def stand_in(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module onto the CPU, with random numbers for weights on ``meta`` and zeros for whole numbers."""
    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    for part in copied.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and parameter.is_meta:
                part._parameters[name] = torch.nn.Parameter(_drawn(parameter, generator), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = _drawn(buffer, generator)
    return copied


def _drawn(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    # Strides of 1 along the last axis and of a few numbers along the others: entries repeat, but no two rows are alike.
    strides = [1, *(2 * step + 1 for step in range(1, like.ndim))][::-1][: like.ndim]
    n = 1 + sum(stride * (side - 1) for stride, side in zip(strides, like.shape, strict=True)) if like.numel() else 0
    row = torch.empty(max(n, 1), dtype=torch.float32).normal_(std=_SPREAD, generator=generator).to(like.dtype)
    return row.as_strided(like.shape, strides) if math.prod(like.shape) else row.new_empty(like.shape)
