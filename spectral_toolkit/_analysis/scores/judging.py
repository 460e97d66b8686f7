"""Whether a score says anything about the model: it has to be above its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .score import UNTRAINED, Score

Estimate = tuple[float | None, float | None, float | None]
"""A value and the two ends of its interval; None where there is none."""


@dataclass(frozen=True)
class Verdict:
    """Whether a score beats its controls.

    Attributes
    ----------
    beats
        Whether its value is above that of every control, and its interval, where there is one, begins above it. None
        where it has no control, or no value.
    words
        One sentence about the control that it does not beat; empty where there is none.
    """

    beats: bool | None
    words: str = ""


def judge(score: Score, found: Estimate, controls: Mapping[str, Estimate]) -> Verdict:
    """Compare a score with those of its controls that were scored.

    Examples
    --------
    >>> from spectral_toolkit.scores import SCORES
    >>> judge(SCORES["what"], (0.533, 0.4, 0.6), {"untrained model": (0.603, 0.5, 0.7)}).words
    'Not above the untrained model (0.603).'
    >>> judge(SCORES["what"], (0.533, 0.4, 0.6), {"shuffled labels": (0.483, 0.4, 0.5)}).words
    'Not clearly above shuffled labels (0.483): the interval begins at 0.400.'
    """
    sign = -1 if score.higher_is_better is False else 1
    return compare(found, {name: one for name, one in controls.items() if name in score.controls}, sign)


def compare(found: Estimate, controls: Mapping[str, Estimate], sign: int = 1) -> Verdict:
    """Compare an estimate with others that it has to be above, or below where ``sign`` is -1."""
    value, *ends = found
    known = {name: sign * one[0] for name, one in controls.items() if one[0] is not None}
    if value is None or not known:
        return Verdict(None)
    name = max(known, key=lambda one: known[one])
    best, end = known[name], ends[0] if sign > 0 else ends[1]
    named = f"{'the ' if name == UNTRAINED else ''}{name} ({sign * best:.3f})"
    side, verb = ("above", "begins") if sign > 0 else ("below", "ends")
    if sign * value <= best:
        return Verdict(False, f"Not {side} {named}.")
    if end is not None and sign * end <= best:
        return Verdict(False, f"Not clearly {side} {named}: the interval {verb} at {end:.3f}.")
    return Verdict(True)
