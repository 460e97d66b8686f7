"""Named bytes in one zip file or one folder, with a manifest of sizes and hashes, whatever their meaning.

Reading trusts nothing: the memory needed is compared with a limit before anything is read, never more is read than was
declared, files that the manifest does not name are never opened, nothing is extracted to a disk, and no link is
followed. Writing is all or nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, TypedDict, cast

from ...errors import BundleError, first_line
from ..outputs import placed

MANIFEST = "bundle.json"
FORMAT = "spectral_toolkit bundle"
VERSION = 1
MAX_FILES = 50_000
MAX_MANIFEST_BYTES = 16 * 2**20

MemoryOf = Callable[[Mapping[str, bytes], Mapping[str, int]], int]


class _ZipEntry(TypedDict):
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Container:
    """Checks whether a file of that name and size exists (the size of the manifest is not known), and reads it."""

    check: Callable[[str, int | None], int]
    read: Callable[[str, int | None], bytearray]


_NAME = re.compile(r"[A-Za-z0-9_]+(\.json)?(/[A-Za-z0-9_]+(\.json)?)*")
"""Our own names are plain; any other name is refused, whatever its effect on any system might be."""
_JSON_SWELLS = 32
"""Bytes of memory that one byte of JSON may become: "[]," is a list of 56 bytes, and its place in another."""
_FILE_BYTES = 2048
"""Memory of a file beyond its bytes: its entry in the list of files, its names, the objects around its numbers."""
_PIECE = 2**16  # bytes that are decompressed at once
_DIRECTORY_BYTES = 16 * 2**20  # of a zip's own list of files; 50,000 of ours take 5 MB
_END = struct.Struct("<4s4H2LH")  # the record that ends a zip
_DATE = (1980, 1, 1, 0, 0, 0)  # equal content gives equal bytes


def read_members(
    path: Path, max_bytes: float, memory_of: MemoryOf
) -> tuple[dict[str, object], dict[str, bytes], dict[str, bytearray]]:
    """Read the manifest, the JSON files, and all other files that it names, each with the declared size and hash.

    Parameters
    ----------
    max_bytes
        The most memory that reading may take at any moment, including what is made from the files.
    memory_of
        A function from the JSON files and the sizes of all files to the memory that their content takes, in bytes
        beyond their own; a ValueError says what is wrong with them. Nothing else is read before.

    Raises
    ------
    BundleError
        If there is no bundle, or it is damaged, or it would take more than ``max_bytes``.
    """
    try:
        if not path.is_dir() and not path.is_file():
            raise BundleError(
                f"{str(path)!r} is neither a file nor a folder: give the path of a bundle that st.save_bundle wrote."
            )
        with (_folder if path.is_dir() else _zip)(path, max_bytes) as container:
            if (listed := _JSON_SWELLS * container.check(MANIFEST, None)) > max_bytes:
                raise _too_large(path, listed, max_bytes)
            data = container.read(MANIFEST, None)
            manifest, entries = _checked_manifest(path, data)
            sizes = {name: entry["bytes"] for name, entry in entries.items()}
            json_bytes = len(data) + sum(size for name, size in sizes.items() if _is_json(name))
            if (total := sum(sizes.values())) > max_bytes:
                raise _too_large(path, total, max_bytes)
            total += _FILE_BYTES * len(sizes) + _JSON_SWELLS * json_bytes
            if total > max_bytes:
                raise _too_large(path, total, max_bytes, was_read="nothing but its list of files")
            for name, size in sizes.items():
                container.check(name, size)
            described = {name: bytes(_verified(path, name, container, entries)) for name in sizes if _is_json(name)}
            try:
                total += memory_of(described, sizes)
            except ValueError as error:
                raise damaged(path, first_line(error)) from error
            if total > max_bytes:
                raise _too_large(path, total, max_bytes, was_read="nothing but its metadata")
            return (
                manifest,
                described,
                {name: _verified(path, name, container, entries) for name in sizes if not _is_json(name)},
            )
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise damaged(path, first_line(error)) from error


def write_members(path: Path, manifest: Mapping[str, object], members: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write a zip file where the name ends in ``.zip``, or a folder, beside the target, and then move it into place.

    Raises
    ------
    BundleError
        If something else is there, or a bundle is there and ``overwrite`` is False.
    """
    refuse_existing(path, overwrite=overwrite)
    files = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in sorted(members.items())}
    whole = {"format": FORMAT, "version": VERSION, **manifest, "files": files}
    text = json.dumps(whole, indent=1, allow_nan=False).encode()
    everything = {MANIFEST: text, **dict(sorted(members.items()))}
    if len(everything) > MAX_FILES or len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"The bundle would hold {len(everything):,} files and {len(text):,} bytes of settings and names, more than "
            f"{MAX_FILES:,} or {MAX_MANIFEST_BYTES:,}: leave out layers, or shorten the settings."
        )
    with placed(path, refuse=partial(refuse_existing, overwrite=overwrite), failed=_unwritable) as new:
        (_make_zip if is_zip_name(path) else _make_folder)(new, everything)


