"""Normalised cuts against their definition, the joint graph against sums of the layers', hierarchies in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import sparse
from scipy.linalg import eigh
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._affinity.resampling import Resampling
from spectral_toolkit._analysis.regions import cutting, hierarchy, joint, recut
from spectral_toolkit._analysis.regions.adjacency import connected_parts
from spectral_toolkit.errors import RegionsError


def slow_cut(affinity: np.ndarray, side: np.ndarray) -> float:
    """The definition: cut(A, B) (1 / assoc(A, V) + 1 / assoc(B, V))."""
    between = sum(affinity[i, j] for i in np.flatnonzero(side) for j in np.flatnonzero(~side))
    return float(between / affinity[side].sum() + between / affinity[~side].sum())


def slow_recursion(affinity: np.ndarray, threshold: float, most: int) -> list[frozenset[int]]:
    """Leaves: each part is solved as a generalised problem, and every place to split is tried by the definition."""

    def best(cells: list[int]) -> tuple[float, list[int], list[int]]:
        if len(cells) < 2:
            return np.inf, [], []
        own = affinity[np.ix_(cells, cells)]
        degree = np.diag(own.sum(1))
        vector = eigh(degree - own, degree)[1][:, 1]
        order = np.argsort(vector, kind="stable")
        tried = []
        for t in range(1, len(cells)):
            side = np.zeros(len(cells), dtype=bool)
            side[order[:t]] = True
            tried.append((slow_cut(own, side), side))
        cost, side = min(tried, key=lambda pair: pair[0])
        return (
            cost,
            [c for c, s in zip(cells, side, strict=True) if s],
            [c for c, s in zip(cells, side, strict=True) if not s],
        )

    leaves = [(best(list(range(len(affinity)))), list(range(len(affinity))))]
    while len(leaves) < most:
        index = min(range(len(leaves)), key=lambda i: leaves[i][0][0])
        (cost, one, other), _ = leaves[index]
        if cost >= threshold:
            break
        leaves.pop(index)
        leaves += [(best(one), one), (best(other), other)]
    return [frozenset(cells) for _, cells in leaves]


def random_affinity(seed: int, n: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((n, n)) ** 3
    return values + values.T


@settings(max_examples=40)
@given(some.integers(0, 2**32 - 1), some.integers(2, 9))
def test_sweep_finds_the_cheapest_place_by_the_definition(seed: int, n: int) -> None:
    affinity = random_affinity(seed, n)
    vector = np.random.default_rng(seed).normal(size=n)
    order = np.argsort(vector)
    costs = []
    for t in range(1, n):
        side = np.zeros(n, dtype=bool)
        side[order[:t]] = True
        costs.append(slow_cut(affinity, side))
    side, cost = cutting.sweep(affinity, vector)
    assert cost == pytest.approx(min(costs))
    assert slow_cut(affinity, side) == pytest.approx(cost)
    sparse_side, sparse_cost = cutting.sweep(sparse.csr_array(affinity), vector)
    assert (sparse_side == side).all()
    assert sparse_cost == pytest.approx(cost)


@settings(max_examples=30)
@given(some.integers(0, 2**32 - 1), some.integers(1, 10), some.floats(0.2, 2.0), some.integers(1, 6))
def test_recursion_is_that_of_the_slow_twin(seed: int, n: int, threshold: float, most: int) -> None:
    affinity = random_affinity(seed, n)
    tree = cutting.cut_recursively(affinity, np.ones(n, dtype=bool), threshold, most)
    found = {frozenset(tree.cells[node].tolist()) for node in tree.leaves()}
    assert found == set(slow_recursion(affinity, threshold, most))
    for node, parent in enumerate(tree.parent):
        children = [child for child in range(len(tree.parent)) if tree.parent[child] == node]
        assert len(children) in (0, 2)
        assert parent < node
        if children:
            assert tree.cut[node] < threshold
            assert sorted(np.concatenate([tree.cells[c] for c in children])) == sorted(tree.cells[node])
            side = np.isin(tree.cells[node], tree.cells[children[0]])
            own = affinity[np.ix_(tree.cells[node], tree.cells[node])]
            assert slow_cut(own, side) == pytest.approx(tree.cut[node])


def test_each_part_is_solved_anew() -> None:
    """Three blocks along which the second vector of the whole does not tell the last two apart."""
    truth = np.repeat([0, 1, 2], 6)
    affinity = np.where(truth[:, None] == truth, 1.0, 0.001)
    affinity[6:, 6:] += 0.2
    tree = cutting.cut_recursively(affinity, np.ones(18, dtype=bool), 0.7, None)
    assert sorted(sorted(truth[tree.cells[leaf]]) for leaf in tree.leaves()) == [[0] * 6, [1] * 6, [2] * 6]


@pytest.mark.parametrize("as_sparse", [False, True])
def test_a_graph_that_falls_apart_is_split_between_its_pieces(as_sparse: bool) -> None:
    affinity = np.zeros((7, 7))
    affinity[:2, :2], affinity[2:6, 2:6] = 1, 1  # and a cell tied to nothing
    matrix = sparse.csr_array(affinity) if as_sparse else affinity
    side, cost = cutting.best_cut(matrix)
    assert cost == 0
    assert side.tolist() == [False, False, True, True, True, True, False]
    tree = cutting.cut_recursively(matrix, np.ones(7, dtype=bool), 0.5, None)
    assert {tuple(tree.cells[leaf].tolist()) for leaf in tree.leaves()} == {(0, 1), (2, 3, 4, 5), (6,)}


@pytest.mark.parametrize("as_sparse", [False, True])
def test_iteration_on_large_parts_agrees_with_the_dense_solve(as_sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = random_affinity(1, 60)
    affinity[:25, :25] += 1
    expected = cutting.second_eigenvector(affinity)
    monkeypatch.setattr(cutting, "DENSE_CELLS", 10)
    found = cutting.second_eigenvector(sparse.csr_array(affinity) if as_sparse else affinity)
    assert abs(found @ expected) == pytest.approx(np.linalg.norm(found) * np.linalg.norm(expected), rel=1e-9)
    degree = affinity.sum(1)
    truth = eigh(np.diag(degree) - affinity, np.diag(degree))[1][:, 1]
    assert abs(found @ truth) == pytest.approx(np.linalg.norm(found) * np.linalg.norm(truth), rel=1e-9)


def test_a_graph_without_positive_eigenvalues_is_cut_too() -> None:
    """Of two cells tied to each other only, the constant has the largest eigenvalue, and -1 is the other."""
    side, cost = cutting.best_cut(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert side.tolist() == [False, True]
    assert cost == 2


def test_joint_graph_is_the_sum_of_the_layers_on_one_grid() -> None:
    tree = make_tree([(4, 6), (2, 3), (4, 6)], images=3)
    graph = st.affinity(tree, "qk", device="cpu", weights=[1.0, 0.5, 2.0])
    seen = []
    for image, matrix, free in joint.joint_affinities(graph, [2, 0], (4, 6)):
        seen.append(image)
        expected = np.zeros((24, 24))
        for (name, own), grid in zip(graph.to_dense(image).items(), [(4, 6), (2, 3), (4, 6)], strict=True):
            lift = Resampling((4, 6), grid).dense().numpy()
            expected += graph.weights[name] / 2 * 24 / own.sum() * lift.T @ own @ lift
        assert np.allclose(np.asarray(matrix), expected, rtol=1e-5)
        assert free.all()
    assert sorted(seen) == [0, 2]


def test_first_cut_is_that_of_the_solver() -> None:
    """With layers on one grid the solver's first eigenvector is the one along which the whole is cut."""
    tree = make_tree([(4, 5), (4, 5)], images=2, smooth=3.0)
    graph = st.affinity(tree, "vv", device="cpu")
    eig = st.solve(graph, 2)
    for image, matrix, _ in joint.joint_affinities(graph, [0, 1], (4, 5)):
        ours = cutting.second_eigenvector(np.asarray(matrix))
        theirs = eig.eigenvector.values[image, ..., 0].ravel()
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 1 - 1e-9


