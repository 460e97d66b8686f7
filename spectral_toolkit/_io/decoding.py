"""From a file, or one of Pillow's images, to pixels: the only module that lets Pillow decode anything.

Whatever Pillow raises becomes one sentence that names the file. Only the orientation and the transparent colour are
read from the metadata, both before the pixels are decoded, so that an odd entry beside them does no harm, and the size
that is reported without decoding is the size after decoding.
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
}  # the operation that turns an image of each orientation upright; from 5 on, height and width are swapped
_SIZE_IN_HEADER = {"AVIF", "BMP", "GIF", "JPEG", "MPO", "PPM", "TIFF", "WEBP"}
"""All other formats are decoded to find their size: a PNG may give its orientation after its pixels, and the size in an
icon's header may differ from that of its content."""
_DARK = 65_535 / 8
"""A 16-bit image without a brighter pixel is most likely one of 12 bits or fewer."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey values of few bits over 0 to 255, but leaves the transparent value as it is in the file."""
_DEEP_RGB, _DEEP_RGB_LOW = "RGB;16B", "RGB;16L"
"""Pillow keeps the first byte of two-byte colours. Read as if the bytes were swapped, they give the second."""
_KINDS = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of the image in a file, the right way up.

    Raises
    ------
    SpectralToolkitError
        If there is no such file, or it cannot be read as an image.
    """
    with _opened(path, "The file {} cannot be read as an image") as image:
        if image.format not in _SIZE_IN_HEADER:
            image.load()
        orientation = _prepared(image) or _orientation(image)
        width, height = image.size
        return (width, height) if orientation >= 5 else (height, width)


def read_picture(path: Path) -> np.ndarray:
    """The image in a file as uint8 RGB.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded, or are numbers of an unknown range.
    """
    with _opened(path, "The image {} is damaged or gone") as image:
        orientation = _prepared(image)
        decoded = _decoded(image)
        return _rgb(_turned(decoded, orientation or _orientation(image)), is_pgm=image.format == "PPM")


def read_numbers(path: Path) -> np.ndarray:
    """The numbers in a file as they are stored, such as labels: indices of a palette rather than its colours.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded.
    """
    with _opened(path, "The file {} cannot be read as an image") as image:
        orientation = _prepared(image)
        image.load()
        return np.asarray(_turned(image, orientation or _orientation(image)))


def rgb_of(image: Image.Image) -> np.ndarray:
    """One of Pillow's images as uint8 RGB; it is not changed.

    Raises
    ------
    SpectralToolkitError
        If its pixels cannot be decoded, or are numbers of an unknown range.
    """
    with _sentences(f"The image {repr(image)[:80]} is damaged or already closed"):
        decoded = _decoded(image)  # this turns a TIFF, which then forgets its orientation
        return _rgb(_turned(decoded, _orientation(image)), is_pgm=image.format == "PPM")


@contextmanager
def _opened(path: Path, complaint: str) -> Iterator[Image.Image]:
    shown = repr(str(path))
    with _sentences(complaint.format(shown), f"The image {shown} cannot be used"):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe waits until something is written into it
            kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "device")
            raise OSError(f"it is a {kind}; give a file that contains an image")
        with Image.open(path) as image:
            yield image


@contextmanager
def _sentences(complaint: str, about_numbers: str = "") -> Iterator[None]:
    """Turn any error into one sentence; a sentence of our own gets the name of the file."""
    try:
        yield
    except SpectralToolkitError as error:
        if not about_numbers:
            raise
        raise SpectralToolkitError(f"{about_numbers}: {error}") from error
    except Warning:  # these are warnings that the user has turned into errors
        raise
    except (
        Exception
    ) as error:  # OSError, SyntaxError, struct.error, ...: each of Pillow's plugins raises errors of its own
        raise SpectralToolkitError(f"{complaint}: {first_line(error)}.") from error


def _orientation(image: Image.Image) -> int:
    """1 to 8, from EXIF or otherwise XMP; 1 where neither has such a value."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a block that cannot be read is ignored
        return 1


def _prepared(image: Image.Image) -> int | None:
    """Prepare an open file for decoding; for a TIFF, return the orientation that decoding leaves to us.

    While Pillow decodes a TIFF, it turns it by the TIFF's own tag and reads all other blocks, which are therefore
    removed. For all other formats this returns None: they can be asked for their orientation when they are decoded.
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
    # PIL clips deep grey at 255 when it converts. The meaning of the numbers follows from the mode, never from their
    # size: a dark 16-bit image stays dark. A PGM of 16 bits arrives in 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and is_pgm):
        return _rgb_from_deep_grey(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("I", "F"):
        return to_rgb(to_uint8(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")  # the only mode to which it can be converted
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _rgb_from_deep_grey(values: np.ndarray, transparent: object) -> np.ndarray:
    if 0 < values.max() < _DARK:
        # The same words for every image, so that Python shows the warning once and not for each image of a folder.
        warnings.warn(
            "A 16-bit image has no value above an eighth of 65,535 and is taken as nearly black: if its values "
            "fill fewer bits, such as 12, give an array of floats from 0 to 1 instead, such as values / 4095.",
            stacklevel=outside(),
        )
    grey = np.clip(values / 257, 0, 255).round().astype(np.uint8)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return to_rgb(grey)


def _decoded(image: Image.Image) -> Image.Image:
    """The image with its pixels read, and its transparent colour in the present numbers."""
    rawmode = _rawmode(image)  # the layout of pixels in the file, which is forgotten once they are read
    colour = image.info.get("transparency")
    filename = getattr(image, "filename", "")
    image.load()
    if rawmode in _GREY_STEPS and isinstance(colour, int):
        return _with_colour(image, colour * _GREY_STEPS[rawmode])
    if image.mode != "RGB" or not isinstance(colour, tuple) or (max(colour) <= 255 and rawmode != _DEEP_RGB):
        return image
    high = tuple(part >> 8 for part in colour)
    if rawmode != _DEEP_RGB or not filename:  # decoded elsewhere: half of every number is lost
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
