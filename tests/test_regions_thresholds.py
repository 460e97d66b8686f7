"""What a threshold on an eigenvector costs, against every cut counted edge by edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from reference import resampling_matrix
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._analysis.regions.joint import joint_affinities
from spectral_toolkit.errors import RegionsError


def joint(graph: Any, image: int | None, n_images: int, free: np.ndarray) -> np.ndarray:
    """The joint affinity of the free cells on the finest grid, written out."""
    base = max((m.grid for m in graph.members if graph.weights[m.name] > 0), key=lambda grid: grid[0] * grid[1])
    n = base[0] * base[1] * n_images
    total = np.zeros((n, n))
    for member in graph.members:
        matrix = graph.to_dense(image)[member.name]
        lift = np.kron(np.eye(n_images), resampling_matrix(base, member.grid))
        total += graph.weights[member.name] * n / matrix.sum() * lift.T @ matrix @ lift
    return total[np.ix_(free, free)]


def normalised_cut(affinity: np.ndarray, above: np.ndarray) -> float:
    between, degree = affinity[above][:, ~above].sum(), affinity.sum(axis=1)
    return between / degree[above].sum() + between / degree[~above].sum()


def check(costs: xr.Dataset, affinity: np.ndarray, vector: np.ndarray, limit: float) -> None:
    truth = []
    for threshold, share, cost in zip(
        costs.threshold.values, costs.share.values, costs.normalised_cut.values, strict=True
    ):
        above = vector > threshold * limit
        assert share == pytest.approx(above.mean())
        if above.all() or not above.any():
            assert np.isnan(cost)
        else:
            assert cost == pytest.approx(normalised_cut(affinity, above), abs=1e-5)
            truth.append((cost, threshold))
    assert float(costs.best) == min(truth)[1]


@settings(max_examples=25)
@given(
    grids=some.sampled_from([[(4, 5)], [(4, 5), (4, 5)], [(6, 4), (3, 2)]]),
    kind=some.sampled_from(["qk", "vv"]),
    component=some.integers(1, 3),
    hole=some.booleans(),
    seed=some.integers(0, 99),
)
def test_costs_are_those_of_the_cuts(grids, kind, component, hole, seed) -> None:
    acts = make_tree(grids, images=2, seed=seed)
    if hole and len(grids) == 1:
        for name in ("query", "key", "value"):
            values_of(acts, "block.0", name)[1, :, :2, :2] = 0.0
    graph = st.affinity(acts, kind, kernel="cosine", device="cpu", weights=[1.0, 0.4][: len(grids)])
    eig = st.solve(graph, 3)
    costs = st.cut_costs(eig, graph, component)
    assert costs.threshold.values[[0, 100, 200]].tolist() == [-1, 0, 1]
    for image in range(2):
        field = eig.eigenvector.values[image, ..., component - 1].ravel()
        free = ~eig.isolated.values[image].ravel()
        check(costs.isel(image=image), joint(graph, image, 1, free), field[free], abs(field).max())
        # Of several grids, too; these eigenvalues are below 1.
        assert float(costs.normalised_cut.isel(image=image).min()) >= float(eig.eigenvalue[image, 0]) - 1e-6


@pytest.mark.parametrize("grids", [[(6, 4)], [(6, 4), (3, 2)], [(8, 8), (5, 3), (2, 2)]], ids=str)
@pytest.mark.parametrize("shown", [None, (3, 2), (4, 4)])
def test_no_cut_of_any_cells_costs_less_than_the_first_eigenvalue(grids, shown) -> None:
    """Cuts of all kinds, not those along an eigenvector alone; of two halves hardly tied, where the bound is near."""
    acts = make_tree(grids, images=1)
    for number, (_, columns) in enumerate(grids):
        value = values_of(acts, f"block.{number}", "value")
        value *= 0.3
        value[..., : columns // 2, 0] += 3.0
        value[..., columns // 2 :, 1] += 3.0
    graph = st.affinity(acts, "vv", kernel="cosine", device="cpu")
    eig = st.solve(graph, 2, grid=shown)
    least = float(eig.eigenvalue[0, 0])
    grid = eig.sizes["y"], eig.sizes["x"]
    (_, affinity, free), *_ = joint_affinities(graph, [0], grid)
    assert isinstance(affinity, np.ndarray)
    halves = np.arange(grid[1]) < grid[1] // 2
    rng = np.random.default_rng(0)
    sides = [np.tile(halves, grid[0])] + [rng.random(len(free)) < rng.random() for _ in range(200)]
    costs = [normalised_cut(affinity, side) for side in sides if 0 < side.sum() < len(side)]
    assert free.all()
    assert min(costs) >= least - 1e-6
    assert shown is not None or costs[0] < 1.5 * least + 0.1, "the bound says something"


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_pictures_solved_as_one_are_cut_as_one(kernel: str) -> None:
    acts = make_tree([(4, 5), (2, 3)], images=4)
    graph = st.affinity(acts, "vv", kernel=kernel, scope="dataset", device="cpu")
    eig = st.solve(graph, 2)
    costs = st.cut_costs(eig, graph, 2, thresholds=[-0.5, 0, 0.1, 0.9])
    assert costs.share.dims == ("threshold",)
    field = eig.eigenvector.values[..., 1].ravel()
    check(costs, joint(graph, None, 4, np.ones(80, dtype=bool)), field, abs(field).max())


def test_one_picture_of_an_answer_and_a_coarser_grid() -> None:
    acts = make_tree([(6, 4), (3, 2)], images=3)
    graph = st.affinity(acts, "vv", device="cpu")
    eig = st.solve(graph, 2)
    whole = st.cut_costs(eig, graph)
    one = st.cut_costs(eig.isel(image=1), graph)
    xr.testing.assert_allclose(one.isel(image=0).drop_vars("image"), whole.isel(image=1).drop_vars("image"))
    coarse = st.cut_costs(st.solve(graph, 2, grid=(3, 2)), graph)
    assert coarse.normalised_cut.notnull().any()
    fine = st.cut_costs(st.solve(graph, 2, grid=(12, 8)), graph)
    assert "interpolated bilinearly" in fine.attrs["notes"] or fine.normalised_cut.notnull().any()


def test_what_cannot_be_cut_is_refused() -> None:
    acts = make_tree([(4, 5)], images=2)
    graph = st.affinity(acts, "vv", device="cpu")
    eig = st.solve(graph, 2)
    other = st.affinity(acts, "kk", device="cpu")
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((eig, graph, 3), "component=3 was not computed: these eigenvectors have components 1 to 2"),
        ((eig, graph, 0), "component=0 is out of range"),
        ((eig, other), "affinity 'vv' and the graph 'kk'"),
        ((eig, "graph"), "graph is a str"),
        ((eig, None), "graph is a NoneType"),
        ((xr.Dataset(), graph), "eigenvector"),
    ]
    for arguments, message in wrong:
        with pytest.raises(RegionsError, match=message):
            st.cut_costs(*arguments)
    for thresholds in ([2.0], [], "high", [[0.0]], [np.nan], 0.5):
        with pytest.raises(RegionsError, match="is not understood: give numbers from -1 to 1"):
            st.cut_costs(eig, graph, thresholds=thresholds)  # pyright: ignore[reportArgumentType]
    large = make_tree([(70, 70)], images=1, heads=1)
    wide = st.affinity(large, "vv", device="cpu")
    with pytest.raises(RegionsError, match="more than 4,096"):
        st.cut_costs(eigenvectors_of(70), wide)


def eigenvectors_of(side: int) -> xr.Dataset:
    field = np.random.default_rng(0).normal(size=(1, side, side, 1))
    return xr.Dataset({"eigenvector": (("image", "y", "x", "component"), field)}, {"component": [1], "image": ["0"]})
