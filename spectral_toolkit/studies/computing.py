"""Computes the numbers of one cell: eigenvectors, trust statements and scores. The cache depends on this module."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .._affinity import affinity
from .._affinity.dataset_graph import DatasetGraph
from .._analysis.scores import prepare_labels
from .._analysis.scores.judging import judge
from .._analysis.scores.results import eigenvector_scores
from .._analysis.scores.table import SCORES
from .._analysis.trust import trust_statements
from .._views.study_record import (
    AnswerRecord,
    Estimate,
    EvaluationRecord,
    NumbersRecord,
    ScoreRecord,
    ScoresRecord,
)
from ..solvers import solve
from .config import Study
from .controls import Solve, StudyControls
from .evaluation import evaluated
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
    controls: StudyControls | None = None,
    prepared: dict[tuple[int, int], xr.DataArray] | None = None,
) -> tuple[xr.Dataset, NumbersRecord]:
    """Solve one cell and gather its numbers.

    Parameters
    ----------
    activations
        The activations of the whole group.
    outlying
        Outlying tokens, as `spectral_toolkit.outlying_masks` found them in the activations.
    neighbours
        The folder in which a search for neighbours keeps what it finds, for the next cell and the next run.
    controls
        Those of the group; None leaves them out.
    prepared
        The group's labels on the grids that were needed before; this one is added.

    Returns
    -------
    tuple
        The result without its timing, and the numbers as JSON takes them.
    """
    known: dict[tuple[int, str], xr.Dataset] = {}

    def solved(tree: xr.DataTree, scope: str, folder: Path) -> xr.Dataset:
        """The cell's eigenvectors over images of a scope; those of the model itself are solved once."""
        if tree is not activations:
            return _solved(cell, study, tree, scope, folder)
        if (id(tree), scope) not in known:
            known[id(tree), scope] = _solved(cell, study, tree, scope, folder)
        return known[id(tree), scope]

    eig = solved(activations, study.scope, neighbours)
    own = partial(solved, activations, folder=neighbours)
    labelled = _Labelled(study, group, activations, own, solved, controls, {} if prepared is None else prepared)
    numbers: NumbersRecord = {
        "settings": _settings(eig, cell),
        "answers": answers(eig, {name: outlying[name] for name in cell.layers if name in outlying}),
        "scores": _scores(labelled),
    }
    if (evaluation := _evaluation(labelled)) is not None:
        numbers["evaluation"] = evaluation
    return eig, numbers


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


def _settings(eig: xr.Dataset, cell: Cell) -> dict[str, object]:
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


def answers(eig: xr.Dataset, outlying: Mapping[str, xr.DataArray]) -> list[AnswerRecord]:
    """Numbers of every image, or one entry with ``image: null`` where all images were solved as one problem."""
    if "image" not in eig["eigenvalue"].dims:
        return [_answer(None, eig, outlying)]
    return [
        _answer(str(name), eig.isel(image=place), {layer: mask.isel(image=[place]) for layer, mask in outlying.items()})
        for place, name in enumerate(eig["image"].values)
    ]


def _answer(image: str | None, eig: xr.Dataset, outlying: Mapping[str, xr.DataArray]) -> AnswerRecord:
    layers = [str(name) for name in eig["layer"].values]

    def by_layer(name: str) -> dict[str, list[float | None]]:
        values = eig[name].transpose("layer", "component")
        return {layer: _numbers(values.isel(layer=place)) for place, layer in enumerate(layers)}

    return {
        "image": image,
        "eigenvalue": _numbers(eig["eigenvalue"]),
        "eigengap": _numbers(eig["eigengap"]),
        "residual": _numbers(eig["residual"]),
        "converged": eig["converged"].values.tolist(),
        "degenerate_group": eig["degenerate_group"].values.tolist(),
        "layer_share": by_layer("layer_share"),
        "layer_mass": by_layer("layer_mass"),
        "isolated_cells": int(eig["isolated"].sum()),
        "trust": [{"level": one.level, "text": one.text} for one in trust_statements(eig, outlying=outlying)],
    }


