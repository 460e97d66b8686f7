"""Where single precision is not enough for an exponential: the relative error of exp(z) is as large as that of z is."""

from __future__ import annotations

import torch

from ..._compute.devices import has_double

ROUNDING = 1e-5
"""The relative error an affinity may have in the precision of the activations; above it, double precision is used."""
DOUBLE_ROUNDING = 1e-6
"""The relative error an affinity may have in double precision."""
AT_THRESHOLD = 2.0**-40
"""A cosine nearer to its threshold than about 1e-12 may equal it: double precision may have rounded a sum."""


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Convert to double precision; on the CPU where the device has none."""
    return (x if has_double(x.device) else x.cpu()).double()


def careful_images(size: torch.Tensor, dtype: torch.dtype) -> list[list[int]]:
    """Return, for every head, the images whose exponents ``size`` (images, heads) are too large for the precision.

    Examples
    --------
    >>> careful_images(torch.tensor([[1.0, 1e4], [1.0, 10.0]]), torch.float32)
    [[], [0]]
    """
    # The condition is written so that values that have overflowed are too large, too.
    too_large = ~(size * torch.finfo(dtype).eps <= ROUNDING)
    return [[image for image, flag in enumerate(column) if flag] for column in too_large.T.tolist()]
