"""Bundles whose content is damaged or hostile are refused with a sentence, and nothing is executed."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from bundle_fixtures import DEEP, FIRST, QUERY, Edit, edited, members_of, put, replaced, rewritten, without
from eigen_fixtures import LAYERS

import spectral_toolkit as st
from spectral_toolkit._io.bundles.containers import MANIFEST
from spectral_toolkit.errors import BundleError

EIG = "eigenvectors/answer_0000"
SHAPE = (2, 2, 4, 8, 4)
PICKLED = [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
OBJECTS = {"name": "fixed_length_utf32", "configuration": {"length_bytes": 2**31 - 4}}

HONEST: dict[str, tuple[Edit, str]] = {
    # Made by somebody who can compute hashes.
    "later version": (edited(MANIFEST, version=2), "has version 2, but this spectral_toolkit reads up to 1: install"),
    "version is text": (edited(MANIFEST, version="1"), "version '1' is not a number"),
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
    "missing eigenvalue": (without(f"{EIG}/eigenvalue/"), "the result 'qk' lacks eigenvalue"),
    "missing answer": (without(f"{EIG}/"), "answer_0000 is missing"),
    "NaN": (replaced(f"{FIRST}/query", np.full(SHAPE, np.nan, np.float16)), "query of layer .* holds NaN or infinity"),
    "infinity": (replaced(f"{FIRST}/key", np.full(SHAPE, np.inf, np.float16)), "key of layer .* holds NaN or infinity"),
    "NaN eigenvectors": (
        replaced(f"{EIG}/eigenvector", np.full((2, 4, 8, 4), np.nan)),
        "eigenvector in the result 'qk' holds NaN or infinity",
    ),
    "NaN eigenvalue": (
        replaced(f"{EIG}/eigenvalue", np.full((2, 4), np.nan)),
        "eigenvalue .* holds NaN",
    ),
    "wrong shape": (replaced(f"{FIRST}/query", np.zeros((2, 2, 4, 7, 4), np.float32)), "cannot be used"),
    "wrong number of images": (replaced(f"{EIG}/eigenvector", np.zeros((3, 4, 8, 4))), "cannot be used"),
    "pixels are floats": (replaced("activations/pixels", np.zeros((2, 40, 80, 3), np.float32)), "pixels are float32"),
    "pixels have four colours": (
        replaced("activations/pixels", np.zeros((2, 40, 80, 4), np.uint8)),
        "pixels are uint8",
    ),
    "patch centres elsewhere": (replaced(f"{FIRST}/y", np.array([0.0, 5.0, 6.0, 7.0])), "not that of 4 equal patches"),
    "components not numbered": (replaced(f"{EIG}/component", np.zeros(4)), "components of the result 'qk' are not"),
    "components alike": (replaced(f"{EIG}/component", np.ones(4, np.int64)), "components of the result 'qk' are not"),
    "scale is text": (edited(f"{FIRST}/zarr.json", attributes__scale="os.system('x')"), "expected a number"),
    "weights are no list": (
        edited(f"{EIG}/zarr.json", attributes__weights="__import__('os')"),
        "weights .* not a list",
    ),
    "attributes are a list": (edited(f"{FIRST}/zarr.json", attributes=[]), "attributes that are not a mapping"),
    "layers twice": (edited(MANIFEST, layers=[LAYERS[0]] * 3), "layers cannot be called"),
    "layer with a slash": (edited(MANIFEST, layers=["../x", *LAYERS[1:]]), "layers cannot be called"),
    **{
        f"layer {name[:9]!r}": (edited(MANIFEST, layers=[name, *LAYERS[1:]]), "layers cannot be called '")
        for name in (".", "..", "/etc", "a/b", "..\\a", "a\\.", "a\0b", "a" * 256, "é" * 128)
    },
    "layer without a name": (edited(MANIFEST, layers=["", *LAYERS[1:]]), "layers are not a list of names"),
    "layers are numbers": (edited(MANIFEST, layers=[1, 2, 3]), "layers are not a list of names"),
    "half a character": (edited(MANIFEST, layers=["\ud800", *LAYERS[1:]]), "cannot be used"),
    "settings are a list": (edited(MANIFEST, settings=[1]), "the settings are not a mapping"),
    "pictures of others": (edited(MANIFEST, pictures=["x"]), "picture_0000 is missing"),
    "original type invented": (edited(QUERY, attributes__original_dtype="object"), "the original type 'object'"),
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


# What it takes in memory.


def _large(path: Path, *edits: Edit, shape: tuple[int, ...] = SHAPE, dtype: str = "float16") -> Path:
    """A bundle of one layer with one quantity of that shape, all zero."""
    members = members_of(path)
    kept = (f"{FIRST}/query/", f"{FIRST}/zarr.json", "activations/zarr.json", "activations/image/", MANIFEST)
    for name in [name for name in members if not name.startswith(kept)]:
        del members[name]
    for edit in (
        edited(MANIFEST, layers=["a"], eigenvectors=[], pictures=[]),
        replaced(f"{FIRST}/query", np.zeros(shape, dtype)),
        edited(QUERY, attributes={}),
        *edits,
    ):
        edit(members)
    rewritten(path, members)
    with zipfile.ZipFile(path) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in whole.items():
            archive.writestr(name, data)
    return path


WIDE = (2, 2, 4, 8, 20_000)


def _many_images(members: dict[str, bytes]) -> None:
    names = np.array([f"{index:06}" for index in range(20_000)])
    metadata = json.loads(members["activations/image/zarr.json"])
    metadata["data_type"]["configuration"]["length_bytes"] = 24
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [names.size]
    members["activations/image/zarr.json"] = json.dumps(metadata).encode()
    members["activations/image/c/0"] = names.tobytes() + struct.pack("<I", google_crc32c.value(names.tobytes()))


LARGE: dict[str, tuple[tuple[Edit, ...], tuple[int, ...], str]] = {
    "as it is": ((), WIDE, "float16"),
    "doubles": ((), WIDE, "float64"),
    "becomes four times as much": ((edited(QUERY, attributes__original_dtype="float64"),), WIDE, "float16"),
    "becomes twice as much": ((edited(QUERY, attributes__original_dtype="float32"),), WIDE, "float16"),
    "lists in attributes": ((edited(QUERY, attributes__x=[[]] * 200_000),), SHAPE, "float16"),
    "mappings in attributes": ((edited(QUERY, attributes__x={str(n): {} for n in range(40_000)}),), SHAPE, "float16"),
    "settings": ((edited(MANIFEST, settings={"x": [[]] * 200_000}),), SHAPE, "float16"),
    "names": ((_many_images,), (20_000, 1, 1, 1, 1), "float16"),
    "rows": ((), (2, 1, 20_000, 1, 1), "float16"),
}


@pytest.mark.parametrize("case", LARGE)
def test_max_bytes_is_the_most_that_is_ever_taken(bundle: Path, case: str) -> None:
    edits, shape, dtype = LARGE[case]
    st.load_bundle(bundle)  # whatever is loaded and cached once
    path = _large(bundle, *edits, shape=shape, dtype=dtype)

    def peak_of(limit: int) -> tuple[int, BundleError | None]:
        tracemalloc.start()
        try:
            st.load_bundle(path, max_bytes=limit)
            refused = None
        except BundleError as error:
            refused = error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak, refused

    limit, peak, refused = 1, 0, BundleError()
    while refused is not None:  # what it would take is told as far as it was read
        peak, refused = peak_of(limit)
        assert peak <= max(limit, 300_000)  # the sentence takes some as well
        if refused is not None:
            needed = re.search(r"would take ([\d,]+) bytes of memory, more than max_bytes=", str(refused))
            assert needed is not None, str(refused)
            assert int(needed[1].replace(",", "")) > limit
            limit = int(needed[1].replace(",", ""))
    assert limit < 20 * peak  # and no wild guess


def test_a_bundle_without_pixels_has_no_pictures(bundle: Path, tmp_path: Path) -> None:
    members = members_of(bundle)
    without("activations/pixels")(members)
    assert st.load_bundle(rewritten(tmp_path / "fine.zip", members)).pictures is None
