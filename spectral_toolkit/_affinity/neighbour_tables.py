"""Tables of neighbours and edges in a folder: read again instead of searched again, by this run or a later one.

What lies in such a folder is named by a digest of the vectors and settings that it came from, and appears under its
name only once it is complete; a search that was cut short, other activations or another recipe are never mistaken for
it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._io.outputs import beside
from ..errors import StoreError, UnwritableError
from .neighbours import Neighbours

FORMAT = 3
"""Part of every name: raised when what is written, or how it is searched, changes."""
_ABOUT = "about.json"


@dataclass(frozen=True)
class Table:
    """The neighbours of one layer and head, in memory or in a folder, and what an inexact search found of them."""

    recall: float | None = None
    held: Neighbours | None = None
    path: Path | None = None

    def open(self) -> Neighbours:
        """The neighbours; from a folder they are mapped, and take memory only while somebody looks at them."""
        return self.held if self.held is not None else _read(self.path or Path(), mapped=True)[0]


def name_of(vectors: Sequence[Tensor], settings: object) -> str:
    """A name that other vectors, or other settings, do not share."""
    digest = hashlib.sha256(repr((FORMAT, [tuple(x.shape) for x in vectors], settings)).encode())
    for x in vectors:
        digest.update(x.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def find_table(folder: Path, name: str, search: Callable[[], tuple[Neighbours, float | None]], *, held: bool) -> Table:
    """The table of that name in a folder, searched for and written there first if it is not there yet.

    Parameters
    ----------
    held
        Keep it in memory too.

    Raises
    ------
    StoreError
        If the folder cannot be written to, or what lies there under that name cannot be read.
    """
    path = folder / name
    if not path.exists():
        found, recall = search()
        with placed(path) as half:
            np.save(half / "indices.npy", found.indices.cpu().numpy())
            np.save(half / "similarity.npy", found.similarity.cpu().numpy())
            (half / _ABOUT).write_text(json.dumps({"within": found.within, "recall": recall}), encoding="utf-8")
    neighbours, recall = _read(path, mapped=not held)
    return Table(recall, neighbours if held else None, path)


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A new folder to fill, which is moved to ``path`` if nothing goes wrong meanwhile, and removed otherwise.

    Raises
    ------
    StoreError
        If it cannot be made or filled.
    """
    try:
        with beside(path) as making:
            half = making / "table"
            half.mkdir()
            yield half
            try:
                half.rename(path)
            except OSError:
                if not path.is_dir():  # somebody else has finished the same one
                    raise
    except OSError as error:
        # NumPy says of a full disk only how many numbers it could write.
        raise UnwritableError(
            f"folder={str(path.parent)!r} cannot be written to ({error.strerror or f'is the disk full? {error}'}): "
            "make room there, or choose another."
        ) from error


def check_room(folder: Path, needed: float) -> None:
    """Refuse to begin what will not fit on the disk; tables that lie in the folder already count as room.

    Raises
    ------
    StoreError
    """
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    tables = (path for path in place.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name))
    there = sum(file.stat().st_size for table in tables for file in table.iterdir())
    free = shutil.disk_usage(place).free
    if needed > free + there:
        raise StoreError(
            f"Tables of neighbours and edges take up to {needed / 1e9:.1f} GB on disk, but {free / 1e9:.1f} GB are "
            f"free in {str(place)!r}: give another folder=..., fewer images, or kernel='shifted_cosine'."
        )


def _read(path: Path, *, mapped: bool) -> tuple[Neighbours, float | None]:
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        # Mapped for copying on write, as torch wants to be able to write; nobody does.
        indices, similarity = (
            torch.as_tensor(np.load(path / f"{part}.npy", mmap_mode="c" if mapped else None))
            for part in ("indices", "similarity")
        )
        if indices.ndim != 2 or indices.shape != similarity.shape:
            raise ValueError(f"indices of shape {tuple(indices.shape)}, similarities of {tuple(similarity.shape)}")
        return Neighbours(indices, similarity, int(about["within"])), about["recall"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StoreError(
            f"{str(path)!r} is no table of neighbours that can be read ({error}): delete it, and it is searched again."
        ) from error
