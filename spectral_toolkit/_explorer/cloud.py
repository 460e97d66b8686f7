"""The view of all patches as a cloud: what it needs besides the eigenvectors, and the points that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import xarray as xr

from .._analysis.cloud import MOST, MOST_TSNE, how_many, places, shown_patches
from .._render.patch_colours import COLOURINGS, colours_of_patches
from .recipe import call
from .view import Inputs, View

if TYPE_CHECKING:
    from .code import CodedSide, Program
    from .session import Side
    from .state import State


@dataclass(frozen=True)
class CloudData:
    """What the cloud shows of a result besides its eigenvectors.

    Attributes
    ----------
    shown
        Which patches are shown, numbered image by image and row by row.
    shape
        Images, rows and columns.
    first
        Position of the first image.
    embedded
        Where they lie by t-SNE; None where two components are shown.
    means, segments, labels
        Of all patches: mean colours of the pixels, segments and labels; None where the colours need none.
    """

    shown: np.ndarray
    shape: tuple[int, int, int]
    first: int
    embedded: np.ndarray | None
    means: np.ndarray | None
    segments: np.ndarray | None
    labels: np.ndarray | None


@dataclass(frozen=True)
class Points:
    """The points of one cloud: where each lies, its colour (rgb), and the image, row and column of its patch."""

    at: np.ndarray
    colours: np.ndarray
    image: np.ndarray
    row: np.ndarray
    column: np.ndarray


def cloud_data(inputs: Inputs, most: int = MOST, most_tsne: int = MOST_TSNE, seed: int = 0) -> CloudData:
    """Everything that takes time: the sample, t-SNE, segments, and the mean colours of pixels."""
    state, whole = inputs.state, inputs.whole
    shape = (whole.sizes["image"], whole.sizes["y"], whole.sizes["x"])
    tsne = state.projection == "tsne"
    shown = shown_patches(shape[0], shape[1] * shape[2], most_tsne if tsne else most, seed)
    made = {"pixels": inputs.means, "segment": inputs.segments, "label": inputs.labels}
    by = made.get(state.coloured)
    found = None if by is None else by()
    return CloudData(
        shown,
        shape,
        state.image if state.scope == "image" else 0,
        places(whole, shown, (), "tsne", seed) if tsne else None,
        *(found if state.coloured == name else None for name in made),
    )


def points(eig: xr.Dataset, data: CloudData, components: Sequence[int], coloured: str) -> Points:
    """The points as they are drawn."""
    at = places(eig, data.shown, components, "components") if data.embedded is None else data.embedded
    settings = {"means": data.means, "segments": data.segments, "labels": data.labels, "first": data.first}
    colours = colours_of_patches(coloured, data.shape, **settings).reshape(-1, 3)[data.shown]
    image, row, column = np.unravel_index(data.shown, data.shape)
    return Points(at, colours, image + data.first, row, column)


def all_places(eig: xr.Dataset, data: CloudData, components: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Where patches lie and which they are, for a selection: of a sample by two components, those not shown, too."""
    if data.embedded is not None:
        return data.embedded, data.shown
    every = np.arange(int(np.prod(data.shape)))
    return places(eig, every, components, "components"), every


def inside(at: np.ndarray, geometry: Mapping[str, object]) -> np.ndarray:
    """Which points lie in a box or in a lasso, as Bokeh tells of them.

    Examples
    --------
    >>> at = np.array([[0.5, 0.6], [2.0, 0.5]])
    >>> inside(at, {"type": "rect", "x0": 0, "x1": 1, "y0": 1, "y1": 0}).tolist()
    [True, False]
    >>> inside(at, {"type": "poly", "x": [0, 3, 3], "y": [0, 0, 3]}).tolist()
    [False, True]
    """
    x, y = at.T
    if geometry["type"] == "rect":
        (left, right), (low, high) = (
            sorted(cast("float", geometry[f"{side}{end}"]) for end in (0, 1)) for side in "xy"
        )
        return (x >= left) & (x <= right) & (y >= low) & (y <= high)
    xs, ys = (np.asarray(geometry[side], float) for side in "xy")
    found = np.zeros(len(at), dtype=bool)
    for x0, y0, x1, y1 in zip(xs, ys, np.roll(xs, -1), np.roll(ys, -1), strict=True):
        if y0 != y1:  # a ray to the right crosses this side of the lasso
            found ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


def patches_of(numbers: np.ndarray, data: CloudData) -> np.ndarray:
    """Image, row and column of patches by their numbers, (n, 3)."""
    image, row, column = np.unravel_index(numbers, data.shape)
    return np.stack([image + data.first, row, column], axis=1)


def _heading(state: State, side: Side) -> str:
    what = (
        f"t-SNE of {side.eig.sizes['component']} eigenvectors"
        if state.projection == "tsne"
        else f"eigenvectors {state.axes[0]} and {state.axes[1]}"
    )
    data = side.data
    sample = how_many(len(data.shown), int(np.prod(data.shape))) if isinstance(data, CloudData) else ""
    return f"{what} · {sample}" if sample else what


def _legend(state: State) -> str:
    by = "the mean colour of its own pixels" if state.coloured == "pixels" else COLOURINGS[state.coloured]
    tsne = (
        " t-SNE keeps neighbours together; distances between groups and their sizes have no meaning."
        if state.projection == "tsne"
        else ""
    )
    return (
        f"Each point is a patch, coloured by {by}. Draw a box or a lasso round points to choose their patches; tap a "
        f"point to go to its patch.{tsne}"
    )


def _code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    state = program.state
    lines, shown = [], []
    for side in sides:
        settings: dict[str, object] = {
            "components": state.axes if state.projection == "components" else None,
            "projection": state.projection,
            "colour": state.coloured,
            "selected": list(state.selection) or None if side.suffix == "" else None,
        }
        raw = {}
        if state.coloured == "segment":
            lines.append(f"segments{side.suffix} = st.segment({side.eig}, {state.n_segments!r})")
            raw["segments"] = f"segments{side.suffix}"
        if state.coloured == "label":
            raw["labels"] = "my_labels"
        shown.append(call("st.cloud", [program.images, side.eig], settings, raw))
    if state.coloured == "label":
        lines.append("# my_labels: the label maps that were given to the explorer")
    return [*lines, " + ".join(shown)]


CLOUD = View(
    "cloud",
    "Cloud",
    "Every patch as a point, placed by its eigenvectors; points that you choose light up in the images.",
    _code,
    chart="spectral_toolkit._views.widget.cloud:CloudShown",
    data=lambda inputs: [cloud_data(inputs)] * inputs.whole.sizes["image"],
    common=True,
    depends=lambda state: (state.projection, state.coloured, state.n_segments if state.coloured == "segment" else None),
    controls=("axes", "projection", "coloured", "n_segments"),
    legend=_legend,
    heading=_heading,
    apart=True,
    page="cloud",
    page_components=2,
)
