"""Shares of variance against least squares with dummy columns, segments against scikit-learn and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

import spectral_toolkit as st
from spectral_toolkit._analysis.scores import evaluate, paths, segments, variance
from spectral_toolkit.errors import SpectralToolkitError


def dummies(factor: np.ndarray) -> np.ndarray:
    return (factor[:, None] == np.unique(factor)).astype(float)


def squares(y: np.ndarray, *factors: np.ndarray) -> tuple[float, int]:
    """Residual sum of squares and rank of the model with an intercept and these factors."""
    design = np.hstack([np.ones((len(y), 1)), *map(dummies, factors)])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum()), int(np.linalg.matrix_rank(design))


def slow_shares(values: np.ndarray, labels: np.ndarray, grid: tuple[int, int], drawn: list[int]) -> dict[str, float]:
    """Ordinary least squares on the rows of the drawn images."""
    _, n_positions, n_components = values.shape
    keep = labels[drawn].ravel() >= 0
    position = np.tile(np.arange(n_positions), len(drawn))[keep]
    image = np.repeat(np.arange(len(drawn)), n_positions)[keep]
    label = labels[drawn].ravel()[keep]
    found: dict[str, list[float]] = {}
    for component in range(n_components):
        y = values[drawn, :, component].ravel()[keep]
        total = float(((y - y.mean()) ** 2).sum())
        both, rank = squares(y, position, label)
        noise = both / (len(y) - rank)
        for name, other in (("where", label), ("what", position)):
            alone, rank_alone = squares(y, other)
            share = (alone - both - (rank - rank_alone) * noise) / (total + noise)
            found.setdefault(name, []).append(max(share, 0))
        for name, factor in (("where_plain", position), ("what_plain", label), ("image_share", image)):
            left, rank_one = squares(y, factor)
            noise_one = left / (len(y) - rank_one)
            found.setdefault(name, []).append(max((total - left - (rank_one - 1) * noise_one) / (total + noise_one), 0))
        basis = variance.position_basis(grid)[position]
        fit = Ridge(variance.RIDGE, fit_intercept=False).fit(basis, y - y.mean()).predict(basis)
        found.setdefault("r2_position", []).append(1 - float(((y - y.mean() - fit) ** 2).sum()) / total)
    return {name: float(np.mean(share)) for name, share in found.items()}


def example(seed: int, n_images: int = 5, grid: tuple[int, int] = (3, 4), n_labels: int = 3, ignored: float = 0.1):
    rng = np.random.default_rng(seed)
    n = grid[0] * grid[1]
    labels = rng.integers(0, n_labels, (n_images, n))
    labels[rng.random(labels.shape) < ignored] = -1
    values = rng.normal(size=(n_images, n, 2)) + 3
    values += rng.normal(size=(n, 2)) * rng.integers(0, 2) + rng.normal(size=(n_labels, 2))[labels]
    return values, labels, grid


@settings(max_examples=30)
@given(some.integers(0, 10**6), some.integers(1, 4), some.floats(0, 0.3))
def test_shares_are_those_of_least_squares(seed: int, n_labels: int, ignored: float) -> None:
    values, labels, grid = example(seed, n_labels=n_labels, ignored=ignored)
    drawn = [[0, 1, 2, 3, 4], list(np.random.default_rng(seed).integers(0, 5, 5))]
    weights = np.array([np.bincount(one, minlength=5) for one in drawn], float)
    found = variance.variance_shares(values, labels, grid, weights)
    for sample, images in enumerate(drawn):
        wanted = slow_shares(values, labels, grid, images)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert found[name][sample] == pytest.approx(value, abs=1e-8), name


def test_sky_is_up_but_beyond_it_there_is_nothing() -> None:
    """Values that follow position alone hold no category beyond it, though the plain share of category is large."""
    grid, rng = (4, 4), np.random.default_rng(0)
    rows = np.repeat(np.arange(4), 4)
    labels = (rows + rng.integers(0, 2, (40, 16)) >= 2).astype(int)
    values = (rows + 0.01 * rng.normal(size=(40, 16)))[..., None]
    found = variance.variance_shares(values, labels, grid, np.ones((1, 40)))
    assert found["what"] < 1e-4
    assert found["what_plain"] > 0.4
    assert found["where"] > 0.3


def test_the_mean_and_the_scale_change_nothing_and_constants_hold_nothing() -> None:
    values, labels, grid = example(1)
    weights = np.ones((1, 5))
    first = variance.variance_shares(values, labels, grid, weights)
    second = variance.variance_shares(values * 1e-3 + 1e3, labels, grid, weights)
    for name in first:
        assert second[name] == pytest.approx(first[name], abs=1e-6)
    assert all(value == 0 for value in variance.variance_shares(values * 0 + 7, labels, grid, weights).values())


def test_without_labels_plain_where_only() -> None:
    values, labels, grid = example(2, ignored=0)
    weights = variance.resamples(5, 3, 0)
    alone = variance.variance_shares(values, None, grid, weights)
    beside = variance.variance_shares(values, labels, grid, weights)
    assert set(alone) == {"where_plain", "image_share", "r2_position"}
    for name in alone:
        assert alone[name] == pytest.approx(beside[name])


def test_resamples_are_seeded_and_begin_with_every_image_once() -> None:
    first, second = variance.resamples(6, 50, 3), variance.resamples(6, 50, 3)
    assert (first == second).all()
    assert (first[0] == 1).all()
    assert (first.sum(1) == 6).all()


def partition_scores(found: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """All scores of our table that compare segments with labels."""
    measures = {name: score.segments for name, score in st.scores.SCORES.items() if score.segments is not None}
    return {name: segments.partition_scores(found, labels, weights, one) for name, one in measures.items()}


def test_resamples_without_any_label_have_no_score() -> None:
    labels = np.array([[0, 1, 1], [-1, -1, -1]])
    own = labels[None] + 1
    found = partition_scores(own, labels, np.array([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]]))
    for name in ("matched_miou", "overclustered_miou", "ari"):
        np.testing.assert_array_equal(found[name], [1.0, np.nan, 1.0])


def slow_matched(found: np.ndarray, wanted: np.ndarray) -> float:
    segments_, categories = np.unique(found), np.unique(wanted)
    iou = np.array([[((found == s) & (wanted == c)).sum() / ((found == s) | (wanted == c)).sum() for c in categories]
                    for s in segments_])  # fmt: skip
    if len(segments_) < len(categories):
        iou = np.vstack([iou, np.zeros((len(categories) - len(segments_), len(categories)))])
    pairings = itertools.permutations(range(len(iou)), len(categories))
    return max(sum(iou[s, c] for c, s in enumerate(one)) for one in pairings) / len(categories)


@settings(max_examples=40)
@given(some.integers(0, 10**6), some.integers(1, 4), some.integers(1, 4))
def test_evaluate_is_brute_force_and_scikit_learn(seed: int, n_segments: int, n_labels: int) -> None:
    rng = np.random.default_rng(seed)
    found, wanted = rng.integers(-1, n_segments, (2, 3, 4)), rng.integers(-1, n_labels, (2, 3, 4))
    wanted[0, 0, 0] = 0
    kept = wanted >= 0
    scores = evaluate(found, wanted)
    assert float(scores.matched_miou) == pytest.approx(slow_matched(found[kept], wanted[kept]))
    assert float(scores.ari) == pytest.approx(adjusted_rand_score(wanted[kept], found[kept]))
    merged = np.zeros_like(found)
    for segment in np.unique(found[kept]):
        merged[found == segment] = np.bincount(wanted[kept & (found == segment)]).argmax()
    over = [(kept & (merged == c) & (wanted == c)).sum() / (kept & ((merged == c) | (wanted == c))).sum()
            for c in np.unique(wanted[kept])]  # fmt: skip
    assert float(scores.overclustered_miou) == pytest.approx(np.mean(over))


def test_evaluate_perfect_and_refusals() -> None:
    labels = np.arange(8).reshape(2, 2, 2) % 3
    perfect = evaluate(labels + 5, labels, n_categories=4)
    assert float(perfect.matched_miou) == float(perfect.overclustered_miou) == float(perfect.ari) == 1
    assert np.isnan(perfect.iou.values[3])
    alone = xr.DataArray(labels + 5, dims=("image", "y", "x"), attrs={"scope": "image"})
    assert "cut one by one" in evaluate(alone, labels).attrs["notes"]
    assert not evaluate(alone.assign_attrs(scope="dataset"), labels).attrs["notes"] + perfect.attrs["notes"]
    with pytest.raises(SpectralToolkitError, match=r"image '1' has 1x2 pixels, fewer than the segments' 2x2 patches"):
        evaluate(labels, [labels[0], labels[0, :1]])
    with pytest.raises(SpectralToolkitError, match="segments are a Dataset"):
        evaluate(xr.Dataset({"a": alone}), labels)
    with pytest.raises(SpectralToolkitError, match="2 label maps were given for 1 images"):
        evaluate(labels[:1], labels)
    with pytest.raises(SpectralToolkitError, match="labels are ignored"):
        evaluate(labels, labels * 0 - 1)
    with pytest.raises(SpectralToolkitError, match="n_categories=2 is .* at least 3, because there is a label 2"):
        evaluate(labels, labels, n_categories=2)
    with pytest.raises(SpectralToolkitError, match="expected integers"):
        evaluate(labels * 1.0, labels)


def test_clusters_and_their_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 10))
    rows = np.eye(3)[labels] + 0.01 * rng.normal(size=(4, 10, 3))
    found = segments.partitions(rows.reshape(-1, 3), 3, 4, 0).reshape(4, 4, 10)
    assert (found == segments.partitions(rows.reshape(-1, 3), 3, 4, 0).reshape(4, 4, 10)).all()
    weights = variance.resamples(4, 7, 0)
    scores = partition_scores(found, labels, weights)
    assert all(value == pytest.approx(np.ones(8)) for value in scores.values())
    assert segments.partitions(np.zeros((5, 2)), 3, 4, 0).tolist() == [[0] * 5]
    shuffled = rng.permuted(found.reshape(4, -1), axis=1).reshape(4, 4, 10)
    many = partition_scores(shuffled, labels, weights)
    drawn = np.repeat(np.arange(4), weights[6].astype(int))
    by_start = [evaluate(one[:, None], labels[:, None]) for one in shuffled]
    second = evaluate(shuffled[1][drawn][:, None], labels[drawn][:, None])  # resamples take turns with the starts
    for name in many:
        assert many[name][0] == pytest.approx(np.mean([float(one[name]) for one in by_start]))
        assert many[name][6] == pytest.approx(float(second[name]))


def test_centres_are_found_from_some_rows_and_all_rows_take_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 500)
    rows = np.eye(3)[truth] + 0.01 * rng.normal(size=(500, 3))
    monkeypatch.setattr(segments, "MOST_FITTED", 50)
    for found in segments.partitions(rows, 3, 2, 0):
        assert adjusted_rand_score(truth, found) == 1


def test_what_a_resample_lacks_is_not_scored_by_its_noise() -> None:
    """An eigenvector of one image: of a resample without it nothing is left but the solver's noise."""
    grid = (4, 4)
    values = 1e-8 * np.tile(np.linspace(-1, 1, 16), (6, 1))[..., None]
    values[-1] += 1
    labels = np.tile(np.arange(16) // 8, (6, 1))
    weights = np.array([[1.0] * 6, [2.0, 2, 1, 1, 0, 0], [0.0, 0, 0, 0, 0, 6]])
    for found in (
        variance.variance_shares(values, None, grid, weights),
        variance.variance_shares(values, labels, grid, weights),
    ):
        for name in found.keys() & {"where", "what", "where_plain", "what_plain", "r2_position"}:
            assert found[name] == pytest.approx(0.0, abs=1e-9), name
        assert found["image_share"][0] > 0.99


def test_no_resample_is_of_one_image_alone() -> None:
    drawn = variance.resamples(3, 300, 0)
    assert ((drawn > 0).sum(1) > 1).all()
    assert len(drawn) < 301
    assert len(variance.resamples(2, 300, 0)) == 1


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Image, category, position and noise of equal variance: every share is a quarter."""
    held = {"where": 0, "what": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        place = rng.normal(size=(1, 36))
        place = (place - place.mean()) / place.std()
        labels = rng.integers(0, 4, (30, 36))
        values = rng.normal(size=(30, 1)) + place + np.array([-1.0, 1, -1, 1])[labels] + rng.normal(size=(30, 36))
        found = variance.variance_shares(values[..., None], labels, (6, 6), variance.resamples(30, 100, seed))
        for name in held:
            low, high = paths.interval(found[name], 0.95, 0.0, 1.0)
            held[name] += low <= 0.25 <= high
    assert min(held.values()) >= 48
