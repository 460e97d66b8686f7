"""Reading pictures: everything a user may hold becomes the same lazy sequence of RGB arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._io.images import Images
from spectral_toolkit.errors import SpectralToolkitError

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
STACK = np.stack([RGB, RGB[::-1]])
DIMS = ("image", "y_px", "x_px", "rgb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "c.bmp"):
        Image.fromarray(RGB).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deeper").mkdir()
    Image.fromarray(RGB).save(tmp_path / "deeper" / "a.png")
    return tmp_path


SOURCES: dict[str, tuple[Callable[[], Any], int]] = {
    "pil": (lambda: Image.fromarray(RGB), 1),
    "array": (lambda: RGB, 1),
    "batch": (lambda: STACK, 2),
    "floats": (lambda: STACK.astype(np.float32) / 255, 2),
    "integers": (lambda: STACK.astype(np.int64), 2),
    "tensor": (lambda: torch.from_numpy(STACK), 2),
    "tensor with gradient": (lambda: (torch.from_numpy(STACK) / 255).requires_grad_(), 2),
    "data array": (lambda: xr.DataArray(STACK, dims=("image", "y_px", "x_px", "rgb")), 2),
    "transposed data array": (
        lambda: xr.DataArray(STACK, dims=("image", "y_px", "x_px", "rgb")).transpose("rgb", "x_px", "image", "y_px"),
        2,
    ),
    "one of a data array": (lambda: xr.DataArray(STACK, dims=("image", "y_px", "x_px", "rgb"))[0], 1),
    "tree": (lambda: xr.DataTree(xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), STACK)})), 2),
    "dataset": (lambda: xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), STACK)}), 2),
    "data array with transparency": (
        lambda: xr.DataArray(np.pad(STACK, [(0, 0)] * 3 + [(0, 1)], constant_values=255), dims=DIMS),
        2,
    ),
    "one data array with transparency": (
        lambda: xr.DataArray(np.pad(RGB, [(0, 0)] * 2 + [(0, 1)], constant_values=255), dims=DIMS[1:]),
        1,
    ),
    "generator": (lambda: (picture for picture in STACK), 2),
    "pictures": (lambda: st.load_images(STACK), 2),
    "list": (lambda: [RGB, Image.fromarray(RGB[::-1])], 2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_pictures(name: str) -> None:
    make, count = SOURCES[name]
    pictures = st.load_images(make())
    assert isinstance(pictures, Images)
    assert len(pictures) == count == len(set(pictures.names))
    assert pictures.sizes == ((4, 6),) * count
    for picture, expected in zip(pictures, STACK, strict=False):
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, expected)


def test_paths_patterns_and_folders(folder: Path) -> None:
    assert st.load_images(folder).names == ("a.png", "b.png", "c.bmp")
    assert st.load_images(str(folder / "*.png")).names == ("a.png", "b.png")
    assert st.load_images(str(folder / "**" / "a.png")).names == (f"{folder.name}/a.png", "deeper/a.png")
    pictures = st.load_images([folder / "c.bmp", str(folder / "a.png"), RGB])
    assert pictures.names == ("c.bmp", "a.png", "image_2")
    np.testing.assert_array_equal(pictures[1], RGB)


def test_a_file_with_brackets_in_its_name_is_not_a_pattern(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "cat[1].png")
    assert st.load_images(tmp_path / "cat[1].png").names == ("cat[1].png",)


def test_names_are_unique_and_kept_by_slices() -> None:
    labelled = xr.DataArray(STACK, dims=("image", "y_px", "x_px", "rgb"), coords={"image": ["x", "x"]})
    pictures = st.load_images([labelled, labelled])
    assert pictures.names == ("x", "x (2)", "x (3)", "x (4)")
    assert pictures[2:].names == ("x (3)", "x (4)")
    assert pictures[-1].shape == (4, 6, 3)
    assert "4 (x" in repr(pictures)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    pictures = st.load_images(tmp_path / "turned.png")
    np.testing.assert_array_equal(pictures[0], turns[orientation](RGB))
    assert pictures.sizes == (pictures[0].shape[:2],)


def test_grey_transparent_and_deep_pictures() -> None:
    grey = RGB[..., 0]
    np.testing.assert_array_equal(st.load_images(grey)[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(st.load_images(grey[..., None])[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(st.load_images(Image.fromarray(grey))[0], np.dstack([grey] * 3))
    clear = np.dstack([RGB, np.zeros((4, 6), np.uint8)])
    assert (st.load_images(clear)[0] == 255).all()
    assert (st.load_images(Image.fromarray(clear))[0] == 255).all()
    solid = np.dstack([RGB, np.full((4, 6), 255, np.uint8)])
    np.testing.assert_array_equal(st.load_images(solid)[0], RGB)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(st.load_images(deep)[0][..., 0], grey)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_deep_grey_is_scaled_by_its_kind_and_not_by_its_content(tmp_path: Path, ending: str) -> None:
    dark = np.arange(24, dtype=np.uint16).reshape(4, 6) * 10  # at most 230 of 65,535
    Image.fromarray(dark).save(tmp_path / f"dark.{ending}")
    with pytest.warns(UserWarning, match="nearly black: if its values fill fewer bits, .* give an array of floats"):
        found = st.load_images(tmp_path / f"dark.{ending}")[0][..., 0]
    np.testing.assert_array_equal(found, (dark / 257).round())


def test_deep_pictures_that_are_bright_or_quite_black_are_nothing_to_warn_of() -> None:
    for brightest in (0, 8_192, 65_535):
        picture = np.array([[0, brightest]], dtype=np.uint16)
        assert st.load_images(Image.fromarray(picture))[0].max() == round(brightest / 257)
    with pytest.warns(UserWarning, match="16-bit image"):
        st.load_images(Image.fromarray(np.array([[0, 4095]], dtype=np.uint16)))


def test_float_pictures_follow_the_rules_of_float_arrays(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    Image.fromarray(values).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(st.load_images(tmp_path / "float.tif")[0], st.load_images(values)[0])
    Image.fromarray(values * 300).save(tmp_path / "float.tif")
    with pytest.raises(SpectralToolkitError, match=r"float\.tif' cannot be used: .* expected 0 to 1"):
        st.load_images(tmp_path / "float.tif")[0]


def test_reading_is_lazy(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    pictures = st.load_images(tmp_path / "a.png")
    Image.fromarray(RGB[::-1]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pictures[0], RGB[::-1])


def test_hash_follows_the_content(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "b.png")
    first, second = st.load_images(tmp_path / "a.png"), st.load_images(tmp_path / "b.png")
    assert first.sha256 == second.sha256
    assert st.load_images(RGB).sha256 == st.load_images(RGB.copy()).sha256
    assert st.load_images(RGB).sha256 != st.load_images(RGB[::-1]).sha256
    assert st.load_images(RGB).sha256 != st.load_images(RGB.reshape(6, 4, 3)).sha256


BAD: dict[str, tuple[Any, str]] = {
    "missing file": ("no/such/picture.jpg", "does not exist"),
    "empty pattern": ("no/such/*.jpg", "No file matches the pattern"),
    "wrong type": (3.5, "Images cannot be read from 3.5"),
    "nothing": ([], "There is no image in"),
    "channels first": (np.zeros((3, 8, 8)), "channels come last"),
    "tensor with channels first": (torch.zeros(1, 3, 8, 8), r"permute it with \(0, 2, 3, 1\) first"),
    "channels first, four pixels wide": (torch.zeros(1, 3, 4, 4), "channels come last"),
    "data array without rows": (xr.DataArray(STACK[:, :0], dims=DIMS), "holds no images"),
    "data array of two channels": (xr.DataArray(STACK[..., :2], dims=DIMS), "rgb must be 3"),
    "empty path": ("", "is empty"),
    "endless path": ("x" * 5000, "(cannot be used \\(File name too long\\)|does not exist)"),
    "empty generator": (iter(()), "There is no image in"),
    "one dimension": (np.zeros(8), "is not an image"),
    "floats out of range": (RGB.astype(float) * 2 + 300, "expected 0 to 1"),
    "not a number": (np.full((4, 4, 3), np.nan), "expected 0 to 1"),
    "integers out of range": (RGB.astype(int) + 500, "expected 0 to 255"),
    "text": (np.full((4, 4, 3), "a"), "is not an image"),
    "no pixels": (np.zeros((0, 4, 3), np.uint8), "holds no pixels"),
    "wrong dimensions": (xr.DataArray(RGB, dims=("a", "b", "c")), r"\(image, y_px, x_px, rgb\)"),
    "tree without pixels": (xr.DataTree(), "no variable 'pixels'"),
    "dataset without pixels": (xr.Dataset({"label": 1}), "no variable 'pixels', only .'label'"),
    "deep integers of unknown range": (Image.fromarray(np.full((4, 4), 4095, np.int32)), "expected 0 to 255"),
    "floats of unknown range": (Image.fromarray(np.full((4, 4), 3.5, np.float32)), "expected 0 to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence(name: str) -> None:
    source, message = BAD[name]
    with pytest.raises(SpectralToolkitError, match=message):
        st.load_images(source)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_bytes(b"no picture")
    with pytest.raises(SpectralToolkitError, match=r"fake\.png.* cannot be read as an image"):
        st.load_images(tmp_path)
    (tmp_path / "fake.png").unlink()
    with pytest.raises(SpectralToolkitError, match="holds no image"):
        st.load_images(tmp_path)
    Image.fromarray(RGB).save(tmp_path / "cut.png")
    pictures = st.load_images(tmp_path)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(SpectralToolkitError, match=re.escape("cut.png") + ".* is damaged or gone"):
        pictures[0]
    (tmp_path / "cut.png").unlink()
    with pytest.raises(SpectralToolkitError, match="cannot be read"):
        _ = pictures.sha256


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_file_cut_off_is_noticed_before_any_work(ending: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for name in "ab":
        Image.fromarray(noise).save(tmp_path / f"{name}.{ending}")
    whole = (tmp_path / f"b.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(whole + b"trailing bytes that nobody minds" * 9)
    assert st.load_images(tmp_path).sha256
    (tmp_path / f"b.{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpectralToolkitError, match=rf"b\.{ending}.* (is damaged or gone|cannot be read as an image)"):
        _ = st.load_images(tmp_path).sha256


def test_pictures_that_a_folder_holds_and_nobody_can_read_are_told(folder: Path) -> None:
    for name in ("d.jfif", "e.JPE"):
        Image.fromarray(RGB).save(folder / name, format="JPEG")
    assert st.load_images(folder).names == ("a.png", "b.png", "c.bmp", "d.jfif", "e.JPE")
    (folder / "._f.HEIC").write_bytes(b"what macOS leaves beside it")
    assert len(st.load_images(folder)) == 5
    (folder / "f.HEIC").write_bytes(b"from a phone")
    with pytest.warns(UserWarning, match=r"1 of the images .* cannot be read and are left out, such as 'f\.HEIC'"):
        assert len(st.load_images(folder)) == 5


def test_bfloat16_tensors() -> None:
    tensor = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16).expand(4, 6, 3)
    np.testing.assert_array_equal(st.load_images(tensor)[0][0, 0], [0, 128, 255])


def test_open_files_are_refused(folder: Path) -> None:
    with (folder / "a.png").open("rb") as file, pytest.raises(SpectralToolkitError, match="cannot be read from"):
        st.load_images(file)


def test_names_can_be_written_as_utf_8(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    pictures = st.load_images(tmp_path)
    assert pictures.names == ("caf\ufffd.png",)
    np.testing.assert_array_equal(pictures[0], RGB)


def test_hidden_files_are_no_pictures(folder: Path) -> None:
    (folder / "._a.png").write_bytes(b"what macOS leaves beside a.png")
    assert st.load_images(folder).names == ("a.png", "b.png", "c.bmp")


def test_an_array_changed_later_changes_no_picture() -> None:
    array = RGB.copy()
    pictures = st.load_images(array)
    array[:] = 0
    np.testing.assert_array_equal(pictures[0], RGB)
