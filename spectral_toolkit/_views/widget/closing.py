"""Closes widgets together with everything that belongs to them."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets


def close_whole(widget: Any) -> None:
    """Close a widget with its layout and style, which are widgets too and would otherwise stay open."""
    widget.unobserve_all()
    for part in ("layout", "style"):
        if getattr(widget, part, None) is not None:
            getattr(widget, part).close()
    widget.close()


def inside(box: widgets.Box) -> list[widgets.Widget]:
    """All widgets in a box and in the boxes inside it."""
    found: list[widgets.Widget] = []
    for child in box.children:
        if isinstance(child, widgets.Box):
            found += inside(child)
        found.append(child)
    return found