def test_sparse_joint_graph_is_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make_tree([(4, 4), (2, 2)], images=3)
    values_of(tree, "block.0", "value")[1, :, 1, 2] = 0
    graph = st.affinity(tree, "vv", scope="dataset", device="cpu", within=4, across=3, weights=[1.0, 0.3])
    ((_, dense, free),) = joint.joint_affinities(graph, [], (4, 4))
    eig = st.solve(graph, 3)
    found = st.segment(eig, 4, method="cuts", graph=graph, threshold=2.0)
    monkeypatch.setattr(joint, "MOST_DENSE", 10)
    ((_, matrix, also_free),) = joint.joint_affinities(graph, [], (4, 4))
    assert isinstance(matrix, sparse.csr_array)
    assert np.allclose(matrix.toarray(), np.asarray(dense), rtol=1e-5, atol=1e-9)
    assert (free == also_free).all()
    assert (st.segment(eig, 4, method="cuts", graph=graph, threshold=2.0).values == found.values).all()


def cut_scene(**options: Any) -> tuple[xr.Dataset, Any]:
    graph = st.affinity(make_tree([(4, 6), (4, 6)], images=2, smooth=2.0), "vv", device="cpu", **options)
    return st.solve(graph, 3), graph


def test_hierarchy_is_returned_and_survives_a_store(tmp_path: Path) -> None:
    eig, graph = cut_scene()
    found = st.segment(eig, 5, method="cuts", graph=graph, threshold=2.0)
    assert found.n_segments.values.tolist() == [5, 5]
    found.to_dataset().to_zarr(tmp_path / "segments")
    again = xr.open_zarr(tmp_path / "segments")["segment"].load()
    assert again.identical(found)
    tree = hierarchy(again)
    assert tree.identical(hierarchy(found))
    assert tree.image.values.tolist() == found.image.values.tolist()
    for image in range(2):
        parent, size, label, cut = (tree[name].values[image] for name in ("parent", "size", "label", "cut"))
        assert parent.tolist().count(-1) == 1
        assert size[0] == 24
        assert sorted(label[label >= 0]) == list(range(5))
        for node in np.flatnonzero(label >= 0):
            assert (found.values[image] == label[node]).sum() == size[node]
        for node in np.flatnonzero(label < 0):
            assert size[parent == node].sum() == size[node]
            assert 0 <= cut[node] < 2


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_a_lower_threshold_needs_no_new_solve(scope: str) -> None:
    eig, graph = cut_scene(**({"scope": "dataset", "within": 5, "across": 3} if scope == "dataset" else {}))
    deep = st.segment(eig, 12, method="cuts", graph=graph, threshold=2.0)
    costs = hierarchy(deep).cut.values
    for threshold in (0.0, float(np.nanmedian(costs)), 2.0):
        expected = st.segment(eig, 12, method="cuts", graph=graph, threshold=threshold)
        found = recut(deep, threshold)
        assert (found.values == expected.values).all()
        assert (found.n_segments == expected.n_segments).all()
        assert json.loads(found.attrs["options"]) == {"threshold": threshold}
        ours, theirs = hierarchy(found), hierarchy(expected)
        key = ["size", "label"]
        for a, b in zip(
            *(np.atleast_2d(np.stack([t[k].values for k in key], -1)) for t in (ours, theirs)), strict=True
        ):
            assert sorted(a.tolist()) == sorted(b.tolist())


