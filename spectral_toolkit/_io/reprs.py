"""How our objects are shown at the end of a notebook cell: one line of text or a small table, without computation."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_LONGEST = 60  # characters of one fact on a line
_SENTENCE = 150  # characters above which a fact is no fact for a line
_LONGEST_CELL = 300  # characters of one fact in a table
_STYLE = "font:13px system-ui,sans-serif;text-align:left"


class Described:
    """An object whose repr shows what `_facts` returns, in order, and never raises, whatever state the object is in."""

    def _facts(self) -> Mapping[str, object]:
        """Facts by name; the first is the name or class of the object. They must be quick and load nothing."""
        return {}

    def _line(self) -> str:
        """All facts on one line; a class may define a line of its own."""
        facts = list(self._known().items())
        first = [shortened(value, _LONGEST) for _, value in facts[:1]]
        # A sentence has its place in the table, where there is room for it.
        short = [(name, value) for name, value in facts[1:] if len(str(value)) <= _SENTENCE]
        others = ", ".join(f"{name} {shortened(value, _LONGEST)}" for name, value in short)
        return f"<{' '.join([type(self).__name__, *first])}{': ' if others else ''}{others}>"

    def __init_subclass__(cls, **settings: object) -> None:
        super().__init_subclass__(**settings)
        cls.__repr__ = Described.__repr__  # the repr of a dataclass would show all of its fields

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

    def _known(self) -> Mapping[str, object]:
        """The facts, or none for an incomplete object, so that its repr still helps to find the error."""
        try:
            return {name: value for name, value in self._facts().items() if value not in (None, "")}
        except Exception:
            return {}


def shortened(value: object, longest: int) -> str:
    """A value as one line of text, shortened with dots; names may come from anywhere.

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
