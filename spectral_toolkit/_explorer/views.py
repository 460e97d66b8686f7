"""Our views: what each shows of a result, the code that shows it, and how to read it; and a patch's affinities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .._analysis.regions import instances, segment
from .._analysis.regions.matching import renumbered
from .._analysis.trust import suggests_groups, token_norms
from .._render.colour import DIVERGING, SEQUENTIAL
from .._render.composite import (
    colour_field,
    colour_three,
    highest_other,
    is_above,
    label_colours,
    magnitude_colours,
    resize_field,
    robust_limit,
    stacked_masks,
    symmetric_limit,
    with_opacity,
)
from .._render.marks import short_names
from .._render.outline import boundary
from .._render.tile import Tile
from .._render.titles import component_flags, statistic
from .._render.underlay import ShownPicture
from .cloud import CLOUD
from .exchange import EXCHANGE
from .head_view import HEADS
from .labels import LABELS
from .recipe import call
from .view import VIEWS, Inputs, Slider, View, register

if TYPE_CHECKING:
    from .code import CodedSide, Program
    from .session import ShownState, Side
    from .state import State

_SMOOTH = 256
MAX_INSTANCES = 8
"""The largest number of instances kept for one image of a frozen page: colour-blind readers cannot tell more colours
apart."""
ROWS_OPACITY = 0.88
"""Opacity of a patch's affinities over the image."""


def row_tiles(side: Side, small: np.ndarray) -> list[Tile]:
    """The tapped patch's row of the joint affinity, and of the affinity of each layer."""
    if side.joint_row is None:
        return []
    rows = {"all layers": side.joint_row, **side.layer_rows}
    names = ["all layers", *(f"layer {name}" for name in short_names(list(side.layer_rows)))]
    on = dict(side.question.weights)
    tiles = []
    for (name, row), caption in zip(rows.items(), names, strict=True):
        cell = side.patch if row.shape == side.joint_row.shape else None
        off = name != "all layers" and name.split("[")[0] not in on
        framed = [] if cell is None else [cell]
        tiles.append(
            Tile(
                magnitude_colours(row, highest_other(row, cell), ROWS_OPACITY),
                row,
                small,
                caption + (" (off)" if off else ""),
                framed,
            )
        )
    return tiles


# --- one eigenvector --------------------------------------------------------------------------------------------------


def _component_tiles(shown: ShownState, side: Side) -> list[Tile]:
    return [_component(shown.state, side, shown.picture, shown.state.component, shown.picture.pixels)]


def _component(state: State, side: Side, picture: ShownPicture, number: int, below: np.ndarray) -> Tile:
    values = side.eig["eigenvector"].isel(image=0).sel(component=number).transpose("y", "x").values
    limit = symmetric_limit(side.scaling(number))
    fine = _smoothed(values, state.smooth, picture)
    isolated = _isolated(side, fine.shape)
    colours = with_opacity(colour_field(fine, limit), state.opacity, isolated)
    tile = Tile(colours, values, below, framed=_tapped(side))
    if state.cut is None:
        return tile
    above = is_above(fine, state.cut, limit)
    colours[~above & ~isolated, 3] = 0  # isolated patches stay grey on either side
    return replace(tile, lines=boundary(above))


def _component_heading(state: State, side: Side) -> str:
    value = statistic(side.eig, "eigenvalue", 0, state.component)
    notes = "".join(f" · {flag}" for flag in component_flags(side.eig, 0, state.component))
    return f"eigenvector {state.component}, λ = {float(value):.3f}{notes}"


def _component_ends(state: State, side: Side) -> tuple[str, str]:
    limit = f"{symmetric_limit(side.scaling(state.component)):#.3g}"
    return f"−{limit}", limit


_SIDES = (
    "Blue and gold are the two sides of a cut, and white is undecided. Which side is gold has no meaning. λ is the cut "
    "value: 0 cuts no edge, 1 is the value of a random cut."
)


def _component_legend(state: State) -> str:
    if state.cut is None:
        return _SIDES
    return (
        "Only the side above the threshold is coloured; the line is the cut. A normalised cut of 0 cuts no edge; 1 is "
        "the value of a random cut; none is below the λ of eigenvector 1."
    )