@pytest.mark.parametrize("chosen", [[1], [1, 0], [0, 0, 1]])
def test_pictures_keep_their_hierarchy_when_some_are_chosen(chosen: list[int]) -> None:
    eig, graph = cut_scene()
    deep = st.segment(eig, method="cuts", graph=graph, threshold=2.0)
    first, second = hierarchy(deep).cut.values
    assert not np.array_equal(first, second, equal_nan=True), "else order would not matter"
    threshold = float(np.nanmedian([first, second]))
    part = deep.isel(image=chosen)
    xr.testing.assert_identical(hierarchy(part), hierarchy(deep).isel(image=chosen))
    found, whole = recut(part, threshold), recut(deep, threshold)
    assert (found.values == whole.values[chosen]).all()
    assert not found.attrs["notes"], "nor does the note on pictures that are gone stay"
    again = recut(found.isel(image=[-1]), 0.1)
    assert (again.values == recut(deep, 0.1).values[chosen[-1:]]).all(), "what was cut once can be chosen from, too"


def test_numbers_of_pictures_cut_as_one_do_not_depend_on_which_are_there() -> None:
    eig, graph = cut_scene(scope="dataset", within=5, across=3)
    deep = st.segment(eig, 12, method="cuts", graph=graph, threshold=2.0)
    for threshold in (2.0, float(np.nanmedian(hierarchy(deep).cut.values))):
        whole = recut(deep, threshold)
        for chosen in ([1], [1, 0]):
            found = recut(deep.isel(image=chosen), threshold)
            assert (found.values == whole.values[chosen]).all()
            xr.testing.assert_identical(hierarchy(found), hierarchy(whole))


