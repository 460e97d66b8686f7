"""Views: what the explorer shows of a result, each in one object that carries all that anybody asks of it.

`register` adds one of your own: a view over images is drawn by a function that returns tiles, any other view by one
that returns HoloViews elements. It is then offered in the explorer and on frozen pages.
"""

from __future__ import annotations

from ._explorer.code import CodedSide, Program
from ._explorer.session import ShownState, Side
from ._explorer.state import Facts
from ._explorer.view import Inputs, LiveModel, Slider, View, register, unregister
from ._explorer.views import VIEWS
from ._render.tile import Tile

__all__ = [
    "VIEWS",
    "CodedSide",
    "Facts",
    "Inputs",
    "LiveModel",
    "Program",
    "ShownState",
    "Side",
    "Slider",
    "Tile",
    "View",
    "register",
    "unregister",
]
