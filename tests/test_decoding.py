"""What a file says beside its pixels: orientation and transparency are heeded, all else does no harm."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from file_fixtures import (
    ASCII,
    BYTE,
    DOUBLE,
    FLOAT,
    LONG,
    ORIENTATION,
    SHORT,
    SLONG,
    UNDEFINED,
    Entry,
    chunk,
    encoded,
    entry,
    exif_block,
    png,
)  # fmt: skip
from PIL import Image, TiffImagePlugin

import spectral_toolkit as st
from spectral_toolkit._io.decoding import read_numbers
from spectral_toolkit.errors import SpectralToolkitError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
KINDS = ("JPEG", "PNG", "WEBP")
ODD: dict[str, list[Entry]] = {
    "text in a number": [entry(0x011A, ASCII, "72 dpi")],
    "text in an integer": [entry(0x0100, ASCII, "wide")],
    "float in an integer": [entry(0x0100, FLOAT, 6.5)],
    "number in a text": [entry(0x0131, DOUBLE, 1.5)],
    "bytes in a text": [entry(0x010E, UNDEFINED, b"\xff\xfe\0x")],
    "infinity": [entry(0x011A, FLOAT, float("inf"))],
    "zero denominator": [(0x011A, 5, 1, bytes(8))],
    "pointer to itself": [entry(0x8769, LONG, 8)],
    "pointer to nowhere": [entry(0x8769, LONG, 2**32 - 1)],
    "negative pointer": [entry(0x8769, SLONG, -4)],
    "pointer as text": [entry(0x8769, ASCII, "abc")],
    "unknown type": [(0x0110, 77, 1, b"abcd")],
    "too many values": [(0x0110, ASCII, 2**31, b"abcd")],
    "value beyond the end": [(0x0110, ASCII, 4000, struct.pack("<L", 60_000))],
    "no values": [(0x0110, SHORT, 0, b"")],
}


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def upright(path: Path, orientation: int, pixels: np.ndarray | None = None) -> None:
    """The picture is turned like that, is said to be of the size that it has, and Pillow has nothing to warn of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pictures = st.load_images(path)
        found = pictures[0]
    assert not [warning for warning in said if "spectral_toolkit" in str(warning.filename)]
    assert pictures.sizes == (found.shape[:2],)
    if pixels is None:
        with Image.open(io.BytesIO(encoded(RGB, "JPEG"))) as image:
            pixels = np.asarray(image) if path.suffix == ".jpeg" else RGB
    np.testing.assert_array_equal(found, TURNS[orientation](pixels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ODD)
def test_a_turned_picture_with_an_odd_entry_is_read_and_turned(tmp_path: Path, kind: str, name: str) -> None:
    block = exif_block([*ODD[name], entry(ORIENTATION, SHORT, 6)])
    upright(saved(tmp_path / f"odd.{kind.lower()}", encoded(RGB, kind, block)), 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("endian", "<>")
def test_an_orientation_is_a_number_from_1_to_8_and_else_none(tmp_path: Path, kind: str, endian: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    for value in (0, 9, 255, 65_535):
        upright(
            saved(path, encoded(RGB, kind, exif_block([entry(ORIENTATION, SHORT, value, endian)], endian=endian))), 1
        )
    said = {
        entry(ORIENTATION, SHORT, 8, endian): 8,
        entry(ORIENTATION, LONG, 5, endian): 5,
        entry(ORIENTATION, LONG, 2**32 - 1, endian): 1,
        entry(ORIENTATION, SLONG, -6, endian): 1,
        entry(ORIENTATION, SHORT, [6, 1], endian): 6,  # the first of several
        entry(ORIENTATION, ASCII, "6", endian): 1,
        entry(ORIENTATION, ASCII, "upside down", endian): 1,
        entry(ORIENTATION, FLOAT, 6.5, endian): 1,
        entry(ORIENTATION, UNDEFINED, b"\6\0\6\0", endian): 1,
        entry(ORIENTATION, BYTE, b"\6", endian): 1,
        (ORIENTATION, SHORT, 0, b""): 1,
    }
    for row, orientation in said.items():
        upright(saved(path, encoded(RGB, kind, exif_block([row], endian=endian))), orientation)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_block_turns_nothing_and_stops_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    whole = exif_block([entry(0x010F, ASCII, "a maker of cameras"), entry(ORIENTATION, SHORT, 6)])
    for n_bytes in (7, 10, 14, 16, 20, 34):
        upright(saved(path, encoded(RGB, kind, whole[:n_bytes])), 1)
    upright(saved(path, encoded(RGB, kind, b"Exif\0\0no block at all, whatever it says")), 1)
    # A directory that follows itself is read once.
    upright(saved(path, encoded(RGB, kind, exif_block([entry(ORIENTATION, SHORT, 3)], following=8))), 3)


def test_a_png_may_name_its_orientation_after_its_pixels(tmp_path: Path) -> None:
    block = exif_block([entry(ORIENTATION, SHORT, 6)], prefix=b"")
    whole = encoded(RGB, "PNG")
    upright(saved(tmp_path / "a.png", whole[:-12] + chunk(b"eXIf", block) + whole[-12:]), 6)


@pytest.mark.parametrize("kind", KINDS)
def test_xmp_is_asked_where_exif_says_nothing(tmp_path: Path, kind: str) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    path = tmp_path / f"a.{kind.lower()}"
    written = encoded(RGB, kind, xmp=xmp)
    if kind == "PNG":
        whole = encoded(RGB, kind)
        written = whole[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + whole[33:]
    upright(saved(path, written), 6)


@pytest.mark.parametrize(
    ("orientation", "compression"),
    [*((orientation, None) for orientation in (*TURNS, 0, 9, 65_535)), *((good, "tiff_lzw") for good in TURNS)],
)
def test_tiffs_are_turned_once_and_their_size_with_them(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.tiff", tiffinfo=tags, compression=compression)
    upright(tmp_path / "a.tiff", orientation if orientation in TURNS else 1)
    with Image.open(tmp_path / "a.tiff") as image:
        np.testing.assert_array_equal(st.load_images(image)[0], st.load_images(tmp_path / "a.tiff")[0])


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x8769, SLONG, -4), (0x8769, LONG, 2**32 - 1), (0x8769, ASCII, "abc"), (0x8825, LONG, 8),
        (0x010F, FLOAT, 1.5), (0x02BC, LONG, 7), (0x02BC, ASCII, 'tiff:Orientation="6"'),
    ],
)  # fmt: skip
def test_odd_entries_of_a_tiff_do_no_harm(tmp_path: Path, tag: int, kind: int, value: object) -> None:
    rows = [
        entry(0x0100, SHORT, 6), entry(0x0101, SHORT, 4), entry(0x0102, SHORT, [8, 8, 8]), entry(0x0103, SHORT, 1),
        entry(0x0106, SHORT, 2), entry(0x0111, LONG, 1000), entry(ORIENTATION, SHORT, 8), entry(0x0115, SHORT, 3),
        entry(0x0116, SHORT, 4), entry(0x0117, LONG, RGB.size), entry(tag, kind, value),
    ]  # fmt: skip
    whole = exif_block(sorted(rows), prefix=b"").ljust(1000, b"\0") + RGB.tobytes()
    upright(saved(tmp_path / "a.tiff", whole), 8)
    with pytest.raises(SpectralToolkitError, match=r"The image .*a\.tiff' is damaged or gone"):
        st.load_images(saved(tmp_path / "a.tiff", whole[:-9]))[0]


def test_label_maps_are_turned_by_the_same_rule(tmp_path: Path) -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    image = Image.fromarray(labels).convert("P")
    for orientation in (6, 9):
        image.save(tmp_path / "a.png", exif=exif_block([entry(ORIENTATION, SHORT, orientation)]))
        found = read_numbers(tmp_path / "a.png")
        np.testing.assert_array_equal(found, TURNS.get(orientation, TURNS[1])(labels))


GREY = np.array([[0, 1, 2, 3], [1, 1, 0, 1]])
DEEP = np.array([[0, 1, 40_000, 65_535], [256, 255, 0, 1]])


@pytest.mark.parametrize("orientation", [None, 6])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("values", "depth", "clear"),
    [
        (GREY % 2, 1, 1),
        (GREY % 2, 1, 0),
        (GREY, 2, 1),
        (GREY * 5, 4, 5),
        (GREY * 80, 8, 80),
        (DEEP, 16, 0),
        (DEEP, 16, 1),
    ],
)
def test_grey_with_a_transparent_value(
    tmp_path: Path, values: np.ndarray, depth: int, clear: int, interlaced: bool, orientation: int | None
) -> None:
    chunks = [chunk(b"tRNS", struct.pack(">H", clear))]
    if orientation:
        chunks.append(chunk(b"eXIf", exif_block([entry(ORIENTATION, SHORT, orientation)], prefix=b"")))
    path = saved(tmp_path / "a.png", png(values, depth, 0, *chunks, interlaced=interlaced))
    expected = np.where(values == clear, 255, (values * 255 / (2**depth - 1)).round()).astype(np.uint8)
    upright(path, orientation or 1, np.dstack([expected] * 3))
    with Image.open(path) as image:
        np.testing.assert_array_equal(st.load_images(image)[0], st.load_images(path)[0])


@pytest.mark.parametrize("interlaced", [False, True])
def test_deep_colours_are_transparent_where_all_of_their_bits_are_the_same(tmp_path: Path, interlaced: bool) -> None:
    values = RNG.integers(256, 65_535, (5, 7, 3))
    values[1, 2] = values[3, 3] = (1000, 2000, 3000)
    values[0, 0] = (1001, 2000, 3000)
    chunks = [chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))]
    path = saved(tmp_path / "a.png", png(values, 16, 2, *chunks, interlaced=interlaced))
    expected = (values >> 8).astype(np.uint8)
    expected[1, 2] = expected[3, 3] = 255
    upright(path, 1, expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(st.load_images(image)[0], expected)
    with Image.open(path) as image:
        image.load()  # half of every number is gone by now, and the nearest that can be told is transparent
        expected[0, 0] = 255
        np.testing.assert_array_equal(st.load_images(image)[0], expected)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_every_kind_of_transparency_is_laid_on_white(mode: str) -> None:
    assert (st.load_images(Image.new(mode, (3, 2)))[0] == 255).all()


def test_palettes_are_transparent_entry_by_entry(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    for transparency, expected in ((1, [0, 255, 40]), (b"\xff\x00\xff", [0, 255, 40]), (b"\x00", [255, 10, 40])):
        image.save(tmp_path / "a.png", transparency=transparency)
        assert st.load_images(tmp_path / "a.png")[0][0, :, 0].tolist() == expected
    image.save(tmp_path / "a.gif", transparency=1)
    assert st.load_images(tmp_path / "a.gif")[0][0, :, 0].tolist() == [0, 255, 40]


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1, ::-1])]
    for kind in ("tiff", "png", "webp"):  # the last needs to be told to keep all bits
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
        upright(tmp_path / f"a.{kind}", 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_that_leave_0_to_1_by_rounding_are_clipped(dtype: type[np.floating]) -> None:
    values = np.full((2, 3), 0.5, dtype)
    values[0] = np.nextafter(dtype(1), dtype(2)), -np.finfo(dtype).tiny, 1
    assert st.load_images(values)[0][0, :, 0].tolist() == [255, 0, 255]
    if dtype is np.float32:
        assert st.load_images(Image.fromarray(values))[0][0, :, 0].tolist() == [255, 0, 255]


def test_bfloat16_has_no_number_close_above_1() -> None:
    step = torch.finfo(torch.bfloat16).eps
    assert st.load_images(torch.tensor([[1 + step, -step, 1]], dtype=torch.bfloat16))[0][0, :, 0].tolist() == [
        255,
        0,
        255,
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_normalisation_undone_gives_the_picture_back(dtype: torch.dtype) -> None:
    levels = torch.linspace(0, 1, 256, dtype=torch.float64).reshape(16, 16, 1).expand(16, 16, 3)
    mean, std = torch.tensor([0.485, 0.456, 0.406], dtype=dtype), torch.tensor([0.229, 0.224, 0.225], dtype=dtype)
    undone = ((levels.to(dtype) - mean) / std) * std + mean
    found = st.load_images(undone)[0]
    step = 255 * torch.finfo(dtype).eps
    assert np.abs(found - np.asarray(levels * 255)).max() <= 0.5 + 2 * step
    with pytest.raises(SpectralToolkitError, match=r"holds values from -2\.\d+ to 2\.\d+; expected 0 to 1"):
        st.load_images((levels.to(dtype) - mean) / std)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1.003), (-0.0021, 1), (0, 2), (0, 31.8), (0, 256), (-0.6, 255), (-1, 1), (0, np.inf), (np.nan, 1)],
)
def test_more_than_rounding_is_refused_and_the_numbers_are_told(low: float, high: float) -> None:
    values = np.array([[low, high, 0.5]])
    with pytest.raises(SpectralToolkitError, match="expected 0 to 1") as told:
        st.load_images(values)
    assert "from 0 to 1;" not in str(told.value)
    assert np.isnan(low) or f"from {low:.9g} to {high:.9g};" in str(told.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_0_to_255_are_read_as_levels_and_clipped(dtype: type[np.floating]) -> None:
    values = np.full((2, 3), 100.4, dtype)
    values[0] = np.nextafter(dtype(255), dtype(256)), -1e-5, 255
    wanted = [[255, 0, 255], [100, 100, 100]]
    assert st.load_images(values)[0][..., 0].tolist() == wanted
    dark = np.stack([values, np.ones_like(values)])[..., None].repeat(3, axis=-1)
    assert [image[..., 0].tolist() for image in st.load_images(dark)] == [wanted, [[1, 1, 1]] * 2], "one range for all"


def test_a_resized_picture_is_read() -> None:
    # Weights of a bilinear filter that sum to one, but for rounding.
    white = torch.ones(1, 3, 17, 23)
    larger = torch.nn.functional.interpolate(white, size=(50, 61), mode="bilinear", antialias=True)
    assert (st.load_images(larger[0].permute(1, 2, 0))[0] == 255).all()


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_plain_file_is_refused_without_waiting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
        monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("would wait"))
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a.png")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    if kind != "folder":
        for source in (path, str(tmp_path / "*.png")):
            with pytest.raises(SpectralToolkitError, match=rf"a\.png' cannot be read as an image: it is a {kind};"):
                st.load_images(source)
    with pytest.raises(SpectralToolkitError, match=f"it is a {kind}; give a file that contains an image"):
        read_numbers(path)


