"""Computes the numbers of one cell: eigenvectors, trust statements and scores. The cache depends on this module."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xarray as xr

from .._affinity import affinity
from .._affinity.dataset_graph import DatasetGraph
from .._analysis.scores import prepare_labels
from .._analysis.scores.results import eigenvector_scores
from .._analysis.trust import trust_statements
from ..solvers import solve
from .config import Study
from .plan import Cell, Group

DIGITS = 9
"""Significant digits of a number in the JSON: further digits are rounding errors."""


def compute_cell(
    cell: Cell,
    group: Group,
    study: Study,
    activations: xr.DataTree,
    outlying: Mapping[str, xr.DataArray],
    neighbours: Path,
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Solve one cell and gather its numbers.

    Parameters
    ----------
    activations
        The activations of the whole group.
    outlying
        Outlying tokens, as `spectral_toolkit.outlying_masks` found them in the activations.
    neighbours
        The folder in which a search for neighbours keeps what it finds, for the next cell and the next run.

    Returns
    -------
    tuple
        The result without its timing, and the numbers as JSON takes them.
    """
    eig = _solved(cell, study, activations, study.scope, neighbours)
    return eig, {
        "settings": _settings(eig, cell),
        "answers": answers(eig, {name: outlying[name] for name in cell.layers if name in outlying}),
        "scores": _scores(eig, cell, group, study, activations, neighbours),
    }


def _solved(cell: Cell, study: Study, activations: xr.DataTree, scope: str, neighbours: Path) -> xr.Dataset:
    own = scope == study.scope
    options: dict[str, Any] = dict(cell.affinity.options) if own else {}
    graph = affinity(
        activations,
        cell.affinity.kind,
        kernel=cell.affinity.kernel if own else None,
        heads=cell.affinity.heads,
        scope=scope,
        layers=list(cell.layers),
        device=study.device,
        **options,
    )
    if isinstance(graph, DatasetGraph) and graph.kernel.searches:
        graph.folder = neighbours
    eig = solve(graph, study.n_eigenvectors, tolerance=study.tolerance, seed=study.seed)
    eig.attrs.pop("seconds", None)
    return eig


def _settings(eig: xr.Dataset, cell: Cell) -> dict[str, Any]:
    attrs = eig.attrs
    return {
        "affinity": attrs["affinity"],
        "kernel": attrs["kernel"],
        "kernel_options": json.loads(attrs["kernel_options"]),
        "heads": attrs["heads"],
        "scope": attrs["scope"],
        "layers": list(cell.layers),
        "n_eigenvectors": eig.sizes["component"],
        "method": attrs["method"],
        "solver": attrs["solver"],
        "iterations": int(attrs["iterations"]),
        "tolerance": attrs["tolerance"],
        "seed": attrs["seed"],
        "device": attrs["device"],
        "grid": attrs["grid"],
        "notes": attrs["notes"],
    }


def answers(eig: xr.Dataset, outlying: Mapping[str, xr.DataArray]) -> list[dict[str, Any]]:
    """Numbers of every image, or one entry with ``image: null`` where all images were solved as one problem."""
    if "image" not in eig["eigenvalue"].dims:
        return [{"image": None, **_answer(eig, outlying)}]
    return [
        {
            "image": str(name),
            **_answer(eig.isel(image=place), {layer: mask.isel(image=[place]) for layer, mask in outlying.items()}),
        }
        for place, name in enumerate(eig["image"].values)
    ]


def _answer(eig: xr.Dataset, outlying: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    layers = [str(name) for name in eig["layer"].values]
    found: dict[str, Any] = {name: _numbers(eig[name]) for name in ("eigenvalue", "eigengap", "residual")}
    found["converged"] = eig["converged"].values.tolist()
    found["degenerate_group"] = eig["degenerate_group"].values.tolist()
    for name in ("layer_share", "layer_mass"):
        values = eig[name].transpose("layer", "component")
        found[name] = {layer: _numbers(values.isel(layer=place)) for place, layer in enumerate(layers)}
    found["isolated_cells"] = int(eig["isolated"].sum())
    found["trust"] = [asdict(statement) for statement in trust_statements(eig, outlying=outlying)]
    return found


def _scores(
    eig: xr.Dataset, cell: Cell, group: Group, study: Study, activations: xr.DataTree, neighbours: Path
) -> dict[str, Any] | None:
    """Scores over the set, from eigenvectors of all its images as one problem; None for a single image."""
    if not study.scores or eig.sizes["image"] < 2:
        return None
    joint = eig if study.scope == "dataset" else _solved(cell, study, activations, "dataset", neighbours)
    labels = None
    if group.opened.labels is not None:
        grid = (joint.sizes["y"], joint.sizes["x"])
        labels = prepare_labels(activations, group.opened.labels, grid=grid, ignore=group.opened.ignore)
    scores = eigenvector_scores(joint, labels, seed=study.seed)
    names = [str(name) for name in scores if not str(name).endswith(("_low", "_high"))]
    return {
        "kernel": joint.attrs["kernel"],
        "n_bootstrap": scores.attrs["n_bootstrap"],
        "confidence": scores.attrs["confidence"],
        "labelled": labels is not None,
        "notes": scores.attrs["notes"],
        "values": {
            name: dict(
                zip(
                    ("value", "low", "high"),
                    (rounded(float(scores[name + end])) for end in ("", "_low", "_high")),
                    strict=True,
                )
            )
            for name in names
        },
    }


def _numbers(values: xr.DataArray) -> list[float | None]:
    return [rounded(value) for value in values.values.astype(float).tolist()]


def rounded(value: float) -> float | None:
    """A number of `DIGITS` significant digits; a number that JSON cannot write becomes None.

    Examples
    --------
    >>> rounded(1 / 3), rounded(float("nan"))
    (0.333333333, None)
    """
    # -0.0 and 0.0 are the same number in different bytes.
    return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None
