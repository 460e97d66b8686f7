"""Runs a module on changed images with muted attention, and proves where patches stand in every call of attention."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch

from . import feature_maps, token_maps
from .passes import PassSeen, Prober, distance
from .token_maps import Answer, Axes, Grid, NotProvenError, TokenMap

QUANTITIES: tuple[str, ...] = ("query", "key", "value")
_MOST_PASSES = 300
"""After so many passes the search ends with what it has."""
ALIKE = 0.97
"""Share of patches that a random half must move as expected, for a map that is proven of another layer."""
_DROWNED = 1e-11
"""Share of the tokens' squares that rounding may change, through a few dozen layers in single precision."""
_MOST_GRIDS = 3
"""How many grids are tried for a layer."""
SHARES = ((0.0, 1.0), (0.0, 0.0), (0.25, 0.25), (0.5, 0.5))
"""Which part of each patch is changed, along both axes, as shares of its side: all of it, or one pixel. Where windows
of convolutions overlap, one pixel of each patch lies in no other window: mostly the first."""


Told: TypeAlias = tuple[int, int, np.ndarray, np.ndarray]
"""Axis and bit of a question, and how far every token moved with the bit's patches, and with all others."""


@dataclass(frozen=True)
class CallPart:
    """One quantity of one call: how its axes read, and the place of each patch among the tokens of its layer."""

    axes: Axes
    n_tokens: int
    windows: int


@dataclass(frozen=True)
class Layer:
    """What is known of one layer: the calls of one module, in order.

    ``parts`` has, for each quantity, one entry a call; ``maps`` the places of patches among the tokens of all its calls
    after each other.
    """

    module: str
    calls: tuple[int, ...]
    parts: dict[str, tuple[CallPart, ...]]
    maps: dict[str, TokenMap]
    heads: int
    channels: int
    value_channels: int


@dataclass(frozen=True)
class Outputs:
    """Where the patches stand in what a block gives out, and how its axes have to be read: see `as_tokens`."""

    map: TokenMap
    axes: str
    features: int


@dataclass
class Layout:
    """What was proven of a module for images of one size."""

    size: Grid
    layers: dict[str, Layer]
    together: bool
    """Whether several images can go in at once: each call then holds them one after another."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Modules whose attention depends on the image and could not be shown to be over patches, with the reason."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Modules whose queries or keys do not depend on the image."""
    outputs: dict[str, Outputs] = field(default_factory=dict)
    biased: dict[str, bool] = field(default_factory=dict)
    """Modules that add a bias to their scores, and whether it differs from image to image."""
    sources: dict[str, int] = field(default_factory=dict)
    """Numbers of the maps of features by which the queries of modules were told, where pixels did not tell them."""
    linear: set[str] = field(default_factory=set)
    """Modules that attend without a softmax."""
    channels: set[str] = field(default_factory=set)
    """Modules that are left out because they attend between channels."""


def prove(prober: Prober) -> Layout:
    """Find where the patches stand in every call of attention.

    Raises
    ------
    NotProvenError
        If no call of attention is over patches; the message says what was seen.
    """
    base = prober.look(prober.base)
    if not base.modules:
        raise NotProvenError("no attention was seen: no scaled dot product, and no softmax between two matrix products")
    whole = prober.look(prober.other)
    if whole.shapes != base.shapes or whole.modules != base.modules:
        raise NotProvenError(
            "its calls of attention differ from image to image, so tokens do not stand for fixed patches"
        )
    if all(_share_moved(one, two) < _DROWNED for one, two in zip(base.values, whole.values, strict=True)):
        raise NotProvenError("another image changes its tokens by no more than rounding does")
    search = Proof(prober, base, whole)
    search.run()
    if not search.layers:
        raise NotProvenError(_why_none(search.reasons or search.elsewhere))
    layers = {module: search.layers[module] for module in search.groups if module in search.layers}
    together, biased = _together(prober, base, whole), _biased(base, whole)
    return Layout(
        prober.size,
        layers,
        together,
        search.reasons,
        search.elsewhere,
        biased=biased,
        sources=search.sources,
        linear=base.linear,
        channels=search.closed,
    )


