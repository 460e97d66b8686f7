"""Keeps track of which pages of a notebook have BokehJS in a cell's output, and sends it again where it was lost.

BokehJS is kept in the output of one notebook cell, so that a saved notebook has it too. That is not enough: a page that
is reopened while the kernel runs may be without it, and a notebook cell that is run again loses the output that held
it. Every request to run a notebook cell names the page's session and the notebook cell, so that both cases are known.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import panel
from pyviz_comms import PYVIZ_PROXY, JupyterCommManager, nb_mime_js

from .bokehjs import load_script


@dataclass(frozen=True)
class Run:
    """One run of a notebook cell: the page's session, the notebook cell ("" if it has no name), and the request."""

    session: str
    cell: str
    request: str


_sent: dict[str, Run] = {}
"""For each page, by its session, the run whose output holds BokehJS."""


def current_run() -> Run | None:
    """The current run; None outside Jupyter, and between runs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    parent = getattr(shell, "parent_header", None) or {}
    header = parent.get("header", {})
    if header.get("msg_type") != "execute_request":
        return None
    return Run(header["session"], parent.get("metadata", {}).get("cellId") or "", header["msg_id"])


def send() -> None:
    """Send BokehJS, and what figures need to talk to the kernel, to the page that runs this notebook cell."""
    run = current_run()
    if run is None:
        return
    from IPython.display import publish_display_data

    _sent[run.session] = run
    style = (Path(panel.__file__).parent / "_templates" / "jupyter.css").read_text(encoding="utf-8")
    publish_display_data({"text/html": f"<style>{style}</style>"})
    talk = "\n".join([PYVIZ_PROXY, JupyterCommManager.js_manager, nb_mime_js])
    publish_display_data({"application/javascript": f"{talk}\n{load_script()}"})


def send_where_missing() -> None:
    """Send BokehJS if this page has not had it from us, or has just replaced the output that held it."""
    run = current_run()
    if run is None:
        return
    last = _sent.get(run.session)
    if last is None or (last.cell == run.cell != "" and last.request != run.request):
        send()
