"""Tables of what can be chosen by name and added from outside: kernels, solvers, scores, views."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, TypeVar

from .errors import SpectralToolkitError


@dataclass(frozen=True, eq=False)
class NamedRow:
    """What can be chosen by name; a subclass carries everything that anybody asks of it."""

    name: str


R = TypeVar("R", bound=NamedRow)


@dataclass(frozen=True)
class Choice(Generic[R]):
    """A kernel or a solver, and the options it is to have."""

    row: R
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


class NamedTable(Mapping[str, R]):
    """Every row of one sort, by name, in the order in which they were registered.

    Parameters
    ----------
    argument
        The argument by which users choose a row, for messages.
    sort
        The class of the rows.
    home
        Where users find it and `register`.
    error
        The class of the errors. Its messages are found by ``docs/make_errors.py`` as ``self.error(...)``.
    """

    def __init__(self, argument: str, sort: type[R], home: str, error: type[SpectralToolkitError]) -> None:
        self.argument, self.sort, self.home, self.error = argument, sort, home, error
        self._rows: dict[str, R] = {}
        self._ours: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> R:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def complete(self) -> None:
        """Our own rows are all there: from now on none of them can be replaced or removed."""
        self._ours = frozenset(self._rows)

    def register(self, row: R) -> R:
        """Add a row, or replace one of the same name that is not ours."""
        if not isinstance(row, self.sort):
            raise self.error(f"A {type(row).__name__} cannot be registered: give a {self.home}.{self.sort.__name__}.")
        name: object = row.name
        if not isinstance(name, str) or not name.isidentifier():
            raise self.error(
                f"{self.argument} {name!r} cannot be registered, because its name stands in code, in files and in "
                "pages: use letters, digits and underscores, beginning with a letter."
            )
        if name in self._ours:
            raise self.error(f"{self.argument} {name!r} is built in and cannot be replaced: choose another name.")
        self._rows[name] = row
        return row

    def unregister(self, name: str) -> None:
        """Remove a row that was added from outside."""
        if name in self._ours or name not in self._rows:
            raise self.error(
                f"{self.argument} {name!r} was not registered: only what {self.home}.register added can be removed."
            )
        del self._rows[name]

    def choose(self, given: object, beside: Mapping[str, Any] | None = None) -> tuple[R, dict[str, Any]]:
        """The row that was given by name or as an object, with its options and those given ``beside`` it."""
        options: dict[str, Any] = {}
        if isinstance(given, Choice):
            given, options = given.row, dict(given.options)
        if twice := sorted(set(options) & set(beside or {})):
            raise self.error(
                f"{twice[0]} is given twice, with the {self.argument} and beside it: leave one of them out."
            )
        options |= beside or {}
        if isinstance(given, self.sort):
            if self._rows.get(given.name) is not given:
                raise self.error(
                    f"{self.argument} {given.name!r} has not been registered: call {self.home}.register first, so that "
                    "its results can be read again by name."
                )
            return given, options
        if not isinstance(given, str) or given not in self._rows:
            raise self.error(
                f"{self.argument}={given!r} is not offered{self._meant(given)}: use one of "
                f"{', '.join(map(repr, self))}, or an object of {self.home}."
            )
        return self._rows[given], options

    def _meant(self, given: object) -> str:
        close = difflib.get_close_matches(given[:80], self, n=1) if isinstance(given, str) else []
        return f" (did you mean {close[0]!r}?)" if close else ""


def located(place: Any) -> Any:
    """What stands at ``"module:name"``, imported when it is first used; anything but text is returned as it is."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