def assume(prober: Prober, grid: Grid, n_special: int) -> Layout:
    """The layout that the caller tells: special tokens first, then patches row by row.

    Raises
    ------
    NotProvenError
        If no call of attention has so many tokens.
    """
    base = prober.look(prober.base)
    groups = _calls_by_module(base)
    n = n_special + grid[0] * grid[1]
    places = np.arange(n)
    whole = np.zeros(n, dtype=np.int64)
    found = TokenMap(grid, places[n_special:], places[:n_special], whole[n_special:], whole[:n_special], 1)
    layers: dict[str, Layer] = {}
    for module, calls in groups.items():
        shapes = base.shapes[calls[0]]
        if len(calls) == 1 and all(shape[-2] == n and shape[0] * (len(shape) > 3) <= 1 for shape in shapes):
            axes = Axes((1,)) if len(shapes[0]) == 4 else Axes((), int(shapes[0][0]))
            parts = {quantity: (CallPart(axes, n, 1),) for quantity in QUANTITIES}
            maps: dict[str, TokenMap] = dict.fromkeys(QUANTITIES, found)
            layers[module] = Layer(
                module, tuple(calls), parts, maps, _n_heads(shapes[0], axes), shapes[0][-1], shapes[2][-1]
            )
    if not layers:
        counts = sorted({shapes[0][-2] for shapes in base.shapes})
        raise NotProvenError(
            f"no attention has {n} tokens ({n_special} special and {grid[0]} x {grid[1]} patches); those that were "
            f"seen have {', '.join(map(str, counts)) or 'none'}"
        )
    other = prober.look(prober.other)
    return Layout(prober.size, layers, _together(prober, base, other), {}, {}, {}, _biased(base, other))


def _biased(one: PassSeen, other: PassSeen) -> dict[str, bool]:
    """Modules that add a bias to their scores, and whether it differs between the two images."""
    found: dict[str, bool] = {}
    for module, first, second in zip(one.modules, one.biases, other.biases, strict=True):
        if first is not None or second is not None:
            same = first is not None and second is not None and np.array_equal(first, second)
            found[module] = found.get(module, False) or not same
    return found


