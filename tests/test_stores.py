"""Captures on disk: the same as in memory, resumable to the byte, and never at the cost of what is there already."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from model_zoo import BY_NAME, pictures
from torch.nn.utils import prune

import spectral_toolkit as st
from spectral_toolkit._capture import stores
from spectral_toolkit._models import load_model
from spectral_toolkit.errors import ActivationsError, StoreError

QUANTITIES = ("query", "key", "value", "token")
IMAGES = np.concatenate([pictures(), pictures()[:, ::-1]])[:5]


def run(name: str, path: Path | None, images: Any = IMAGES, **changes: Any) -> xr.DataTree:
    settings: dict[str, Any] = {"quantities": QUANTITIES, "batch_size": 2, "progress": False, **changes}
    return st.capture(BY_NAME[name].make(), images, store=path, **settings)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def interrupt(
    name: str, path: Path, at_batch: int, error: type[BaseException] = KeyboardInterrupt, **changes: Any
) -> None:
    """Start a capture that is cut short in the second layer of a batch."""
    module: Any = BY_NAME[name].make()
    calls = 0

    block = module.get_submodule(BY_NAME[name].layers[1])
    forward = block.forward

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at_batch:
            raise error("cut short")
        return forward(*args, **kwargs)

    block.forward = failing
    with pytest.raises(error, match="cut short"):
        st.capture(
            module, IMAGES, store=path, **{"quantities": QUANTITIES, "batch_size": 2, "progress": False, **changes}
        )


@pytest.mark.parametrize("name", ["vit", "dinov3", "beit", "siglip", "pixtral"])
def test_store_holds_what_memory_would(name: str, tmp_path: Path) -> None:
    in_memory, streamed = run(name, None), run(name, tmp_path / "a.zarr")
    xr.testing.assert_identical(streamed.load(), in_memory)
    assert list(streamed.children) == list(in_memory.children)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_datatree(tmp_path / "a.zarr", engine="zarr")
    assert not isinstance(opened["pixels"].variable._data, np.ndarray)  # lazily
    xr.testing.assert_identical(opened.load(), in_memory)


def test_captures_in_memory_go_through_zarr_unchanged(tmp_path: Path) -> None:
    acts = run("beit", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        acts.to_zarr(tmp_path / "b.zarr", consolidated=False)
    back = xr.open_datatree(tmp_path / "b.zarr", engine="zarr", consolidated=False)
    xr.testing.assert_identical(back.load(), acts)
    for node, other in zip(acts.subtree, back.subtree, strict=True):
        for key, array in node.data_vars.items():
            assert array.dtype == other[str(key)].dtype


def test_every_picture_has_files_of_its_own(tmp_path: Path) -> None:
    run("vit", tmp_path / "a.zarr")
    files = [name for name in contents(tmp_path / "a.zarr") if name.startswith("layers.1/query/c/")]
    assert files == [f"layers.1/query/c/{index}/0/0/0/0" for index in range(5)]


@pytest.mark.parametrize("name", ["vit", "beit", "pixtral"])
@pytest.mark.parametrize("at_batch", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_resumed_is_the_same_to_the_byte(name: str, at_batch: int, error: type[BaseException], tmp_path: Path) -> None:
    interrupt(name, tmp_path / "cut.zarr", at_batch, error)
    if at_batch == 2:  # and once more
        interrupt(name, tmp_path / "cut.zarr", 0, error)
    run(name, tmp_path / "cut.zarr")
    run(name, tmp_path / "whole.zarr")
    assert contents(tmp_path / "cut.zarr") == contents(tmp_path / "whole.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.zarr", "whole.zarr"]


def test_queries_before_the_rotation_are_streamed_and_resumed(tmp_path: Path) -> None:
    wanted: Any = {"quantities": ("key", "query_unrotated", "key_unrotated")}
    interrupt("dinov3", tmp_path / "cut.zarr", 1, **wanted)
    resumed = run("dinov3", tmp_path / "cut.zarr", **wanted)
    xr.testing.assert_identical(resumed.load(), run("dinov3", None, **wanted))
    assert "special_key_unrotated" in resumed["model.layer.1"]
    with pytest.raises(StoreError, match="quantities is"):
        run("dinov3", tmp_path / "cut.zarr", quantities=("key", "query"))


def test_resuming_computes_only_what_is_missing(tmp_path: Path) -> None:
    interrupt("vit", tmp_path / "a.zarr", 2)
    module: Any = BY_NAME["vit"].make()
    sizes: list[int] = []
    forward = module.layers[0].forward
    module.layers[0].forward = lambda x, *args, **kwargs: [sizes.append(len(x)), forward(x, *args, **kwargs)][1]
    st.capture(module, IMAGES, store=tmp_path / "a.zarr", quantities=QUANTITIES, batch_size=2, progress=False)
    assert sizes == [1]
    st.capture(module, IMAGES, store=tmp_path / "a.zarr", quantities=QUANTITIES, batch_size=2, progress=False)
    assert sizes == [1]


def test_a_batch_half_written_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short between two arrays of one batch, not within the model."""
    write, count = stores._write, 0

    def stop(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(stores, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        run("vit", tmp_path / "cut.zarr")
    monkeypatch.undo()
    run("vit", tmp_path / "cut.zarr")
    run("vit", tmp_path / "whole.zarr")
    assert contents(tmp_path / "cut.zarr") == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("step", ["create", "finish"])
def test_cut_short_while_making_or_ending_the_store(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    if step == "create":
        monkeypatch.setattr(stores, "_create_array", stop)
    else:
        monkeypatch.setattr(zarr, "consolidate_metadata", stop)
    with pytest.raises(KeyboardInterrupt):
        run("vit", tmp_path / "cut.zarr")
    monkeypatch.undo()
    assert (tmp_path / "cut.zarr").exists() == (step == "finish")
    run("vit", tmp_path / "cut.zarr")
    run("vit", tmp_path / "whole.zarr")
    assert contents(tmp_path / "cut.zarr") == contents(tmp_path / "whole.zarr")


def test_an_unfinished_store_shows_that_it_is(tmp_path: Path) -> None:
    interrupt("vit", tmp_path / "a.zarr", 1)
    opened = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False)
    assert opened["_progress"].to_numpy().tolist() == [1, 0, 0]
    assert np.isnan(opened["layers.0"]["query"].to_numpy()[2:]).all()


def test_a_picture_that_fails_leaves_the_store_resumable(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    forward = module.layers[1].forward
    module.layers[1].forward = lambda x, *args, **kwargs: forward(x * float("nan"), *args, **kwargs)
    settings: dict[str, Any] = {"quantities": QUANTITIES, "batch_size": 2, "progress": False}
    with pytest.raises(ActivationsError):
        st.capture(module, IMAGES, store=tmp_path / "a.zarr", **settings)
    module.layers[1].forward = forward
    acts = st.capture(module, IMAGES, store=tmp_path / "a.zarr", **settings)
    xr.testing.assert_identical(acts.load(), run("vit", None))


def test_all_zero_activations_are_stored_too(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    for parameter in module.parameters():
        parameter.data.zero_()
    settings: dict[str, Any] = {"store": tmp_path / "a.zarr", "progress": False}
    st.capture(module, np.zeros((2, 32, 32, 3), np.uint8), **settings)
    acts = st.capture(module, np.zeros((2, 32, 32, 3), np.uint8), **settings)
    assert (acts["layers.0"]["query"].to_numpy() == 0).all()


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "quantities": ({"quantities": ("query",)}, "quantities is"),
    "layers": ({"layers": 0}, "layers is"),
    "size": ({"size": (24, 40)}, r"image_size is \[32, 32\] there and \[24, 40\] here"),
    "batch_size": ({"batch_size": 3}, "batch_size is 2 there and 3 here"),
    "seed": ({"seed": 1}, "seed is 0 there and 1 here"),
    "pictures": ({"images": IMAGES[::-1]}, "a capture of other images"),
    "fewer pictures": ({"images": IMAGES[:4]}, "a capture of other images"),
    "names": (
        {"images": xr.DataArray(IMAGES, dims=("image", "y_px", "x_px", "rgb"), coords={"image": list("abcde")})},
        "another capture: names_sha256 is",
    ),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "begun"])
@pytest.mark.parametrize("what", OTHERS)
def test_another_capture_is_refused_naming_the_difference(what: str, finished: bool, tmp_path: Path) -> None:
    if finished:
        run("vit", tmp_path / "a.zarr")
    else:
        interrupt("vit", tmp_path / "a.zarr", 1)
    changes, message = OTHERS[what]
    before = contents(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=message):
        run("vit", tmp_path / "a.zarr", **changes)
    assert contents(tmp_path / "a.zarr") == before


def test_other_weights_precision_and_normalisation_are_refused(tmp_path: Path) -> None:
    run("vit", tmp_path / "a.zarr")
    module: Any = BY_NAME["vit"].make()
    settings: dict[str, Any] = {
        "store": tmp_path / "a.zarr",
        "quantities": QUANTITIES,
        "batch_size": 2,
        "progress": False,
    }
    with pytest.raises(
        StoreError, match=r"processor\.mean is \[0\.5, 0\.5, 0\.5\] there and \[0\.1, 0\.2, 0\.3\] here"
    ):
        st.capture(load_model(module, processor={"image_mean": [0.1, 0.2, 0.3]}), IMAGES, **settings)
    with torch.no_grad():
        module.layers[0].mlp.fc1.weight[0, 0] += 1e-3
    with pytest.raises(StoreError, match="weights_sha256 is"):
        st.capture(module, IMAGES, **settings)
    with pytest.raises(StoreError, match="dtype is float32 there and float64 here"):
        st.capture(module.double(), IMAGES, **settings)


def test_other_configurations_are_refused_whatever_their_weights(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    settings: dict[str, Any] = {"store": tmp_path / "a.zarr", "progress": False}
    st.capture(module, IMAGES, **settings)
    for change in ({"hidden_act": "relu"}, {"layer_norm_eps": 0.5}, {"num_attention_heads": 2}):
        other = type(module)(type(module.config)(**{**module.config.to_dict(), **change})).eval()
        other.load_state_dict(module.state_dict())
        with pytest.raises(StoreError, match="holds another capture: config_sha256 is"):
            st.capture(other, IMAGES, **settings)


def test_hash_of_the_configuration_stays_when_nothing_that_computes_changes(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    before = load_model(module).config_sha256()
    module.save_pretrained(tmp_path / "m")
    assert load_model(str(tmp_path / "m"), dtype="float64").config_sha256() == before
    module.set_attn_implementation("eager")
    st.capture(module, IMAGES, progress=False)
    assert load_model(module).config_sha256() == before


def test_hooks_on_the_model_are_never_taken_for_the_same(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    settings: dict[str, Any] = {"progress": False}
    st.capture(module, IMAGES, store=tmp_path / "plain.zarr", **settings)
    module.layers[0].register_forward_hook(lambda part, args, output: output * 0)
    with pytest.raises(StoreError, match="user_hooks is 0 there and 1 here"):
        st.capture(module, IMAGES, store=tmp_path / "plain.zarr", **settings)
    assert st.capture(module, IMAGES, store=tmp_path / "hooked.zarr", **settings).attrs["user_hooks"] == 1
    with pytest.raises(StoreError, match="was made with forward hooks on the model"):
        st.capture(module, IMAGES, store=tmp_path / "hooked.zarr", **settings)


def test_hooks_of_the_libraries_are_no_difference(tmp_path: Path) -> None:
    module: Any = BY_NAME["vit"].make()
    prune.random_unstructured(module.layers[0].attention.q_proj, "weight", 0.5)
    st.capture(module, IMAGES, store=tmp_path / "a.zarr", progress=False)
    module(torch.zeros(1, 3, 32, 32), output_hidden_states=True)
    again = st.capture(module, IMAGES, store=tmp_path / "a.zarr", progress=False)
    assert again.attrs["user_hooks"] == 0


def test_other_library_versions_matter_only_while_it_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt("vit", tmp_path / "begun.zarr", 1)
    run("vit", tmp_path / "finished.zarr")
    monkeypatch.setattr("spectral_toolkit._capture.plan._versions", lambda libraries: "99")
    run("vit", tmp_path / "finished.zarr")
    with pytest.raises(StoreError, match="versions is"):
        run("vit", tmp_path / "begun.zarr")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "chunk cut short": lambda store: _cut(store / "layers.0/key/c/1/0/0/0/0"),
    "chunk with a flipped bit": lambda store: _flip(store / "layers.1/special_value/c/0/0/0/0"),
    "pixels with a flipped bit": lambda store: _flip(store / "pixels/c/0/0/0/0"),
    "chunk missing": lambda store: (store / "layers.0/token/c/1/0/0/0").unlink(),
    "array missing": lambda store: shutil.rmtree(store / "layers.1/value"),
    "layer missing": lambda store: shutil.rmtree(store / "layers.1"),
    "names missing": lambda store: shutil.rmtree(store / "image"),
    "names without their chunk": lambda store: shutil.rmtree(store / "image/c"),
    "widths without their chunk": lambda store: shutil.rmtree(store / "original_width/c"),
    "widths cut short": lambda store: _cut(store / "original_width/c/0"),
    "places without their chunk": lambda store: shutil.rmtree(store / "layers.1/x/c"),
    "root cut short": lambda store: _cut(store / "zarr.json"),
    "root empty": lambda store: (store / "zarr.json").write_text(""),
    "array metadata cut short": lambda store: _cut(store / "layers.0/query/zarr.json"),
    "layer metadata cut short": lambda store: _cut(store / "layers.1/zarr.json"),
    "array of another shape": lambda store: _edit(store / "pixels/zarr.json", lambda m: m.update(shape=[4, 32, 32, 3])),
    "no scale": lambda store: _edit(store / "layers.0/zarr.json", lambda m: m["attributes"].pop("scale")),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "begun"])
@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_and_left_alone(what: str, finished: bool, tmp_path: Path) -> None:
    if finished:
        run("vit", tmp_path / "a.zarr")
    else:
        interrupt("vit", tmp_path / "a.zarr", 1)
    DAMAGE[what](tmp_path / "a.zarr")
    before = contents(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="nothing was touched"):
        run("vit", tmp_path / "a.zarr")
    assert contents(tmp_path / "a.zarr") == before


def test_two_captures_into_one_store_both_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand, not by torchrun: the quicker one has finished the store when the slower one reports."""
    write, batches = stores._write, []

    def overtaken(root: zarr.Group, name: str, *rest: Any) -> None:
        if name == stores._PROGRESS and not batches:
            batches.append(name)
            run("vit", tmp_path / "a.zarr")
        write(root, name, *rest)

    monkeypatch.setattr(stores, "_write", overtaken)
    slower = run("vit", tmp_path / "a.zarr")
    xr.testing.assert_identical(slower.load(), run("vit", None))
    assert not stores.is_unfinished(tmp_path / "a.zarr")


def test_only_part_of_a_large_store_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("vit", tmp_path / "a.zarr")
    monkeypatch.setattr(stores, "_CHECKED_BYTES", 1)
    _flip(tmp_path / "a.zarr/layers.1/special_value/c/0/0/0/0")
    acts = run("vit", tmp_path / "a.zarr")  # every size is right, and few checksums are compared
    with pytest.raises(ValueError, match="checksum"):  # but what is damaged is never read as numbers
        acts["layers.1"]["special_value"].to_numpy()
    _cut(tmp_path / "a.zarr/layers.0/key/c/1/0/0/0/0")
    with pytest.raises(StoreError, match=r"has .* bytes, expected"):
        run("vit", tmp_path / "a.zarr")


def _foreign_zarr(path: Path) -> None:
    zarr.open_group(path, mode="w").attrs["mine"] = True


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "file": lambda path: path.write_text("precious"),
    "folder of something else": lambda path: (path.mkdir(), (path / "thesis.tex").write_text("precious")),
    "somebody's zarr": _foreign_zarr,
    "zarr of version 2": lambda path: zarr.open_group(path, mode="w", zarr_format=2),
    "a Dataset": lambda path: xr.Dataset({"a": ("x", [1.0])}).to_zarr(path, consolidated=False),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ours_is_refused_and_left_alone(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    FOREIGN[what](path)
    before = contents(tmp_path)
    with pytest.raises(
        StoreError, match=r"is not a store of activations written by spectral_toolkit.*nothing was touched"
    ):
        run("vit", path)
    assert contents(tmp_path) == before


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run("vit", tmp_path / "empty")
    run("vit", tmp_path / "new" / "folder" / "a.zarr")
    assert contents(tmp_path / "empty") == contents(tmp_path / "new" / "folder" / "a.zarr")
