"""The view of an intervention: the model runs again with queries and keys, or values, of another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .._affinity.features import KINDS
from .._analysis.interventions import resemblance
from .._capture.edits import exchange
from .._capture.intervening import intervene
from .._render.colour import DIVERGING
from .._render.composite import colour_field, symmetric_limit, with_opacity
from .._render.tile import Tile
from .recipe import call
from .view import MODEL, Inputs, Slider, View

if TYPE_CHECKING:
    from .code import CodedSide, Program
    from .session import ShownState, Side
    from .state import State

_PLURAL = {"query": "queries", "key": "keys", "value": "values"}
_DONOR = Slider(
    "donor", "Donor", "How many images further on the donor is; 0 is the image itself, left for right.", 0, 63, 1
)
_FIRST = Slider("first_layer", "From layer", "The first layer in which they are exchanged.", 1, 99, 1)
_LAST = Slider("last_layer", "To layer", "The last layer in which they are exchanged.", 1, 99, 99)


@dataclass(frozen=True)
class _Exchange:
    """What is exchanged: the quantities, the place of the donor, whether it is mirrored, and the layers."""

    quantities: tuple[str, ...]
    donor: int
    mirrored: bool
    layers: tuple[str, ...]


def _asked(state: State, kind: str, n_images: int, layers: Sequence[str]) -> _Exchange:
    further, first, last = (int(state.options.get(one.name, one.start)) for one in (_DONOR, _FIRST, _LAST))
    donor, first = (state.image + further) % n_images, min(first, len(layers))
    return _Exchange(
        _edited(kind), donor, donor == state.image, tuple(layers[first - 1 : max(first, min(last, len(layers)))])
    )


def _edited(kind: str) -> tuple[str, ...]:
    """The quantities that the affinity compares; all three for one that compares tokens."""
    compared = dict.fromkeys(name.removesuffix("_unrotated") for name in KINDS[kind])
    return tuple(name for name in compared if name in _PLURAL) or tuple(_PLURAL)


def _whose(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The resemblance (y, x) of every patch to the donor's, after the exchange and before."""
    live = inputs.live
    assert live is not None
    asked = _asked(inputs.state, str(inputs.eig.attrs["affinity"]), len(live.images), live.layers)

    def given_out(place: int, edits: object = ()) -> xr.DataTree:
        # Only what the model gives out is shown, so hardly anything is recorded.
        return intervene(
            live.model,
            live.images[place : place + 1],
            edits,
            size=live.size,
            layers=-1,
            quantities="value",
            progress=False,
        )

    # What comes out without an edit is the same for every range of layers, and for both settings.
    plain, donor = (
        inputs.kept(("plain", place), lambda place=place: given_out(place))
        for place in (inputs.state.image, asked.donor)
    )
    theirs = live.images[asked.donor : asked.donor + 1]
    edited = given_out(
        inputs.state.image, exchange(asked.quantities, theirs, list(asked.layers), mirrored=asked.mirrored)
    )
    after, before = (resemblance(one, plain, donor, mirrored=asked.mirrored).values[0] for one in (edited, plain))
    return after, before


def _tiles(shown: ShownState, side: Side) -> list[Tile]:
    limit = symmetric_limit(np.stack(side.data))
    tiles = []
    for values, name in zip(side.data, ("after the exchange", "before"), strict=True):
        colours = with_opacity(colour_field(values, limit), shown.state.opacity, np.zeros(values.shape, bool))
        tiles.append(Tile(colours, values, shown.picture.pixels, name))
    return tiles


def _heading(state: State, side: Side) -> str:
    further = int(state.options.get(_DONOR.name, _DONOR.start))
    donor = f"the image {further} further on" if further else "the image itself, left for right"
    return f"{' and '.join(_PLURAL[name] for name in _edited(side.question.affinity))} of {donor}"


def _ends(state: State, side: Side) -> tuple[str, str]:
    limit = f"{symmetric_limit(np.stack(side.data)):#.3g}"
    return f"own −{limit}", f"donor's {limit}"


def _code(program: Program, sides: Sequence[CodedSide]) -> list[str]:
    side, facts = sides[0], program.facts
    asked = _asked(program.state, side.question.affinity, len(facts.images), facts.layers)
    own, theirs = (f"images[{place} : {place + 1}]" for place in (program.state.image, asked.donor))
    turned = {"mirrored": asked.mirrored or None}
    edit, plain, donor, edited = (f"{name}{side.suffix}" for name in ("edit", "plain", "donor", "edited"))
    return [
        *([] if program.images == "images" else ["# model, images: what the explorer was given"]),
        f"{edit} = {call('st.exchange', [repr(asked.quantities), theirs, repr(list(asked.layers))], turned)}",
        f"{plain}, {donor} = (st.intervene(model, one, layers=-1) for one in ({own}, {theirs}))",
        f"{edited} = st.intervene(model, {own}, {edit}, layers=-1)",
        call(
            "st.overlay",
            [own, call("st.resemblance", [edited, plain, donor], turned)],
            {"opacity": program.state.opacity},
        ),
    ]


EXCHANGE = View(
    "exchange",
    "Exchange",
    "The model runs again with the queries and keys (QK) or the values (VV) of another image: whose patches come out?",
    _code,
    _tiles,
    data=_whose,
    sliders=(_DONOR, _FIRST, _LAST),
    needs=(MODEL,),
    legend="Patches in gold come out of the model more like the donor's patch in the same place, patches in blue more "
    "like their own; the second image is the same without the exchange.",
    scale=DIVERGING,
    ends=_ends,
    heading=_heading,
    reads=("donor's less own",),
    page=None,
)
