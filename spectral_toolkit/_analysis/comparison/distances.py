"""Distances between the spans of two results: for all layers jointly, and for every layer separately."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..._affinity.layer_graph import LayerGraph
from ..._compute import arguments as check
from ..._compute.settings import computing
from ..._io.images import IMAGE_HASH
from ..._io.pairing import hash_coordinate
from ...errors import ComparisonError
from ...solvers import solve
from ...solvers.result import DEGENERATE_GAP
from .angles import centred, orthonormal, principal_angles
from .common_ground import CELLS, Common, common

PAIRS = ("same", "all")
MEASURES = ("geodesic", "chordal", "overlap")


@computing
def subspace_distance(
    a: xr.Dataset, b: xr.Dataset, n_eigenvectors: int | None = None, *, inner: str | LayerGraph = CELLS
) -> xr.Dataset:
    """Compute the distance between the spans of the first eigenvectors of two results for the same images.

    It ignores everything that has no meaning (signs, the order of eigenvectors, rotations within the span), which a
    comparison of single vectors does not. The trivial constant belongs to both spans and is removed.

    Parameters
    ----------
    a, b
        Results of :func:`spectral_toolkit.solve`, whole or for one image each; of any models, layers or affinities.
        Where the grids differ, both are averaged down to the coarser one along each axis.
    n_eigenvectors
        How many of each to use, from the first; by default as many as both have.
    inner
        ``"cells"``: the plain inner product, in which every patch counts once, and patches isolated in either result do
        not count. A graph of :func:`spectral_toolkit.affinity`: x' B y with B its joint degrees (the matrix B of the
        problem), so that patches of high degree count more; its base grid must be the common one.

    Returns
    -------
    xarray.Dataset
        One value per image, or a single one if the images were solved as one. ``principal_angle (..., rank)``,
        ascending, in radians, [0, pi/2]; ``geodesic``, the Grassmann distance sqrt(sum theta^2), in [0, sqrt(k) pi/2];
        ``chordal``, sqrt(sum sin^2 theta), in [0, sqrt(k)]; ``overlap``, the mean of cos^2 theta, in [0, 1]: the part
        of a vector drawn from one span that lies in the other. ``chance`` is the overlap to expect of two random spans,
        which any two *smooth* spans exceed: an untrained model is the better control. ``attrs["notes"]`` says where a
        span ends inside a group of equal eigenvalues, and so is not well defined.

    Raises
    ------
    ComparisonError
        If the two are not of the same images and scope, ``n_eigenvectors`` is out of range, or the common grid is too
        coarse to distinguish so many eigenvectors.

    References
    ----------
    Edelman, Arias & Smith, 'The geometry of algorithms with orthogonality constraints', SIAM Journal on Matrix
    Analysis and Applications 20(2), 1998, section 4.3. Angles: ``spectral_toolkit._analysis.comparison.angles``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=2)
    >>> mixed = eig.assign(eigenvector=eig.eigenvector.sel(component=[2, 1]).assign_coords(component=[1, 2]))
    >>> round(float(st.subspace_distance(mixed, eig).geodesic[0]), 6)
    0.0
    """
    both = common(a, b, inner, ("a", "b"))
    most = min(len(both.first.components), len(both.second.components))
    k = most
    if n_eigenvectors is not None:
        k = check.whole("n_eigenvectors", n_eigenvectors, 1, most, why=", which both have", error=ComparisonError)
    angles, chance = _angles(both, k, inner)
    notes = [note for name, eig in (("a", a), ("b", b)) if (note := _open_end(eig, k, name))]
    once = both.first.joint or both.first.single
    dims = () if once else ("image",)
    coords: dict[str, object] = {"rank": np.arange(1, k + 1)}
    if not once:
        coords |= {"image": np.array(both.first.names), **hash_coordinate(both.first.hashes)}
    measures = _measures(angles)
    return xr.Dataset(
        {
            "principal_angle": ((*dims, "rank"), angles[0] if once else angles),
            **{name: (dims, values[0] if once else values) for name, values in measures.items()},
            "chance": (dims, chance[0] if once else chance),
        },
        coords,
        _settings(k, inner, both.grid, notes),
    )


@computing
def layer_distances(
    a: LayerGraph,
    b: LayerGraph,
    n_eigenvectors: int = 10,
    *,
    pairs: str = "same",
    tolerance: float = 1e-6,
    seed: int = 0,
) -> xr.Dataset:
    """Solve every layer of two graphs separately, and compare them layer by layer.

    Parameters
    ----------
    a, b
        Graphs of :func:`spectral_toolkit.affinity` for the same images: of two models, two checkpoints of one training,
        or two affinities of one model. Weights do not matter: every layer is solved separately.
    n_eigenvectors
        The dimension of the spans.
    pairs
        ``"same"``: the first layer of one graph with the first of the other, and so on; both must have equally many.
        ``"all"``: every layer of one with every layer of the other.
    tolerance, seed
        As for :func:`spectral_toolkit.solve`.

    Returns
    -------
    xarray.Dataset
        ``geodesic``, ``chordal`` and ``overlap`` as in :func:`subspace_distance` (plain inner product over patches),
        ``(image, layer)`` or, for all pairs, ``(image, layer, other_layer)``; without ``image`` in scope ``"dataset"``.
        ``other_layer`` names the layers of ``b``; ``depth`` and ``other_depth`` count from 0.

    Raises
    ------
    ComparisonError
        If the numbers of layers differ with ``pairs="same"``, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value, "key": -value})})
    >>> graphs = (st.affinity(activations, kind, device="cpu") for kind in ("vv", "kk"))
    >>> st.layer_distances(*graphs, n_eigenvectors=2).overlap.round(6).values.tolist()
    [[1.0]]
    """
    for name, graph in (("a", a), ("b", b)):
        check.instance(name, graph, LayerGraph, "a graph of st.affinity", error=ComparisonError)
    check.choice("pairs", pairs, PAIRS, error=ComparisonError)
    if pairs == "same" and len(a.layers) != len(b.layers):
        raise ComparisonError(
            f"a has {len(a.layers)} layers and b has {len(b.layers)}, so they cannot be paired by depth: use "
            "pairs='all', or choose layers in st.affinity."
        )
    answers, others = (_each_alone(graph, n_eigenvectors, tolerance, seed) for graph in (a, b))
    wanted = [(i, j) for i in range(len(answers)) for j in range(len(others)) if pairs == "all" or i == j]
    found = {(i, j): subspace_distance(answers[i], others[j], n_eigenvectors) for i, j in wanted}
    first = found[0, 0]
    dims = tuple(map(str, first["geodesic"].dims))
    names = [np.array(graph.layers, dtype=object).astype(str) for graph in (a, b)]
    depths = [np.arange(len(graph.layers)) for graph in (a, b)]
    coords: dict[str, object] = {}
    coords: dict[str, object] = {"layer": names[0], "depth": ("layer", depths[0])}
    if pairs == "same":
        own = ("layer",)
        coords["other_layer"] = ("layer", names[1])
    else:
        own = ("layer", "other_layer")
        coords |= {"other_layer": names[1], "other_depth": ("other_layer", depths[1])}
    if dims:
        coords |= {name: first[name].variable for name in ("image", IMAGE_HASH) if name in first.coords}
    shape = (len(answers),) if pairs == "same" else (len(answers), len(others))
    values = {
        name: np.moveaxis(np.array([found[pair][name].values for pair in wanted]), 0, -1).reshape(
            *first[name].shape, *shape
        )
        for name in MEASURES
    }
    notes = [
        f"{names[0][i]} and {names[1][j]}: {one.attrs['notes']}" for (i, j), one in found.items() if one.attrs["notes"]
    ]
    return xr.Dataset(
        {name: ((*dims, *own), array) for name, array in values.items()},
        coords,
        {**first.attrs, "notes": " ".join(notes), "seed": seed, "tolerance": tolerance},
    )


def _each_alone(graph: LayerGraph, n_eigenvectors: int, tolerance: float, seed: int) -> list[xr.Dataset]:
    alone = (graph.reweight({name: float(name == layer) for name in graph.layers}) for layer in graph.layers)
    return [solve(one, n_eigenvectors, tolerance=tolerance, seed=seed) for one in alone]


def _angles(both: Common, k: int, inner: str | LayerGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal angles (problem, k) and the overlap to expect by chance (problem)."""
    angles: list[np.ndarray] = []
    chance: list[float] = []
    for x, y, product, n_free in both.problems(inner):
        bases = [orthonormal(centred(vectors[:, :k], product), product) for vectors in (x, y)]
        if bases[0] is None or bases[1] is None:
            raise ComparisonError(
                f"The first {k} eigenvectors cannot be told apart on the common grid of {both.grid[0]}x{both.grid[1]} "
                f"patches ({n_free} of them count): use fewer (n_eigenvectors), or solve the coarser result on a finer "
                "grid."
            )
        angles.append(principal_angles(bases[0], bases[1], product))
        chance.append(min(1.0, k / (n_free - 1)))
    return np.array(angles), np.array(chance)


