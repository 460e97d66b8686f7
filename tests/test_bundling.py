"""Bundles: what goes in comes out; what is damaged or hostile is refused with a sentence, and nothing is executed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import LAYERS, activations, eigenvectors, pictures
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays

import spectral_toolkit as st
from spectral_toolkit.activations import patch_centres
from spectral_toolkit.bundling import containers
from spectral_toolkit.bundling.containers import MANIFEST
from spectral_toolkit.errors import ActivationsError, BundleError, SpectralToolkitError

ANSWERS = {"qk": eigenvectors("qk"), "vv": eigenvectors("vv")}
FIRST = "activations/layer_0000"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.zip"
    return st.save_bundle(path, activations(), eigenvectors=ANSWERS).read_bytes()


@pytest.fixture
def bundle(tmp_path: Path, good: bytes) -> Path:
    (tmp_path / "good.zip").write_bytes(good)
    return tmp_path / "good.zip"


def layer_of(tree: xr.DataTree, layer: str) -> xr.Dataset:
    return tree.children[layer].to_dataset(inherit=False)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, members: dict[str, bytes], *, honest: bool = True) -> Path:
    """The members as a zip; ``honest`` gives the manifest the hashes that its author could have given it."""
    if honest:
        manifest = json.loads(members[MANIFEST])
        manifest["files"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != MANIFEST
        }
        members = {**members, MANIFEST: json.dumps(manifest).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


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
    with pytest.raises(SpectralToolkitError, match="1 pictures were given for activations of 2 images"):
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
    layers = draw(some.lists(NAMES, min_size=1, max_size=3, unique=True))
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


# What is refused when it is read.

Edit = Callable[[dict[str, bytes]], Any]


def edited(name: str, **changes: Any) -> Edit:
    """Change entries of one JSON file; a dotted key reaches below."""

    def edit(members: dict[str, bytes]) -> None:
        whole = json.loads(members[name])
        for key, value in changes.items():
            place = whole
            *above, last = key.split("__")
            for part in above:
                place = place[part]
            place[last] = value
        members[name] = json.dumps(whole).encode()

    return edit


def crc32c(data: bytes) -> int:
    """The checksum that zarr writes after a chunk, bit by bit."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    rest = 0xFFFFFFFF
    for byte in data:
        rest = table[(rest ^ byte) & 255] ^ rest >> 8
    return rest ^ 0xFFFFFFFF


def replaced(node: str, values: np.ndarray) -> Edit:
    """Other numbers, with metadata and checksum that fit them."""

    def edit(members: dict[str, bytes]) -> None:
        metadata = json.loads(members[f"{node}/zarr.json"])
        metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(values.shape)
        metadata["data_type"] = str(values.dtype)
        if values.dtype.kind != "f":
            metadata["fill_value"] = 0
        members[f"{node}/zarr.json"] = json.dumps(metadata).encode()
        data = np.ascontiguousarray(values).tobytes()
        checksum = struct.pack("<I", crc32c(data))
        for name in [name for name in members if name.startswith(f"{node}/c")]:
            members[name] = data + checksum

    return edit


def without(prefix: str) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        for name in [name for name in members if name.startswith(prefix)]:
            del members[name]

    return edit


def put(name: str, data: bytes) -> Edit:
    return lambda members: members.update({name: data})


QUERY = f"{FIRST}/query/zarr.json"
EIG = "eigenvectors/answer_0000"
SHAPE = (2, 2, 4, 8, 4)
PICKLED = [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
OBJECTS = {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**31 - 4}}
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000

