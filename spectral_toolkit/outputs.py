"""Files and folders we write: never over what is not ours, and whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

STUDY_FORMAT = "spectral_toolkit study"
STUDY_BEGINS = f'{{\n "format": "{STUDY_FORMAT}"'.encode()
"""The first bytes of a study's numbers: the key comes first, whatever else the file holds."""
_PAGE = b'name="generator" content="spectral_toolkit'


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the target and move into place, so that an earlier file is never half replaced."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def refuse_file(folder: Path) -> None:
    """A folder for results must not be, nor lie in, a file; told before anything is computed."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise StoreError(f"{str(place)!r} is a file, and a folder is needed there: choose another --out.")


def refuse_unwritable(path: Path) -> None:
    """Where a result is to go, something must be able to be written; told before anything is computed."""
    refuse_file(path.parent)
    # Folders are made when there is something to put into them: until then the nearest that exists stands for them.
    place = next(parent for parent in path.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """Existing output may only be replaced if it is ours and the user asked for it."""
    if not path.exists() and not path.is_symlink():
        return
    if not is_ours(path):
        raise StoreError(f"{str(path)!r} exists and was not written by spectral-toolkit: choose another --out.")
    if not overwrite:
        raise StoreError(f"{str(path)!r} exists already: add --overwrite to replace it, or choose another --out.")


def is_ours(path: Path) -> bool:
    """Whether a store holds eigenvectors (alone or in groups) or segments, or a file is a page or a study of ours."""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(20_000)
        return _PAGE in beginning or beginning.startswith(STUDY_BEGINS)
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        groups = [group, *(child for _, child in group.groups())]
        if any("eigenvector" in child and "affinity" in child.attrs for child in groups):
            return True
        return "segment" in group and "n_segments_asked" in group["segment"].attrs
    except Exception:  # whatever cannot be read is not ours
        return False


def write_store(result: xr.Dataset | xr.DataTree, path: Path) -> None:
    """Write a zarr store, whole or not at all."""
    with whole_store(path) as store:
        result.to_zarr(store, mode="w")


@contextmanager
def whole_store(path: Path) -> Iterator[Path]:
    """Where to write a zarr store that is moved to ``path`` in the end: cut short, the earlier one is left whole.

    Raises
    ------
    StoreError
        If it cannot be written, or something of somebody else's is there by then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of our own, whose name nobody else can have taken; the store lies in it, with the usual permissions.
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with warnings.catch_warnings():
            # zarr 3 warns that its fixed-length strings and consolidated metadata are younger than its specification.
            warnings.filterwarnings("ignore", module="zarr")
            yield temporary / "store"
        refuse_foreign(path, overwrite=True)  # somebody may have put something there in the meantime
        exchange(temporary / "store", path, aside=temporary / "old")
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(new: Path, path: Path, *, aside: Path) -> None:
    """Put ``new`` in the place of what is at ``path``: a file in one step, a folder by way of ``aside``.

    What was moved aside goes back if that fails.
    """
    try:
        if path.is_dir() or (new.is_dir() and path.exists()):
            path.rename(aside)
        new.replace(path)
    except BaseException:  # Ctrl-C, too
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{str(path)!r} cannot be written ({error.strerror or error}): make room there, or choose another --out."
    )
