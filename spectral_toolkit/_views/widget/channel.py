"""What the script of the page says and hears: in order, once, and nothing that is out of date.

The page sends a value of an ipywidgets slider only when the last one has been handled, so that a value may arrive after
a click that came later. Here the page keeps a numbered list of what it has to say, in the order in which it happened,
and sends the whole list until Python has acknowledged it: what is late is still in its place.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping

import ipywidgets as widgets

_HIDDEN = {"display": "none"}


class Channel(widgets.VBox):
    """Two hidden widgets: one that the page writes into, and one that it reads."""

    def __init__(self, name: str, heard: Callable[[Mapping[str, object]], None]) -> None:
        self._heard = heard
        self._told: dict[str, object] = {}
        self._last: dict[str, int] = {}  # number of the last thing that each open page has said
        self._said = widgets.Text(layout=widgets.Layout(**_HIDDEN), tooltip="For the script of this page")
        self._said.add_class("st-said")
        self._said.observe(self._on_said, "value")
        self._board = widgets.HTML(layout=widgets.Layout(**_HIDDEN))
        self._board.add_class("st-told")
        super().__init__([self._said, self._board], layout=widgets.Layout(**_HIDDEN))

    def tell(self, **facts: object) -> None:
        """Tell the page something that it keeps: only what differs is a message."""
        self._told.update(facts)
        board = json.dumps({**self._told, "heard": self._last})
        value = f'<i data-told="{html.escape(board, quote=True)}"></i>'
        if self._board.value != value:
            self._board.value = value

    def continue_from(self, other: Channel) -> None:
        """Take the place of another channel of the same page, which has heard some of what the page has said."""
        self._last = other._last  # shared, as the other may be in the middle of a message
        self.tell()

    def _on_said(self, change: Mapping[str, object]) -> None:
        if not change["new"]:
            return
        message = json.loads(str(change["new"]))
        page, said = str(message["page"]), message["said"]
        new = [(number, one) for number, one in said if number > self._last.get(page, 0)]
        if not new:
            return
        for number, one in new:
            # What the page is told meanwhile does not know of what comes later.
            try:
                self._heard(one)
            finally:
                self._last[page] = number
        self.tell()
