"""The explorer as a widget, with comms but without a page: controls, state and pictures move together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import pytest
from bokeh.events import Tap
from explorer_fixtures import GRID, KeepingComm, capture_of, press, say, seen, spectrum, tap, told
from ipywidgets.widgets.widget import _instances

from spectral_toolkit._explorer.start import freezing_settings
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit.errors import SpectralToolkitError

CONTROLS = {
    "image": ({}, lambda e: setattr(e._controls.thumbs[1], "value", True), {"image": 1}),
    "affinity": ({}, lambda e: setattr(e._controls.affinity, "value", "kk"), {"affinity": "kk", "kernel": None}),
    "kernel": ({}, lambda e: setattr(e._controls.kernel, "value", "rbf"), {"kernel": "rbf"}),
    "weight": (
        {},
        lambda e: say(e, weights={"block.1": 0.25}),
        {"weights": {"block.0": 1.0, "block.1": 0.25, "block.2": 1.0, "block.3": 1.0}},
    ),
    "layer off": (
        {},
        lambda e: say(e, weights={"block.0": 0}),
        {"weights": {"block.1": 1.0, "block.2": 1.0, "block.3": 1.0}},
    ),
    "layer on": (
        {"weights": {"block.1": 1.0}},
        lambda e: say(e, weights={"block.0": 1}),
        {"weights": {"block.0": 1.0, "block.1": 1.0}},
    ),
    "preset in the page": ({}, lambda e: say(e, preset="late"), {"weights": {"block.2": 1.0, "block.3": 1.0}}),
    "scope": ({}, lambda e: setattr(e._controls.scope, "value", "dataset"), {"scope": "dataset"}),
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
    "tap a row": ({"patch": (0, 0)}, lambda e: tap(e._rows.figures[0], 1, 3, 3), {"patch": (3, 3)}),
    "tap the grid": ({"view": "grid"}, lambda e: tap(e._pictures.figures[0], 4, 1, 1), {"component": 5}),
    "forget": ({"patch": (1, 1)}, lambda e: press(e, "Forget patch"), {"patch": None}),
    "heads": ({"patch": (1, 1)}, lambda e: setattr(e._controls.heads, "value", True), {"heads": True}),
    "mask_outliers": ({}, lambda e: setattr(e._controls.mask_outliers, "value", True), {"mask_outliers": True}),
    "view grid": ({}, lambda e: setattr(e._controls.view, "value", "grid"), {"view": "grid"}),
    "view rgb": ({}, lambda e: setattr(e._controls.view, "value", "rgb"), {"view": "rgb"}),
    "view spectrum": ({}, lambda e: setattr(e._controls.view, "value", "spectrum"), {"view": "spectrum"}),
    "view layers": ({}, lambda e: setattr(e._controls.view, "value", "layers"), {"view": "layers"}),
    "view segments": ({}, lambda e: setattr(e._controls.view, "value", "segments"), {"view": "segments"}),
    "view instances": (
        {},
        lambda e: setattr(e._controls.view, "value", "instances"),
        {"view": "instances", "options": {"least_score": 0.0}},
    ),
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
    "scope": ("dataset", lambda e: e._controls.scope.value == "dataset"),
    "image": (2, lambda e: [thumb.value for thumb in e._controls.thumbs] == [False, False, True]),
    "affinity": ("qq", lambda e: e._controls.affinity.value == "qq"),
    "kernel": ("rbf", lambda e: e._controls.kernel.value == "rbf"),
    "weights": (
        {"block.1": 0.5},
        lambda e: told(e)["weights"] == {"block.0": 0, "block.1": 0.5, "block.2": 0, "block.3": 0},
    ),
    "n_eigenvectors": (12, lambda e: e._controls.n_eigenvectors.value == 12 == len(e._controls.component.options)),
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
    assert {*FIELDS, *ELSEWHERE, "options"} == set(State.__dataclass_fields__)


ELSEWHERE = {
    *("axes", "projection", "coloured", "selection"),  # tests/test_explorer_cloud.py
    "outlined",  # tests/test_explorer_labels.py
    "head_map",  # tests/test_heads_view.py
    *("other_component", "timestep", "other_timestep"),  # tests/test_explorer_sources.py
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_state_set_from_python_moves_the_widgets(name: str, explorer: Explorer) -> None:
    value, holds = FIELDS[name]
    assert not holds(explorer)
    explorer.state = replace(explorer.state, **{name: value})
    assert holds(explorer)
    assert getattr(explorer.state, name) == value


def test_what_a_loaded_page_sends_back_is_no_change(explorer: Explorer) -> None:
    """Sliders count their steps from the least value, and a page that is loaded anew sends what came out."""
    explorer.set(threshold=-0.34, opacity=0.15)
    explorer.set(threshold=None)
    state, controls = explorer.state, explorer._controls
    controls.threshold.value = -0.33999999999999997
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
    with pytest.raises(SpectralToolkitError, match="The state is a list"):
        explorer.state = []  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(SpectralToolkitError, match="The state has no 'colour'"):
        explorer.state = {"colour": "red"}
    assert (explorer.state, seen(explorer)) == (state, picture)


def test_the_last_layer_cannot_be_switched_off(explorer: Explorer) -> None:
    explorer.set(weights={"block.1": 1.0})
    say(explorer, weights={"block.1": 0})
    assert explorer.state.weights == {"block.1": 1.0}
    assert told(explorer)["weights"]["block.1"] == 1
    assert "No layer has a weight above 0" in explorer._message.value


def test_controls_bring_what_depends_on_them_into_range(explorer: Explorer) -> None:
    explorer.set(component=8, patch=(5, 7), kernel="rbf")
    explorer._controls.n_eigenvectors.value = 3
    assert explorer.state.component == 3
    explorer._controls.affinity.value = "kk"
    assert explorer.state.kernel is None
    for name in ("block.0", "block.1", "block.2"):  # only the coarse layer is left
        say(explorer, weights={name: 0})
    assert explorer.state.patch == (2, 3), "the same place on the coarser grid"
    assert explorer.eigenvectors.eigenvector.shape[1:3] == (GRID[0] // 2, GRID[1] // 2)
    explorer._controls.n_eigenvectors.value = 10
    say(explorer, weights={"block.0": 1})
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
    settings: Any = freezing_settings(explorer.state, explorer._session)
    assert settings["start"]["patch"] == (0, 3), "the page counts on the grid of the chosen layers, its first setting"
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
    settings: Any = freezing_settings(explorer.state, explorer._session)
    assert settings["start"]["view"] == "component"


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
