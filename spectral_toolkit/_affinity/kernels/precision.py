"""Where single precision is not enough for an exponential: exp(z) is off, relatively, by as much as z is."""

from __future__ import annotations

import torch

ROUNDING = 1e-5
"""An affinity may be off by this part of it for being computed in the precision of the activations; else doubles do."""
DOUBLE_ROUNDING = 1e-6
"""The same, for what doubles must do."""
AT_THRESHOLD = 2.0**-40
"""A cosine above its threshold by less, about 1e-12, is at it: in double precision it may be the rounding of a sum."""


def doubled(x: torch.Tensor) -> torch.Tensor:
    """In double precision; on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def careful_images(size: torch.Tensor, dtype: torch.dtype) -> list[list[int]]:
    """For every head, the images whose exponents, of a ``size`` (images, heads), are too large for the precision.

    Examples
    --------
    >>> careful_images(torch.tensor([[1.0, 1e4], [1.0, 10.0]]), torch.float32)
    [[], [0]]
    """
    # Written so that what has overflowed is too large, too.
    too_large = ~(size * torch.finfo(dtype).eps <= ROUNDING)
    return [[image for image, flag in enumerate(column) if flag] for column in too_large.T.tolist()]
