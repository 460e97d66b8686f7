"""Voila with our page in front of its own, a bound on open pages, and an end for the kernels of closed ones."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from html import escape
from pathlib import Path
from typing import Any

import tornado.web
from jupyter_server.base.handlers import APIHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import PeriodicCallback
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

from .pages import TIDY_SECONDS, Pages, is_own_origin

TEMPLATE = Path(__file__).parent.parent / "views" / "templates" / "app"
_KERNEL = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"
_ON_START: ContextVar[Callable[[str], None] | None] = ContextVar("on_start", default=None)
"""What the page that is being made wants to know of its kernel."""


class Kernels(AsyncMappingKernelManager):
    """Kernels of which each is known to its page from the beginning."""

    async def start_kernel(self, **settings: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start one, and tell the page that asked for it."""
        kernel = await super().start_kernel(**settings)
        tell = _ON_START.get()
        if tell is not None:
            tell(kernel)
        return kernel


class PageHandler(TornadoVoilaHandler):
    """The page, or a sentence where there are too many."""

    @property
    def pages(self) -> Pages:
        """The pages of this app."""
        return self.settings["spectral_toolkit_pages"]

    @tornado.web.authenticated
    async def get(self, path: str | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the page."""
        if not path and not await self.pages.admit(self):
            self.set_status(503)
            self.set_header("Cache-Control", "no-store")
            title = "<!doctype html><meta charset=utf-8><title>Explorer</title>"
            self.finish(f"{title}<p style='font:16px system-ui;margin:3em'>{escape(self.pages.full)}</p>")
            return
        _ON_START.set(lambda kernel: self.pages.started(self, kernel))
        shown: Any = super().get(path)
        await shown

    def on_finish(self) -> None:
        """The page is out."""
        self.pages.sent(self)
        super().on_finish()

    def on_connection_close(self) -> None:
        """The browser went away before the page was out."""
        self.pages.abandoned(self)
        super().on_connection_close()


class LeavingHandler(APIHandler):
    """What a page sends when it is about to go. Browsers add no token then: it must come from a page of ours."""

    def check_xsrf_cookie(self) -> None:
        """A page of ours is told by its origin, which no other page can claim."""
        if self.request.headers.get("Origin") is None or not _is_ours(self):
            raise tornado.web.HTTPError(403, "This request does not come from a page of this app.")

    @tornado.web.authenticated
    async def post(self, kernel_id: str) -> None:
        """Note it; the kernel ends once the page is gone."""
        self.settings["spectral_toolkit_pages"].leaving(kernel_id)
        self.set_status(204)
        self.finish()


class EndedHandler(APIHandler):
    """Whether the kernel of a page is still there."""

    @tornado.web.authenticated
    async def get(self, kernel_id: str) -> None:
        """The sentence to show, or null."""
        self.finish({"ended": self.settings["spectral_toolkit_pages"].why_ended(kernel_id)})


class SocketHandler(VoilaKernelWebsocketHandler):
    """The connection between a page and its kernel, for pages of ours only, whatever else they bring along."""

    def check_origin(self, origin: str | None = None) -> bool:
        """Refuse other pages, also those that know the token."""
        return _is_ours(self)


class App(Voila):
    """Voila with our page, our handlers before its own, and pages that are counted."""

    most_pages: int
    idle_minutes: float

    def setup_template_dirs(self) -> None:
        """Our page before its own."""
        super().setup_template_dirs()
        self.template_paths = [str(TEMPLATE), *self.template_paths]

    def init_settings(self) -> Any:
        """As Voila's, with the pages that are open."""
        settings: Any = super().init_settings()
        self.pages = Pages(self.kernel_manager, most=self.most_pages, idle_minutes=self.idle_minutes)
        self.tidying = PeriodicCallback(self.pages.tidy, 1000 * TIDY_SECONDS)
        self.tidying.start()
        return {**settings, "spectral_toolkit_pages": self.pages}

    def init_handlers(self) -> Any:
        """As Voila's, with ours in place of some."""
        base = str(self.server_url).rstrip("/")
        voilas: Any = super().init_handlers()
        own = [
            (rf"{base}/api/kernels/{_KERNEL}/channels", SocketHandler),
            (rf"{base}/voila/api/shutdown/{_KERNEL}", LeavingHandler),
            (rf"{base}/voila/api/ended/{_KERNEL}", EndedHandler),
        ]
        others = [(rule[0], PageHandler, *rule[2:]) if rule[1] is TornadoVoilaHandler else rule for rule in voilas]
        return [*own, *others]


def _is_ours(handler: Any) -> bool:
    return is_own_origin(handler.request.headers.get("Origin"), handler.request.headers.get("Host"))