HONEST: dict[str, tuple[Edit, str]] = {
    # Made by somebody who can compute hashes.
    "later version": (edited(MANIFEST, version=2), "has version 2, and this spectral_toolkit reads up to 1: install"),
    "version is text": (edited(MANIFEST, version="1"), "version '1' is no number"),
    "another format": (edited(MANIFEST, format="zip of cats"), "is not a bundle: its bundle.json does not say so"),
    "manifest is no JSON": (lambda members: members, ""),  # replaced below: hashes would need a manifest
    "pickle codec": (edited(QUERY, codecs=PICKLED), "is coded by .*pickle"),
    "zstd could swell": (edited(QUERY, codecs=[{"name": "bytes"}, {"name": "zstd"}]), "is coded by .*zstd"),
    "sharding": (edited(QUERY, codecs=[{"name": "sharding_indexed"}]), "is coded by .*sharding"),
    "object array": (edited(QUERY, data_type="object"), "has type object, which bundles do not hold"),
    "variable text": (edited(QUERY, data_type="string"), "has type string, which bundles do not hold"),
    "complex": (edited(QUERY, data_type="complex64"), "has type complex64, which bundles do not hold"),
    "huge text": (edited(f"{FIRST}/y/zarr.json", data_type=OBJECTS), "which bundles do not hold"),
    "huge shape": (edited(QUERY, shape=[2**40, 1, 1, 1, 1]), "has shape"),
    "large shape, small file": (
        edited(QUERY, shape=[9**6, *SHAPE[1:]], chunk_grid__configuration__chunk_shape=[9**6, *SHAPE[1:]]),
        "its shape and type need 272097796",
    ),
    "negative shape": (edited(QUERY, shape=[-2, *SHAPE[1:]]), "has shape"),
    "many dimensions": (edited(QUERY, shape=[1] * 64), "has shape"),
    "several chunks": (edited(QUERY, chunk_grid__configuration__chunk_shape=[1, *SHAPE[1:]]), "is not one chunk"),
    "storage transformer": (edited(QUERY, storage_transformers=[{"name": "x"}]), "holds more than a bundle needs"),
    "must_understand": (edited(QUERY, extension={"must_understand": True}), "holds more than a bundle needs"),
    "zarr 2": (edited(QUERY, zarr_format=2), "is not metadata of zarr 3"),
    "odd node": (edited(QUERY, node_type="code"), "is neither an array nor a group"),
    "odd dimension": (edited(QUERY, dimension_names=["<b>", "head", "y", "x", "channel"]), "names its dimensions"),
    "dimension names are none": (edited(QUERY, dimension_names=None), "names its dimensions"),
    "deep JSON": (put(QUERY, DEEP), "nested too deeply"),
    "JSON with NaN": (put(QUERY, b'{"zarr_format": NaN}'), "JSON has no NaN"),
    "a key twice": (put(QUERY, b'{"zarr_format": 3, "zarr_format": 3}'), "names a key twice"),
    "stray file": (put("activations/run_me", b"import os"), "activations/run_me belongs to no array"),
    "missing chunk": (without(f"{FIRST}/query/c"), "c/0/0/0/0/0 is missing"),
    "missing layer": (without(f"{FIRST}/"), "activations/layer_0000 is missing"),
    "missing pixels": (without("activations/pixels"), ""),  # nothing requires them; read below
    "missing activations": (without("activations/"), "it holds no activations"),
    "missing quantities": (
        lambda members: [without(f"{FIRST}/{name}/")(members) for name in ("query", "key", "value")],
        "a layer holds no queries, keys, values or tokens",
    ),
    "missing eigenvalue": (without(f"{EIG}/eigenvalue/"), "the answer 'qk' lacks eigenvalue"),
    "missing answer": (without(f"{EIG}/"), "answer_0000 is missing"),
    "NaN": (replaced(f"{FIRST}/query", np.full(SHAPE, np.nan, np.float16)), "query of layer .* holds NaN or infinity"),
    "infinity": (replaced(f"{FIRST}/key", np.full(SHAPE, np.inf, np.float16)), "key of layer .* holds NaN or infinity"),
    "NaN eigenvectors": (
        replaced(f"{EIG}/eigenvector", np.full((2, 4, 8, 4), np.nan)),
        "eigenvector of the answer 'qk' holds NaN or infinity",
    ),
    "NaN eigenvalue": (
        replaced(f"{EIG}/eigenvalue", np.full((2, 4), np.nan)),
        "eigenvalue of the answer .* holds NaN",
    ),
    "wrong shape": (replaced(f"{FIRST}/query", np.zeros((2, 2, 4, 7, 4), np.float32)), "cannot be used"),
    "wrong number of images": (replaced(f"{EIG}/eigenvector", np.zeros((3, 4, 8, 4))), "cannot be used"),
    "pixels are floats": (replaced("activations/pixels", np.zeros((2, 40, 80, 3), np.float32)), "pixels are float32"),
    "pixels have four colours": (
        replaced("activations/pixels", np.zeros((2, 40, 80, 4), np.uint8)),
        "pixels are uint8",
    ),
    "patch centres elsewhere": (replaced(f"{FIRST}/y", np.array([0.0, 5.0, 6.0, 7.0])), "is not that of 4 equal cells"),
    "components not numbered": (replaced(f"{EIG}/component", np.zeros(4)), "components of the answer 'qk' are not"),
    "components alike": (replaced(f"{EIG}/component", np.ones(4, np.int64)), "components of the answer 'qk' are not"),
    "scale is text": (edited(f"{FIRST}/zarr.json", attributes__scale="os.system('x')"), "expected a number"),
    "weights are no list": (
        edited(f"{EIG}/zarr.json", attributes__weights="__import__('os')"),
        "weights .* no list",
    ),
    "attributes are a list": (edited(f"{FIRST}/zarr.json", attributes=[]), "attributes that are no mapping"),
    "layers twice": (edited(MANIFEST, layers=[LAYERS[0]] * 3), "layers cannot be called"),
    "layer with a slash": (edited(MANIFEST, layers=["../x", *LAYERS[1:]]), "layers cannot be called"),
    "layers are numbers": (edited(MANIFEST, layers=[1, 2, 3]), "layers are no list of names"),
    "half a character": (edited(MANIFEST, layers=["\ud800", *LAYERS[1:]]), "cannot be used"),
    "settings are a list": (edited(MANIFEST, settings=[1]), "the settings are no mapping"),
    "pictures of others": (edited(MANIFEST, pictures=["x"]), "picture_0000 is missing"),
    "original type invented": (edited(QUERY, attributes__original_dtype="object"), "says it was 'object'"),
    "time units": (edited(QUERY, attributes__units="days since 0000-00-00"), ""),  # means nothing here; read below
}
HARMLESS = {"missing pixels", "time units", "manifest is no JSON"}


