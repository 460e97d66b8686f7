"""The evaluations of papers in a study: regions of single images with oracle labels, clusters over the whole set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from .._analysis.regions import segment
from .._analysis.scores import evaluate
from .._views.study_record import EvaluationRecord
from .config import CATEGORIES, EvaluationChoice


def evaluated(
    solved: Callable[[str], xr.Dataset],
    labels: Sequence[np.ndarray],
    asked: EvaluationChoice,
    n_categories: int,
    ignore: tuple[int, ...],
    rounded: Callable[[float], float | None],
) -> EvaluationRecord:
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

    def numbers(segments: xr.DataArray) -> tuple[xr.Dataset, Callable[[str], float | None]]:
        scores = evaluate(segments, labels, ignore=ignore)
        return scores, lambda name: rounded(float(scores[name]))

    regions, of_regions = numbers(segment(solved("image"), asked.regions))
    found: EvaluationRecord = {
        "n_pixels": int(regions.attrs["n_cells"]),
        "regions": {
            "n": asked.regions,
            "oracle_miou": of_regions("oracle_miou"),
            "oracle_accuracy": of_regions("oracle_accuracy"),
        },
        "clusters": [],
    }
    if len(labels) < 2:
        return found
    joint = solved("dataset")
    for one in asked.clusters:
        n = n_categories if one == CATEGORIES else int(one)
        _, of_clusters = numbers(segment(joint, n))
        found["clusters"].append(
            {
                "asked": one,
                "n": n,
                "assigned_miou": of_clusters("assigned_miou"),
                "matched_accuracy": of_clusters("matched_accuracy"),
                "matched_miou": of_clusters("matched_miou"),
                "overclustered_miou": of_clusters("overclustered_miou"),
                "overclustered_accuracy": of_clusters("overclustered_accuracy"),
            }
        )
    return found