def _component_code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    state, side = program.state, sides[0]
    settings = {"component": state.component, **_appearance(state), "threshold": state.cut, "marked": side.marked}
    return [program.overlay(side.eig, settings)]


register(
    View(
        "component",
        "Eigenvector",
        "One eigenvector over the image: blue and gold are its two sides.",
        _component_code,
        _component_tiles,
        controls=("component", "opacity", "smooth", "threshold"),
        legend=_component_legend,
        scale=DIVERGING,
        ends=_component_ends,
        heading=_component_heading,
        page="component",
    )
)


# --- all eigenvectors -------------------------------------------------------------------------------------------------


def _grid_tiles(shown: ShownState, side: Side) -> list[Tile]:
    state = shown.state
    tiles = []
    for number in side.eig["component"].values.tolist():
        tile = _component(state, side, shown.picture, number, shown.small)
        tiles.append(
            Tile(
                tile.colours,
                tile.values,
                shown.small,
                f"{number}   λ {float(statistic(side.eig, 'eigenvalue', 0, number)):.3f}",
                chosen=number == state.component,
            )
        )
    return tiles


register(
    View(
        "grid",
        "All",
        "Every eigenvector side by side; tap one to choose it.",
        lambda program, sides: [program.overlay(sides[0].eig, {"layout": "grid", **_appearance(program.state)})],
        _grid_tiles,
        controls=("component", "opacity", "smooth"),
        legend=_SIDES,
        scale=DIVERGING,
        tap="component",
        joined=False,
        page="grid",
    )
)


# --- three eigenvectors as colours ------------------------------------------------------------------------------------


def _three_tiles(shown: ShownState, side: Side) -> list[Tile]:
    state = shown.state
    available = side.eig["component"].values.tolist()
    numbers = [min(number, available[-1]) for number in state.three]
    values = side.eig["eigenvector"].isel(image=0).sel(component=numbers).transpose("y", "x", "component").values
    limit = robust_limit(side.scaling(numbers))
    fine = values
    if state.smooth:
        fine = np.stack([_smoothed(values[..., channel], True, shown.picture) for channel in range(3)], axis=-1)
    colours = colour_three(fine, limit)
    coloured = with_opacity(colours, state.opacity, _isolated(side, colours.shape[:2]))
    return [Tile(coloured, values, shown.picture.pixels, framed=_tapped(side))]


def _three_code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    state, side = program.state, sides[0]
    settings = {"layout": "rgb", "components": list(state.three), **_appearance(state), "marked": side.marked}
    return [program.overlay(side.eig, settings)]


register(
    View(
        "rgb",
        "RGB",
        "Three eigenvectors as red, green and blue: patches of one colour belong together.",
        _three_code,
        _three_tiles,
        controls=("opacity", "smooth", "three"),
        legend="Patches of one colour belong together; grey patches are undecided in all three eigenvectors.",
        heading=lambda state, side: f"eigenvectors {', '.join(map(str, state.three))} as red, green, blue",
        reads=("red", "green", "blue"),
        page="rgb",
        page_components=3,
    )
)


# --- segments and instances -------------------------------------------------------------------------------------------


def _labels_tile(shown: ShownState, side: Side, labels: np.ndarray, unlabelled: bool = True) -> list[Tile]:
    colours = label_colours(labels, shown.state.opacity, unlabelled=unlabelled)
    return [Tile(colours, labels.astype(float), shown.picture.pixels, framed=_tapped(side))]


def _segment_tiles(shown: ShownState, side: Side) -> list[Tile]:
    """Segments; those of a second setting have the numbers of the segments of the first that they overlap most."""
    first = shown.sides[0]
    if side is first:
        return _labels_tile(shown, side, side.data)
    if side.whole_data is None or first.whole_data is None:
        return _labels_tile(shown, side, renumbered(side.data[None], first.data[None])[0])
    place = shown.state.image if side.question.image is None else 0
    return _labels_tile(shown, side, renumbered(side.whole_data, first.whole_data)[place])


def _segments_code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    side = sides[0]
    computed = f"st.segment({side.eig}, {program.state.n_segments!r})"
    return _labels_code(
        program, side, "segments", f"st.match_segments({computed}, segments)" if side.suffix else computed
    )


