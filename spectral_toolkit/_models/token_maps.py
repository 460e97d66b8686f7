"""Finds which token of a tensor stands for which patch of the image, by changing patches and seeing what moves.

Attention is muted meanwhile, so a token depends on its own patch alone (and a little on its neighbours, where
convolutions overlap). The patches of a grid have binary numbers; for each bit, one image has all patches changed whose
bit is set, and one has all others changed. Which of the two moves a token more is that bit of its patch's number. So
rows-first order, special tokens anywhere, windows, merged patches and shuffles all show, in any layer, from a number of
images that grows with the logarithm of the number of patches.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Grid = tuple[int, int]

AGREE = 0.9
"""Share of tokens that must agree before an axis counts as one of heads: blurred borders may differ."""
BARELY = 0.02
"""Tokens whose two images move them alike to within this share see the whole image, as a mean over patches does."""

MOST_WHOLE = 8
"""How many tokens may see the whole image."""


@dataclass(frozen=True)
class Axes:
    """The meaning of the axes in front of ``(token, channel)``, for one image.

    ``heads`` are the axes along which the tokens stand for the same patches; the others are windows, or of size 1.
    ``folded`` is the number of heads that lie within the first axis, after its windows.
    """

    heads: tuple[int, ...]
    folded: int = 1


@dataclass(frozen=True)
class TokenMap:
    """Which tokens are patches, for one image.

    Attributes
    ----------
    grid
        Patches (y, x).
    order
        For each patch, row by row, the place of its token.
    special
        Places of tokens that depend on no patch.
    window
        For each patch, the number of the window in which attention saw it.
    special_window
        For each special token, its window.
    n_windows
        Number of windows; 1 where all tokens see each other.
    """

    grid: Grid
    order: np.ndarray
    special: np.ndarray
    window: np.ndarray
    special_window: np.ndarray
    n_windows: int

    @property
    def in_order(self) -> bool:
        """Whether the tokens stand as a capture wants them: special ones first, then patches row by row."""
        wanted = np.concatenate([self.special, self.order])
        return bool(np.array_equal(wanted, np.arange(len(wanted))))

    def same_places(self, other: TokenMap) -> bool:
        """Whether two maps say the same of every token."""
        return (
            self.grid == other.grid
            and np.array_equal(self.order, other.order)
            and np.array_equal(self.special, other.special)
            and np.array_equal(self.window, other.window)
        )


@dataclass(frozen=True)
class Answer:
    """How far the tokens of every quantity of every call moved with a bit's patches, and with all others."""

    axis: int
    bit: int
    on: list[tuple[np.ndarray, ...]]
    off: list[tuple[np.ndarray, ...]]


class NotProvenError(Exception):
    """Why the tokens of a tensor could not be matched with patches."""


# --- images ----------------------------------------------------------------------------------------------------------


def bounds(n_cells: int, n_pixels: int) -> np.ndarray:
    """First pixel of each of ``n_cells`` patches along one axis, and the end."""
    return np.round(np.linspace(0, n_pixels, n_cells + 1)).astype(int)


@lru_cache(maxsize=32)
def cell_of_pixels(grid: Grid, size: Grid) -> np.ndarray:
    """Number of the patch that each pixel (y, x) lies in."""
    y, x = (np.repeat(np.arange(n), np.diff(bounds(n, side))) for n, side in zip(grid, size, strict=True))
    return y[:, None] * grid[1] + x[None, :]


@lru_cache(maxsize=32)
def within(grid: Grid, size: Grid, share: tuple[float, float]) -> np.ndarray:
    """Which pixels (y, x) lie in the given share of their patch along both axes; at least one pixel of each patch."""
    sides = []
    for n, side in zip(grid, size, strict=True):
        edges = bounds(n, side)
        chosen = np.zeros(side, bool)
        for start, end in itertools.pairwise(edges):
            first = start + int(share[0] * (end - start))
            chosen[first : max(first + 1, start + round(share[1] * (end - start)))] = True
        sides.append(chosen)
    return sides[0][:, None] & sides[1][None, :]


