"""What follows from a change of the state, whoever made it: controls, taps or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._affinity.table import KERNELS
from .._io.grids import moved
from .selection import moved_selection
from .start import contrast
from .state import Facts, State, checked_weights
from .view import offered


def as_asked(state: State, asked: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Fields of the state, from what a control asked for: a preset, some weights, or the value of one view's slider."""
    weights = dict(state.weights or {})
    changes = dict(asked)
    if "preset" in changes:
        return {"weights": facts.preset(changes["preset"], weights)}
    if "weights" in changes:  # of some layers; those of weight 0 are switched off
        weights.update(changes["weights"])
        changes["weights"] = {layer: weight for layer, weight in weights.items() if weight != 0}
    if "step" in changes:  # to the next component or image; images begin again after the last one
        name, by = changes.pop("step")
        n = len(facts.images)
        steps = {
            "component": lambda: min(max(1, state.component + by), state.n_eigenvectors),
            "image": lambda: (state.image + by) % n,
        }
        changes[name] = steps[name]()
    if "view_number" in changes:
        views = offered(facts.quantities)
        place = changes.pop("view_number") - 1
        changes |= {"view": views[place].name} if 0 <= place < len(views) else {}
    if "option" in changes:
        name, value = changes.pop("option")
        changes["options"] = {**state.options, name: value}
    return changes


def changed(before: State, changes: Mapping[str, Any], facts: Facts) -> State:
    """A state with some fields changed, and with the changes that follow unless they are given, too."""
    state = replace(before, **changes)
    asked = "affinity" in changes or changes.get("compare")
    two = facts.sources > 1 or state.timestep != state.other_timestep
    if two and "affinity" in changes and "other_affinity" not in changes and before.other_affinity == before.affinity:
        state = replace(state, other_affinity=state.affinity)  # two captures are compared by one affinity
    same = state.compare and state.other_layers == "same" and state.other_affinity == state.affinity and not two
    if asked and same and "other_affinity" not in changes:
        # The same setting twice would show nothing new, so the other side takes another one.
        state = replace(state, other_affinity=contrast(state.affinity, facts.kinds))
    n = state.n_eigenvectors
    if "component" not in changes and isinstance(n, int) and 1 <= n < state.component:
        state = replace(state, component=n)
    other = state.other_component
    if "other_component" not in changes and isinstance(n, int) and other is not None and 1 <= n < other:
        state = replace(state, other_component=n)
    if state.scope == "dataset" != before.scope and "mask_outliers" not in changes:
        state = replace(state, mask_outliers=False)
    for side in ("", "other_"):
        kernel = getattr(state, f"{side}kernel")
        offered = kernel not in tuple(KERNELS) or state.scope in KERNELS[kernel].scopes
        if getattr(state, f"{side}affinity") != getattr(before, f"{side}affinity") or not offered:
            state = replace(state, **{f"{side}kernel": changes.get(f"{side}kernel")})
    if state.patch is not None and "patch" not in changes and state.weights != before.weights:
        # The same place in the image, where other layers have another grid; wrong weights raise an error here.
        grids = [facts.grid_of(checked_weights(one.weights, facts)) for one in (before, state)]
        state = replace(state, patch=moved(state.patch, *grids))
    if state.selection and "selection" not in changes and state.weights != before.weights:
        grids = [facts.grid_of(checked_weights(one.weights, facts)) for one in (before, state)]
        state = replace(state, selection=moved_selection(state.selection, *grids))
    return state