def _instance_masks(state: State, side: Side) -> tuple[np.ndarray, np.ndarray]:
    """Masks and scores of the instances above the threshold, best first."""
    scores = side.data["score"].values
    above = scores > state.options.get(LEAST_SCORE.name, LEAST_SCORE.start)  # NaN is not: masks that only fill up
    return side.data.values[above], scores[above]


def _instances_heading(state: State, side: Side) -> str:
    _, scores = _instance_masks(state, side)
    listed = ", ".join(f"{score:.2f}" for score in scores[:8]) + (", ..." if len(scores) > 8 else "")
    noun = "instance" if len(scores) == 1 else "instances"
    return f"{len(scores)} {noun}" + (f", score{'s' if len(scores) > 1 else ''} {listed}" if len(scores) else "")


def _instances_code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    least = program.state.options.get(LEAST_SCORE.name, LEAST_SCORE.start)
    computed = call("st.instances", [sides[0].eig], {"min_score": least or None})
    return _labels_code(program, sides[0], "instances", computed)


LEAST_SCORE = Slider(
    "least_score",
    "Score above",
    "Show the instances whose score, the silhouette of inside and outside from -1 to 1, is above this.",
    0.0,
    1.0,
    0.0,
    0.02,
)


def _labels_code(program: Program, side: CodedSide, name: str, computed: str) -> list[str]:
    found = f"{name}{side.suffix}"
    settings = {"opacity": program.state.opacity, "marked": side.marked}
    return [f"{found} = {computed}", program.overlay(found, settings)]


def _segments(eig: xr.Dataset, n_segments: int | str, seed: int = 0) -> np.ndarray:
    return segment(eig, n_segments, seed=seed).transpose("image", "y", "x").values


def _segments_heading(state: State, side: Side) -> str:
    n = len(np.unique(side.data[side.data >= 0]))
    if state.scope == "dataset":
        return f"{n} segments in this image"
    gaps = side.eig["eigengap"].isel(image=0).values
    values = side.eig["eigenvalue"].isel(image=0).values
    before = int(np.nanargmax(gaps)) + 1 if np.isfinite(gaps).any() else 0
    if state.n_segments == "eigengap":
        return f"{n} segments, as the widest eigengap comes after eigenvector {before}"
    if state.n_segments != "auto":
        return f"{n} segments"
    gap = f"; the widest eigengap suggests {before + 1}" if suggests_groups(values, gaps) else ""
    return f"{n} segments, the number with the largest mean silhouette{gap}"


def _segments_legend(state: State) -> str:
    words = "Each segment has one colour. Its number is a name and has no other meaning"
    return f"{words}; it is the same segment in all images." if state.scope == "dataset" else f"{words}."


def _instances(eig: xr.Dataset, most: int | None = None, seed: int = 0) -> np.ndarray:
    return instances(eig, n_instances=most, seed=seed).transpose("image", "instance", "y", "x").values


SEGMENTS = register(
    View(
        "segments",
        "Segments",
        "The patches sorted into segments by all eigenvectors at once.",
        _segments_code,
        _segment_tiles,
        data=lambda inputs: _segments(inputs.whole, inputs.state.n_segments),
        heading=_segments_heading,
        common=True,
        depends=lambda state: state.n_segments,
        controls=("opacity", "n_segments"),
        legend=_segments_legend,
        reads=("segment",),
        decimals=0,
        page="segments",
        page_data=_segments,
    )
)
register(
    View(
        "instances",
        "Instances",
        "Connected objects found by merging neighbouring segments; a part lies on top of its whole.",
        _instances_code,
        # Patches in no mask stay clear.
        lambda shown, side: _labels_tile(
            shown, side, stacked_masks(_instance_masks(shown.state, side)[0]), unlabelled=False
        ),
        data=lambda inputs: instances(inputs.eig).isel(image=0).transpose("instance", "y", "x"),
        depends=lambda state: None,
        sliders=(LEAST_SCORE,),
        heading=_instances_heading,
        legend="Each object found has one colour; patches that belong to no object stay clear. Scores, the best first, "
        "say how clearly the eigenvectors separate inside from outside: 1 is the most.",
        reads=("instance",),
        decimals=0,
        page="instances",
        page_data=lambda eig, n_segments, seed: _instances(eig, MAX_INSTANCES, seed),
    )
)


