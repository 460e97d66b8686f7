"""Two captures side by side, or two timesteps of a denoiser: each is a session, and what they show is joined here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from .._analysis.comparison import align, subspace_distance
from .._compute.settings import computing
from .._io.activations import image_names
from .._io.grids import moved
from .._io.pairing import image_hashes, refuse_other_images
from ..errors import ComparisonError, SpectralToolkitError
from .labels import Labels
from .session import Get, MissingError, Session, ShownState, Side, costs_of
from .state import Facts, State
from .view import LiveModel
from .views import VIEWS
from .worker import Check

TIMESTEP = "timestep"


class SeveralSessions(Session):
    """One capture or two, each perhaps with several timesteps; the second setting shows the second of them.

    The eigenvectors of the second are aligned to those of the first, and their subspaces are compared.
    """

    def __init__(
        self,
        activations: xr.DataTree,
        device: str = "auto",
        pictures: object = None,
        labels: Labels | None = None,
        live: LiveModel | None = None,
        *,
        other: xr.DataTree | None = None,
        other_live: LiveModel | None = None,
    ) -> None:
        super().__init__(activations, device, pictures, labels, live)
        self._lives = (live, other_live)
        self._trees = [activations] if other is None else [activations, other]
        self._opened: dict[tuple[int, int | None], Session] = {}
        times = [_timesteps(tree) for tree in self._trees]
        self.facts = replace(self.facts, timesteps=times[0], other_timesteps=times[-1], sources=len(self._trees))
        if other is None:
            return
        names = image_names(activations)
        if image_names(other) != names:
            raise SpectralToolkitError(
                f"The two captures are of different images (the first begins with {names[0]!r}, the second with "
                f"{image_names(other)[0]!r}): capture the same images in the same order with both models."
            )
        hashes = image_hashes(activations, names), image_hashes(other, names)
        refuse_other_images(names, *hashes, ("the first capture", "the second"), SpectralToolkitError)
        facts = self.session(1, None).facts
        kinds = tuple(kind for kind in self.facts.kinds if kind in facts.kinds)
        if not kinds:
            raise SpectralToolkitError(
                f"The two captures have no affinity in common: the first has {', '.join(self.facts.kinds)}, the second "
                f"{', '.join(facts.kinds)}. Capture the same quantities with both models."
            )
        self.facts = replace(self.facts, kinds=kinds, quantities=self.facts.quantities & facts.quantities)

    def session(self, place: int, timestep: int | None) -> Session:
        """The session of one of the captures at one timestep, or over all of them."""
        if place == 0 and timestep is None:
            return self
        key = (place, timestep)
        if key not in self._opened:
            tree, live = self._trees[place], self._lives[place]
            if timestep is not None:
                tree = tree.isel({TIMESTEP: [timestep]})
                live = None if live is None else live.at(_timesteps(self._trees[place])[timestep])
            self._opened[key] = Session(tree, self.device, self.pictures, self.labels, live)
        return self._opened[key]

    @computing
    def answer(self, state: State, check: Check) -> ShownState:
        """Compute what a state shows; see `Session.answer`."""
        return self._joined(
            state,
            lambda session, one: Session.answer(session, one, check),
            lambda key, make: self._made(key, make, check),
        )

    @computing
    def kept(self, state: State) -> ShownState | None:
        """What a state shows if all of it has been computed before, otherwise None."""

        def found(session: Session, one: State) -> ShownState:
            shown = Session.kept(session, one)
            if shown is None:
                raise MissingError
            return shown

        try:
            return self._joined(state, found, self._found)
        except MissingError:
            return None

    def close(self) -> None:
        """Free everything that is held."""
        for one in self._opened.values():
            one.close()
        self._opened.clear()
        self._trees, self._lives = [], (None, None)
        super().close()

    def second(self, state: State) -> tuple[Session, State]:
        """The session of the second setting, and the state in which it shows that setting alone."""
        session = self.session(len(self._trees) - 1, state.other_timestep)
        weights = by_depth(state.weights, self.facts, session.facts)
        if state.other_layers != "same":
            weights = session.facts.preset(state.other_layers, weights)
        grids = self.facts.grids_shown(state)[0], session.facts.grid_of(weights)
        most = min(state.n_eigenvectors, session.facts.grid_of(weights)[0] * session.facts.grid_of(weights)[1] - 2)
        alone = replace(
            state.of_side(1),
            compare=False,
            affinity=state.other_affinity,
            kernel=state.other_kernel,
            weights=weights,
            n_eigenvectors=most,
            patch=None if state.patch is None else moved(state.patch, *grids),
        )
        if VIEWS[state.view].alone:  # which has no second figure
            alone = replace(alone, view=State.view, threshold=None)
        return session, replace(alone, component=min(alone.component, most))

    def _joined(self, state: State, get: Callable[[Session, State], ShownState], own: Get) -> ShownState:
        first = self.session(0, state.timestep)
        shown = get(first, replace(state, compare=False))
        names = self._names(state)
        one = replace(shown.sides[0], source=names[0])
        if not state.compare:
            return replace(shown, state=state, sides=[one])
        session, alone = self.second(state)
        beside = get(session, alone).sides[0]
        asked = (one.question, beside.question, state.timestep, state.other_timestep)
        aligned, said = own(("aligned", *asked), lambda check: _compared(one, beside))
        image = 0 if beside.question.image is not None else state.image
        eig = aligned if beside.question.image is not None else aligned.isel(image=slice(image, image + 1))
        beside = replace(beside, eig=eig, whole=aligned, source=names[1])
        if beside.costs is not None:  # an eigenvector that was turned has its cuts at other thresholds
            graph = session.graph(beside.question)
            costs = own(("costs", *asked, alone.component), lambda check: costs_of(eig, graph, alone.component))
            beside = replace(beside, costs=costs)
        return replace(shown, state=state, sides=[one, beside], distance=said)

    def _names(self, state: State) -> list[str]:
        models = [str(tree.attrs.get("model", "")) for tree in self._trees]
        names = models if len(set(models)) > 1 and all(models) else ["first", "second"][: len(models)]
        names = names if len(names) > 1 else ["", ""]
        times = (self.facts.timesteps, state.timestep), (self.facts.other_timesteps, state.other_timestep)
        parts = [
            [name, "" if not known else "all timesteps" if place is None else f"t = {known[place]:g}"]
            for name, (known, place) in zip(names, times, strict=True)
        ]
        return [", ".join(filter(None, part)) for part in parts]


def open_session(
    activations: xr.DataTree,
    device: str,
    pictures: object,
    labels: Labels | None = None,
    live: LiveModel | None = None,
    other: xr.DataTree | None = None,
    other_live: LiveModel | None = None,
) -> Session:
    """The session of an explorer: of one capture, of two, or of one with several timesteps."""
    if other is None and not _timesteps(activations):
        return Session(activations, device, pictures, labels, live)
    return SeveralSessions(activations, device, pictures, labels, live, other=other, other_live=other_live)


def by_depth(weights: Mapping[str, float] | None, mine: Facts, theirs: Facts) -> dict[str, float]:
    """The same weights for the layers of another model: those of the same names, or of the same relative depth."""
    weights = dict.fromkeys(mine.layers, 1.0) if weights is None else weights
    if set(mine.layers) == set(theirs.layers):
        return dict(weights)
    n, m = len(mine.layers), len(theirs.layers)
    beside = {layer: mine.layers[min(n - 1, int((place + 0.5) * n / m))] for place, layer in enumerate(theirs.layers)}
    found = {layer: weights[name] for layer, name in beside.items() if weights.get(name, 0) > 0}
    return found or dict.fromkeys(theirs.layers, 1.0)


def _timesteps(tree: xr.DataTree) -> tuple[float, ...]:
    """The timesteps of a denoiser's capture, where there are several."""
    for node in tree.children.values():
        if node.sizes.get(TIMESTEP, 1) > 1:
            values = node[TIMESTEP].to_numpy() if TIMESTEP in node.coords else np.arange(node.sizes[TIMESTEP])
            return tuple(float(value) for value in values)
    return ()


def _compared(one: Side, other: Side) -> tuple[xr.Dataset, str]:
    """The second result aligned to the first, and in one sentence how far their subspaces are apart."""
    aligned = align(other.whole, one.whole)
    try:
        distance = subspace_distance(one.whole, other.whole)
    except ComparisonError as error:  # eigenvectors that fill the grid can be looked at, and have no distance
        return aligned, str(error)
    k = distance.sizes["rank"]
    values: Sequence[float] = [float(np.mean(distance[name])) for name in ("geodesic", "overlap", "chance")]
    said = (
        f"The subspaces of the first {k} eigenvectors are {values[0]:.2f} apart (Grassmann distance, of at most "
        f"{math.sqrt(k) * math.pi / 2:.2f}) and overlap by {values[1]:.0%}, where random ones overlap by "
        f"{values[2]:.0%}."
    )
    return aligned, said