@pytest.mark.parametrize("case", [case for case in HONEST if case not in HARMLESS])
def test_damaged_or_hostile_content_is_refused(bundle: Path, tmp_path: Path, case: str) -> None:
    edit, message = HONEST[case]
    members = members_of(bundle)
    edit(members)
    with pytest.raises(BundleError, match=f"(?s)bad.zip.*({message})") as raised:
        st.load_bundle(rewritten(tmp_path / "bad.zip", members))
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", sorted(HARMLESS))
def test_the_cases_are_not_refused_for_another_reason(bundle: Path, tmp_path: Path, case: str) -> None:
    members = members_of(bundle)
    HONEST[case][0](members)
    assert list(st.load_bundle(rewritten(tmp_path / "fine.zip", members)).eigenvectors) == ["qk", "vv"]


def test_a_bundle_without_pixels_has_no_pictures(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    without("activations/pixels")(members)
    assert st.load_bundle(rewritten(tmp_path / "fine.zip", members)).pictures is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(MANIFEST, b"\x80\x04."), "bundle.json is not JSON"),
        (put(MANIFEST, DEEP), "bundle.json is not JSON: JSON is nested too deeply"),
        (put(MANIFEST, b"[]"), "is not a bundle"),
        (without(MANIFEST), "is not a bundle: it holds no bundle.json"),
        (edited(MANIFEST, files={}), "lists no files"),
        (edited(MANIFEST, files={"a": {"bytes": -1, "sha256": ""}}), "gives no size and hash for 'a'"),
        (edited(MANIFEST, files={"a": {"bytes": 1e3, "sha256": ""}}), "gives no size and hash for 'a'"),
        (edited(MANIFEST, files={"../a": {"bytes": 1, "sha256": ""}}), "'../a' is no name that a bundle gives"),
        (edited(MANIFEST, files={"/etc/passwd": {"bytes": 1, "sha256": ""}}), "'/etc/passwd' is no name"),
        (edited(MANIFEST, files={"a": {"bytes": 1, "sha256": ""}}), "'a' is missing"),
        (edited(MANIFEST, files={"a": {"bytes": 2**40, "sha256": ""}}), "would take 1,099,511,627,776 bytes of memory"),
        (put(f"{FIRST}/query/c/0/0/0/0/0", bytes(1028)), "query/c/0/0/0/0/0' is not what bundle.json has the hash of"),
        (put(f"{FIRST}/query/c/0/0/0/0/0", b"short"), "does not have the size"),
        (without(f"{FIRST}/query/c"), "query/c/0/0/0/0/0' is missing"),
        (put("../outside", b"x"), "'../outside' is no name that a bundle gives"),
        (put("/absolute", b"x"), "'/absolute' is no name that a bundle gives"),
        (put("C:/windows", b"x"), "'C:/windows' is no name that a bundle gives"),
        (put("back\\slash", b"x"), "is no name that a bundle gives"),
        (put("activations/../../x", b"x"), "is no name that a bundle gives"),
    ],
)
def test_a_container_that_does_not_fit_its_manifest_is_refused(
    bundle: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    members = members_of(bundle)
    edit(members)
    with pytest.raises(BundleError, match=message):
        st.load_bundle(rewritten(tmp_path / "bad.zip", members, honest=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "good.zip"]


def test_an_honest_manifest_does_not_help_a_chunk_with_a_wrong_checksum(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    name = f"{FIRST}/query/c/0/0/0/0/0"
    members[name] = bytes([members[name][0] ^ 1]) + members[name][1:]
    with pytest.raises(BundleError, match="cannot be used .*[Cc]hecksum"):
        st.load_bundle(rewritten(tmp_path / "bad.zip", members))


def test_a_zip_bomb_is_refused_before_it_is_read(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members_of(bundle).items():
            archive.writestr(name, data)
        archive.writestr("activations/zeros", bytes(30 * 2**20))
    assert path.stat().st_size < 400_000
    read = []
    monkeypatch.setattr(containers, "_inflate", lambda *_: read.append(1))
    with pytest.raises(BundleError, match="more than max_bytes=1,000: nothing was read"):
        st.load_bundle(path, max_bytes=1000)
    assert read == []


def test_a_member_that_inflates_to_more_than_it_says_is_not_read_on(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    path = rewritten(tmp_path / "lies.zip", members)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{FIRST}/query/c/0/0/0/0/0")
    data = bytearray(path.read_bytes())
    # The size in the central directory, which is the one that readers believe.
    place = data.rfind(info.filename.encode()) - 46
    struct.pack_into("<I", data, place + 24, info.file_size - 100)
    path.write_bytes(data)
    with pytest.raises(BundleError, match="does not have the size"):
        st.load_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16), "is a link or a device"),
        (lambda info: setattr(info, "external_attr", (stat.S_IFCHR | 0o666) << 16), "is a link or a device"),
        (lambda info: setattr(info, "compress_type", zipfile.ZIP_BZIP2), "compressed by a method"),
        (lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA), "compressed by a method"),
    ],
)
def test_links_and_unusual_entries_are_refused(
    bundle: Path, tmp_path: Path, change: Callable[[zipfile.ZipInfo], None], message: str
) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members_of(bundle).items():
            info = zipfile.ZipInfo(name)
            if name == QUERY:
                change(info)
            archive.writestr(info, data)
    with pytest.raises(BundleError, match=f"query/zarr.json' {'is ' if 'method' in message else ''}{message}"):
        st.load_bundle(path)


