"""Proves where the patches stand in what the blocks of layers give out: the residual stream after them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from . import token_maps
from .passes import PassSeen, Prober, distance
from .probing import ALIKE, Layer, Layout, Outputs, moved_tokens
from .token_maps import Grid, TokenMap


def prove_outputs(prober: Prober, layout: Layout, blocks: dict[str, str]) -> None:
    """Find where the patches stand in what the blocks of layers give out (module name to block name).

    They stand row by row, or as in the queries; which of it is true, a random half of the patches shows: of the image,
    or of the map of features from which the queries come.
    """
    prober.hooked = tuple(dict.fromkeys(blocks.values()))
    base, whole = prober.look(prober.base), prober.look(prober.other)
    halves = _Halves(prober, base, whole)
    for module, layer in layout.layers.items():
        name = blocks.get(module)
        if name is None or name not in base.outputs:
            continue
        found = (halves.of(name, way, grid, source, layer) for way, grid, source in _ways(base, layout, module, name))
        if (first := next(filter(None, found), None)) is not None:
            layout.outputs[module] = first
    prober.hooked = ()


def _ways(base: PassSeen, layout: Layout, module: str, name: str) -> Iterator[tuple[str, Grid, int | None]]:
    """How the axes of an output may read, on which grid, and by what patches may be told, likely ones first."""
    rows, columns = layout.layers[module].maps["query"].grid
    # A block that ends a stage may give out a coarser grid than its attention saw.
    coarser = [(rows >> n, columns >> n) for n in range(3) if not (rows | columns) % (1 << n)]
    return itertools.product(base.outputs[name], coarser, dict.fromkeys([None, layout.sources.get(module)]))


class _Halves:
    """What a random half of the patches of each grid, and the other half, move."""

    def __init__(self, prober: Prober, base: PassSeen, whole: PassSeen) -> None:
        self.prober, self.base, self.whole = prober, base, whole
        self._seen: dict[tuple[int | None, Grid], tuple[np.ndarray, PassSeen, PassSeen]] = {}

    def of(self, name: str, way: str, grid: Grid, source: int | None, layer: Layer) -> Outputs | None:
        """Where the patches of a grid stand in an output, row by row or as in the queries; None if nowhere."""
        start, n = self.base.outputs[name][way], grid[0] * grid[1]
        moved = np.flatnonzero(moved_tokens(distance(start, self.whole.outputs[name][way]))[0])
        if len(start) != 1 or not n <= len(moved) <= n + token_maps.MOST_WHOLE:
            return None
        if source is not None and self.base.maps[source][0] != grid:
            return None
        where, on, off = self._looks(source, grid)
        nearer = distance(start, on.outputs[name][way])[0] > distance(start, off.outputs[name][way])[0]  # (token,)
        for order in (moved[:n], moved[-n:], layer.maps["query"].order):
            if len(order) == n and order.max() < len(nearer) and np.mean(nearer[order] == where.ravel()) > ALIKE:
                special = np.setdiff1d(np.arange(start.shape[1]), order)
                none = np.zeros(n, dtype=np.int64)
                shape = self.base.output_shapes[name]
                found = TokenMap(grid, order, special, none, none[: len(special)], 1)
                return Outputs(found, way, shape[1] if way == "channel second" else shape[-1])
        return None

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