def test_answers_put_together_do_not_borrow_hierarchies() -> None:
    eig, graph = cut_scene()
    found = st.segment(eig, method="cuts", graph=graph, threshold=2.0)
    both = xr.concat([found, found.assign_coords(image=["c", "d"])], "image")
    for read in (hierarchy, lambda segments: recut(segments, 0.5)):
        with pytest.raises(RegionsError, match="does not name its images"):
            read(found.drop_vars("tree"))
        with pytest.raises(RegionsError, match="carry no hierarchy"):
            read(found.values)  # pyright: ignore[reportArgumentType]
    for read in (hierarchy, lambda segments: recut(segments, 0.5)):
        with pytest.raises(RegionsError, match="The segments of 'c' carry the hierarchy of"):
            read(both)


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_one_picture_of_several_is_cut_alone(scope: str) -> None:
    eig, graph = cut_scene(**({"scope": "dataset", "within": 5, "across": 3} if scope == "dataset" else {}))
    deep = st.segment(eig, method="cuts", graph=graph, threshold=2.0)
    threshold = float(np.nanmedian(hierarchy(deep).cut.values))
    one, expected = recut(deep.isel(image=1), threshold), recut(deep.isel(image=[1]), threshold)
    xr.testing.assert_identical(one, expected.isel(image=0))
    found, whole = hierarchy(deep.isel(image=1)), hierarchy(deep)
    xr.testing.assert_identical(found, whole.isel(image=1) if scope == "image" else whole)


def test_numbers_are_an_upper_bound_and_the_cheapest_cut_comes_first() -> None:
    eig, graph = cut_scene()
    many = st.segment(eig, 24, method="cuts", graph=graph, threshold=2.0)
    few = st.segment(eig, 3, method="cuts", graph=graph, threshold=2.0)
    assert (few.n_segments <= 3).all()
    none = st.segment(eig, 24, method="cuts", graph=graph, threshold=0.0)
    assert (none.values == 0).all()
    for image in range(2):
        pairs = {(a, b) for a, b in zip(many.values[image].ravel(), few.values[image].ravel(), strict=True)}
        assert len(pairs) == many.n_segments[image], "finer segments lie within coarser ones"


def test_cuts_that_stopped_at_the_largest_number_are_told() -> None:
    eig, graph = cut_scene()
    found = st.segment(eig, method="cuts", graph=graph, threshold=2.0)
    assert found.n_segments.values.tolist() == [10, 10]
    assert "More than 10 segments are only tried if asked for, and 10 were chosen in" in found.attrs["notes"]
    assert recut(found, 2.0).attrs["notes"] == found.attrs["notes"], "nothing was undone"
    free = st.segment(eig, method="cuts", graph=graph, threshold=0.0)
    assert not recut(free, 2.0).attrs["notes"], "nothing is cut by a higher threshold"
    coarse = recut(found, float(np.nanmedian(hierarchy(found).cut.values)))
    assert (coarse.n_segments < 10).all()
    assert not coarse.attrs["notes"], "the limit is no longer why"
    assert not st.segment(eig, 10, method="cuts", graph=graph, threshold=2.0).attrs["notes"], "asked for"
    assert not st.segment(eig, method="cuts", graph=graph, threshold=0.0).attrs["notes"], "one was enough"


def test_isolated_cells_take_no_part_in_cuts() -> None:
    tree = make_tree([(4, 6)], smooth=2.0)
    values_of(tree, "block.0", "value")[0, :, 0, 5] = 0
    graph = st.affinity(tree, "vv", device="cpu")
    eig = st.solve(graph, 2)
    assert eig.isolated.values.sum() == 1
    found = st.segment(eig, 3, method="cuts", graph=graph, threshold=2.0)
    assert found.values[0, 0, 5] in (found.values[0, 0, 4], found.values[0, 1, 5])
    assert hierarchy(found)["size"].values[0, 0] == 23


def test_a_finer_frame_than_any_layer_shows_the_cells_that_were_cut() -> None:
    graph = st.affinity(make_tree([(3, 4)], smooth=2.0), "vv", device="cpu")
    eig = st.solve(graph, 2, grid=(6, 8))
    found = st.segment(eig, 3, method="cuts", graph=graph, threshold=2.0)
    plain = st.segment(st.solve(graph, 2), 3, method="cuts", graph=graph, threshold=2.0)
    assert (found.values[0] == np.kron(plain.values[0], np.ones((2, 2), dtype=int))).all()
    assert "Cut on 3x4" in found.attrs["notes"]


