"""Files and folders we write: on this machine, never over what is not ours, and whole or not at all.

Whatever is given as a path, to write or to read, goes through `local_path` or `writable_path`. What is half done lies
in a folder of `beside`, whose name says which process made it: what killed ones left is removed by the next.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpectralToolkitError, StoreError, UnwritableError, first_line

if TYPE_CHECKING:
    import xarray as xr

STUDY_FORMAT = "spectral_toolkit study"
STUDY_BEGINS = f'{{\n "format": "{STUDY_FORMAT}"'.encode()
"""The first bytes of a study's numbers: the key comes first, whatever else the file holds."""
_PAGE = b'name="generator" content="spectral_toolkit'
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[:/]")
"""What begins with a scheme; pathlib makes one slash of two, and fsspec puts several schemes in a row."""
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_REMAINS = re.compile(rf"\..*\.{_MACHINE}-(\d+)-[^.]*")
"""Names of `beside`: that of the target, the machine, the process, and a few letters at random."""


def local_path(value: Any, name: str = "path", *, error: type[SpectralToolkitError] = StoreError) -> Path:
    """The path of this machine that a user gave, ``~`` expanded.

    Parameters
    ----------
    value
        A text or a path.
    name
        Of the argument, for the message.
    error
        What is raised.

    Raises
    ------
    SpectralToolkitError
        If it is none: a URL, empty, or nothing that a file system can hold.

    Examples
    --------
    >>> local_path("results/../a.zarr").name
    'a.zarr'
    >>> try:
    ...     local_path("s3://bucket/a.zarr", "store")
    ... except StoreError as error:
    ...     print(str(error)[:64])
    store='s3://bucket/a.zarr' is a URL, and only files of this mach
    """
    if not isinstance(value, str | os.PathLike) or not (text := os.fsdecode(value)).strip():
        shown = repr(value) if isinstance(value, str | bytes | int | float | None) else f"<{type(value).__name__}>"
        raise error(f"{name}={shown} is not a path: give the name of a file or folder, such as 'results/a'.")
    shown = repr(text if len(text) <= 80 else f"{text[:77]}...")
    if _URL.match(text):
        here = repr(text.rstrip("/").rpartition("/")[2][-40:] or "results")
        raise error(
            f"{name}={shown} is a URL, and only files of this machine are read and written: give a path here, such as "
            f"{here}, and copy from or to the other place by its own tools."
        )
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    except (OSError, ValueError, RuntimeError) as problem:  # too long, a zero byte, no such user, no right to look
        raise error(f"{name}={shown} cannot be used ({_reason(problem)}): give another path.") from problem
    return path


def writable_path(value: Any, name: str = "path", *, error: type[SpectralToolkitError] = StoreError) -> Path:
    """Where to write: as `local_path`, and what a link leads to in the place of the link.

    Raises
    ------
    SpectralToolkitError
        Besides, if a link leads nowhere, or a file is where a folder is needed.
    """
    path = local_path(value, name, error=error)
    if path.is_symlink():
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError) as problem:  # a circle of links is the latter
            raise error(
                f"{name}={str(path)!r} is a link that leads nowhere: make what it leads to, remove it, or give another "
                "path."
            ) from problem
    for place in path.parents:
        if place.is_dir():
            break
        if place.exists():
            raise error(f"{str(place)!r} is a file, and a folder is needed there: choose another --out or path.")
    return path


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """What is said where the file system refuses."""
    return UnwritableError(
        f"{str(path)!r} cannot be written ({_reason(error)}): make room there, or choose another --out or path."
    )


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new folder beside a path, on the same disk, to make something in; gone in the end, however that comes.

    Raises
    ------
    OSError
        If there can be none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_remains(path.parent)
    making = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.{_MACHINE}-{os.getpid()}-", dir=path.parent))
    try:
        yield making
    finally:
        shutil.rmtree(making, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Remove what processes that were killed on this machine left half done in a folder."""
    import psutil

    with suppress(OSError):
        for place in list(folder.iterdir()):
            match = _REMAINS.fullmatch(place.name)
            if match and place.is_dir() and not place.is_symlink() and not psutil.pid_exists(int(match[1])):
                shutil.rmtree(place, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the target and move into place, so that an earlier file is never half replaced."""
    path = writable_path(path)
    try:
        with beside(path) as making:
            (making / "new").write_bytes(data)
            (making / "new").replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def refuse_unwritable(path: Path) -> None:
    """Where a result is to go, something must be able to be written; told before anything is computed."""
    path = writable_path(path, "--out")
    # Folders are made when there is something to put into them: until then the nearest that exists stands for them.
    place = next(parent for parent in path.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """Existing output may only be replaced if it is ours and the user asked for it."""
    path = writable_path(path, "--out")
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
    path = writable_path(path)
    try:
        with beside(path) as making:  # the store lies in it, with the usual permissions
            with warnings.catch_warnings():
                # zarr 3 warns that its fixed-length strings and consolidated metadata are younger than its
                # specification.
                warnings.filterwarnings("ignore", module="zarr")
                yield making / "store"
            refuse_foreign(path, overwrite=True)  # somebody may have put something there in the meantime
            exchange(making / "store", path, aside=making / "old")
    except OSError as error:
        raise unwritable(path, error) from error


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


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)
