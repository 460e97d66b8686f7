"""What charts say can be read: words lie over no mark, bars say whose they are, and segments of two share colours."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import capture_of

import spectral_toolkit as st
from spectral_toolkit._analysis.regions.label_maps import matched
from spectral_toolkit._render.marks import spectrum
from spectral_toolkit._views.charts import INKS, eigenvalue_columns, layer_columns

TREE = capture_of(images=2, layers=3)


@pytest.fixture
def explorer():
    made = st.Explorer(TREE, synchronous=True)
    yield made
    made.close()


def eig_of(values: list[float]) -> xr.Dataset:
    gaps = [*np.diff(values), 0.01]
    n = len(values)
    layers = {"layer_share": (("component", "layer"), np.array(values)[:, None] * [[0.4, 0.6]])}
    return xr.Dataset(
        {"eigenvalue": ("component", values), "eigengap": ("component", gaps), **layers}
        | {
            "layer_mass": (("component", "layer"), np.full((n, 2), 0.5)),
            "degenerate_group": ("component", [1, 2, 2, 3]),
        },
        {"component": np.arange(1, n + 1), "layer": ["a", "b"]},
    )


@pytest.mark.parametrize("values", [[0.1, 0.6, 0.6, 0.61], [0.9, 0.95, 0.96, 0.97], [0.0, 0.0, 0.0, 1.2]])
def test_words_of_charts_lie_over_nothing(values: list[float]) -> None:
    results = {"QK": eig_of(values), "VV": eig_of(values)}
    drawn: Any = eigenvalue_columns(results, 1)
    points, stems, words, (_, (_, top)) = drawn
    highest = max([*points["y"], *stems["y1"]])
    assert all(a - b > 0.07 * top for a, b in pairwise(words["y"])), "one line below the other"
    assert min(words["y"]) - 0.06 * top > highest - 0.03 * top
    assert max(words["y"]) <= top
    assert words["ink"] == INKS[:2]
    assert [one.split(":")[0] for one in words["text"]] == ["QK", "VV"]
    drawn = layer_columns(results, 4, ["a", "b"])
    bars, joint, words, (_, (_, top)) = drawn
    assert min(words["y"]) - 0.06 * top > max([*bars["top"], *joint["y1"]]) - 0.03 * top
    assert words["ink"] == INKS[:2]
    assert words["text"][0].startswith("QK: bars")


def test_the_bracket_of_equal_eigenvalues_lies_below_its_points() -> None:
    for values in ([0.1, 0.6, 0.6, 0.61], [0.0, 0.0, 0.0, 1.2]):
        chart = spectrum(eig_of(values), 0)
        ((_, _, y),) = chart.groups
        assert y > chart.points[1].y - 7
        assert 32 < y <= chart.bottom - 4, "never among the words on the widest gap"


def test_segments_of_two_settings_are_matched_in_colour(explorer) -> None:
    slow = np.array([[[0, 0, 0, 1], [2, 2, 1, 1], [3, 3, -1, 1]]])
    reference = np.array([[[5, 5, 2, 0], [1, 1, 0, 0], [1, 0, 1, 0]]])
    assert matched(slow, reference).tolist() == [5, 0, 1, 6]
    assert matched(np.array([[[0, 1]]]), np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]])).tolist() == [1, 0]
    explorer.set(view="segments", compare=True, other_affinity="qk", other_kernel="softmax", n_segments=4)
    first, second = explorer._pictures.figures
    assert np.array_equal(first.tiles[0].values, second.tiles[0].values)
    explorer.set(other_affinity="vv")
    mine, theirs = (figure.tiles[0] for figure in explorer._pictures.figures)
    names = matched(theirs.values[None].astype(int), mine.values[None].astype(int))
    for number, name in enumerate(names):
        if name < 4:
            (colour,) = np.unique(theirs.colours[theirs.values == number], axis=0)
            assert np.array_equal(colour, mine.colours[mine.values == name][0])


def test_the_number_of_segments_has_its_reason(explorer) -> None:
    explorer.set(view="segments", compare=False)
    assert "segments, the number with the largest mean silhouette" in explorer._heads.value
    explorer.set(n_segments="eigengap")
    before = int(np.nanargmax(explorer.eigenvectors.eigengap.values[0])) + 1
    assert f"as the widest eigengap comes after eigenvector {before}" in explorer._heads.value
    assert "'eigengap'" in explorer.code()


def test_instances_have_scores_and_a_threshold(explorer) -> None:
    explorer.set(view="instances", compare=False)
    whole = st.instances(explorer.eigenvectors)
    scores = whole.score.values[0][np.isfinite(whole.score.values[0])]
    assert f"{len(scores)} instance" in explorer._heads.value
    assert f"{scores[0]:.2f}" in explorer._heads.value
    least = float(np.floor(np.median(scores) * 100) / 100)
    explorer.set(options={"least_score": least})
    kept = st.instances(explorer.eigenvectors, min_score=least)
    assert f"{kept.sizes['instance']} instance" in explorer._heads.value
    assert f"min_score={least}" in explorer.code()
    values = explorer._pictures.figures[0].tiles[0].values
    assert np.array_equal(values >= 0, kept.values[0].any(0))


def test_no_heading_stands_over_nothing(explorer) -> None:
    shown = explorer._controls.appearance.layout
    explorer.set(view="spectrum")
    assert shown.display == "none"
    explorer.set(view="component")
    assert shown.display is None
