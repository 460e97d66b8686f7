"""Timesteps and draws of noise beyond the capture: affinities average over them, all that reads a tree can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

pytest.importorskip("diffusers")

import holoviews as hv
from diffusion_zoo import stable_diffusion
from model_zoo import pictures
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity.rows import affinity_row
from spectral_toolkit._analysis.scores import controls
from spectral_toolkit._analysis.trust import outlying_masks
from spectral_toolkit._io.bundles import load_bundle

DRAWS = ("timestep", "noise")


def tree_of_draws(grids: list[tuple[int, int]], images: int = 2, special: int = 0, bias: bool = False) -> xr.DataTree:
    """A tree by hand with 2 timesteps and 3 draws of noise, each as if it had been captured alone."""
    parts: list[Any] = [make_tree(grids, images=images, special=special, bias=bias, seed=seed) for seed in range(6)]
    children = {}
    for layer in parts[0].children:
        rows = [parts[t * 3 : t * 3 + 3] for t in range(2)]
        data: dict[Any, Any] = {}
        for name in parts[0][layer].data_vars:
            if name == "attention_bias":
                data[name] = parts[0][layer][name]
                continue
            stacked = xr.concat([xr.concat([p[layer][name] for p in row], "noise") for row in rows], "timestep")
            data[name] = stacked.transpose("image", "timestep", "noise", ...)
        coords = {"timestep": [10, 20], "noise": [0, 1, 2]}
        children[layer] = xr.DataTree(xr.Dataset(data, coords, parts[0][layer].attrs))
    return xr.DataTree(children=children)


def one_draw(tree: xr.DataTree, timestep: int, noise: int) -> xr.DataTree:
    return tree.isel(timestep=timestep, noise=noise)


@pytest.fixture(scope="module")
def model() -> Any:
    model: Any = st.load_model(stable_diffusion())
    return model.at(timesteps=[20, 100], n_draws=2)


@pytest.fixture(scope="module")
def acts(model: Any) -> xr.DataTree:
    return st.capture(model, pictures(), quantities=("query", "key", "value", "token"), progress=False)


@pytest.mark.parametrize(
    ("kind", "kernel"), [("qk", "softmax"), ("vv", "cosine"), ("qk", "rbf"), ("token", "shifted_cosine"), ("kk", None)]
)
@pytest.mark.parametrize("heads", ["mean", "each"])
def test_affinities_are_averaged_over_draws(kind: str, kernel: str | None, heads: str) -> None:
    tree = tree_of_draws([(3, 4), (2, 2)], special=1, bias=True)
    whole = st.affinity(tree, kind, kernel=kernel, heads=heads).to_dense(1)
    each = [
        st.affinity(one_draw(tree, t, n), kind, kernel=kernel, heads=heads).to_dense(1)
        for t in range(2)
        for n in range(3)
    ]
    assert list(whole) == list(each[0])
    for name, matrix in whole.items():
        np.testing.assert_allclose(matrix, np.mean([one[name] for one in each], axis=0), atol=1e-6)
        assert np.abs(matrix - each[0][name]).max() > 1e-3


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
@pytest.mark.parametrize("heads", ["mean", "each"])
def test_over_a_dataset_too(kernel: str, heads: str) -> None:
    tree = tree_of_draws([(3, 4), (2, 2)], images=3)
    options: dict[str, Any] = {"kernel": kernel, "heads": heads, "scope": "dataset"}
    options |= {"within": 3, "across": 4} if kernel == "knn" else {}
    whole = st.affinity(tree, "qk", **options).to_dense()
    each = [st.affinity(one_draw(tree, t, n), "qk", **options).to_dense() for t in range(2) for n in range(3)]
    for name, matrix in whole.items():
        np.testing.assert_allclose(matrix, np.mean([one[name] for one in each], axis=0), atol=1e-6)


def test_one_draw_is_selected_on_the_tree(acts: xr.DataTree, model: Any) -> None:
    layer = model.layers[0]
    selected: Any = acts.sel(timestep=100).isel(noise=1)
    assert selected[layer]["query"].dims == ("image", "head", "y", "x", "channel")
    late = acts.sel(timestep=[100])
    assert late[layer]["query"].sizes["timestep"] == 1
    by_hand = st.affinity(selected, "qk").to_dense(2)[layer]
    query, key = (selected[layer][name].isel(image=2).values.reshape(2, 64, -1) for name in ("query", "key"))
    scores = query @ key.swapaxes(1, 2) * acts[layer].attrs["scale"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mean = (weights / weights.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(by_hand, (mean + mean.T) / 2, atol=1e-5)


def test_the_untrained_control_sees_what_was_chosen(model: Any, acts: xr.DataTree) -> None:
    whole, _ = controls.untrained_tree(acts, model, 3)
    layer = model.layers[0]
    for chosen in (acts.sel(timestep=[100]), acts.sel(timestep=20).isel(noise=[1])):
        for told in (model, model.at(timesteps=[500], n_draws=1, seed=9)):
            found, _ = controls.untrained_tree(chosen, told, 3)
            assert found is not None
            assert whole is not None
            coordinates: Any = chosen.children[layer].coords
            steps, noise = np.atleast_1d(coordinates["timestep"].values), coordinates["noise"].values
            expected = whole.children[layer].dataset["query"].sel(timestep=steps, noise=noise)
            np.testing.assert_allclose(found.children[layer].dataset["query"], expected, atol=1e-5)


def test_through_a_store_and_back(model: Any, acts: xr.DataTree, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"quantities": ("query", "key", "value", "token"), "progress": False}
    stored = st.capture(model, pictures(), store=tmp_path / "a.zarr", **settings)
    assert stored.equals(acts)
    assert st.capture(model, pictures(), store=tmp_path / "a.zarr", **settings).identical(stored)
    opened = xr.open_datatree(tmp_path / "a.zarr", engine="zarr")
    assert opened[model.layers[0]].coords["timestep"].values.tolist() == [20, 100]
    with pytest.raises(st.errors.StoreError, match="timesteps is"):
        st.capture(model.at(timesteps=[20, 101]), pictures(), store=tmp_path / "a.zarr", **settings)
    with pytest.raises(st.errors.StoreError, match="prompt is"):
        st.capture(model.at(prompt="dog"), pictures(), store=tmp_path / "a.zarr", **settings)


def test_an_interrupted_capture_goes_on(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"quantities": "query", "progress": False, "batch_size": 1}
    whole = st.capture(model, pictures(), store=tmp_path / "whole.zarr", **settings)
    denoise, calls = type(model).denoise, []

    def stop(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:  # in the second picture
            raise KeyboardInterrupt
        return denoise(self, *args)

    monkeypatch.setattr(type(model), "denoise", stop)
    with pytest.raises(KeyboardInterrupt):
        st.capture(model, pictures(), store=tmp_path / "a.zarr", **settings)
    again = st.capture(model, pictures(), store=tmp_path / "a.zarr", **settings)
    assert again.identical(whole)
    assert len(calls) == 7 + 8


def test_bytes_are_known_beforehand(model: Any, acts: xr.DataTree) -> None:
    from spectral_toolkit._capture import estimate_bytes

    held = sum(array.nbytes for node in acts.subtree for array in node.data_vars.values())
    assert estimate_bytes(model, pictures(), quantities=("query", "key", "value", "token")) == held


def test_all_resolutions_in_one_solve(acts: xr.DataTree) -> None:
    graph = st.affinity(acts, "vv")
    assert {member.grid for member in graph.members} == {(8, 8), (4, 4), (2, 2)}
    eig = st.solve(graph, n_eigenvectors=4)
    assert eig["eigenvector"].sizes["y"] == 8
    assert bool(eig["converged"].all())
    assert bool((eig["layer_mass"] > 0).all())
    alone = st.solve(graph.reweight({name: float(name.startswith("mid")) for name in graph.layers}), n_eigenvectors=2)
    assert alone["eigenvector"].sizes["y"] == 2


def test_everything_that_reads_a_tree(acts: xr.DataTree, tmp_path: Path) -> None:
    graph = st.affinity(acts, "qk")
    eig = st.solve(graph, n_eigenvectors=3)
    assert isinstance(st.overlay(acts, eig), hv.core.Dimensioned)
    joint, rows = affinity_row(graph, (1, 2))
    assert joint.shape == (8, 8)
    assert len(rows) == len(graph.layers)
    assert st.segment(eig, n_segments=2).sizes["image"] == 3
    masks = outlying_masks(acts)
    assert masks[graph.layers[0]].dims == ("image", "y", "x")
    st.solve(st.affinity(acts, "qk", mask=masks), n_eigenvectors=2)
    st.save_bundle(tmp_path / "a.zip", acts, eigenvectors={"qk": eig})
    bundle = load_bundle(tmp_path / "a.zip")
    assert bundle.activations[graph.layers[0]]["query"].dims == acts[graph.layers[0]]["query"].dims
    page: Any = st.freeze(acts, n_eigenvectors=2).save(tmp_path / "page.html")
    assert Path(page).stat().st_size > 1000
    scores = st.pathways(acts, kinds="vv", n_eigenvectors=2, controls=False, progress=False, n_bootstrap=10)
    assert scores.sizes["layer"] == len(graph.layers) + 1


def test_in_the_explorer_and_the_report(model: Any, acts: xr.DataTree, tmp_path: Path) -> None:
    explorer = st.Explorer(acts)
    try:
        explorer.set(view="norms")
    finally:
        explorer.close()
    report = st.report(model.at(timesteps=20), pictures()[:1], tmp_path / "r.html", n_eigenvectors=2)
    assert "20" in Path(report).read_text()


def test_the_gradient_method_sees_every_draw() -> None:
    tree = tree_of_draws([(3, 4)], images=1)
    graph = st.affinity(tree, "vv")
    from spectral_toolkit.solvers.gradient import head_affinities

    assert head_affinities(graph, graph.members[0], slice(0, 1)).shape == (1, 12, 12, 12)


# --- resolutions and memory ------------------------------------------------------------------------------------------


def test_a_dataset_leaves_out_layers_of_more_than_32_by_32() -> None:
    tree = make_tree([(33, 32), (4, 4), (2, 2)], images=2, heads=1, channels=2)
    options: dict[str, Any] = {"scope": "dataset", "within": 2, "across": 2}
    graph = st.affinity(tree, "vv", **options)
    assert graph.weights == {"block.0": 0.0, "block.1": 1.0, "block.2": 1.0}
    assert "Layers of more than 1,024 patches are left out of the dataset, as in the source paper" in graph.notes[0]
    assert graph.notes[0].endswith("block.0.")
    eig = st.solve(graph, n_eigenvectors=2)
    assert eig["eigenvector"].sizes["y"] == 4
    assert "left out of the dataset" in eig.attrs["notes"]
    assert graph.reweight(None).weights == graph.weights
    for wanted in (
        graph.reweight({"block.0": 1.0}),
        st.affinity(tree, "vv", weights={"block.0": 1.0}, **options),
        st.affinity(tree, "vv", layers=["block.0", "block.1", "block.2"], **options),
    ):
        assert wanted.weights["block.0"] == 1
        assert not wanted.notes
    alone = st.affinity(make_tree([(33, 32)] * 2, images=2, heads=1, channels=2), "vv", **options)
    assert set(alone.weights.values()) == {1.0}
    assert set(st.affinity(tree, "vv").weights.values()) == {1.0}
    tree["block.0"].attrs |= {"depth": 0}
    scores = st.pathways(tree, kinds="vv", n_eigenvectors=1, controls=False, progress=False, n_bootstrap=5)
    assert scores.layer.values.tolist() == ["block.1", "block.2", "joint"]
    assert "are left out, as in the source paper" in scores.attrs["notes"]


def test_matrices_of_all_layers_stay_within_one_budget() -> None:
    """Beyond it the finest are recomputed in tiles, with the same answer, and the answer says so."""
    tree = tree_of_draws([(6, 5), (6, 5), (3, 4)], images=1, special=1)
    graph = st.affinity(tree, "qk", device="cpu")
    small = st.affinity(tree, "qk", device="cpu")
    small.cache_bytes = 4 * (30**2 + 12**2)
    assert [graph.is_dense(member) for member in graph.members] == [True] * 3
    assert [small.is_dense(member) for member in small.members] == [True, False, True]
    dense, tiled = (st.solve(one, n_eigenvectors=4) for one in (graph, small))
    np.testing.assert_allclose(tiled["eigenvalue"], dense["eigenvalue"], atol=1e-9)
    for name, matrix in graph.to_dense().items():
        np.testing.assert_allclose(small.to_dense()[name], matrix, atol=1e-12)
    assert "recomputed in tiles for every product, 1.1e+04 similarities each time" in tiled.attrs["notes"]
    assert small.cached_bytes <= small.cache_bytes


def test_no_matrix_of_a_head_is_formed_beyond_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of the softmax, row block by row block, against all heads written out."""
    from spectral_toolkit._affinity import operators

    monkeypatch.setattr(operators, "TILE_ELEMENTS", 7 * 30)
    largest: list[int] = []
    from spectral_toolkit._affinity.kernels import softmax

    slices = softmax.sum_over_slices
    monkeypatch.setattr(
        softmax,
        "sum_over_slices",
        lambda n, of_heads, **rest: slices(n, lambda heads: noted(of_heads(heads), largest), **rest),
    )
    tree: Any = tree_of_draws([(6, 5)], images=1, special=2, bias=True)
    node = tree["block.0"]
    query, key = (node[name].values.reshape(6, 2, 30, 4) for name in ("query", "key"))
    keys = np.concatenate([node["special_key"].values.reshape(6, 2, 2, 4), key], axis=2)
    scores = query @ keys.swapaxes(-1, -2) * 0.5 + node["attention_bias"].values[:, 2:]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mean = (weights / weights.sum(-1, keepdims=True))[..., 2:].mean((0, 1))
    graph = st.affinity(tree, "qk", device="cpu", dense_bytes=0)
    operator = graph.operators(graph.members[0], slice(0, 1))
    x = np.random.default_rng(0).normal(size=(1, 3, 30))
    product = operator.matmul(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(product, x[0] @ (mean + mean.T) / 2, atol=1e-12)
    assert max(largest) <= 7 * 30


def noted(tile: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    sizes.append(tile.numel())
    return tile


def test_the_gradient_method_says_what_it_would_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit.solvers import gradient

    monkeypatch.setattr(gradient, "MOST_BYTES", 1000)
    with pytest.raises(st.errors.SolverError, match=r"holds the matrix of every head, 6,912 bytes.*activations\.sel"):
        st.solve(st.affinity(tree_of_draws([(3, 4)], images=1), "vv"), n_eigenvectors=2, method="gradient")
