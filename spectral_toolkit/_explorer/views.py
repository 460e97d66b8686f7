"""What each view shows of a result, as tiles: colours are arranged here, and every number was computed before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

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
from .._render.underlay import ShownPicture
from .session import Side
from .state import State

_SMOOTH = 256
ROWS_OPACITY = 0.88
"""Opacity of a patch's affinities over the image."""


def main_tiles(state: State, side: Side, picture: ShownPicture, small: np.ndarray) -> list[Tile]:
    """The tiles of one setting under the chosen view."""
    if state.view == "grid":
        return _grid(state, side, picture, small)
    if state.view == "rgb":
        return [_three(state, side, picture)]
    if state.view == "segments" and side.segments is not None:
        return [_labels(state, side, side.segments, picture)]
    if state.view == "instances" and side.instances is not None:
        return [_instances(state, side, side.instances, picture)]
    return [_component(state, side, picture, state.component, picture.pixels)]


def norm_tiles(norms: Mapping[str, tuple[np.ndarray, np.ndarray]], small: np.ndarray, opacity: float) -> list[Tile]:
    """Norms of the tokens, one tile for each layer; outlying tokens are framed."""
    return [
        Tile(
            magnitude_colours(norm, float(norm.max()), opacity),
            norm,
            small,
            f"layer {short}" + (f", {int(outlying.sum())} outlying" if outlying.any() else ""),
            framed=_cells(outlying),
        )
        for (norm, outlying), short in zip(norms.values(), short_names(list(norms)), strict=True)
    ]


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


def renamed(tile: Tile, caption: str) -> Tile:
    """The same tile with another caption."""
    return replace(tile, caption=caption)


def _component(state: State, side: Side, picture: ShownPicture, number: int, below: np.ndarray) -> Tile:
    values = side.eig["eigenvector"].isel(image=0).sel(component=number).transpose("y", "x").values
    limit = symmetric_limit(values)
    fine = _smoothed(values, state.smooth, picture)
    isolated = _isolated(side, fine.shape)
    colours = with_opacity(colour_field(fine, limit), state.opacity, isolated)
    tile = Tile(colours, values, below, framed=_tapped(side))
    if state.cut is None:
        return tile
    above = is_above(fine, state.cut, limit)
    colours[~above & ~isolated, 3] = 0  # isolated patches stay grey on either side
    return replace(tile, lines=boundary(above))


def _grid(state: State, side: Side, picture: ShownPicture, small: np.ndarray) -> list[Tile]:
    eigenvalue = side.eig["eigenvalue"].isel(image=0)
    tiles = []
    for number in side.eig["component"].values.tolist():
        tile = _component(state, side, picture, number, small)
        tiles.append(
            Tile(
                tile.colours,
                tile.values,
                small,
                f"{number}   λ {float(eigenvalue.sel(component=number)):.3f}",
                chosen=number == state.component,
            )
        )
    return tiles


def _three(state: State, side: Side, picture: ShownPicture) -> Tile:
    available = side.eig["component"].values.tolist()
    numbers = [min(number, available[-1]) for number in state.three]
    values = side.eig["eigenvector"].isel(image=0).sel(component=numbers).transpose("y", "x", "component").values
    limit = robust_limit(values)
    fine = values
    if state.smooth:
        fine = np.stack([_smoothed(values[..., channel], True, picture) for channel in range(3)], axis=-1)
    colours = colour_three(fine, limit)
    return Tile(
        with_opacity(colours, state.opacity, _isolated(side, colours.shape[:2])),
        values,
        picture.pixels,
        framed=_tapped(side),
    )


def _labels(state: State, side: Side, labels: np.ndarray, picture: ShownPicture) -> Tile:
    colours = label_colours(labels, state.opacity)
    return Tile(colours, labels.astype(float), picture.pixels, framed=_tapped(side))


def _instances(state: State, side: Side, masks: np.ndarray, picture: ShownPicture) -> Tile:
    """Colours of the masks; patches in no mask stay clear."""
    labels = stacked_masks(masks)
    colours = label_colours(labels, state.opacity, unlabelled=False)
    return Tile(colours, labels.astype(float), picture.pixels, framed=_tapped(side))


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
