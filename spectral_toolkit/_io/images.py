"""Reading images: whatever the user has becomes a lazy sequence of RGB arrays with unique names.

Files are opened once for their size when the sequence is made, and read again each time an image is asked for, so that
a folder of a hundred thousand images takes no memory.
"""

from __future__ import annotations

import glob as globbing
import hashlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from PIL import Image

from .._compute.arguments import shown
from .._compute.settings import computing
from .._compute.warned import outside
from ..errors import SpectralToolkitError
from .decoding import picture_size, read_picture, rgb_of
from .outputs import local_path
from .pixel_values import HALF_LEVEL, is_of_levels, to_rgb, to_uint8
from .reprs import Described, few

if TYPE_CHECKING:
    import xarray as xr

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of the files that are read when a whole directory is given."""
UNREAD = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".orf", ".raw", ".rw2", ".svg")
"""Endings of images that cannot be read; this is reported when a directory holds some."""

_ACCEPTED = (
    "a glob pattern, a path, a directory, PIL images, arrays of shape (height, width, 3) or (image, height, width, 3), "
    "a DataArray (image, y_px, x_px, rgb), or a list of these"
)
_ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))
_TAIL = 64
"""How complete files of these formats end, within the last few bytes; other formats are decoded to check them."""

IMAGE_HASH = "image_sha256"
"""Coordinate along ``image`` of every result: `pixels_sha256` of the image that it belongs to."""
FRAMES = "frames"
"""Name of the coordinate that says how many steps of time a still image was shown at, one below the other."""
_ORIGINAL_SIZE = ("original_height", "original_width")


@dataclass(frozen=True)
class _Entry:
    """One image: its size without reading the pixels, and how to read and hash them.

    ``path`` is the place of a file, for a name that must differ from others. ``sha256`` is the hash of the image before
    it was resized to these pixels; it is empty where they are the image itself.
    """

    name: str
    size: tuple[int, int]
    read: Callable[[], np.ndarray]
    content: Callable[[], bytes | memoryview]
    file: Path | None = None
    path: str = ""
    sha256: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        # Functions bound to an image cannot be pickled: a file is opened again, and everything else is pickled as
        # pixels.
        facts = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("read", "content")}
        return _entry_again, (self.read() if self.file is None else self.file, facts)


class Images(Described, Sequence[np.ndarray]):
    """A lazy sequence of uint8 RGB arrays of shape (height, width, 3).

    Attributes
    ----------
    names
        One unique name per image: the file name, with as many of its folders (``good/000.png``) as are needed to
        distinguish files of one name; or ``image_0``, ``image_1``, ... where there is none.
    paths
        The paths of the files; empty for an image that is not a file.
    sizes
        ``(height, width)`` in pixels of every image, after its EXIF orientation is applied.

    Examples
    --------
    >>> pictures = load_images(np.zeros((2, 4, 6, 3), dtype=np.uint8))
    >>> len(pictures), pictures.sizes, pictures.names
    (2, ((4, 6), (4, 6)), ('image_0', 'image_1'))
    """

    def __init__(self, entries: Sequence[_Entry]):
        self._entries = tuple(entries)
        self.names = _unique(self._entries)
        self.paths = tuple(entry.path for entry in self._entries)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(entry.size for entry in self._entries)

    @cached_property
    def sha256(self) -> str:
        """Hash over the content of all images in order: the bytes of a file, or of an array with its shape."""
        digest = hashlib.sha256()
        for entry in self._entries:
            digest.update(hashlib.sha256(entry.content()).digest())
            digest.update(repr(entry.size).encode())
        return digest.hexdigest()

    @property
    def names_sha256(self) -> str:
        """Hash over the names of all images in order."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def hashed(self, index: int) -> tuple[np.ndarray, str]:
        """One image, and the hash by which it is recognised at any size: see `pixels_sha256`."""
        entry = self._entries[index]
        pixels = entry.read()
        return pixels, entry.sha256 or pixels_sha256(pixels)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Images: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Images:
        if isinstance(index, slice):
            return Images(list(self._named())[index])
        return self._entries[index].read()

    def _named(self) -> Iterator[_Entry]:
        """The entries, under their names in this sequence."""
        return (replace(entry, name=name) for name, entry in zip(self.names, self._entries, strict=True))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (entry.read() for entry in self._entries)

    def _facts(self) -> dict[str, object]:
        sizes = list(dict.fromkeys(f"{height}x{width}" for height, width in (one.size for one in self._entries)))
        return {"pictures": few(self.names), "height x width": few(sizes)}

    def _line(self) -> str:
        return f"<Images: {few(self.names)}>"


