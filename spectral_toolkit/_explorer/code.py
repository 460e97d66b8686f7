"""Copy as code: a Python program that computes and draws what a state shows, without the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .recipe import call, capture_lines
from .session import Question, can_be_written_out, questions
from .state import Facts, State, moved
from .views import ROWS_OPACITY
from .wording import setting_names


def as_code(
    state: State, facts: Facts, attrs: Mapping[str, Any], pictures: str | None, bundle: str | None = None
) -> str:
    """The program; its last lines show what the explorer shows.

    Parameters
    ----------
    state
        A checked state.
    attrs
        Attributes of the activations: model, images and settings of the capture.
    pictures
        A Python expression for the images; None where their origin is not known: the program then starts from saved
        activations.
    bundle
        The path of the bundle that is explored, if it is one: the program then opens it.
    """
    asked = questions(state, facts)
    drawn, shown = _drawing(state, asked, facts, "one" if pictures is None and bundle is None else "images")
    imports = ["import spectral_toolkit as st"]
    if len(shown) > 1:
        imports.insert(0, "from IPython.display import display")
    if bundle is not None:
        start = [
            "",
            f"bundle = st.load_bundle({bundle!r})",
            "activations, images = bundle.activations, bundle.pictures",
        ]
    elif pictures is None:
        imports.insert(len(imports) - 1 if len(imports) == 1 else 0, "import xarray as xr")
        start = [
            "",
            "# The images came from a variable, so this program starts from activations saved with",
            "# explorer.activations.to_zarr('activations.zarr').",
            "activations = xr.open_datatree('activations.zarr', engine='zarr', consolidated=False).load()",
        ]
    else:
        start = ["", *capture_lines(attrs, pictures)]
    start.append(f"one = activations.isel(image=[{state.image}])  # {facts.images[state.image]!a}")
    if state.mask_outliers:
        start.append("mask = st.outlying_masks(one)")
    lines = [*imports, *start]
    for place, question in enumerate(asked):
        lines += ["", *_solving(state, question, _suffix(place), facts)]
    ending = [f"display({view})" for view in shown[:-1]]
    return "\n".join([*lines, "", *drawn, *ending, shown[-1]]) + "\n"


_CHARTS = {"spectrum": "st.spectrum_chart", "layers": "st.layers_chart"}
"""Views that are not drawn over an image, and the functions that draw them."""


def _suffix(place: int) -> str:
    return "" if place == 0 else "_other"


def _solving(state: State, question: Question, suffix: str, facts: Facts) -> list[str]:
    """Lines of code that compute what one setting shows."""
    weights = dict(question.weights)
    settings: dict[str, Any] = {"kernel": question.kernel}
    raw = {"mask": "mask"} if question.mask_outliers else {}
    fewer = None if len(weights) == len(facts.layers) else list(weights)
    # Layers that are switched off are still shown in the rows of a patch and in the chart of the layers.
    all_shown = state.patch is not None or state.view == "layers"
    graph = call(
        "st.affinity", ["one", repr(question.affinity)], settings | {"layers": None if all_shown else fewer}, raw
    )
    if all_shown and fewer:
        weights = {**dict.fromkeys(facts.layers, 0.0), **weights}
    lines = [f"graph{suffix} = {graph}"]
    if any(weight != 1 for weight in weights.values()):
        lines[-1] += f".reweight({weights!r})"
    lines.append(f"eig{suffix} = st.solve(graph{suffix}, n_eigenvectors={question.n_eigenvectors})")
    if state.view == "segments":
        lines.append(f"segments{suffix} = st.segment(eig{suffix}, {state.n_segments!r})")
    if state.view == "instances":
        lines.append(f"instances{suffix} = st.instances(eig{suffix})")
    if state.cut is not None and can_be_written_out(facts.grid_of(weights)):
        lines.append(f"costs{suffix} = st.cut_costs(eig{suffix}, graph{suffix}, {state.component})")
    if state.patch is not None:
        patch = _patch(state, question, facts)
        lines.append(f"joint{suffix}, by_layer{suffix} = st.affinity_row(graph{suffix}, {patch!r})")
        if state.heads:
            heads = settings | {"heads": "each", "layers": fewer}
            lines.append(f"heads{suffix} = {call('st.affinity', ['one', repr(question.affinity)], heads, raw)}")
            lines.append(f"_, by_layer{suffix} = st.affinity_row(heads{suffix}, {patch!r})")
    return lines


def _drawing(state: State, asked: Sequence[Question], facts: Facts, pictures: str) -> tuple[list[str], list[str]]:
    """Lines of code that draw, and the expressions to be shown one after the other."""
    suffixes = [_suffix(place) for place in range(len(asked))]
    settings: dict[str, Any]
    if state.view in _CHARTS:
        names = setting_names([question.affinity for question in asked])
        results = ", ".join(f"{name!r}: eig{suffix}" for name, suffix in zip(names, suffixes, strict=True))
        settings = {"component": state.component}
        if state.view == "layers":
            settings["layers"] = list(facts.layers)
        lines = [f"view = {call(_CHARTS[state.view], ['{' + results + '}'], settings)}"]
        shown = ["view"]
    elif state.view == "norms":
        raw = {"marked": "st.outlying_masks(one)"}
        lines = [f"view = {call('st.overlay', [pictures, 'st.token_norms(one)'], {'opacity': state.opacity}, raw)}"]
        shown = ["view"]
    else:
        lines = []
        for question, suffix in zip(asked, suffixes, strict=True):
            patch = None if state.patch is None else _patch(state, question, facts)
            name, settings = _overlaid(state, patch)
            lines.append(f"view{suffix} = {call('st.overlay', [pictures, f'{name}{suffix}'], settings)}")
        views = [f"view{suffix}" for suffix in suffixes]
        shown = views if state.view == "grid" else [" + ".join(views)]
    if state.patch is not None:
        for suffix in suffixes:
            rows = f"{{'all layers': joint{suffix}, **by_layer{suffix}}}"
            lines.append(f"rows{suffix} = {call('st.overlay', [pictures, rows], {'opacity': ROWS_OPACITY})}")
            shown.append(f"rows{suffix}")
    return lines, shown


def _overlaid(state: State, patch: tuple[int, int] | None) -> tuple[str, dict[str, Any]]:
    """What ``st.overlay`` draws over the image, by name, and its settings."""
    marked = None if patch is None else [patch]
    if state.view in ("segments", "instances"):
        return state.view, {"opacity": state.opacity, "marked": marked}
    settings = {"opacity": state.opacity, "smooth": state.smooth or None}
    if state.view == "grid":
        return "eig", {"layout": "grid", **settings}
    if state.view == "rgb":
        return "eig", {"layout": "rgb", "components": list(state.three), **settings, "marked": marked}
    return "eig", {"component": state.component, **settings, "threshold": state.cut, "marked": marked}


def _patch(state: State, question: Question, facts: Facts) -> tuple[int, int]:
    """The tapped patch, on the grid of one setting."""
    assert state.patch is not None
    return moved(state.patch, facts.grid_of(state.weights or {}), facts.grid_of(dict(question.weights)))
