"""Cosine similarity per head, with small values dropped (the dataset protocol of the source paper)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from ..._compute.devices import has_double, working_dtype
from ..features import LayerFeatures
from ..operators import Rows
from .exact_cosine import cosines_above
from .heads import sum_over_heads
from .precision import AT_THRESHOLD, doubled

DENSE = 64
"""If more than one in this many values is in doubt, all similarities of an image are recomputed, which is faster."""
TILE = 32
"""Rows that are examined at once."""


def unit_vectors(x: torch.Tensor) -> torch.Tensor:
    """Return vectors of length one; a zero vector stays zero, so that it is similar to no other.

    Dividing by the largest entry first keeps squares from overflowing or vanishing. The length is a double where the
    device has one, so that the vectors, once rounded, do not depend on the order of the sum.
    """
    careful = x.to(working_dtype(x.device))
    tiny = torch.finfo(x.dtype).tiny
    careful = careful / careful.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)
    return (careful / careful.norm(dim=-1, keepdim=True).clamp_min(tiny)).to(x.dtype)


def prepare(features: LayerFeatures, *, threshold: float = 0.1) -> Rows:
    """Return rows of the head-averaged cosine, where similarities of a head at or below ``threshold`` count as zero.

    Where single precision leaves open which they are, double precision decides, and exact arithmetic where that does
    not either, so that the order in which a processor sums never does.
    """
    left = unit_vectors(features.left)
    right = left if features.is_symmetric else unit_vectors(features.right)
    n_heads = left.shape[1]

    def rows(start: int, stop: int) -> torch.Tensor:
        def of_head(head: int) -> torch.Tensor:
            similarity = left[:, head, start:stop] @ right[:, head].transpose(-1, -2)
            if threshold > 0:  # at 0 there is no jump
                sides = features.left[:, head, start:stop], features.right[:, head]
                if _decide(similarity, *sides, threshold):
                    features.remarks.add(
                        f"Some similarities in layer {features.layer!r} equal the threshold {threshold:g} up to "
                        "rounding; the last digits of the activations decide which of them count."
                    )
            return functional.threshold(similarity, threshold, 0.0, inplace=True)

        return sum_over_heads(n_heads, of_head).div_(n_heads)

    return rows


def _decide(similarity: torch.Tensor, left: torch.Tensor, right: torch.Tensor, threshold: float) -> bool:
    """Set similarities (images, rows, n) that rounding could move across the threshold to 0, or to a value above it.

    Returns whether some of them equal the threshold as far as double precision can tell.
    """
    tied = False
    # The largest error of normalising two vectors and summing their products.
    error = 2 * (left.shape[-1] + 8) * torch.finfo(similarity.dtype).eps
    above = torch.tensor(threshold, dtype=similarity.dtype).nextafter(torch.tensor(2.0, dtype=similarity.dtype)).item()
    for image in range(len(similarity)):
        row, column = _between(similarity[image], threshold - error, threshold + error)
        if not len(row):
            continue
        one, other = unit_vectors(doubled(left[image])), unit_vectors(doubled(right[image]))
        if len(row) * DENSE > similarity[image].numel():
            exact = (one @ other.T)[row, column]
        else:
            exact = torch.linalg.vecdot(one[row], other[column])
        larger = exact > threshold
        if len(close := ((exact - threshold).abs() <= AT_THRESHOLD).nonzero()[:, 0]):
            tied = True
            larger[close] = cosines_above(
                doubled(left[image])[row[close]], doubled(right[image])[column[close]], threshold
            )
        decided = torch.where(larger, exact.clamp_min(above), 0.0)
        similarity[image, row, column] = decided.to(similarity.device, similarity.dtype)
    return tied


def _between(values: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the values between the two; by NumPy on a CPU, where it is several times as fast."""
    if values.device.type != "cpu":
        row, column = ((values > low) & (values < high)).nonzero(as_tuple=True)
        return (row, column) if has_double(values.device) else (row.cpu(), column.cpu())
    array = values.numpy()
    limits = array.dtype.type(low), array.dtype.type(high)
    found = []
    for start in range(0, len(array), TILE):  # a tile stays in the processor's cache
        tile = array[start : start + TILE]
        found.append(np.flatnonzero((tile > limits[0]) & (tile < limits[1])) + start * array.shape[1])
    row, column = np.divmod(np.concatenate(found), array.shape[1])
    return torch.from_numpy(row), torch.from_numpy(column)
