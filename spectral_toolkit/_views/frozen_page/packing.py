"""Packs what a frozen page shows into one compressed block of bytes: a JSON head, then uint8 arrays.

Each number is stored as its place on the colour scale, in one byte: an eigenvector runs from minus its limit (0) to
its limit (255), and an affinity row from 0 to its largest entry besides the patch itself, by the square root, which
keeps small entries apart.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import xarray as xr

from ..._affinity.table import KERNELS
from ..._explorer.precomputed import Content, Setting
from ..._explorer.session import Question, ShownState, Side
from ..._explorer.view import View
from ..._render.colour import DIVERGING, SEQUENTIAL, categorical
from ..._render.composite import shrink
from ..._render.marks import layer_bars, short_names, spectrum
from ..._render.titles import flags, statistic
from ..._render.underlay import ShownPicture
from ..overlay import colour_limit
from ..report_data import kind_of
from ..still_picture import chart_uri

_LEVELS = 255
_STATISTICS = ("eigenvalue", "residual", "eigengap")


class Block:
    """Arrays of bytes one after the other; each is known by its offset and its shape."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0
        self._places: dict[bytes, int] = {}

    def add(self, values: np.ndarray) -> dict[str, object]:
        """Add an array of uint8, if it is not there yet; return what is needed to find it again."""
        data = np.ascontiguousarray(values, dtype=np.uint8).tobytes()
        if data not in self._places:
            self._places[data] = self._at
            self._parts.append(data)
            self._at += len(data)
        return {"at": self._places[data], "shape": list(values.shape)}

    def packed(self, head: Mapping[str, object]) -> bytes:
        """Pack the length of the head (4 bytes, little-endian), the head and the arrays, compressed by zlib."""
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
        return zlib.compress(len(text).to_bytes(4, "little") + text + b"".join(self._parts), 9)


def pack(content: Content, shown: list[ShownPicture]) -> bytes:
    """Pack everything that changes on the page."""
    block = Block()
    first = content.settings[0].eig
    head = {
        "images": [{"name": picture.name, "ratio": 1 / picture.aspect} for picture in shown],
        "kinds": [_kind(content, kind) for kind in content.kinds],
        "presets": [_preset(content, preset) for preset in content.presets],
        "layers": short_names(content.layers),
        "components": [int(number) for number in first.coords["component"].values],
        "views": {view.name: {"page": view.page, "title": view.title, "alone": view.alone} for view in content.views()},
        "scope": content.scope,
        "sources": [content.sources.rows, content.sources.columns] if content.sources else None,
        "settings": [[_picture(content, setting, picture, block) for picture in shown] for setting in content.settings],
        "rows": {
            kind: [
                [short, [block.add(quantised_rows(rows[index])) for index in range(len(rows))]]
                for short, rows in zip(short_names(list(layers)), layers.values(), strict=True)
            ]
            for kind, layers in content.layer_rows.items()
        },
        "maps": {
            "signs": DIVERGING.ravel().tolist(),
            "amounts": SEQUENTIAL.ravel().tolist(),
            "labels": categorical(64).ravel().tolist(),
        },
    }
    return block.packed(head)


def quantised_field(values: np.ndarray, limit: float) -> np.ndarray:
    """Bytes of a field: 0 at ``-limit`` and 255 at ``limit``, as `colour_field` chooses colours.

    Examples
    --------
    >>> quantised_field(np.array([-1.0, 0.0, 1.0]), 1.0).tolist()
    [0, 128, 255]
    """
    fraction = np.clip(values / limit, -1.0, 1.0) * 0.5 + 0.5
    return np.rint(fraction * _LEVELS).astype(np.uint8)


def quantised_rows(rows: np.ndarray) -> np.ndarray:
    """Bytes of affinity rows (source, y, x): 255 at the second largest entry of each, as the largest is the patch
    itself.

    Examples
    --------
    >>> quantised_rows(np.array([[[9.0, 1.0, 0.25, 0.0]]])).tolist()
    [[[255, 255, 128, 0]]]
    """
    flat = rows.reshape(len(rows), -1)
    second = np.sort(flat, axis=1)[:, -2:-1] if flat.shape[1] > 1 else flat
    limit = np.where(second > 0, second, 1.0)
    return np.rint(np.sqrt(np.clip(flat / limit, 0.0, 1.0)) * _LEVELS).astype(np.uint8).reshape(rows.shape)


