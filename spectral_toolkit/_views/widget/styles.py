"""The style of the widget: the design of all our pages, inside the explorer only, and how its parts are laid out."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ..._render.colour import DIVERGING, SEQUENTIAL, css_gradient

TALLEST = 76
"""How much of the height of the window an image takes at most, in per cent."""


@cache
def sheet_of_styles() -> str:
    """All rules, of which those of the design hold inside ``.st-explorer`` and nowhere else in the notebook."""
    views = files("spectral_toolkit._views")
    design = views.joinpath("templates", "design.css").read_text(encoding="utf-8")
    own = views.joinpath("widget", "style.css").read_text(encoding="utf-8")
    maps = f"--signs: {css_gradient(DIVERGING)}; --amounts: {css_gradient(SEQUENTIAL)};"
    return f".st-explorer {{ {maps} {design} }}\n{own}"


def fit(name: str, aspect: float, n_sides: int) -> str:
    """The style that makes room for images of this height divided by width, so that the page does not jump."""
    return (
        f"<style>.{name} {{ --st-aspect: {aspect:.5f}; --st-sides: {n_sides}; "
        f"--st-widest: calc({TALLEST}vh / {aspect:.5f}); }}</style>"
    )
