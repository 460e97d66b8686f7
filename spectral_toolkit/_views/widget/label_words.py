"""What the colours of points and labels mean, and how segments agree with labels, as parts of the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from ..._explorer.cloud import CloudData
from ..._explorer.labels import LabelScore, label_name
from ..._explorer.session import Side
from ..._explorer.state import State
from ..._explorer.views import VIEWS
from ..._render.colour import hex_colours
from ..._render.patch_colours import image_colours, numbered_colours, position_colours

_MOST = 24
"""The largest number of colours that are named; of more, the cursor tells."""


def keys_and_scores(state: State, sides: Sequence[Side]) -> str:
    """For every side, the names of its colours and its scores; empty where there are neither."""
    parts = [f"{_key(state, side)}{_scores(side.scores)}" for side in sides]
    if not any(parts):
        return ""
    shown = "".join(f'<section class="side">{part}</section>' for part in parts)
    return f'<div class="sides{" is-compare" if len(parts) > 1 else ""}">{shown}</div>'


def _key(state: State, side: Side) -> str:
    view = VIEWS[state.view]
    data = side.data
    if isinstance(data, CloudData):
        if state.coloured == "position":
            corners = hex_colours(position_colours((2, 2)).reshape(-1, 3))
            words = ("top left", "top right", "bottom left", "bottom right")
            return _chips(list(zip(corners, words, strict=True)))
        if state.coloured == "image":
            return (
                _chips([(hex_colours(image_colours(data.first + 1))[-1], "this image")]) if data.shape[0] == 1 else ""
            )
        if state.coloured == "segment" and data.segments is not None:
            return _numbered(data.segments, "segment {}")
        if state.coloured == "label" and data.labels is not None:
            return _numbered(data.labels, "", side.categories)
        return ""
    if "label" in view.needs and side.labels is not None:
        return _numbered(side.labels, "", side.categories)
    return ""


def _numbered(numbers: np.ndarray, form: str, categories: Sequence[str] = ()) -> str:
    known = np.unique(numbers)
    if len(known) > _MOST:
        return ""
    colours = hex_colours(numbered_colours(known))
    names = [form.format(number) if form else label_name(categories, number) for number in known.tolist()]
    return _chips(list(zip(colours, names, strict=True)))


def _chips(named: Sequence[tuple[str, str]]) -> str:
    chips = "".join(
        f'<span><i class="swatch" style="background:{ink}"></i>{html.escape(name)}</span>' for ink, name in named
    )
    return f'<p class="st-key">{chips}</p>'


def _scores(scores: Sequence[LabelScore]) -> str:
    pairs = []
    for one in scores:
        between = "" if one.interval is None else f" <small>{one.interval[0]:.2f} to {one.interval[1]:.2f}</small>"
        value = f"{one.value:.2f}{between}"
        pairs.append(f'<div title="{html.escape(one.hint, quote=True)}"><dt>{one.name}</dt><dd>{value}</dd></div>')
    return f'<dl class="numbers st-scores">{"".join(pairs)}</dl>' if pairs else ""