def _kind(content: Content, kind: str) -> dict[str, str]:
    eig = content.setting(kind, content.presets[0]).eig
    named = kind_of(eig, kind)
    kernel = str(eig.attrs.get("kernel", ""))
    formula = KERNELS[kernel].formula if kernel in KERNELS else ""
    return {
        "key": kind,
        "label": named.label,
        "name": named.name,
        "groups": named.groups_by,
        "formula": f"{kernel}: {formula}" if formula else kernel,
    }


def _preset(content: Content, preset: str) -> dict[str, object]:
    weights = content.setting(content.kinds[0], preset).weights
    return {"name": preset, "weights": [round(weights[layer], 3) for layer in content.layers]}


def _picture(content: Content, setting: Setting, picture: ShownPicture, block: Block) -> dict[str, object]:
    """One image under one setting."""
    eig, index = setting.eig, picture.index
    numbers = [int(number) for number in eig.coords["component"].values]
    limits = [colour_limit(eig, index, number) for number in numbers]
    fields = eig["eigenvector"].isel(image=index).transpose("component", "y", "x").values
    quantised = np.stack([quantised_field(field, limit) for field, limit in zip(fields, limits, strict=True)])
    isolated = np.argwhere(eig["isolated"].isel(image=index).transpose("y", "x").values)
    found: dict[str, object] = {
        "fields": block.add(quantised),
        "limits": [_short(limit) for limit in limits],
        "numbers": {name: [_number(eig, name, index, number) for number in numbers] for name in _STATISTICS},
        "flags": [flags(eig, index, number) for number in numbers],
        "isolated": isolated.tolist(),
        "trust": [[statement.level, statement.text] for statement in setting.trust[index]],
        "spectrum": asdict(spectrum(eig, index)),
        "layers": [
            [[bar.short, _short(bar.mass), _short(bar.share), None if bar.cut is None else _short(bar.cut)]
             for bar in layer_bars(eig, index, number)]
            for number in numbers
        ],
    }  # fmt: skip
    if setting.rows is not None:
        found["rows"] = block.add(quantised_rows(setting.rows[index]))
    drawn: dict[str, object] = {}
    for view in content.views():
        if view.page == "drawn":
            drawn[view.name] = _drawn(content, setting, view, picture, block)
        elif view.page_data is not None:
            values = setting.data[view.name][index]
            if content.scope == "dataset" and values.ndim == 2:  # a segment has one number in all images
                values = values + 1
            elif values.ndim == 2:
                values = _labels(values)
            found[view.name] = block.add(values if values.ndim == 2 else values[values.any(axis=(1, 2))])
    return {**found, "drawn": drawn} if drawn else found


def _drawn(
    content: Content, setting: Setting, view: View, picture: ShownPicture, block: Block
) -> str | list[dict[str, object]]:
    """A view drawn beforehand: its tiles, or the address of an image of its chart."""
    index = picture.index
    state = content.state(setting, view, index)
    weights = tuple((state.weights or {}).items())
    question = Question(
        None if content.scope == "dataset" else index, setting.kind, state.kernel, weights, state.n_eigenvectors, False
    )
    data = setting.data[view.name][index] if view.data is not None else None
    eig = setting.eig.isel(image=[index])
    side = Side(question, eig, setting.trust[index], setting.eig if content.scope == "dataset" else eig, data)
    shown = ShownState(state, picture, shrink(picture.pixels, 128), [side], content.images)
    if view.tiles is None:
        return chart_uri(view, shown)
    return [
        {
            "colours": block.add(tile.colours),
            "grid": list(tile.values.shape[:2]),
            "caption": tile.caption,
            "framed": [list(map(int, cell)) for cell in tile.framed],
            "lines": tile.lines.round(5).tolist(),
        }
        for tile in view.tiles(shown, side)
    ]


def _labels(segments: np.ndarray) -> np.ndarray:
    """Labels counted from 1 in the order of their numbers; 0 for patches without a label."""
    _, places = np.unique(np.where(segments < 0, -1, segments), return_inverse=True)
    return places.reshape(segments.shape) + (0 if (segments < 0).any() else 1)


def _number(eig: xr.Dataset, name: str, index: int, component: int) -> float | None:
    value = statistic(eig, name, index, component)
    return _short(float(value)) if value is not None and np.isfinite(value) else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
