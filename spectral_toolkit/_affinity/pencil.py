"""The joint spectral problem of a few images: one pencil (A, B) over all layers.

    A = sum_l w_l s_l P' G_l' (D_l - W_l) G_l P        B = sum_l w_l s_l P' G_l' D_l G_l P

Here w_l are the weights divided by the largest of them, G_l resamples from the base grid to the layer's, s_l = n /
total degree of layer l (so that equal weights give layers equal influence, whatever their resolution), and P is the
interpolation over isolated patches. Solvers look for the largest mu of W x = mu B x with W = B - A; the cut value is
lambda = 1 - mu, in [0, 2].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._compute.devices import working_dtype
from ..errors import AffinityError, SolverError
from .isolated import Interpolation
from .layer_graph import LayerGraph, Member
from .mass import KeptInverse, Mass
from .operators import DenseOperator, Operator, accumulate
from .resampling import Grid, Resampling

SMALLEST_WEIGHT_RATIO = 1e-6
"""Below this ratio, a layer's directions are lost in the rounding errors of the others."""
SMALLEST_DEGREE_RATIO = 1e-12
"""A patch whose degree is below this share of the mean counts as isolated."""
JOINED_CELLS = 4096
"""Up to this size, a GPU sums layers of several grids into one matrix on the base grid, and then multiplies once. A CPU
multiplies by the smaller matrices in less time than the sum takes."""

NEARLY_THE_SAME = 0.2
"""Weights that differ by less than this part leave the inverse of B good enough to search along."""


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
        self._operators = graph.all_operators(self.members, images)
        for operator in self._operators.values():
            if exact and isinstance(operator, DenseOperator):
                operator.settle()  # before degrees are read
        self._degrees = {name: operator.degree.to(self.dtype) for name, operator in self._operators.items()}
        self._scales = self._found_scales()
        self._groups = self._collapse()
        diagonal = self._diagonal()
        own = next((group.degree for group in self._groups if group.resampling.is_identity), diagonal)
        linked = own > SMALLEST_DEGREE_RATIO * own.mean(dim=1, keepdim=True)
        self.free: Bool[Tensor, "images n"] = self.agreed(linked.to(self.dtype)) > 0
        if self._leave_out_lost():
            self._groups = self._collapse()
            diagonal = self._diagonal()
        self.interpolation = self._interpolation_over(self.free)
        self._mass = Mass(self.grid, [g.resampling.layer for g in self._groups], [g.degree for g in self._groups])
        self._diagonal_of_mass = diagonal
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

    @cached_property
    def n_free(self) -> Tensor:
        """The number of free patches of each image, on the host."""
        return self.free.sum(dim=1).cpu()

    def affinity_matmul(self, x: Float[Tensor, "images k n"], *, exact: bool = True) -> Float[Tensor, "images k n"]:
        """Return (B - A) x, the joint affinity. ``exact=False`` allows products in the precision of the affinities."""
        x = self.interpolation(x)
        if self._joint is not None:
            return self.interpolation.transpose(self._joint.matmul(x, exact=exact))
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
        return self.interpolation.transpose(self._mass @ self.interpolation(x))

    def precondition(self, r: Float[Tensor, "images k n"], steps: int = 3) -> Float[Tensor, "images k n"]:
        """Return about B^-1 r: exactly where that takes little time, else by a few steps of conjugate gradients."""
        if self._is_diagonal:
            return self._inverse_diagonal * r
        if self.inverse[1] is not None:
            return self.inverse[1] @ r
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
        if self._joint is not None and self.interpolation.is_identity:
            affinity = self._joint.dense()
            return affinity, self.mass_matmul(torch.eye(self.n).to(affinity).expand_as(affinity))
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

    def _found_scales(self) -> dict[str, Tensor]:
        totals = torch.stack([self._degrees[member.name].sum(dim=1) for member in self.members])
        if not bool((totals > 0).all()):
            layer = int((totals > 0).all(dim=1).to(torch.int8).argmin())
            raise AffinityError(
                f"Layer {self.members[layer].name!r} has no affinity above 0 in "
                f"{self.describe(int(totals[layer].argmin()))} (its total degree is 0): set its weight to 0, lower the "
                "threshold, or use another kernel."
            )
        scales = self.n / totals
        return {member.name: scales[index] for index, member in enumerate(self.members)}

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

    @cached_property
    def inverse(self) -> KeptInverse:
        """About the inverse of B, to search along, and the weights that it was made for."""
        made = self._mass.inverse(self._diagonal_of_mass) if self.interpolation.is_identity else None
        return self._weights, made

    def use_inverse(self, kept: KeptInverse) -> None:
        """Use the inverse of a pencil of the same images and grid, unless its weights are too different."""
        weights = kept[0]
        if weights.keys() == self._weights.keys() and all(
            abs(weights[name] - own) <= NEARLY_THE_SAME * own for name, own in self._weights.items()
        ):
            self.inverse = kept

    @cached_property
    def _joint(self) -> DenseOperator | None:
        """All layers as one matrix on the base grid, where each of several grids has one matrix, on a GPU."""
        if self.graph.device.type == "cpu":
            return None
        found = [group.operators[0][1] for group in self._groups if len(group.operators) == 1]
        operators = [operator for operator in found if isinstance(operator, DenseOperator)]
        one = len(self._groups) == 1 and self._groups[0].resampling.is_identity
        if one or len(operators) < len(self._groups) or self.n > JOINED_CELLS:
            return None
        dtype = self.dtype if self.exact else max((o.matrix.dtype for o in operators), key=lambda own: own.itemsize)
        total = operators[0].matrix.new_zeros(len(self.free), self.n, self.n, dtype=dtype)
        for group, operator in zip(self._groups, operators, strict=True):
            lift = group.resampling.transpose
            # Rows are lifted as vectors, then columns: the matrix is symmetric up to rounding.
            lifted = lift(lift(operator.matrix.to(dtype)).transpose(-1, -2).contiguous())
            total.addcmul_(group.operators[0][0].to(dtype), lifted)
        return DenseOperator(total, self.mass_matmul(self.constant())[:, 0])

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
        if total.device.type != "cpu":  # the host need not know the coefficients
            total.addcmul_(coefficient[:, None, None].to(total.dtype), matrix)
            continue
        for image, factor in enumerate(coefficient.tolist()):
            total[image].add_(matrix[image], alpha=factor)
    # The degree is the sum of the layers' own, in float64: the row sums of the rounded matrix would differ from it.
    return DenseOperator(total, degree)
