"""Zip files and folders that are not what a bundle is kept in are refused with a sentence."""

from __future__ import annotations

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
from bundle_fixtures import DEEP, FIRST, QUERY, Edit, edited, good_bundle, layer_of, members_of, put, rewritten, without
from eigen_fixtures import LAYERS, activations
from hypothesis import given, settings
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit._io.bundles import containers
from spectral_toolkit._io.bundles.containers import MANIFEST
from spectral_toolkit.errors import BundleError


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
        (edited(MANIFEST, files={"../a": {"bytes": 1, "sha256": ""}}), "'../a' is not a name that bundles use"),
        (edited(MANIFEST, files={"/etc/passwd": {"bytes": 1, "sha256": ""}}), "'/etc/passwd' is not a name"),
        (edited(MANIFEST, files={"a": {"bytes": 1, "sha256": ""}}), "'a' is missing"),
        (edited(MANIFEST, files={"a": {"bytes": 2**40, "sha256": ""}}), "would take 1,099,511,627,776 bytes of memory"),
        (put(f"{FIRST}/query/c/0/0/0/0/0", bytes(1028)), "query/c/0/0/0/0/0' does not have the hash in bundle.json"),
        (put(f"{FIRST}/query/c/0/0/0/0/0", b"short"), "does not have the size"),
        (without(f"{FIRST}/query/c"), "query/c/0/0/0/0/0' is missing"),
        (put("../outside", b"x"), "'../outside' is not a name that bundles use"),
        (put("/absolute", b"x"), "'/absolute' is not a name that bundles use"),
        (put("C:/windows", b"x"), "'C:/windows' is not a name that bundles use"),
        (put("back\\slash", b"x"), "is not a name that bundles use"),
        (put("activations/../../x", b"x"), "is not a name that bundles use"),
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
        with pytest.raises(BundleError, match="not a zip file, or is cut off"):
            st.load_bundle(path)


@given(place=some.integers(0, 10**6), value=some.integers(1, 255))
@settings(max_examples=60)
def test_any_byte_may_flip_and_nothing_but_a_sentence_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    data = bytearray(good_bundle())
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
    with pytest.raises(BundleError, match="is not a plain file"):
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
    with pytest.raises(BundleError, match="is not a path"):
        st.load_bundle(path)


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is neither a file nor a folder"):
        st.load_bundle(tmp_path / "nothing.zip")
    with pytest.raises(BundleError, match="is not a bundle"):
        st.load_bundle(tmp_path)
    (tmp_path / "photo.zip").write_bytes(b"\x89PNG" * 100)
    with pytest.raises(BundleError, match="is not a zip file"):
        st.load_bundle(tmp_path / "photo.zip")
