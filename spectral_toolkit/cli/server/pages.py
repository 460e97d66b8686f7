"""Keeps track of open pages of the app, and ends the kernels of others. Nothing here knows of Voila."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

MOST_PAGES = 4
"""How many pages may be open at once by default: each has a kernel of its own, of about 600 MB."""
IDLE_MINUTES = 60
"""After how many minutes, by default, the kernel of an unused page ends."""
TIDY_SECONDS = 5.0
_CLOSED_SECONDS = 20.0  # seconds without a connection: a page that was only cut off comes back within seconds
_UNSEEN_SECONDS = 40.0  # seconds from a page that was sent completely to its first connection
_LEAVING_SECONDS = 10.0  # seconds after a page announced that it was closing, and then stayed
_ROOM_SECONDS = 3.0  # seconds that a new page waits for another to close: a reload asks for the new page first


@dataclass
class _Page:
    """The kernel of one page, and the state of the page; times are from one clock, and None if not yet reached."""

    asker: Hashable
    sent: float | None = None
    connected: float | None = None
    leaving: float | None = None
    gone: bool = False


class Pages:
    """The open pages.

    Parameters
    ----------
    kernels
        Jupyter's kernel manager.
    most
        How many pages may be open at once.
    idle_minutes
        After how many minutes the kernel of an unused page ends.
    """

    def __init__(
        self, kernels: Any, *, most: int = MOST_PAGES, idle_minutes: float = IDLE_MINUTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.most, self.idle_minutes = most, idle_minutes
        self._kernels, self._clock = kernels, clock
        self._asking: set[Hashable] = set()
        self._pages: dict[str, _Page] = {}
        self._ended: dict[str, str] = {}

    @property
    def full(self) -> str:
        """The text of a page that exceeds the limit."""
        return (
            f"{self.most} pages of the explorer are open already, and each keeps about 600 MB of memory: close one of "
            "them and reload this page, or start the app with a larger --max-pages. A closed page is freed within a "
            "minute."
        )

    def n_open(self) -> int:
        """The number of pages that are open or about to open."""
        alive = set(self._kernels.list_kernel_ids())
        staying = (
            page for name, page in self._pages.items() if name in alive and not page.gone and page.leaving is None
        )
        return len(self._asking) + sum(1 for _ in staying)

    async def admit(self, asker: Hashable) -> bool:
        """Whether one more page may open; if so, it is counted from now on."""
        until = self._clock() + _ROOM_SECONDS
        while self.n_open() >= self.most:
            if self._clock() >= until:
                return False
            await asyncio.sleep(0.1)
        self._asking.add(asker)
        return True

    def started(self, asker: Hashable, kernel: str) -> None:
        """Note that a page that was admitted has a kernel."""
        self._pages[kernel] = _Page(asker, gone=asker not in self._asking)
        self._asking.discard(asker)

    def sent(self, asker: Hashable) -> None:
        """Note that a page was sent completely, or failed: it has whatever kernel it will have."""
        self._asking.discard(asker)
        for page in self._of(asker):
            page.sent = self._clock()

    def abandoned(self, asker: Hashable) -> None:
        """Note that the browser disconnected while the page was being sent."""
        self._asking.discard(asker)
        for page in self._of(asker):
            page.gone = True

    def leaving(self, kernel: str) -> None:
        """Note that the page is about to close."""
        if kernel in self._pages:
            self._pages[kernel].leaving = self._clock()

    def why_ended(self, kernel: str) -> str | None:
        """A sentence for a page whose kernel has ended; None while it runs."""
        if kernel in self._kernels.list_kernel_ids():
            return None
        return self._ended.get(kernel, "The kernel of this page has ended: reload the page.")

    async def tidy(self) -> None:
        """End the kernels of pages that are closed or unused."""
        for kernel in list(self._kernels.list_kernel_ids()):
            reason = self._why_end(kernel)
            if reason is not None:
                self._ended[kernel] = reason
                await self._kernels.shutdown_kernel(kernel, now=True)
        alive = set(self._kernels.list_kernel_ids())
        self._pages = {name: page for name, page in self._pages.items() if name in alive}
        self._ended = dict(list(self._ended.items())[-100:])

    def _of(self, asker: Hashable) -> list[_Page]:
        return [page for page in self._pages.values() if page.asker == asker]

    def _why_end(self, kernel: str) -> str | None:
        page, now = self._pages.get(kernel), self._clock()
        if page is None:  # it is being started, or belongs to no page
            return None
        closed = "This page was closed, and its kernel has ended: reload the page."
        model = self._kernels.kernel_model(kernel)
        if model["connections"] > 0:
            page.connected = now
            if page.leaving is not None and now - page.leaving > _LEAVING_SECONDS:
                page.leaving = None  # the page stayed open
            unused = datetime.now(UTC) - datetime.fromisoformat(model["last_activity"].replace("Z", "+00:00"))
            if unused.total_seconds() > 60 * self.idle_minutes and model["execution_state"] != "busy":
                return (
                    f"This page was not used for {self.idle_minutes:g} minutes, and its kernel has ended: reload the "
                    "page to continue."
                )
            return None
        if page.gone or page.leaving is not None:
            return closed
        if page.connected is not None:
            return closed if now - page.connected > _CLOSED_SECONDS else None
        return closed if page.sent is not None and now - page.sent > _UNSEEN_SECONDS else None


def is_own_origin(origin: str | None, host: str | None) -> bool:
    """Whether a request comes from a page of this server; a request without a browser has no origin and needs the
    token.

    Examples
    --------
    >>> is_own_origin("http://127.0.0.1:8866", "127.0.0.1:8866"), is_own_origin("http://127.0.0.1:80", "127.0.0.1:8866")
    (True, False)
    """
    if origin is None:
        return True
    try:
        return host is not None and urlsplit(origin.lower()).netloc == host.lower()
    except ValueError:
        return False
