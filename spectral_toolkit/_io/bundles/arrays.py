"""xarray objects as the files of a zarr store in memory, and back, with a short list of what a store may contain.

An array is one chunk of little-endian numbers or fixed-length text with a checksum: there is no compression that could
expand, no filter, no pickle, and no reference to anything outside. Before a chunk is read, all metadata are compared
with that list, and the memory that everything would take is computed. The bytes of a chunk then *are* the array: zarr
writes bundles, but reading them needs neither zarr nor a second copy.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import google_crc32c
import numpy as np
import xarray as xr
from zarr.codecs import Crc32cCodec
from zarr.storage import MemoryStore

from ...errors import ActivationsError
from ..outputs import quiet_zarr
from .containers import parse_json

DTYPES = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
"""Types of numbers that a bundle may hold, and their sizes in bytes."""

ORIGINAL = "original_dtype"
"""The attribute of a rounded variable: its original type, which is restored."""

_CHECKSUM_BYTES = 4
_ENTRY_BYTES = 256
"""The most bytes that one coordinate entry or name takes: as text, in an index, in a set and in lists of names."""
_LISTED = {"image", "component", "y", "x"}
"""Dimensions whose entries are listed one by one when a tree is shown, with or without coordinates."""
_PIECE = 2**16
_MAX_DIMS = 8
_MAX_TEXT = 4 * 4096  # bytes of one name
_METADATA = "zarr.json"
_ARRAY_KEYS = {
    "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "attributes", "dimension_names",
    "zarr_format", "node_type", "storage_transformers",
}  # fmt: skip
_GROUP_KEYS = {"attributes", "zarr_format", "node_type"}
_NAME = re.compile(r"[A-Za-z0-9_]+")


def to_files(groups: Mapping[str, xr.Dataset]) -> dict[str, bytes]:
    """Write Datasets, by group path, as the files of one zarr store.

    Raises
    ------
    ActivationsError
        If a variable is neither numbers nor text, or is empty.
    """
    store = MemoryStore()
    for group, dataset in groups.items():
        prepared = dataset.assign({name: _plain(dataset[name], str(name)) for name in dataset.variables})
        prepared.attrs = {str(name): _jsonable(value) for name, value in dataset.attrs.items()}
        encoding: dict[Hashable, dict[str, object]] = {
            name: {
                "compressors": (Crc32cCodec(),),
                "filters": None,
                "chunks": variable.shape,
                "_FillValue": None,
            }
            for name, variable in prepared.variables.items()
        }
        for variable in prepared.variables.values():
            variable.encoding = {}
        with quiet_zarr():
            prepared.to_zarr(
                store, group=group, mode="a", consolidated=False, zarr_format=3, encoding=encoding,
                write_empty_chunks=True,
            )  # fmt: skip
    # The store also has the keys of parent groups; they are sorted so that the bytes are reproducible.
    return {name: buffer.to_bytes() for name, buffer in sorted(store._store_dict.items())}


@dataclass(frozen=True)
class _Array:
    """The metadata of one array; ``chunk`` is the name of the file with its numbers."""

    chunk: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    attrs: dict[str, object]


@dataclass(frozen=True)
class _ArrayGroup:
    arrays: dict[str, _Array]
    attrs: dict[str, object]


def memory_of(described: Mapping[str, bytes], sizes: Mapping[str, int]) -> int:
    """The most memory that the datasets take while they are made and shown, in bytes beyond those of the files.

    Parameters
    ----------
    described
        The metadata files.
    sizes
        Sizes of all files in bytes, by name.

    Raises
    ------
    ValueError
        If anything in the store is not on the list of what a bundle may hold.
    """
    total = largest = 0
    for group in _groups(described, sizes).values():
        named = {
            dim: size for array in group.arrays.values() for dim, size in zip(array.dims, array.shape, strict=True)
        }
        total += _ENTRY_BYTES * sum(size for dim, size in named.items() if dim in _LISTED)
        for array in group.arrays.values():
            count = math.prod(array.shape)
            if array.dtype.kind == "U" or len(array.shape) == 1:
                total += (_ENTRY_BYTES + 2 * array.dtype.itemsize) * count
            original = array.attrs.get(ORIGINAL)
            if isinstance(original, str) and original in DTYPES:
                total += (DTYPES[original] - array.dtype.itemsize) * count
                largest = max(largest, array.dtype.itemsize * count)
            largest = max(
                largest, count
            )  # for the check whether each number is finite, which takes one boolean per number
    return total + largest


def from_files(described: Mapping[str, bytes], chunks: dict[str, bytearray]) -> dict[str, xr.Dataset]:
    """Make Datasets, by group path, from verified files, whose bytes stay their numbers; ``chunks`` is emptied.

    Raises
    ------
    ValueError
        If anything in the store is not on the list of what a bundle may hold.
    """
    groups = _groups(described, {name: len(data) for name, data in {**described, **chunks}.items()})
    return {name: _dataset(group, chunks) for name, group in groups.items() if group.arrays}


def _groups(described: Mapping[str, bytes], sizes: Mapping[str, int]) -> dict[str, _ArrayGroup]:
    wanted: set[str] = set()
    arrays: dict[str, dict[str, _Array]] = {}
    attributes: dict[str, dict[str, object]] = {}
    for name, data in described.items():
        if name != _METADATA and not name.endswith(f"/{_METADATA}"):
            continue
        node = name.removesuffix(_METADATA).rstrip("/")
        metadata = parse_json(data)
        if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
            raise ValueError(f"{name} is not metadata of zarr 3")
        wanted.add(name)
        if metadata.get("node_type") == "array":
            array = _checked_array(node, name, metadata)
            if array.chunk not in sizes:
                raise ValueError(f"{array.chunk} is missing")
            n_bytes = math.prod(array.shape) * array.dtype.itemsize + _CHECKSUM_BYTES
            if sizes[array.chunk] != n_bytes:
                raise ValueError(f"{array.chunk} has {sizes[array.chunk]} bytes, its shape and type need {n_bytes}")
            wanted.add(array.chunk)
            group, _, last = node.rpartition("/")
            arrays.setdefault(group, {})[last] = array
        elif metadata.get("node_type") == "group":
            attributes[node] = _checked_attributes(name, metadata, _GROUP_KEYS)
        else:
            raise ValueError(f"{name} is neither an array nor a group")
    if stray := set(sizes) - wanted:
        raise ValueError(f"{min(stray)} belongs to no array")
    return {node: _ArrayGroup(arrays.get(node, {}), attrs) for node, attrs in attributes.items()}


def _dataset(group: _ArrayGroup, chunks: dict[str, bytearray]) -> xr.Dataset:
    variables = {
        name: xr.Variable(array.dims, _values(array, chunks.pop(array.chunk)), array.attrs)
        for name, array in sorted(group.arrays.items())  # a store lists its arrays in no particular order
    }
    # Attributes record which variables are coordinates, as everywhere in zarr and netCDF.
    return xr.decode_cf(
        xr.Dataset(variables, attrs=group.attrs), decode_times=False, decode_timedelta=False, mask_and_scale=False,
        concat_characters=False,
    )  # fmt: skip


def _values(array: _Array, data: bytearray) -> np.ndarray:
    """The numbers, without a copy."""
    stored = np.frombuffer(data, np.uint8)
    content = stored[:-_CHECKSUM_BYTES]
    if struct.pack("<I", google_crc32c.value(content)) != bytes(data[-_CHECKSUM_BYTES:]):  # pyright: ignore
        raise ValueError(f"{array.chunk} has a wrong checksum")
    if array.dtype.kind == "U":
        letters = content.view("<u4")
        for start in range(0, letters.size, _PIECE):
            piece = letters[start : start + _PIECE]
            if (piece > 0x10FFFF).any() or ((piece >= 0xD800) & (piece <= 0xDFFF)).any():
                raise ValueError(f"{array.chunk} holds bytes that are not text, or half a character")
    return content.view(array.dtype).reshape(array.shape)


def _checked_array(node: str, name: str, metadata: dict[str, object]) -> _Array:
    attributes = _checked_attributes(name, metadata, _ARRAY_KEYS)
    if metadata.get("storage_transformers", []) != []:
        raise ValueError(f"{name} holds more than a bundle needs")
    shape = metadata.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMS or not all(_is_size(size) for size in shape):
        raise ValueError(f"{name} has shape {str(shape)[:60]}")
    names = metadata.get("dimension_names") or []
    if (
        not isinstance(names, list)
        or len(names) != len(shape)
        or not all(isinstance(dim, str) and _NAME.fullmatch(dim) for dim in names)
    ):
        raise ValueError(f"{name} names its dimensions {str(names)[:60]}")
    data_type = metadata.get("data_type")
    if isinstance(data_type, str) and data_type in DTYPES:
        dtype = np.dtype(data_type).newbyteorder("<")
    else:
        dtype = np.dtype(f"<U{_text_bytes(data_type) // 4}")
        if not dtype.itemsize:
            raise ValueError(f"{name} has type {str(data_type)[:60]}, which bundles do not hold")
    if metadata.get("chunk_grid") != {"name": "regular", "configuration": {"chunk_shape": shape}}:
        raise ValueError(f"{name} is not one chunk")
    if metadata.get("chunk_key_encoding") != {"name": "default", "configuration": {"separator": "/"}}:
        raise ValueError(f"{name} names its chunk in another way than bundles do")
    if not _plain_codecs(metadata.get("codecs")):
        raise ValueError(f"{name} is coded by {str(metadata.get('codecs'))[:80]}, which bundles do not use")
    chunk = "/".join([node, "c", *["0"] * len(shape)])
    return _Array(chunk, dtype, tuple(shape), tuple(names), attributes)


def _plain_codecs(codecs: object) -> bool:
    if not isinstance(codecs, list) or len(codecs) != 2:
        return False
    plain = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})
    return codecs[0] in plain and codecs[1] == {"name": "crc32c"}


def _text_bytes(data_type: object) -> int:
    """Bytes of one entry of fixed-length text; 0 for anything else."""
    if not isinstance(data_type, dict) or set(data_type) != {"name", "configuration"}:
        return 0
    configuration = data_type["configuration"]
    if data_type["name"] != "fixed_length_utf32" or not isinstance(configuration, dict):
        return 0
    length = configuration.get("length_bytes")
    if not isinstance(length, int) or not _is_size(length) or set(configuration) != {"length_bytes"}:
        return 0
    return length if length % 4 == 0 and length <= _MAX_TEXT else 0


def _checked_attributes(name: str, metadata: dict[str, object], allowed: set[str]) -> dict[str, object]:
    if set(metadata) - allowed:
        raise ValueError(f"{name} holds more than a bundle needs")
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ValueError(f"{name} has attributes that are not a mapping")
    return attributes


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _plain(variable: xr.DataArray, name: str) -> xr.Variable:
    """The variable with text of one length; it is refused if it is neither numbers nor text, or has invalid names."""
    if bad := next((part for part in (name, *map(str, variable.dims)) if not _NAME.fullmatch(part)), None):
        raise ActivationsError(
            f"{bad!r} cannot be the name of a variable or dimension in a bundle: rename it to letters, digits and _."
        )
    values = np.asarray(variable.values)
    if values.size == 0:
        raise ActivationsError(f"The variable {name!r} of shape {values.shape} is empty: a bundle cannot hold it.")
    if values.dtype.kind in "OTU":
        texts = values.ravel().tolist()
        if not all(isinstance(text, str) for text in texts):
            raise ActivationsError(
                f"The variable {name!r} has type {values.dtype} and does not hold text only: a bundle holds "
                "numbers and text only."
            )
        if bad := next((text for text in texts if _is_odd(text)), None):
            raise ActivationsError(
                f"The name {bad[:40]!r} is too long, or holds a zero byte or half a character: rename it."
            )
        values = np.array(texts, dtype=f"<U{max(1, *map(len, texts))}").reshape(values.shape)
    elif str(values.dtype.newbyteorder("=")) not in DTYPES:
        raise ActivationsError(
            f"The variable {name!r} has type {values.dtype}: a bundle holds {', '.join(DTYPES)} and text only."
        )
    attrs = {str(key): _jsonable(value) for key, value in variable.attrs.items()}
    return xr.Variable(variable.dims, values.astype(values.dtype.newbyteorder("=")), attrs)


def _is_odd(text: str) -> bool:
    return "\0" in text or len(text) * 4 > _MAX_TEXT or any("\ud800" <= letter <= "\udfff" for letter in text)


def _jsonable(value: object) -> object:
    """Attributes as JSON, with arrays as lists; values that JSON cannot write become text."""
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
