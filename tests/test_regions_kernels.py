"""Kernels of the regions against slow, obvious twins and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.metrics import silhouette_score

from spectral_toolkit._analysis.regions import kmeans, merging
from spectral_toolkit._analysis.regions.adjacency import connected_parts, touching
from spectral_toolkit._analysis.regions.label_maps import by_size, filled


def slow_parts(labels: np.ndarray) -> np.ndarray:
    """Flood fill, one cell at a time."""
    parts = np.full(labels.shape, -1)
    count = 0
    for start in np.ndindex(labels.shape):
        if parts[start] >= 0:
            continue
        stack = [start]
        while stack:
            y, x = stack.pop()
            if parts[y, x] >= 0:
                continue
            parts[y, x] = count
            for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= other[0] < labels.shape[0] and 0 <= other[1] < labels.shape[1]
                if inside and labels[other] == labels[start]:
                    stack.append(other)
        count += 1
    return parts


def slow_candidates(labels: np.ndarray, rows: np.ndarray, free: np.ndarray) -> list[frozenset[int]]:
    """Merging with sets of cells; means are taken anew every time."""
    parts = slow_parts(labels).ravel()
    width = labels.shape[1]
    regions = {number: frozenset(np.flatnonzero(parts == number).tolist()) for number in range(parts.max() + 1)}
    found = list(regions.values())

    def touch(a: frozenset[int], b: frozenset[int]) -> bool:
        return any(abs(i // width - j // width) + abs(i % width - j % width) == 1 for i in a for j in b)

    def distance(a: frozenset[int], b: frozenset[int]) -> float:
        means = [rows[[i for i in region if free[i]]] for region in (a, b)]
        if not all(len(mean) for mean in means):
            return -1.0
        return float(((means[0].mean(0) - means[1].mean(0)) ** 2).sum())

    while len(regions) > 1:
        pairs = [(a, b) for a in sorted(regions) for b in sorted(regions) if a < b and touch(regions[a], regions[b])]
        a, b = min(pairs, key=lambda pair: distance(regions[pair[0]], regions[pair[1]]))
        merged = regions.pop(a) | regions.pop(b)
        regions[len(found)] = merged
        found.append(merged)
    return found[:-1]


def example(seed: int, height: int, width: int, n_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, (height, width))
    return labels, rng.normal(size=(height * width, 3)), rng.random(height * width) < 0.8


@settings(max_examples=60)
@given(some.integers(0, 2**32 - 1), some.integers(1, 5), some.integers(1, 5), some.integers(1, 4))
def test_parts_and_merging_are_those_of_the_slow_twin(seed: int, height: int, width: int, n_labels: int) -> None:
    labels, rows, free = example(seed, height, width, n_labels)
    assert (connected_parts(labels) == slow_parts(labels)).all()
    masks = merging.candidates(labels, rows, free)
    assert [frozenset(np.flatnonzero(mask).tolist()) for mask in masks] == slow_candidates(labels, rows, free)


def test_parts_that_touch_at_a_corner_only_do_not_touch() -> None:
    assert touching(connected_parts(np.array([[0, 1], [1, 0]]))).tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert touching(np.zeros((2, 3), dtype=np.int64)).tolist() == []


@settings(max_examples=40)
@given(some.integers(0, 2**32 - 1), some.integers(3, 40), some.integers(1, 4))
def test_binary_silhouette_is_that_of_scikit_learn(seed: int, n: int, n_components: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, n_components))
    rows[: n // 3] = rows[0]  # equal rows: distance 0
    masks = rng.random((5, n)) < 0.4
    masks[0], masks[0, 1] = False, True
    scores = merging.binary_silhouettes(rows, masks)
    for mask, score in zip(masks, scores, strict=True):
        expected = silhouette_score(rows, mask) if 0 < mask.sum() < n else 0.0
        assert score == pytest.approx(expected, abs=1e-6)


def test_binary_silhouette_of_many_cells_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, masks = rng.normal(size=(23, 2)), rng.random((3, 23)) < 0.5
    expected = [float(silhouette_score(rows, mask)) for mask in masks]
    monkeypatch.setattr(merging, "ROWS_AT_ONCE", 7)
    assert merging.binary_silhouettes(rows, masks) == pytest.approx(expected)


def test_binary_silhouette_of_equal_cells_is_nothing() -> None:
    masks = np.array([[True, False, False], [False, False, False], [True, True, True]])
    assert merging.binary_silhouettes(np.full((3, 2), 0.1), masks).tolist() == [0, 0, 0]


def slow_suppress(masks: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    waiting = sorted(range(len(masks)), key=lambda i: (-scores[i], -masks[i].sum(), i))
    kept = []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [i for i in waiting if (masks[i] & masks[best]).sum() / (masks[i] | masks[best]).sum() <= overlap]
    return kept


@settings(max_examples=60)
@given(some.integers(0, 2**32 - 1), some.integers(0, 8), some.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_suppression_is_that_of_the_slow_twin(seed: int, n: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((n, 9)) < 0.6
    masks[:, 0] = True
    masks[1:2] = masks[:1]  # the same mask twice
    scores = rng.integers(0, 3, n) / 2  # ties
    assert merging.suppress(masks, scores, overlap).tolist() == slow_suppress(masks, scores, overlap)


def test_isolated_cells_take_the_nearest_label_in_the_frame_of_the_picture() -> None:
    labels = np.array([[9, 9, 9, 2], [0, 9, 9, 9]])
    free = labels < 9
    # Two rows and four columns over a square: a step down is as long as two to the right, so that the third cell of the
    # second row is nearer to 0 than to 2.
    expected = [[0, 2, 2, 2], [0, 0, 0, 2]]
    assert filled(labels.ravel(), free.ravel(), (2, 4)).reshape(2, 4).tolist() == expected
    assert filled(labels.ravel(), np.zeros(8, dtype=bool), (2, 4)).tolist() == [-1] * 8


def test_numbers_go_by_size_then_by_place() -> None:
    assert by_size(np.array([4, 4, 9, 0, 0, 7, 7, 7])).tolist() == [1, 1, 3, 2, 2, 0, 0, 0]


def test_the_number_with_the_largest_silhouette_is_chosen() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [0, 9], [9, 0], [9, 9]])
    rows = np.repeat(centres, 6, axis=0) + rng.normal(size=(24, 2))
    labels, score = kmeans.cluster(rows, "auto", 0)
    tried = {k: silhouette_score(rows, kmeans.kmeans(rows, k)) for k in range(2, 11)}
    assert max(tried, key=lambda k: tried[k]) == labels.max() + 1 == 4
    assert score == pytest.approx(tried[4])


def test_silhouettes_of_many_cells_are_those_of_a_seeded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "SAMPLE", 20)
    rows = np.random.default_rng(0).normal(size=(50, 2))
    labels, score = kmeans.cluster(rows, 3, seed=7)
    sample = np.sort(np.random.default_rng(7).choice(50, 20, replace=False))
    assert score == pytest.approx(silhouette_score(rows[sample], labels[sample]))
