"""The joint spectral problem of a few images: one pencil (A, B) over all layers.

    A = sum_l w_l s_l P' G_l' (D_l - W_l) G_l P        B = sum_l w_l s_l P' G_l' D_l G_l P

Here w_l are the weights divided by the largest of them, G_l resamples from the base grid to the layer's, s_l = n /
total degree of layer l (so that equal weights give layers equal influence, whatever their resolution), and P is the
interpolation over isolated patches. Solvers look for the largest mu of W x = mu B x with W = B - A; the cut value is
lambda = 1 - mu, in [0, 2].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._compute.devices import working_dtype
from ..errors import AffinityError, SolverError
from .isolated import Interpolation
from .layer_graph import LayerGraph, Member
from .operators import DenseOperator, Operator, accumulate
from .resampling import Grid, Resampling

SMALLEST_WEIGHT_RATIO = 1e-6
"""Below this ratio, a layer's directions are lost in the rounding errors of the others."""
SMALLEST_DEGREE_RATIO = 1e-12
"""A patch whose degree is below this share of the mean counts as isolated."""


@dataclass
class _Group:
    """Layers on one grid: dense ones are summed into one operator, the others are applied one by one."""

    resampling: Resampling
    operators: list[tuple[Tensor, Operator]]
    degree: Float[Tensor, "images m"]


