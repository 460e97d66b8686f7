"""Our scores, one row each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .score import OF_EIGENVECTORS, SCORES, STARTS_OVERCLUSTERED, Score, Scored, register
from .segments import OVERCLUSTERED, adjusted_rand, matched_miou, overclustered_miou


def _share(name: str) -> Callable[[Scored], np.ndarray]:
    return lambda scored: scored.shares[name]


register(
    Score(
        "where",
        "where",
        "(SS_position given category - df MSE) / (SS_total + MSE), at least 0",
        "The share of the total variance that position explains beyond category, as a mean over eigenvectors.",
        _share("where"),
        higher_is_better=None,
        needs_labels=True,
        headline=True,
        controls=OF_EIGENVECTORS,
    )
)
register(
    Score(
        "what",
        "what",
        "(SS_category given position - df MSE) / (SS_total + MSE), at least 0",
        "The share of the total variance that category explains beyond position, as a mean over eigenvectors.",
        _share("what"),
        higher_is_better=None,
        needs_labels=True,
        headline=True,
    )
)
register(
    Score(
        "what_plain",
        "what, plain",
        "omega squared of category",
        "The share of the variance that category alone explains.",
        _share("what_plain"),
        higher_is_better=None,
        needs_labels=True,
        shown=False,
    )
)
register(
    Score(
        "where_plain",
        "where, plain",
        "omega squared of position",
        "The share of the variance that position alone explains.",
        _share("where_plain"),
        higher_is_better=None,
        headline=True,
        stands_in_for="where",
        controls=OF_EIGENVECTORS,
    )
)
register(
    Score(
        "image_share",
        "image share",
        "omega squared of the image",
        "The share of the variance that is explained by the image a patch is in; where it is large, the eigenvectors "
        "mostly distinguish images.",
        _share("image_share"),
        higher_is_better=None,
        shown=False,
        controls=(),
    )
)
register(
    Score(
        "r2_position",
        "R² of position",
        "R^2 of a ridge regression on tensor products of cubic B-splines of x and y",
        "How well position predicts the eigenvectors smoothly.",
        _share("r2_position"),
        higher_is_better=None,
        shown=False,
        controls=OF_EIGENVECTORS,
    )
)
register(
    Score(
        "matched_miou",
        "matched mIoU",
        "mean IoU of segments and categories in the best pairing, one to one",
        "As many k-means segments as categories: 1 where each segment is a category.",
        segments=matched_miou,
    )
)
register(
    Score(
        "overclustered_miou",
        "over-clustered mIoU",
        "mean IoU of categories, where each segment takes its most frequent one",
        f"{OVERCLUSTERED} k-means segments: 1 where no segment crosses the border of a category.",
        segments=overclustered_miou,
        clusters=OVERCLUSTERED,
        starts=STARTS_OVERCLUSTERED,
    )
)
register(
    Score(
        "ari",
        "adjusted Rand index",
        "(RI - expected RI) / (max RI - expected RI)",
        "Whether pairs of patches are together in both or apart in both; 0 is the value of chance.",
        segments=adjusted_rand,
        low=-1.0,
        shown=False,
    )
)
SCORES.complete()