@computing
def load_images(source: object) -> Images:
    """Make a lazy sequence of RGB images from files, arrays and other objects that hold images.

    Parameters
    ----------
    source
        A glob pattern (``"photos/*.jpg"``, ``"**"`` for all folders below), a path, a directory (every image directly
        in it, sorted by name), a PIL image, a NumPy array or torch tensor of shape ``(height, width)``, ``(height,
        width, 1 | 3 | 4)`` or ``(image, height, width, 3)`` with uint8 values, floats from 0 to 1, or floats from 0 to
        255 of which one is above 32 (rounding errors beyond either range are clipped), an ``xarray.DataArray (image,
        y_px, x_px, rgb)`` such as ``scenes.sample(8, seed=0).pixels``, a Dataset or a tree of activations (its
        ``pixels``), ``Images``, or a list or generator of any of these. Arrays are copied; files and DataArrays are
        read when an image is asked for. Hidden files in a directory are left out.

    Returns
    -------
    Images
        A sequence of uint8 arrays of shape (height, width, 3) with ``names`` and ``sizes``. EXIF orientation is
        applied, grey becomes RGB, transparency becomes white, and 16 bits become 8.

    Raises
    ------
    SpectralToolkitError
        If a path does not exist, or a file or an array is not an image.

    Examples
    --------
    >>> load_images(np.linspace(0, 1, 12).reshape(3, 4))[0].shape
    (3, 4, 3)
    """
    entries = list(_entries(source))
    if not entries:
        raise SpectralToolkitError(f"There is no image in {shown(source)}: expected {_ACCEPTED}.")
    return Images(entries)


def _entries(source: Any) -> Iterator[_Entry]:
    if isinstance(source, Images):
        yield from source._named()
    elif isinstance(source, (str, os.PathLike)):
        yield from _path_entries(os.fsdecode(source))
    elif isinstance(source, Image.Image):
        path = getattr(source, "filename", "") or ""
        yield _array_entry(rgb_of(source), Path(path).name, path)
    elif hasattr(source, "data_vars"):  # a Dataset, or a DataTree
        yield from _dataset_entries(source)
    elif hasattr(source, "dims") and hasattr(source, "coords"):
        yield from _data_array_entries(source)
    elif hasattr(source, "__array__"):  # tensors have it, too
        yield from _array_entries(source)
    elif isinstance(source, (list, tuple)) or (isinstance(source, Iterator) and not isinstance(source, io.IOBase)):
        for part in source:
            yield from _entries(part)
    else:
        raise SpectralToolkitError(f"Images cannot be read from {shown(source)}: expected {_ACCEPTED}.")


def _path_entries(text: str) -> Iterator[_Entry]:
    if not text.strip():
        raise SpectralToolkitError(f"The path {text!r} is empty: expected {_ACCEPTED}.")
    path = local_path(text, "images", error=SpectralToolkitError)
    text = str(path) if text.startswith("~") else text
    # An existing path takes precedence over a pattern, because file names may contain square brackets.
    if path.is_dir():
        # Hidden files are not the user's images: macOS puts "._cat.png" beside "cat.png".
        visible = sorted(child for child in path.iterdir() if not child.name.startswith("."))
        found = [child for child in visible if child.suffix.lower() in SUFFIXES and child.is_file()]
        if not found:
            raise SpectralToolkitError(
                f"The directory {text!r} holds no image: expected files ending in {', '.join(SUFFIXES)}."
            )
        unread = [child.name for child in visible if child.suffix.lower() in UNREAD]
        if unread:
            warnings.warn(
                f"{len(unread)} of the images in {text!r} cannot be read and are left out, such as {unread[0]!r}: "
                "convert them to PNG or JPEG first.",
                stacklevel=outside(),
            )
    elif path.exists():
        found = [path]
    elif globbing.has_magic(text):
        found = sorted(Path(name) for name in globbing.glob(text, recursive=True) if not os.path.isdir(name))
        if not found:
            raise SpectralToolkitError(f"No file matches the pattern {text!r}: check the folder and the ending.")
    else:
        raise SpectralToolkitError(f"The image {text!r} does not exist: check the path.")
    for file in found:
        yield replace(_file_entry(file), file=file.absolute())