def codes(grid: Grid) -> Iterator[tuple[int, int, np.ndarray]]:
    """Axis, bit, and whether the bit is set in the number along that axis of each patch (y, x)."""
    for axis, n in enumerate(grid):
        for bit in range((n - 1).bit_length()):
            chosen = ((np.arange(n) >> bit) & 1).astype(bool)
            yield axis, bit, np.broadcast_to(chosen[:, None] if axis == 0 else chosen, grid)


def likely_grids(n: int, size: Grid) -> list[Grid]:
    """Grids of ``n`` patches whose patches are about square on an image of ``size`` (height, width), best first."""
    found = []
    for rows in range(1, n + 1):
        if n % rows:
            continue
        columns = n // rows
        if rows > size[0] or columns > size[1]:
            continue
        skew = abs(math.log((size[0] / rows) / (size[1] / columns)))
        if skew < math.log(1.5):
            found.append((skew, (rows, columns)))
    return [grid for _, grid in sorted(found)]


def halvings(grid: Grid, fine: Grid) -> int | None:
    """How often the sides of ``fine`` must be halved to give ``grid``; None if they never do."""
    ratio = fine[0] // grid[0] if grid[0] else 0
    same = ratio and grid[0] * ratio == fine[0] and grid[1] * ratio == fine[1] and not ratio & (ratio - 1)
    return ratio.bit_length() - 1 if same else None


# --- reading the answers ---------------------------------------------------------------------------------------------


