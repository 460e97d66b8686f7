"""Files that nobody would write: whatever is in them, they are read, or refused with one sentence.

Three kinds here, 1,700 cases: EXIF blocks in every kind of picture, chunks of PNGs, bundles; ``test_fuzzed_studies.py``
has another 300, of study files. Whatever else is raised, a warning made an error included, fails.
"""

from __future__ import annotations

import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_fixtures import FIRST, QUERY, good_bundle, members_of, rewritten
from file_fixtures import ORIENTATION, Entry, chunk, encoded, exif_block, png
from hypothesis import given, settings
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit._io.bundles.containers import MANIFEST
from spectral_toolkit.errors import BundleError, SpectralToolkitError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TAGS = (0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x010F, 0x0111, 0x011A, 0x0128, 0x0131, 0x02BC, 0x8769, 0x8825, 0xA005)
"""Sizes, layout, texts, resolution, XMP and pointers to further directories: what readers look at."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@cache
def good_members() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "good.zip").write_bytes(good_bundle())
        return members_of(Path(folder) / "good.zip")


def read(path: Path, data: bytes) -> np.ndarray | None:
    """The picture, of the size that is said; None where it was refused with a sentence that names the file."""
    path.write_bytes(data)
    try:
        pictures = st.load_images(path)
        found = pictures[0]
    except SpectralToolkitError as error:
        said = str(error)
        assert path.name in said and "\n" not in said and said.endswith("."), said  # noqa: PT018
        return None
    assert found.dtype == np.uint8
    assert found.shape == (*pictures.sizes[0], 3)
    return found


# EXIF.

TYPES = some.integers(0, 14) | some.integers(0, 65_535)
TAG = some.sampled_from(TAGS) | some.integers(0, 65_535)
COUNTS = some.integers(0, 9) | some.integers(0, 2**32 - 1)
ROWS: some.SearchStrategy[Entry] = some.tuples(TAG, TYPES, COUNTS, some.binary(max_size=12))
TURNS = some.tuples(
    some.just(ORIENTATION), some.sampled_from((1, 3, 4, 8, 9)), some.integers(0, 3), some.binary(max_size=12)
)


@some.composite
def exif_blocks(draw: some.DrawFn) -> bytes:
    """Directories with odd entries, sometimes cut short or with a byte changed."""
    rows = [*draw(some.lists(ROWS, max_size=5)), *draw(some.lists(TURNS, max_size=2))]
    block = exif_block(
        draw(some.permutations(rows)),
        endian=draw(some.sampled_from("<>")),
        following=draw(some.integers(0, 2**32 - 1)),
        prefix=draw(some.sampled_from((b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"))),
    )
    if draw(some.booleans()):
        return block
    return draw(spoilt(block))


@some.composite
def spoilt(draw: some.DrawFn, data: bytes) -> bytes:
    """The bytes cut short, or with a few of them changed."""
    changed = bytearray(data)
    for _ in range(draw(some.integers(0, 4))):
        if changed:
            changed[draw(some.integers(0, len(changed) - 1))] = draw(some.integers(0, 255))
    return bytes(changed[: draw(some.integers(0, len(changed)) | some.just(len(changed)))])


@given(exif_blocks(), some.sampled_from(("JPEG", "PNG", "WEBP")))
@settings(max_examples=500)
def test_a_picture_is_read_whatever_its_exif_block_holds(place: Path, block: bytes, kind: str) -> None:
    found = read(place / "exif.picture", encoded(RGB, kind, block))
    assert found is not None
    assert sorted(found.shape) == sorted(RGB.shape)
    if kind != "JPEG":  # not a pixel is lost, wherever it was turned to
        assert sorted(map(tuple, found.reshape(-1, 3).tolist())) == sorted(map(tuple, RGB.reshape(-1, 3).tolist()))


LAYOUT: dict[int, Entry] = {
    tag: (tag, kind, count, data)
    for tag, kind, count, data in (
        (0x0100, 3, 1, struct.pack("<H", 7)), (0x0101, 3, 1, struct.pack("<H", 5)),
        (0x0102, 3, 3, struct.pack("<3H", 8, 8, 8)), (0x0103, 3, 1, struct.pack("<H", 1)),
        (0x0106, 3, 1, struct.pack("<H", 2)), (0x0111, 4, 1, struct.pack("<L", 1000)),
        (0x0115, 3, 1, struct.pack("<H", 3)), (0x0116, 3, 1, struct.pack("<H", 5)),
        (0x0117, 4, 1, struct.pack("<L", RGB.size)),
    )
}  # fmt: skip


@given(some.lists(ROWS, max_size=3), some.lists(TURNS, max_size=1), some.booleans(), some.data())
@settings(max_examples=200)
def test_a_tiff_is_read_or_refused(
    place: Path, rows: list[Entry], turns: list[Entry], keep: bool, data: some.DataObject
) -> None:
    others = {row[0]: row for row in (*rows, *turns)}
    entries = {**others, **LAYOUT} if keep else {**LAYOUT, **others}
    block = exif_block([entries[tag] for tag in sorted(entries)], prefix=b"").ljust(1000, b"\0") + RGB.tobytes()
    found = read(place / "a.tiff", block if data.draw(some.booleans()) else data.draw(spoilt(block)))
    assert found is None or found.size < 3 * 10**6


# PNG.

CHUNKS = some.sampled_from(
    [b"tRNS", b"PLTE", b"gAMA", b"pHYs", b"iCCP", b"sRGB", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"cHRM", b"acTL",
     b"fcTL", b"fdAT", b"IDAT", b"IHDR", b"IEND", b"bKGD", b"abcd"]
)  # fmt: skip
TEXTS = some.sampled_from([b"XML:com.adobe.xmp\0\0\0\0\0", b"Raw profile type exif\0\0", b"a\0\0x\x9c", b"\0", b""])


@some.composite
def pngs(draw: some.DrawFn) -> bytes:
    """Every depth and colour type, also those that do not exist together, with chunks of every name and no sense."""
    depth = draw(some.sampled_from((1, 2, 4, 8, 16)))
    colour = draw(some.sampled_from((0, 2, 3, 4, 6)))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    values = np.random.default_rng(draw(some.integers(0, 9))).integers(0, 2**depth, (5, 7, channels))
    data = TEXTS.flatmap(lambda start: some.binary(max_size=30).map(lambda rest: start + rest))
    chunks = [chunk(*pair) for pair in draw(some.lists(some.tuples(CHUNKS, data), max_size=3))]
    if colour == 3:
        chunks.insert(0, chunk(b"PLTE", draw(some.binary(max_size=768))))
    return png(values, depth, colour, *chunks, interlaced=draw(some.booleans()))


@given(pngs(), some.data())
@settings(max_examples=500)
def test_a_png_is_read_or_refused(place: Path, whole: bytes, data: some.DataObject) -> None:
    read(place / "a.png", whole if data.draw(some.booleans()) else data.draw(spoilt(whole)))


# Bundles, by somebody who can compute their hashes.

JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(-1e9, 1e9) | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
VALUES = JSON | some.sampled_from(
    [
        "float16",
        "float64",
        "bool",
        "..",
        "/etc",
        "a\0b",
        "encoder.layer.0.attention",
        [2**31],
        [0],
        [2, 2, 4, 8, 4],
        2**63,
        -1,
    ]
)


def _places(whole: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    inner = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    return [path, *(found for key, value in inner for found in _places(value, (*path, key)))]


def _changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy: Any = dict(whole) if isinstance(whole, dict) else list(whole)
    copy[path[0]] = _changed(copy[path[0]], path[1:], value)
    return copy


@some.composite
def bundles(draw: some.DrawFn) -> dict[str, bytes]:
    """Files of a bundle in which a value, a few bytes or a whole file is not what it was."""
    members = dict(good_members())
    for _ in range(draw(some.integers(1, 2))):
        name = draw(some.sampled_from([MANIFEST, QUERY, f"{FIRST}/zarr.json", *sorted(members)]))
        deed = draw(some.sampled_from(("value", "value", "bytes", "gone", "added")))
        if deed == "value" and name.endswith(".json") and members.get(name, b"")[:1] == b"{":
            try:
                whole = json.loads(members[name])
            except ValueError:  # spoilt before
                continue
            where = draw(some.sampled_from([place for place in _places(whole) if place[:1] != ("files",)]))
            members[name] = json.dumps(_changed(whole, where, draw(VALUES))).encode()
        elif deed == "bytes" and name in members:
            members[name] = draw(spoilt(members[name]))
        elif deed == "gone":
            members.pop(name, None)
        elif deed == "added":
            members["activations/" + draw(some.text("ab./", min_size=1, max_size=5))] = b"{}"
    return members


@given(bundles())
@settings(max_examples=500)
def test_a_bundle_is_read_or_refused(place: Path, members: dict[str, bytes]) -> None:
    path = place / "spoilt.zip"
    try:
        is_object = isinstance(json.loads(members[MANIFEST]), dict)
    except (KeyError, ValueError):
        is_object = False
    rewritten(path, members, honest=is_object)
    try:
        bundle = st.load_bundle(path, max_bytes=50_000_000)
    except BundleError as error:
        assert path.name in str(error)  # noqa: PT017
        return
    assert bundle.activations.children
    assert repr(bundle)