def _entry_again(source: Path | np.ndarray, facts: dict[str, object]) -> _Entry:
    """Make an entry from a pickle, as a worker of a DataLoader receives it."""
    return replace(_file_entry(source) if isinstance(source, Path) else _array_entry(source, ""), **facts)


def _file_entry(path: Path) -> _Entry:
    size = picture_size(path)

    def read() -> np.ndarray:
        return read_picture(path)

    def content() -> bytes:
        try:
            found = path.read_bytes()
        except OSError as error:
            raise SpectralToolkitError(f"The image {str(path)!r} cannot be read: {error}.") from error
        # Everything is read here once, so that an incomplete download is reported now and not after hours of work.
        if not any(end in found[-_TAIL:] for start, end in _ENDS if found.startswith(start)):
            read()
        return found

    return _Entry(_text(path.name), size, read, content, path=os.path.abspath(path))


def _dataset_entries(source: xr.Dataset | xr.DataTree) -> Iterator[_Entry]:
    if "pixels" not in source.data_vars:
        kind, place = ("tree of activations", "its root") if hasattr(source, "children") else ("Dataset", "it")
        raise SpectralToolkitError(
            f"The {kind} holds no images: {place} has no variable 'pixels', only {list(map(str, source.data_vars))}."
        )
    yield from _data_array_entries(cast("xr.DataArray", source["pixels"]))


def _data_array_entries(array: xr.DataArray) -> Iterator[_Entry]:
    spatial = ("y_px", "x_px", "rgb")
    if set(array.dims) not in ({"image", *spatial}, set(spatial)):
        raise SpectralToolkitError(
            f"A DataArray of images has dimensions (image, y_px, x_px, rgb), but this one has {tuple(array.dims)}."
        )
    if array.sizes["rgb"] not in (1, 3, 4) or 0 in (array.sizes["y_px"], array.sizes["x_px"]):
        raise SpectralToolkitError(
            f"A DataArray of sizes {dict(array.sizes)} holds no images: rgb must be 3 (or 1 or 4), y_px and x_px at "
            "least 1."
        )
    if "image" not in array.dims:
        pixels = to_rgb(to_uint8(array.transpose(*spatial).to_numpy()))
        yield replace(_array_entry(pixels, ""), sha256=_original_sha256(array, pixels.shape[:2]))
        return
    array = array.transpose("image", *spatial)
    names = array.coords["image"].to_numpy() if "image" in array.coords else range(array.sizes["image"])
    for index, name in enumerate(names):
        # Labels that are numbers have no more meaning than a position.
        label = f"image_{name}" if isinstance(name, (int, np.integer)) else str(name)
        yield _lazy_entry(array.isel(image=index), label)


def _lazy_entry(picture: xr.DataArray, name: str) -> _Entry:
    def read() -> np.ndarray:
        return to_rgb(to_uint8(picture.to_numpy()))

    size = (picture.sizes["y_px"], picture.sizes["x_px"])
    return _Entry(name, size, read, lambda: np.ascontiguousarray(read()).data, sha256=_original_sha256(picture, size))


def _original_sha256(picture: xr.DataArray, size: tuple[int, ...]) -> str:
    """The hash of the image from which these pixels were resized; pixels that were not resized have their own hash."""
    known = {name: picture.coords[name].item() for name in (IMAGE_HASH, *_ORIGINAL_SIZE) if name in picture.coords}
    if len(known) < 3 or tuple(known[name] for name in _ORIGINAL_SIZE) == size:
        return ""
    return str(known[IMAGE_HASH])