def test_a_name_given_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "twice.zip", members_of(bundle))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(QUERY, b"{}")
    with pytest.raises(BundleError, match="it holds .*query/zarr.json' twice"):
        st.load_bundle(path)


def test_a_zip_that_claims_millions_of_files_is_refused_before_they_are_listed(bundle: Path) -> None:
    data = bytearray(bundle.read_bytes())
    place = data.rfind(b"PK\x05\x06")
    for offset, value, form in ((10, 60_000, "<H"), (12, 2**30, "<I"), (10, 2**16 - 1, "<H")):
        changed = bytearray(data)
        struct.pack_into(form, changed, place + offset, value)
        bundle.write_bytes(changed)
        with pytest.raises(BundleError, match="more than 50,000 files|64-bit kind"):
            st.load_bundle(bundle)


def test_a_bundle_cut_short_anywhere_is_refused(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    path = tmp_path / "cut.zip"
    for n_bytes in (0, 1, 21, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(BundleError, match="no zip file, or was cut short"):
            st.load_bundle(path)


@given(place=some.integers(0, 10**6), value=some.integers(1, 255))
@settings(max_examples=60)
def test_any_byte_may_flip_and_nothing_but_a_sentence_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory, good: bytes, place: int, value: int
) -> None:
    data = bytearray(good)
    data[place % len(data)] ^= value
    path = tmp_path_factory.mktemp("flip") / "x.zip"
    path.write_bytes(data)
    try:
        read = st.load_bundle(path)
    except BundleError:
        return
    # A byte that says nothing of the content, such as a date: what is read is what was written.
    assert np.array_equal(
        layer_of(read.activations, LAYERS[0])["value"], _half(layer_of(activations(), LAYERS[0])["value"])
    )


def _half(values: xr.DataArray) -> np.ndarray:
    return values.values.astype(np.float16).astype(np.float32)


def test_folders_with_links_are_refused(tmp_path: Path) -> None:
    path = st.save_bundle(tmp_path / "folder", activations())
    chunk = path / FIRST / "query" / "c/0/0/0/0/0"
    secret = tmp_path / "secret"
    chunk.rename(secret)
    chunk.symlink_to(secret)
    with pytest.raises(BundleError, match="is a link, not a file"):
        st.load_bundle(path)
    chunk.unlink()
    with pytest.raises(BundleError, match="is missing"):
        st.load_bundle(path)
    os.mkfifo(chunk)
    with pytest.raises(BundleError, match="is no plain file"):
        st.load_bundle(path)
    chunk.unlink()
    (path / FIRST / "query" / "c").rename(tmp_path / "c")
    (path / FIRST / "query" / "c").symlink_to(tmp_path / "c")
    with pytest.raises(BundleError, match="is a link, not a file"):
        st.load_bundle(path)


def test_what_the_finder_leaves_in_a_folder_does_no_harm(tmp_path: Path) -> None:
    path = st.save_bundle(tmp_path / "folder", activations())
    (path / ".DS_Store").write_bytes(b"x")
    assert len(st.load_bundle(path).activations.children) == 3


@pytest.mark.parametrize("path", ["", 7, None])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(BundleError, match="is no path"):
        st.load_bundle(path)


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no file and no folder"):
        st.load_bundle(tmp_path / "nothing.zip")
    with pytest.raises(BundleError, match="is not a bundle"):
        st.load_bundle(tmp_path)
    (tmp_path / "photo.zip").write_bytes(b"\x89PNG" * 100)
    with pytest.raises(BundleError, match="is no zip file"):
        st.load_bundle(tmp_path / "photo.zip")


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
    with pytest.raises(ActivationsError, match="is of other images"):
        st.save_bundle(path, activations(names=("x", "y")), eigenvectors=ANSWERS)
    with pytest.raises(ActivationsError, match="lacks eigenvalue"):
        st.save_bundle(path, activations(), eigenvectors=eigenvectors().drop_vars("eigenvalue"))
    with pytest.raises(SpectralToolkitError, match="eigenvectors is a int"):
        st.save_bundle(path, activations(), eigenvectors=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SpectralToolkitError, match="settings cannot be written as JSON"):
        st.save_bundle(path, activations(), settings={"f": np.pi, "g": object()})
    with pytest.raises(SpectralToolkitError, match="only='some' is not understood"):
        st.save_bundle(path, activations(), only="some")  # pyright: ignore[reportArgumentType]
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
