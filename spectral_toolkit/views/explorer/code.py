"""Copy as code: Python that computes what a state shows, in a kernel that knows nothing of the explorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..recipe import call, capture_lines
from .session import Question, can_be_written_out, questions
from .state import Facts, State, moved


def as_code(state: State, facts: Facts, attrs: Mapping[str, Any], pictures: str | None) -> str:
    """The program.

    Parameters
    ----------
    state
        A checked state.
    attrs
        Attributes of the activations: model, pictures and settings of the capture.
    pictures
        A Python expression for the pictures; None where nobody knows where they came from: the program then starts from
        saved activations.
    """
    lines = ["import spectral_toolkit as st"]
    asked = questions(state, facts)
    if state.mask_outliers:
        lines.append("from spectral_toolkit.trust import outlying_masks")
    if state.patch is not None:
        lines.append("from spectral_toolkit.affinities.rows import affinity_row")
    if pictures is None:
        lines += [
            "import xarray as xr",
            "",
            "# The pictures came from a variable, so this starts from activations that were saved with",
            "# explorer.activations.to_zarr('activations.zarr').",
            "acts = xr.open_datatree('activations.zarr', engine='zarr', consolidated=False).load()",
        ]
    else:
        lines += ["", *capture_lines(attrs, pictures)]
    lines.append(f"one = acts.isel(image=[{state.image}])  # {facts.images[state.image]!a}")
    if state.mask_outliers:
        lines.append("mask = outlying_masks(one)")
    for place, question in enumerate(asked):
        suffix = "" if place == 0 else "_other"
        lines += ["", *_solving(state, question, suffix, facts, "one" if pictures is None else "images")]
    return "\n".join(lines) + "\n"


def _solving(state: State, question: Question, suffix: str, facts: Facts, pictures: str) -> list[str]:
    settings: dict[str, Any] = {"kernel": question.kernel}
    weights = dict(question.weights)
    lines = []
    affinity = call(
        "st.affinity",
        ["one", repr(question.affinity)],
        settings | {"layers": None if len(weights) == len(facts.layers) else list(weights)},
        raw={"mask": "mask"} if question.mask_outliers else {},
    )
    lines.append(f"graph{suffix} = {affinity}")
    if any(weight != 1 for weight in weights.values()):
        lines[-1] += f".reweight({weights!r})"
    lines.append(f"eig{suffix} = st.solve(graph{suffix}, n_eigenvectors={question.n_eigenvectors})")
    if state.view == "segments":
        lines.append(f"segments{suffix} = st.segment(eig{suffix}, {state.n_segments!r})")
    if state.view == "instances":
        lines.append(f"instances{suffix} = st.instances(eig{suffix})")
    if state.patch is not None:
        patch = moved(state.patch, facts.grid_of(state.weights or {}), facts.grid_of(weights))
        lines.append(f"joint{suffix}, by_layer{suffix} = affinity_row(graph{suffix}, {patch!r})")
    shown: dict[str, Any] = {
        "image": 0,
        "component": state.component,
        "opacity": state.opacity,
        "smooth": state.smooth or None,
    }
    if state.cut is not None:
        shown["threshold"] = state.cut
        if can_be_written_out(facts.grid_of(weights)):
            lines.append(f"costs{suffix} = st.cut_costs(eig{suffix}, graph{suffix}, {state.component})")
    if state.view == "grid":
        shown |= {"component": None, "kind": "grid"}
    if state.view == "rgb":
        shown |= {"component": None, "kind": "rgb", "components": list(state.three)}
    lines.append(f"view{suffix} = {call('st.overlay', [pictures, f'eig{suffix}'], shown)}  # show it: view{suffix}")
    return lines
