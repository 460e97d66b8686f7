"""Maps do what they promise: even steps, symmetric arms, signs that colour-blind eyes tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from spectral_toolkit._render import colour
from spectral_toolkit.errors import SpectralToolkitError

# Viénot, Brettel and Mollon 1999, on linear RGB.
PROTANOPIA = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
DEUTERANOPIA = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


def linear(table: np.ndarray) -> np.ndarray:
    fraction = table / 255
    return np.where(fraction <= 0.04045, fraction / 12.92, ((fraction + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65 of linear RGB, straight from the definition."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = rgb @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(np.maximum(t, 0)), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def test_diverging_arms_are_lightest_in_the_middle_and_fall_evenly() -> None:
    lightness = lab(linear(colour.DIVERGING))[:, 0]
    assert 100 < lightness.argmax() < 155
    left, right = np.diff(lightness[:110]), np.diff(lightness[146:])
    assert (left > -0.15).all()
    assert (right < 0.15).all()
    assert abs(lightness[0] - lightness[-1]) < 5


def test_sequential_lightness_rises_all_the_way() -> None:
    lightness = lab(linear(colour.SEQUENTIAL))[:, 0]
    assert (np.diff(lightness) > -0.3).all()
    assert lightness[-1] - lightness[0] > 80


@pytest.mark.parametrize("eyes", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["common", "protanopia", "deuteranopia"])
def test_signs_can_be_told_apart(eyes: np.ndarray) -> None:
    seen = lab(linear(colour.DIVERGING) @ eyes.T)
    for distance_from_zero in (40, 80, 127):
        minus, plus = seen[127 - distance_from_zero], seen[128 + distance_from_zero]
        assert np.linalg.norm(minus - plus) > 0.5 * distance_from_zero


def test_first_eight_labels_can_be_told_apart() -> None:
    for eyes in (np.eye(3), PROTANOPIA, DEUTERANOPIA):
        seen = lab(linear(colour.categorical(8)) @ eyes.T)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(8)
        assert distance.min() > 8


def test_categories_run_out() -> None:
    assert colour.categorical(0).shape == (0, 3)
    assert len(np.unique(colour.categorical(100), axis=0)) == 100
    with pytest.raises(SpectralToolkitError, match="n_colours=100000"):
        colour.categorical(100_000)


def test_tables_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        colour.DIVERGING[0] = 0


def test_css_gradient_runs_from_first_to_last_colour() -> None:
    first, *_, last = colour.hex_colours(colour.DIVERGING)
    assert colour.css_gradient(colour.DIVERGING).startswith(f"linear-gradient(to right, {first}, ")
    assert colour.css_gradient(colour.DIVERGING).endswith(f", {last})")