def _unwritable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"The bundle {str(path)!r} cannot be written: {first_line(error)}.")


def is_zip_name(path: Path) -> bool:
    """Whether a bundle of that name is a single file."""
    return path.suffix.lower() == ".zip"


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace existing files unless they are a complete bundle that the user asked to replace."""
    if not path.exists() and not path.is_symlink():
        return
    if not _is_ours(path):
        raise BundleError(
            f"{str(path)!r} exists and is not a bundle written by spectral_toolkit: choose another path; nothing was "
            "touched."
        )
    if not overwrite:
        raise BundleError(f"{str(path)!r} exists already: give overwrite=True to replace it, or choose another path.")


def damaged(path: Path, reason: str) -> BundleError:
    """The error for a bundle that cannot be used."""
    return BundleError(
        f"The bundle {str(path)!r} cannot be used ({reason}): get it again from its source, or write it again with "
        "st.save_bundle. Nothing in it was executed."
    )


def parse_json(data: bytes | bytearray) -> object:
    """Read JSON, and refuse NaN, repeated keys, and nesting that would end in a crash."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a JSON object names a key twice")
        return found

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"JSON has no {text}")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _is_ours(path: Path) -> bool:
    if path.is_symlink():
        return False
    try:
        if path.is_file():
            with zipfile.ZipFile(path) as archive, archive.open(MANIFEST) as file:
                return _listed(parse_json(file.read(MAX_MANIFEST_BYTES))) is not None
        listed = _listed(parse_json((path / MANIFEST).read_bytes()))
        if listed is None:
            return False
        present = {found.relative_to(path).as_posix() for found in path.rglob("*") if not found.is_dir()}
        return present <= {MANIFEST, *listed}
    except Exception:  # anything that cannot be read is not ours
        return False


def _listed(manifest: object) -> dict[str, object] | None:
    """The files that a manifest lists; None where it is not the manifest of a bundle."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    files = manifest.get("files")
    return files if isinstance(files, dict) and isinstance(manifest.get("version"), int) else None


def _is_json(name: str) -> bool:
    return name.endswith(".json")


def _checked_manifest(path: Path, data: bytearray) -> tuple[dict[str, object], dict[str, _ZipEntry]]:
    try:
        manifest = parse_json(data)
    except ValueError as error:
        raise damaged(path, f"{MANIFEST} is not JSON: {first_line(error)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(
            f"{str(path)!r} is not a bundle: its {MANIFEST} does not say so; give what st.save_bundle wrote."
        )
    version = manifest.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise damaged(path, f"version {str(version)[:40]!r} is not a number")
    if version > VERSION:
        raise BundleError(
            f"The bundle {str(path)!r} has version {version}, but this spectral_toolkit reads up to {VERSION}: install "
            "a newer version."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES:
        raise damaged(path, f"{MANIFEST} lists no files, or more than {MAX_FILES:,}")
    for name, entry in files.items():
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise damaged(path, f"{_short(name)} is not a name that bundles use")
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(entry.get("sha256"), str):
            raise damaged(path, f"{MANIFEST} gives no size and hash for {_short(name)}")
    return manifest, files


def _verified(path: Path, name: str, container: _Container, entries: Mapping[str, _ZipEntry]) -> bytearray:
    data = container.read(name, entries[name]["bytes"])
    if _sha256(data) != entries[name]["sha256"]:
        raise damaged(path, f"{_short(name)} does not have the hash in {MANIFEST}")
    return data


@contextmanager
def _zip(path: Path, max_bytes: float) -> Iterator[_Container]:
    with path.open("rb") as file:
        _check_end_record(path, file, max_bytes)
        with zipfile.ZipFile(file) as archive:
            infos: dict[str, zipfile.ZipInfo] = {}
            total = 0
            for info in archive.infolist():
                if info.is_dir() and info.file_size == 0 and _NAME.fullmatch(info.filename.rstrip("/")):
                    continue  # zipping a folder by hand adds these
                _check_entry(path, info)
                if info.filename in infos:
                    raise damaged(path, f"it holds {_short(info.filename)} twice")
                infos[info.filename] = info
                total += info.file_size
            if total > max_bytes:
                raise _too_large(path, total, max_bytes)
            if MANIFEST not in infos:
                raise _no_manifest(path)

            def check(name: str, size: int | None) -> int:
                if name not in infos:
                    raise damaged(path, f"{_short(name)} is missing")
                said = infos[name].file_size
                if size is None and said > MAX_MANIFEST_BYTES:
                    raise damaged(path, f"{name} is larger than {MAX_MANIFEST_BYTES:,} bytes")
                if size is not None and said != size:
                    raise damaged(path, f"{_short(name)} does not have the size that {MANIFEST} gives")
                return said

            yield _Container(check, lambda name, _: _inflate(path, archive, infos[name]))


def _check_end_record(path: Path, file: BinaryIO, max_bytes: float) -> None:
    """Check the list of files before the library reads it into memory; our zip files never exceed 4 GB."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - 2**16))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        raise BundleError(
            f"{str(path)!r} is not a zip file, or is cut off: give a bundle that st.save_bundle wrote, or get it again."
        )
    fields = _END.unpack(tail[place : place + _END.size])
    if tail[max(0, place - 20) : place][:4] == b"PK\x06\x07" or fields[4] == 2**16 - 1 or fields[5] == 2**32 - 1:
        raise damaged(path, "it is a zip file of the 64-bit kind")
    if fields[4] > MAX_FILES or fields[5] > _DIRECTORY_BYTES:
        raise damaged(path, f"it holds more than {MAX_FILES:,} files")
    if (listed := 2 * fields[5] + _FILE_BYTES * fields[4]) > max_bytes:
        raise _too_large(path, listed, max_bytes)
    file.seek(0)


