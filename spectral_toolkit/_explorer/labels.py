"""Labels beside a result: label maps on the grid that is shown, their view, and how segments agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from .._analysis.scores import evaluate, prepare_labels
from .._analysis.scores.labels import finest_grid
from .._analysis.scores.paths import interval, scored_vectors
from .._analysis.scores.variance import about_intervals, resamples, variance_shares
from .._compute.arguments import shown as in_short
from .._io.grids import on_grid
from .._models.untyped import untyped
from .._render.composite import with_opacity
from .._render.patch_colours import numbered_colours
from .._render.tile import Tile
from ..errors import SpectralToolkitError
from .view import View

if TYPE_CHECKING:
    from .code import CodedSide, Program
    from .session import ShownState, Side
    from .state import State

ENOUGH = 3
"""With fewer images, resamples say nothing about where and what."""
_N_BOOTSTRAP = 200


class Labels:
    """Label maps of the images that are explored, on any grid.

    Parameters
    ----------
    activations
        The activations of the images.
    maps
        What ``st.prepare_labels`` takes, or labelled images with their ``labels`` and ``categories``.
    categories
        Names of the categories; None takes those that the maps bring with them.
    """

    def __init__(self, activations: xr.DataTree, maps: object, categories: Sequence[str] | None = None) -> None:
        held = getattr(maps, "attrs", {}).get("categories", ())
        if isinstance(maps, xr.Dataset):
            if "label" not in maps:
                raise SpectralToolkitError(
                    "labels are a Dataset without a variable 'label': give the label maps themselves, such as "
                    "scenes.label."
                )
            maps = maps["label"]
        elif hasattr(maps, "labels") and hasattr(maps, "categories"):
            maps, held = untyped(maps).labels, untyped(maps).categories
        if isinstance(categories, str) or not isinstance(categories, Sequence | np.ndarray | None):
            raise SpectralToolkitError(
                f"categories={in_short(categories)} are not names: give a list, in which label 0 is the first."
            )
        self._activations, self._maps = activations, maps
        self.categories: tuple[str, ...] = tuple(map(str, held if categories is None else categories))
        self._on: dict[tuple[int, int], np.ndarray] = {}
        self.on(finest_grid(activations))  # whatever is wrong with them is said at once

    def on(self, grid: tuple[int, int]) -> np.ndarray:
        """Labels (image, y, x) on a grid, -1 where there is none."""
        if grid not in self._on:
            given = self._maps
            own = grid
            if isinstance(given, xr.DataArray) and {"y", "x"} <= set(given.dims):
                own = given.sizes["y"], given.sizes["x"]
            if own != grid:  # its nearest patches
                self._on[grid] = on_grid(prepare_labels(self._activations, given, grid=own).values, grid)
            else:
                self._on[grid] = prepare_labels(self._activations, given, grid=grid).values
        return self._on[grid]


class LabelScore(NamedTuple):
    """One number, with its interval where there is one, and a sentence on how to read it."""

    name: str
    value: float
    interval: tuple[float, float] | None
    hint: str


def scores_beside(whole: xr.Dataset, segments: np.ndarray, labels: np.ndarray) -> list[LabelScore]:
    """How segments agree with labels, and how much position and category the eigenvectors hold."""
    if not (labels >= 0).any():
        return []
    scores = evaluate(segments, labels)
    found = [
        LabelScore("matched mIoU", float(scores["matched_miou"]), None, "Segments and categories paired one to one."),
        LabelScore("ARI", float(scores["ari"]), None, "Adjusted Rand index: 0 is chance, 1 the same partition."),
    ]
    n = whole.sizes["image"]
    if "image" in whole["eigenvalue"].dims or n < ENOUGH:
        return found
    values, note = scored_vectors(whole)
    grid = whole.sizes["y"], whole.sizes["x"]
    weights = resamples(n, _N_BOOTSTRAP, 0)
    shares = variance_shares(values, labels.reshape(n, -1), grid, weights)
    hints = {
        "where": "The share of the variance of the eigenvectors that position explains beyond category.",
        "what": "The share that category explains beyond position.",
    }
    for name, hint in hints.items():
        samples = shares[name]
        more = " ".join(filter(None, [hint, note, about_intervals(n)]))
        found.append(LabelScore(name, float(samples[0]), interval(samples, 0.95, 0.0, 1.0), more))
    return found


def label_name(categories: Sequence[str], label: int) -> str:
    """The name of a label: that of its category, or its number.

    Examples
    --------
    >>> label_name(["sky"], 0), label_name([], 3), label_name(["sky"], -1)
    ('sky', '3', 'no label')
    """
    if label < 0:
        return "no label"
    return categories[label] if label < len(categories) else str(label)


def _tiles(shown: ShownState, side: Side) -> list[Tile]:
    labels = side.labels
    assert labels is not None
    colours = with_opacity(numbered_colours(labels), shown.state.opacity, labels < 0)
    framed = [] if side.patch is None else [side.patch]
    return [Tile(colours, labels.astype(float), shown.picture.pixels, framed=framed)]


def _heading(state: State, side: Side) -> str:
    assert side.labels is not None
    n = len(np.unique(side.labels[side.labels >= 0]))
    return f"Labels: {n} categor{'y' if n == 1 else 'ies'} in this image"


def _code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    return [
        "# my_labels: the label maps that were given to the explorer",
        "labels = st.prepare_labels(activations, my_labels)",
        program.overlay("labels", {"image": program.state.image, "opacity": program.state.opacity}),
    ]


LABELS = View(
    "labels",
    "Labels",
    "The label maps that were given, patch by patch, and how well the segments agree with them.",
    _code,
    _tiles,
    controls=("opacity", "n_segments"),
    needs=("label",),
    legend="Each category has one colour, with its name under the cursor. The scores compare the segments of the "
    "eigenvectors with these labels, at the patches.",
    heading=_heading,
    reads=("label",),
    decimals=0,
    alone=True,
    page=None,
)
