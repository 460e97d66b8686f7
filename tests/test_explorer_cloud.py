"""All patches as a cloud: its points, choosing patches in the page and from Python, and what is nearest to a patch."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.events import SelectionGeometry, Tap
from explorer_fixtures import GRID, KeepingComm, capture_of

import spectral_toolkit as st
from spectral_toolkit._analysis.cloud import shown_patches
from spectral_toolkit._explorer import views
from spectral_toolkit._explorer.cloud import cloud_data, points
from spectral_toolkit._explorer.session import Session, questions
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit.errors import SpectralToolkitError

CLOUD = views.VIEWS["cloud"]
DATASET = {"scope": "dataset", "affinity": "vv", "kernel": "shifted_cosine", "compare": False, "view": "cloud"}


def lasso(figure: Any, **drawn: Any) -> None:
    geometry: Any = drawn
    figure._trigger_event(SelectionGeometry(figure, geometry=geometry, final=True))


def box_round(at: np.ndarray) -> dict[str, Any]:
    (left, low), (right, high) = at.min(axis=0) - 1e-6, at.max(axis=0) + 1e-6
    return {"type": "rect", "x0": left, "x1": right, "y0": high, "y1": low}


def rgb(inks: Any) -> np.ndarray:
    return np.array([list(bytes.fromhex(one[1:])) for one in inks], dtype=int)


def shown(explorer: Explorer) -> Any:
    return explorer._pictures.charts[CLOUD]


def test_points_are_the_eigenvectors_and_their_colours_mean_what_they_say(explorer: Explorer) -> None:
    explorer.set(**DATASET, axes=(3, 1))
    eig = explorer.eigenvectors
    values = eig["eigenvector"].transpose("image", "y", "x", "component")
    data = shown(explorer)._sources[0].data
    np.testing.assert_allclose(data["x"], values.sel(component=3).values.ravel(), atol=1e-6)
    np.testing.assert_allclose(data["y"], values.sel(component=1).values.ravel(), atol=1e-6)
    assert data["name"][GRID[0] * GRID[1]] == "picture-1"
    pixels: Any = explorer.activations["pixels"].values
    means: Any = pixels.reshape(3, GRID[0], 4, GRID[1], 4, 3).mean(axis=(2, 4))
    assert np.abs(rgb(data["ink"]) - means.reshape(-1, 3)).max() <= 1
    for coloured, per_image in (("image", True), ("position", False)):
        explorer.set(coloured=coloured)
        inks = rgb(shown(explorer)._sources[0].data["ink"]).reshape(3, -1, 3)
        varies = (inks != inks[:, :1]).any(axis=(1, 2)), (inks != inks[:1]).any()
        assert (not varies[0].any(), bool(varies[1])) == (per_image, per_image)
    explorer.set(coloured="segment", n_segments=3)
    inks = shown(explorer)._sources[0].data["ink"]
    segments = st.segment(eig, 3).values.ravel()
    assert len(set(zip(segments.tolist(), inks, strict=True))) == 3
    assert "segment 2" in explorer._scales.value


def test_a_sample_is_seeded_takes_as_many_of_every_image_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = shown_patches(7, 100, most=150, seed=3)
    counts = np.bincount(chosen // 100, minlength=7)
    assert len(chosen) == len(set(chosen.tolist())) == 150
    assert (counts.min(), counts.max()) == (21, 22)
    assert (chosen == shown_patches(7, 100, most=150, seed=3)).all()
    assert (chosen != shown_patches(7, 100, most=150, seed=4)).any()
    session = Session(capture_of(), "cpu")
    state = dataclasses.replace(State(**DATASET), coloured="position")
    (question,) = questions(state, session.facts)
    eig = session.solved_for_all(question)
    data = cloud_data(session._inputs(state, question, eig, eig), most=50)
    assert len(points(eig, data, (1, 2), "position").at) == 50
    side: Any = type("Side", (), {"data": data, "eig": eig})
    assert CLOUD.heading(state, side) == "eigenvectors 1 and 2 · 50 of 144 patches shown, as many of every image"
    view = st.cloud(None, eig, colour="position", most=50)
    assert len(view) == 50
    assert view.opts.get("plot", backend="bokeh").kwargs["title"].startswith("50 of 144 patches shown")


def test_a_box_and_a_lasso_choose_patches_and_python_has_them(explorer: Explorer) -> None:
    explorer.set(**DATASET)
    eig, cloud = explorer.eigenvectors, shown(explorer)
    values = eig["eigenvector"].transpose("image", "y", "x", "component").values[..., :2]
    wanted = [(0, 1, 2), (2, 3, 4)]
    around = np.array([values[one] for one in wanted])
    lasso(cloud.figures[0], **box_round(around))
    (left, low), (right, high) = around.min(axis=0), around.max(axis=0)
    inside = (values[..., 0] >= left - 1e-6) & (values[..., 0] <= right + 1e-6)
    inside &= (values[..., 1] >= low - 1e-6) & (values[..., 1] <= high + 1e-6)
    assert explorer.state.selection == tuple(map(tuple, np.argwhere(inside).tolist()))
    assert set(wanted) <= set(explorer.state.selection)
    table = explorer.selection
    assert list(table.columns)[:4] == ["image", "y", "x", "eigenvector_1"]
    assert list(table.columns)[-3:] == ["segment", "row", "column"]
    assert len(table) == inside.sum()
    at = [values[i, r, c, 0] for i, r, c in explorer.state.selection]
    np.testing.assert_allclose(table["eigenvector_1"], at)
    assert table["image"].tolist() == [f"picture-{i}" for i, _, _ in explorer.state.selection]
    segments = st.segment(eig, "auto").values
    assert table["segment"].tolist() == [segments[one] for one in explorer.state.selection]
    source = cloud._sources[0]
    assert sorted(source.selected.indices) == np.flatnonzero(inside.ravel()).tolist()
    x, y = values[1, 2, 2]
    left, right, low, high = x - 1e-6, x + 1e-6, y - 1e-6, y + 1e-6
    lasso(cloud.figures[0], type="poly", x=[left, right, right, left], y=[low, low, high, high])
    caught = (np.abs(values[..., 0] - x) <= 1e-6) & (np.abs(values[..., 1] - y) <= 1e-6)
    assert explorer.state.selection == tuple(map(tuple, np.argwhere(caught).tolist()))
    assert (1, 2, 2) in explorer.state.selection
    explorer.undo()
    assert len(explorer.selection) == inside.sum()
    again = State.from_dict(json.loads(json.dumps(explorer.state.to_dict())))
    assert again == explorer.state
    figure = cloud.figures[0]
    figure._trigger_event(Tap(figure, x=float(x), y=float(y)))
    nearest = explorer.state.image, *(explorer.state.patch or ())
    np.testing.assert_allclose(values[nearest], [x, y], atol=0.03 * np.ptp(values))


def test_chosen_patches_are_lit_and_the_rest_is_dimmed(explorer: Explorer) -> None:
    explorer.set(**{**DATASET, "view": "component"}, opacity=1.0)
    before = explorer._pictures.figures[0].tiles[0].colours
    explorer.set(selection=[(0, 2, 3), (1, 0, 0), (1, 0, 1)])
    (tile,) = explorer._pictures.figures[0].tiles
    assert (tile.colours[2, 3] == before[2, 3]).all()
    away = np.ones(GRID, dtype=bool)
    away[2, 3] = False
    assert (tile.colours[away][:, :3] <= before[away][:, :3] * 0.25 + 1).all()
    assert explorer._chosen_figures is not None
    lit = explorer._chosen_figures.figure.tiles
    assert [one.caption for one in lit] == ["picture-1  2", "picture-0  1"]
    assert np.flatnonzero(lit[0].values.ravel()).tolist() == [0, 1]
    assert "3 patches chosen in 2 images" in explorer._chosen_head.value
    explorer.set(image=2)  # nothing of it is chosen, so nothing is dimmed
    assert explorer._pictures.figures[0].tiles[0].colours[..., :3].max() > 200
    explorer.set(weights={"block.3": 1.0})  # a grid of half as many rows and columns
    assert explorer.state.selection == ((0, 1, 1), (1, 0, 0))


def test_the_cloud_follows_a_segment_and_the_nearest_patches(explorer: Explorer) -> None:
    explorer.set(**DATASET, coloured="segment", n_segments=3)
    segments = st.segment(explorer.eigenvectors, 3)
    explorer._of_segment.value = 2
    assert explorer.state.selection == tuple(map(tuple, np.argwhere(segments.values == 2).tolist()))
    assert set(explorer.selection["segment"]) == {2}
    explorer.selection = segments == 1
    assert set(explorer.selection["segment"]) == {1}
    explorer.set(image=1, patch=(2, 3))
    table: Any = st.nearest(explorer._session.graph(questions(explorer.state, explorer._session.facts)[0]), (2, 3), 1)
    explorer._choose(explorer._nearest_patches())
    chosen = explorer.selection
    assert len(chosen) == 11
    joint = table[table["layer"] == "all layers"]
    names = ["image", "row", "column"]
    assert set(map(tuple, joint[names].values)) <= set(map(tuple, chosen[names].values))
    explorer._to_none.click()
    assert explorer.selection.empty


def test_nearest_are_the_strongest_of_every_layer(explorer: Explorer) -> None:
    for scope in ("image", "dataset"):
        graph = st.affinity(explorer.activations, "vv", scope=scope, kernel="shifted_cosine", device="cpu")
        table: Any = st.nearest(graph, (1, 2), 1, n=5)
        joint, layers = st.affinity_row(graph, (1, 2), 1)
        assert table["layer"].unique().tolist() == ["all layers", *layers]
        for name, row in {"all layers": joint, **layers}.items():
            own = table[table["layer"] == name]
            values = np.array(row.values)
            values = values if values.ndim == 3 else values[None]
            at = (0, 1) if row.shape[-2:] != GRID else (1, 2)
            values[(1 if scope == "dataset" else 0, *at)] = -1
            np.testing.assert_allclose(own["affinity"], np.sort(values.ravel())[::-1][:5], rtol=1e-6)
            assert own["rank"].tolist() == [1, 2, 3, 4, 5]
            assert float(own["relative"].iloc[0]) == 1.0
    with pytest.raises(SpectralToolkitError, match=r"n=0 is out of range"):
        st.nearest(graph, (1, 2), n=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "The selection is a int: give a DataFrame"),
        (pd.DataFrame({"image": [0], "y": [0.5]}), "The selection has no column 'x'"),
        (pd.DataFrame({"image": [9], "y": [0.5], "x": [0.5]}), "The selection names the image 9, which is not among"),
        (pd.DataFrame({"image": [0], "y": [3.0], "x": [0.5]}), "The selection has y=3: expected a fraction"),
        (pd.DataFrame({"image": [0], "y": ["a"], "x": [0.5]}), "The column 'y' of the selection holds something else"),
        (xr.DataArray(np.zeros((3, *GRID)), dims=("image", "y", "x")), "The selection is an array of float64"),
        (xr.DataArray(np.zeros((3, 2, 2), bool), dims=("image", "y", "x")), "The selection has a grid of 2x2 patches"),
        (xr.DataArray(np.zeros((2, *GRID), bool), dims=("image", "y", "x")), "The selection is of 2 images"),
        (xr.DataArray(np.zeros(3, bool), dims=("image",)), r"The selection has dimensions \('image',\)"),
        ([(0, 1)], "is not understood: give .image, row, column. of every patch"),
        ([(0, 99, 1)], r"The selection names the patch \(0, 99, 1\), which does not exist"),
    ],
)
def test_what_cannot_be_chosen_is_refused(given: Any, message: str, explorer: Explorer) -> None:
    explorer.set(selection=((0, 0, 0),))
    with pytest.raises(SpectralToolkitError, match=message):
        explorer.selection = given
    assert explorer.state.selection == ((0, 0, 0),)


def test_a_table_of_one_explorer_can_be_assigned_to_another(explorer: Explorer, comms: type[KeepingComm]) -> None:
    explorer.set(scope="dataset", kernel="shifted_cosine", other_kernel="shifted_cosine")
    explorer.selection = pd.DataFrame({"image": ["picture-2", 0], "y": [0.0, 1.0], "x": [0.999, 0.0]})
    assert explorer.state.selection == ((0, GRID[0] - 1, 0), (2, 0, GRID[1] - 1))
    other = Explorer(capture_of(), device="cpu", synchronous=True)
    other.selection = explorer.selection
    assert other.state.selection == explorer.state.selection
    table = other.selection  # one image is solved, so that numbers of the other are not known
    assert table["eigenvector_1"].isna().tolist() == [False, True]
    assert table["segment"].tolist()[1] == -1
    other.selection = None
    assert other.selection.empty
    other.close()


def test_t_sne_keeps_groups_together_and_is_the_same_again(explorer: Explorer) -> None:
    explorer.set(**DATASET, projection="tsne", coloured="position")
    data = shown(explorer)._shown[0][1]
    again = st.cloud(None, explorer.eigenvectors, projection="tsne", colour="position")
    np.testing.assert_allclose(again.dimension_values(0), data.embedded[:, 0], atol=1e-4)
    assert "distances between groups" in explorer._legend.value
    assert shown(explorer).figures[0].xaxis[0].axis_label == "t-SNE, first axis"


def test_settings_of_the_cloud_are_checked(explorer: Explorer) -> None:
    for change, message in (
        ({"axes": (1, 99)}, "axes=99 is out of range"),
        ({"axes": (1, 2, 3)}, "axes=.1, 2, 3. is not understood: give two components"),
        ({"projection": "umap"}, "projection='umap' is not offered"),
        ({"coloured": "taste"}, "coloured='taste' is not offered"),
        ({"coloured": "label"}, "coloured='label' needs labels"),
        ({"outlined": True}, "outlined=True needs labels"),
        ({"view": "labels"}, "view='labels' is not offered"),
    ):
        with pytest.raises(SpectralToolkitError, match=message):
            explorer.set(**change)
    explorer.set(n_eigenvectors=1)
    assert explorer.state.axes == (1, 1)


def test_two_settings_have_a_cloud_each_and_share_their_patches(explorer: Explorer) -> None:
    explorer.set(view="cloud", other_layers="late", coloured="position")
    cloud = shown(explorer)
    assert cloud.figures[1].visible
    at = cloud._shown[1][2].at
    lasso(cloud.figures[1], **box_round(at))
    assert len({one[0] for one in explorer.state.selection}) == 1
    assert explorer._drawn().width > 2 * 560
    assert explorer._heads.value.count("<h2") == 2
    assert "swatch" not in explorer._heads.value
