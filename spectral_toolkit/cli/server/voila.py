"""Voila with our page in front of its own, a limit on open pages, and an end to the kernels of closed pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from html import escape
from pathlib import Path
from typing import Any, cast

import tornado.web
from jupyter_server.base.handlers import APIHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import PeriodicCallback
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

from .pages import TIDY_SECONDS, Pages, is_own_origin

TEMPLATE = Path(__file__).parents[2] / "_views" / "templates" / "app"
_KERNEL = r"(?P<kernel_id>\w+-\w+-\w+-\w+-\w+)"
_ON_START: ContextVar[Callable[[str], None] | None] = ContextVar("on_start", default=None)
"""What the page that is being made must know about its kernel."""


class Kernels(AsyncMappingKernelManager):
    """Kernels, each of which is known to its page from the beginning."""

    async def start_kernel(self, **settings: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start a kernel, and inform the page that asked for it."""
        kernel = await super().start_kernel(**settings)
        tell = _ON_START.get()
        if tell is not None:
            tell(kernel)
        return kernel


class PageHandler(TornadoVoilaHandler):
    """Sends the page, or a sentence where too many are open."""

    @property
    def pages(self) -> Pages:
        """The pages of this app."""
        return self.settings["spectral_toolkit_pages"]

    @tornado.web.authenticated
    async def get(self, path: str | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send the page."""
        if not path and not await self.pages.admit(self):
            self.set_status(503)
            self.set_header("Cache-Control", "no-store")
            title = "<!doctype html><meta charset=utf-8><title>Explorer</title>"
            self.finish(f"{title}<p style='font:16px system-ui;margin:3em'>{escape(self.pages.full)}</p>")
            return
        _ON_START.set(lambda kernel: self.pages.started(self, kernel))
        shown = cast("Awaitable[None]", super().get(path))
        await shown

    def on_finish(self) -> None:
        """Note that the page was sent."""
        self.pages.sent(self)
        super().on_finish()

    def on_connection_close(self) -> None:
        """Note that the browser disconnected before the page was sent."""
        self.pages.abandoned(self)
        super().on_connection_close()


class LeavingHandler(APIHandler):
    """Receives the message of a page that is about to close. It comes without a token, so its origin is checked."""

    def check_xsrf_cookie(self) -> None:
        """Recognise a page of ours by its origin, which no other page can claim."""
        if self.request.headers.get("Origin") is None or not _is_ours(self):
            raise tornado.web.HTTPError(403, "This request does not come from a page of this app.")

    @tornado.web.authenticated
    async def post(self, kernel_id: str) -> None:
        """Note that the page closes; the kernel ends once it has closed."""
        self.settings["spectral_toolkit_pages"].leaving(kernel_id)
        self.set_status(204)
        self.finish()


class EndedHandler(APIHandler):
    """Reports whether the kernel of a page still runs."""

    @tornado.web.authenticated
    async def get(self, kernel_id: str) -> None:
        """Send the sentence to show, or null."""
        self.finish({"ended": self.settings["spectral_toolkit_pages"].why_ended(kernel_id)})


class SocketHandler(VoilaKernelWebsocketHandler):
    """The connection between a page and its kernel, for pages of ours only, whatever token a page has."""

    def check_origin(self, origin: str | None = None) -> bool:
        """Refuse other pages, even those that know the token."""
        return _is_ours(self)


class App(Voila):
    """Voila with our page, our handlers before its own, and a count of pages."""

    most_pages: int
    idle_minutes: float

    def setup_template_dirs(self) -> None:
        """The paths of templates, with our page before Voila's own."""
        super().setup_template_dirs()
        self.template_paths = [str(TEMPLATE), *self.template_paths]

    def init_settings(self) -> Any:
        """Voila's settings, with the open pages."""
        settings: Any = super().init_settings()
        self.pages = Pages(self.kernel_manager, most=self.most_pages, idle_minutes=self.idle_minutes)
        self.tidying = PeriodicCallback(self.pages.tidy, 1000 * TIDY_SECONDS)
        self.tidying.start()
        return {**settings, "spectral_toolkit_pages": self.pages}

    def init_handlers(self) -> Any:
        """Voila's handlers, some of them replaced by ours."""
        base = str(self.server_url).rstrip("/")
        voilas: Any = super().init_handlers()
        own = [
            (rf"{base}/api/kernels/{_KERNEL}/channels", SocketHandler),
            (rf"{base}/voila/api/shutdown/{_KERNEL}", LeavingHandler),
            (rf"{base}/voila/api/ended/{_KERNEL}", EndedHandler),
        ]
        others = [(rule[0], PageHandler, *rule[2:]) if rule[1] is TornadoVoilaHandler else rule for rule in voilas]
        return [*own, *others]


def _is_ours(handler: tornado.web.RequestHandler) -> bool:
    return is_own_origin(handler.request.headers.get("Origin"), handler.request.headers.get("Host"))
