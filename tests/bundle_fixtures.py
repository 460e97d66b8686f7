"""A good bundle, and ways to spoil one."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xarray as xr
from eigen_fixtures import activations, eigenvectors

import spectral_toolkit as st
from spectral_toolkit._io.bundles.containers import MANIFEST

ANSWERS = {"qk": eigenvectors("qk"), "vv": eigenvectors("vv")}
FIRST = "activations/layer_0000"
QUERY = f"{FIRST}/query/zarr.json"


@cache
def good_bundle() -> bytes:
    """A zip that holds both answers."""
    with tempfile.TemporaryDirectory() as folder:
        return st.save_bundle(Path(folder) / "good.zip", activations(), eigenvectors=ANSWERS).read_bytes()


def layer_of(tree: xr.DataTree, layer: str) -> xr.Dataset:
    return tree.children[layer].to_dataset(inherit=False)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path: Path, members: dict[str, bytes], *, honest: bool = True) -> Path:
    """The members as a zip; ``honest`` gives the manifest the hashes that its author could have given it."""
    if honest:
        manifest = json.loads(members[MANIFEST])
        manifest["files"] = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != MANIFEST
        }
        members = {**members, MANIFEST: json.dumps(manifest).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


Edit = Callable[[dict[str, bytes]], Any]


def edited(name: str, **changes: Any) -> Edit:
    """Change entries of one JSON file; a dotted key reaches below."""

    def edit(members: dict[str, bytes]) -> None:
        whole = json.loads(members[name])
        for key, value in changes.items():
            place = whole
            *above, last = key.split("__")
            for part in above:
                place = place[part]
            place[last] = value
        members[name] = json.dumps(whole).encode()

    return edit


def replaced(node: str, values: np.ndarray) -> Edit:
    """Other numbers, with metadata and checksum that fit them."""

    def edit(members: dict[str, bytes]) -> None:
        metadata = json.loads(members[f"{node}/zarr.json"])
        metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(values.shape)
        metadata["data_type"] = str(values.dtype)
        if values.dtype.kind != "f":
            metadata["fill_value"] = 0
        members[f"{node}/zarr.json"] = json.dumps(metadata).encode()
        data = np.ascontiguousarray(values).tobytes()
        checksum = struct.pack("<I", google_crc32c.value(data))
        for name in [name for name in members if name.startswith(f"{node}/c")]:
            members[name] = data + checksum

    return edit


def without(prefix: str) -> Edit:
    def edit(members: dict[str, bytes]) -> None:
        for name in [name for name in members if name.startswith(prefix)]:
            del members[name]

    return edit


def put(name: str, data: bytes) -> Edit:
    return lambda members: members.update({name: data})


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
