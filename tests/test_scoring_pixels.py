"""The papers' evaluations at the pixels: oracle regions, pairings, over-clustering, against loops and permutations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit.errors import ActivationsError, SpectralToolkitError

Sizes = list[tuple[int, int]]


def slow_pixels(segments: np.ndarray, labels: list[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """Image, segment and label of every labelled pixel: the patch in which the pixel's centre lies."""
    rows, columns = segments.shape[1:]
    for image, one in enumerate(labels):
        height, width = one.shape
        for y in range(height):
            for x in range(width):
                if one[y, x] >= 0:
                    patch = int((y + 0.5) / height * rows), int((x + 0.5) / width * columns)
                    yield image, int(segments[(image, *patch)]), int(one[y, x])


def slow_miou(pairs: list[tuple[int, int]]) -> tuple[float, float]:
    """Mean IoU and accuracy of pairs of a prediction and a label, by counting."""
    ious = []
    for category in {true for _, true in pairs}:
        both = sum(guess == true == category for guess, true in pairs)
        either = sum(category in (guess, true) for guess, true in pairs)
        ious.append(both / either)
    return float(np.mean(ious)), sum(guess == true for guess, true in pairs) / len(pairs)


def most_frequent(labels: list[int]) -> int:
    return min(set(labels), key=lambda one: (-labels.count(one), one))


@settings(max_examples=15, deadline=None)
@given(some.integers(0, 10**6), some.integers(1, 3), some.integers(1, 3))
def test_evaluations_at_the_pixels_are_brute_force(seed: int, n_segments: int, n_labels: int) -> None:
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, n_segments, (2, 2, 3))
    labels = [rng.integers(-1, n_labels, (int(rng.integers(2, 6)), int(rng.integers(3, 7)))) for _ in range(2)]
    labels[0][0, 0] = 0
    scores = st.evaluate(segments, labels)
    seen = list(slow_pixels(segments, labels))
    oracle = {
        key: most_frequent([true for image, segment, true in seen if (image, segment) == key])
        for key in {(image, segment) for image, segment, _ in seen}
    }
    miou, accuracy = slow_miou([(oracle[image, segment], true) for image, segment, true in seen])
    assert float(scores.oracle_miou) == pytest.approx(miou)
    assert float(scores.oracle_accuracy) == pytest.approx(accuracy)
    over = {
        key: most_frequent([true for _, segment, true in seen if segment == key]) for key in {s for _, s, _ in seen}
    }
    miou, accuracy = slow_miou([(over[segment], true) for _, segment, true in seen])
    assert float(scores.overclustered_miou) == pytest.approx(miou)
    assert float(scores.overclustered_accuracy) == pytest.approx(accuracy)
    # One to one: every way to give categories to segments, some of which get none.
    names = [*range(n_labels), *(-2 - spare for spare in range(n_segments))]
    tried = [
        slow_miou([(one[segment], true) for _, segment, true in seen])
        for one in itertools.permutations(names, n_segments)
    ]
    best = max(accuracy for _, accuracy in tried)
    assert float(scores.matched_accuracy) == pytest.approx(best)
    assert any(
        float(scores.assigned_miou) == pytest.approx(miou)
        for miou, accuracy in tried
        if accuracy == pytest.approx(best)
    )
    assert float(scores.matched_miou) == pytest.approx(max(miou for miou, _ in tried))
    assert scores.attrs["n_cells"] == len(seen)


def test_patches_and_pixels_agree_where_pixels_are_patches() -> None:
    rng = np.random.default_rng(0)
    segments, labels = rng.integers(0, 5, (3, 4, 6)), rng.integers(-1, 3, (3, 4, 6))
    at_patches = st.evaluate(segments, labels)
    at_pixels = st.evaluate(segments, list(labels.repeat(2, axis=1).repeat(3, axis=2)))
    assert (at_patches.attrs["resolution"], at_pixels.attrs["resolution"]) == ("patches", "pixels")
    assert at_pixels.attrs["n_cells"] == 6 * at_patches.attrs["n_cells"]
    for name in ("matched_accuracy", "assigned_miou", "oracle_miou", "overclustered_accuracy", "matched_miou"):
        assert float(at_pixels[name]) == pytest.approx(float(at_patches[name])), name


def test_images_without_any_label_count_nothing() -> None:
    nothing, something = np.full((4, 4), -1), np.zeros((2, 6), int)
    for labels in ([nothing, something], [something, nothing]):
        scores = st.evaluate(np.zeros((2, 2, 2), int), labels)
        assert scores.attrs["n_cells"] == 12
        assert float(scores.oracle_miou) == 1
    with pytest.raises(SpectralToolkitError, match="All labels are ignored"):
        st.evaluate(np.zeros((2, 2, 2), int), [nothing, nothing])


class OneAtATime:
    """Label maps that exist only while they are looked at."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(self.n):
            yield np.full((40, 40), index % 3)


def test_thousands_of_maps_are_streamed() -> None:
    n = 2000
    scores = st.evaluate(np.arange(n)[:, None, None] % 3, OneAtATime(n))
    assert float(scores.matched_accuracy) == float(scores.oracle_miou) == 1
    assert scores.attrs["n_cells"] == n * 1600


def test_the_box_and_the_size_of_the_image_count() -> None:
    coords = {
        "image": ["a"],
        "original_height": ("image", [4]),
        "original_width": ("image", [8]),
        **{f"box_{side}": ("image", [edge]) for side, edge in (("top", 0), ("left", 2), ("bottom", 4), ("right", 6))},
    }
    segments = xr.DataArray([[[0, 1]]], coords, ("image", "y", "x"))
    label = np.zeros((4, 8), int)
    label[:, 4:] = 1
    label[:, [0, 1, 6, 7]] = 2  # outside the box
    scores = st.evaluate(segments, [label])
    assert float(scores.oracle_accuracy) == 1
    assert scores.attrs["n_cells"] == 16
    with pytest.raises(SpectralToolkitError, match="image 'a' has 4x4 pixels, but its image has 4x8"):
        st.evaluate(segments, [label[:, :4]])
    with pytest.raises(SpectralToolkitError, match="2 label maps were given for 1 images: give one per image"):
        st.evaluate(segments, [label, label])
    with pytest.raises(SpectralToolkitError, match="labels are a int; expected an array"):
        st.evaluate(segments, 3)
    with pytest.raises(SpectralToolkitError, match="has shape .* expected integers"):
        st.evaluate(segments, [label * 1.0])
    segments.coords["box_right"].values[0] = 9
    with pytest.raises(ActivationsError, match=r"box of image 'a' is \(0, 2, 4, 9\), outside its 4x8 pixels"):
        st.evaluate(segments, [label])


def test_captured_segments_are_scored_at_the_pixels_of_their_labels() -> None:
    scenes = st.scenes.sample(2, seed=0)
    acts = st.capture("scenes", scenes.pixels, layers=[3], quantities=("value",), progress=False)
    segments = st.segment(st.solve(st.affinity(acts, "vv", device="cpu"), 4), 4)
    scores = st.evaluate(segments, scenes.label)
    kept = int((scenes.label.values >= 0).sum())
    assert scores.attrs["resolution"] == "pixels"
    assert scores.attrs["n_cells"] == kept
    assert float(scores.oracle_accuracy) >= float(scores.overclustered_accuracy)
