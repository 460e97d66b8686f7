"""Keeps finished cells until all are finished: one folder per cell, named by its hash, complete or not there at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import cast

import xarray as xr

from .._io.outputs import placed, quiet_zarr, unwritable
from .._views.study_record import NumbersRecord
from ..errors import StoreError

_TAG = "CACHEDIR.TAG"
_SIGNATURE = (
    "Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir: backup programs leave such folders out
)
_OURS = "# Cells of a spectral_toolkit study, by content hash. It may be deleted at any time when no study runs."
LOCK = "lock"
_FIRST = {_TAG, LOCK}
"""What a cache contains from the beginning."""
_STORE, _NUMBERS = "eigenvectors.zarr", "numbers.json"


class Cache:
    """The cells and activations of a study, in a folder.

    Raises
    ------
    StoreError
        If the folder holds anything else.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        tag = folder / _TAG
        try:
            known = tag.is_file() and _OURS in tag.read_text(encoding="utf-8", errors="replace")
            # Another run may be creating it at this moment.
            others = folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - _FIRST)
            if others and not known:
                raise StoreError(
                    f"{str(folder)!r} exists and is not a cache of a study: move it away, or choose another --out."
                )
            folder.mkdir(parents=True, exist_ok=True)
            if not known:
                tag.write_text(f"{_SIGNATURE}\n{_OURS}\n", encoding="utf-8")
        except OSError as error:
            raise unwritable(folder, error) from error

    def cell(self, content: str) -> Path:
        """The folder of a cell, whether it exists or not."""
        return self.folder / "cells" / content

    def store(self, content: str) -> Path:
        """The zarr store with the eigenvectors of a cell."""
        return self.cell(content) / _STORE

    def activations(self, content: str) -> Path:
        """The zarr store of activations."""
        return self.folder / "activations" / content

    def neighbours(self, content: str) -> Path:
        """The folder of neighbours that searches in these activations have found."""
        return self.folder / "neighbours" / content

    def numbers(self, content: str) -> NumbersRecord | None:
        """The numbers of a cell; None if it does not exist or is damaged, in which case it is removed."""
        if not self.cell(content).exists():
            return None
        try:
            numbers = json.loads((self.cell(content) / _NUMBERS).read_text(encoding="utf-8"))
            if not isinstance(numbers, dict) or numbers.pop("content_sha256") != content:
                raise ValueError
            self.eigenvectors(content)
        except (OSError, ValueError, KeyError):
            shutil.rmtree(self.cell(content), ignore_errors=True)
            return None
        return cast("NumbersRecord", numbers)

    def eigenvectors(self, content: str) -> xr.Dataset:
        """The result of a cell that exists."""
        return open_answer(self.store(content))

    def put(self, content: str, eig: xr.Dataset, numbers: NumbersRecord) -> None:
        """Keep a finished cell: it is written under a temporary name, and then moved into place."""
        text = json.dumps({"content_sha256": content, **numbers}, allow_nan=False)
        with placed(self.cell(content), failed=lambda _, error: unwritable(self.folder, error)) as new, quiet_zarr():
            eig.to_zarr(new / _STORE, mode="w", consolidated=False)
            (new / _NUMBERS).write_text(text, encoding="utf-8")

    def forget_activations(self, content: str) -> None:
        """Remove activations that no cell needs any more, and the neighbours found in them."""
        for folder in (self.activations(content), self.neighbours(content)):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def keep_only(self, contents: set[str]) -> int:
        """Remove cells that no longer belong to the study, and the remains of interrupted runs."""
        cells = self.folder / "cells"
        foreign = [path for path in cells.iterdir() if path.name not in contents] if cells.is_dir() else []
        for path in foreign:
            shutil.rmtree(path, ignore_errors=True)
        return len(foreign)


def open_answer(store: Path) -> xr.Dataset:
    """Eigenvectors from a zarr store, in memory.

    Raises
    ------
    ValueError
        If it is damaged, or was not written by this package.
    """
    try:
        eig = xr.open_dataset(store, engine="zarr", consolidated=False).load()
    except Exception as error:  # zarr, xarray and numcodecs each raise errors of their own
        raise ValueError(f"{store.name} cannot be read ({type(error).__name__})") from error
    if "eigenvector" not in eig or "affinity" not in eig.attrs:
        raise ValueError(f"{store.name} holds no eigenvectors")
    return eig
