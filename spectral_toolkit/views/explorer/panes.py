"""What each view shows of an answer, as tiles: colours are laid out here, every number was computed before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..colour import ISOLATED, SEQUENTIAL, categorical
from ..composite import colour_field, colour_three, is_above, resize_field, robust_limit, symmetric_limit
from ..figures import short_names
from ..outline import boundary
from ..shown import ShownPicture
from .session import Side
from .state import State
from .tiles import Tile

_SMOOTH = 256


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
    """Norms of the tokens, a layer a tile, outlying ones framed."""
    return [
        Tile(
            _sequential(norm, float(norm.max()), opacity),
            norm,
            small,
            f"layer {short}" + (f", {int(outlying.sum())} outlying" if outlying.any() else ""),
            framed=_cells(outlying),
        )
        for (norm, outlying), short in zip(norms.values(), short_names(list(norms)), strict=True)
    ]


def row_tiles(side: Side, small: np.ndarray) -> list[Tile]:
    """The tapped patch's row of the joint affinity, and of every layer's own."""
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
                _sequential(row, _highest_other(row, cell), 0.88),
                row,
                small,
                caption + (" (off)" if off else ""),
                framed,
            )
        )
    return tiles


def renamed(tile: Tile, caption: str) -> Tile:
    """The same tile under another caption."""
    return replace(tile, caption=caption)


def _component(state: State, side: Side, picture: ShownPicture, number: int, below: np.ndarray) -> Tile:
    values = side.eig["eigenvector"].isel(image=0).sel(component=number).transpose("y", "x").values
    limit = symmetric_limit(values)
    fine = _smoothed(values, state.smooth, picture)
    isolated = _isolated(side, fine.shape)
    colours = _with_opacity(colour_field(fine, limit), state.opacity, isolated)
    tile = Tile(colours, values, below, framed=_tapped(side))
    if state.cut is None:
        return tile
    above = is_above(fine, state.cut, limit)
    colours[~above & ~isolated, 3] = 0  # what no affinity reaches stays grey on either side
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
        _with_opacity(colours, state.opacity, _isolated(side, colours.shape[:2])),
        values,
        picture.pixels,
        framed=_tapped(side),
    )


def _labels(state: State, side: Side, labels: np.ndarray, picture: ShownPicture) -> Tile:
    table = categorical(max(int(labels.max()) + 1, 1))
    colours = table[np.clip(labels, 0, None).astype(int)]
    return Tile(
        _with_opacity(colours, state.opacity, labels < 0), labels.astype(float), picture.pixels, framed=_tapped(side)
    )


def _instances(state: State, side: Side, masks: np.ndarray, picture: ShownPicture) -> Tile:
    """Masks (instance, y, x), which may overlap: the smaller lies above the larger; what is in none stays clear."""
    table = categorical(max(len(masks), 1))
    labels = np.full(masks.shape[1:], -1)
    sizes = masks.astype(bool).reshape(len(masks), -1).sum(axis=1)
    for place in np.argsort(-sizes, kind="stable"):
        labels[masks[place].astype(bool)] = place
    colours = table[np.clip(labels, 0, None)]
    opacity = np.where(labels < 0, 0.0, state.opacity)
    rgba = np.concatenate([colours, np.rint(255 * opacity)[..., None].astype(np.uint8)], axis=-1)
    return Tile(rgba, np.where(labels < 0, np.nan, labels + 1.0), picture.pixels, framed=_tapped(side))


def _smoothed(values: np.ndarray, smooth: bool, picture: ShownPicture) -> np.ndarray:
    if not smooth:
        return values
    longer = max(1.0, picture.aspect)
    shape = (round(_SMOOTH * picture.aspect / longer), round(_SMOOTH / longer))
    return resize_field(values, (max(shape[0], values.shape[0]), max(shape[1], values.shape[1])))


def _with_opacity(colours: np.ndarray, opacity: float, grey: np.ndarray) -> np.ndarray:
    """RGBA of one opacity; what is grey is opaque, so that nobody takes it for a value."""
    alpha = np.where(grey, 230, round(255 * opacity)).astype(np.uint8)
    solid = np.where(grey[..., None], np.array(ISOLATED, dtype=np.uint8), colours)
    return np.concatenate([solid, alpha[..., None]], axis=-1)


def _sequential(values: np.ndarray, highest: float, opacity: float) -> np.ndarray:
    fraction = np.clip(values / highest, 0.0, 1.0) if highest > 0 else np.zeros_like(values)
    colours = SEQUENTIAL[np.rint(fraction * (len(SEQUENTIAL) - 1)).astype(np.intp)]
    return np.concatenate([colours, np.full((*values.shape, 1), round(255 * opacity), np.uint8)], axis=-1)


def _highest_other(row: np.ndarray, cell: tuple[int, int] | None) -> float:
    """The end of the colours: a patch is often tied to itself so strongly that all else would be black."""
    others = row.copy()
    if cell is not None:
        others[cell] = 0.0
    return float(others.max()) or float(row.max())


def _isolated(side: Side, shape: tuple[int, int]) -> np.ndarray:
    mask = side.eig["isolated"].isel(image=0).transpose("y", "x").values
    if mask.shape == shape or not mask.any():
        return mask if mask.shape == shape else np.zeros(shape, dtype=bool)
    return resize_field(mask.astype(np.float32), shape) > 0.5


def _tapped(side: Side) -> list[tuple[int, int]]:
    return [] if side.patch is None else [side.patch]


def _cells(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in np.argwhere(mask)]
