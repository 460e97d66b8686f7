"""The paper's gradient method for single images: objective, descent, and how far it is from the exact answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils._python_dispatch import TorchDispatchMode

import spectral_toolkit as st
from spectral_toolkit._affinity import LayerGraph
from spectral_toolkit.errors import SolverError
from spectral_toolkit.solvers.descent import average
from spectral_toolkit.solvers.gradient import head_affinities, objective
from tests.reference import head_vectors
from tests.tree_factory import make_tree, values_of


def stochastic(heads: int, n: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(heads, n, n, generator=rng, dtype=torch.float64), dim=-1)


def slow_objective(affinities: list[np.ndarray], grids: list[tuple[int, int]], features: np.ndarray) -> float:
    """Entry by entry; the grids must divide the base grid."""
    k, height, width = features.shape
    losses = []
    for affinity, (rows, columns) in zip(affinities, grids, strict=True):
        down, across = height // rows, width // columns
        z = np.zeros((rows * columns, k))
        for cell in range(rows * columns):
            i, j = divmod(cell, columns)
            for feature in range(k):
                z[cell, feature] = features[feature, i * down : (i + 1) * down, j * across : (j + 1) * across].mean()
        z /= np.sqrt((z**2).sum(axis=0))
        first, second = [], []
        for matrix in affinity:
            first += [
                abs(sum(z[a, f] * matrix[a, b] * z[b, f] for a in range(len(z)) for b in range(len(z))) - 1)
                for f in range(k)
            ]
        second = [float(z[:, f] @ z[:, g]) ** 2 for f in range(k) for g in range(k) if f != g]
        losses.append(2 * np.mean(first) + 2 * np.mean(second))
    return float(np.mean(losses))


@pytest.mark.parametrize("grids", [[(4, 4)], [(4, 6), (2, 3)], [(6, 4), (3, 2), (6, 4)]])
def test_objective_is_that_of_the_slow_twin(grids: list[tuple[int, int]]) -> None:
    torch.manual_seed(1)
    features = torch.rand(1, 3, *grids[0], dtype=torch.float64)
    affinities = [stochastic(2, rows * columns, seed) for seed, (rows, columns) in enumerate(grids)]
    expected = slow_objective([a.numpy() for a in affinities], grids, features[0].numpy())
    assert float(objective(affinities, features)) == pytest.approx(expected, rel=1e-12)


def test_objective_can_be_differentiated() -> None:
    torch.manual_seed(2)
    features = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    affinities = [stochastic(2, 16), stochastic(2, 4)]
    assert torch.autograd.gradcheck(lambda z: objective(affinities, z), features)


def test_weights_are_relative_and_one_feature_overlaps_nothing() -> None:
    torch.manual_seed(3)
    features = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    pair = [stochastic(1, 16), stochastic(3, 16, 1)]
    alone = [float(objective([a], features)) for a in pair]
    assert float(objective(pair, features, weights=[2, 6])) == pytest.approx(0.25 * alone[0] + 0.75 * alone[1])


@pytest.mark.parametrize("n", [7, 6, 12])
def test_a_grid_that_cannot_be_told_is_asked_for(n: int) -> None:
    with pytest.raises(SolverError, match="cannot be derived"):
        objective([stochastic(1, n)], torch.rand(1, 2, 8, 8, dtype=torch.float64))
    if n == 12:
        objective([stochastic(1, n)], torch.rand(1, 2, 8, 8, dtype=torch.float64), grids=[(3, 4)])


def test_affinities_are_attention_among_patches_head_by_head() -> None:
    tree = make_tree([(3, 4)], heads=2, special=2)
    graph = st.affinity(tree, "qk", device="cpu")
    found = head_affinities(graph, graph.members[0], slice(0, 1))[0].double().numpy()
    node = tree.children["block.0"]
    query, key = (head_vectors(node, name, 0) for name in ("query", "key"))
    for head in range(2):
        logits = query[head] @ key[head].T * node.attrs["scale"]  # dropping and renormalising: a softmax over patches
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[head], expected, atol=1e-6)


def test_an_empty_row_stays_empty() -> None:
    tree = make_tree([(3, 4)], heads=1)
    values_of(tree, "block.0", "value")[0, 0, 1, 2] = 0.0
    graph = st.affinity(tree, "vv", device="cpu")
    found = head_affinities(graph, graph.members[0], slice(0, 1))[0, 0]
    assert torch.isfinite(found).all()
    assert found[6].sum() == 0
    assert found.sum(dim=1).max() == pytest.approx(1.0, rel=1e-6)


def test_masked_tokens_have_no_affinity() -> None:
    tree = make_tree([(3, 4)], images=2, heads=2)
    mask = xr.DataArray(np.random.default_rng(0).random((2, 3, 4)) < 0.4, dims=("image", "y", "x"))
    graphs = [st.affinity(tree, "vv", device="cpu", mask=m) for m in (None, {"block.0": mask})]
    whole, masked = (head_affinities(g, g.members[0], slice(0, 2)).double().numpy() for g in graphs)
    kept = ~mask.values.reshape(2, 1, 12)
    expected = whole * kept[..., None] * kept[:, :, None]
    total = expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        masked, np.divide(expected, total, where=total > 0, out=np.zeros_like(expected)), atol=1e-6
    )


def two_halves() -> LayerGraph:
    """Four quarters of a picture with values nearly at right angles."""
    tree = make_tree([(6, 6), (3, 3)], heads=2, channels=4, smooth=0.0, seed=4)
    for layer, side in (("block.0", 6), ("block.1", 3)):
        values = values_of(tree, layer, "value")
        values *= 0.15
        for y in range(side):
            for x in range(side):
                values[..., y, x, 2 * (y >= side / 2) + (x >= side / 2)] += 1.0
    return st.affinity(tree, "vv", device="cpu")


OPTIONS: dict[str, Any] = {"steps": 60, "n_features": 4, "patience": 0}


def angle(a: xr.Dataset, b: xr.Dataset) -> float:
    """Largest principal angle in degrees between the spans of the eigenvectors of image 0."""
    bases = [np.linalg.qr(e.eigenvector.values[0].reshape(-1, e.sizes["component"]))[0] for e in (a, b)]
    cosine = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).min()
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def test_answer_is_near_the_exact_one_and_never_better() -> None:
    graph = two_halves()
    exact = st.solve(graph, 3)
    found = st.solve(graph, 3, method="gradient", steps=400, n_features=4)
    assert angle(exact, found) < 25
    assert float(found.eigenvalue.sum()) >= float(exact.eigenvalue.sum()) - 1e-9
    assert float(found.eigenvalue.sum()) < 1.5 * float(exact.eigenvalue.sum())
    assert (np.diff(found.eigenvalue.values) >= 0).all()
    np.testing.assert_allclose(found.layer_share.sum("layer"), found.eigenvalue, atol=1e-12)
    np.testing.assert_allclose(found.layer_mass.sum("layer"), 1.0, atol=1e-12)
    assert set(exact.data_vars) == set(found.data_vars)
    assert not found.converged.all()
    assert found.attrs["method"] == "gradient"


def test_seed_decides_and_is_recorded() -> None:
    graph = two_halves()
    before = torch.random.get_rng_state()
    first, again, other = (st.solve(graph, 3, method="gradient", seed=s, **OPTIONS) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first.eigenvector, again.eigenvector)
    assert not np.array_equal(first.eigenvector, other.eigenvector)
    assert other.attrs["generator_seed"] == 1
    assert json.loads(first.attrs["steps_run"]) == [60]


def test_a_run_cut_off_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    graph, file = two_halves(), tmp_path / "half.pt"
    seen: list[int] = []

    def cut(done: int, total: int, value: float) -> None:
        seen.append(done)
        if done == 35:
            raise KeyboardInterrupt

    whole = st.solve(graph, 3, method="gradient", **OPTIONS)
    stored: dict[str, Any] = {**OPTIONS, "checkpoint": file, "checkpoint_every": 10}
    with pytest.raises(KeyboardInterrupt):
        st.solve(graph, 3, method="gradient", progress=cut, **stored)
    later: list[int] = []
    resumed = st.solve(graph, 3, method="gradient", progress=lambda *a: later.append(a[0]), **stored)
    assert later[0] == 31
    np.testing.assert_array_equal(whole.eigenvector, resumed.eigenvector)
    assert whole.attrs["final_objective"] == resumed.attrs["final_objective"]
    finished = st.solve(graph, 3, method="gradient", progress=lambda *a: pytest.fail("ran again"), **stored)
    np.testing.assert_array_equal(whole.eigenvector, finished.eigenvector)
    with pytest.raises(SolverError, match="belongs to another problem"):
        st.solve(graph.reweight({"block.0": 2}), 3, method="gradient", **stored)
    assert [path.name for path in tmp_path.iterdir()] == ["half.pt"]
    file.write_bytes(b"nonsense")
    with pytest.raises(SolverError, match="cannot be read as a checkpoint"):
        st.solve(graph, 3, method="gradient", **stored)


def test_a_checkpoint_that_cannot_be_written_is_told_before_the_descent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stored: dict[str, Any] = {**OPTIONS, "checkpoint": tmp_path / "file" / "half.pt"}
    with pytest.raises(SolverError, match=r"file' is a file, but a folder is needed there"):
        st.solve(two_halves(), 3, method="gradient", progress=lambda *a: pytest.fail("began"), **stored)


def test_a_full_disk_is_told_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")  # what torch says

    monkeypatch.setattr(torch, "save", full)
    stored: dict[str, Any] = {**OPTIONS, "checkpoint": tmp_path / "half.pt", "checkpoint_every": 10}
    with pytest.raises(SolverError, match=r"half\.pt' cannot be written \(\[enforce fail.*make room there"):
        st.solve(two_halves(), 3, method="gradient", **stored)
    assert not list(tmp_path.iterdir())


def test_it_stops_early_where_nothing_improves() -> None:
    found = st.solve(two_halves(), 3, method="gradient", n_features=4, steps=2000, patience=20)
    assert json.loads(found.attrs["stopped_early"]) == [True]
    assert json.loads(found.attrs["steps_run"])[0] < 1000


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("exact", {"steps": 10}, "does not apply to method='exact'"),
        ("gradient", {"step": 10}, "does not apply to method='gradient'"),
        ("gradient", {"steps": 0}, "whole number of at least 1"),
        ("gradient", {"learning_rate": -1.0}, "above 0"),
        ("gradient", {"n_features": 3}, "is too many for n_features"),
        ("gradient", {"checkpoint": 3}, "expected a path"),
        ("gradient", {"progress": 3}, "use True or False, or a function"),
    ],
)
def test_bad_options_are_named(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        st.solve(two_halves(), 3, method=method, **options)


@pytest.mark.parametrize(("size", "grid"), [((32, 32), (8, 8)), ((7, 5), (3, 4)), ((3, 4), (5, 6)), ((6, 6), (6, 6))])
def test_averages_by_products_are_those_of_adaptive_pooling(size: tuple[int, int], grid: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, wanted = average(x, grid), torch.nn.functional.adaptive_avg_pool2d(x, grid)
    torch.testing.assert_close(found, wanted)
    slopes = (torch.autograd.grad((y**3).sum(), x)[0] for y in (found, wanted))
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_no_gradient_adds_in_the_order_of_threads(scope: str) -> None:
    called: set[str] = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.add(str(func))
            return func(*args, **(kwargs or {}))

    graph = st.affinity(make_tree([(4, 4), (5, 3)], images=2), "vv", scope=scope, device="cpu")
    steps: dict[str, Any] = {"steps": 2} if scope == "image" else {"epochs": 1}
    with Recorder():
        st.solve(graph, 2, method="gradient", n_features=3, **steps)
    # Of torch.use_deterministic_algorithms: what has no deterministic form on a GPU, or one only when asked.
    wrong = ("pool2d_backward", "pool3d", "upsample", "grid_sampler", "scatter_add", "scatter_reduce")
    assert "aten.mm.default" in called
    assert not [name for name in called if any(one in name for one in wrong)]
