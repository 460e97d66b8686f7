"""Label maps in the explorer: outlined, named under the cursor, and the segments and eigenvectors scored by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import GRID, KeepingComm, capture_of

import spectral_toolkit as st
from spectral_toolkit._render.outline import boundary
from spectral_toolkit._views.widget import Explorer
from spectral_toolkit.errors import SpectralToolkitError

NAMES = ["sky", "ground", "<b>tree"]
DATASET = {"scope": "dataset", "affinity": "vv", "kernel": "shifted_cosine", "compare": False}


def maps() -> np.ndarray:
    """A map for every image, of image size: patches of three categories, one patch without any."""
    cells = np.random.default_rng(5).integers(0, 3, (3, *GRID))
    cells[0, 0, 0] = -1
    return cells.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture
def labelled(comms: type[KeepingComm]) -> Iterator[Explorer]:
    made = Explorer(capture_of(), labels=maps(), categories=NAMES, device="cpu", synchronous=True)
    yield made
    made.close()


def test_scores_of_segments_and_eigenvectors_are_those_of_the_functions(labelled: Explorer) -> None:
    labelled.set(**DATASET, view="segments", n_segments=3)
    labels = st.prepare_labels(labelled.activations, maps())
    eig = labelled.eigenvectors
    truth = st.evaluate(st.segment(eig, 3), labels)
    scores = {one.name: one for one in labelled._answer.sides[0].scores}  # pyright: ignore[reportOptionalMemberAccess]
    assert scores["matched mIoU"].value == pytest.approx(float(truth["matched_miou"]))
    assert scores["ARI"].value == pytest.approx(float(truth["ari"]))
    held = st.eigenvector_scores(eig, labels, n_bootstrap=200)
    for name in ("where", "what"):
        assert scores[name].value == pytest.approx(float(held[name]))
        low, high = scores[name].interval or (np.nan, np.nan)
        assert (low, high) == pytest.approx((float(held[f"{name}_low"]), float(held[f"{name}_high"])))
    assert f"{float(truth['matched_miou']):.2f}" in labelled._scales.value
    labelled.set(scope="image", image=2, affinity="vv")
    own = st.evaluate(st.segment(labelled.eigenvectors, 3), labels[2:])
    scores = {one.name: one for one in labelled._answer.sides[0].scores}  # pyright: ignore[reportOptionalMemberAccess]
    assert scores["ARI"].value == pytest.approx(float(own["ari"]))
    assert set(scores) == {"matched mIoU", "ARI"}, "one image says nothing about where and what"


def test_labels_are_outlined_and_named(labelled: Explorer) -> None:
    labels = st.prepare_labels(labelled.activations, maps()).values
    assert not len(labelled._pictures.figures[0].tiles[0].lines)
    labelled.set(outlined=True, image=1)
    tile = labelled._pictures.figures[0].tiles[0]
    across = (labels[1][:, 1:] != labels[1][:, :-1]).sum() + (labels[1][1:] != labels[1][:-1]).sum()
    lengths = np.abs(tile.lines[:, 2:] - tile.lines[:, :2]) * [GRID[1], GRID[0]]
    assert lengths.sum() == pytest.approx(across)
    figure: Any = labelled._pictures.figures[0]
    assert ("label", "@label{custom}") in figure.hover.tooltips
    assert figure.hover.formatters["@label"].args["categories"] == NAMES
    assert (figure._colours.data["label"][0] == labels[1]).all()
    labelled.set(view="labels")
    assert (labelled._pictures.figures[0].tiles[0].values == labels[1]).all()
    assert "&lt;b&gt;tree" in labelled._scales.value
    assert "<b>tree" not in labelled._scales.value
    labelled.set(weights={"block.3": 1.0})  # of half as many patches
    assert labelled._pictures.figures[0].tiles[0].values.shape == (GRID[0] // 2, GRID[1] // 2)
    labelled.set(view="cloud", coloured="label")
    assert "ground" in labelled._scales.value


def test_every_border_is_drawn_once() -> None:
    labels = np.array([[0, 1, 1], [0, 2, 2]])
    lines = boundary(labels) * [3, 2, 3, 2]
    assert sorted(map(tuple, lines.round(6).tolist())) == [(1, 0, 1, 2), (1, 1, 3, 1)]


def test_labels_come_from_scenes_with_their_names(comms: type[KeepingComm]) -> None:
    scenes = st.scenes.sample(2, seed=0)
    activations = st.capture("scenes", scenes.pixels, layers=[0], progress=False)
    for given in (scenes, scenes.label, st.prepare_labels(activations, scenes.label)):
        explorer = Explorer(activations, labels=given, device="cpu", synchronous=True)
        explorer.set(view="labels")
        assert (explorer._pictures.figures[0].tiles[0].values == st.prepare_labels(activations, scenes.label)[0]).all()
        if given is scenes:
            assert "sky" in explorer._scales.value
        explorer.close()


@pytest.mark.parametrize(
    ("labels", "categories", "message"),
    [
        (maps()[:2], None, "2 label maps were given for 3 images"),
        (maps().astype(float), None, "expected integers"),
        (xr.Dataset({"a": 1}), None, "labels are a Dataset without a variable 'label'"),
        (maps(), "sky", "categories='sky' are not names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    labels: Any, categories: Any, message: str, comms: type[KeepingComm]
) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        Explorer(capture_of(), labels=labels, categories=categories)
