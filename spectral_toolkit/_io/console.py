"""Prints any letter, whatever the encoding of the terminal or of the file to which output goes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def any_letters() -> Iterator[None]:
    r"""Show letters that standard output or error cannot write as escapes such as ``\u0151``.

    File names may contain any letter, and on Linux even bytes that are not letters; a Windows console, a redirect and
    the C locale write few of them. A computed result must not be lost to a traceback about a letter.

    Examples
    --------
    >>> with any_letters():
    ...     print("café")
    café
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)