def _png_with(name: bytes, data: bytes) -> bytes:
    return png(RGB, 8, 2, chunk(name, data))


def _header(width: int, height: int) -> bytes:
    return WHOLE["PNG"][:8] + chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)) + WHOLE["PNG"][33:]


WHOLE = {kind: encoded(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8), kind) for kind in KINDS}
DAMAGED = {
    "checksum": WHOLE["PNG"][:30] + bytes(4) + WHOLE["PNG"][34:],
    "damaged pixels": WHOLE["PNG"][:60] + bytes(40) + WHOLE["PNG"][100:],
    "short transparency": _png_with(b"tRNS", b"\0"),
    "compression bomb of text": _png_with(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 2**20))),
    "no pixels": WHOLE["PNG"][:33] + chunk(b"IEND", b""),
    "width 0": _header(0, 40),
    "huge": _header(60_000, 60_000),
    "JPEG cut short": WHOLE["JPEG"][: len(WHOLE["JPEG"]) // 2],
    "JPEG of a header": WHOLE["JPEG"][:20],
    "WebP cut short": WHOLE["WEBP"][: len(WHOLE["WEBP"]) // 2],
    "empty": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_is_raised_is_one_sentence_that_names_the_file(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "spoilt.picture", DAMAGED[name])
    pattern = r"The (file|image) '.*spoilt\.picture' (cannot be read as an image|is damaged or gone): [^\n]+"
    with pytest.raises(SpectralToolkitError) as told:
        _ = st.load_images(path)[0]
    assert re.fullmatch(pattern, str(told.value))


def test_a_damaged_png_is_told_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(SpectralToolkitError, match=r"a\.png' cannot be read as an image"):
        st.load_images(saved(tmp_path / "a.png", DAMAGED["damaged pixels"]))


def test_damage_beside_the_pixels_is_none(tmp_path: Path) -> None:
    for data in (_png_with(b"iCCP", b"name\0\0not compressed"), _png_with(b"eXIf", b""), _png_with(b"pHYs", bytes(9))):
        upright(saved(tmp_path / "a.png", data), 1)


def test_an_image_of_pillow_that_cannot_be_read_is_one_sentence_too(tmp_path: Path) -> None:
    with (
        Image.open(io.BytesIO(WHOLE["JPEG"][:-900])) as image,
        pytest.raises(SpectralToolkitError, match="image <PIL.* is damaged or already closed: "),
    ):
        st.load_images(image)
    with Image.open(saved(tmp_path / "a.png", WHOLE["PNG"])) as image:
        pass
    with pytest.raises(SpectralToolkitError, match="is damaged or already closed: "):
        st.load_images(image)
    with pytest.raises(SpectralToolkitError, match="holds no pixels|is damaged, or"):
        st.load_images(Image.new("RGB", (0, 4)))
