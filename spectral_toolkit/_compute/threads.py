"""One thread for small problems: beside another program, several threads spend their time waiting for each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _libraries() -> ThreadpoolController:
    """The libraries that keep threads; to look for them takes longer than k-means of some hundred patches."""
    return ThreadpoolController()


def serial(small: bool = True) -> AbstractContextManager[object]:
    """Keep numerical libraries to one thread, in a ``with`` statement; leave them as they are if not ``small``.

    Examples
    --------
    >>> with serial():
    ...     sorted({library["num_threads"] for library in ThreadpoolController().info()})
    [1]
    """
    return _libraries().limit(limits=1 if small else None)