def axes_of(cells: np.ndarray) -> Axes:
    """Which axes of ``cells`` (..., token), the patch of each token, are heads."""

    def alike(values: np.ndarray, axis: int) -> bool:
        return bool(np.mean(values == np.take(values, [0], axis)) > AGREE)

    heads = tuple(axis for axis in range(1, cells.ndim - 1) if cells.shape[axis] > 1 and alike(cells, axis))
    first = cells.shape[0] if cells.ndim > 1 else 1
    for folded in range(first, 1, -1):
        if first % folded == 0 and alike(cells.reshape(first // folded, folded, *cells.shape[1:]), 1):
            return Axes(heads, folded)
    return Axes(heads)


def flattened(values: np.ndarray, axes: Axes) -> np.ndarray:
    """``(..., token)`` of one image as (head, window, token)."""
    first = values.shape[0] if values.ndim > 1 else 1
    values = values.reshape(first // axes.folded, axes.folded, *values.shape[1:])
    heads = [1, *(axis + 1 for axis in axes.heads)]
    rest = [axis for axis in range(values.ndim - 1) if axis not in heads]
    moved = values.transpose(*heads, *rest, values.ndim - 1)
    n_heads = math.prod(values.shape[axis] for axis in heads)
    return moved.reshape(n_heads, -1, values.shape[-1])


def decode(
    answers: Sequence[tuple[int, int, np.ndarray, np.ndarray]], shift: int, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Number of each token's patch, or -1 outside the grid; and how clearly it was told (0 to 1).

    ``answers`` holds axis, bit and how far each token moved with the bit's patches and with all others; ``shift`` is
    how many low bits belong to a finer grid than this one.
    """
    shape = answers[0][2].shape if answers else ()
    places = np.zeros((2, *shape), dtype=np.int64)
    clear = np.ones(shape)
    for axis, bit, on, off in answers:
        if bit < shift:
            continue
        places[axis] |= (on > off).astype(np.int64) << (bit - shift)
        clear = np.minimum(clear, np.abs(on - off) / np.maximum(on + off, 1e-300))
    inside = (places[0] < grid[0]) & (places[1] < grid[1])
    return np.where(inside, places[0] * grid[1] + places[1], -1), clear


def make_map(cells: np.ndarray, clear: np.ndarray, moved: np.ndarray, grid: Grid) -> TokenMap:
    """The map from decoded patches (window, token); raises `NotProvenError` unless each patch is there exactly once."""
    n = grid[0] * grid[1]
    window = np.broadcast_to(np.arange(len(cells))[:, None], cells.shape).ravel()
    cells, clear, moved = cells.ravel(), clear.ravel(), moved.ravel()
    patches = np.flatnonzero(moved & (cells >= 0))
    if n < len(patches) <= n + MOST_WHOLE:  # tokens that see all patches alike are not one of them
        patches = patches[clear[patches] > BARELY]
    counts = np.bincount(cells[patches], minlength=n)
    if len(patches) != n or (counts != 1).any():
        raise NotProvenError(
            f"of {n} patches ({grid[0]} x {grid[1]}) {int((counts == 1).sum())} are the source of exactly one token, "
            f"{int((counts == 0).sum())} of none and {int((counts > 1).sum())} of several"
        )
    order = np.empty(n, dtype=np.int64)
    order[cells[patches]] = patches
    windows, numbered = np.unique(window[order], return_inverse=True)
    special = np.setdiff1d(np.arange(len(cells)), patches)
    special = special[np.isin(window[special], windows)]  # a window of padding alone is seen by no patch
    theirs = np.searchsorted(windows, window[special])
    return TokenMap(grid, order, special, numbered.astype(np.int64), theirs, len(windows))


CLEAR, RARE, APART = 0.6, 0.01, 0.02
"""From where a response is clear, how many clear ones may be wrong, and by how much the order must fit best."""


def map_in_rows(
    answers: Sequence[tuple[int, int, np.ndarray, np.ndarray]], shift: int, grid: Grid, moved: np.ndarray
) -> TokenMap:
    """The map of tokens that see several patches each, if all that is seen speaks for rows-first order.

    Convolutions over patches, or deep ones before them, blur the responses: a token near the border of a bit is moved
    by both of its images. Responses that are clear must agree with rows-first order, and that order must fit all
    responses better than any that is shifted by one patch.

    Raises
    ------
    NotProvenError
        If they do not.
    """
    n = grid[0] * grid[1]
    patches = np.flatnonzero(moved.ravel())
    if len(moved) != 1 or len(patches) != n:
        raise NotProvenError(
            f"{len(patches)} tokens depend on the image, which are not the {n} of {grid[0]} x {grid[1]} patches"
        )
    told = [
        (axis, bit - shift, ((on - off) / np.maximum(on + off, 1e-300)).ravel()[patches].reshape(grid))
        for axis, bit, on, off in answers
        if bit >= shift
    ]
    margins = np.stack([margin for _, _, margin in told])

    def expected(dy: int, dx: int) -> np.ndarray:
        places = np.meshgrid(np.arange(grid[0]) + dy, np.arange(grid[1]) + dx, indexing="ij")
        return np.stack([np.where((places[axis] >> bit) & 1, 1.0, -1.0) for axis, bit, _ in told])

    own = expected(0, 0)
    clear = np.abs(margins) > CLEAR
    wrong = float(np.mean((np.sign(margins) != own)[clear])) if clear.any() else 1.0
    inner = (slice(None), slice(1, -1) if grid[0] > 2 else slice(None), slice(1, -1) if grid[1] > 2 else slice(None))
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    best = max(float(np.mean((margins * expected(*one))[inner])) for one in shifts)
    fit = float(np.mean((margins * own)[inner]))
    if wrong > RARE or fit < best + APART:
        raise NotProvenError(
            f"tokens see several patches each, and their order is not by rows of {grid[0]} x {grid[1]} ({wrong:.0%} of "
            f"clear responses speak against it; it fits by {fit:.2f}, and one that is shifted by a patch by {best:.2f})"
        )
    whole = np.zeros(n, dtype=np.int64)
    special = np.setdiff1d(np.arange(moved.size), patches)
    return TokenMap(grid, patches, special, whole, np.zeros(len(special), np.int64), 1)
