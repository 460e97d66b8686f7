"""Colours with a meaning: perceptually uniform maps that colour-blind readers can tell apart.

The maps are Peter Kovesi's (*Good Colour Maps: How to Design Them*, arXiv 1509.03700), as shipped by
colorcet, and the categorical colours those of Okabe and Ito. All are plain uint8 arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import colorcet
import numpy as np

from .._compute.arguments import whole

if TYPE_CHECKING:
    from collections.abc import Sequence


def _from_hex(colours: Sequence[str]) -> np.ndarray:
    table = np.array([tuple(bytes.fromhex(colour.lstrip("#"))) for colour in colours], dtype=np.uint8)
    table.flags.writeable = False
    return table


DIVERGING = _from_hex(colorcet.CET_CBD1)
"""Blue, white, gold, shape (256, 3): for eigenvectors, white at zero. Made for protanopic and deuteranopic readers."""

SEQUENTIAL = _from_hex(colorcet.CET_CBL2)
"""Black, blue, yellow, white, shape (256, 3): for affinities and norms. Made for the same readers."""

_OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")

N_LABEL_COLOURS = len(_OKABE_ITO) + len(colorcet.glasbey_light)
"""How many labels can have colours of their own."""

ISOLATED = (118, 118, 118)
"""The grey of isolated patches; no map above contains it."""


def categorical(n_colours: int) -> np.ndarray:
    """Colours for labels, shape (n_colours, 3), uint8.

    The first eight are those of Okabe and Ito, which colour-blind readers can tell apart; they are
    followed by Glasbey's sequence, of which this cannot be promised.

    Examples
    --------
    >>> categorical(2).tolist()
    [[0, 114, 178], [230, 159, 0]]
    """
    available = [*_OKABE_ITO, *colorcet.glasbey_light]
    n_colours = whole("n_colours", n_colours, 0, len(available), why=", as many as labels can have of their own")
    return _from_hex(available[:n_colours]).reshape(n_colours, 3)


def hex_colours(table: np.ndarray) -> list[str]:
    """The same colours as ``#rrggbb``, which Bokeh and CSS read.

    Examples
    --------
    >>> hex_colours(categorical(1))
    ['#0072b2']
    """
    return ["#" + bytes(colour.tolist()).hex() for colour in table]


def css_gradient(table: np.ndarray, n_stops: int = 17) -> str:
    """A colour map as a CSS gradient from left to right."""
    stops = hex_colours(table[np.linspace(0, len(table) - 1, n_stops).round().astype(int)])
    return f"linear-gradient(to right, {', '.join(stops)})"