@dataclass(frozen=True)
class _Labelled:
    """What scores and evaluations of a cell are made from.

    ``own`` gives the cell's eigenvectors over images of a scope, ``solved`` those of other activations; ``prepared``
    keeps labels on the grids that were needed before.
    """

    study: Study
    group: Group
    activations: xr.DataTree
    own: Callable[[str], xr.Dataset]
    solved: Solve
    controls: StudyControls | None
    prepared: dict[tuple[int, int], xr.DataArray]

    def labels_at(self, grid: tuple[int, int]) -> xr.DataArray:
        """The labels at the patches of a grid, read from the disk once."""
        if grid not in self.prepared:
            opened = self.group.opened
            self.prepared[grid] = prepare_labels(self.activations, opened.labels, grid=grid, ignore=opened.ignore)
        return self.prepared[grid]


def _scores(cell: _Labelled) -> ScoresRecord | None:
    """Scores over the set, from eigenvectors of all its images as one problem; None for a single image."""
    if not cell.study.scores or len(cell.group.opened.pictures) < 2:
        return None
    joint, controls = cell.own("dataset"), cell.controls
    labels = None
    if cell.group.opened.labels is not None:
        labels = cell.labels_at((joint.sizes["y"], joint.sizes["x"]))
    scores = eigenvector_scores(joint, labels, seed=cell.study.seed)
    names = [str(name) for name in scores if not str(name).endswith(("_low", "_high"))]
    values: dict[str, ScoreRecord] = {name: {**_estimate(scores, name)} for name in names}
    notes = [str(scores.attrs["notes"])]
    if controls is not None and labels is not None:
        found, more = controls.scores(joint, labels, cell.solved)
        notes += more
        for name in names:
            values[name] = _controlled(name, values[name], found)
    return {
        "kernel": joint.attrs["kernel"],
        "n_bootstrap": scores.attrs["n_bootstrap"],
        "confidence": scores.attrs["confidence"],
        "labelled": labels is not None,
        "controlled": controls is not None and labels is not None,
        "notes": " ".join(note for note in notes if note),
        "values": values,
    }


def _evaluation(cell: _Labelled) -> EvaluationRecord | None:
    """The evaluations of papers, with those of the controls; None where none are asked for."""
    asked, opened = cell.study.evaluate, cell.group.opened
    labels = opened.labels
    if asked is None or labels is None:
        return None
    first = cell.own("image")
    grid = (first.sizes["y"], first.sizes["x"])
    n_categories = len(opened.categories)
    if not n_categories:
        cells = cell.labels_at(grid).values
        n_categories = max(2, len(np.unique(cells[cells >= 0])))

    def evaluate(eigenvectors: Callable[[str], xr.Dataset]) -> EvaluationRecord:
        return evaluated(eigenvectors, labels, asked, n_categories, opened.ignore, rounded)

    found = evaluate(cell.own)
    if cell.controls is not None:
        found["controls"], notes = cell.controls.evaluations(grid, cell.solved, evaluate)
        found["notes"] = " ".join(notes)
    return found


def _estimate(scores: xr.Dataset, name: str) -> Estimate:
    value, low, high = (rounded(float(scores[name + end])) for end in ("", "_low", "_high"))
    return {"value": value, "low": low, "high": high}


def _controlled(name: str, found: ScoreRecord, scored: Mapping[str, xr.Dataset]) -> ScoreRecord:
    """A score with what stands beside it: the same of every control, and whether it is above them."""
    controls = {control: _estimate(scores, name) for control, scores in scored.items()}
    estimates = {control: (one["value"], one["low"], one["high"]) for control, one in controls.items()}
    verdict = judge(SCORES[name], (found["value"], found["low"], found["high"]), estimates)
    return {**found, "controls": controls, "beats_controls": verdict.beats, "verdict": verdict.words}


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
