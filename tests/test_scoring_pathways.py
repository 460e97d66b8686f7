"""Where and what of whole captures: planted answers, rows against single solves, controls and intervals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from model_zoo import BY_NAME, pictures
from test_scoring_scores import slow_shares
from transformers import ViTConfig, ViTModel

import spectral_toolkit as st
from spectral_toolkit._affinity import dataset_graph
from spectral_toolkit._analysis.scores import controls, paths
from spectral_toolkit._analysis.scores.results import eigenvector_scores
from spectral_toolkit.errors import SpectralToolkitError

QUICK = {"progress": False, "device": "cpu", "n_bootstrap": 20}


def planted(n_images: int = 8, side: int = 4, seed: int = 0) -> tuple[xr.DataTree, np.ndarray]:
    """Queries and keys that hold position, values that hold category; the second layer has half the cells a side."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (n_images, side, side))
    layers = {}
    for depth, step in enumerate((1, 2)):
        cells = labels[:, ::step, ::step]
        size = side // step
        centre = (np.arange(size) + 0.5) / size
        place = np.stack(np.broadcast_arrays(np.sin(2 * centre)[:, None], np.cos(2 * centre)[None, :], 1.0), -1)
        where = np.broadcast_to(place, (n_images, size, size, 3)) + 0.02 * rng.normal(size=(n_images, size, size, 3))
        what = np.eye(3)[cells] + 0.05 * rng.normal(size=(n_images, size, size, 3))
        dims = ("image", "head", "y", "x", "channel")
        layers[f"block.{depth}"] = xr.Dataset(
            {name: (dims, array[:, None]) for name, array in (("query", where), ("key", where), ("value", what))},
            attrs={"depth": depth, "scale": 1.0},
        )
    pixels = rng.integers(0, 255, (n_images, 4 * side, 4 * side, 3)).astype(np.uint8)
    root = xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), pixels)})
    return xr.DataTree.from_dict({"/": root, **layers}), np.kron(labels, np.ones((4, 4), int))


@pytest.fixture(scope="module")
def scored() -> tuple[xr.DataTree, np.ndarray, xr.Dataset]:
    acts, labels = planted()
    return acts, labels, st.pathways(acts, labels, n_eigenvectors=2, **QUICK)


def test_planted_position_and_category_are_found(scored: tuple[xr.DataTree, np.ndarray, xr.Dataset]) -> None:
    found = scored[2].sel(layer=["block.0", "joint"])
    assert (found["where"].sel(kind="qk") > 0.8).all()
    assert (found["where"].sel(kind="vv") < 0.1).all()
    assert (found.what.sel(kind="vv") > 0.6).all()
    assert (found.what.sel(kind="qk") < 0.1).all()
    assert float(found.matched_miou.sel(kind="vv", layer="block.0")) > 0.9
    assert float(scored[2].what.sel(kind="vv", layer="shuffled labels")) < 0.2


def test_rows_columns_and_intervals(scored: tuple[xr.DataTree, np.ndarray, xr.Dataset]) -> None:
    found = scored[2]
    rows = ["block.0", "block.1", "joint", "raw pixels", "untrained model", "shuffled labels"]
    assert found.layer.values.tolist() == rows
    assert found.role.values.tolist() == ["layer", "layer", "joint", "control", "control", "control"]
    assert "model= was not given" in found.attrs["notes"]
    assert found.attrs["kernel"] == "knn"
    for name in st.scores.SCORES:
        scores, low, high = found[name], found[f"{name}_low"], found[f"{name}_high"]
        assert scores.dims == ("kind", "layer")
        assert scores.sel(layer="untrained model").isnull().all()
        known = found.layer != "untrained model"
        assert ((low <= scores + 1e-12) & (scores <= high + 1e-12)).where(known, True).all(), name
        assert (scores.sel(layer="raw pixels") == scores.sel(layer="raw pixels")[0]).all()


