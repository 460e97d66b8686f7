"""The evaluations of papers in a study: regions of single images with oracle labels, clusters over the whole set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .._analysis.regions import segment
from .._analysis.scores import evaluate
from .config import CATEGORIES, EvaluationChoice

REGIONS = ("oracle_miou", "oracle_accuracy")
CLUSTERS = ("assigned_miou", "matched_accuracy", "matched_miou", "overclustered_miou", "overclustered_accuracy")


def evaluated(
    solved: Callable[[str], xr.Dataset],
    labels: Sequence[np.ndarray],
    asked: EvaluationChoice,
    n_categories: int,
    ignore: tuple[int, ...],
    rounded: Callable[[float], float | None],
) -> dict[str, Any]:
    """Evaluate eigenvectors at the pixels of the label maps, which are read one at a time.

    Parameters
    ----------
    solved
        A function from a scope to eigenvectors of the images.
    n_categories
        The number of clusters that ``categories`` stands for.
    rounded
        A function that makes a number one of a JSON.
    """
    regions = evaluate(segment(solved("image"), asked.regions), labels, ignore=ignore)
    found: dict[str, Any] = {
        "n_pixels": int(regions.attrs["n_cells"]),
        "regions": {"n": asked.regions, **{name: rounded(float(regions[name])) for name in REGIONS}},
        "clusters": [],
    }
    if len(labels) < 2:
        return found
    joint = solved("dataset")
    for one in asked.clusters:
        n = n_categories if one == CATEGORIES else int(one)
        scores = evaluate(segment(joint, n), labels, ignore=ignore)
        found["clusters"].append({"asked": one, "n": n, **{name: rounded(float(scores[name])) for name in CLUSTERS}})
    return found