def _calls_by_module(seen: PassSeen) -> dict[str, list[int]]:
    """Numbers of the calls of each module, in the order of its first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for call, module in enumerate(seen.modules):
        groups[module].append(call)
    return dict(groups)


def _why_none(reasons: dict[str, str]) -> str:
    shown = "; ".join(f"{module or 'the model itself'}: {reason}" for module, reason in list(reasons.items())[:3])
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"none of its {len(reasons)} modules with attention could be shown to be over patches ({shown}{more})"


def _share_moved(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> float:
    """How far the queries, keys or values of two images are apart at most, in squares, as a share of their own size."""
    return max(
        float(distance(first, second).sum() / max(np.square(first).sum(), 1e-300))
        for first, second in zip(one, other, strict=True)
    )


def moved_tokens(distance: np.ndarray) -> np.ndarray:
    """Which tokens depend on the image at all."""
    return distance > 1e-10 * max(float(distance.max(initial=0.0)), 1e-300)


class Proof:
    """The proof for one model: what is known of each module, and what has to be asked next."""

    def __init__(self, prober: Prober, base: PassSeen, whole: PassSeen) -> None:
        self.prober, self.base = prober, base
        self.moved = [
            tuple(moved_tokens(distance(one, two)) for one, two in zip(first, second, strict=True))
            for first, second in zip(base.values, whole.values, strict=True)
        ]
        self.groups = _calls_by_module(base)
        self.layers: dict[str, Layer] = {}
        self.reasons: dict[str, str] = {}
        self.elsewhere: dict[str, str] = {}
        self.closed: set[str] = set()
        self.sources: dict[str, int] = {}
        for module, calls in self.groups.items():
            for place, what in enumerate(("queries", "keys")):
                if not any(self.moved[call][place].any() for call in calls):
                    self.elsewhere[module] = f"its {what} do not depend on the image"
            if all(shape[-2] == 1 for call in calls for shape in base.shapes[call]):
                self.elsewhere[module] = (
                    "each of its tokens sees nothing but itself, as from frame to frame of one image"
                )
        self.grids = {module: self._grids(module, 0) for module in self.groups}
        self.key_grids = {module: self._grids(module, 1) for module in self.groups}

    def run(self) -> None:
        for module in self.open():
            if not self.grids[module]:
                moved = sum(int(self.moved[call][0].sum()) for call in self.groups[module])
                self.reasons[module] = (
                    f"its {moved} tokens that depend on the image form no grid of about square patches"
                )
        ranks = range(max((len(found) for found in self.grids.values()), default=0))
        for rank in ranks:
            for share in SHARES:
                self._round(share, rank)
                if (rank, share) == (0, SHARES[0]):
                    feature_maps.prove(self)
            if rank == 0:
                self._close_channels()
        for share in SHARES[1::-1]:
            for rank in ranks:
                self._round(share, rank, blurred=True)

    def _close_channels(self) -> None:
        """Ask no more about attention between channels, whose vectors have a number for each patch."""
        for module in self.open():
            n_tokens, n = self.shapes(module)[0][0][-2:]
            if n > n_tokens and token_maps.likely_grids(n, self.prober.size):
                self.closed.add(module)
                self.reasons[module] = f"its {n_tokens} tokens are channels, of {n} numbers each, one for each patch"

    def open(self) -> list[str]:
        """Modules of which nothing is proven yet, in the order of their calls."""
        known = (*self.layers, *self.elsewhere, *self.closed)
        return [one for one in self.groups if one not in known]

    def _round(self, share: tuple[float, float], rank: int, *, blurred: bool = False) -> None:
        """Ask for each module about its candidate number ``rank``, with changes to a ``share`` of each patch."""
        waiting = [module for module in self.open() if len(self.grids[module]) > rank]
        if not waiting or self.prober.passes > _MOST_PASSES:
            return
        # Most layers are like others: one is told in full, in passes that end with it, and two longer passes show that
        # the others are the same. Where that fails, or more than two kinds are left, all are told together.
        alone = True
        while waiting:
            leader, kinds = waiting[0], {str(self.shapes(module)) for module in waiting}
            grid = self._asked(leader, rank)
            alone = alone and (len(kinds) <= 2 or not self.layers)
            group = [leader] if alone else [one for one in waiting if self._may_be(one, grid, rank, share)]
            self._tell(group, grid, share, blurred=blurred)
            alone = leader in self.layers
            alike = [one for one in waiting if one not in self.layers and self._looks_like(one, leader)]
            if alone and alike:
                self._verify(leader, alike, share)
            waiting = [one for one in waiting if one not in group and one not in self.layers]

    def _may_be(self, module: str, grid: Grid, rank: int, share: tuple[float, float]) -> bool:
        own = self._asked(module, rank)
        return own == grid or (share == SHARES[0] and token_maps.halvings(own, grid) is not None)

    def _asked(self, module: str, rank: int) -> Grid:
        """The grid to ask about: that of keys where it is finer than that of queries."""
        return max([self.grids[module][rank], *self.key_grids[module][:1]], key=lambda grid: grid[0] * grid[1])

    def _looks_like(self, module: str, other: str) -> bool:
        return self.shapes(module) == self.shapes(other)

    def shapes(self, module: str) -> list[tuple[torch.Size, ...]]:
        return [self.base.shapes[call] for call in self.groups[module]]

    def _grids(self, module: str, place: int) -> list[Grid]:
        """Likely grids of one quantity of a module, from the number of tokens that the image moves."""
        grids: list[Grid] = []
        calls = self.groups[module]
        total = sum(int(self._moved(module, call, place).sum()) for call in calls)
        for heads in _possible_heads(self._moved(module, calls[0], place).shape[:-1], self._rows(module, place)):
            for fewer in range(token_maps.MOST_WHOLE + 1):
                n = total // heads - fewer
                likely = token_maps.likely_grids(n, self.prober.size) if n >= 4 and total % heads == 0 else []
                grids += [grid for grid in likely[:2] if grid not in grids]
                if likely:
                    break
        return grids[:_MOST_GRIDS]

    def _rows(self, module: str, place: int) -> int:
        """How many entries along the first axis of a module's first call depend on the image."""
        moved = self._moved(module, self.groups[module][0], place)
        return int(moved.any(tuple(range(1, moved.ndim))).sum())

    def _moved(self, module: str, call: int, place: int) -> np.ndarray:
        """Which tokens depend on the image; in linear attention a head may have cut all of a token off."""
        moved = self.moved[call][place]
        return np.broadcast_to(moved.any(1, keepdims=True), moved.shape) if module in self.base.linear else moved

    def _answers(self, grid: Grid, share: tuple[float, float], last: int) -> list[Answer]:
        return [
            Answer(axis, bit, self._distances(where, grid, share, last), self._distances(~where, grid, share, last))
            for axis, bit, where in token_maps.codes(grid)
        ]

    def _distances(
        self, where: np.ndarray, grid: Grid, share: tuple[float, float], last: int
    ) -> list[tuple[np.ndarray, ...]]:
        return self.differences(self.prober.changed(where, grid, share), last)

    def differences(
        self, pixels: np.ndarray, last: int, injected: Mapping[int, np.ndarray] | None = None
    ) -> list[tuple[np.ndarray, ...]]:
        """How far the tokens of each quantity of each call, up to the ``last``, are from those of the base image."""
        seen = self.prober.look(pixels, only=last + 1, injected=injected)
        return [
            tuple(distance(one, two) for one, two in zip(first, second, strict=True))
            for first, second in zip(self.base.values[: last + 1], seen.values, strict=True)
        ]

    def _tell(self, modules: list[str], grid: Grid, share: tuple[float, float], *, blurred: bool) -> None:
        """Ask about ``grid``, and prove what can be proven of ``modules``."""
        answers = self._answers(grid, share, max(self.groups[module][-1] for module in modules))
        for module in modules:
            self.conclude(module, [(grid, answers)] * len(QUANTITIES), blurred=blurred)

    def conclude(self, module: str, asked: list[tuple[Grid, list[Answer]]], *, blurred: bool = False) -> None:
        """Prove what was seen of a module, which is given for each of its quantities with the grid asked."""
        try:
            self.layers[module] = self._prove(module, asked, blurred)
            self.reasons.pop(module, None)
        except NotProvenError as reason:
            self.reasons[module] = str(reason)

    def _prove(self, module: str, asked: list[tuple[Grid, list[Answer]]], blurred: bool) -> Layer:
        calls = self.groups[module]
        maps: dict[str, TokenMap] = {}
        parts: dict[str, tuple[CallPart, ...]] = {}
        for place, quantity in enumerate(QUANTITIES):
            maps[quantity], parts[quantity] = self._prove_quantity(module, place, *asked[place], blurred)
        if not maps["key"].same_places(maps["value"]):
            raise NotProvenError("its keys and values are not of the same patches")
        if maps["query"].n_windows != maps["key"].n_windows:
            raise NotProvenError(
                f"its queries are in {maps['query'].n_windows} windows and its keys in {maps['key'].n_windows}"
            )
        if maps["query"].grid == maps["key"].grid and not np.array_equal(maps["query"].window, maps["key"].window):
            raise NotProvenError("its queries see the keys of other windows than their own, as from image to image")
        heads = {
            _n_heads(self.base.shapes[call][place], part.axes)
            for place, quantity in enumerate(QUANTITIES)
            for call, part in zip(calls, parts[quantity], strict=True)
        }
        if len(heads) != 1:
            raise NotProvenError(f"its queries, keys and values have different numbers of heads: {sorted(heads)}")
        shapes = self.base.shapes[calls[0]]
        return Layer(module, tuple(calls), parts, maps, heads.pop(), shapes[0][-1], shapes[2][-1])

    def _prove_quantity(
        self, module: str, place: int, asked: Grid, answers: list[Answer], blurred: bool
    ) -> tuple[TokenMap, tuple[CallPart, ...]]:
        reason = NotProvenError(f"its tokens do not stand for patches of a grid of {asked[0]} x {asked[1]}")
        likely = self.key_grids[module] if place else self.grids[module]
        for grid in [one for one in likely if token_maps.halvings(one, asked) is not None]:
            shift = token_maps.halvings(grid, asked)
            assert shift is not None
            parts: list[CallPart] = []
            told: list[Told] = []
            cells, clear, touched = [], [], []
            for call in self.groups[module]:
                told = [
                    (answer.axis, answer.bit, answer.on[call][place], answer.off[call][place]) for answer in answers
                ]
                moved = self._moved(module, call, place)
                alone, _ = token_maps.decode(told, shift, grid)
                # Answers that are blurred do not show which axes are heads: then they are where torch has them.
                usual = Axes((1,)) if moved.ndim == 3 else Axes(())
                axes = (
                    usual if blurred or module in self.base.linear else token_maps.axes_of(np.where(moved, alone, -2))
                )
                found, certain = _decode_joined(told, axes, shift, grid)
                parts.append(CallPart(axes, found.shape[-1], found.shape[0]))
                cells.append(found)
                clear.append(certain)
                touched.append(token_maps.flattened(moved, axes).any(0))
            try:
                return _joined_map(cells, clear, touched, grid), tuple(parts)
            except NotProvenError as why:
                reason = why
            if blurred and len(cells) == 1:
                try:
                    joined = _joined(told, parts[0].axes)
                    return token_maps.map_in_rows(joined, shift, grid, touched[0]), tuple(parts)
                except NotProvenError as why:
                    reason = why
        raise reason

    def _verify(self, told: str, modules: list[str], share: tuple[float, float]) -> None:
        """Accept for ``modules`` what is proven of ``told``, if a random half of the patches moves the same tokens."""
        layer = self.layers[told]
        grid = layer.maps["query"].grid
        where = np.random.default_rng(1).random(grid) < 0.5
        last = max(self.groups[module][-1] for module in modules)
        on, off = (self._distances(chosen, grid, share, last) for chosen in (where, ~where))
        for module in modules:
            calls = self.groups[module]
            if all(
                _agrees(layer, quantity, where, [(on[call][place], off[call][place]) for call in calls])
                for place, quantity in enumerate(QUANTITIES)
            ):
                self.layers[module] = replace(layer, module=module, calls=tuple(calls))
                self.reasons.pop(module, None)


