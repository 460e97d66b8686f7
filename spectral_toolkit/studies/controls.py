"""The controls of a labelled study: the untrained model, raw pixels and the labels of other images, scored alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import xarray as xr

from .._affinity import affinity
from .._analysis.scores.controls import pixel_tree, shuffle_labels
from .._analysis.scores.results import eigenvector_scores
from .._analysis.scores.score import PIXELS, SHUFFLED, UNTRAINED
from .._views.study_record import EvaluationRecord
from ..errors import SpectralToolkitError, first_line
from ..solvers import solve
from .config import Study

Solve = Callable[[xr.DataTree, str, Path], xr.Dataset]
"""Solves a cell anew, from other activations, over images of a scope."""
Evaluate = Callable[[Callable[[str], xr.Dataset]], EvaluationRecord]
"""Evaluates the eigenvectors that a function of the scope returns."""


class StudyControls:
    """What the cells of one model on one set of images share: made when it is first asked for.

    Parameters
    ----------
    activations
        Those of the model.
    untrained
        A function that returns the capture of the untrained model, or None, and a note about it.
    neighbours
        The folder for what is found in the untrained model's activations.
    """

    def __init__(
        self,
        study: Study,
        activations: xr.DataTree,
        untrained: Callable[[], tuple[xr.DataTree | None, str]],
        neighbours: Path,
    ):
        self._study, self._activations, self._make, self._folder = study, activations, untrained, neighbours
        self._pixels: dict[tuple[int, int], tuple[xr.Dataset | None, str]] = {}
        self._pixels_evaluated: dict[tuple[int, int], tuple[EvaluationRecord | None, str]] = {}

    def scores(self, joint: xr.Dataset, labels: xr.DataArray, solved: Solve) -> tuple[dict[str, xr.Dataset], list[str]]:
        """The scores of every control, and notes about those that could not be scored.

        Parameters
        ----------
        joint
            The eigenvectors that are controlled.
        solved
            A function that solves a cell anew, from other activations.
        """
        found: dict[str, xr.Dataset] = {}
        notes = []
        tree, note = self._untrained
        if tree is not None:
            try:
                found[UNTRAINED] = self._scored(solved(tree, "dataset", self._folder), labels)
            except SpectralToolkitError as error:
                note = _left_out("The untrained model", error)
        notes.append(note)
        grid = (joint.sizes["y"], joint.sizes["x"])
        if grid not in self._pixels:
            self._pixels[grid] = self._of_pixels(grid, labels)
        raw, note = self._pixels[grid]
        if raw is not None:
            found[PIXELS] = raw
        notes.append(note)
        found[SHUFFLED] = self._scored(joint, shuffle_labels(labels, seed=self._study.seed))
        return found, [note for note in notes if note]

    def evaluations(
        self, grid: tuple[int, int], solved: Solve, evaluate: Evaluate
    ) -> tuple[dict[str, EvaluationRecord], list[str]]:
        """The evaluations of the untrained model and of raw pixels, and notes about those that could not be made."""
        found: dict[str, EvaluationRecord | None] = {}
        tree, note = self._untrained
        if tree is not None:
            found[UNTRAINED], note = _tried(
                "The untrained model", lambda: evaluate(lambda scope: solved(tree, scope, self._folder))
            )
        notes = [note]
        if grid not in self._pixels_evaluated:
            self._pixels_evaluated[grid] = _tried(
                "Raw pixels", lambda: evaluate(lambda scope: self._solved_pixels(grid, scope)), "were"
            )
        found[PIXELS], note = self._pixels_evaluated[grid]
        notes.append(note)
        return {name: one for name, one in found.items() if one is not None}, [note for note in notes if note]

    @cached_property
    def _untrained(self) -> tuple[xr.DataTree | None, str]:
        try:
            return self._make()
        except SpectralToolkitError as error:
            return None, _left_out("The untrained model", error)

    def _of_pixels(self, grid: tuple[int, int], labels: xr.DataArray) -> tuple[xr.Dataset | None, str]:
        try:
            return self._scored(self._solved_pixels(grid, "dataset"), labels), ""
        except SpectralToolkitError as error:
            return None, _left_out("Raw pixels", error, "were")

    def _solved_pixels(self, grid: tuple[int, int], scope: str) -> xr.Dataset:
        graph = affinity(pixel_tree(self._activations, grid), "token", scope=scope, device=self._study.device)
        study = self._study
        return solve(graph, study.n_eigenvectors, tolerance=study.tolerance, seed=study.seed)

    def _scored(self, eig: xr.Dataset, labels: xr.DataArray) -> xr.Dataset:
        return eigenvector_scores(eig, labels.values, seed=self._study.seed)


def _tried(
    what: str, evaluate: Callable[[], EvaluationRecord], verb: str = "was"
) -> tuple[EvaluationRecord | None, str]:
    """An evaluation, or None and a note where a control has no eigenvectors or segments."""
    try:
        return evaluate(), ""
    except SpectralToolkitError as error:
        return None, _left_out(what, error, verb)


def _left_out(what: str, error: SpectralToolkitError, verb: str = "was") -> str:
    return f"{what} {verb} not scored ({first_line(error)})."
