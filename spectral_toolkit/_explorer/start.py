"""The state in which an explorer begins, states brought into range, and the settings of its frozen page."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from .._affinity.presets import PRESETS, preset_weights
from .._compute.warned import outside
from .._io.bundles import Bundle
from .._io.grids import moved
from ..errors import SpectralToolkitError
from .session import Session
from .sources import open_session
from .state import State, as_state, checked
from .views import VIEWS


class PageSettings(TypedDict, total=False):
    """Keyword arguments of ``st.freeze``."""

    images: object
    scope: str
    kinds: Sequence[str]
    presets: Sequence[str] | Mapping[str, Mapping[str, float]]
    kernel: str | Mapping[str, str] | None
    n_eigenvectors: int
    regions: bool
    n_segments: int | str
    row_bytes: int
    device: str
    seed: int
    start: Mapping[str, object] | None
    options: Mapping[str, float] | None
    opacity: float
    max_side: int
    title: str | None
    height: int
    progress: bool


def state_of(bundle: Bundle) -> State:
    """The state in which the bundle was saved; a value that does not fit is replaced by its default."""
    view = bundle.settings.get("view", State.view)
    if isinstance(view, str) and view not in VIEWS:
        warnings.warn(
            f"The bundle was saved in the view {view!r}, which is not offered here, so it opens in the first view: "
            "register the view before you open the bundle.",
            stacklevel=outside(),
        )
    try:
        state = State.from_dict(bundle.settings)
        session = open_session(bundle.activations, "auto", bundle.pictures)
        return checked(without_labels(state), session.facts)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        return State()


def without_labels(state: State) -> State:
    """The same state where there are no labels, as in a bundle, which keeps none."""
    view = State.view if "label" in VIEWS[state.view].needs else state.view
    coloured = State.coloured if state.coloured == "label" else state.coloured
    return replace(state, outlined=False, coloured=coloured, view=view)


def contrast(kind: str, kinds: tuple[str, ...]) -> str:
    """The affinity to show beside another: one for where and one for what, if possible."""
    wanted = "qk" if kind == "vv" else "vv"
    return wanted if wanted in kinds else kind


def first_state(state: object, scope: str | None, session: Session) -> State:
    """The state in which an explorer begins; two captures are compared by one affinity by default."""
    first = as_state(state)
    if state is None and session.facts.sources > 1:
        kind = first.affinity if first.affinity in session.facts.kinds else session.facts.kinds[0]
        first = replace(first, affinity=kind, other_affinity=kind)
    return checked(fitting(first if scope is None else replace(first, scope=scope), session), session.facts)


def fitting(state: State, session: Session) -> State:
    """A user's change, with everything else brought into range: no control may lead to an error."""
    facts = session.facts
    weights = state.weights if state.weights is not None else dict.fromkeys(facts.layers, 1.0)
    changes: dict[str, object] = {}
    if state.affinity not in facts.kinds and state == State(affinity=state.affinity):
        changes["affinity"] = facts.kinds[0]
    if state.other_affinity not in facts.kinds:
        changes["other_affinity"] = facts.kinds[-1]
    rows, columns = facts.grid_of(weights)
    most = facts.most_eigenvectors(state)
    fitting = min(state.n_eigenvectors, most)
    changes["n_eigenvectors"], changes["component"] = fitting, min(state.component, fitting)
    if state.other_component is not None:
        changes["other_component"] = min(state.other_component, fitting)
    if state.patch is not None and not (state.patch[0] < rows and state.patch[1] < columns):
        changes["patch"] = None
    return replace(state, **changes)


def refuse_two(session: Session) -> None:
    """Raise an error where something is to be saved that holds one capture, and two are explored."""
    if session.facts.sources > 1:
        raise SpectralToolkitError(
            "This explorer compares two captures, and a bundle or a page holds one: save each with "
            "st.save_bundle(path, activations) or st.freeze(activations)."
        )


def freezing_settings(state: State, session: Session) -> PageSettings:
    """Arguments of ``st.freeze`` for a page that begins in the explorer's present state."""
    if state.mask_outliers:
        raise SpectralToolkitError(
            "A frozen page cannot leave out outlying tokens: switch 'Mask outlying tokens' off first."
        )
    facts = session.facts
    refuse_two(session)
    if state.timestep is not None or (state.compare and state.other_timestep is not None):
        raise SpectralToolkitError(
            "A frozen page shows all timesteps together: choose 'all' first, or make a page of one with "
            "st.freeze(activations.isel(timestep=[0]))."
        )
    kinds = list(dict.fromkeys([state.affinity, *(["qk", "vv"] if not state.compare else [state.other_affinity])]))
    kernels = {state.other_affinity: state.other_kernel} if state.compare else {}
    kernels[state.affinity] = state.kernel
    presets: dict[str, dict[str, float]] = {name: preset_weights(facts.layers, name) for name in PRESETS}
    weights = {layer: (state.weights or {}).get(layer, 0.0) for layer in facts.layers}
    preset = next((name for name, own in presets.items() if own == weights), "chosen")
    if preset == "chosen":
        presets = {"chosen": weights, **presets}
    kinds = [kind for kind in kinds if kind in facts.kinds]
    view = VIEWS[state.view]
    if view.page is None or state.n_eigenvectors < view.page_components:
        view = VIEWS[State.view]
    other = (state.other_affinity, preset if state.other_layers == "same" else state.other_layers)
    compare = state.compare and other[0] in kinds and other != (state.affinity, preset)
    # The page counts patches on the grid of its first setting.
    grids = [facts.grid_of(one) for one in (weights, next(iter(presets.values())))]
    return {
        "images": session.pictures,
        "scope": state.scope,
        "kinds": kinds,
        "kernel": {kind: kernel for kind, kernel in kernels.items() if kernel is not None and kind in kinds} or None,
        "presets": presets,
        "n_eigenvectors": state.n_eigenvectors,
        "n_segments": state.n_segments,
        "opacity": state.opacity,
        "device": session.device,
        "options": state.options,
        "start": {
            "image": state.image,
            "kind": state.affinity,
            "preset": preset,
            "component": state.component,
            "view": view.tab or view.name,
            "smooth": state.smooth,
            "threshold": state.threshold,
            "compare": compare,
            **({"other_kind": other[0], "other_preset": other[1]} if compare else {}),
            "patch": None if state.patch is None else moved(state.patch, *grids),
        },
    }