def test_a_part_of_the_images_is_cut_as_the_whole() -> None:
    eig, graph = cut_scene()
    whole = st.segment(eig, 4, method="cuts", graph=graph)
    assert (st.segment(eig.isel(image=1), 4, method="cuts", graph=graph).values[0] == whole.values[1]).all()
    assert (st.segment(eig.isel(image=[1, 0]), 4, method="cuts", graph=graph).values == whole.values[::-1]).all()


def test_a_graph_that_they_were_not_solved_from_is_refused() -> None:
    tree = make_tree([(4, 6), (4, 6)], images=2, smooth=2.0)
    graph = st.affinity(tree, "vv", device="cpu")
    eig = st.solve(graph.reweight([1, 0]), 3)
    st.segment(eig, 3, method="cuts", graph=graph.reweight([1, 0]))
    for other, said in ((graph, "weights"), (st.affinity(tree, "vv", layers=["block.0"], device="cpu"), "layers")):
        with pytest.raises(RegionsError, match=f"have {said} .* give the graph that they were solved from"):
            st.segment(eig, 3, method="cuts", graph=other)


def test_parts_for_instances_can_come_from_cuts() -> None:
    eig, graph = cut_scene()
    everything: dict[str, Any] = {"n_parts": 4, "min_score": -1.0, "smallest": 1, "overlap": 1.0}
    found = st.instances(eig, graph=graph, **everything)
    segments = st.segment(eig, 4, method="cuts", graph=graph, threshold=2.0)
    for image in range(2):
        parts = connected_parts(segments.values[image])
        for number in range(parts.max() + 1):
            assert any((mask == (parts == number)).all() for mask in found.values[image])
    eig, graph = cut_scene(scope="dataset", within=5, across=3)
    found = st.instances(eig, graph=graph, **everything)
    assert (found.n_instances >= 4).all()
    assert not found.identical(st.instances(eig, **everything))


def test_a_graph_without_structure_is_left_whole() -> None:
    tree = make_tree([(3, 4)])
    values_of(tree, "block.0", "value")[:] = 1.0
    graph = st.affinity(tree, "vv", device="cpu")
    found = st.segment(st.solve(graph, 2), method="cuts", graph=graph)
    assert found.n_segments.values.tolist() == [1]
    assert hierarchy(found).cut.values[0, 0] == pytest.approx(1.0)


def test_wrong_graphs_and_thresholds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    eig, graph = cut_scene()
    other = st.affinity(graph.activations, "kk", device="cpu")
    joint_graph = st.affinity(graph.activations, "vv", kernel="shifted_cosine", scope="dataset", device="cpu")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "method='cuts' works on the graph: give graph="),
        ({"graph": other}, "The eigenvectors have affinity 'vv' and the graph 'kk'"),
        ({"graph": joint_graph}, "The eigenvectors have kernel 'cosine' and the graph 'shifted_cosine'"),
        ({"graph": graph, "threshold": 3}, "threshold=3 is out of range: expected a number from 0 to 2"),
        ({"graph": graph, "components": 2}, "components=2 does not apply to method='cuts', which takes threshold"),
        (
            {"graph": graph, "n_segments": "eigengap"},
            "n_segments='eigengap' is not offered: use one of 'auto'",
        ),
    ]
    for change, message in cases:
        with pytest.raises(RegionsError, match=message):
            st.segment(eig, **{"method": "cuts", **change})
    with pytest.raises(RegionsError, match="the graph is of 2 others"):
        st.segment(eig.assign_coords(image=["a", "b"]), method="cuts", graph=graph)
    with pytest.raises(RegionsError, match="for all images as one, but the graph has scope 'image'"):
        st.segment(eig.assign_attrs(scope="dataset"), method="cuts", graph=graph)
    with pytest.raises(RegionsError, match="carry no hierarchy"):
        recut(st.segment(eig, 2), 0.5)
    with pytest.raises(RegionsError, match="threshold=nan is out of range"):
        recut(st.segment(eig, 2, method="cuts", graph=graph), float("nan"))
    monkeypatch.setattr(joint, "MOST_DENSE", 10)
    with pytest.raises(RegionsError, match="a full matrix over 24 patches, more than 10"):
        st.segment(eig, method="cuts", graph=graph)
