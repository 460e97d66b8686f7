"""Fields become the pixels they should, each against a loop that says the same slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from spectral_toolkit._render import composite
from spectral_toolkit._render.colour import DIVERGING
from spectral_toolkit.errors import SpectralToolkitError


def slow_colours(field: np.ndarray, limit: float) -> np.ndarray:
    out = np.zeros((*field.shape, 3), np.uint8)
    for place in np.ndindex(field.shape):
        value = 0.0 if np.isnan(field[place]) else max(-limit, min(limit, field[place]))
        out[place] = DIVERGING[round((float(value) / limit + 1) / 2 * 255)]
    return out


def slow_enlarge(colours: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.zeros((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) / height, (column + 0.5) / width
            out[row, column] = colours[int(y * colours.shape[0]), int(x * colours.shape[1])]
    return out


def test_colours_agree_with_the_slow_way() -> None:
    field = np.random.default_rng(0).normal(size=(5, 7))
    field[0, 0], field[1, 1] = np.nan, np.inf
    assert (composite.colour_field(field, 1.5) == slow_colours(field, 1.5)).all()


@given(rows=some.integers(1, 6), columns=some.integers(1, 6), height=some.integers(6, 31), width=some.integers(6, 31))
def test_enlarging_agrees_with_the_slow_way(rows: int, columns: int, height: int, width: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    assert (composite.enlarge(colours, (height, width)) == slow_enlarge(colours, height, width)).all()


def test_zero_is_the_middle_whatever_the_range() -> None:
    field = np.array([[-0.1, 0.0, 5.0]])
    middle = composite.colour_field(field, composite.symmetric_limit(field))[0, 1]
    assert middle.tolist() == DIVERGING[128].tolist()


def test_limits() -> None:
    field = np.concatenate([np.linspace(-1, 1, 1000), [50.0, np.nan, np.inf]])
    assert composite.symmetric_limit(field) == 50
    assert composite.robust_limit(field) == pytest.approx(0.99, abs=0.01)
    assert composite.symmetric_limit(np.zeros(3)) == 1
    spike = np.zeros(1000)
    spike[0] = 3.0
    assert composite.robust_limit(spike) == 3


def test_blend_is_weighted_by_opacity() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (12, 18, 3), dtype=np.uint8)
    colours = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    expected = 0.75 * picture + 0.25 * slow_enlarge(colours, 12, 18).astype(float)
    assert np.abs(composite.blend(picture, colours, 0.25) - expected).max() <= 0.5
    assert (composite.blend(picture, colours, 0.0) == picture).all()
    per_cell = np.zeros((4, 6))
    per_cell[0, 0] = 1.0
    blended = composite.blend(picture, colours, per_cell)
    assert (blended[:3, :3] == colours[0, 0]).all()
    assert (blended[3:] == picture[3:]).all()


def test_smooth_fields_keep_a_ramp_straight_and_upright() -> None:
    ramp = np.linspace(0, 1, 8)[:, None] * np.ones((1, 4))
    fine = composite.resize_field(ramp, (80, 40))
    assert fine.shape == (80, 40)
    assert fine[0].max() < fine[-1].min()
    centres = (np.arange(80) + 0.5) / 80 * 8 - 0.5
    inside = (centres >= 0) & (centres <= 7)
    assert np.abs(fine[inside, 0] - centres[inside] / 7).max() < 1e-5


def test_shrink_keeps_the_shape_of_the_picture() -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    assert composite.shrink(picture, 60).shape == (20, 60, 3)
    assert composite.shrink(picture, 300) is picture


@pytest.mark.parametrize("opacity", [-0.1, 1.1, np.nan])
def test_opacity_out_of_range_is_refused(opacity: float) -> None:
    with pytest.raises(SpectralToolkitError, match=r"opacity=.* is out of range"):
        composite.check_opacity(opacity)


def test_limits_of_nothing_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(SpectralToolkitError, match="must be above 0"):
        composite.colour_field(np.zeros(3), 0.0)
    with pytest.raises(SpectralToolkitError, match="not three components"):
        composite.colour_three(np.zeros((2, 2, 4)), 1.0)