class JointPencil:
    """The pencil for a slice of the images, applied without being formed.

    Parameters
    ----------
    graph, images
        The affinities, and which of the images to use.
    grid
        Base grid; by default :func:`base_grid` of the graph.
    exact
        Whether layers of equal grid are summed in float64, whatever the precision of their affinities.
    """

    def __init__(self, graph: LayerGraph, images: slice, grid: Grid | None = None, *, exact: bool = True) -> None:
        self.graph = graph
        self.images = images
        self.exact = exact
        self.grid = base_grid(graph) if grid is None else grid
        self.n = n_nodes(graph, self.grid)
        self.dtype = working_dtype(graph.device)
        self.members = positive_members(graph)
        # Weights are relative, so that their absolute size can neither overflow nor vanish.
        self.largest_weight = max(graph.weights[member.name] for member in self.members)
        self._weights = {member.name: graph.weights[member.name] / self.largest_weight for member in self.members}
        self._operators = {member.name: graph.operators(member, images) for member in self.members}
        for operator in self._operators.values():
            if exact and isinstance(operator, DenseOperator):
                operator.settle()  # before degrees are read
        self._scales = {member.name: self._scale(member) for member in self.members}
        self._degrees = {name: operator.degree.to(self.dtype) for name, operator in self._operators.items()}
        self._groups = self._collapse()
        diagonal = self._diagonal()
        own = next((group.degree for group in self._groups if group.resampling.is_identity), diagonal)
        linked = own > SMALLEST_DEGREE_RATIO * own.mean(dim=1, keepdim=True)
        self.free: Bool[Tensor, "images n"] = self.agreed(linked.to(self.dtype)) > 0
        if self._leave_out_lost():
            self._groups = self._collapse()
            diagonal = self._diagonal()
        self.interpolation = self._interpolation_over(self.free)
        self._inverse_diagonal = torch.where(self.free, 1 / diagonal.clamp_min(torch.finfo(self.dtype).tiny), 0.0)[
            :, None
        ]
        self._is_diagonal = len(self._groups) == 1 and self._groups[0].resampling.is_identity

    def agreed(self, values: Tensor) -> Tensor:
        """Return the values that all processes of this problem use; in one process, the values themselves.

        Processes round differently (because of other numbers of threads or other CPUs), and what they compute from the
        same numbers may then differ altogether: the signs of eigenvectors, or whether a residual is below a limit.
        """
        return values

    def describe(self, problem: int) -> str:
        """Describe the subject of one of the problems, for messages."""
        return f"image {self.graph.images[self.images.indices(len(self.graph.images))[0] + problem]!r}"

    @property
    def n_images(self) -> int:
        return len(self.free)

    @property
    def n_free(self) -> Tensor:
        """The number of free patches of each image."""
        return self.free.sum(dim=1)

    def affinity_matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        """Return (B - A) x, the joint affinity. ``exact=False`` allows products in the precision of the affinities."""
        x = self.interpolation(x)
        total = torch.zeros_like(x)
        for group in self._groups:
            coarse = group.resampling(x)
            own = total if group.resampling.is_identity else torch.zeros_like(coarse)
            for coefficient, operator in group.operators:
                accumulate(own, coarse, coefficient, operator, exact=exact)
            if own is not total:
                total += group.resampling.transpose(own)
        return self.interpolation.transpose(total)

    def mass_matmul(self, x: Float[Tensor, "images k n"]) -> Float[Tensor, "images k n"]:
        """Return B x, the joint degree."""
        x = self.interpolation(x)
        total = torch.zeros_like(x)
        for group in self._groups:
            total += group.resampling.transpose(group.degree[:, None] * group.resampling(x))
        return self.interpolation.transpose(total)

    def precondition(self, r: Float[Tensor, "images k n"], steps: int = 3) -> Float[Tensor, "images k n"]:
        """Return about B^-1 r: exactly where B is diagonal, else by a few steps of conjugate gradients."""
        if self._is_diagonal:
            return self._inverse_diagonal * r
        x = torch.zeros_like(r)
        z = self._inverse_diagonal * r
        direction = z
        rz = (r * z).sum(dim=2, keepdim=True)
        tiny = torch.finfo(r.dtype).tiny
        for _ in range(steps):
            image = self.mass_matmul(direction)
            step = rz / (direction * image).sum(dim=2, keepdim=True).clamp_min(tiny)
            x = x + step * direction
            r = r - step * image
            z = self._inverse_diagonal * r
            rz_next = (r * z).sum(dim=2, keepdim=True)
            direction = z + rz_next / rz.clamp_min(tiny) * direction
            rz = rz_next
        return x

    def constant(self) -> Float[Tensor, "images 1 n"]:
        """The trivial solution: one on every free patch."""
        return self.free[:, None].to(self.dtype)

    def dense(self) -> tuple[Float[Tensor, "images n n"], Float[Tensor, "images n n"]]:
        """Return (B - A, B) as matrices; rows and columns of isolated patches are zero."""
        eye = torch.diag_embed(self.free.to(self.dtype))
        return self.affinity_matmul(eye), self.mass_matmul(eye)

    def layer_terms(
        self, x: Float[Tensor, "images k n"], *, exact: bool = True
    ) -> tuple[Float[Tensor, "images k layers"], Float[Tensor, "images k layers"]]:
        """Return each layer's part of x' A x and of x' B x, zero for layers of weight zero."""
        x = self.interpolation(x)
        shape = (len(x), x.shape[1], len(self.graph.members))
        cut, mass = x.new_zeros(shape), x.new_zeros(shape)
        coarse = {group.resampling.layer: group.resampling(x) for group in self._groups}
        for index, member in enumerate(self.graph.members):
            if member.name not in self._operators:
                continue
            operator = self._operators[member.name]
            y = coarse[member.grid]
            scale = self._scales[member.name][:, None] * self._weights[member.name]
            own_mass = (y * self._degrees[member.name].to(y.dtype)[:, None] * y).sum(dim=2)
            own_affinity = (y * operator.matmul(y, exact=exact)).sum(dim=2)
            mass[:, :, index] = scale * own_mass
            cut[:, :, index] = scale * (own_mass - own_affinity)
        return cut, mass

    def _scale(self, member: Member) -> Tensor:
        total = self._operators[member.name].degree.to(self.dtype).sum(dim=1)
        if not bool((total > 0).all()):
            raise AffinityError(
                f"Layer {member.name!r} has no affinity above 0 in {self.describe(int(total.argmin()))} (its total "
                "degree is 0): set its weight to 0, lower the threshold, or use another kernel."
            )
        return self.n / total

    def _collapse(self) -> list[_Group]:
        groups = []
        for grid in dict.fromkeys(member.grid for member in self.members):
            members = [member for member in self.members if member.grid == grid]
            coefficients = [self._scales[m.name] * self._weights[m.name] for m in members]
            operators = [self._operators[m.name] for m in members]
            degrees = [self._degrees[m.name] for m in members]
            degree = sum(
                (c[:, None] * own for c, own in zip(coefficients, degrees, strict=True)),
                start=torch.zeros_like(degrees[0]),
            )
            terms = list(zip(coefficients, operators, strict=True))
            if len(terms) > 1 and all(isinstance(operator, DenseOperator) for operator in operators):
                terms = [
                    (torch.ones_like(coefficients[0]), _weighted_sum(terms, degree, self.dtype if self.exact else None))
                ]
            columns = [(coefficient[:, None, None], operator) for coefficient, operator in terms]
            groups.append(_Group(self._resampling_to(grid), columns, degree))
        return groups

    def _leave_out_lost(self) -> bool:
        """Remove edges to nodes outside the problem from the degrees; return whether there were any."""
        return False  # an image without a free patch is refused by the solvers

    def _resampling_to(self, grid: Grid) -> Resampling:
        return Resampling(self.grid, grid)

    def _interpolation_over(self, free: Tensor) -> Interpolation:
        return Interpolation(free, self.grid)

    def _diagonal(self) -> Float[Tensor, "images n"]:
        total = torch.zeros(len(self._groups[0].degree), self.n, dtype=self.dtype, device=self.graph.device)
        for group in self._groups:
            total += group.resampling.squared_transpose(group.degree[:, None])[:, 0]
        return total


