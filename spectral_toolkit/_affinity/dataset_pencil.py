"""The joint spectral problem of all images at once: the pencil of `pencil` with every image's nodes side by side."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from .._compute.processes import broadcast
from .isolated import Interpolation
from .layer_graph import LayerGraph
from .pencil import JointPencil
from .resampling import Grid, Resampling


class DatasetPencil(JointPencil):
    """One problem over ``n = images * patches`` nodes, with edges within images and between them."""

    def agreed(self, values: Tensor) -> Tensor:
        return broadcast(values)

    def describe(self, problem: int) -> str:
        return "the whole dataset"

    def _leave_out_lost(self) -> bool:
        """Leave an image without a free patch in the finest layer out of the coarser layers, too.

        Otherwise the edges to it, which no vector can follow, would count as cut, and the constant would not be a
        solution.
        """
        found = self.free.view(-1, self.grid[0] * self.grid[1]).any(dim=1)
        if bool(found.all()) or len(self._groups) == 1:
            return False
        for member in self.members:
            kept = found.repeat_interleave(member.n_cells)[None].to(self.dtype)
            self._degrees[member.name] = self._operators[member.name].matmul(kept[:, None])[:, 0] * kept
        return True

    def _resampling_to(self, grid: Grid) -> Resampling:
        return _EachImage(self.grid, grid)

    def _interpolation_over(self, free: Tensor) -> Interpolation:
        return _InterpolationOfEach(free.view(-1, self.grid[0] * self.grid[1]), self.grid)


class _EachImage(Resampling):
    """The resampling of every image: (1, k, images * n) to (1, k, images * m)."""

    def __call__(self, x: Float[Tensor, "1 k n"]) -> Float[Tensor, "1 k m"]:
        return super().__call__(_split(x, self.base)).flatten(1)[None]

    def transpose(self, x: Float[Tensor, "1 k m"]) -> Float[Tensor, "1 k n"]:
        return super().transpose(_split(x, self.layer)).flatten(1)[None]

    def squared_transpose(self, x: Float[Tensor, "1 k m"]) -> Float[Tensor, "1 k n"]:
        return super().squared_transpose(_split(x, self.layer)).flatten(1)[None]


class _InterpolationOfEach(Interpolation):
    """Interpolates the isolated patches of every image from its own other patches.

    An image whose patches are all isolated has nothing to interpolate from: it stays zero, which is the mean of every
    vector up to the degrees. No layer has an edge to it (`DatasetPencil`).
    """

    def __init__(self, free: Bool[Tensor, "images n"], grid: Grid) -> None:
        super().__init__(free, grid)
        self.grid = grid

    def __call__(self, x: Float[Tensor, "1 k n"]) -> Float[Tensor, "1 k n"]:
        if self.is_identity:
            return x
        return super().__call__(_split(x, self.grid).transpose(0, 1)).transpose(0, 1).flatten(1)[None]

    def transpose(self, x: Float[Tensor, "1 k n"]) -> Float[Tensor, "1 k n"]:
        if self.is_identity:
            return x
        return super().transpose(_split(x, self.grid).transpose(0, 1)).transpose(0, 1).flatten(1)[None]


def _split(x: Tensor, grid: Grid) -> Tensor:
    """View (1, k, images * n) as (k, images, n): the images take the axis that blocks of vectors have elsewhere."""
    return x[0].unflatten(1, (-1, grid[0] * grid[1]))


def make_pencil(graph: LayerGraph, images: slice, grid: Grid | None = None, *, exact: bool = True) -> JointPencil:
    """Make the pencil of a few separate images, or of all images as one, depending on the scope of the graph."""
    kind = DatasetPencil if graph.recipe.scope == "dataset" else JointPencil
    return kind(graph, images, grid, exact=exact)