def test_rows_are_those_of_single_solves(scored: tuple[xr.DataTree, np.ndarray, xr.Dataset]) -> None:
    acts, labels, found = scored
    cells = st.prepare_labels(acts, labels).values.reshape(8, -1)
    for row, layers in (("block.1", ["block.1"]), ("joint", "all")):
        graph = st.affinity(acts, "vv", scope="dataset", layers=layers, device="cpu")
        eig = st.solve(graph, 2, grid=(4, 4))
        vectors = eig.eigenvector.transpose("image", "y", "x", "component").values.reshape(8, 16, 2)
        for name, value in slow_shares(vectors, cells, (4, 4), list(range(8))).items():
            assert float(found[name].sel(kind="vv", layer=row)) == pytest.approx(value, abs=1e-4), (row, name)


def test_neighbours_are_searched_once_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, nearest = [], dataset_graph.nearest
    monkeypatch.setattr(dataset_graph, "nearest", lambda *a, **k: calls.append(1) or nearest(*a, **k))
    acts, _ = planted(4)
    found = st.pathways(acts, kinds="vv", n_eigenvectors=2, controls=False, **QUICK)
    assert len(calls) == 2
    assert {str(name) for name in found.data_vars if not str(name).endswith(("_low", "_high"))} == {
        "where_plain",
        "image_share",
        "r2_position",
    }


def test_the_same_seed_gives_the_same_numbers() -> None:
    acts, labels = planted(4)
    first, second = (st.pathways(acts, labels, kinds="vv", n_eigenvectors=2, controls=False, **QUICK) for _ in range(2))
    assert first.equals(second)


def test_untrained_model_is_of_the_same_make_and_leaves_the_trained_one_alone() -> None:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    )
    model = st.load_model(ViTModel(config))
    before = model.weights_sha256()
    pictures = st.scenes.sample(3, seed=1, size=32)
    acts = st.capture(model, pictures.pixels, progress=False)
    fresh, note = controls.untrained_tree(acts, model, 5)
    again, _ = controls.untrained_tree(acts, model, 5)
    assert fresh is not None
    assert again is not None
    assert "weights drawn from seed 5" in note
    assert model.weights_sha256() == before
    assert fresh.attrs["weights_sha256"] != before
    assert fresh["layers.1"].dataset.equals(again["layers.1"].dataset)
    assert fresh.attrs["processor"] == acts.attrs["processor"]
    found = st.pathways(acts, pictures.label, kinds="qk", model=model, n_eigenvectors=2, **QUICK)
    assert np.isfinite(found["where"].sel(layer="untrained model")).all()
    with pytest.raises(SpectralToolkitError, match=r"has no layer 'block\.0'"):
        controls.untrained_tree(planted(2)[0], model, 0)


def test_before_the_rotation_it_is_scored_and_controlled_too() -> None:
    module = BY_NAME["dinov3"].make()
    pictures = st.scenes.sample(3, seed=1, size=32)
    wanted = ("query", "key", "query_unrotated", "key_unrotated")
    acts = st.capture(module, pictures.pixels, quantities=wanted, progress=False)
    fresh, _ = controls.untrained_tree(acts, st.load_model(module), 0)
    assert fresh is not None
    assert set(fresh["model.layer.1"].data_vars) == set(acts["model.layer.1"].data_vars)
    found = st.pathways(acts, pictures.label, kinds=("qk", "qk_unrotated"), model=module, n_eigenvectors=2, **QUICK)
    assert np.isfinite(found["where"]).all()
    differ = found["where"].sel(kind="qk") != found["where"].sel(kind="qk_unrotated")
    assert differ.sel(layer=["joint", "untrained model"]).all()
    assert not differ.sel(layer="raw pixels")
    without = st.capture(module, pictures.pixels, quantities=("query", "key"), progress=False)
    with pytest.raises(st.errors.ActivationsError, match=r"'qk_unrotated' needs 'query_unrotated' of layer .* rotary"):
        st.pathways(without, kinds=("qk", "qk_unrotated"), **QUICK)


def test_a_tree_of_nothing_but_unrotated_queries_and_keys() -> None:
    acts = st.capture(
        BY_NAME["pixtral"].make(), pictures(), quantities=("query_unrotated", "key_unrotated"), progress=False
    )
    assert st.affinity(acts, "qk_unrotated", scope="dataset").layers == BY_NAME["pixtral"].layers


