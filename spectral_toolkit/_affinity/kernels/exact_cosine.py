"""Cosines that double precision cannot tell from a threshold, compared with it in twice that precision.

A number is held as the sum of two doubles. Sums and products of doubles are exact in this form (Dekker 1971; Ogita,
Rump & Oishi 2005), so what is above the threshold depends neither on the processor nor on the order of a sum.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SPLIT = 2.0**27 + 1
"""Multiplies a double to cut its digits in half (Dekker)."""
ROUNDING = 2.0**-90
"""Relative; what is larger is no rounding error of two doubles."""

Pair = tuple[Tensor, Tensor]


def cosines_above(
    left: Float[Tensor, "pairs channels"], right: Float[Tensor, "pairs channels"], threshold: float
) -> Bool[Tensor, " pairs"]:
    """Tell which cosines are above a threshold, itself above 0, once they are rounded correctly to double precision.

    Examples
    --------
    >>> three_four = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    >>> [bool(cosines_above(three_four, torch.eye(2, dtype=torch.float64)[:1], t)) for t in (0.6, 0.6 - 2.0**-53)]
    [False, True]
    """
    left, right = _scaled(left), _scaled(right)
    inner = _dot(left, right)
    # Without a root: above 0, the squares compare like the cosines. Half a unit in the last place would be rounded off.
    rounded_up = torch.full_like(inner[0], threshold), torch.full_like(inner[0], math.ulp(threshold) / 2)
    limit = _times(_times(rounded_up, rounded_up), _times(_dot(left, left), _dot(right, right)))
    square = _times(inner, inner)
    return (inner[0] > 0) & ((square[0] - limit[0]) + (square[1] - limit[1]) > ROUNDING * limit[0])


def _scaled(x: Tensor) -> Tensor:
    """Multiply by powers of two, which rounds nothing, so that no square overflows or vanishes."""
    return torch.ldexp(x, -torch.frexp(x.abs().amax(dim=-1, keepdim=True)).exponent)


def _dot(left: Tensor, right: Tensor) -> Pair:
    products, errors = _product(left, right)
    total, rest = torch.zeros_like(products[:, 0]), errors.sum(dim=-1)
    for channel in products.unbind(dim=-1):
        total, error = _sum(total, channel)
        rest = rest + error
    return _sum(total, rest)


def _times(one: Pair, other: Pair) -> Pair:
    product, error = _product(one[0], other[0])
    return _sum(product, error + (one[0] * other[1] + one[1] * other[0]))


def _sum(one: Tensor, other: Tensor) -> Pair:
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)


def _product(one: Tensor, other: Tensor) -> Pair:
    product = one * other
    (high, low), (other_high, other_low) = _halves(one), _halves(other)
    return product, ((high * other_high - product) + high * other_low + low * other_high) + low * other_low


def _halves(x: Tensor) -> Pair:
    shifted = SPLIT * x
    high = shifted - (shifted - x)
    return high, x - high
