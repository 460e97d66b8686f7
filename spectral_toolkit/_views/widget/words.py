"""The words around the images, in the same elements and classes as on a frozen page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..._analysis.trust import Statement
from ..._explorer import wording
from ..._explorer.session import Side
from ..._explorer.state import State
from ..._explorer.views import VIEWS
from ..._render.colour import SEQUENTIAL, css_gradient
from ..._render.titles import component_flags, statistic
from ...errors import SpectralToolkitError
from ..charts import INKS
from .label_words import keys_and_scores

_LEVELS = {"ok": "Sound", "note": "Note", "warning": "Warning"}


def heads(state: State, sides: Sequence[Side]) -> str:
    """A title above every image: what it shows, and which patches belong together."""
    parts = []
    view = VIEWS[state.view]
    for place, side in enumerate(sides[:1] if view.alone else sides):
        own = state.of_side(place)
        head, more = wording.title(own, side)
        if "component" in VIEWS[state.view].controls:  # these stand below as badges
            head = head.removesuffix("".join(f" · {flag}" for flag in _flags(own, side)))
        # A chart draws all settings together, each in a colour of its own.
        together = view.tiles is None and not (view.apart or view.alone)
        swatch = f'<i class="swatch" style="background:{INKS[place]}"></i>' if together else ""
        parts.append(f'<h2 title="{_safe(more)}">{swatch}{_safe(head)}</h2>')
    return _beside(parts)


def scales(state: State, sides: Sequence[Side]) -> str:
    """The colours below every image, with the numbers at their ends."""
    view = VIEWS[state.view]
    if view.scale is None:
        return keys_and_scores(state, sides[:1] if view.alone else sides)
    gradient = css_gradient(view.scale)
    parts = []
    for place, side in enumerate(_drawn(state, sides)):
        low, high = view.ends(state.of_side(place), side) if view.ends is not None else ("", "")
        bar = f'<i style="background:{gradient}"></i>'
        parts.append(f'<div class="scale"><span>{_safe(low)}</span>{bar}<span>{_safe(high)}</span></div>')
    return _beside(parts)


def facing(state: State, sides: Sequence[Side], distance: str = "") -> str:
    """Numbers of the component that is shown, and how far to trust every setting."""
    common = [one for one in sides[0].trust if all(one in side.trust for side in sides[1:])] if len(sides) > 1 else []
    parts = [
        f"{_numbers(state.of_side(place), side)}{_trust([one for one in side.trust if one not in common])}"
        for place, side in enumerate(sides)
    ]
    said = f'<p class="hint st-distance">{_safe(distance)}</p>' if distance else ""
    return said + _beside(parts) + (_trust(common) if common else "")


def rows(state: State, sides: Sequence[Side]) -> str:
    """How to read the affinities of the tapped patch, above those of every side."""
    if state.patch is None:
        return '<p class="invite">Tap a patch in the image to see its affinities to all others.</p>'
    row, column = state.patch
    parts = [
        f"<h2>{wording.short_title(side)} affinities of the patch in row {row}, column {column}</h2>"
        f'<p class="amounts">none<i style="background:{css_gradient(SEQUENTIAL)}"></i>strongest</p>'
        for side in sides
    ]
    return _beside(parts)


def connected(sides: Sequence[Side]) -> str:
    """What the strip of patches from all images is."""
    n, names = len(sides[0].connected), [wording.short_title(side) for side in sides]
    heads = [f"<h2>{name}: the {n} images that it is most connected to, the strongest first</h2>" for name in names]
    more = (
        '<p class="hint">The framed patch of each has the strongest affinity in its image, here as a fraction of the '
    )
    return _beside([f"{head}{more}strongest of all. Tap one to go there.</p>" for head in heads])


_KEYS = {
    "← →": "the eigenvector before and after",
    "↑ ↓": "the image before and after",
    "1 to 9": "a view, in the order of the tabs",
    "Ctrl Z, Ctrl Shift Z": "undo and redo",
    "Esc": "forget the patch",
    "?": "this list",
}


def keys() -> str:
    """The keys that the page's script listens to."""
    lines = "".join(f"<div><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>" for key, what in _KEYS.items())
    return f'<dl class="numbers">{lines}</dl>'


def _drawn(state: State, sides: Sequence[Side]) -> Sequence[Side]:
    return sides[:1] if VIEWS[state.view].alone or VIEWS[state.view].tiles is None else sides


def _beside(parts: Sequence[str]) -> str:
    shown = "".join(f'<section class="side">{part}</section>' for part in parts)
    return f'<div class="sides{" is-compare" if len(parts) > 1 else ""}">{shown}</div>'


def _numbers(state: State, side: Side) -> str:
    if "component" not in VIEWS[state.view].controls:
        return ""
    pairs = []
    for name, label, form in (
        ("eigenvalue", "eigenvalue", "#.3g"),
        ("eigengap", "gap to the next", ".2g"),
        ("residual", "residual", ".0e"),
        ("similarity", "cosine with that of the first", ".2f"),
    ):
        value = statistic(side.eig, name, 0, state.component)
        if value is not None and value == value:
            pairs.append(f"<div><dt>{label}</dt><dd>{float(value):{form}}</dd></div>")
    flags = "".join(f"<span>{_safe(flag)}</span>" for flag in _flags(state, side))
    return f'<dl class="numbers">{"".join(pairs)}</dl>' + (f'<p class="flags">{flags}</p>' if flags else "")


def _flags(state: State, side: Side) -> list[str]:
    return component_flags(side.eig, 0, state.component)


def _trust(statements: Sequence[Statement]) -> str:
    lines = [f'<li class="{one.level}"><b>{_LEVELS[one.level]}</b>{_safe(one.text)}</li>' for one in statements]
    label = "How far to trust this result"
    return f'<ul class="trust" aria-label="{label}">{"".join(lines)}</ul>' if lines else ""


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def reason(error: Exception | None) -> str:
    """The reason for an error: its own sentence if the error is ours, otherwise its class and its message."""
    return str(error) if isinstance(error, SpectralToolkitError) else f"{type(error).__name__}: {error}"
