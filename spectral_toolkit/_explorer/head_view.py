"""The view of every layer and head: affinity maps of the chosen patch, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from .._affinity.features import KINDS
from .._affinity.head_maps import head_maps
from .._io.grids import moved
from .._render.colour import SEQUENTIAL
from .._render.head_matrix import SORTS
from .recipe import call
from .view import Inputs, Slider, View

if TYPE_CHECKING:
    from .code import CodedSide, Program
    from .session import Side
    from .state import State

BY_ENTROPY = Slider("by_entropy", "Sort by entropy", "Show the most concentrated heads of each layer first.", 0, 1, 0)
"""A slider of two values, which is shown as a switch."""


def sort_of(state: State) -> str:
    """The argument ``sort`` of ``st.heads_chart``."""
    return SORTS[int(state.options.get(BY_ENTROPY.name, 0))]


def _kinds(quantities: frozenset[str]) -> tuple[str, ...]:
    """QK above VV; where one was not captured, the other, and where neither was, what there is."""
    held = tuple(kind for kind, needed in KINDS.items() if set(needed) <= quantities)
    return tuple(kind for kind in ("qk", "vv") if kind in held) or held[:1]


def patch_on(state: State, own: tuple[int, int], finest: tuple[int, int]) -> tuple[int, int]:
    """The chosen patch on the finest grid; that in the middle where none was chosen."""
    return (finest[0] // 2, finest[1] // 2) if state.patch is None else moved(state.patch, own, finest)


def _maps(inputs: Inputs) -> xr.Dataset:
    nodes = inputs.activations.children.values()
    layers = [node for node in nodes if {"y", "x"} <= set(node.sizes)]
    finest = max(((node.sizes["y"], node.sizes["x"]) for node in layers), key=lambda grid: grid[0] * grid[1])
    own = inputs.eig.sizes["y"], inputs.eig.sizes["x"]
    held = frozenset.intersection(*(frozenset(map(str, node.data_vars)) for node in layers))
    mask = inputs.outlying() if inputs.state.mask_outliers else None
    return head_maps(inputs.activations, patch_on(inputs.state, own, finest), kinds=_kinds(held), mask=mask)


def _heading(state: State, side: Side) -> str:
    row, column = side.data.attrs["patch"]
    which = "the chosen patch" if state.patch is not None else "the patch in the middle"
    return f"Every layer and head: affinities of {which}, row {row}, column {column}"


def _code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    state, facts = program.state, program.facts
    finest = max(facts.grids.values(), key=lambda grid: grid[0] * grid[1])
    own = facts.grids_shown(state)[0]
    raw = {"mask": "mask"} if state.mask_outliers else {}
    patch = patch_on(state, own, finest)
    maps = call("st.head_maps", ["one", repr(patch)], {"kinds": list(_kinds(facts.quantities))}, raw)
    return [f"maps = {maps}", f"st.heads_chart(maps, sort={sort_of(state)!r})"]


HEADS = View(
    "heads",
    "Heads",
    "The affinities of the chosen patch in every layer and head; point at one to see it large.",
    _code,
    chart="spectral_toolkit._views.widget.heads:HeadsShown",
    data=_maps,
    depends=lambda state: (state.patch, state.mask_outliers),
    sliders=(BY_ENTROPY,),
    legend="A column is a layer and a row one of its heads, QK above VV. Each map has its own colours: black is no "
    "affinity, white the strongest to another patch. Point at a map to see it large, tap it to keep it, and tap a "
    "patch in the large map to choose that patch.",
    scale=SEQUENTIAL,
    ends=lambda state, side: ("none", "strongest"),
    heading=_heading,
    alone=True,
    joined=False,
    page=None,
)
