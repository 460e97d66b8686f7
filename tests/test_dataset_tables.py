"""Neighbours from an index, tables of neighbours kept in a folder, and edges on disk."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import xarray as xr
from reference import slow_neighbours
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._affinity import approximate_neighbours, dataset_graph, neighbour_tables, stored_edges
from spectral_toolkit._affinity.approximate_neighbours import nearest_by_index
from spectral_toolkit._affinity.dataset_graph import DatasetGraph
from spectral_toolkit._affinity.neighbours import Neighbours, nearest
from spectral_toolkit._affinity.stored_edges import StoredSparseOperator
from spectral_toolkit._analysis.trust import trust_statements
from spectral_toolkit.cli import main
from spectral_toolkit.errors import AffinityError, StoreError

OPTIONS: dict[str, Any] = {"scope": "dataset", "within": 6, "across": 7, "device": "cpu"}


def graph_of(acts: xr.DataTree, kind: str = "vv", **options: Any) -> DatasetGraph:
    graph = st.affinity(acts, kind, **OPTIONS | options)
    assert isinstance(graph, DatasetGraph)
    return graph


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every search that was really made."""
    made: list[int] = []
    monkeypatch.setattr(dataset_graph, "nearest", lambda *a, **k: made.append(1) or nearest(*a, **k))
    return made


def test_a_full_disk_is_told_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("129600 requested and 76768 written")  # what NumPy says

    monkeypatch.setattr(neighbour_tables.np, "save", full)
    with pytest.raises(StoreError, match=r"kept' cannot be written to \(is the disk full\? 129600 requested"):
        st.solve(graph_of(make_tree([(4, 4)], images=3), folder=tmp_path / "kept"), 2)
    assert not list((tmp_path / "kept").iterdir())


