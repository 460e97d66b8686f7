"""Dataset scope: the search for neighbours, the graph, and the exact answer, against slow and obvious twins."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from reference import pencil_of_everything, slow_neighbours
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity import dataset_graph, neighbours
from spectral_toolkit._affinity.dataset_graph import DatasetGraph
from spectral_toolkit._affinity.dataset_operators import StoredFactorOperator
from spectral_toolkit._affinity.neighbours import nearest
from spectral_toolkit._affinity.stored_edges import StoredSparseOperator
from spectral_toolkit.errors import AffinityError, SolverError

PAIRS = [(kind, kernel) for kind in ("qk", "vv") for kernel in ("knn", "shifted_cosine")]


def of_dataset(acts: xr.DataTree, kind: str, **options: Any) -> DatasetGraph:
    graph = st.affinity(acts, kind, scope="dataset", **options)
    assert isinstance(graph, DatasetGraph)
    return graph


def unit(rng: np.random.Generator, n: int, channels: int) -> torch.Tensor:
    x = rng.normal(size=(n, channels))
    return torch.as_tensor(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=torch.float32)


@settings(max_examples=50)
@given(
    cells=some.integers(1, 25),
    images=some.integers(1, 25),
    within=some.integers(1, 60),
    across=some.integers(0, 60),
    same=some.booleans(),
    tile=some.sampled_from([(1024, 2048), (16, 32), (40, 16)]),
    seed=some.integers(0, 99),
)
def test_neighbours_are_those_of_the_slow_search(cells, images, within, across, same, tile, seed) -> None:
    rng = np.random.default_rng(seed)
    left = unit(rng, cells * images, 5)
    left[torch.as_tensor(rng.random(len(left)) < 0.05)] = 0.0
    right = left if same else unit(rng, cells * images, 5)
    with mock.patch.multiple(neighbours, ROWS=tile[0], COLUMNS=tile[1]):
        found = nearest(left, right, cells, within=within, across=across, threshold=0.1)
    truth = slow_neighbours(left.numpy(), right.numpy(), cells, within, across, 0.1)
    assert found.similarity.shape == truth.shape
    np.testing.assert_allclose(found.similarity.numpy(), truth, atol=2e-6)
    indices, value = found.indices.numpy(), found.similarity.numpy()
    assert ((indices >= 0) == (value > 0)).all()
    rows, columns = np.nonzero(indices >= 0)
    similarity = (left.numpy() @ right.numpy().T)[rows, indices[rows, columns]]
    np.testing.assert_allclose(similarity, value[rows, columns], atol=2e-6)
    assert ((indices[rows, columns] // cells == rows // cells) == (columns < found.within)).all()
    for row in indices:
        kept = row[row >= 0]
        assert len(set(kept.tolist())) == len(kept)


@settings(max_examples=40)
@given(
    cells=some.integers(1, 20),
    images=some.integers(1, 20),
    within=some.integers(0, 40),
    across=some.integers(0, 40),
    tile=some.sampled_from([(1024, 2048), (16, 32), (40, 16), (7, 600)]),
    by_numpy=some.booleans(),
    seed=some.integers(0, 99),
)
def test_of_equal_similarities_the_first_columns_are_taken(cells, images, within, across, tile, by_numpy, seed) -> None:
    """Vectors of few directions: most similarities have many equals but for rounding, and only order decides."""
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(-1, 2, (cells * images, 3)) / 2 for _ in range(2))
    rows, columns = (torch.as_tensor(side, dtype=torch.float32) for side in (left, right))
    with (
        mock.patch.multiple(neighbours, ROWS=tile[0], COLUMNS=tile[1]),
        mock.patch.object(neighbours, "_by_numpy", return_value=by_numpy),
    ):
        found = nearest(rows, columns, cells, within=within, across=across, threshold=0.2)
    lengths = [np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (left, right)]
    n, similarity = len(left), np.round((left / lengths[0]) @ (right / lengths[1]).T, 10)
    image = np.arange(n) // cells
    indices, value = found.indices.numpy(), found.similarity.numpy()
    for row in range(n):
        parts = []
        for k, own in (
            (min(within, cells), np.flatnonzero(image == image[row])),
            (min(across, n - cells), np.flatnonzero(image != image[row])),
        ):
            best = own[np.argsort(-similarity[row, own], kind="stable")][:k]
            parts += [column if similarity[row, column] > 0.2 else -1 for column in best]
        assert indices[row].tolist() == parts
        kept = indices[row] >= 0
        np.testing.assert_allclose(value[row, kept], similarity[row, indices[row, kept]], atol=1e-6)


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("spread", [1e-3, 1e-4])
def test_vectors_that_hardly_differ_are_ranked_by_double_precision(spread: float, by_numpy: bool) -> None:
    """A large bias: every cosine is 1 to within 1e-6, where single precision has a dozen different numbers."""
    rng = np.random.default_rng(0)
    bias = rng.normal(size=8)
    queries, keys = (bias + spread * rng.normal(size=(40 * 12, 8)) for _ in range(2))
    keys[rng.random(len(keys)) < 0.3] *= -1  # so that their mean says nothing
    with (
        mock.patch.multiple(neighbours, ROWS=64, COLUMNS=128),
        mock.patch.object(neighbours, "_by_numpy", return_value=by_numpy),
    ):
        rows, columns = (torch.as_tensor(side, dtype=torch.float32) for side in (queries, keys))
        found = nearest(rows, columns, 12, within=5, across=20)
    exact = [side.double().numpy() for side in (rows, columns)]
    left, right = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in exact)
    similarity, image = left @ right.T, np.arange(len(left)) // 12
    for part, same in ((found.indices[:, :5], True), (found.indices[:, 5:], False)):
        wanted = np.where((image[:, None] == image) == same, similarity, -1)
        best = np.maximum(-np.sort(-wanted, axis=1)[:, : part.shape[1]], 0.0)
        reached = np.where(part.numpy() >= 0, np.take_along_axis(wanted, part.numpy().clip(0), axis=1), 0.0)
        assert np.abs(np.where(best > 0.1, best, 0.0) - reached).max() < 2e-12


def test_rows_found_by_several_threads_are_those_of_one() -> None:
    vectors = unit(np.random.default_rng(0), 40 * 25, 6)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with mock.patch.multiple(neighbours, ROWS=64, COLUMNS=256):
                found.append(nearest(vectors, vectors, 25, within=9, across=11))
            assert torch.get_num_threads() == threads
            with (
                mock.patch.object(neighbours, "largest", side_effect=KeyboardInterrupt),
                mock.patch.multiple(neighbours, ROWS=64),
                pytest.raises(KeyboardInterrupt),
            ):
                nearest(vectors, vectors, 25)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].indices, found[1].indices)
    assert torch.equal(found[0].similarity, found[1].similarity)


def test_many_equal_vectors_are_no_trouble() -> None:
    left = torch.ones(3000, 4) / 2
    found = nearest(left, left, 10)
    assert (found.similarity[:, :10] == 1).all()
    assert (found.similarity[:, 10:] == 1).all()
    assert (found.indices >= 0).all()


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
@pytest.mark.parametrize("grids", [[(5, 4), (5, 4)], [(8, 6), (4, 3), (5, 7)]])
def test_the_exact_answer_is_that_of_the_whole_matrix(kind, kernel, grids) -> None:
    acts = make_tree(grids, images=9, channels=5)
    options: dict[str, Any] = {"within": 7, "across": 9} if kernel == "knn" else {}
    graph = st.affinity(acts, kind, kernel=kernel, scope="dataset", weights=[1, *[0.5] * (len(grids) - 1)], **options)
    eig = st.solve(graph, 5)
    assert eig.eigenvalue.dims == ("component",)
    assert eig.layer_share.dims == ("component", "layer")
    assert eig.eigenvector.dims == ("image", "y", "x", "component")
    laplacian, mass = pencil_of_everything(graph, graph.to_dense())
    values, vectors = scipy.linalg.eigh(laplacian, mass)
    np.testing.assert_allclose(eig.eigenvalue, values[1:6], atol=1e-8)
    np.testing.assert_allclose(eig.layer_share.sum("layer"), eig.eigenvalue, atol=1e-12)
    found = eig.eigenvector.values.reshape(-1, 5)
    np.testing.assert_allclose(found.T @ mass @ found, np.eye(5), atol=1e-7)
    cosines = np.linalg.svd(found.T @ mass @ vectors[:, 1:6], compute_uv=False)
    assert cosines.min() > 1 - 1e-6


@pytest.mark.parametrize(("kind", "kernel"), PAIRS)
def test_edges_and_factors_from_disk_give_the_same(kind, kernel) -> None:
    acts = make_tree([(6, 5), (3, 4)], images=7, channels=4)
    held, stored = (of_dataset(acts, kind, kernel=kernel) for _ in range(2))
    stored.cache_bytes = 0
    expected = StoredSparseOperator if kernel == "knn" else StoredFactorOperator
    assert all(isinstance(stored.operators(member), expected) for member in stored.members)
    for name, matrix in held.to_dense().items():
        np.testing.assert_allclose(stored.to_dense()[name], matrix, atol=1e-6)
    a, b = st.solve(held, 4), st.solve(stored, 4)
    np.testing.assert_allclose(a.eigenvalue, b.eigenvalue, atol=1e-6)
    assert "do not fit in memory" in b.attrs["notes"]
    assert not a.attrs["notes"]


def test_the_knn_matrix_is_the_mean_of_the_heads_made_symmetric() -> None:
    acts = make_tree([(4, 5)], images=6, heads=3, channels=4)
    graph = of_dataset(acts, "qk", within=4, across=5, threshold=0.2)
    total = np.zeros((120, 120))
    for head in range(3):
        found = graph.neighbours("block.0", head)
        for row in range(120):
            for column, value in zip(found.indices[row].tolist(), found.similarity[row].tolist(), strict=True):
                if column >= 0:
                    total[row, column] += value / 6
                    total[column, row] += value / 6
    np.testing.assert_allclose(graph.to_dense()["block.0"], total, atol=1e-6)
    each = st.affinity(acts, "qk", scope="dataset", heads="each", within=4, across=5, threshold=0.2).to_dense()
    np.testing.assert_allclose(sum(each.values()) / 3, total, atol=1e-6)


def test_one_image_or_patches_that_fall_apart() -> None:
    one = st.solve(st.affinity(make_tree([(4, 4)]), "vv", scope="dataset"), 3)
    alone = st.solve(st.affinity(make_tree([(4, 4)]), "vv", kernel="cosine"), 3)
    np.testing.assert_allclose(one.eigenvalue, alone.eigenvalue[0], atol=1e-6)
    apart = st.solve(st.affinity(make_tree([(5, 5)], images=4), "vv", scope="dataset", across=0), 5)
    np.testing.assert_allclose(apart.eigenvalue[:3], 0, atol=1e-7)  # as many pieces as images


def test_isolated_cells_are_left_out() -> None:
    acts = make_tree([(5, 5)], images=4)
    acts["block.0"].value[1, :, 2, 3] = 0.0
    eig = st.solve(st.affinity(acts, "vv", scope="dataset"), 3)
    assert int(eig.isolated.sum()) == 1
    assert bool(eig.isolated[1, 2, 3])
    assert np.isfinite(eig.eigenvector.values).all()
    around = eig.eigenvector.values[1, [1, 3, 2, 2], [3, 3, 2, 4]].mean(axis=0)
    np.testing.assert_allclose(eig.eigenvector.values[1, 2, 3], around, atol=1e-9)


def test_weights_and_warm_starts() -> None:
    acts = make_tree([(9, 9), (9, 9)], images=8)
    graph = st.affinity(acts, "vv", scope="dataset", within=12, across=12)
    first = st.solve(graph, 4)
    other = graph.reweight([1.0, 0.3])
    again = st.solve(other, 4, start=first)
    fresh = st.solve(other, 4)
    np.testing.assert_allclose(again.eigenvalue, fresh.eigenvalue, atol=1e-6)
    assert again.attrs["start"] != "nothing"
    with pytest.raises(SolverError, match=r"start holds components \[2, 3, 4\]: give the first components"):
        st.solve(other, 3, start=first.isel(component=slice(1, None)))
    assert st.solve(graph, 4).eigenvector.equals(first.eigenvector)


def test_what_is_not_offered_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = make_tree([(4, 4)], images=3)
    with pytest.raises(AffinityError, match="kernel='knn' is not offered with scope='image'"):
        st.affinity(acts, "vv", kernel="knn")
    with pytest.raises(AffinityError, match="kernel='softmax' is not offered with scope='dataset'"):
        st.affinity(acts, "qk", kernel="softmax", scope="dataset")
    with pytest.raises(AffinityError, match="steps=2 is not offered with scope='dataset'"):
        st.affinity(acts, "vv", kernel="shifted_cosine", scope="dataset", steps=2)
    with pytest.raises(AffinityError, match="within=0 is out of range"):
        st.affinity(acts, "vv", scope="dataset", within=0)
    with pytest.raises(SolverError, match="n_eigenvectors=48 is too many: the whole dataset has 48 patches"):
        st.solve(st.affinity(acts, "vv", scope="dataset"), 48)
    graph = of_dataset(acts, "vv")
    with pytest.raises(AffinityError, match="There is no head 7"):
        graph.neighbours("block.0", 7)
    monkeypatch.setattr(dataset_graph, "MOST_DENSE_NODES", 10)
    with pytest.raises(AffinityError, match="has 48 patches in all"):
        graph.to_dense()


def test_a_search_of_hours_is_not_made_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = make_tree([(4, 4)], images=3)
    monkeypatch.setattr("spectral_toolkit._affinity.MOST_PAIRS", 10)
    graph = st.affinity(acts, "vv", scope="dataset")
    assert graph.recipe.kernel == "shifted_cosine"
    assert "shifted cosine and not knn" in st.solve(graph, 2).attrs["notes"]
    assert st.affinity(acts, "vv", kernel="knn", scope="dataset").recipe.kernel == "knn"
