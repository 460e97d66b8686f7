"""The explorer with all images as one problem: the same numbers as by hand, and what is common to the images."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
from explorer_fixtures import GRID, KeepingComm, capture_of, seen, tap
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._affinity import dataset_graph
from spectral_toolkit._explorer.start import freezing_settings
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit.errors import SpectralToolkitError

WEIGHTS = {"block.0": 1.0, "block.1": 0.5}


def test_it_shows_what_solve_gives(explorer: Explorer) -> None:
    explorer.set(scope="dataset", affinity="vv", weights=WEIGHTS, compare=False, component=2, opacity=1.0)
    graph = st.affinity(explorer.activations, "vv", scope="dataset", weights={"block.2": 0, "block.3": 0} | WEIGHTS)
    truth = st.solve(graph, explorer.state.n_eigenvectors)
    found = explorer.eigenvectors
    assert dict(found.sizes) == dict(truth.sizes)
    assert found.attrs["scope"] == "dataset"
    np.testing.assert_allclose(found.eigenvalue, truth.eigenvalue, atol=1e-6)
    for image in range(3):
        explorer.set(image=image)
        drawn = explorer._pictures.figures[0]._colours.data["value"][0]
        np.testing.assert_allclose(drawn, truth.eigenvector[image].sel(component=2), atol=1e-5)
    assert found.identical(explorer.eigenvectors), "another image is no other result"


def test_images_share_their_colours_and_segments(explorer: Explorer) -> None:
    explorer.set(scope="dataset", kernel="shifted_cosine", compare=False, n_segments=3)
    ends, colours, values = set(), [], []
    for image in range(3):
        explorer.set(image=image)
        ends.add(explorer._scales.value)
        (tile,) = explorer._pictures.figures[0].tiles
        colours.append(tile.colours.reshape(-1, 4))
        values.append(tile.values.ravel())
    assert len(ends) == 1
    order = np.argsort(np.concatenate(values))
    gold_less_blue = np.concatenate(colours)[order].astype(int) @ [1, 0, -1, 0]
    assert (np.diff(gold_less_blue) >= 0).all(), "one value has one colour, whatever its image"
    explorer.set(view="segments")
    truth = st.segment(explorer.eigenvectors, 3)
    with mock.patch("spectral_toolkit._explorer.views.segment", side_effect=AssertionError("grouped again")):
        for image in range(3):
            explorer.set(image=image)
            (tile,) = explorer._pictures.figures[0].tiles
            np.testing.assert_array_equal(tile.values, truth.values[image])


@pytest.mark.parametrize("kernel", [None, "shifted_cosine"])
def test_a_patch_is_tied_to_every_image_the_strongest_first(explorer: Explorer, kernel: str | None) -> None:
    weights = {"block.0": 1.0, "block.1": 1.0}
    explorer.set(scope="dataset", affinity="vv", kernel=kernel, weights=weights, image=1, patch=(2, 3), compare=False)
    graph = st.affinity(explorer.activations, "vv", scope="dataset", kernel=kernel, layers=list(weights), device="cpu")
    whole = sum(matrix / matrix.sum() for matrix in graph.to_dense().values())
    cells = GRID[0] * GRID[1]
    own = cells + 2 * GRID[1] + 3
    row = np.asarray(whole)[own].copy()
    row[own] = -1
    row = row.reshape(3, *GRID)
    assert explorer._answer is not None
    connected = explorer._answer.sides[0].connected
    best = row.reshape(3, -1).max(axis=1)
    assert [found.image for found in connected] == np.argsort(-best).tolist()
    np.testing.assert_allclose([found.strength for found in connected], np.sort(best)[::-1] / best.max(), atol=1e-5)
    for found in connected:
        assert row[(found.image, *found.patch)] == pytest.approx(best[found.image])
    assert explorer._connected is not None
    assert explorer._connected.widget.layout.display is None
    assert "3 images" in explorer._connected_head.value
    last = connected[-1]
    tap(explorer._connected.figures[0], 2, *last.tile.framed[0])
    assert (explorer.state.image, explorer.state.patch) == (last.image, last.patch)
    explorer.set(scope="image")
    assert explorer._connected.widget.layout.display == "none"
    assert explorer._connected_head.value == ""


def test_neighbours_are_searched_for_once(comms: type[KeepingComm]) -> None:
    with mock.patch.object(dataset_graph, "nearest", wraps=dataset_graph.nearest) as search:
        explorer = Explorer(capture_of(layers=2), scope="dataset", device="cpu", state=State(compare=False))
        searched = search.call_count
        assert searched > 0
        for change in ({"weights": {"block.1": 0.5}}, {"image": 2}, {"patch": (1, 1)}, {"view": "segments"}):
            explorer.set(**change)
        for image in range(3):  # images that are solved alone do not drive it out
            explorer.set(scope="image", image=image)
            for kind in ("vv", "kk", "qk"):
                explorer.set(affinity=kind)
        explorer.set(scope="dataset", weights={"block.0": 1.0, "block.1": 0.25})
        assert search.call_count == searched
        explorer.close()


def test_what_a_dataset_does_not_offer_is_left_or_refused(explorer: Explorer) -> None:
    explorer.set(mask_outliers=True, kernel="rbf", other_kernel="cosine")
    explorer._controls.scope.value = "dataset"
    state = explorer.state
    assert (state.scope, state.mask_outliers, state.kernel, state.other_kernel) == ("dataset", False, None, None)
    assert explorer._controls.mask_outliers.disabled
    assert [name for _, name in explorer._controls.kernel.options] == ["shifted_cosine", "knn"]
    explorer.set(threshold=0.1)
    assert "all images as one: the cut value is not computed" in explorer._controls.cut_cost.value
    for change, message in (
        ({"mask_outliers": True}, "mask_outliers=True is not offered with scope='dataset'"),
        ({"kernel": "rbf"}, "'rbf'"),
    ):
        with pytest.raises(SpectralToolkitError, match=message):
            explorer.set(**change)
    assert freezing_settings(explorer.state, explorer._session).get("scope") == "dataset"
    with pytest.raises(SpectralToolkitError, match="scope='all' is not offered"):
        explorer.set(scope="all")


@pytest.mark.parametrize("view", ["component", "grid", "rgb", "segments", "instances", "norms", "spectrum", "layers"])
def test_every_view_is_drawn(view: str, explorer: Explorer) -> None:
    explorer.set(scope="dataset", kernel="shifted_cosine", other_kernel="shifted_cosine", view=view, patch=(1, 1))
    assert explorer._message.value == ""
    before = seen(explorer)
    explorer.set(image=1)
    assert explorer._message.value == ""
    if view not in ("spectrum", "layers"):
        assert seen(explorer) != before
    drawn: Any = explorer._drawn()
    assert isinstance(drawn, Image.Image)


def test_a_state_comes_from_json_too(comms: type[KeepingComm]) -> None:
    first = Explorer(capture_of(), device="cpu", state={"affinity": "vv", "scope": "dataset", "patch": [1, 2]})
    text = json.dumps(first.state.to_dict())
    other = Explorer(capture_of(), device="cpu", state=json.loads(text))
    assert other.state == first.state
    assert first.state.patch == (1, 2)
    with pytest.raises(SpectralToolkitError, match=r"The state is a str: give a State.*or its fields in a dictionary"):
        Explorer(capture_of(), state=text)  # pyright: ignore[reportArgumentType]
    for one in (first, other):
        one.close()
