"""From a file, or an image of Pillow's, to pixels: the one place where Pillow is asked to decode anything.

Whatever Pillow raises becomes one sentence that names the file. Of all metadata only the orientation and the
transparent colour are read: both are looked up before the pixels are decoded, so that an odd entry beside them does no
harm, and the size that is told without decoding is the size of what is decoded.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from .._compute.warned import outside
from ..errors import SpectralToolkitError, first_line
from .pixel_values import to_rgb, to_uint8

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what brings a picture of that orientation upright; from 5 on height and width change places
_SIZE_IN_HEADER = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PPM", "TIFF", "WEBP"}
"""All others are decoded to learn their size: a PNG may name its orientation after its pixels, and an icon's header
another size than its content has."""
_DARK = 65_535 / 8
"""A 16-bit picture without a brighter pixel is most likely one of 12 bits or fewer."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey of few bits over 0 to 255, and leaves its transparent value as the file has it."""
_DEEP_RGB, _DEEP_RGB_LOW = "RGB;16B", "RGB;16L"
"""Pillow keeps the first byte of colours of two. Read as if their bytes were swapped, they give the second."""
_KINDS = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of the picture in a file, the right way up.

    Raises
    ------
    SpectralToolkitError
        If there is no such file, or it cannot be read as a picture.
    """
    with _opened(path, "The file {} cannot be read as a picture") as image:
        if image.format not in _SIZE_IN_HEADER:
            image.load()
        orientation = _prepared(image) or _orientation(image)
        width, height = image.size
        return (width, height) if orientation >= 5 else (height, width)


def read_picture(path: Path) -> np.ndarray:
    """The picture in a file as uint8 RGB.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded, or are numbers of an unknown range.
    """
    with _opened(path, "The picture {} is damaged or gone") as image:
        orientation = _prepared(image)
        decoded = _decoded(image)
        return _rgb(_turned(decoded, orientation or _orientation(image)), is_pgm=image.format == "PPM")


def read_numbers(path: Path) -> np.ndarray:
    """The numbers in a file as they are stored, such as labels: places in a palette rather than its colours.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded.
    """
    with _opened(path, "The file {} cannot be read as a picture") as image:
        orientation = _prepared(image)
        image.load()
        return np.asarray(_turned(image, orientation or _orientation(image)))


def rgb_of(image: Image.Image) -> np.ndarray:
    """An image of Pillow's as uint8 RGB; it is not changed.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded, or are numbers of an unknown range.
    """
    with _sentences(f"The image {repr(image)[:80]} is damaged, or closed already"):
        decoded = _decoded(image)  # a TIFF is turned by that, and forgets its orientation
        return _rgb(_turned(decoded, _orientation(image)), is_pgm=image.format == "PPM")


@contextmanager
def _opened(path: Path, complaint: str) -> Iterator[Image.Image]:
    shown = repr(str(path))
    with _sentences(complaint.format(shown), f"The picture {shown} cannot be used"):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe waits for whoever writes into it
            kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "device")
            raise OSError(f"it is a {kind}; give a file with a picture in it")
        with Image.open(path) as image:
            yield image


@contextmanager
def _sentences(complaint: str, about_numbers: str = "") -> Iterator[None]:
    """Whatever is raised within becomes one sentence; what is one already gets the name of the file."""
    try:
        yield
    except SpectralToolkitError as error:
        if not about_numbers:
            raise
        raise SpectralToolkitError(f"{about_numbers}: {error}") from error
    except Warning:  # whoever made errors of them wants to see them
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error, ...: each of Pillow's plugins has kinds of its own
        raise SpectralToolkitError(f"{complaint}: {first_line(error)}.") from error


def _orientation(image: Image.Image) -> int:
    """1 to 8, from EXIF or else XMP; 1 where neither says one of these, whatever it says instead."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a block that cannot be read says nothing
        return 1


def _prepared(image: Image.Image) -> int | None:
    """Make an open file ready to be decoded; of a TIFF, the orientation that decoding leaves to us.

    Pillow turns a TIFF as its own tag says while it decodes it, and reads all other blocks on the way: they are taken
    out. All other kinds give None: they may be asked for their orientation when they are decoded.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    orientation = _orientation(image)
    image.info.pop("xmp", None)
    exif = image.getexif()
    for tag in list(exif):
        del exif[tag]
    if _ORIENTATION not in image.tag_v2:
        return orientation
    exif[_ORIENTATION] = image.tag_v2[_ORIENTATION]
    return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, *, is_pgm: bool) -> np.ndarray:
    # PIL clips deep grey at 255 when it converts. What the numbers mean follows from the mode, never from their size: a
    # dark 16-bit picture stays dark. A PGM of 16 bits arrives in 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and is_pgm):
        return _rgb_from_deep_grey(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("I", "F"):
        return to_rgb(to_uint8(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that it can be converted to
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _rgb_from_deep_grey(values: np.ndarray, transparent: object) -> np.ndarray:
    if 0 < values.max() < _DARK:
        # The same words for every picture, so that Python says them once and not for each of a folder.
        warnings.warn(
            "A 16-bit picture has no value above an eighth of 65,535 and is taken for nearly black: if its values "
            "fill fewer bits, such as 12, give an array of floats from 0 to 1, as values / 4095, in its place.",
            stacklevel=outside(),
        )
    grey = np.clip(values / 257, 0, 255).round().astype(np.uint8)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return to_rgb(grey)


def _decoded(image: Image.Image) -> Image.Image:
    """The image with its pixels read, and its transparent colour in the numbers that they have now."""
    rawmode = _rawmode(image)  # how pixels lie in the file; forgotten once they are read
    colour = image.info.get("transparency")
    filename = getattr(image, "filename", "")
    image.load()
    if rawmode in _GREY_STEPS and isinstance(colour, int):
        return _with_colour(image, colour * _GREY_STEPS[rawmode])
    if image.mode != "RGB" or not isinstance(colour, tuple) or (max(colour) <= 255 and rawmode != _DEEP_RGB):
        return image
    high = tuple(part >> 8 for part in colour)
    if rawmode != _DEEP_RGB or not filename:  # decoded elsewhere: half of every number is gone
        return _with_colour(image, high)
    with Image.open(filename) as again:
        again.tile = [tile._replace(args=_DEEP_RGB_LOW) for tile in again.tile]
        low = np.asarray(again)
    whole = np.asarray(image).astype(np.uint16) << 8 | low
    clear = (whole == colour).all(axis=-1)
    solid = image.copy()
    solid.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return solid


def _with_colour(image: Image.Image, colour: object) -> Image.Image:
    image = image.copy()
    image.info["transparency"] = colour
    return image


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
