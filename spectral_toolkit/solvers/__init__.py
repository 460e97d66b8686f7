"""Solvers: from a graph of layers to labelled eigenvectors. Each method is one file, and one line in the table."""

from __future__ import annotations

import numbers
import time
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import xarray as xr

from .._affinity.layer_graph import LayerGraph
from .._affinity.pencil import base_grid, n_nodes, positive_members
from .._affinity.resampling import Grid
from .._compute.devices import threads_for
from .._compute.settings import computing
from .._table import Choice, located
from ..errors import SolverError
from .method import SOLVERS, Exact, Gradient, Solver, register, unregister, whole
from .result import assemble, warm_start
from .spectrum import Spectrum

__all__ = [
    "SOLVERS",
    "Exact",
    "Gradient",
    "Solver",
    "Spectrum",
    "register",
    "solve",
    "unregister",
]


def __getattr__(name: str) -> ModuleType:
    """Return a method's module, for example ``solvers.gradient``, loaded on first use."""
    if name in ("exact", "gradient"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


BATCH_ELEMENTS = {"cpu": 2**22}
"""Largest number of matrix entries solved at once: small batches suit the caches of a CPU, large ones a GPU."""
BATCH_ELEMENTS_DEFAULT = 2**27


@computing
def solve(
    graph: LayerGraph,
    n_eigenvectors: int = 10,
    *,
    method: str | Solver | Choice[Solver] = "exact",
    start: xr.Dataset | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    grid: Grid | None = None,
    progress: bool | Callable[[int, int, float], object] = True,
    **options: object,
) -> xr.Dataset:
    """Solve one spectral problem jointly over all layers of a graph.

    It minimises sum_l w_l tr(X' G_l' (D_l - W_l) G_l X) subject to X' (sum_l w_l G_l' D_l G_l) X = I, which generalises
    the normalised cut to layers of any resolution; with one layer it is normalised cuts (Shi & Malik 2000).

    Parameters
    ----------
    graph
        The graph that :func:`spectral_toolkit.affinity` returned.
    n_eigenvectors
        The number of eigenvectors, not counting the trivial constant one; at least 1.
    method
        ``"exact"``: a dense solve on small grids, block Davidson iteration on larger ones. ``"gradient"``: the source
        paper's own method (:mod:`spectral_toolkit.solvers.gradient`), slow and approximate, for comparison.
        The name of a method that was registered, or an object, which may carry options:
        ``st.solvers.Exact(tolerance=1e-8)``.
    start
        An earlier result for the same images, from which the iteration starts, so that solving again after a change of
        weights is nearly instant. Its grid may differ. Dense solves do not use it. The attribute ``start`` says what
        the iteration started from.
    tolerance
        The largest residual ``|A x - lambda B x| / |B x|`` allowed for any pair, in (0, 1).
    seed
        The seed of the random start, which is recorded.
    grid
        The base grid (rows, columns). The default is the grid of the finest layer of positive weight. Where no such
        layer is as fine along both axes, the problem is singular, so it is solved on the default grid and interpolated
        bilinearly, which the attribute ``notes`` then says.
    progress
        A function called after every step as (steps done, largest number of steps, objective); if it raises, the solve
        ends, which is how to cancel one. For the exact solver, a step is one of its iteration and the objective is the
        worst residual so far, infinite before the first; a dense solve is one step. True shows a progress bar for the
        gradient method; the exact solver is too fast to need one.
    **options
        For the gradient method: ``n_features`` K (default ``n_eigenvectors + 1``), ``steps`` (2,000), ``learning_rate``
        (2e-3), ``patience`` (200: steps without improvement before stopping early, 0 for never), ``checkpoint`` (a file
        that is written every ``checkpoint_every`` = 100 steps, and resumed from if it exists). The attributes
        ``steps_run``, ``final_objective`` and ``stopped_early`` then have one entry per image. For a dataset:
        ``epochs`` (200) instead of ``steps``; ``n_features`` 100, ``learning_rate`` 1e-2, ``patience`` 0 and
        ``checkpoint_every`` 10 epochs.

    Returns
    -------
    xarray.Dataset
        ``eigenvector (image, y, x, component)``; ``eigenvalue`` in [0, 2], ``residual``, ``converged``, ``eigengap``
        (to the next eigenvalue) and ``degenerate_group`` (components of one group cannot be told apart: their
        eigenvalues differ by less than 1e-3 relative), all (image, component);
        ``layer_share (image, component, layer)``, which sums to the eigenvalue;
        ``layer_mass (image, component, layer)``, which sums to 1; ``layer_weight (layer)``; ``isolated (image, y, x)``,
        patches that no affinity reaches, whose values are interpolated from their neighbours. For a graph of scope
        ``"dataset"``, all images are one problem: only ``eigenvector`` and ``isolated`` have the dimension ``image``.

        The sign is chosen so that the smaller side is positive: the third moment over the patches is not negative;
        where it vanishes, the first patch of largest magnitude is positive.

    Raises
    ------
    SolverError
        If more eigenvectors are asked for than exist, all weights are zero, or an argument is out of range.
    ActivationsError, AffinityError
        If the activations hold NaN, or all affinities of a layer are zero.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=2)
    >>> dict(eig.eigenvector.sizes)
    {'image': 1, 'y': 3, 'x': 4, 'component': 2}
    """
    solver, options = SOLVERS.choose(method, options)
    tolerance = options.pop("tolerance", tolerance)  # pyright: ignore[reportAssignmentType]
    seed = options.pop("seed", seed)  # pyright: ignore[reportAssignmentType]
    if not isinstance(progress, bool) and not callable(progress):
        raise SolverError(f"progress={progress!r} is not understood: use True, False or a function.")
    if not isinstance(graph, LayerGraph):
        raise SolverError(f"graph is a {type(graph).__name__}: give what st.affinity returned.")
    n_eigenvectors = whole("n_eigenvectors", n_eigenvectors, 1)
    seed = whole("seed", seed, 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) or not 0 < tolerance < 1:
        raise SolverError(f"tolerance={tolerance!r} is out of range: expected a number between 0 and 1, such as 1e-6.")
    began = time.perf_counter()
    finest = base_grid(graph)
    wanted = finest if grid is None else _checked_grid(grid)
    solved_on = wanted if _is_resolved(graph, wanted) else finest
    extra, solve_images = solver.checked(options), located(solver.computes)
    with threads_for(graph.device, n_nodes(graph, solved_on)):
        spectra = [
            solve_images(
                graph,
                images,
                n_eigenvectors,
                grid=solved_on,
                start=warm_start(start, graph, images, solved_on),
                tolerance=float(tolerance),
                seed=seed,
                progress=progress,
                **extra,
            )
            for images in batches(graph)
        ]
    return assemble(
        graph,
        spectra,
        solved_on=solved_on,
        shown_on=wanted,
        method=solver.name,
        tolerance=tolerance,
        seed=seed,
        seconds=time.perf_counter() - began,
    )


def batches(graph: LayerGraph) -> list[slice]:
    """Return the slices of images that are solved together and whose operators are kept together."""
    if graph.recipe.scope == "dataset":
        return [slice(0, len(graph.images))]
    # The size follows the finest layer whatever its weight, so that batches, and what is cached for them, stay the
    # same.
    n = max(member.n_cells for member in graph.members)
    elements = BATCH_ELEMENTS.get(graph.device.type, BATCH_ELEMENTS_DEFAULT)
    size = min(64, max(1, elements // n**2))
    return [slice(i, min(i + size, len(graph.images))) for i in range(0, len(graph.images), size)]


def _is_resolved(graph: LayerGraph, grid: Grid) -> bool:
    """Tell whether a layer of positive weight is as fine as ``grid`` along both axes; otherwise B would be singular."""
    return any(m.grid[0] >= grid[0] and m.grid[1] >= grid[1] for m in positive_members(graph))


def _checked_grid(grid: Grid) -> Grid:
    values = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if len(values) != 2 or any(not isinstance(v, numbers.Integral) or isinstance(v, bool) or v < 1 for v in values):
        raise SolverError(f"grid={grid!r} is not understood: expected two whole numbers, rows and columns.")
    return int(values[0]), int(values[1])
