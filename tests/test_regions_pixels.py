"""From cells to pixels: edges found, degenerate pictures and labels left alone, scored against the scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, eigenvectors, pictures
from hypothesis import given, settings
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit._analysis.regions import pixels
from spectral_toolkit._io.pairing import picture_order
from spectral_toolkit.errors import SpectralToolkitError


def cells(values: Any, **coords: Any) -> xr.DataArray:
    array = np.asarray(values)
    dims = ("image", "instance", "y", "x") if array.ndim == 4 else ("image", "y", "x")
    return xr.DataArray(array, dims=dims, coords=coords)


def painted(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """A picture (1, height, width, 3) with a colour for every label, and a little noise."""
    rng = np.random.default_rng(seed)
    colours = np.array([[40, 60, 200], [220, 200, 30], [30, 180, 60]])
    return (colours[truth] + rng.integers(-8, 9, (*truth.shape, 3))).astype(np.uint8)[None]


@pytest.fixture
def shifted() -> tuple[xr.DataArray, np.ndarray]:
    """Labels of 4 x 6 cells, and a truth of 32 x 48 pixels whose edges lie up to three pixels beside the cells'."""
    label = np.zeros((4, 6), dtype=int)
    label[:, 3:], label[2:, 3:] = 1, 2
    truth = np.zeros((32, 48), dtype=int)
    truth[:, 21:], truth[18:, 21:] = 1, 2
    return cells(label[None]), truth


def test_borders_move_to_the_edges_of_the_picture(shifted: tuple[xr.DataArray, np.ndarray]) -> None:
    segments, truth = shifted
    rough = st.refine(segments, painted(truth), margin=0)
    assert (rough.values[0] == np.kron(segments.values[0], np.ones((8, 8), dtype=int))).all()
    assert (rough.values[0] != truth).any()
    found = st.refine(segments, painted(truth))
    assert found.dims == ("image", "y_px", "x_px")
    assert found.dtype == segments.dtype
    assert (found.values[0] == truth).all()
    assert found.identical(st.refine(segments, painted(truth)))
    assert found.attrs["margin"] == 0.5


def test_masks_are_refined_one_by_one_and_empty_ones_stay_empty(shifted: tuple[xr.DataArray, np.ndarray]) -> None:
    segments, truth = shifted
    masks = np.stack([segments.values[0] == 0, segments.values[0] == 2, np.zeros((4, 6), bool), np.ones((4, 6), bool)])
    score = ("image", "instance"), [[0.4, 0.3, np.nan, 0.1]]
    found = st.refine(cells(masks[None], score=score), painted(truth))
    assert found.dims == ("image", "instance", "y_px", "x_px")
    assert found.dtype == bool
    assert (found.values[0] == [truth == 0, truth == 2, truth < 0, truth >= 0]).all()
    assert found.score.variable.equals(xr.Variable(*score))


def test_labels_of_any_number_are_kept(shifted: tuple[xr.DataArray, np.ndarray]) -> None:
    segments, truth = shifted
    names = np.array([7, -1, 40])
    found = st.refine(segments.copy(data=names[segments.values]), painted(truth))
    assert (found.values[0] == names[truth]).all()


def test_thin_segments_keep_their_middle() -> None:
    """One cell wide or one cell in all: the band covers it, and yet it must not vanish."""
    label = np.zeros((5, 5), dtype=int)
    label[:, 2], label[0, 0] = 1, 2
    truth = np.kron(label, np.ones((8, 8), dtype=int))
    found = st.refine(cells(label[None]), painted(truth), margin=3.0)
    assert set(np.unique(found.values)) == {0, 1, 2}
    assert (found.values[0] == truth).mean() > 0.97


@pytest.mark.parametrize(
    ("label", "picture", "note"),
    [
        (np.ones((1, 2, 2), int), painted(np.zeros((6, 6), int)), ""),
        (np.eye(2, dtype=int)[None], np.full((1, 6, 6, 3), 90, np.uint8), "Only enlarged"),
        (np.arange(16).reshape(1, 4, 4), painted(np.zeros((3, 9), int)), "Only enlarged"),
        (np.arange(4).reshape(1, 2, 2), painted(np.zeros((2, 2), int)), ""),
        (np.arange(1).reshape(1, 1, 1), painted(np.zeros((1, 1), int)), "Only enlarged"),
    ],
    ids=["one label", "one colour", "cells smaller than pixels", "cells of one pixel", "one cell, one pixel"],
)
def test_what_cannot_be_refined_is_enlarged(label: np.ndarray, picture: np.ndarray, note: str) -> None:
    found = st.refine(cells(label), picture)
    assert (found.values[0] == pixels.enlarge(label[0], picture.shape[1:3])).all()
    assert found.attrs["notes"].startswith(note)
    assert bool(note) == bool(found.attrs["notes"])


