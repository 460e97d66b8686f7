"""Files that a page holds, for a reader to save: no network, and nothing beside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping


def addresses(files: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Names of files, and addresses that hold their contents.

    Parameters
    ----------
    files
        Type and content by name.

    Examples
    --------
    >>> addresses({"a.csv": ("text/csv", "x")})
    [('a.csv', 'data:text/csv;charset=utf-8;base64,eA==')]
    """
    return [
        (name, f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}")
        for name, (kind, text) in files.items()
    ]