def _possible_heads(front: Sequence[int], rows: int) -> list[int]:
    """How many heads the axes in front of (token, channel) may hold, likely ones first.

    ``rows`` entries of the first axis depend on the image: heads are among these, not among what stands beside them.
    """
    if len(front) == 2:
        return [int(front[1])]
    if len(front) > 2:
        return list(dict.fromkeys([*(int(side) for side in front[1:]), 1]))
    first = rows if front else 1
    return [heads for heads in range(first, 0, -1) if first % heads == 0]


def _n_heads(shape: Sequence[int], axes: Axes) -> int:
    return axes.folded * math.prod(shape[axis] for axis in axes.heads)


def _decode_joined(told: list[Told], axes: Axes, shift: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The patch of each token (window, token): heads see the same tokens, and what they say together is clearer."""
    return token_maps.decode(_joined(told, axes), shift, grid)


def _joined(told: list[Told], axes: Axes) -> list[Told]:
    return [(axis, bit, *(token_maps.flattened(one, axes).sum(0) for one in (on, off))) for axis, bit, on, off in told]


def _agrees(layer: Layer, quantity: str, where: np.ndarray, answers: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    found = layer.maps[quantity]
    if found.grid != where.shape:
        return False
    joined = [
        np.concatenate(
            [
                token_maps.flattened(answer[side], part.axes).sum(0).ravel()
                for part, answer in zip(layer.parts[quantity], answers, strict=True)
            ]
        )
        for side in (0, 1)
    ]
    on, off = (side[found.order] for side in joined)
    return bool(np.mean((on > off) == where.ravel()) > ALIKE)


def _joined_map(cells: list[np.ndarray], clear: list[np.ndarray], moved: list[np.ndarray], grid: Grid) -> TokenMap:
    """The map over the tokens of several calls, each of which is (window, token)."""
    if len(cells) == 1:
        return token_maps.make_map(cells[0], clear[0], moved[0], grid)
    # Calls may differ in length: each window is one row, padded.
    lengths = [len(row) for group in cells for row in group]
    longest = max(lengths)

    def padded(groups: list[np.ndarray], fill: float) -> np.ndarray:
        return np.stack(
            [np.pad(row, (0, longest - len(row)), constant_values=fill) for group in groups for row in group]
        )

    found = token_maps.make_map(padded(cells, -1), padded(clear, 0.0), padded(moved, False), grid)
    # Back from places in padded rows to places in the rows after one another.
    starts = np.concatenate([[0], np.cumsum(lengths)])
    kept = found.special % longest < np.array(lengths)[found.special // longest]
    places = {
        name: starts[at // longest] + at % longest
        for name, at in (("order", found.order), ("special", found.special[kept]))
    }
    return replace(found, special_window=found.special_window[kept], **places)


def _together(prober: Prober, base: PassSeen, alone: PassSeen) -> bool:
    """Whether two images in one pass give what each gives alone, one after the other along the first axis."""
    try:
        pair = prober.look(prober.base, prober.other)
    except Exception:
        return False
    if pair.modules != base.modules:
        return False
    for together, one, two in zip(pair.values, base.values, alone.values, strict=True):
        for both, first, second in zip(together, one, two, strict=True):
            joined = np.concatenate([first, second])
            if both.shape != joined.shape or not np.allclose(
                both, joined, rtol=1e-2, atol=1e-3 * max(1e-6, np.abs(joined).max())
            ):
                return False
    return True
