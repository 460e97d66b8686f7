"""Files and folders that we write: on this machine, never over files that are not ours, completely or not at all.

Every path that is given, to be written or read, goes through `local_path` or `writable_path`. Unfinished files are kept
in a folder of `beside`, whose name identifies the process that made it: the next process removes what killed processes
left behind.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpectralToolkitError, StoreError, UnwritableError, first_line

if TYPE_CHECKING:
    import xarray as xr

STUDY_FORMAT = "spectral_toolkit study"
STUDY_BEGINS = f'{{\n "format": "{STUDY_FORMAT}"'.encode()
"""The first bytes of a study's numbers: this key comes first, whatever else the file holds."""
CSV_BEGINS = "model,images,affinity,layers,"
LATEX_BEGINS = f"% {STUDY_FORMAT}: booktabs, xcolor"
"""The beginnings of a study's tables."""
_OURS = (STUDY_BEGINS, CSV_BEGINS.encode(), LATEX_BEGINS.encode())
_PAGE = b'name="generator" content="spectral_toolkit'
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[:/]")
"""Matches a scheme at the beginning; pathlib turns two slashes into one, and fsspec chains several schemes."""
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_REMAINS = re.compile(rf"\..*\.{_MACHINE}-(\d+)-[^.]*")
"""Names of the folders of `beside`: the target, the machine, the process, and a few random letters."""


def local_path(value: object, name: str = "path", *, error: type[SpectralToolkitError] = StoreError) -> Path:
    """A path that a user gave, on this machine, with ``~`` expanded.

    Parameters
    ----------
    value
        A text or a path.
    name
        Name of the argument, for the message.
    error
        The class of the error.

    Raises
    ------
    SpectralToolkitError
        If it is not a path: a URL, an empty text, or something that no file system can hold.

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
            f"{name}={shown} is a URL, and only files of this machine are read and written: give a local path, such as "
            f"{here}, and copy from or to the other place with its own tools."
        )
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    except (OSError, ValueError, RuntimeError) as problem:  # too long, a zero byte, no such user, no permission
        raise error(f"{name}={shown} cannot be used ({_reason(problem)}): give another path.") from problem
    return path


def writable_path(value: object, name: str = "path", *, error: type[SpectralToolkitError] = StoreError) -> Path:
    """A path to write to, as `local_path`, with links resolved.

    Raises
    ------
    SpectralToolkitError
        Also if a link leads nowhere, or a file is in the place of a needed folder.
    """
    path = local_path(value, name, error=error)
    if path.is_symlink():
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError) as problem:  # links that form a circle raise a RuntimeError
            raise error(
                f"{name}={str(path)!r} is a link that leads nowhere: create its target, remove it, or give another "
                "path."
            ) from problem
    for place in path.parents:
        if place.is_dir():
            break
        if place.exists():
            raise error(f"{str(place)!r} is a file, but a folder is needed there: choose another --out or path.")
    return path


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """The message where the file system refuses."""
    return UnwritableError(
        f"{str(path)!r} cannot be written ({_reason(error)}): make room there, or choose another --out or path."
    )


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside a path, on the same disk; it is removed in the end, whatever happens.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_remains(path.parent)
    making = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.{_MACHINE}-{os.getpid()}-", dir=path.parent))
    try:
        yield making
    finally:
        shutil.rmtree(making, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Remove unfinished files that killed processes of this machine left in a folder."""
    import psutil

    with suppress(OSError):
        for place in list(folder.iterdir()):
            match = _REMAINS.fullmatch(place.name)
            if match and place.is_dir() and not place.is_symlink() and not psutil.pid_exists(int(match[1])):
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def placed(
    path: Path,
    *,
    refuse: Callable[[Path], object] = lambda path: None,
    failed: Callable[[Path, OSError], Exception] = unwritable,
    keep: bool = False,
) -> Iterator[Path]:
    """A place beside ``path`` for a file or folder, which is moved there once it is complete.

    Until then, and if anything goes wrong, what was at ``path`` stays as it was.

    Parameters
    ----------
    refuse
        A function that raises an error where ``path`` may not be replaced, which is asked at the last moment:
        something may have appeared there meanwhile.
    failed
        Makes the error that is raised where the file system refuses.
    keep
        Whether a folder that another process has put there meanwhile is as good, and stays.
    """
    try:
        with beside(path) as making:
            yield making / "store"
            refuse(path)
            if keep:
                _settle(making / "store", path)
            else:
                _exchange(making / "store", path, aside=making / "old")
    except OSError as error:
        raise failed(path, error) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, completely or not at all."""
    with placed(writable_path(path)) as new:
        new.write_bytes(data)


def refuse_unwritable(path: Path) -> None:
    """Check, before anything is computed, that a result can be written in its place."""
    path = writable_path(path, "--out")
    # Folders are made when there is something to put into them; until then the nearest existing folder is checked.
    place = next(parent for parent in path.absolute().parents if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def refuse_foreign(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace existing output unless it is ours and the user asked for it."""
    path = writable_path(path, "--out")
    if not path.exists() and not path.is_symlink():
        return
    if not is_ours(path):
        raise StoreError(f"{str(path)!r} exists and was not written by spectral-toolkit: choose another --out.")
    if not overwrite:
        raise StoreError(f"{str(path)!r} exists already: add --overwrite to replace it, or choose another --out.")


def is_ours(path: Path) -> bool:
    """Whether a path was written by this package: a store of eigenvectors or segments, a page, or a study."""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(20_000)
        return _PAGE in beginning or beginning.startswith(_OURS)
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        groups = [group, *(child for _, child in group.groups())]
        if any("eigenvector" in child and "affinity" in child.attrs for child in groups):
            return True
        return "segment" in group and "n_segments_asked" in group["segment"].attrs
    except Exception:  # anything that cannot be read is not ours
        return False


def write_store(result: xr.Dataset | xr.DataTree, path: Path) -> None:
    """Write a zarr store, completely or not at all."""
    with whole_store(path) as store:
        result.to_zarr(store, mode="w")


@contextmanager
def whole_store(path: Path) -> Iterator[Path]:
    """A place to write a zarr store that is finally moved to ``path``; if interrupted, an earlier store stays complete.

    Raises
    ------
    StoreError
        If it cannot be written, or something that is not ours has appeared there meanwhile.
    """
    with placed(writable_path(path), refuse=partial(refuse_foreign, overwrite=True)) as new, quiet_zarr():
        yield new


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Leave out zarr 3's warnings that fixed-length strings and consolidated metadata are not in its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="zarr")
        yield


def _settle(new: Path, path: Path) -> None:
    """Move a folder to ``path``, unless one is there."""
    try:
        new.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _exchange(new: Path, path: Path, *, aside: Path) -> None:
    """Replace what is at ``path`` by ``new``: a file in one step, a folder by way of ``aside``.

    A folder that was moved aside is moved back if that fails.
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