def _check_entry(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    if not _NAME.fullmatch(name):
        raise damaged(path, f"{_short(name)} is not a name that bundles use")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise damaged(path, f"{_short(name)} is a link or a device, not a file")
    if info.flag_bits & 0x1:
        raise damaged(path, f"{_short(name)} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise damaged(path, f"{_short(name)} is compressed by a method that bundles do not use")


def _inflate(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    data = bytearray(info.file_size)
    with archive.open(info) as file:
        if not _fill(data, cast("_Readable", file)):
            raise damaged(path, f"{_short(info.filename)} is longer or shorter than it declares")
    return data


class _Readable(Protocol):
    """A file that is being read."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def read(self, size: int, /) -> bytes: ...


def _fill(data: bytearray, file: _Readable) -> bool:
    """Read a file into memory of its size, piece by piece; return whether it has exactly that size."""
    place, view = 0, memoryview(data)
    while place < len(data) and (n_bytes := file.readinto(view[place : place + _PIECE])):
        place += n_bytes
    return place == len(data) and not file.read(1)


@contextmanager
def _folder(path: Path, max_bytes: float) -> Iterator[_Container]:
    if not (path / MANIFEST).exists():
        raise _no_manifest(path)

    yield _Container(
        lambda name, size: _checked_size(path, name, size), lambda name, size: _read_file(path, name, size)
    )


def _checked_size(root: Path, name: str, expected: int | None) -> int:
    """The size of a plain file that is reached from the bundle's own folder without a link."""
    place, found = root, root.lstat()
    for part in name.split("/"):
        place = place / part
        try:
            found = place.lstat()
        except OSError as error:
            raise damaged(root, f"{_short(name)} is missing") from error
        if stat.S_ISLNK(found.st_mode):
            raise damaged(root, f"{_short(name)} is a link, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise damaged(root, f"{_short(name)} is not a plain file")
    if expected is None and found.st_size > MAX_MANIFEST_BYTES:
        raise damaged(root, f"{name} is larger than {MAX_MANIFEST_BYTES:,} bytes")
    if expected is not None and found.st_size != expected:
        raise damaged(root, f"{_short(name)} does not have the size that {MANIFEST} gives")
    return found.st_size


def _read_file(root: Path, name: str, size: int | None) -> bytearray:
    data = bytearray(_checked_size(root, name, size))
    with (root / name).open("rb") as file:
        if not _fill(data, cast("_Readable", file)):
            raise damaged(root, f"{_short(name)} changed while it was being read")
    return data


def _make_zip(path: Path, everything: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, allowZip64=False, compresslevel=6) as archive:
        for name, data in everything.items():
            info = zipfile.ZipInfo(name, date_time=_DATE)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def _make_folder(path: Path, everything: Mapping[str, bytes]) -> None:
    for name, data in everything.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def _too_large(path: Path, total: int, max_bytes: float, *, was_read: str = "nothing") -> BundleError:
    return BundleError(
        f"The bundle {str(path)!r} would take {total:,} bytes of memory, more than max_bytes={max_bytes:,}: {was_read} "
        "was read. Give a larger max_bytes if you trust it."
    )


def _no_manifest(path: Path) -> BundleError:
    return BundleError(f"{str(path)!r} is not a bundle: it holds no {MANIFEST}; give what st.save_bundle wrote.")


def _sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def _short(name: object) -> str:
    return repr(str(name)[:80])
