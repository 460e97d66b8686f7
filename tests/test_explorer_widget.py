"""The explorer as a widget, with comms but without a page: controls, state and pictures move together."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from typing import Any

import holoviews as hv
import ipywidgets as widgets
import numpy as np
import pytest
from bokeh.events import DocumentReady, Tap
from explorer_fixtures import GRID, KeepingComm, capture_of, press, seen
from ipywidgets.widgets.widget import _instances

import spectral_toolkit as st
from spectral_toolkit._explorer.session import Session
from spectral_toolkit._explorer.start import freezing_settings
from spectral_toolkit._render.tile import Tile
from spectral_toolkit._views.elements import _FRAME, rgb_element
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit._views.widget.tiles import TileFigure, TilePlace, image_columns
from spectral_toolkit.errors import SpectralToolkitError


def spectrum(explorer: Explorer) -> Any:
    """The chart of eigenvalues, once it has been shown."""
    return explorer._pictures.charts[st.views.VIEWS["spectrum"]]


def tap(figure: TileFigure, tile: int, row: int, column: int) -> None:
    place = figure.places[tile]
    x = place.left + (column + 0.5) / place.grid[1] * place.width
    y = place.top + (row + 0.5) / place.grid[0] * place.height
    figure.figure._trigger_event(Tap(figure.figure, x=x, y=y))


CONTROLS = {
    "image": ({}, lambda e: setattr(e._controls.thumbs[1], "value", True), {"image": 1}),
    "affinity": ({}, lambda e: setattr(e._controls.affinity, "value", "kk"), {"affinity": "kk", "kernel": None}),
    "kernel": ({}, lambda e: setattr(e._controls.kernel, "value", "rbf"), {"kernel": "rbf"}),
    "weight": (
        {},
        lambda e: setattr(e._controls.weights["block.1"], "value", 0.25),
        {"weights": {"block.0": 1.0, "block.1": 0.25, "block.2": 1.0, "block.3": 1.0}},
    ),
    "layer off": (
        {},
        lambda e: setattr(e._controls.toggles["block.0"], "value", False),
        {"weights": {"block.1": 1.0, "block.2": 1.0, "block.3": 1.0}},
    ),
    "layer on": (
        {"weights": {"block.1": 1.0}},
        lambda e: setattr(e._controls.toggles["block.0"], "value", True),
        {"weights": {"block.0": 1.0, "block.1": 1.0}},
    ),
    "early": ({}, lambda e: press(e, "early"), {"weights": {"block.0": 1.0, "block.1": 1.0}}),
    "middle": ({}, lambda e: press(e, "middle"), {"weights": {"block.1": 1.0, "block.2": 1.0}}),
    "late": ({}, lambda e: press(e, "late"), {"weights": {"block.2": 1.0, "block.3": 1.0}}),
    "invert": (
        {"weights": {"block.0": 1.0, "block.1": 1.0}},
        lambda e: press(e, "invert"),
        {"weights": {"block.2": 1.0, "block.3": 1.0}},
    ),
    "all": (
        {"weights": {"block.0": 1.0}},
        lambda e: press(e, "all"),
        {"weights": dict.fromkeys(["block.0", "block.1", "block.2", "block.3"], 1.0)},
    ),
    "n_eigenvectors": (
        {"view": "grid"},
        lambda e: setattr(e._controls.n_eigenvectors, "value", 5),
        {"n_eigenvectors": 5},
    ),
    "component": ({}, lambda e: setattr(e._controls.component, "value", 4), {"component": 4}),
    "opacity": ({}, lambda e: setattr(e._controls.opacity, "value", 0.2), {"opacity": 0.2}),
    "smooth": ({}, lambda e: setattr(e._controls.smooth, "value", True), {"smooth": True}),
    "cut in two": ({}, lambda e: setattr(e._controls.is_cut, "value", True), {"threshold": 0.0}),
    "above": ({"threshold": 0.0}, lambda e: setattr(e._controls.threshold, "value", 0.5), {"threshold": 0.5}),
    "cut no more": ({"threshold": 0.3}, lambda e: setattr(e._controls.is_cut, "value", False), {"threshold": None}),
    "three": ({"view": "rgb"}, lambda e: setattr(e._controls.three[0], "value", 4), {"three": (4, 2, 3)}),
    "compare": ({}, lambda e: setattr(e._controls.compare, "value", False), {"compare": False}),
    "other_affinity": ({}, lambda e: setattr(e._controls.other_affinity, "value", "qq"), {"other_affinity": "qq"}),
    "other_kernel": ({}, lambda e: setattr(e._controls.other_kernel, "value", "rbf"), {"other_kernel": "rbf"}),
    "other_layers": ({}, lambda e: setattr(e._controls.other_layers, "value", "late"), {"other_layers": "late"}),
    "tap": ({}, lambda e: tap(e._pictures.figures[0], 0, 2, 5), {"patch": (2, 5)}),
    "tap the other": ({}, lambda e: tap(e._pictures.figures[1], 0, 5, 0), {"patch": (5, 0)}),
    "tap when smooth": ({"smooth": True}, lambda e: tap(e._pictures.figures[0], 0, 2, 5), {"patch": (2, 5)}),
    "tap a row": ({"patch": (0, 0)}, lambda e: tap(e._rows.figure, 1, 3, 3), {"patch": (3, 3)}),
    "tap the grid": ({"view": "grid"}, lambda e: tap(e._pictures.figures[0], 4, 1, 1), {"component": 5}),
    "forget": ({"patch": (1, 1)}, lambda e: press(e, "Forget patch"), {"patch": None}),
    "heads": ({"patch": (1, 1)}, lambda e: setattr(e._controls.heads, "value", True), {"heads": True}),
    "mask_outliers": ({}, lambda e: setattr(e._controls.mask_outliers, "value", True), {"mask_outliers": True}),
    "view grid": ({}, lambda e: setattr(e._controls.view, "value", "grid"), {"view": "grid"}),
    "view rgb": ({}, lambda e: setattr(e._controls.view, "value", "rgb"), {"view": "rgb"}),
    "view spectrum": ({}, lambda e: setattr(e._controls.view, "value", "spectrum"), {"view": "spectrum"}),
    "view layers": ({}, lambda e: setattr(e._controls.view, "value", "layers"), {"view": "layers"}),
    "view segments": ({}, lambda e: setattr(e._controls.view, "value", "segments"), {"view": "segments"}),
    "view instances": ({}, lambda e: setattr(e._controls.view, "value", "instances"), {"view": "instances"}),
    "n_segments": (
        {"view": "segments"},
        lambda e: setattr(e._controls.n_segments, "value", 7),
        {"n_segments": 7},
    ),
    "view norms": ({}, lambda e: setattr(e._controls.view, "value", "norms"), {"view": "norms"}),
    "component in the spectrum": (
        {"view": "spectrum"},
        lambda e: spectrum(e).figure._trigger_event(Tap(spectrum(e).figure, x=2.8, y=0.1)),
        {"component": 3},
    ),
    "component of the layers": (
        {"view": "layers"},
        lambda e: setattr(e._controls.component, "value", 2),
        {"component": 2},
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_changes_the_state_and_the_picture(name: str, explorer: Explorer) -> None:
    before, act, expected = CONTROLS[name]
    explorer.set(**before)
    state, picture = explorer.state, seen(explorer)
    act(explorer)
    assert explorer.state == replace(state, **expected)
    assert seen(explorer) != picture
    assert explorer._message.value == ""
    assert not explorer.is_busy


FIELDS = {
    "image": (2, lambda e: [thumb.value for thumb in e._controls.thumbs] == [False, False, True]),
    "affinity": ("qq", lambda e: e._controls.affinity.value == "qq"),
    "kernel": ("rbf", lambda e: e._controls.kernel.value == "rbf"),
    "weights": (
        {"block.1": 0.5},
        lambda e: (
            [t.value for t in e._controls.toggles.values()] == [False, True, False, False]
            and e._controls.weights["block.1"].value == 0.5
            and e._controls.weights["block.0"].disabled
        ),
    ),
    "n_eigenvectors": (12, lambda e: e._controls.n_eigenvectors.value == 12 == e._controls.component.max),
    "component": (7, lambda e: e._controls.component.value == 7),
    "three": ((3, 2, 1), lambda e: [box.value for box in e._controls.three] == [3, 2, 1]),
    "n_segments": (4, lambda e: e._controls.n_segments.value == 4),
    "opacity": (0.3, lambda e: e._controls.opacity.value == 0.3),
    "smooth": (True, lambda e: e._controls.smooth.value),
    "threshold": (
        0.25,
        lambda e: e._controls.is_cut.value and e._controls.threshold.value == 0.25 and e._controls.cut_cost.value,
    ),
    "view": ("layers", lambda e: e._controls.view.value == "layers"),
    "compare": (False, lambda e: not e._controls.compare.value and e._controls.other.layout.display == "none"),
    "other_affinity": ("kk", lambda e: e._controls.other_affinity.value == "kk"),
    "other_kernel": ("rbf", lambda e: e._controls.other_kernel.value == "rbf"),
    "other_layers": ("early", lambda e: e._controls.other_layers.value == "early"),
    "patch": ((3, 4), lambda e: e._controls.untap.layout.display is None),
    "heads": (True, lambda e: e._controls.heads.value),
    "mask_outliers": (True, lambda e: e._controls.mask_outliers.value),
}


def test_the_table_of_fields_is_complete() -> None:
    # Views have sliders of their own: tests/test_outside.py registers one.
    assert {*FIELDS, "options"} == set(State.__dataclass_fields__)


@pytest.mark.parametrize("name", FIELDS)
def test_a_state_set_from_python_moves_the_widgets(name: str, explorer: Explorer) -> None:
    value, holds = FIELDS[name]
    assert not holds(explorer)
    explorer.state = replace(explorer.state, **{name: value})
    assert holds(explorer)
    assert getattr(explorer.state, name) == value


def test_what_a_loaded_page_sends_back_is_no_change(explorer: Explorer) -> None:
    """Sliders count their steps from the least value, and a page that is loaded anew sends what came out."""
    explorer.set(threshold=-0.34, weights={"block.0": 0.35, "block.1": 0.15}, opacity=0.15)
    explorer.set(threshold=None, weights={"block.1": 0.15})
    state, controls = explorer.state, explorer._controls
    controls.threshold.value = -0.33999999999999997
    controls.weights["block.0"].value = 0.35000000000000003
    controls.weights["block.1"].value = 0.15000000000000002
    controls.opacity.value = 0.15000000000000002
    assert explorer.state == state
    explorer.set(threshold=-0.34)
    controls.threshold.value = -0.33999999999999997
    assert explorer.state.threshold == -0.34


def test_a_wrong_state_changes_nothing(explorer: Explorer) -> None:
    state, picture = explorer.state, seen(explorer)
    with pytest.raises(SpectralToolkitError, match="component=99"):
        explorer.set(component=99)
    with pytest.raises(SpectralToolkitError, match="The state has no 'colour'"):
        explorer.set(colour="red")
    with pytest.raises(SpectralToolkitError, match="The state is a dict"):
        explorer.state = {}  # pyright: ignore[reportAttributeAccessIssue]
    assert (explorer.state, seen(explorer)) == (state, picture)


def test_the_last_layer_cannot_be_switched_off(explorer: Explorer) -> None:
    explorer.set(weights={"block.1": 1.0})
    explorer._controls.toggles["block.1"].value = False
    assert explorer.state.weights == {"block.1": 1.0}
    assert explorer._controls.toggles["block.1"].value
    assert "No layer has a weight above 0" in explorer._message.value


def test_controls_bring_what_depends_on_them_into_range(explorer: Explorer) -> None:
    explorer.set(component=8, patch=(5, 7), kernel="rbf")
    explorer._controls.n_eigenvectors.value = 3
    assert explorer.state.component == 3
    explorer._controls.affinity.value = "kk"
    assert explorer.state.kernel is None
    for name in ("block.0", "block.1", "block.2"):  # only the coarse layer is left
        explorer._controls.toggles[name].value = False
    assert explorer.state.patch == (2, 3), "the same place on the coarser grid"
    assert explorer.eigenvectors.eigenvector.shape[1:3] == (GRID[0] // 2, GRID[1] // 2)
    explorer._controls.n_eigenvectors.value = 10
    explorer._controls.toggles["block.0"].value = True
    explorer._controls.other_layers.value = "late"
    assert explorer.state.patch == (5, 7)


def test_a_patch_is_one_place_whatever_grid_a_side_has(explorer: Explorer) -> None:
    explorer.set(weights={"block.0": 1.0}, other_layers="late", patch=(5, 2))
    first, second = explorer._answer.sides  # pyright: ignore[reportOptionalMemberAccess]
    assert (first.patch, second.patch) == ((5, 2), (5, 2))  # the late third holds a fine layer, too
    explorer.set(weights={"block.3": 1.0}, other_layers="early")
    first, second = explorer._answer.sides  # pyright: ignore[reportOptionalMemberAccess]
    assert explorer.state.patch == first.patch == (2, 1)
    assert second.patch == (5, 3)
    assert second.joint_row is not None
    assert second.joint_row.shape == GRID
    tap(explorer._pictures.figures[1], 0, 0, 7)  # the finer side
    assert explorer.state.patch == (0, 3)
    start = freezing_settings(explorer.state, explorer._session)["start"]
    assert start["patch"] == (0, 3), "the page counts on the grid of the chosen layers, its first setting"
    assert "affinity_row(graph, (0, 3))" in explorer.code()
    assert "affinity_row(graph_other, (1, 7))" in explorer.code()


def test_both_sides_bound_what_can_be_solved_for(explorer: Explorer) -> None:
    explorer.set(n_eigenvectors=20)
    coarse = {"block.3": 1.0}
    with pytest.raises(SpectralToolkitError, match="n_eigenvectors=20 is out of range"):
        explorer.set(weights=coarse)
    explorer.set(compare=True, n_eigenvectors=10, weights=coarse, other_layers="all")
    assert explorer.state.n_eigenvectors == 10


def test_three_colours_are_of_eigenvectors_that_are_there(explorer: Explorer) -> None:
    explorer.set(view="rgb", n_eigenvectors=2)
    assert explorer.state.three == (1, 2, 2)
    assert "components=[1, 2, 2]" in explorer.code()
    assert freezing_settings(explorer.state, explorer._session)["start"]["view"] == "component"


def test_what_the_controls_do_not_offer_is_refused_and_changes_nothing(comms: type[KeepingComm]) -> None:
    tree = capture_of(images=1)
    tree = tree.map_over_datasets(lambda node: node.drop_vars(["token", "value"], errors="ignore"))
    with_views = Explorer(tree, device="cpu")
    state = with_views.state
    for changes, message in (
        ({"view": "norms"}, "view='norms' is not offered"),
        ({"other_affinity": "token"}, "other_affinity='token' is not offered"),
    ):
        with pytest.raises(SpectralToolkitError, match=message):
            with_views.set(**changes)
    assert with_views.state == state
    with_views.set(component=2)
    with_views.close()


def test_only_pictures_that_get_a_button_are_made_small(
    comms: type[KeepingComm], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    small = Session.small
    monkeypatch.setattr(Session, "small", lambda self, place, side=128: made.append(place) or small(self, place, side))
    many = Explorer(capture_of(images=61, layers=2, grid=(4, 4)), device="cpu")
    assert set(made) == {0}
    many.close()


def test_the_other_side_never_shows_the_same_by_itself(explorer: Explorer) -> None:
    assert (explorer.state.affinity, explorer.state.other_affinity) == ("qk", "vv")
    explorer._controls.affinity.value = "vv"
    assert explorer.state.other_affinity == "qk"
    explorer.set(affinity="qk")
    assert explorer.state.other_affinity == "vv", "from Python, too"
    explorer.set(affinity="vv", other_affinity="vv")
    assert explorer.state.other_affinity == "vv", "unless asked for"
    explorer.set(other_layers="late")
    explorer.set(compare=True, n_eigenvectors=5)
    assert explorer.state.other_affinity == "vv", "with other layers it is not the same"
    explorer.set(affinity="qk", other_affinity="qk", other_kernel="softmax", other_layers="same", compare=False)
    explorer.set(compare=True)
    assert (explorer.state.other_affinity, explorer.state.other_kernel) == ("vv", None)
    explorer.set(affinity="qk", other_affinity="qk", compare=False)
    explorer.set(compare=True, affinity="vv")
    assert explorer.state.other_affinity == "qk", "which is not the same any more"
    explorer.set(kernel="rbf")
    explorer.set(affinity="vv", component=2)
    assert explorer.state.kernel == "rbf", "the affinity has not changed"
    explorer.set(patch=(1, 1))
    with pytest.raises(SpectralToolkitError, match="The weight of 'block.0' is 'a'"):
        explorer.set(weights={"block.0": "a"})


def test_pictures_lie_as_holoviews_lays_them() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    drawn: Any = hv.render(rgb_element(colours, "Picture").opts(backend="bokeh", **_FRAME), backend="bokeh")
    theirs = drawn.renderers[0].data_source.data
    ours = image_columns([(colours, TilePlace(0.0, 0.0, 1.0, 1.0, (3, 5)))])
    np.testing.assert_array_equal(ours["image"][0], theirs["image"][0])
    assert [ours[name][0] for name in ("x", "y", "dw", "dh")] == [theirs[name][0] for name in ("x", "y", "dw", "dh")]
    figure = TileFigure("test")
    figure.show([Tile(colours, np.zeros((3, 5)))], width=50, aspect=0.6)
    assert drawn.y_range.start > drawn.y_range.end
    axis: Any = figure.figure.y_range
    assert axis.start > axis.end


def test_what_is_drawn_is_the_eigenvector(explorer: Explorer) -> None:
    explorer.set(compare=False, affinity="vv", component=2, opacity=1.0)
    eig = st.solve(st.affinity(explorer.activations.isel(image=[0]), "vv", device="cpu"), 8)
    figure = explorer._pictures.figures[0]
    drawn = figure._colours.data["value"][0]
    np.testing.assert_allclose(drawn, eig.eigenvector[0, :, :, 1].values, atol=1e-6)
    rgba = figure._colours.data["image"][0].view(np.uint8).reshape(*GRID, 4)
    gold, blue = np.unravel_index(drawn.argmax(), GRID), np.unravel_index(drawn.argmin(), GRID)
    assert rgba[gold][0] > rgba[gold][2]
    assert rgba[blue][2] > rgba[blue][0]
    assert (rgba[..., 3] == 255).all()


def test_one_change_is_one_patch_and_figures_are_never_made_again(explorer: Explorer) -> None:
    figures = [id(figure.figure) for figure in explorer._pictures.figures]
    widget: Any = explorer._pictures.widget
    KeepingComm.everything.clear()
    explorer.set(component=3)
    mine = [entry for entry in KeepingComm.everything if entry[0] == widget.comm.comm_id]
    headers = [data for _, _, data, _ in mine if "msgtype" in str(data)]
    assert len(headers) == 1
    assert not any("render_bundle" in str(data.get("state", "")) for _, _, data, _ in mine)
    for view in ("grid", "rgb", "norms", "component"):
        explorer.set(view=view, image=1)
    assert [id(figure.figure) for figure in explorer._pictures.figures] == figures
    assert explorer._pictures.widget is widget


def test_a_new_view_gets_the_figure_as_it_is_now(explorer: Explorer) -> None:
    widget: Any = explorer._pictures.widget
    widget.renew()
    first = widget.render_bundle
    explorer.set(component=2)
    assert widget.render_bundle is first
    widget._document.callbacks.trigger_event(DocumentReady())
    assert widget.render_bundle is not first
    second = widget.render_bundle
    widget._document.callbacks.trigger_event(DocumentReady())
    assert widget.render_bundle is second
    explorer.set(component=3)
    assert widget.get_state()["render_bundle"] != second


def test_bokeh_is_sent_only_to_a_page_that_asks(explorer: Explorer) -> None:
    loader, stage = explorer._loader, explorer._stage
    stage.children = ()
    loader._output.outputs = loader._output._question
    need, ready = loader._buttons
    ask = str(loader._output.outputs)
    assert len(ask) < 2000
    assert stage.children == ()
    need.click()
    assert len(str(loader._output.outputs)) > 1_000_000
    assert stage.children == ()
    ready.click()
    assert loader._output.outputs == ()
    assert explorer._stage.children[0] is explorer._pictures.widget
    # A page that is opened later, with this kernel, begins as the first one did.
    assert stage.get_state()["children"] == []
    assert str(loader._output.get_state()["outputs"]) == ask
    KeepingComm.everything.clear()
    ready.click()
    assert any("children" in data.get("state", {}) for _, _, data, _ in KeepingComm.everything)


async def _settled(explorer: Explorer) -> None:
    for _ in range(500):
        await asyncio.sleep(0.01)
        if not explorer.is_busy:
            break


def test_while_it_computes_the_picture_is_dimmed_and_never_wrong(comms: type[KeepingComm]) -> None:
    async def play() -> None:
        explorer = Explorer(capture_of(), device="cpu")
        session = explorer._session
        go = threading.Event()
        real = session._solved

        def slow(question, check):
            while not go.is_set():
                check()
            return real(question, check)

        session._solved = slow  # pyright: ignore[reportAttributeAccessIssue]
        go.set()
        explorer.set(threshold=0.1)
        await _settled(explorer)
        assert not explorer._controls.lowest.disabled
        go.clear()
        before = seen(explorer)
        explorer.set(affinity="kk")
        assert explorer.is_busy
        for part in (explorer._stage, explorer._controls.cut_cost):
            assert "st-stale" in part._dom_classes
        assert explorer._controls.lowest.disabled
        press(explorer, "Lowest cut")
        assert explorer.state.threshold == 0.1, "the lowest of an answer that is gone"
        assert "st-on" in explorer._busy_row._dom_classes
        with pytest.raises(SpectralToolkitError, match="is not ready yet"):
            _ = explorer.eigenvectors
        explorer.set(opacity=0.4)  # how it looks needs no new answer, so the one that runs goes on
        running = explorer._worker._number
        explorer.set(opacity=0.5)
        assert explorer._worker._number == running
        explorer.set(affinity="qq")
        go.set()
        await _settled(explorer)
        assert explorer.eigenvectors.attrs["affinity"] == "qq"
        assert seen(explorer) != before
        assert "QQ" in explorer._pictures.figures[0].title.text
        for part in (explorer._stage, explorer._controls.cut_cost):
            assert "st-stale" not in part._dom_classes
        assert "<b>QQ</b>" in explorer._controls.cut_cost.value
        assert "st-on" not in explorer._busy_row._dom_classes
        go.clear()
        explorer.set(affinity="kk")
        press(explorer, "Stop")
        assert not explorer.is_busy
        assert "st-stale" in explorer._stage._dom_classes
        assert "Stopped" in explorer._message.value
        explorer.close()

    asyncio.run(play())


def test_a_dragged_weight_is_followed_by_the_picture(comms: type[KeepingComm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_toolkit._views.widget.explorer.PATIENCE", 30.0)

    async def play() -> None:
        explorer = Explorer(capture_of(), device="cpu")
        pictures = []
        for step in range(4):
            explorer._controls.weights[explorer._session.facts.layers[0]].value = 0.9 - 0.2 * step
            assert not explorer.is_busy
            assert "st-stale" not in explorer._stage._dom_classes
            pictures.append(seen(explorer))
        assert len(set(pictures)) == 4
        explorer.close()

    asyncio.run(play())


def test_an_error_of_a_computation_is_said_and_the_picture_stays_dimmed(explorer: Explorer) -> None:
    def fail(*_: object) -> None:
        raise SpectralToolkitError("It <b>cannot</b> be done.")

    real = explorer._session._solved
    explorer._session._solved = fail  # pyright: ignore[reportAttributeAccessIssue]
    explorer.set(affinity="kk", n_eigenvectors=9)
    explorer._session._solved = real  # pyright: ignore[reportAttributeAccessIssue]
    assert "It &lt;b&gt;cannot&lt;/b&gt; be done." in explorer._message.value
    assert "st-stale" in explorer._stage._dom_classes
    explorer.set(affinity="qk")
    assert explorer._message.value == ""
    assert "st-stale" not in explorer._stage._dom_classes


def test_closing_frees_widgets_comms_threads_and_memory(comms: type[KeepingComm]) -> None:
    before, open_before = set(_instances), set(comms.open_comms)

    async def play() -> list[Any]:
        explorer = Explorer(capture_of(), device="cpu")
        for view in ("grid", "spectrum", "layers", "norms", "component"):
            explorer.set(view=view, patch=(1, 2))
        explorer.set(affinity="kk")
        while explorer.is_busy:
            await asyncio.sleep(0.01)
        explorer._loader._buttons[1].click()
        session = explorer._session
        kept: list[Any] = [
            weakref.ref(one) for one in (explorer, session, session.activations, explorer._pictures.figures[0])
        ]
        kept.append(weakref.ref(explorer._pictures.widget._document))
        kept.append(weakref.ref(next(iter(session._graphs.values()))))
        explorer.close()
        explorer.close()
        return kept

    kept = asyncio.run(play())
    gc.collect()
    assert set(_instances) <= before
    assert comms.open_comms == open_before
    assert "spectral_toolkit explorer" not in [thread.name for thread in threading.enumerate()]
    assert [one() for one in kept] == [None] * len(kept)


def test_a_model_is_as_it_was(comms: type[KeepingComm]) -> None:
    model = st.load_model("scenes")
    hooks = model.user_hooks
    explorer = Explorer(model, st.scenes.sample(2, seed=0).pixels, progress=False)
    assert model.user_hooks == hooks
    assert explorer.state == replace(State(), weights=dict.fromkeys(model.layers, 1.0))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None  # the capture is explored, nobody needs the model any more
    explorer.close()


def test_hostile_names_are_only_text(comms: type[KeepingComm]) -> None:
    hostile = '</style><img src=x onerror="alert(1)">'
    tree = capture_of(images=1)
    tree = tree.assign_coords(image=[hostile]) if hasattr(tree, "assign_coords") else tree
    explorer = Explorer(tree, device="cpu", state=State(patch=(1, 1)))
    for _ in ("component", "grid", "layers"):
        text = "".join(
            widget.value for widget in _instances.values() if isinstance(widget, widgets.HTML) and widget.value
        )
        assert "<img src=x" not in text
    explorer.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("scenes",), "No images were given"), ((capture_of(), "no-such-folder"), "does not exist")],
)
def test_what_cannot_be_explored_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        Explorer(*arguments)


def test_every_control_explains_itself(explorer: Explorer) -> None:
    silent = []
    for widget in list(_instances.values()):
        if isinstance(widget, widgets.ToggleButtons):
            silent += [label for label, tip in zip(widget.options, widget.tooltips, strict=True) if not tip]
        elif (
            isinstance(
                widget,
                widgets.Button
                | widgets.ToggleButton
                | widgets.Checkbox
                | widgets.Dropdown
                | widgets.IntSlider
                | widgets.FloatSlider
                | widgets.BoundedIntText
                | widgets.Text,
            )
            and not widget.tooltip
            and widget.description not in ("need", "ready")
        ):
            silent.append(widget.description)
    assert silent == []


def test_the_formula_of_an_affinity_is_that_of_the_kernel(explorer: Explorer) -> None:
    kinds = [value for _, value in explorer._controls.affinity.options]
    explorer.set(affinity="kk", kernel="rbf", compare=True, other_affinity="vv", other_kernel="shifted_cosine")
    tips = dict(zip(kinds, explorer._controls.affinity.tooltips, strict=True))
    assert "exp(-|k - k'|² / 2σ²)" in tips["kk"]
    assert "softmax(q·k / √d)" in tips["qk"]
    others = dict(zip(kinds, explorer._controls.other_affinity.tooltips, strict=True))
    assert "(1 + cos(v, v')) / 2" in others["vv"]


def test_fewer_eigenvectors_bring_the_component_along(explorer: Explorer) -> None:
    explorer.set(component=8)
    explorer.set(n_eigenvectors=3)
    assert (explorer.state.component, explorer.state.n_eigenvectors) == (3, 3)
    with pytest.raises(SpectralToolkitError, match="component=9"):
        explorer.set(n_eigenvectors=3, component=9)


def test_no_number_of_groups_is_read_from_a_row_of_equal_eigenvalues(comms: type[KeepingComm]) -> None:
    tree = capture_of(images=1)
    for node in tree.children.values():
        node.dataset["value"].values[...] = 1.0
    explorer = Explorer(tree, device="cpu", state=State(affinity="vv", compare=False, view="spectrum"))
    assert spectrum(explorer).chart._words.data["text"] == []
    explorer.set(affinity="qk")
    assert "segments" in spectrum(explorer).chart._words.data["text"][0]
    explorer.close()
