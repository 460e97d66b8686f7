"""The paper's dataset mode: its loss against a slow twin, what it finds, and going on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity.dataset_graph import DatasetGraph
from spectral_toolkit.errors import SolverError
from spectral_toolkit.solvers import gradient_dataset
from spectral_toolkit.solvers.gradient_dataset import batch_matrix, batch_objective, edges_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_dataset, "SIDE", 8)
    monkeypatch.setattr(gradient_dataset, "BATCH", 5)


def blocks(n_images: int = 10, side: int = 4, noise: float = 0.3) -> tuple[xr.DataTree, np.ndarray]:
    """Values that fall into three groups, whichever the image."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, (n_images, side, side))
    value = np.eye(3)[group] @ rng.normal(size=(3, 6)) + noise * rng.normal(size=(n_images, side, side, 6))
    dims = ("image", "head", "y", "x", "channel")
    layer = xr.Dataset({"value": (dims, np.stack([value, value[..., ::-1]], axis=1).astype(np.float32))})
    return xr.DataTree.from_dict({"block.0": layer}), group


@pytest.mark.usefixtures("small")
def test_loss_is_that_of_the_slow_twin() -> None:
    graph = st.affinity(make_tree([(4, 4), (2, 3)], images=6), "qk", scope="dataset", within=3, across=20)
    assert isinstance(graph, DatasetGraph)
    edges, _ = edges_of(graph)
    batch = torch.tensor([4, 0, 2])
    tables = torch.randn(3, 7, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    total = 0.0
    for one in edges:
        rows, columns = one.grid
        cells = rows * columns
        found = graph.neighbours(one.layer, one.head)
        matrix = np.zeros((3 * cells, 3 * cells))
        for a, image in enumerate(batch.tolist()):
            for cell in range(cells):
                node = image * cells + cell
                for target, value in zip(found.indices[node].tolist(), found.similarity[node].tolist(), strict=True):
                    if target >= 0 and target // cells in batch.tolist():
                        b = batch.tolist().index(target // cells)
                        matrix[a * cells + cell, b * cells + target % cells] = value
        matrix /= np.maximum(matrix.sum(1, keepdims=True), 1e-30)
        np.testing.assert_allclose(batch_matrix(graph, one, batch).to_dense(), matrix, atol=1e-6)
        pooled = torch.nn.functional.adaptive_avg_pool2d(tables, one.grid).numpy()
        z = np.stack([pooled[i, :, y, x] for i in range(3) for y in range(rows) for x in range(columns)])
        z /= np.linalg.norm(z, axis=0)
        gram = z.T @ z
        apart = sum(gram[i, j] ** 2 for i in range(7) for j in range(7) if i != j) / 42
        total += one.weight * (2 * np.mean([abs(z[:, i] @ matrix @ z[:, i] - 1) for i in range(7)]) + 2 * apart)
    matrices = [batch_matrix(graph, one, batch) for one in edges]
    assert float(batch_objective(tables, edges, matrices)) == pytest.approx(total, rel=1e-4)
    assert sum(one.weight for one in edges) == pytest.approx(1)


@pytest.mark.usefixtures("small")
def test_it_finds_the_groups_that_the_exact_solver_finds() -> None:
    acts, group = blocks()
    graph = st.affinity(acts, "vv", scope="dataset")
    exact = st.solve(graph, 2)
    found = st.solve(graph, 2, method="gradient", n_features=4, epochs=60, seed=1)
    assert found.eigenvalue.dims == ("component",)
    assert float(exact.eigenvalue.sum()) - 1e-6 <= float(found.eigenvalue.sum()) < 1.3 * float(exact.eigenvalue.sum())
    values = found.eigenvector.values.reshape(-1, 2)
    within = sum(values[group.ravel() == g].var(axis=0).sum() * (group == g).mean() for g in range(3))
    assert within < 0.25 * values.var(axis=0).sum()
    assert found.attrs["method"] == "gradient"


@pytest.mark.usefixtures("small")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    graph = st.affinity(blocks()[0], "vv", scope="dataset")
    options = {"method": "gradient", "n_features": 3, "seed": 2}
    whole = st.solve(graph, 2, epochs=6, **options)
    path = tmp_path / "descent.pt"

    class EnoughError(Exception):
        pass

    def stop(done: int, total: int, objective: float) -> None:
        if done == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        st.solve(graph, 2, epochs=6, checkpoint=str(path), checkpoint_every=2, progress=stop, **options)
    resumed = st.solve(graph, 2, epochs=6, checkpoint=str(path), checkpoint_every=2, **options)
    assert resumed.eigenvector.equals(whole.eigenvector)
    again = st.solve(graph, 2, epochs=6, checkpoint=str(path), learning_rate=gradient_dataset.LEARNING_RATE, **options)
    assert again.eigenvector.equals(whole.eigenvector), "a default may be given"
    with pytest.raises(SolverError, match="already holds 6 epochs, more than epochs=5"):
        st.solve(graph, 2, epochs=5, checkpoint=str(path), **options)
    other = st.affinity(blocks(noise=0.5)[0], "vv", scope="dataset")
    with pytest.raises(SolverError, match="belongs to another problem"):
        st.solve(other, 2, epochs=6, checkpoint=str(path), **options)


@pytest.mark.usefixtures("small")
def test_fine_layers_are_left_out_and_it_says_so() -> None:
    acts = make_tree([(10, 10), (4, 4)], images=4)
    found = st.solve(st.affinity(acts, "vv", scope="dataset"), 2, method="gradient", n_features=3, epochs=2)
    assert "are left out, as in the paper" in found.attrs["notes"]
    assert "block.0" in found.attrs["notes"]
    with pytest.raises(SolverError, match="Every layer has more than 8 x 8 patches"):
        st.solve(st.affinity(acts, "vv", scope="dataset", weights=[1, 0]), 2, method="gradient")


def test_what_does_not_fit_is_refused() -> None:
    graph = st.affinity(make_tree([(3, 3)], images=3), "vv", scope="dataset")
    with pytest.raises(SolverError, match="steps=5 does not apply to a dataset"):
        st.solve(graph, 2, method="gradient", steps=5)
    with pytest.raises(SolverError, match="is too many for n_features=2"):
        st.solve(graph, 2, method="gradient", n_features=2)
    with pytest.raises(SolverError, match="the whole dataset has 27 patches"):
        st.solve(graph, 27, method="gradient", epochs=1)
    shifted = st.affinity(make_tree([(3, 3)], images=3), "vv", kernel="shifted_cosine", scope="dataset")
    with pytest.raises(SolverError, match="has no edges"):
        st.solve(shifted, 2, method="gradient")
    with pytest.raises(SolverError, match="epochs=3 does not apply to single images"):
        st.solve(st.affinity(make_tree([(3, 3)]), "vv"), 2, method="gradient", epochs=3)


@pytest.mark.usefixtures("small")
def test_any_seed_will_do() -> None:
    graph = st.affinity(blocks(n_images=3)[0], "vv", scope="dataset")
    assert np.isfinite(st.solve(graph, 2, method="gradient", n_features=3, epochs=1, seed=2**53 - 1).eigenvalue).all()
