"""Labels of cells: the picture's geometry, majority by exact area, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from transformers import ViTConfig, ViTModel
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._analysis.scores import prepare_labels


def tree_of(originals: list[tuple[int, int]], captured: tuple[int, int], grid: tuple[int, int]) -> xr.DataTree:
    """A tree as a capture makes it: pictures of these sizes, resized to ``captured``."""
    tree = make_tree([grid, (1, 1)], images=len(originals))
    heights, widths = np.array(originals).T
    zero = np.zeros(len(originals), int)
    columns = {"original_height": heights, "original_width": widths}
    columns |= {"box_top": zero, "box_left": zero.copy(), "box_bottom": heights, "box_right": widths}
    names = [f"image_{i}" for i in range(len(originals))]
    tree.dataset = xr.Dataset(
        {"pixels": (("image", "y_px", "x_px", "rgb"), np.zeros((len(originals), *captured, 3), np.uint8))},
        coords={"image": names, **{name: ("image", column) for name, column in columns.items()}},
    )
    return tree


def slow_majority(one: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Every pixel cut into rows x columns pieces, so that no cell cuts a piece; then counting."""
    fine = np.kron(one, np.ones((rows, columns), int))
    height, width = one.shape
    cells = np.zeros((rows, columns), int)
    for y in range(rows):
        for x in range(columns):
            piece = fine[y * height : (y + 1) * height, x * width : (x + 1) * width].ravel().tolist()
            order = sorted(set(piece), key=lambda label: (-piece.count(label), label == -1, label))
            cells[y, x] = order[0]
    return cells


@settings(max_examples=40)
@given(
    some.tuples(some.integers(1, 9), some.integers(1, 9)),
    some.tuples(some.integers(1, 5), some.integers(1, 5)),
    some.integers(0, 10**6),
)
def test_majority_is_that_of_counting(size: tuple[int, int], grid: tuple[int, int], seed: int) -> None:
    one = np.random.default_rng(seed).integers(-1, 3, size)
    found = prepare_labels(tree_of([size], (8, 8), (2, 2)), [one], grid=grid)
    assert (found.values[0] == slow_majority(one, *grid)).all()


def test_box_is_cut_out_and_sizes_may_differ() -> None:
    tree = tree_of([(4, 6), (8, 2)], (4, 4), (2, 2))
    tree.coords["box_left"].values[0] = 2
    first = np.array([[9, 9, 1, 1, 2, 2]] * 2 + [[9, 9, 3, 3, -1, -1]] * 2)
    second = np.repeat([[5, 6], [7, 8]], 4, axis=0)
    found = prepare_labels(tree, [first, second])
    assert found.dims == ("image", "y", "x")
    assert found.values.tolist() == [[[1, 2], [3, -1]], [[5, 6], [7, 8]]]
    # A map of the captured size is of the box already.
    captured = np.kron([[1, 2], [3, 4]], np.ones((2, 2), int))
    assert prepare_labels(tree, [captured, captured]).values[0].tolist() == [[1, 2], [3, 4]]


def test_prepared_labels_pass_through_and_coordinates_are_those_of_the_layers() -> None:
    tree = tree_of([(4, 4)], (4, 4), (2, 2))
    once = prepare_labels(tree, np.arange(16).reshape(1, 4, 4))
    assert prepare_labels(tree, once).identical(once)
    assert once.y.values.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="on a grid of 2x2 patches, but 1x1"):
        prepare_labels(tree, once, grid=(1, 1))


def test_a_capture_of_scenes_lines_up() -> None:
    scenes = st.scenes.sample(2, seed=3)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=48, patch_size=8
    )
    acts = st.capture(ViTModel(config), scenes.pixels, progress=False)
    found = prepare_labels(acts, scenes.label)
    block = scenes.label.values.reshape(2, 6, 16, 6, 16).transpose(0, 1, 3, 2, 4).reshape(2, 6, 6, 256)
    wanted = np.apply_along_axis(lambda cell: np.bincount(cell).argmax(), 3, block)
    assert (found.values == wanted).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((1, 4, 4), int), "1 label maps were given for 2 images"),
        ([np.zeros((4, 4), int), np.zeros((5, 4), int)], "'image_1' has 5x4 pixels, but its image has 4x4 or 8x8"),
        (np.zeros((2, 4, 4)), "type float64; expected integers"),
        (np.full((2, 4, 4), -2), "holds -2"),
        (3, "labels are a int"),
        (xr.DataArray(np.zeros((2, 4), int), dims=("image", "y")), "labels have dimensions"),
        (
            xr.DataArray(np.zeros((2, 4, 4), int), {"image": ["image_1", "image_0"]}, ("image", "y_px", "x_px")),
            "or the same in another order",
        ),
        (
            xr.DataArray(np.zeros((2, 4, 4), int), {"image": ["image_1", "image_2"]}, ("image", "y_px", "x_px")),
            "labels name other images than the capture",
        ),
    ],
)
def test_what_does_not_fit_is_refused(labels: object, message: str) -> None:
    with pytest.raises(st.errors.SpectralToolkitError, match=message):
        prepare_labels(tree_of([(4, 4), (4, 4)], (8, 8), (2, 2)), labels)


@pytest.mark.parametrize("grid", [(0, 2), 3, (1.5, 2)])
def test_bad_grids(grid: object) -> None:
    with pytest.raises(st.errors.SpectralToolkitError, match="two whole numbers"):
        prepare_labels(tree_of([(4, 4)], (4, 4), (2, 2)), np.zeros((1, 4, 4), int), grid=grid)  # pyright: ignore[reportArgumentType]
