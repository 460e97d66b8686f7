"""What an object of ours shows at the end of a cell: a line of text, or a small table; nothing is computed for it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_LONGEST = 60  # characters of one fact in a line
_LONGEST_CELL = 300  # and in a table
_STYLE = "font:13px system-ui,sans-serif;text-align:left"


class Described:
    """An object that says of itself what `_facts` returns, in order. Its repr never raises, whatever became of it."""

    def _facts(self) -> Mapping[str, Any]:
        """What to say, by name; the first is the name or kind of the object. Nothing dear, and nothing that loads."""
        return {}

    def _line(self) -> str:
        """All of it in one line; a class may have a line of its own."""
        facts = list(self._known().items())
        first = [shortened(value, _LONGEST) for _, value in facts[:1]]
        others = ", ".join(f"{name} {shortened(value, _LONGEST)}" for name, value in facts[1:])
        return f"<{' '.join([type(self).__name__, *first])}{': ' if others else ''}{others}>"

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.__repr__ = Described.__repr__  # that of a dataclass would write out all of its fields

    def __repr__(self) -> str:
        try:
            return self._line()
        except Exception:
            return f"<{type(self).__name__}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='{_STYLE}'>{escape(name)}</th>"
            f"<td style='{_STYLE};font-weight:normal'>{escape(shortened(value, _LONGEST_CELL))}</td></tr>"
            for name, value in self._known().items()
        )
        return f"<div style='{_STYLE}'><b>{escape(type(self).__name__)}</b><table>{rows}</table></div>"

    def _known(self) -> Mapping[str, Any]:
        """The facts, or none of an object that is not whole: whoever looks at one is looking for its fault."""
        try:
            return {name: value for name, value in self._facts().items() if value not in (None, "")}
        except Exception:
            return {}


def shortened(value: Any, longest: int) -> str:
    """A value as one line of text, with dots where it is longer; names may come from anywhere.

    Examples
    --------
    >>> shortened("a\\nb", 60), shortened("abcdefgh", 5)
    ('a b', 'ab...')
    """
    text = " ".join(str(value).split())
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def few(names: tuple[str, ...] | list[str], n_shown: int = 3) -> str:
    """The first names, each shortened, and how many there are in all.

    Examples
    --------
    >>> few(["a", "b", "c", "d"])
    '4 (a, b, c, ...)'
    """
    shown = ", ".join(shortened(name, 20) for name in names[:n_shown]) + (", ..." if len(names) > n_shown else "")
    return f"{len(names)} ({shown})" if names else "0"