def _measures(angles: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "geodesic": np.sqrt((angles**2).sum(-1)),
        "chordal": np.sqrt((np.sin(angles) ** 2).sum(-1)),
        "overlap": (np.cos(angles) ** 2).mean(-1),
    }


def _open_end(eig: xr.Dataset, k: int, name: str) -> str:
    """Say where the first k eigenvectors end inside a group of equal eigenvalues."""
    if "eigengap" not in eig or "eigenvalue" not in eig:
        return ""
    last = eig[["eigengap", "eigenvalue"]].isel(component=k - 1)
    gap, value = (np.atleast_1d(last[key].values) for key in ("eigengap", "eigenvalue"))
    n_open = int((gap <= DEGENERATE_GAP * np.abs(value + gap)).sum())
    if not n_open:
        return ""
    return f"The first {k} eigenvectors of {name} end inside a group of equal eigenvalues in {n_open} of {len(gap)}."


def _settings(k: int, inner: str | LayerGraph, grid: tuple[int, int], notes: list[str]) -> dict[str, object]:
    kind = f"degrees of {inner!r}" if isinstance(inner, LayerGraph) else inner
    return {"n_eigenvectors": k, "inner": kind, "grid": f"{grid[0]}x{grid[1]}", "notes": " ".join(notes)}