def _array_entries(source: Any) -> Iterator[_Entry]:
    slack = HALF_LEVEL
    torch = sys.modules.get("torch")  # a tensor exists only where torch is loaded
    if torch is not None and isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        if source.dtype == torch.bfloat16:  # a type that NumPy does not know
            source, slack = source.float(), torch.finfo(source.dtype).eps  # the step above 1, which is two levels
    array = np.asarray(source)
    channels_last = array.ndim > 1 and array.shape[-1] in (1, 3, 4)
    channels_first = array.ndim in (3, 4) and array.shape[-3] in (1, 3, 4) and not channels_last
    if array.ndim in (3, 4) and array.shape[-3] == 3 and array.shape[-1] != 3:
        channels_first = True  # three channels, four pixels wide, rather than three pixels high with transparency
    if array.ndim == 4 and channels_last and not channels_first:
        pictures = list(array)
    elif array.ndim == 2 or (array.ndim == 3 and channels_last and not channels_first):
        pictures = [array]
    else:
        order = "(1, 2, 0)" if array.ndim == 3 else "(0, 2, 3, 1)"
        hint = f": channels come last, so permute it with {order} first" if channels_first else ""
        raise SpectralToolkitError(
            f"An array of shape {array.shape} is not an image{hint}; expected (height, width, 3) or "
            "(image, height, width, 3), that is (N, H, W, 3)."
        )
    levels = is_of_levels(array, slack) or None  # over all images, because one of them may be dark
    for picture in pictures:
        yield _array_entry(to_rgb(to_uint8(picture, slack, levels=levels)), "")


def _array_entry(picture: np.ndarray, name: str, path: str = "") -> _Entry:
    picture = np.array(picture, order="C")  # a copy, so that later changes of the array do not change the image
    if picture.size == 0:
        raise SpectralToolkitError(f"An array of shape {picture.shape} holds no pixels.")
    height, width = picture.shape[:2]
    return _Entry(name, (height, width), lambda: picture, lambda: picture.data, path=path and os.path.abspath(path))


def _unique(entries: Sequence[_Entry]) -> tuple[str, ...]:
    """Unique names: positions where there is no name, and folders with files of the same name.

    A repeated name with the same path, or without a path, becomes ``name (2)``.
    """
    names = [entry.name or f"image_{index}" for index, entry in enumerate(entries)]
    while grown := {
        place: longer
        for place in _mixed_up(names, entries)
        if len(longer := _longer(names[place], entries[place].path)) > len(names[place])
    }:
        for place, name in grown.items():
            names[place] = name
    taken: set[str] = set()
    for place, wanted in enumerate(names):
        candidate, copy = wanted, 1
        while candidate in taken:
            copy += 1
            candidate = f"{wanted} ({copy})"
        taken.add(candidate)
        names[place] = candidate
    return tuple(names)


def _mixed_up(names: Sequence[str], entries: Sequence[_Entry]) -> list[int]:
    """Positions of names that stand for files in several folders."""
    paths: dict[str, set[str]] = {}
    for name, entry in zip(names, entries, strict=True):
        paths.setdefault(name, set()).add(entry.path)
    return [place for place, name in enumerate(names) if len(paths[name]) > 1]


def _longer(name: str, path: str) -> str:
    """The name with one more of its path's folders before it; unchanged where there is no further folder."""
    folders = _text(str(Path(path).parent)).replace(os.sep, "/").split("/")[: -name.count("/") or None]
    return f"{folders[-1]}/{name}" if path and folders and folders[-1] else name


def pixels_sha256(pixels: np.ndarray) -> str:
    """Hash of an image's pixels as `load_images` reads them, uint8 (height, width, 3), whatever their file."""
    digest = hashlib.sha256(repr(pixels.shape[:2]).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _text(name: str) -> str:
    """A file name that UTF-8 can write, as stores and pages need it; a file name may be any bytes."""
    return os.fsencode(name).decode("utf-8", "replace")
