"""Figures of a study as plain data, drawn by the template: scores with their intervals and controls, and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import xarray as xr

from .._analysis.scores.table import SCORES
from .study_record import CELL_NAMES, CellRecord


@dataclass(frozen=True)
class Dot:
    """One study cell in a figure: its score, its interval and its controls, as shares of the width in percent."""

    label: str
    anchor: str
    text: str
    at: float
    low: float | None
    high: float | None
    controls: list[tuple[str, float]]
    doubted: bool


@dataclass(frozen=True)
class Dots:
    """One score of all study cells."""

    title: str
    most: str
    rows: list[Dot]


@dataclass(frozen=True)
class LayerRow:
    """One study cell over the layers: the cut value in each, as text and as a share of the largest in percent."""

    label: str
    values: list[tuple[str, str, float] | None]


@dataclass(frozen=True)
class LayerFigure:
    """Every study cell of a group, layer by layer."""

    layers: list[str]
    rows: list[LayerRow]


def score_dots(cells: Sequence[CellRecord], scores: Sequence[str]) -> list[Dots]:
    """One figure for each score, over the same scale as its numbers need."""
    figures = []
    for name in scores:
        found = [
            (number, cell, one)
            for number, cell in enumerate(cells)
            if (scored := cell.get("scores")) and (one := scored["values"].get(name)) and one["value"] is not None
        ]
        if not found:
            continue
        controls = [
            {
                key: one["value"]
                for key, one in (score.get("controls") or {}).items()
                if key in SCORES[name].controls and one["value"] is not None
            }
            for _, _, score in found
        ]
        ends = [
            value
            for (_, _, score), beside in zip(found, controls, strict=True)
            for value in (score["value"], score["high"], *beside.values())
            if value is not None
        ]
        most = max(0.1, ceil(10 * max(ends)) / 10)

        def place(value: float | None, most: float = most) -> float | None:
            return None if value is None else 100 * min(max(value / most, 0.0), 1.0)

        figures.append(
            Dots(
                title=SCORES[name].title,
                most=f"{most:.1f}",
                rows=[
                    Dot(
                        label=" · ".join(str(cell[part]) for part in CELL_NAMES),
                        anchor=f"cell-{number}",
                        text=f"{score['value']:.3f}",
                        at=place(score["value"]) or 0.0,
                        low=place(score["low"]),
                        high=place(score["high"]),
                        controls=[(key, place(value) or 0.0) for key, value in beside.items()],
                        doubted=score.get("beats_controls") is False,
                    )
                    for (number, cell, score), beside in zip(found, controls, strict=True)
                ],
            )
        )
    return figures


def layer_figure(cells: Sequence[tuple[str, xr.Dataset]]) -> LayerFigure:
    """The cut value of the first component in every layer, as a mean over images, for results by label."""
    means: dict[str, dict[str, float]] = {}
    for label, eig in cells:
        first = eig.isel(component=0)
        cut = (first["layer_share"] / first["layer_mass"]).astype(float)
        cut = cut.mean("image", skipna=True) if "image" in cut.dims else cut
        numbers = zip(cut["layer"].values.tolist(), cut.values.ravel().tolist(), strict=True)
        means[label] = {str(layer): value for layer, value in numbers if np.isfinite(value)}
    layers = list(dict.fromkeys(layer for row in means.values() for layer in row))
    most = max([1e-12, *(value for row in means.values() for value in row.values())])
    rows = [
        LayerRow(
            label,
            [(layer, f"{row[layer]:.2f}", 100 * row[layer] / most) if layer in row else None for layer in layers],
        )
        for label, row in means.items()
    ]
    return LayerFigure(layers, rows)