def test_an_interrupted_search_goes_on_where_it_stopped(
    tmp_path: Path, searches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = make_tree([(5, 4), (4, 4)], images=5, heads=3)
    counted = dataset_graph.nearest

    def interrupted(*arguments: Any, **settings: Any) -> Neighbours:
        if len(searches) == 4:
            raise KeyboardInterrupt
        return counted(*arguments, **settings)

    monkeypatch.setattr(dataset_graph, "nearest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        st.solve(graph_of(acts, folder=tmp_path / "kept"), 3)
    monkeypatch.setattr(dataset_graph, "nearest", counted)
    assert len(searches) == 4
    resumed = st.solve(graph_of(acts, folder=tmp_path / "kept"), 3)
    assert len(searches) == 6  # of two layers and three heads
    st.solve(graph_of(acts, folder=str(tmp_path / "kept")), 4)
    assert len(searches) == 6
    assert resumed.eigenvector.equals(st.solve(graph_of(acts), 3).eigenvector)


def test_other_activations_or_another_recipe_are_searched_anew(tmp_path: Path, searches: list[int]) -> None:
    acts = make_tree([(4, 4)], images=4, heads=1)

    def made(acts: xr.DataTree = acts, kind: str = "vv", **options: Any) -> int:
        before = len(searches)
        graph = graph_of(acts, kind, folder=tmp_path, **options)
        own, fresh = graph.neighbours("block.0"), graph_of(acts, kind, **options).neighbours("block.0")
        assert torch.equal(own.indices, fresh.indices)
        assert torch.equal(own.similarity, fresh.similarity)
        return len(searches) - before - 1

    assert [made(), made()] == [1, 0]
    others: tuple[dict[str, Any], ...] = (
        {"within": 5},
        {"across": 5},
        {"threshold": 0.3},
        {"kind": "kk"},
        {"kind": "qk"},
    )
    for options in others:
        assert [made(**options), made(**options)] == [1, 0], options
    fewer = acts.isel(image=slice(3))
    assert [made(fewer), made(fewer), made()] == [1, 0, 0]
    values_of(acts, "block.0", "value")[2, 0, 1, 1] *= -1
    assert [made(), made()] == [1, 0]


def test_a_broken_table_or_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = make_tree([(4, 4)], images=4, heads=1)
    graph_of(acts, folder=tmp_path).neighbours("block.0")
    (table,) = tmp_path.iterdir()
    (table / "indices.npy").write_bytes(b"\x93NUMPY half a table")
    with pytest.raises(StoreError, match="cannot be read as a table of neighbours"):
        graph_of(acts, folder=tmp_path).neighbours("block.0")
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(AffinityError, match="is a file, (and|but) a folder is needed"):
        graph_of(acts, folder=file)
    with pytest.raises(AffinityError, match="is a file, (and|but) a folder is needed"):
        graph_of(acts, folder=file / "below")
    with pytest.raises(StoreError, match="cannot be written to"):
        graph_of(acts, folder="/proc/below").neighbours("block.0")
    with pytest.raises(AffinityError, match="does not apply to kernel='shifted_cosine'"):
        st.affinity(acts, "vv", kernel="shifted_cosine", scope="dataset", folder=tmp_path)
    with pytest.raises(AffinityError, match="folder=7 is not a path"):
        graph_of(acts, folder=7)
    monkeypatch.setattr(neighbour_tables.shutil, "disk_usage", lambda _: mock.Mock(free=1000))
    full = graph_of(acts, folder=tmp_path / "full", across=6)
    full.cache_bytes = 0
    with pytest.raises(StoreError, match=r"0\.0 GB are free"):
        full.neighbours("block.0")


@pytest.mark.parametrize("name", ["counts.bin", "columns.bin", "values.bin", "starts.npy", "degree.npy"])
@pytest.mark.parametrize("cut", [0.0, 0.5])
def test_broken_edges_say_so(name: str, cut: float, tmp_path: Path) -> None:
    acts = make_tree([(4, 4)], images=6, heads=1)

    def solved() -> xr.Dataset:
        graph = graph_of(acts, folder=tmp_path)
        graph.cache_bytes = 0
        return st.solve(graph, 3)

    solved()
    (file,) = tmp_path.glob(f"*/{name}")
    content = file.read_bytes()
    file.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(StoreError, match="holds no edges that can be read .* delete it"):
        solved()
    file.unlink()
    with pytest.raises(StoreError, match="delete it"):
        solved()


def test_layers_held_before_not_all_fitted_do_not_share_edges() -> None:
    acts = make_tree([(4, 4), (4, 4)], images=6, heads=1)
    graph = graph_of(acts)
    for layer in graph.layers:
        graph.neighbours(layer)
    graph.cache_bytes = 0
    assert st.solve(graph, 3).eigenvector.equals(_on_disk(acts).eigenvector)


def _on_disk(acts: xr.DataTree) -> xr.Dataset:
    graph = graph_of(acts)
    graph.cache_bytes = 0
    return st.solve(graph, 3)


def test_what_is_half_written_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(make_tree([(4, 4)], images=4, heads=2), folder=tmp_path)
    graph.cache_bytes = 0
    half: list[Path] = []

    def fail(folder: Path, _: Any) -> None:
        half.append(folder)
        (folder / "columns.bin").write_bytes(b"half")
        raise ZeroDivisionError

    monkeypatch.setattr(stored_edges, "_write", fail)
    with pytest.raises(ZeroDivisionError):
        st.solve(graph, 3)
    assert half[0].parent.parent == tmp_path
    assert not half[0].exists()
    assert len(list(tmp_path.iterdir())) == 2  # the heads' tables


@pytest.mark.parametrize("side", [7, 64, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_edges_on_disk_are_those_in_memory(side: int, dtype: str, tmp_path: Path) -> None:
    acts = make_tree([(5, 4), (3, 3)], images=9, heads=3, dtype=dtype)
    values_of(acts, "block.0", "value")[1, :, 2, 2] = 0.0
    held, stored = graph_of(acts), graph_of(acts, folder=tmp_path)
    stored.cache_bytes = 0
    generator = torch.Generator().manual_seed(0)
    with mock.patch.multiple(stored_edges, SIDE=side, ROWS_PER_READ=11):
        for member in held.members:
            operator, truth = stored.operators(member), held.operators(member).dense()[0]
            assert isinstance(operator, StoredSparseOperator)
            slow = slow_mean([held.neighbours(member.layer, head) for head in member.heads])
            np.testing.assert_allclose(truth, slow, atol=1e-6)
            np.testing.assert_allclose(operator.dense()[0], slow, atol=1e-6)
            np.testing.assert_allclose(operator.degree[0], slow.sum(axis=1), atol=1e-5)
            x = torch.randn(1, 3, len(slow), generator=generator, dtype=torch.float64)
            for exact, tolerance in ((True, 1e-5), (False, 1e-4)):
                np.testing.assert_allclose(operator.matmul(x, exact=exact)[0], x[0].numpy() @ slow, atol=tolerance)
            ones = operator.matmul(torch.ones_like(x[:, :1]))
            np.testing.assert_allclose(ones[:, 0], operator.degree, rtol=1e-14)


def slow_mean(heads: list[Neighbours]) -> np.ndarray:
    """The mean over heads of (K + K') / 2, written out."""
    n = len(heads[0].indices)
    total = np.zeros((n, n))
    for head in heads:
        for row in range(n):
            for column, value in zip(head.indices[row].tolist(), head.similarity[row].tolist(), strict=True):
                if column >= 0:
                    total[row, column] += value / 2 / len(heads)
                    total[column, row] += value / 2 / len(heads)
    return total


def test_edges_on_disk_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = make_tree([(4, 4), (4, 4)], images=6)
    written = []
    write = stored_edges._write
    monkeypatch.setattr(stored_edges, "_write", lambda *a: written.append(1) or write(*a))

    def solved() -> xr.Dataset:
        graph = graph_of(acts, folder=tmp_path)
        graph.cache_bytes = 0
        return st.solve(graph, 3)

    first, second = solved(), solved()
    assert len(written) == 2  # one a layer
    assert first.eigenvector.equals(second.eigenvector)
    graph = graph_of(acts)
    graph.cache_bytes = 0
    st.solve(graph, 3)
    assert len(written) == 4  # in a temporary folder, which nobody else sees


@pytest.mark.parametrize("kind", ["vv", "qk"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_index_finds_most_of_the_neighbours(kind: str, dtype: str) -> None:
    acts = make_tree([(6, 6)], images=40, heads=2, channels=6, dtype=dtype)
    exact, index = graph_of(acts, kind), graph_of(acts, kind, search="faiss")
    for head in range(2):
        truth, found = (graph.neighbours("block.0", head) for graph in (exact, index))
        assert torch.equal(truth.indices[:, :6], found.indices[:, :6])
        left, right = ((unit(acts, name, head)) for name in {"vv": ("value",) * 2, "qk": ("query", "key")}[kind])
        own, other = np.nonzero(found.indices[:, 6:].numpy() >= 0)
        columns = found.indices[:, 6:].numpy()[own, other]
        assert (own // 36 != columns // 36).all()
        values = found.similarity[:, 6:].numpy()
        np.testing.assert_allclose((left @ right.T)[own, columns], values[own, other], atol=1e-6)
        assert (np.diff(values, axis=1) <= 1e-7).all()
        assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in found.indices)
        both = zip(truth.indices[:, 6:].tolist(), found.indices[:, 6:].tolist(), strict=True)
        hits = sum(len(set(a) & set(b) - {-1}) for a, b in both)
        recall = index._recall["block.0", head]
        assert hits / int((truth.indices[:, 6:] >= 0).sum()) == pytest.approx(recall, abs=0.03)
        assert 0.9 < recall <= 1


def unit(acts: xr.DataTree, name: str, head: int) -> np.ndarray:
    values = values_of(acts, "block.0", name)[:, head]
    values = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_recall_counts_true_neighbours_and_their_equals() -> None:
    truth = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = torch.tensor([[0.9, 0.7, 0.6], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert approximate_neighbours._recall(found, truth) == 2 / 4
    assert np.isnan(approximate_neighbours._recall(found[2:], truth[2:]))


def test_too_few_lists_are_looked_through_until_enough_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(1500, 12)), dtype=torch.float32), dim=1)
    settings: dict[str, Any] = {"images": slice(10, 20), "within": 3, "across": 9, "threshold": 0.1}
    monkeypatch.setattr(approximate_neighbours, "TRAINING_PER_LIST", 15)
    monkeypatch.setattr(approximate_neighbours, "WANTED_RECALL", 0.0)
    few, recall = nearest_by_index(vectors, vectors, 25, **settings)
    assert recall < 0.9
    monkeypatch.setattr(approximate_neighbours, "WANTED_RECALL", 1.0)
    every, whole = nearest_by_index(vectors, vectors, 25, **settings)
    assert whole == 1
    truth = slow_neighbours(vectors.numpy(), vectors.numpy(), 25, 3, 9, 0.1)[250:500]
    np.testing.assert_allclose(every.similarity, truth, atol=1e-6)
    assert float(few.similarity.sum()) < float(every.similarity.sum())
    again, same = nearest_by_index(vectors, vectors, 25, **settings)
    assert same == whole
    assert torch.equal(again.indices, every.indices)


def test_recall_is_said_wherever_the_answer_is_judged(tmp_path: Path) -> None:
    acts = make_tree([(5, 5)], images=12, heads=2)
    eig = st.solve(graph_of(acts, search="faiss", folder=tmp_path), 3)
    assert "come from an index (faiss): on a sample of patches it found" in eig.attrs["notes"]
    assert '"search": "faiss"' in eig.attrs["kernel_options"]
    assert any("index (faiss)" in statement.text for statement in trust_statements(eig))
    with mock.patch.object(dataset_graph, "nearest_by_index", side_effect=AssertionError):
        again = st.solve(graph_of(acts, search="faiss", folder=tmp_path), 3)
    assert again.attrs["notes"] == eig.attrs["notes"]
    exact = st.solve(graph_of(acts, search="exact", folder=tmp_path), 3)  # not the table of the index
    assert "faiss" not in exact.attrs["notes"] + exact.attrs["kernel_options"]


def test_the_command_line_keeps_what_was_found_where_it_is_told(tmp_path: Path, searches: list[int]) -> None:
    make_tree([(4, 4)], images=4, heads=2).to_zarr(tmp_path / "acts.zarr", consolidated=False)
    command = f"solve --activations {tmp_path / 'acts.zarr'} --affinity vv --scope dataset --n-eigenvectors 2"
    for number, more in enumerate(("", f"--folder {tmp_path / 'kept'}", f"--folder {tmp_path / 'kept'}")):
        assert main([*command.split(), "--out", str(tmp_path / f"{number}.zarr"), *more.split()]) == 0
    assert len(searches) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.zarr", "1.zarr", "2.zarr", "acts.zarr", "kept"]
    assert main([*command.split(), "--out", str(tmp_path / "3.zarr"), "--search", "faiss"]) == 0
    assert "index (faiss)" in xr.open_zarr(tmp_path / "3.zarr", consolidated=False).attrs["notes"]


def test_without_faiss_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = make_tree([(4, 4)], images=3)
    with pytest.raises(AffinityError, match="search='annoy' is not offered: use one of 'exact', 'faiss'"):
        graph_of(acts, search="annoy")
    with pytest.raises(AffinityError, match="search='faiss' does not apply to kernel='shifted_cosine'"):
        st.affinity(acts, "vv", kernel="shifted_cosine", scope="dataset", search="faiss")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AffinityError, match=r"pip install 'spectral-toolkit\[faiss\]'"):
        graph_of(acts, search="faiss")
