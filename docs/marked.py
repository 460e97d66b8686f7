"""Tables of pages that scripts make again, each between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The page with every table in its place.

    Raises
    ------
    ValueError
        If the page has no place of that name.
    """
    for name, table in tables.items():
        text, n_places = _place(name).subn(lambda place, table=table: f"{place[1]}{table}\n{place[2]}", text)
        if not n_places:
            raise ValueError(f"The page has no place marked <!-- {name} --> ... <!-- /{name} -->.")
    return text
