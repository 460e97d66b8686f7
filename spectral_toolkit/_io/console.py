"""What is printed: any letter, whatever the encoding of the terminal or the file that it goes to."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def any_letters() -> Iterator[None]:
    r"""Meanwhile, letters that standard output or error cannot write appear as escapes such as ``\u0151``.

    Names of files may hold any letter, and on Linux bytes that are none; a console of Windows, a redirect and the C
    locale write few of them. A result that was computed must not end in a traceback for want of a letter.

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