def test_pixels_of_patches_and_labels_of_others() -> None:
    acts, _ = planted(3)
    token = controls.pixel_tree(acts, (4, 4)).children["pixels"].dataset["token"].values
    patch = acts.dataset["pixels"].values[2, 4:8, 8:12]
    assert token[2, 1, 2] == pytest.approx(patch.ravel() / 127.5 - 1, abs=1e-6)
    for n in (2, 3, 7):
        mixed = controls.shuffled(np.arange(n)[:, None], n)[:, 0]
        assert sorted(mixed) == list(range(n))
        assert (mixed != np.arange(n)).all()


def test_labels_of_an_answer_that_is_there_are_of_its_images() -> None:
    acts, labels = planted(4)
    eig = st.solve(st.affinity(acts, "vv", scope="dataset", device="cpu"), 2)
    cells = st.prepare_labels(acts, labels)
    found = eigenvector_scores(eig, cells, n_bootstrap=5)
    assert eigenvector_scores(eig, cells.assign_coords(image=list("abcd")), n_bootstrap=5).identical(found)
    with pytest.raises(SpectralToolkitError, match="labels name other images than the result"):
        eigenvector_scores(eig, cells.isel(image=[1, 0, 2, 3]), n_bootstrap=5)


def test_a_row_is_what_the_scores_of_its_result_are() -> None:
    acts, labels = planted(4)
    found = st.pathways(acts, labels, kinds="vv", n_eigenvectors=2, **QUICK)
    graph = st.affinity(acts, "vv", scope="dataset", device="cpu")
    alone = graph.reweight({layer: float(layer == graph.layers[0]) for layer in graph.layers})
    own = st.prepare_labels(acts, labels)
    others = controls.shuffle_labels(own)
    for row, one, of in (("joint", graph, own), (graph.layers[0], alone, own), ("shuffled labels", graph, others)):
        scores = eigenvector_scores(st.solve(one, 2), of, n_bootstrap=QUICK["n_bootstrap"])
        xr.testing.assert_allclose(
            found.sel(kind="vv", layer=row)[list(scores)].drop_vars(["kind", "layer", "role"]), scores
        )


def test_intervals_hold_the_estimate() -> None:
    low, high = paths.interval(np.array([0.1, 0.3, 0.4, 0.5, np.nan]), 0.9, 0.0, 1.0)
    assert (low, high) == pytest.approx((0.01, 0.19))
    assert np.isnan(paths.interval(np.array([0.1, np.nan]), 0.9, 0.0, 1.0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": "qv"}, "kinds=.* is not understood"),
        ({"kinds": ()}, "kinds=.* is not understood"),
        ({"n_bootstrap": 0}, "n_bootstrap=0 is out of range"),
        ({"confidence": 1.0}, "confidence=1.0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"labels": np.full((2, 16, 16), -1)}, "labels are ignored"),
    ],
)
def test_what_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        st.pathways(planted(2)[0], **{"n_bootstrap": 2, **arguments})


def test_one_image_is_refused() -> None:
    acts, _ = planted(1)
    with pytest.raises(st.errors.ActivationsError, match="the activations hold 1"):
        st.pathways(acts)


def test_without_pixels_their_row_is_empty_and_a_note_says_why() -> None:
    acts, labels = planted(4)
    bare = xr.DataTree.from_dict({name: node.dataset for name, node in acts.children.items()})
    labels = st.prepare_labels(acts, labels, grid=(4, 4)).values
    found = st.pathways(bare, labels, kinds="vv", n_eigenvectors=2, **QUICK)
    assert "no row 'raw pixels'" in found.attrs["notes"]
    assert found["where"].sel(layer="raw pixels").isnull().all()
    assert found["where"].sel(layer="joint").notnull().all()


def test_intervals_from_few_images_are_said_to_be_narrow_and_from_two_there_are_none() -> None:
    acts, labels = planted(2)
    found = st.pathways(acts, labels, kinds="vv", n_eigenvectors=2, controls=False, **QUICK)
    assert "no intervals" in found.attrs["notes"]
    assert found["where_low"].isnull().all()
    assert found["where"].notnull().all()
    few = eigenvector_scores(
        st.solve(st.affinity(planted(5)[0], "vv", scope="dataset", device="cpu"), 2), n_bootstrap=20
    )
    assert "Intervals from 5 images are too narrow" in few.attrs["notes"]
    assert np.isfinite(few["where_plain_low"])
