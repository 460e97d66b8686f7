"""Which pages of a notebook have BokehJS, and sending it again to one that has lost it.

HoloViews sends BokehJS once, into the output of the cell that asks for it. That is not enough: a page that is opened
anew while the kernel runs on may be without it, and a cell that is run again loses the output that held it, which is
missed as soon as the saved notebook is opened. Every request to run a cell names the page's session and the cell, so
both can be told.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from holoviews.plotting.renderer import Renderer


@dataclass(frozen=True)
class Run:
    """A run of a cell: the session of the page that asked for it, the cell ("" if it has no name), and the request."""

    session: str
    cell: str
    request: str


_sent: dict[str, Run] = {}
"""For each page, by its session, the run in whose output BokehJS is."""


def current_run() -> Run | None:
    """The run that is going on; None outside Jupyter, and for what happens between runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    parent = getattr(shell, "parent_header", None) or {}
    header = parent.get("header", {})
    if header.get("msg_type") != "execute_request":
        return None
    return Run(header["session"], parent.get("metadata", {}).get("cellId") or "", header["msg_id"])


def note_sent() -> None:
    """Remember that this run sends BokehJS to its page."""
    run = current_run()
    if run is not None:
        _sent[run.session] = run


def send_where_missing() -> None:
    """Send BokehJS from the installed package if the page has none, or has just replaced the output that held it."""
    run = current_run()
    if run is None:
        return
    last = _sent.get(run.session)
    if last is None or (last.cell == run.cell != "" and last.request != run.request):
        note_sent()
        Renderer.load_nb(inline=True)
