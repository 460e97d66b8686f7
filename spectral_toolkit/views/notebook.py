"""HoloViews in a notebook, drawn by Bokeh from installed packages alone."""

from __future__ import annotations

import functools

import holoviews as hv

from ..settings import computing
from .bokeh_sent import note_sent, send_where_missing
from .local_styles import use_local_styles


@computing
def extension() -> None:
    """Let HoloViews draw by Bokeh in this notebook, from installed packages alone: nothing is asked of the network.

    `overlay` and `heat_map` see to that themselves. In a notebook's first cell it does the same for figures of your
    own that come before them, which after ``hv.extension("bokeh", inline=True)`` still link to style sheets on a
    server. Every call puts BokehJS into the page again.

    Examples
    --------
    >>> extension()
    """
    hv.extension("bokeh", inline=True, logo=False)  # pyright: ignore[reportCallIssue]
    use_local_styles()
    note_sent()


def load_bokeh() -> None:
    """Let figures that are about to be made be drawn; who has called ``hv.extension`` herself keeps what she chose."""
    _load_once()
    use_local_styles()
    send_where_missing()


@functools.cache
def _load_once() -> None:
    loaded = set(hv.Store.renderers)
    if "bokeh" in loaded and getattr(hv.extension, "_loaded", False):
        note_sent()
        return
    current = hv.Store.current_backend
    extension()
    if current in loaded:
        hv.Store.set_current_backend(current)
