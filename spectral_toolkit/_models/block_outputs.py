"""Proves where the patches stand in what the blocks of layers give out: the residual stream after them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from . import token_maps
from .passes import PassSeen, Prober, distance
from .probing import ALIKE, Layout, Outputs, moved_tokens
from .token_maps import Grid, TokenMap


def prove_outputs(prober: Prober, layout: Layout, blocks: dict[str, str]) -> None:
    """Find where the patches stand in what the blocks of layers give out (module name to block name).

    They stand row by row, or as in the queries; which of it is true, a random half of the patches shows: of the image,
    or of the map of features from which the queries come.
    """
    prober.hooked = tuple(dict.fromkeys(blocks.values()))
    base, whole = prober.look(prober.base), prober.look(prober.other)
    halves = _Halves(prober, base)
    for module, layer in layout.layers.items():
        name = blocks.get(module)
        if name is None or name not in base.outputs:
            continue
        rows, columns = layer.maps["query"].grid
        # A block that ends a stage may give out a coarser grid than its attention saw.
        coarser = [(rows >> n, columns >> n) for n in range(3) if not (rows | columns) % (1 << n)]
        sources = dict.fromkeys([None, layout.sources.get(module)])
        found = (
            Outputs(there, way, shape[1] if way == "channel second" else shape[-1])
            for (way, start), grid, source in itertools.product(base.outputs[name].items(), coarser, sources)
            for shape in [base.output_shapes[name]]
            if len(start) == 1
            for moved in [np.flatnonzero(moved_tokens(distance(start, whole.outputs[name][way]))[0])]
            for there in halves.fitting(name, way, start, grid, source, moved, layer.maps["query"].order)
        )
        if (first := next(found, None)) is not None:
            layout.outputs[module] = first
    prober.hooked = ()


class _Halves:
    """What a random half of the patches of each grid, and the other half, move."""

    def __init__(self, prober: Prober, base: PassSeen) -> None:
        self.prober, self.base = prober, base
        self._seen: dict[tuple[int | None, Grid], tuple[np.ndarray, PassSeen, PassSeen]] = {}

    def fitting(
        self, name: str, way: str, start: np.ndarray, grid: Grid, source: int | None, moved: np.ndarray, own: np.ndarray
    ) -> Iterator[TokenMap]:
        """The orders of tokens (row by row, or the ``own`` of the queries) that fit what moves."""
        n = grid[0] * grid[1]
        if not n <= len(moved) <= n + token_maps.MOST_WHOLE:
            return
        if source is not None and self.base.maps[source][0] != grid:
            return
        where, on, off = self._looks(source, grid)
        nearer = distance(start, on.outputs[name][way])[0] > distance(start, off.outputs[name][way])[0]  # (token,)
        for order in (moved[:n], moved[-n:], own):
            if len(order) == n and order.max() < len(nearer) and np.mean(nearer[order] == where.ravel()) > ALIKE:
                special = np.setdiff1d(np.arange(start.shape[1]), order)
                none = np.zeros(n, dtype=np.int64)
                yield TokenMap(grid, order, special, none, none[: len(special)], 1)

    def _looks(self, source: int | None, grid: Grid) -> tuple[np.ndarray, PassSeen, PassSeen]:
        if (source, grid) not in self._seen:
            where = np.random.default_rng(2).random(grid) < 0.5
            on, off = (
                self.prober.look(self.prober.changed(one, grid))
                if source is None
                else self.prober.look(self.prober.base, injected={source: one})
                for one in (where, ~where)
            )
            self._seen[source, grid] = (where, on, off)
        return self._seen[source, grid]
