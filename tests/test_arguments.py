"""One module checks arguments: what fits comes back as plain Python, and the rest is one sentence that names it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import spectral_toolkit as st
from spectral_toolkit._compute import arguments as check
from spectral_toolkit.errors import AffinityError, SpectralToolkitError


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), Fraction(3)])
def test_whole_numbers_of_every_type(value: Any) -> None:
    found = check.whole("n", value, 1, 3)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "value",
    [0, 4, 2.5, True, None, "3", math.nan, math.inf, -(10**400), pytest.param(10**5000, id="long"), [1], 1j],
)
def test_what_is_no_whole_number_within_bounds(value: Any) -> None:
    with pytest.raises(AffinityError, match=r"^n=.* is out of range: expected a whole number from 1 to 3\.$") as raised:
        check.whole("n", value, 1, 3, error=AffinityError)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), Fraction(1, 2)])
def test_numbers_of_every_type(value: Any) -> None:
    assert type(check.number("x", value, least=0, most=1)) is float


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (1.5, {"least": 0, "most": 1}, "a number from 0 to 1"),
        (1, {"above": 0, "below": 1}, "a number above 0 and below 1"),
        (0, {"above": 0}, "a number above 0"),
        (-1, {"least": 0}, "a number of at least 0"),
        (math.inf, {"above": 0}, "a finite number above 0"),
        (10**400, {"least": 0}, "a finite number of at least 0"),
        (math.nan, {"finite": False}, "a number"),
        (True, {}, "a number"),
        ("1", {}, "a number"),
        (1.5, {"fits": lambda x: x == int(x), "expected": "a whole one"}, "a whole one"),
    ],
)
def test_numbers_beyond_their_bounds(value: Any, bounds: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpectralToolkitError, match=rf"^x=.* is out of range: expected {expected}\.$"):
        check.number("x", value, **bounds)


def test_infinity_where_it_is_meant() -> None:
    assert check.number("max_bytes", math.inf, least=0, finite=False) == math.inf


@pytest.mark.parametrize("value", ["c", ["a"], None, np.array(["a", "b"]), "x" * 1000])
def test_choices_flags_grids_and_types(value: Any) -> None:
    for refused in (
        lambda: check.choice("name", value, ("a", "b")),
        lambda: check.flag("name", value),
        lambda: check.grid("name", value),
        lambda: check.instance("name", value, dict, "a mapping"),
    ):
        with pytest.raises(SpectralToolkitError, match=r"^name") as raised:
            refused()
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 200


def test_numbers_too_large_for_a_float_are_refused_as_any_other() -> None:
    """They once ended in an OverflowError, or could not be written into the message."""
    activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, layers=[0], progress=False)
    graph = st.affinity(activations, "vv", device="cpu")
    for call in (
        lambda: st.solve(graph, 10**400),
        lambda: st.solve(graph, 1, seed=10**5000),
        lambda: st.solve(graph, 1, tolerance=10**400),
        lambda: st.affinity(activations, "vv", steps=10**5000),
        lambda: st.affinity(activations, "vv", kernel=["cosine"]),  # type: ignore[arg-type]
        lambda: st.scenes.sample(10**5000, seed=0),
    ):
        with pytest.raises(SpectralToolkitError, match="is out of range|is neither a name|is not offered"):
            call()
