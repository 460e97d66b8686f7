"""HoloViews in a notebook, drawn by Bokeh from the installed packages alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import holoviews as hv

from .._compute.settings import computing
from .bokeh_sent import send, send_where_missing
from .local_styles import use_local_styles


@computing
def extension() -> None:
    """Let HoloViews draw with Bokeh in this notebook, from the installed packages alone and without a network.

    `overlay` and `heat_map` call this themselves. Call it in a notebook's first notebook cell for figures of your own
    that come before them, which after ``hv.extension("bokeh", inline=True)`` still link to style sheets on a server.
    Every call puts BokehJS into the page again if it is missing.

    Examples
    --------
    >>> extension()
    """
    with _unseen():
        hv.extension("bokeh", logo=False)  # pyright: ignore[reportCallIssue]
    use_local_styles()
    send()


def load_bokeh() -> None:
    """Prepare the notebook for figures to come; an earlier call of ``hv.extension`` keeps its effect."""
    _load_once()
    use_local_styles()
    send_where_missing()


@functools.cache
def _load_once() -> None:
    loaded = set(hv.Store.renderers)
    if "bokeh" in loaded and getattr(hv.extension, "_loaded", False):
        return
    current = hv.Store.current_backend
    with _unseen():
        hv.extension("bokeh", logo=False)  # pyright: ignore[reportCallIssue]
    if current in loaded:
        hv.Store.set_current_backend(current)


@contextmanager
def _unseen() -> Iterator[None]:
    """Suppress what is displayed: ``hv.extension`` displays Panel's loader, and `send` has a loader of ours."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    publisher = getattr(shell, "display_pub", None)
    if publisher is None or not hasattr(publisher, "register_hook"):  # no kernel: what is displayed is text
        yield
        return

    def swallow(_message: object) -> None:
        return None

    publisher.register_hook(swallow)
    try:
        yield
    finally:
        publisher.unregister_hook(swallow)
