"""Proves which token is which patch by changing maps of features, where convolutions let tokens see many patches.

Before or between the layers of some models stand convolutions: a change to one patch then moves many tokens. But what a
convolution gives out is a map whose places lie as their patches do. So places in the last such map before a call are
changed in place of pixels, and which token comes from which place shows as exactly as ever. That the map is upright,
neither turned nor shuffled, is shown as a whole: a change to one half of the image, or of a map before it that is known
to be upright, moves the places in that half most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from . import token_maps
from .passes import distance
from .token_maps import Answer, Grid

if TYPE_CHECKING:
    from .probing import Proof

Source = tuple[int, Grid]
"""Number and grid of a map."""
_MOST_PASSES = 600
"""After so many passes of a proof no further map is asked about."""
_MOST_BACK = 8
"""How many maps before a call are tried as the last one that its tokens come from."""
_TREND, _RISE = 0.8, 0.05
"""How closely the response of a map's rows must follow their place, and by how much its ends must differ."""


def prove(proof: Proof) -> None:
    """Prove what can be proven of the modules that are open by changing maps of features."""
    search = _MapSearch(proof)
    sources = {module: [search.source(module, place) for place in range(3)] for module in proof.open()}
    used: dict[str, list[Source]] = {
        module: [one for one in found if one is not None] for module, found in sources.items() if None not in found
    }
    upright = search.upright({number for found in used.values() for number, _ in found})
    used = {module: found for module, found in used.items() if all(number in upright for number, _ in found)}
    answers: dict[Source, list[Answer]] = {}
    for group in search.packed(used):
        answers |= search.answers(group, used)
    for module, found in used.items():
        if all(one in answers for one in found):
            proof.conclude(module, [(grid, answers[number, grid]) for number, grid in found])
            proof.sources[module] = found[0][0]


class _MapSearch:
    def __init__(self, proof: Proof) -> None:
        self.proof, self.prober, self.maps = proof, proof.prober, proof.base.maps
        self._moved: dict[int, list[tuple[bool, ...]]] = {}

    def moved(self, number: int) -> list[tuple[bool, ...]]:
        """Whether a change to a whole map moves the tokens of each quantity of each call."""
        if number not in self._moved:
            every = {number: np.ones(self.maps[number][0], bool)}
            found = self.proof.differences(self.prober.base, len(self.proof.base.modules) - 1, every)
            self._moved[number] = [tuple(bool((one > 0).any()) for one in call) for call in found]
        return self._moved[number]

    def source(self, module: str, place: int) -> Source | None:
        """The last map before the calls of a module that holds the patches of a quantity."""
        likely = self.proof.key_grids[module] if place else self.proof.grids[module]
        calls = self.proof.groups[module]
        fit = [
            (n, grid)
            for n, (grid, before) in enumerate(self.maps)
            if before <= calls[0] and any(token_maps.halvings(one, grid) is not None for one in likely)
        ]
        for number, grid in fit[: -_MOST_BACK - 1 : -1]:
            if self.prober.passes > _MOST_PASSES:
                return None
            if all(self.moved(number)[call][place] for call in calls):
                return number, grid
        return None

    # --- whether maps are upright ------------------------------------------------------------------------------------

    def upright(self, numbers: set[int]) -> set[int]:
        """Those of the maps that are shown to lie as the image does."""
        seen = self._follow(None, numbers)
        return seen | {number for number in numbers - seen if self._by_way(None, number)}

    def _reached(self, start: int | None, end: int) -> bool:
        """Whether a map lies as another before it does, directly or by way of those between them."""
        return end in self._follow(start, {end}) or self._by_way(start, end)

    def _by_way(self, start: int | None, end: int) -> bool:
        between = [n for n in range(0 if start is None else start + 1, end) if min(self.maps[n][0]) > 1]
        if not between or self.prober.passes > _MOST_PASSES:
            return False
        middle = between[len(between) // 2]
        return self._reached(start, middle) and self._reached(middle, end)

    def _follow(self, start: int | None, numbers: set[int]) -> set[int]:
        """Which maps lie as the image does (``start`` None), or as the map ``start`` does."""
        if not numbers:
            return set()
        base = self.prober.look(self.prober.base, keep=numbers).kept
        grid = (2, 2) if start is None else self.maps[start][0]
        good = set(numbers)
        for axis in range(2):
            half = np.arange(grid[axis]) < grid[axis] / 2
            where = np.broadcast_to(half[:, None] if axis == 0 else half, grid)
            first, second = (self._changed(start, one, grid, numbers) for one in (where, ~where))
            good &= {
                number
                for number in numbers & first.keys() & second.keys()
                if _leans(
                    distance(base[number], first[number]),
                    distance(base[number], second[number]),
                    self.maps[number][0],
                    axis,
                )
            }
        return good

    def _changed(self, start: int | None, where: np.ndarray, grid: Grid, keep: set[int]) -> dict[int, np.ndarray]:
        if start is None:
            return self.prober.look(self.prober.changed(where, grid), keep=keep).kept
        return self.prober.look(self.prober.base, injected={start: where}, keep=keep).kept

    # --- asking ------------------------------------------------------------------------------------------------------

    def packed(self, used: dict[str, list[Source]]) -> Iterator[list[Source]]:
        """Groups of maps that can be changed in one pass: none moves tokens that another of its group has to tell."""
        told: dict[Source, set[tuple[int, int]]] = {}
        for module, found in used.items():
            for place, one in enumerate(found):
                told.setdefault(one, set()).update((call, place) for call in self.proof.groups[module])
        moves = {
            one: {(call, place) for call, row in enumerate(self.moved(one[0])) for place in range(3) if row[place]}
            for one in told
        }
        left = list(told)
        while left and self.prober.passes <= _MOST_PASSES:
            group: list[Source] = []
            for one in left:
                if not any(moves[one] & told[other] or moves[other] & told[one] for other in group):
                    group.append(one)
            left = [one for one in left if one not in group]
            yield group

    def answers(self, group: list[Source], used: dict[str, list[Source]]) -> dict[Source, list[Answer]]:
        """What codes on all maps of a group tell, asked together."""
        calls = [
            call for module, found in used.items() if set(found) & set(group) for call in self.proof.groups[module]
        ]
        codes = {one: list(token_maps.codes(one[1])) for one in group}
        found: dict[Source, list[Answer]] = {one: [] for one in group}
        for n in range(max(len(one) for one in codes.values())):
            asked = {one: code[n] for one, code in codes.items() if n < len(code)}
            on, off = (
                self.proof.differences(
                    self.prober.base,
                    max(calls),
                    {number: np.logical_xor(code[2], other) for (number, _), code in asked.items()},
                )
                for other in (False, True)
            )
            for one, (axis, bit, _) in asked.items():
                found[one].append(Answer(axis, bit, on, off))
        return found


def _leans(first: np.ndarray, second: np.ndarray, grid: Grid, axis: int) -> bool:
    """Whether places respond to the first half along an axis more, the nearer they are to it."""
    margin = ((first - second) / np.maximum(first + second, 1e-300)).reshape(grid).mean(1 - axis)
    if len(margin) < 2 or margin[0] - margin[-1] < _RISE:
        return False
    return float(np.corrcoef(margin, -np.arange(len(margin)))[0, 1]) > _TREND