@settings(max_examples=25)
@given(some.integers(0, 2**32 - 1), *[some.integers(1, 4)] * 2, *[some.integers(1, 12)] * 2, some.floats(0, 2))
def test_any_sizes_have_an_answer(seed: int, rows: int, columns: int, height: int, width: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, 2, (1, rows, columns))
    found = st.refine(cells(label), rng.integers(0, 256, (1, height, width, 3)).astype(np.uint8), margin=margin)
    assert found.shape == (1, height, width)
    assert set(np.unique(found)) <= set(np.unique(label))


def slow_certain(codes: np.ndarray, grid: tuple[int, int], margin: float) -> np.ndarray:
    """Distances to every pixel of another segment, one by one; parts by their deepest pixel."""
    from spectral_toolkit._analysis.regions.adjacency import connected_parts

    sides = [n / p for n, p in zip(grid, codes.shape, strict=True)]
    depth = np.full(codes.shape, np.inf)
    for here in np.ndindex(codes.shape):
        for there in np.ndindex(codes.shape):
            if codes[here] != codes[there]:
                apart = np.hypot(sides[0] * (here[0] - there[0]), sides[1] * (here[1] - there[1]))
                depth[here] = min(depth[here], apart - min(sides) / 2)
    parts = connected_parts(codes)
    return np.array(
        [
            [d >= min(margin, 0.8 * depth[parts == p].max()) for d, p in zip(*row, strict=True)]
            for row in zip(depth, parts, strict=True)
        ]
    )


@settings(max_examples=25)
@given(some.integers(0, 2**32 - 1), some.integers(1, 7), some.integers(1, 7), some.floats(0, 2))
def test_depth_is_that_of_the_slow_twin(seed: int, height: int, width: int, margin: float) -> None:
    codes = np.random.default_rng(seed).integers(0, 3, (height, width))
    found = pixels.certain(codes, (2, 3), margin)
    assert (found == slow_certain(codes, (2, 3), margin)).all()


def test_pictures_are_found_by_name_and_cut_to_what_was_analysed() -> None:
    eig = eigenvectors(n_images=2)
    left_half = {"box_right": ("image", [40, 40])}
    segments = st.segment(eig, 2).assign_coords(left_half)
    whole = pictures(2)
    whole[1] = 255 - whole[1]
    named = xr.DataArray(whole, dims=("image", "y_px", "x_px", "rgb"), coords={"image": ["picture-0", "picture-1"]})
    found = st.refine(segments, named)
    assert found.shape == (2, 40, 40)
    assert found.identical(st.refine(segments, named[::-1]))
    by_hand = st.refine(segments.drop_vars("box_right"), whole[:, :, :40])
    assert (found.values == by_hand.values).all()
    # The pixels of a tree are what the model saw; no box is cut out of them.
    assert st.refine(segments, activations(2)).shape == (2, 40, 80)


def test_wrong_input_is_told_in_one_sentence() -> None:
    segments = cells(np.zeros((2, 2, 2), int))
    several = [np.zeros((6, 6, 3), np.uint8), np.zeros((6, 8, 3), np.uint8)]
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (segments, several, {}, "'image_1' has 6x8 pixels, but 'image_0' has 6x6"),
        (segments, several[:1], {}, "1 images were given .* for segments of 2 images"),
        (segments, np.stack(several[:1] * 2), {"margin": -1}, "margin=-1 is out of range"),
        (segments, np.stack(several[:1] * 2), {"beta": "big"}, "beta='big' is out of range"),
        (segments * 0.5, several, {}, "segments are a DataArray of float64 over image, y, x"),
        (segments.values, several, {}, "segments are a ndarray"),
        (segments[:0], several, {}, "no image"),
    ]
    for given_segments, images, options, message in cases:
        with pytest.raises(SpectralToolkitError, match=message):
            st.refine(given_segments, images, **options)


def test_names_win_over_places() -> None:
    assert picture_order(("b", "a", "c"), ["a", "b"], "segments") == [1, 0]
    assert picture_order(("image_0", "image_1"), ["x", "y"], "segments") == [0, 1]
    assert picture_order(("b", "a"), ["0", "1"], "segments") == [0, 1]
    for others in (("b", "c"), ("x", "y")):
        with pytest.raises(SpectralToolkitError, match=r"2 images were given .* images with the same names"):
            picture_order(others, ["a", "b"], "segments")
    assert picture_order(("image_0", "image_1", "image_2"), ["image_2", "image_0"], "segments") == [2, 0]
    assert picture_order(("image_0", "image_1"), ["image_1", "image_2"], "segments") == [0, 1], "a part of both"
    for wanted in (["image_1", "image_0"], ["1", "0"]):
        with pytest.raises(SpectralToolkitError, match="have no names of their own, only positions"):
            picture_order(("image_0", "image_1"), wanted, "segments")
    assert picture_order(("image_0", "image_1"), ["image_1", "image_0"], "segments", named=True) == [1, 0]
