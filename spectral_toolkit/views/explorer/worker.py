"""One background thread: the newest request wins, and its answer comes back on the notebook's own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")

Check = Callable[..., None]
"""Called now and then by a computation; raises `CancelledError` when nobody waits for it any more."""


class CancelledError(Exception):
    """A newer request, or the user, has made this one pointless."""


class Worker(Generic[Request]):
    """Runs ``compute(request, check)`` and hands ``deliver(request, answer, error)`` the outcome.

    With a running event loop (a notebook) computing happens on a thread and delivery on the loop, where widgets may be
    touched. Without one, as in a script or a test, both happen at once inside `ask`.
    """

    def __init__(
        self,
        compute: Callable[[Request, Check], Any],
        deliver: Callable[[Request, Any, Exception | None], None],
        *,
        synchronous: bool = False,
    ) -> None:
        self._compute = compute
        self._deliver = deliver
        self._condition = threading.Condition()
        self._waiting: Request | None = None
        self._number = 0  # of the newest request; what carries an older one is out of date
        self._stopped = False
        self._loop = None if synchronous else _running_loop()
        self._thread: threading.Thread | None = None

    def ask(self, request: Request) -> None:
        """Compute this, and forget whatever was asked before."""
        with self._condition:
            self._number += 1
            number = self._number
            self._waiting = request
            self._condition.notify()
        if self._loop is None:
            self._run(request, number)
        elif self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spectral_toolkit explorer", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Forget what was asked, and stop computing it."""
        with self._condition:
            self._number += 1
            self._waiting = None

    def close(self) -> None:
        """Stop the thread; it lets go of everything that it held."""
        with self._condition:
            self._stopped = True
            self._number += 1
            self._waiting = None
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        self._thread = None
        self._compute = self._deliver = _nothing

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._stopped:
                    self._condition.wait()
                if self._stopped:
                    return
                request, self._waiting, number = self._waiting, None, self._number
            self._run(request, number)
            del request

    def _run(self, request: Request | None, number: int) -> None:
        if request is None:
            return

        def check(*_: object) -> None:
            if number != self._number:
                raise CancelledError

        answer, error = None, None
        try:
            answer = self._compute(request, check)
        except CancelledError:
            return
        except Exception as raised:  # whatever went wrong is shown to the user, who can change the setting
            error = raised
        if self._loop is None:
            self._finish(request, number, answer, error)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, request, number, answer, error)

    def _finish(self, request: Request, number: int, answer: Any, error: Exception | None) -> None:
        if number == self._number:
            self._deliver(request, answer, error)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nothing(*_: object) -> None:
    return None
