"""Tables of neighbours and edges in a folder: they are read instead of searched again, in this run or a later one.

Each is named by a digest of the vectors and settings that it came from, and appears under its name only once it is
complete. Thus an interrupted search, other activations or another recipe are never mistaken for it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._io.outputs import placed
from ..errors import StoreError, UnwritableError
from .neighbours import Neighbours

FORMAT = 3
"""Part of every name: it is raised when the file format or the search changes."""
_ABOUT = "about.json"


@dataclass(frozen=True)
class Table:
    """The neighbours of one layer and head, in memory or in a folder, with the recall of an inexact search."""

    recall: float | None = None
    held: Neighbours | None = None
    path: Path | None = None

    def open(self) -> Neighbours:
        """Return the neighbours; from a folder they are mapped, and take memory only while they are used."""
        return self.held if self.held is not None else _read(self.path or Path(), mapped=True)[0]


def name_of(vectors: Sequence[Tensor], settings: object) -> str:
    """Return a name that other vectors, or other settings, do not share."""
    digest = hashlib.sha256(repr((FORMAT, [tuple(x.shape) for x in vectors], settings)).encode())
    for x in vectors:
        digest.update(x.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def find_table(folder: Path, name: str, search: Callable[[], tuple[Neighbours, float | None]], *, held: bool) -> Table:
    """Return the table of that name in a folder; if it is not there yet, search for it and write it first.

    Parameters
    ----------
    held
        Whether to keep it in memory too.

    Raises
    ------
    StoreError
        If the folder cannot be written to, or the file of that name cannot be read.
    """
    path = folder / name
    if not path.exists():
        found, recall = search()
        with table_folder(path) as half:
            np.save(half / "indices.npy", found.indices.cpu().numpy())
            np.save(half / "similarity.npy", found.similarity.cpu().numpy())
            (half / _ABOUT).write_text(json.dumps({"within": found.within, "recall": recall}), encoding="utf-8")
    neighbours, recall = _read(path, mapped=not held)
    return Table(recall, neighbours if held else None, path)


@contextmanager
def table_folder(path: Path) -> Generator[Path, None, None]:
    """Give a new folder to fill, which is moved to ``path`` if nothing goes wrong meanwhile, and removed otherwise.

    Raises
    ------
    StoreError
        If it cannot be made or filled.
    """
    with placed(path, failed=_unwritable, keep=True) as half:
        half.mkdir()
        yield half


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    # When the disk is full, NumPy says only how many numbers it could write.
    reason = error.strerror or f"is the disk full? {error}"
    return UnwritableError(
        f"folder={str(path.parent)!r} cannot be written to ({reason}): make room there, or choose another folder."
    )


def check_room(folder: Path, needed: float) -> None:
    """Refuse to begin what will not fit on the disk; tables that are already in the folder count as free space.

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
            f"Tables of neighbours and edges take up to {needed / 1e9:.1f} GB on disk, but only {free / 1e9:.1f} GB "
            f"are free in {str(place)!r}: give another folder=..., fewer images, or kernel='shifted_cosine'."
        )


def _read(path: Path, *, mapped: bool) -> tuple[Neighbours, float | None]:
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        # The file is mapped copy-on-write, because torch wants writable memory; nothing writes to it.
        indices, similarity = (
            torch.as_tensor(np.load(path / f"{part}.npy", mmap_mode="c" if mapped else None))
            for part in ("indices", "similarity")
        )
        if indices.ndim != 2 or indices.shape != similarity.shape:
            raise ValueError(f"indices of shape {tuple(indices.shape)}, similarities of {tuple(similarity.shape)}")
        return Neighbours(indices, similarity, int(about["within"])), about["recall"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StoreError(
            f"{str(path)!r} cannot be read as a table of neighbours ({error}): delete it, and it will be made again."
        ) from error
