"""Undo and redo: the states that were shown, of which a drag is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from .state import State

MOST = 200
_TOGETHER = 1.0  # seconds between two changes of the same setting that are one


@dataclass
class History:
    """The states before and after the present one.

    Examples
    --------
    >>> history, first = History(), State()
    >>> second = State(component=2)
    >>> history.add(first, second)
    >>> history.back(second) == first, history.forth(first) == second, history.forth(second) is None
    (True, True, True)
    """

    clock: Callable[[], float] = time.monotonic
    before: list[State] = field(default_factory=list)
    after: list[State] = field(default_factory=list)
    _last: tuple[frozenset[str], float] = (frozenset(), -1e9)

    def add(self, old: State, new: State) -> None:
        """Keep the state that a change has replaced; what was undone before that cannot be redone any more."""
        differ = frozenset(one.name for one in fields(State) if getattr(old, one.name) != getattr(new, one.name))
        if not differ:
            return
        same, at = self._last
        now = self.clock()
        self.after.clear()
        if differ != same or now - at > _TOGETHER or not self.before or "selection" in differ:  # a lasso is no drag
            self.before = [*self.before[1 - MOST :], old]
        self._last = (differ, now)

    def back(self, present: State) -> State | None:
        """The state before the present one; None where there is none."""
        return self._moved(self.before, self.after, present)

    def forth(self, present: State) -> State | None:
        """The state that was undone last; None where there is none."""
        return self._moved(self.after, self.before, present)

    def _moved(self, source: list[State], target: list[State], present: State) -> State | None:
        if not source:
            return None
        self._last = (frozenset(), -1e9)
        target.append(present)
        return source.pop()
