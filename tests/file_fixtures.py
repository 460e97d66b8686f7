"""Files byte by byte: EXIF blocks and PNGs that no writer would write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE = range(1, 13)
"""Types of EXIF values by their number."""
_BYTES = dict(zip(range(1, 13), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), strict=True))

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and the value's bytes, whether or not they fit each other."""


def entry(tag: int, kind: int, value: Any, endian: str = "<") -> Entry:
    """An entry in order: text, bytes, one number or several."""
    if isinstance(value, str | bytes):
        data = value.encode() + b"\0" if isinstance(value, str) else value
        return tag, kind, len(data) // _BYTES[kind], data
    form = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 11: "f", 12: "d"}[kind]
    values = value if isinstance(value, Sequence) else [value]
    return tag, kind, len(values), struct.pack(f"{endian}{len(values)}{form}", *values)


def exif_block(
    entries: Sequence[Entry], *, endian: str = "<", following: int = 0, prefix: bytes = b"Exif\0\0"
) -> bytes:
    """A block with one directory of these entries, in this order."""
    place = 8 + 2 + 12 * len(entries) + 4
    rows, values = b"", b""
    for tag, kind, count, data in entries:
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack(f"{endian}L", place + len(values))
            values += data + b"\0" * (len(data) % 2)
        rows += struct.pack(f"{endian}HHL", tag, kind, count) + field
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(f"{endian}L", 8)
    number, end = struct.pack(f"{endian}H", len(entries)), struct.pack(f"{endian}L", following)
    return prefix + head + number + rows + end + values


def encoded(pixels: np.ndarray, kind: str, exif: bytes | None = None, **options: Any) -> bytes:
    """Pixels in a file of that kind, with an EXIF block as it is."""
    if kind == "PNG" and exif is not None:
        whole = encoded(pixels, kind)
        return whole[:33] + chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) + whole[33:]
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    if kind == "WEBP":
        options = {"lossless": True, **options}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options, **({} if exif is None else {"exif": exif}))
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(values: np.ndarray, depth: int, colour_type: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG of samples (height, width) or (height, width, channel), of ``depth`` bits each, with further chunks."""
    height, width = values.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for y, x, step_y, step_x in passes:
        part = values[y::step_y, x::step_x]
        if part.size:
            rows += b"".join(b"\0" + _packed(row.ravel(), depth) for row in part)
    header = struct.pack(">LLBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def _packed(samples: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return samples.astype(">u2").tobytes()
    bits = np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.ravel()).tobytes()
