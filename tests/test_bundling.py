"""Bundles: what goes in comes out, and writing one harms nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bundle_fixtures import ANSWERS, FIRST, layer_of, members_of
from eigen_fixtures import LAYERS, activations, eigenvectors, pictures
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays

import spectral_toolkit as st
from spectral_toolkit._io.activations import patch_centres
from spectral_toolkit._io.bundles import containers
from spectral_toolkit.errors import ActivationsError, BundleError, SpectralToolkitError


def test_a_bundle_gives_back_what_was_saved(tmp_path: Path) -> None:
    tree = activations()
    for path in (tmp_path / "whole.zip", tmp_path / "folder"):
        st.save_bundle(path, tree, eigenvectors=ANSWERS, float16=False, only="all", settings={"kind": "vv", "n": 3})
        read = st.load_bundle(path)
        assert list(read.activations.children) == list(LAYERS)
        xr.testing.assert_identical(read.activations, tree)
        assert list(read.eigenvectors) == ["qk", "vv"]
        for key, eig in ANSWERS.items():
            xr.testing.assert_identical(read.eigenvectors[key], eig)
        assert read.settings == {"kind": "vv", "n": 3}
        assert read.provenance == tree.attrs
        assert read.pictures is not None
        assert np.array_equal(np.stack(list(read.pictures)), pictures())
        assert read.pictures.names == ("picture-0", "picture-1")
        assert read.written_by == f"spectral_toolkit {st.__version__}"
    assert repr(read) == "<Bundle: 2 images, 3 layers, eigenvectors: qk, vv>"


def test_half_precision_is_noted_and_undone(bundle: Path) -> None:
    tree, read = activations(), st.load_bundle(bundle).activations
    stored = json.loads(members_of(bundle)[f"{FIRST}/query/zarr.json"])
    assert (stored["data_type"], stored["attributes"]["original_dtype"]) == ("float16", "float32")
    for layer in LAYERS:
        query, rounded = tree[layer]["query"], read[layer]["query"]
        assert rounded.dtype == np.float32
        assert rounded.attrs == {}
        assert np.array_equal(rounded, query.astype(np.float16).astype(np.float32))
    assert read.attrs == {**tree.attrs, "rounded_to": "float16"}


def test_numbers_beyond_half_precision_stay_as_they_are(tmp_path: Path) -> None:
    tree = activations()
    layer_of(tree, LAYERS[1])["key"].values[0, 0, 0, 0, 0] = 1e5
    read = st.load_bundle(st.save_bundle(tmp_path / "large.zip", tree)).activations
    assert np.array_equal(read[LAYERS[1]]["key"], tree[LAYERS[1]]["key"])
    assert not np.array_equal(read[LAYERS[1]]["value"], tree[LAYERS[1]]["value"])


def test_only_what_affinities_are_made_of(tmp_path: Path) -> None:
    tree = activations()
    special = (("image", "head", "special", "channel"), np.ones((2, 2, 1, 4), np.float32))
    unrotated = tree[LAYERS[0]]["query"].variable
    extra = {"special_key": special, "special_value": special, "query_unrotated": unrotated}
    extra["attention_bias"] = (("head", "query_token", "key_token"), np.full((2, 33, 33), -np.inf, np.float32))
    tree[LAYERS[0]] = xr.DataTree(layer_of(tree, LAYERS[0]).assign(extra))
    for only, dropped in (("view", {"special_value"}), ("all", set())):
        read = st.load_bundle(st.save_bundle(tmp_path / f"{only}.zip", tree, only=only)).activations  # pyright: ignore[reportArgumentType]
        assert set(tree[LAYERS[0]].data_vars) - set(read[LAYERS[0]].data_vars) == dropped
        assert np.array_equal(read[LAYERS[0]]["attention_bias"], tree[LAYERS[0]]["attention_bias"])
        # The affinities are those of the whole tree, but for the rounding.
        ours, theirs = (st.affinity(one, "qk", device="cpu").to_dense()[LAYERS[1]] for one in (read, tree))
        assert np.abs(ours - theirs).max() < 1e-3


def test_original_pictures_are_kept_in_their_own_sizes(tmp_path: Path) -> None:
    tree = activations(names=("b", "a"))
    wide, tall = np.zeros((30, 90, 3), np.uint8), np.full((80, 20, 3), 9, np.uint8)
    originals = [xr.DataArray(p[None], dims=("image", "y_px", "x_px", "rgb"), coords={"image": [n]})
                 for n, p in (("a", tall), ("b", wide))]  # fmt: skip
    read = st.load_bundle(st.save_bundle(tmp_path / "x.zip", tree, images=originals, max_side=45))
    assert read.pictures is not None
    assert (read.pictures.names, read.pictures.sizes) == (("b", "a"), ((15, 45), (45, 11)))
    with pytest.raises(SpectralToolkitError, match="1 images were given .* for activations of 2 images"):
        st.save_bundle(tmp_path / "y.zip", tree, images=wide)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (st.save_bundle(tmp_path / name, activations(), eigenvectors=ANSWERS) for name in ("1.zip", "2.zip"))
    assert one.read_bytes() == two.read_bytes()


def test_a_folder_is_a_zarr_store_that_others_can_read(tmp_path: Path) -> None:
    path = st.save_bundle(tmp_path / "folder", activations(), float16=False)
    tree = xr.open_datatree(path, engine="zarr", group="activations", consolidated=False)
    assert np.array_equal(tree["layer_0002"]["value"], activations()[LAYERS[2]]["value"])


# Round trips of trees and names that nobody would think of.

NAMES = some.text("aB.<>&\"' é漢😀%:*?\\\n{}$", min_size=1, max_size=12)


@some.composite
def trees(draw: some.DrawFn) -> xr.DataTree:
    images = draw(some.lists(NAMES, min_size=1, max_size=3, unique=True))
    layers = draw(
        some.lists(
            NAMES.filter(lambda name: not {".", ".."} & set(name.split("\\"))), min_size=1, max_size=3, unique=True
        )
    )
    dtype = draw(some.sampled_from([np.float16, np.float32, np.float64]))
    children = {}
    for depth, layer in enumerate(layers):
        grid = draw(some.tuples(some.integers(1, 3), some.integers(1, 3)))
        values = draw(some_arrays.arrays(np.int16, (len(images), 2, *grid, 2), elements=some.integers(-999, 999)))
        node = xr.Dataset(
            {"value": (("image", "head", "y", "x", "channel"), values.astype(dtype) / 8)},
            coords={"y": patch_centres(grid[0]), "x": patch_centres(grid[1])},
            attrs={"depth": depth, "scale": 0.5},
        )
        children[layer] = xr.DataTree(node)
    attrs = {"model": draw(NAMES), "prompt": draw(some.text(some.characters(exclude_categories=("Cs",))))}
    return xr.DataTree(xr.Dataset(coords={"image": images}, attrs=attrs), children=children)


@given(trees(), some.booleans(), some.booleans())
@settings(max_examples=40)
def test_any_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tree: xr.DataTree, half: bool, one_file: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / ("x.zip" if one_file else "x")
    read = st.load_bundle(st.save_bundle(path, tree, float16=half)).activations
    # The numbers drawn are exact in half precision.
    read.attrs.pop("rounded_to", None)
    xr.testing.assert_identical(read, tree)
    assert list(read.children) == list(tree.children)


# Writing.


@pytest.mark.parametrize("name", ["x.zip", "x"])
def test_nothing_of_anybody_else_is_overwritten(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    st.save_bundle(path, activations())
    with pytest.raises(BundleError, match="exists already: give overwrite=True"):
        st.save_bundle(path, activations())
    st.save_bundle(path, activations(), float16=False, overwrite=True)
    assert st.load_bundle(path).activations.attrs == activations().attrs
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_foreign_files_folders_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    real = st.save_bundle(tmp_path / "real.zip", activations())
    (tmp_path / "link.zip").symlink_to(real)
    (tmp_path / "dangling.zip").symlink_to(tmp_path / "nowhere")
    kept = st.save_bundle(tmp_path / "kept", activations())
    (kept / "notes.txt").write_text("mine")
    for name in ("a.zip", "folder", "link.zip", "dangling.zip", "kept"):
        with pytest.raises(BundleError, match="is not a bundle written by spectral_toolkit.*nothing was touched"):
            st.save_bundle(tmp_path / name, activations(), overwrite=True)
    assert (tmp_path / "a.zip").read_text() == (kept / "notes.txt").read_text() == "mine"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.zip", "x"):
        path = st.save_bundle(tmp_path / name, activations())
        before = sorted(tmp_path.rglob("*"))

        def fail(place: Path, everything: Any) -> None:
            place.write_bytes(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr(containers, "_make_zip", fail)
        monkeypatch.setattr(containers, "_make_folder", fail)
        with pytest.raises(BundleError, match="cannot be written: .*No space left"):
            st.save_bundle(path, activations(), overwrite=True)
        monkeypatch.undo()
        assert sorted(tmp_path.rglob("*")) == before
        assert len(st.load_bundle(path).activations.children) == 3


def test_what_cannot_be_kept_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    broken = activations()
    layer_of(broken, LAYERS[0])["query"].values[0] = np.nan
    with pytest.raises(ActivationsError, match="query of layer .* holds NaN or infinity"):
        st.save_bundle(path, broken)
    with pytest.raises(ActivationsError, match="is for other images"):
        st.save_bundle(path, activations(names=("x", "y")), eigenvectors=ANSWERS)
    with pytest.raises(ActivationsError, match="lacks eigenvalue"):
        st.save_bundle(path, activations(), eigenvectors=eigenvectors().drop_vars("eigenvalue"))
    with pytest.raises(SpectralToolkitError, match="eigenvectors is a int"):
        st.save_bundle(path, activations(), eigenvectors=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpectralToolkitError, match="settings cannot be written as JSON"):
        st.save_bundle(path, activations(), settings={"f": np.pi, "g": object()})
    with pytest.raises(SpectralToolkitError, match="only='some' is not offered"):
        st.save_bundle(path, activations(), only="some")  # pyright: ignore[reportArgumentType]
    for name in ("..", ".", "a\\..\\b", "a" * 256, "é" * 128, "a\0b"):
        layers = {name: activations().children[LAYERS[0]]}
        with pytest.raises(ActivationsError, match="layers cannot be called"):
            st.save_bundle(path, xr.DataTree(activations().to_dataset(), children=layers))
    odd = activations()
    odd[LAYERS[0]] = xr.DataTree(layer_of(odd, LAYERS[0]).assign({"<b>": ("image", np.zeros(2))}))
    with pytest.raises(ActivationsError, match="cannot be the name of a variable"):
        st.save_bundle(path, odd, only="all")
    assert list(tmp_path.iterdir()) == []


def test_eight_scenes_of_the_bundled_model_are_below_20_megabytes(tmp_path: Path) -> None:
    acts = st.capture("scenes", st.scenes.sample(8, seed=0).pixels, quantities=("query", "key", "value", "token"),
                      progress=False)  # fmt: skip
    solved = {kind: st.solve(st.affinity(acts, kind, device="cpu")) for kind in ("qk", "vv")}
    path = st.save_bundle(tmp_path / "scenes.zip", acts, eigenvectors=solved)
    assert path.stat().st_size < 20e6
    read = st.load_bundle(path)
    again = st.solve(st.affinity(read.activations, "vv", device="cpu"))
    assert float(abs(again.eigenvalue - solved["vv"].eigenvalue).max()) < 1e-3
    xr.testing.assert_identical(read.eigenvectors["vv"].drop_attrs(), solved["vv"].drop_attrs())
