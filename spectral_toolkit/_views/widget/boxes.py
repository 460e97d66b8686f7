"""Boxes of widgets, and how they are closed together with everything that belongs to them."""

from __future__ import annotations

import ipywidgets as widgets


def close_whole(widget: widgets.Widget) -> None:
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


def box(name: str, *parts: widgets.Widget) -> widgets.VBox:
    """A box of parts that the style sheet lays out by this name."""
    made = widgets.VBox(parts)
    made.add_class(name)
    return made


def auto() -> widgets.Layout:
    """As wide as what it holds."""
    return widgets.Layout(width="auto")


def full_width() -> widgets.Layout:
    """A box as wide as the page allows; each figure has its own maximum width."""
    return widgets.Layout(width="100%")
