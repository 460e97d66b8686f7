"""What a score is: one row that carries all that anybody asks of it, and the table of those there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..._compute.settings import computing
from ..._table import NamedRow, NamedTable
from ...errors import SpectralToolkitError
from .segments import partition_scores, partitions
from .variance import variance_shares

PIXELS, UNTRAINED, SHUFFLED = "raw pixels", "untrained model", "shuffled labels"
"""The controls: what is scored in place of the eigenvectors, or by other labels."""
OF_EIGENVECTORS = (UNTRAINED, PIXELS)
"""The controls of a score that should not fall where the labels are those of other images."""
STARTS, STARTS_OVERCLUSTERED = 32, 16
"""Starts of k-means whose scores are averaged. On 20 scenes, a perturbation of the activations by rounding then changes
no score by 0.01, whereas the best of 4 starts changed by 0.05."""


@dataclass(frozen=True)
class Scored:
    """What eigenvectors of a dataset are scored by: what all scores share is computed once.

    Attributes
    ----------
    values
        Eigenvectors (image, position, component), positions row by row.
    labels
        Integers (image, position), -1 where there is none; None without labels.
    grid
        Rows and columns; their product is the number of positions.
    weights
        How often each image is drawn, (sample, image): first every image once, then every resample.
    seed
        Of whatever is drawn.
    """

    values: np.ndarray
    labels: np.ndarray | None
    grid: tuple[int, int]
    weights: np.ndarray
    seed: int

    @cached_property
    def shares(self) -> dict[str, np.ndarray]:
        """Shares of the variance that position, category and image explain, of every sample."""
        return variance_shares(self.values, self.labels, self.grid, self.weights)

    @computing
    def each(self, measure: Callable[[np.ndarray, np.ndarray | None], float]) -> np.ndarray:
        """The number that ``measure(values, labels)`` gives for the images of every sample, repeated as drawn."""
        drawn = [np.repeat(np.arange(len(row)), row.astype(int)) for row in self.weights]
        return np.array([measure(self.values[at], None if self.labels is None else self.labels[at]) for at in drawn])

    @computing
    def clusters(self, number: int | None, starts: int) -> np.ndarray:
        """Partitions by k-means, (start, image, position); ``number`` None is the number of categories."""
        assert self.labels is not None
        if number is None:
            number = len(np.unique(self.labels[self.labels >= 0]))
        if (number, starts) not in self._partitions:
            flat = self.values.reshape(-1, self.values.shape[-1])
            found = partitions(flat, number, starts, self.seed).reshape(-1, *self.labels.shape)
            self._partitions[number, starts] = found
        return self._partitions[number, starts]

    def relabelled(self, labels: np.ndarray) -> Scored:
        """The same eigenvectors by other labels; partitions, which know of no labels but their number, are shared."""
        other = replace(self, labels=labels)
        other.__dict__["_partitions"] = self._partitions  # where a cached property is kept
        return other

    @cached_property
    def _partitions(self) -> dict[tuple[int, int], np.ndarray]:
        return {}


@dataclass(frozen=True, eq=False, repr=False)
class Score(NamedRow):
    """A number that says what eigenvectors or segments hold.

    A score that is registered (:func:`spectral_toolkit.scores.register`) is found by its name in
    :func:`spectral_toolkit.pathways`, :func:`spectral_toolkit.eigenvector_scores`, :func:`spectral_toolkit.evaluate`,
    :func:`spectral_toolkit.heat_map`, in studies with their numbers and their page, and in the table of the
    documentation.

    Attributes
    ----------
    name
        The name of its variable.
    title
        Its name in tables.
    formula, hint
        How it is computed, and how to read it in one sentence.
    eigenvectors
        A function of :class:`~spectral_toolkit.scores.Scored` that returns one number per sample, (sample,).
    segments
        A function of a table of patches, (segment, category), that returns a number. Segments of `evaluate` are scored
        by it; so are, unless ``eigenvectors`` is given, k-means segments of eigenvectors.
    clusters, starts
        The number of these k-means segments, None for the number of categories; and the number of starts of k-means.
    low, high
        The range.
    higher_is_better
        Whether a higher score is a better one; None where it is neither.
    needs_labels
        Whether it cannot be computed without labels.
    shown
        Whether the page of a study shows it. All scores are among its numbers.
    headline
        Whether a heat map shows it by default.
    stands_in_for
        The name of a better score; this one is shown only where that is missing.
    controls
        The controls that it has to be above, to say anything about the model. The labels of other images are none for
        what position explains.
    """

    title: str
    formula: str
    hint: str
    eigenvectors: Callable[[Scored], np.ndarray] | None = None
    segments: Callable[[np.ndarray], float] | None = None
    clusters: int | None = None
    starts: int = STARTS
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool | None = True
    needs_labels: bool = False
    shown: bool = True
    headline: bool = False
    stands_in_for: str = ""
    controls: tuple[str, ...] = (UNTRAINED, PIXELS, SHUFFLED)

    def __post_init__(self) -> None:
        if self.eigenvectors is None and self.segments is None:
            raise SpectralToolkitError(f"score {self.name!r} computes nothing: give eigenvectors=, segments= or both.")
        if not self.low < self.high:
            raise SpectralToolkitError(
                f"score {self.name!r} has the range {self.low} to {self.high}: give low= below high=."
            )

    def __repr__(self) -> str:
        return f"<Score {self.name!r}: {self.formula}>"

    @property
    def labelled(self) -> bool:
        """Whether it needs labels: what compares segments with categories always does."""
        return self.needs_labels or self.eigenvectors is None

    def samples(self, scored: Scored) -> np.ndarray:
        """The score of every sample."""
        if self.eigenvectors is not None:
            return self.eigenvectors(scored)
        assert self.segments is not None
        assert scored.labels is not None
        found = scored.clusters(self.clusters, self.starts)
        return partition_scores(found, scored.labels, scored.weights, self.segments)


SCORES = NamedTable("score", Score, "st.scores", SpectralToolkitError)
"""Every score there is, by name. `register` adds to it."""


def register(score: Score) -> Score:
    """Add a score to those that are computed everywhere.

    Parameters
    ----------
    score
        The row of the table. A score of the same name is replaced, unless it is one of ours.

    Returns
    -------
    Score
        The same, so that it can be assigned in the same line.

    Raises
    ------
    SpectralToolkitError
        If it is no score, or has the name of one of ours.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> def purity(table):
    ...     return float(table.max(1).sum() / table.sum())
    >>> _ = st.scores.register(
    ...     st.scores.Score("purity", "purity", "sum of the largest overlaps / patches", "1: pure segments.",
    ...                     segments=purity)
    ... )
    >>> float(st.evaluate([[[3, 3, 7, 7]]], [[[0, 1, 1, -1]]])["purity"].round(3))
    0.667
    >>> st.scores.unregister("purity")
    """
    if isinstance(score, Score) and score.name.endswith(("_low", "_high")):
        raise SpectralToolkitError(
            f"score {score.name!r} ends like the interval of another score: choose a name without _low or _high."
        )
    return SCORES.register(score)


def unregister(name: str) -> None:
    """Take a score that `register` added away again.

    Raises
    ------
    SpectralToolkitError
        If there is none of that name, or it is one of ours.
    """
    SCORES.unregister(name)
