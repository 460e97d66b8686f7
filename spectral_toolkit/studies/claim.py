"""Reserves a study's outputs: no other run works there meanwhile, and a study replaces only its own results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypedDict, cast

from .._io.outputs import refuse_foreign, write_whole
from ..errors import StoreError, StudyError, first_line
from .cache import LOCK, Cache
from .config import Study
from .numbers import read_record

_OWNER = "study.json"


@contextmanager
def locked(cache: Cache) -> Iterator[None]:
    """Lock this cache against other runs, in this process or another on this machine.

    The system holds the lock for as long as the process lives, so that nothing needs to be cleared after ``kill -9``.

    Raises
    ------
    StudyError
        If another run is using it.
    """
    path = cache.folder / LOCK
    try:
        file = path.open("a+b")
    except OSError as error:
        raise StoreError(
            f"{str(path)!r} cannot be written ({error.strerror or error}): make room there, or choose another --out."
        ) from error
    with file:
        # An earlier run may have removed the folder after we opened the file and before we locked it: it is then
        # unused.
        if not _lock(file) or not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise StudyError(
                f"Another run is at work in {str(cache.folder)!r}: wait until it has ended, or choose another --out."
            )
        yield


def _lock(file: IO[bytes]) -> bool:
    """Whether the lock is ours now; it is released when the file is closed or the process ends."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise StoreError(
            f"{file.name!r} is in a place where files cannot be locked ({error.strerror or error}), so two runs could "
            "spoil each other's work: choose another --out."
        ) from error
    return True


@contextmanager
def claimed(study: Study, outputs: Sequence[Path], folder: Path, *, overwrite: bool) -> Iterator[Cache]:
    """The cache of a study whose outputs may be written, because nothing is there or only earlier results of its own.

    A study is recognised by its title, or without a title by its models and images, some of which must be the same.

    Parameters
    ----------
    outputs
        Page, numbers, eigenvectors and tables.
    folder
        The cache.
    overwrite
        Whether an earlier result of its own may be replaced.

    Raises
    ------
    StudyError
        If results or cells of another study are there, or another run is in progress.
    StoreError
        If something else is there, or an earlier result of this study, and ``overwrite`` is False.
    """
    for path in outputs:
        refuse_foreign(path, overwrite=True)
    numbers = next(path for path in outputs if path.suffix == ".json")
    found = {numbers: identity(read_record(numbers)["study"])} if numbers.exists() else {}
    found |= {folder: owner} if (owner := _owner(folder)) is not None else {}
    mine = identity(study.record())
    for place, other in found.items():
        if not _same(mine, other):
            raise StudyError(
                f"{str(place)!r} belongs to another study, {str(other['title'])[:80]!r}, and not to this one, "
                f"{str(mine['title'])[:80]!r}: give another name for the output (out, or --out). A study is "
                "recognised by its title, or without a title by its models and images."
            )
    for path in outputs:
        if path.exists() and not found:
            raise StudyError(
                f"{str(path)!r} was written by spectral-toolkit, but by an unknown study: remove it, or "
                "choose another --out."
            )
        refuse_foreign(path, overwrite=overwrite)
    cache = Cache(folder)
    with locked(cache):
        write_whole(folder / _OWNER, json.dumps({"study": study.record()}, ensure_ascii=False).encode())
        yield cache


class Identity(TypedDict):
    """What tells one study from others."""

    title: object
    models: list[str]
    pictures: list[str]


def identity(record: Mapping[str, object]) -> Identity:
    """The settings of a study that distinguish it from others.

    Examples
    --------
    >>> identity({"title": "Four scenes", "models": [{"label": "scenes"}], "pictures": [{"label": "made"}], "seed": 3})
    {'title': 'Four scenes', 'models': ['scenes'], 'pictures': ['made']}
    """
    models, pictures = (
        [str(one["label"]) for one in cast("Sequence[Mapping[str, object]]", record.get(kind, ()))]
        for kind in ("models", "pictures")
    )
    return {"title": record.get("title"), "models": models, "pictures": pictures}


def _same(mine: Identity, other: Identity) -> bool:
    """Whether two identities belong to one study, which may have been edited since."""
    if mine["title"] != other["title"]:
        return False
    untitled = Study.model_fields["title"].default
    return mine["title"] != untitled or all(
        set(own) & set(others)
        for own, others in ((mine["models"], other["models"]), (mine["pictures"], other["pictures"]))
    )


def _owner(folder: Path) -> Identity | None:
    """The identity of the study whose cells are there; None where it was not recorded."""
    try:
        return identity(json.loads((folder / _OWNER).read_text(encoding="utf-8"))["study"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{str(folder / _OWNER)!r} does not say to which study the cells beside it belong ({first_line(error)}): "
            f"remove {folder.name!r}."
        ) from error
