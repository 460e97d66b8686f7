"""One background thread: the newest request wins, and its result returns on the notebook's own loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .._compute.settings import own_settings

Request = TypeVar("Request")
Found = TypeVar("Found")

Check = Callable[..., None]
"""A computation calls this now and then, with the share that is done, 0..1, where it is known. It raises
`CancelledError` when the result is no longer awaited."""

_REPORTS_APART = 0.1  # seconds


class CancelledError(Exception):
    """The request was replaced by a newer one, or stopped by the user."""


class Worker(Generic[Request, Found]):
    """Runs ``compute(request, check)`` and passes the outcome to ``deliver(request, answer, error)``.

    Where an event loop runs, as in a notebook, a thread computes and the loop delivers, because widgets may only be
    touched there. The loop also calls ``report(done)``, at most ten times a second, with the progress of the work.
    Without a loop, as in a script or a test, `ask` computes and delivers at once.
    """

    def __init__(
        self,
        compute: Callable[[Request, Check], Found],
        deliver: Callable[[Request, Found | None, Exception | None], None],
        *,
        report: Callable[[float], None] | None = None,
        synchronous: bool = False,
    ) -> None:
        self._compute = compute
        self._deliver = deliver
        self._report = report
        self._condition = threading.Condition()
        self._waiting: Request | None = None
        self._number = 0  # number of the newest request; whatever carries an older number is out of date
        self._stopped = False
        self._loop = None if synchronous else _running_loop()
        self._thread: threading.Thread | None = None
        self._outcome: tuple[int, Request, Found | None, Exception | None] | None = None

    def ask(self, request: Request, patience: float = 0.0) -> None:
        """Compute this, and forget all earlier requests.

        A result that is ready within ``patience`` seconds is delivered before this returns. While a slider is dragged,
        the page sends no new value until the last one has been handled: results that are quick enough are therefore
        shown one after another, where each would otherwise be cancelled by the next.
        """
        with self._condition:
            self._number += 1
            number = self._number
            self._waiting, self._outcome = request, None
            self._condition.notify_all()
        if self._loop is None:
            self._run(request, number)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spectral_toolkit explorer", daemon=True)
            self._thread.start()
        if patience > 0:
            with self._condition:
                self._condition.wait_for(lambda: self._outcome is not None, patience)
            self._finish(number)

    def cancel(self) -> None:
        """Forget the request, and stop computing it."""
        with self._condition:
            self._number += 1
            self._waiting = self._outcome = None

    def close(self) -> None:
        """Stop the thread, which frees everything that it held."""
        with self._condition:
            self._stopped = True
            self._number += 1
            self._waiting = self._outcome = None
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
        self._thread = None
        self._compute = self._deliver = _nothing
        self._report = None

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

        reported = time.monotonic()

        def check(done: float | None = None) -> None:
            nonlocal reported
            if number != self._number:
                raise CancelledError
            if done is None or self._loop is None or self._loop.is_closed():
                return
            if time.monotonic() - reported > _REPORTS_APART:
                reported = time.monotonic()
                self._loop.call_soon_threadsafe(self._say, number, done)

        answer, error = None, None
        try:
            with own_settings():  # settings of this thread only
                answer = self._compute(request, check)
        except CancelledError:
            return
        except Exception as raised:  # any error is shown to the user, who can change the setting
            error = raised
        with self._condition:
            if number != self._number:
                return
            self._outcome = (number, request, answer, error)
            self._condition.notify_all()
        if self._loop is None:
            self._finish(number)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, number)

    def _say(self, number: int, done: float) -> None:
        if number == self._number and self._report is not None:
            self._report(done)

    def _finish(self, number: int) -> None:
        """Deliver an outcome, unless it is out of date or has already been delivered."""
        with self._condition:
            outcome = self._outcome
            if outcome is None or number != self._number or outcome[0] != number:
                return
            self._outcome = None
        with own_settings():
            self._deliver(*outcome[1:])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nothing(*_: object) -> None:
    return None
