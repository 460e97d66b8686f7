"""Computes what the explorer shows, by calls of the public functions, and keeps what can be used again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from .._affinity import LayerGraph, affinity
from .._affinity.features import KINDS
from .._affinity.head_rows import head_rows
from .._affinity.nearest import JOINT, nearest_in
from .._affinity.rows import affinity_row
from .._analysis.regions import cut_costs
from .._analysis.regions.joint import MOST_DENSE
from .._analysis.trust import Statement, outlying_masks, trust_statements
from .._compute.settings import computing
from .._io.activations import check_tree, image_coordinates, image_names, layer_names
from .._io.grids import moved
from .._render.composite import shrink
from .._render.patch_colours import mean_colours
from .._render.underlay import ShownPicture, shown_pictures
from ..errors import SpectralToolkitError
from ..solvers import solve
from .connected import Connected, most_connected
from .labels import Labels, LabelScore, scores_beside
from .state import Facts, State
from .view import MODEL, Inputs, LiveModel, quantities_of
from .views import SEGMENTS, VIEWS
from .worker import Check

_Value = TypeVar("_Value")

_KEPT_GRAPHS = 6
_NEAREST = 10
_KEPT_ANSWERS = 48
_LAYERS_SHARE = 0.6  # of the progress bar, for making the layers' operators; the rest is the solve
_MAX_SIDE = 512  # pixels of the longer side of an image on the page


class Get(Protocol):
    """Returns what ``make`` does, which is computed once for a key, or raises an error where it is not there yet."""

    def __call__(self, key: Hashable, make: Callable[[Check], _Value], /) -> _Value: ...


@dataclass(frozen=True)
class Question:
    """Everything that determines the numbers of one result, and nothing else; without an image, it is of all as one."""

    image: int | None
    affinity: str
    kernel: str | None
    weights: tuple[tuple[str, float], ...]
    n_eigenvectors: int
    mask_outliers: bool

    @property
    def scope(self) -> str:
        """``"dataset"`` where no image is named, because all are one problem."""
        return "dataset" if self.image is None else "image"


@dataclass
class Side:
    """The result of one setting: eigenvectors of one image, and whatever else is shown.

    Attributes
    ----------
    eig
        As ``st.solve`` returns it, of one image.
    whole
        As ``st.solve`` returned it: of all images where they were solved as one, otherwise the same as ``eig``.
    data
        What the view computed.
    whole_data
        The same for everything that was solved together, where the view computes it from all of that.
    costs
        Cut values at every threshold; None where nothing is cut, or the image has too many patches.
    source
        Which of two captures or timesteps it is of; empty where there is only one.
    patch
        The tapped patch on the grid of this setting, and its affinities: ``joint_row`` (y, x), ``layer_rows`` by layer.
    connected
        For images that were solved as one: what the tapped patch is connected to in every image, the strongest first.
    labels, categories
        Labels of the patches of the image, (y, x), -1 where there is none, and the names of their categories.
    nearest
        The patches nearest to the tapped one by affinity, as ``st.nearest`` gives them.
    scores
        How segments and eigenvectors agree with the labels.
    """

    question: Question
    eig: xr.Dataset
    trust: list[Statement]
    whole: xr.Dataset
    data: Any = None
    whole_data: Any = None
    costs: xr.Dataset | None = None
    source: str = ""
    patch: tuple[int, int] | None = None
    joint_row: np.ndarray | None = None
    layer_rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    connected: Sequence[Connected] = ()
    labels: np.ndarray | None = None
    categories: Sequence[str] = ()
    nearest: pd.DataFrame | None = None
    scores: Sequence[LabelScore] = ()

    def scaling(self, components: int | Sequence[int]) -> np.ndarray:
        """The values from which the ends of colours are taken: images that are solved as one share their colours."""
        return self.whole["eigenvector"].sel(component=components).values


@dataclass
class ShownState:
    """What one state shows: one side, or two that are compared.

    Attributes
    ----------
    distance
        For two captures: in one sentence, how far their subspaces are apart.
    picture, small
        The image as it was, in ``picture.pixels``; and with no side above 128 pixels, for small tiles.
    names
        Names of all images.
    """

    state: State
    picture: ShownPicture
    small: np.ndarray
    sides: list[Side]
    names: Sequence[str] = ()
    distance: str = ""


def questions(state: State, facts: Facts) -> list[Question]:
    """What a state asks for: one question, or two when it compares."""
    sides = ((state.affinity, state.kernel), (state.other_affinity, state.other_kernel))
    return [
        Question(
            state.image if state.scope == "image" else None,
            *side,
            _key(weights),
            state.n_eigenvectors,
            state.mask_outliers,
        )
        for side, weights in zip(sides, facts.weights_shown(state), strict=False)
    ]


def wanted(state: State, facts: Facts) -> object:
    """What must be computed for a state: two states that want the same differ only in appearance."""
    view = VIEWS[state.view]
    data = (view, view.key(state)) if view.data is not None else None
    rows = (state.patch, state.heads and state.patch is not None)
    cut = None if state.cut is None else (state.component, state.of_side(1).component)
    times = (state.timestep, state.other_timestep if state.compare else None)
    scored = state.n_segments if is_scored(state, facts) else None
    return (state.image, tuple(questions(state, facts)), data, cut, rows, scored, times)


def is_scored(state: State, facts: Facts) -> bool:
    """Whether segments are shown beside labels."""
    return facts.has_labels and "n_segments" in VIEWS[state.view].controls


def can_be_written_out(grid: Sequence[int]) -> bool:
    """Whether the joint graph over a grid is small enough for cut values to be computed."""
    return grid[0] * grid[1] <= MOST_DENSE


def _key(weights: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, weight) for name, weight in weights.items() if weight > 0)


class Session:
    """Activations, with the graphs and results made from them so far."""

    def __init__(
        self,
        activations: xr.DataTree,
        device: str = "auto",
        pictures: object = None,
        labels: Labels | None = None,
        live: LiveModel | None = None,
    ) -> None:
        check_tree(activations)
        if pictures is None and "pixels" not in activations.data_vars:
            raise SpectralToolkitError(
                "The activations hold no images: put them into the root as 'pixels' (image, y_px, x_px, rgb), as "
                "st.capture does."
            )
        self.activations = activations
        self.pictures = activations if pictures is None else pictures
        self.device = device
        self.labels = labels
        self.live = live
        layers = tuple(layer_names(activations))
        held = quantities_of(activations, layers)
        kinds = tuple(kind for kind, needed in KINDS.items() if set(needed) <= held)
        if not kinds:
            raise SpectralToolkitError(
                "The layers have no quantity in common to compare: capture queries and keys, or values."
            )
        self.facts = Facts(
            layers=layers,
            images=tuple(image_names(activations)),
            kinds=kinds,
            grids={name: _grid(activations.children[name]) for name in layers},
            quantities=held | ({"label"} if labels is not None else set()) | ({MODEL} if live is not None else set()),
        )
        # These are filled on a background thread and read on the main one.
        self._lock = threading.Lock()
        self._graphs: OrderedDict[tuple[object, ...], LayerGraph] = OrderedDict()
        self._results: OrderedDict[Hashable, Any] = OrderedDict()
        self._latest: dict[Hashable, xr.Dataset] = {}

    @computing
    def answer(self, state: State, check: Check) -> ShownState:
        """Compute what a state shows; ``check`` is called often, and an error that it raises ends the work."""
        return self._compose(state, lambda key, make: self._made(key, make, check))

    @computing
    def kept(self, state: State) -> ShownState | None:
        """What a state shows if all of it has been computed before, otherwise None."""
        try:
            return self._compose(state, self._found)
        except MissingError:
            return None

    def picture(self, image: int) -> ShownPicture:
        """One image in the shape of the original."""
        return self._kept_or_made(("picture", image), lambda: self._shown(image))

    def small(self, image: int, side: int = 128) -> np.ndarray:
        """The same image for small tiles, with no side above ``side`` pixels."""
        return self._kept_or_made(("small", image, side), lambda: shrink(self.picture(image).pixels, side))

    @computing
    def solved_for_all(self, question: Question) -> xr.Dataset:
        """The result for a question and every image, to be saved in a bundle."""
        if question.image is None:
            return self._made(("solve", question), lambda check: self._solved(question, check), _never)[0]
        settings = self._settings(question)
        if question.mask_outliers:
            settings["mask"] = outlying_masks(self.activations)
        graph = affinity(self.activations, question.affinity, **settings)
        return solve(
            graph.reweight({**dict.fromkeys(graph.layers, 0.0), **dict(question.weights)}), question.n_eigenvectors
        )

    def graph(self, question: Question) -> LayerGraph:
        """The graph of a question, with its layer weights."""
        key = (question.image, question.affinity, question.kernel, question.mask_outliers)
        with self._lock:
            graph = self._graphs.get(key)
        if graph is None:
            activations = self.activations if question.image is None else self._one(question.image)
            graph = affinity(activations, question.affinity, scope=question.scope, **self._settings(question))
            with self._lock:
                self._graphs[key] = graph
                # Neighbours in a dataset may have taken minutes: its graphs give way to each other only.
                alike = [one for one in self._graphs if (one[0] is None) == (question.image is None)]
                for oldest in alike[:-_KEPT_GRAPHS]:
                    del self._graphs[oldest]
        return graph.reweight({**dict.fromkeys(graph.layers, 0.0), **dict(question.weights)})

    def solved(self) -> list[tuple[Question, xr.Dataset]]:
        """All that has been solved and is still held."""
        with self._lock:
            return [
                (key[1], value[0]) for key, value in self._results.items() if isinstance(key, tuple) and _is_solved(key)
            ]

    def seed(self, question: Question, eig: xr.Dataset) -> None:
        """Take what was solved before, so that it is not solved again."""
        outlying = None if question.image is None else self._outlying(question.image)
        trust = trust_statements(eig if question.image is None else eig.isel(image=0), outlying=outlying)
        with self._lock:
            self._results["solve", question] = (eig, trust)

    def close(self) -> None:
        """Free everything that is held."""
        with self._lock:
            self._graphs.clear()
            self._results.clear()
            self._latest.clear()
        self.activations = self.pictures = xr.DataTree()
        self.live = None

    def _compose(self, state: State, get: Get) -> ShownState:
        sides, view = [], VIEWS[state.view]
        for question in questions(state, self.facts):
            whole, trust = get(("solve", question), lambda check, q=question: self._solved(q, check))
            index = state.image if question.image is None else 0
            eig = whole if question.image is not None else whole.isel(image=slice(index, index + 1))
            side = Side(question, eig, trust, whole)
            if view.data is not None and not (view.alone and sides):
                # What is common to a dataset is computed once, whichever image is shown.
                asked = None if view.alone else question
                key = ("data", view, asked, view.key(state), None if view.common else state.image)
                compute, inputs = view.data, self._inputs(state, question, eig, whole)
                data = get(key, lambda check, compute=compute, inputs=inputs: compute(inputs))
                side.data = data[index] if view.common else data
                side.whole_data = data if view.common else None
            if self.labels is not None:
                side.categories = self.labels.categories
                side.labels = self.labels.on((eig.sizes["y"], eig.sizes["x"]))[state.image]
                if is_scored(state, self.facts):
                    key = ("scores", question, state.n_segments)
                    side.scores = get(key, lambda check, q=question, w=whole: self._scores(state, q, w))
            if state.cut is not None:
                component = state.of_side(len(sides)).component
                key = ("costs", question, component)
                if question.image is not None:  # of many images the joint graph is never written out
                    side.costs = get(key, lambda check, q=question, e=eig, c=component: costs_of(e, self.graph(q), c))
            if state.patch is not None:
                # The same place in the image, whatever grid this setting has.
                grids = self.facts.grids_shown(state)
                patch = moved(state.patch, grids[0], grids[len(sides)])
                side.patch = patch
                rows = get(
                    ("rows", question, state.image, patch),
                    lambda check, q=question, p=patch: self._rows(q, state.image, p, check),
                )
                side.joint_row, side.layer_rows, side.connected, side.nearest = rows
                if state.heads and question.image is not None:
                    side.layer_rows = get(
                        ("heads", question, patch), lambda check, q=question, p=patch: self._head_rows(q, p)
                    )
            sides.append(side)
        return ShownState(state, self.picture(state.image), self.small(state.image), sides, self.facts.images)

    def _inputs(self, state: State, question: Question, eig: xr.Dataset, whole: xr.Dataset) -> Inputs:
        image, grid, known = state.image, (whole.sizes["y"], whole.sizes["x"]), self.labels
        images = slice(None) if question.image is None else slice(image, image + 1)
        return Inputs(
            state,
            eig,
            self._one(image),
            lambda: self.graph(question),
            lambda: self._outlying(image),
            whole,
            lambda: self.segments(state, question, whole),
            lambda: self._means(grid, images),
            None if known is None else lambda: known.on(grid)[images],
            self.live,
            self._kept_or_made,
        )

    def segments(self, state: State, question: Question, whole: xr.Dataset) -> np.ndarray:
        """Segments (image, y, x) of everything that was solved together: those that the view of segments shows."""
        key = ("data", SEGMENTS, question, SEGMENTS.key(state), None)
        eig = whole if question.image is not None else whole.isel(image=[0])
        compute = SEGMENTS.data
        assert compute is not None
        return self._kept_or_made(key, lambda: compute(self._inputs(state, question, eig, whole)))

    def known_segments(self, state: State, question: Question) -> np.ndarray | None:
        """The same if they have been computed before, otherwise None."""
        try:
            return self._found(("data", SEGMENTS, question, SEGMENTS.key(state), None), lambda _: np.empty(0))
        except MissingError:
            return None

    def _means(self, grid: tuple[int, int], images: slice) -> np.ndarray:
        """Mean colours of the pixels of every patch."""
        return self._kept_or_made(
            ("means", grid, images.start),
            lambda: np.stack(
                [mean_colours(self._shown(i).pixels, grid) for i in range(*images.indices(len(self.facts.images)))]
            ),
        )

    def _scores(self, state: State, question: Question, whole: xr.Dataset) -> Sequence[LabelScore]:
        assert self.labels is not None
        images = slice(None) if question.image is None else slice(question.image, question.image + 1)
        labels = self.labels.on((whole.sizes["y"], whole.sizes["x"]))[images]
        return scores_beside(whole, self.segments(state, question, whole), labels)

    def _solved(self, question: Question, check: Check) -> tuple[xr.Dataset, list[Statement]]:
        graph = self.graph(question)
        wanted = [member for member in graph.members if graph.weights[member.name] > 0]
        for number, member in enumerate(wanted):  # the slow part of a first solve; it can be stopped between layers
            check(_LAYERS_SHARE * number / len(wanted))
            graph.operators(member, slice(0, len(graph.images)))

        def step(_iteration: int, _at_most: int, residual: float) -> None:
            # The residual falls by about the same factor at every step, from about 1 to the tolerance of 1e-6.
            fallen = min(max(-np.log10(max(residual, 1e-12)) / 6, 0.0), 1.0)
            check(_LAYERS_SHARE + (1 - _LAYERS_SHARE) * fallen)

        place = (question.image, question.affinity, question.kernel, question.mask_outliers)
        eig = solve(graph, question.n_eigenvectors, start=self._latest.get(place), progress=step)
        self._latest[place] = eig
        if question.image is None:
            return eig, trust_statements(eig)
        return eig, trust_statements(eig.isel(image=0), outlying=self._outlying(question.image))

    def _rows(
        self, question: Question, image: int, patch: tuple[int, int], check: Check
    ) -> tuple[np.ndarray, dict[str, np.ndarray], list[Connected], pd.DataFrame]:
        """The patch's affinities in its own image, jointly and by layer; what it is connected to; and the nearest."""
        check()
        if question.image is not None:
            joint, layers = affinity_row(self.graph(question), patch)
            near = nearest_in({JOINT: joint, **layers}, patch, [self.facts.images[image]], 0, _NEAREST)
            return joint.values, {name: row.values for name, row in layers.items()}, [], near
        joint, layers = affinity_row(self.graph(question), patch, image)
        own = {name: row.isel(image=image).values for name, row in layers.items()}
        connected = most_connected(joint.values, image, patch, self.facts.images, self._shown)
        near = nearest_in({JOINT: joint, **layers}, patch, self.facts.images, image, _NEAREST)
        return joint.isel(image=image).values, own, connected, near

    def _head_rows(self, question: Question, patch: tuple[int, int]) -> dict[str, np.ndarray]:
        assert question.image is not None
        grid, found = self.facts.grid_of(dict(question.weights)), {}
        for name, _ in question.weights:
            graph = affinity(
                self._one(question.image), question.affinity, heads="each", layers=[name], **self._settings(question)
            )
            rows = head_rows(graph, 0, patch, grid).cpu().numpy()
            found |= {one.name: row.reshape(one.grid) for one, row in zip(graph.members, rows, strict=True)}
        return found

    def _settings(self, question: Question) -> dict[str, Any]:
        settings: dict[str, Any] = {"kernel": question.kernel, "device": self.device}
        if question.mask_outliers and question.image is not None:
            settings["mask"] = self._outlying(question.image)
        return settings

    def _outlying(self, image: int) -> dict[str, xr.DataArray]:
        """Outlying tokens of one image (1, y, x): found only once, because it takes as long as a warm solve."""
        return self._kept_or_made(("outlying", image), lambda: outlying_masks(self._one(image)))

    def _one(self, image: int) -> xr.DataTree:
        """The activations of one image: each is solved alone, so that the page need not wait for the others."""
        return self._kept_or_made(
            ("one", image), lambda: self.activations.isel({"image": slice(image, image + 1)}).load()
        )

    def _shown(self, image: int) -> ShownPicture:
        names = xr.Dataset(
            {"eigenvector": (("image", "y", "x", "component"), np.zeros((len(self.facts.images), 1, 1, 1)))},
            {"image": list(self.facts.images), **_boxes(self.activations)},
        )
        return next(iter(shown_pictures(self.pictures, names, image, max_side=_MAX_SIDE)))

    def _found(self, key: Hashable, make: Callable[[Check], _Value]) -> _Value:
        with self._lock:
            if key not in self._results:
                raise MissingError
            self._results.move_to_end(key)
            return self._results[key]

    def _made(self, key: Hashable, make: Callable[[Check], _Value], check: Check) -> _Value:
        try:
            return self._found(key, make)
        except MissingError:
            pass
        value = make(check)
        check()
        with self._lock:
            self._results[key] = value
            while len(self._results) > _KEPT_ANSWERS:
                self._results.popitem(last=False)
        return value

    def _kept_or_made(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        return self._made(key, lambda check: make(), _never)


def costs_of(eig: xr.Dataset, graph: LayerGraph, component: int) -> xr.Dataset | None:
    """The cut value at every threshold, or None where the joint graph is too large to be written out."""
    grid = eig.sizes["y"], eig.sizes["x"]
    return cut_costs(eig, graph, component).isel(image=0) if can_be_written_out(grid) else None


def _is_solved(key: Hashable) -> bool:
    return isinstance(key, tuple) and key[0] == "solve"


class MissingError(Exception):
    """Not computed yet."""


def _never(*_: object) -> None:
    return None


def _grid(node: xr.DataTree) -> tuple[int, int]:
    return node.sizes["y"], node.sizes["x"]


def _boxes(activations: xr.DataTree) -> dict[str, object]:
    return dict(image_coordinates(activations))