def n_nodes(graph: LayerGraph, grid: Grid) -> int:
    """Return the number of unknowns on a base grid: the patches of one image, or of all that are solved as one."""
    together = len(graph.images) if graph.recipe.scope == "dataset" else 1
    return grid[0] * grid[1] * together


def positive_members(graph: LayerGraph) -> list[Member]:
    """Return the members of positive weight.

    Raises
    ------
    SolverError
        If there is none, or if one is so small compared with another that rounding errors would decide.
    """
    weights = graph.weights
    members = [member for member in graph.members if weights[member.name] > 0]
    if not members:
        raise SolverError("All layer weights are 0, so the joint graph has no edges: give a layer a positive weight.")
    smallest, largest = (pick(members, key=lambda member: weights[member.name]) for pick in (min, max))
    if weights[smallest.name] < SMALLEST_WEIGHT_RATIO * weights[largest.name]:
        raise SolverError(
            f"The weights of layers {smallest.name!r} and {largest.name!r} are {weights[smallest.name]:g} and "
            f"{weights[largest.name]:g}, a ratio below {SMALLEST_WEIGHT_RATIO:g}, so rounding errors would "
            "decide: set the smaller to 0 or raise it."
        )
    return members


def base_grid(graph: LayerGraph) -> Grid:
    """Return the grid of the finest layer of positive weight (the first of them in the order of depth)."""
    return max((member.grid for member in positive_members(graph)), key=lambda grid: grid[0] * grid[1])


def _weighted_sum(terms: list[tuple[Tensor, Operator]], degree: Tensor, dtype: torch.dtype | None) -> DenseOperator:
    matrices = [operator.matrix for _, operator in terms if isinstance(operator, DenseOperator)]
    total = torch.zeros_like(matrices[0], dtype=dtype)
    for (coefficient, _), matrix in zip(terms, matrices, strict=True):
        for image, factor in enumerate(coefficient.tolist()):
            total[image].add_(matrix[image], alpha=factor)
    # The degree is the sum of the layers' own, in float64: the row sums of the rounded matrix would differ from it.
    return DenseOperator(total, degree)