# --- charts -----------------------------------------------------------------------------------------------------------


def _chart_code(program: Program, function: str, sides: Sequence[CodedSide], **settings: object) -> list[str]:
    results = ", ".join(f"{side.label!r}: {side.eig}" for side in sides)
    return [call(function, ["{" + results + "}"], {"component": program.state.component, **settings})]


register(
    View(
        "spectrum",
        "Spectrum",
        "The eigenvalues, which are cut values, and the widest gap between two of them.",
        lambda program, sides: _chart_code(program, "st.spectrum_chart", sides),
        chart="spectral_toolkit._views.widget.figures:SpectrumShown",
        controls=("component",),
        legend="Each dot is an eigenvector, at the height of its cut value: 0 cuts no edge, 1 is the value of a random "
        "cut. A wide gap after a dot suggests how many segments there are. Tap a dot to choose it.",
        page="spectrum",
    )
)
register(
    View(
        "layers",
        "Layers",
        "The value of this cut in each layer alone: the lower, the more of the grouping the layer has.",
        lambda program, sides: _chart_code(program, "st.layers_chart", sides, layers=list(program.facts.layers)),
        chart="spectral_toolkit._views.widget.figures:LayersShown",
        controls=("component",),
        legend="A bar is the value of this cut in one layer alone: 0 cuts no edge, 1 is the value of a random cut. The "
        "lower the bar, the more of this grouping the layer has; the dashed line is the value in all layers together.",
        all_layers=True,
        page="spectrum",
        tab="spectrum",
    )
)


# --- clouds and labels, whose rows are in files of their own ----------------------------------------------------------

register(CLOUD)
register(LABELS)


# --- norms ------------------------------------------------------------------------------------------------------------


def _norms(inputs: Inputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Norms of the tokens of every layer, (y, x), and which of them are outlying."""
    outlying = inputs.outlying()
    return {name: (norm.values[0], outlying[name].values[0]) for name, norm in token_norms(inputs.activations).items()}


def _norm_tiles(shown: ShownState, side: Side) -> list[Tile]:
    norms = side.data
    return [
        Tile(
            magnitude_colours(norm, float(norm.max()), shown.state.opacity),
            norm,
            shown.small,
            f"layer {short}" + (f", {int(outlying.sum())} outlying" if outlying.any() else ""),
            framed=_cells(outlying),
        )
        for (norm, outlying), short in zip(norms.values(), short_names(list(norms)), strict=True)
    ]


def _norms_code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    return [program.overlay("st.token_norms(one)", {"opacity": program.state.opacity}, marked="st.outlying_masks(one)")]


register(
    View(
        "norms",
        "Norms",
        "The norm of each patch's token in every layer; outlying tokens are framed.",
        _norms_code,
        _norm_tiles,
        data=_norms,
        needs=("token",),
        legend="The norm of each patch's token, from zero to the largest of the layer. Outlying tokens are framed.",
        scale=SEQUENTIAL,
        heading=lambda state, side: "Norms of the tokens, layer by layer",
        alone=True,
    )
)
register(HEADS)
register(EXCHANGE)
VIEWS.complete()


# --- what they share --------------------------------------------------------------------------------------------------


def _appearance(state: State) -> dict[str, object]:
    return {"opacity": state.opacity, "smooth": state.smooth or None}


def _smoothed(values: np.ndarray, smooth: bool, picture: ShownPicture) -> np.ndarray:
    if not smooth:
        return values
    longer = max(1.0, picture.aspect)
    shape = (round(_SMOOTH * picture.aspect / longer), round(_SMOOTH / longer))
    return resize_field(values, (max(shape[0], values.shape[0]), max(shape[1], values.shape[1])))


def _isolated(side: Side, shape: tuple[int, int]) -> np.ndarray:
    mask = side.eig["isolated"].isel(image=0).transpose("y", "x").values
    if mask.shape == shape or not mask.any():
        return mask if mask.shape == shape else np.zeros(shape, dtype=bool)
    return resize_field(mask.astype(np.float32), shape) > 0.5


def _tapped(side: Side) -> list[tuple[int, int]]:
    return [] if side.patch is None else [side.patch]


def _cells(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in np.argwhere(mask)]
