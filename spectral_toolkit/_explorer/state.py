"""The settings of all controls of the explorer, as one plain dataclass."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from .._affinity.features import KINDS
from .._affinity.presets import PRESETS as NAMED
from .._affinity.presets import preset_weights
from .._affinity.table import KERNELS, SCOPES, check_combination
from .._analysis.cloud import PROJECTIONS
from .._render.composite import check_threshold
from .._render.patch_colours import COLOURINGS
from ..errors import SpectralToolkitError
from .selection import Patches, checked_selection
from .view import MODEL, checked_options, offered
from .views import VIEWS

PRESETS = (*NAMED, "invert")
MAX_WEIGHT = 2.0
MAX_EIGENVECTORS = 24
MAX_SEGMENTS = 12
MAX_HEADS = 4096
MOST_LINKED = 200
"""Chosen patches that a link still holds; more would make it too long for what links are pasted into."""


@dataclass(frozen=True)
class State:
    """What is shown, and how it is computed. A state never changes in place: ``dataclasses.replace`` makes another.

    Attributes
    ----------
    image
        Position of the image.
    scope
        ``"image"``: every image is solved alone. ``"dataset"``: all images are solved as one problem, with edges
        between them, and share their eigenvectors and colours.
    affinity, kernel
        As ``st.affinity`` takes them; a kernel of None is the default of the affinity.
    weights
        Weight of every layer that is switched on; None stands for all layers at 1.
    n_eigenvectors
        How many eigenvectors are computed.
    component
        The eigenvector shown, counted from 1.
    three
        The three eigenvectors shown as red, green and blue; the last one computed stands for any beyond it.
    n_segments
        ``"auto"``, ``"eigengap"``, as ``st.segment`` takes them, or a number from 2.
    opacity
        Opacity of what lies over the image, 0 to 1.
    smooth
        Whether to interpolate between patches.
    threshold
        Where the eigenvector is cut in two, as a fraction of its largest magnitude, -1 to 1 in steps of 0.01: only the
        side above is coloured. None means no cut.
    view
        The name of a view, one of ``st.views.VIEWS``.
    compare
        Whether a second setting is shown beside the first.
    other_affinity, other_kernel, other_layers
        The second setting; ``other_layers`` is "same", or one of "all", "early", "middle", "late".
    patch
        Row and column of the tapped patch, or None.
    heads
        Whether the tapped patch is followed through every head.
    other_component
        The eigenvector of the second setting; None is that of the first.
    timestep, other_timestep
        For a denoiser: position of the timestep that each setting shows; None takes all of them together.
    head_map
        The map shown large in the view of all heads: an affinity, a layer and the number of a head; None is the first.
    mask_outliers
        Whether tokens of outlying norm are left out of their layer's affinity.
    options
        Values of the sliders that views have of their own.
    axes
        The two eigenvectors in which a cloud shows the patches, across and upwards.
    projection
        ``"components"`` shows these two; ``"tsne"`` shows t-SNE of all eigenvectors.
    coloured
        What colours the points of a cloud: ``"pixels"``, ``"position"``, ``"segment"``, ``"image"`` or ``"label"``.
    selection
        The chosen patches: (image, row, column) of each, on the grid of the first setting.
    outlined
        Whether the outlines of labels lie over the image.

    Examples
    --------
    >>> State.from_dict(State(affinity="vv", patch=(3, 4)).to_dict()) == State(affinity="vv", patch=(3, 4))
    True
    """

    image: int = 0
    scope: str = "image"
    affinity: str = "qk"
    kernel: str | None = None
    weights: dict[str, float] | None = None
    n_eigenvectors: int = 10
    component: int = 1
    three: tuple[int, int, int] = (1, 2, 3)
    n_segments: int | str = "auto"
    opacity: float = 0.7
    smooth: bool = False
    threshold: float | None = None
    view: str = "component"
    compare: bool = True
    other_affinity: str = "vv"
    other_kernel: str | None = None
    other_layers: str = "same"
    patch: tuple[int, int] | None = None
    heads: bool = False
    head_map: tuple[str, str, int] | None = None
    other_component: int | None = None
    timestep: int | None = None
    other_timestep: int | None = None
    mask_outliers: bool = False
    options: dict[str, float] = field(default_factory=dict)
    axes: tuple[int, int] = (1, 2)
    projection: str = "components"
    coloured: str = "pixels"
    selection: Patches = ()
    outlined: bool = False

    @property
    def cut(self) -> float | None:
        """The threshold in a view that shows a cut; None in all others."""
        return self.threshold if "threshold" in VIEWS[self.view].controls else None

    def of_side(self, place: int) -> State:
        """The state as one of two settings shows it."""
        other = self.other_component
        return replace(self, component=min(other, self.n_eigenvectors)) if place and other is not None else self

    def to_dict(self) -> dict[str, object]:
        """The state as plain Python values that JSON can hold."""
        return json.loads(json.dumps(asdict(self)))

    def to_link(self, layers: Sequence[str] = ()) -> str:
        """The state as short JSON: what differs from the defaults, and no selection of many patches.

        Parameters
        ----------
        layers
            Names of all layers: weights that are 1 for each of them are the default.

        Examples
        --------
        >>> State(affinity="vv", component=3).to_link()
        '{"affinity":"vv","component":3}'
        """
        first, now = State().to_dict(), self.to_dict()
        if len(self.selection) > MOST_LINKED:
            now["selection"] = first["selection"]
        if self.weights == dict.fromkeys(layers, 1.0):
            now["weights"] = None
        return json.dumps({name: value for name, value in now.items() if value != first[name]}, separators=(",", ":"))

    @classmethod
    def from_link(cls, link: str) -> State:
        """Read a state from what `to_link` returned.

        Raises
        ------
        SpectralToolkitError
            If it is no such text.
        """
        try:
            values = json.loads(link)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise SpectralToolkitError(
                f"The link holds the state {link[:80]!r}, which cannot be read: copy it once more, whole."
            )
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> State:
        """Read a state from what `to_dict` returned; fields that are left out keep their defaults.

        Raises
        ------
        SpectralToolkitError
            If there is no such field.
        """
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise SpectralToolkitError(f"The state has no {unknown[0]!r}: its fields are {', '.join(known)}.")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        if "selection" in lists:
            lists["selection"] = tuple(tuple(one) if isinstance(one, list) else one for one in lists["selection"])
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Facts:
    """What a state is checked against: the capture that is explored.

    Attributes
    ----------
    layers, images, kinds
        Names of the layers, of the images, and of the kinds of affinity that can be made.
    grids
        The grid (rows, columns) of each layer.
    quantities
        What every layer has been captured with, and ``"label"`` where there are label maps.
    sources
        How many captures there are: the second setting shows the second.
    timesteps, other_timesteps
        The timesteps of each setting, where there are several.
    """

    layers: tuple[str, ...]
    images: tuple[str, ...]
    kinds: tuple[str, ...]
    grids: dict[str, tuple[int, int]]
    quantities: frozenset[str]
    sources: int = 1
    timesteps: tuple[float, ...] = ()
    other_timesteps: tuple[float, ...] = ()

    @property
    def has_tokens(self) -> bool:
        """Whether every layer has its tokens."""
        return "token" in self.quantities

    @property
    def has_labels(self) -> bool:
        """Whether label maps were given with the images."""
        return "label" in self.quantities

    def grid_of(self, weights: Mapping[str, float]) -> tuple[int, int]:
        """The base grid under these weights: the finest layer of positive weight."""
        on = [self.grids[name] for name in self.layers if weights.get(name, 0) > 0] or list(self.grids.values())
        return max(on, key=lambda grid: grid[0] * grid[1])

    def weights_shown(self, state: State) -> list[Mapping[str, float]]:
        """The weights of every setting that a state shows: one, or two that are compared."""
        weights = dict.fromkeys(self.layers, 1.0) if state.weights is None else state.weights
        if not state.compare:
            return [weights]
        return [weights, weights if state.other_layers == "same" else self.preset(state.other_layers, weights)]

    def grids_shown(self, state: State) -> list[tuple[int, int]]:
        """The base grid of every setting that a state shows."""
        return [self.grid_of(weights) for weights in self.weights_shown(state)]

    def most_eigenvectors(self, state: State) -> int:
        """The number of eigenvectors that every setting shown by a state can have."""
        return min(rows * columns for rows, columns in self.grids_shown(state)) - 2

    def preset(self, name: str, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights of a preset; ``"invert"`` switches layers on that were off, and off that were on."""
        if name == "invert":
            return dict.fromkeys([layer for layer in self.layers if layer not in weights] or self.layers, 1.0)
        return {layer: weight for layer, weight in preset_weights(self.layers, name).items() if weight > 0}


def as_state(state: object) -> State:
    """A state as it is, or from what `State.to_dict` or JSON gave; None is the first state.

    Examples
    --------
    >>> as_state({"affinity": "vv"}).affinity
    'vv'
    """
    if state is None:
        return State()
    if isinstance(state, Mapping):
        return State.from_dict(state)
    if not isinstance(state, State):
        raise SpectralToolkitError(
            f"The state is a {type(state).__name__}: give a State, such as dataclasses.replace(explorer.state, "
            "affinity='vv'), or its fields in a dictionary, such as {'affinity': 'vv'}."
        )
    return state


def checked(state: State, facts: Facts) -> State:
    """The same state with every active layer spelled out; raises an error that says what is wrong with it."""
    image = state.image
    if isinstance(image, str) and image in facts.images:
        image = facts.images.index(image)
    weights = checked_weights(state.weights, facts)
    _one_of("scope", state.scope, SCOPES)
    if state.scope == "dataset" and state.mask_outliers:
        raise SpectralToolkitError(
            "mask_outliers=True is not offered with scope='dataset': leave it False, or use scope='image'."
        )
    _whole("image", image, 0, len(facts.images) - 1)
    for name in ("affinity", "other_affinity"):
        _one_of(name, getattr(state, name), facts.kinds if name == "affinity" or state.compare else tuple(KINDS))
    for side in ("", "other_"):
        kind, kernel = getattr(state, f"{side}affinity"), getattr(state, f"{side}kernel")
        if kernel is not None:
            _one_of(f"{side}kernel", kernel, tuple(KERNELS))
        check_combination(kind, kernel, "mean", state.scope, {})
    view, _ = VIEWS.choose(state.view)
    if MODEL in view.needs and MODEL not in facts.quantities:
        raise SpectralToolkitError(
            f"view={view.name!r} runs the model again, and this explorer has none: use st.Explorer(model, images)."
        )
    _one_of("view", view.name, [one.name for one in offered(facts.quantities)])
    _one_of("other_layers", state.other_layers, ("same", *NAMED))
    rows, columns = facts.grid_of(weights)
    _whole("n_eigenvectors", state.n_eigenvectors, 1, min(MAX_EIGENVECTORS, facts.most_eigenvectors(state)))
    _whole("component", state.component, 1, state.n_eigenvectors)
    if state.n_segments not in ("auto", "eigengap"):
        _whole("n_segments", state.n_segments, 2, MAX_SEGMENTS)
    for name in ("smooth", "compare", "heads", "mask_outliers", "outlined"):
        if not isinstance(getattr(state, name), bool):
            raise SpectralToolkitError(f"{name}={getattr(state, name)!r} is neither True nor False.")
    if not _is_number(state.opacity) or not 0 <= state.opacity <= 1:
        raise SpectralToolkitError(f"opacity={state.opacity!r} is out of range: expected a number from 0 to 1.")
    threshold = check_threshold(state.threshold)
    three = tuple(state.three) if isinstance(state.three, Sequence) and not isinstance(state.three, str) else ()
    if len(three) != 3:
        raise SpectralToolkitError(
            f"three={state.three!r} is not understood: give three components, such as (1, 2, 3)."
        )
    for component in three:
        _whole("three", component, 1, MAX_EIGENVECTORS)
    three = tuple(min(component, state.n_eigenvectors) for component in three)
    axes = checked_cloud(state, facts)
    patch = state.patch
    if patch is not None:
        if len(patch) != 2:
            raise SpectralToolkitError(f"patch={patch!r} is not understood: give a row and a column, or None.")
        # Another choice of layers may have another grid: the patch stays if it lies on it, and is forgotten otherwise.
        patch = (int(patch[0]), int(patch[1]))
        _whole("patch row", patch[0], 0, rows - 1)
        _whole("patch column", patch[1], 0, columns - 1)
    if state.other_component is not None:
        _whole("other_component", state.other_component, 1, state.n_eigenvectors)
    for name in ("timestep", "other_timestep"):
        known, place = getattr(facts, f"{name}s"), getattr(state, name)
        if place is not None and not known:
            raise SpectralToolkitError(f"{name}={place!r} has no meaning here: the capture has one timestep; use None.")
        if place is not None:
            _whole(name, place, 0, len(known) - 1)
    if state.head_map is not None:
        _check_head_map(state.head_map, facts)
    if state.mask_outliers and not facts.has_tokens:
        raise SpectralToolkitError(
            "mask_outliers=True needs 'token' of the layers, which was not captured: capture it with quantities=(..., "
            "'token'), or leave it False."
        )
    return replace(
        state,
        image=int(image),
        weights=weights,
        patch=patch,
        opacity=float(state.opacity),
        three=three,
        axes=axes,
        selection=checked_selection(state.selection, len(facts.images), (rows, columns)),
        threshold=None if threshold is None else round(threshold, 2),
        view=view.name,
        options=checked_options(view, state.options),
    )


def _check_head_map(head_map: object, facts: Facts) -> None:
    if not isinstance(head_map, Sequence) or isinstance(head_map, str) or len(head_map) != 3:
        raise SpectralToolkitError(
            f"head_map={head_map!r} is not understood: give an affinity, a layer and a head, such as "
            f"{(facts.kinds[0], facts.layers[0], 0)!r}, or None."
        )
    _one_of("head_map affinity", head_map[0], facts.kinds)
    _one_of("head_map layer", head_map[1], facts.layers)
    _whole("head_map head", head_map[2], 0, MAX_HEADS - 1)


def checked_weights(weights: Mapping[str, float] | None, facts: Facts) -> dict[str, float]:
    """The weight of every active layer, in order of depth; raises an error that says what is wrong with them."""
    if weights is None:
        return dict.fromkeys(facts.layers, 1.0)
    for name, weight in weights.items():
        if name not in facts.layers:
            raise SpectralToolkitError(f"weights name {name!r}, which is not a layer: use {', '.join(facts.layers)}.")
        if not _is_number(weight) or not 0 <= weight <= MAX_WEIGHT:
            raise SpectralToolkitError(
                f"The weight of {name!r} is {weight!r}: expected a number from 0 to {MAX_WEIGHT:g}."
            )
    if not any(weight > 0 for weight in weights.values()):
        raise SpectralToolkitError("No layer has a weight above 0, so the graph has no edges: switch a layer on.")
    return {name: float(weights[name]) for name in facts.layers if name in weights}


def checked_cloud(state: State, facts: Facts) -> tuple[int, int]:
    """The two components of a cloud; raises an error that says what is wrong with its settings."""
    _one_of("projection", state.projection, PROJECTIONS)
    _one_of("coloured", state.coloured, tuple(COLOURINGS))
    if (state.coloured == "label" or state.outlined) and not facts.has_labels:
        name = "outlined=True" if state.outlined else "coloured='label'"
        raise SpectralToolkitError(f"{name} needs labels: give st.Explorer(..., labels=) a label map for every image.")
    axes = tuple(state.axes) if isinstance(state.axes, Sequence) and not isinstance(state.axes, str) else ()
    if len(axes) != 2:
        raise SpectralToolkitError(f"axes={state.axes!r} is not understood: give two components, such as (1, 2).")
    for component in axes:
        _whole("axes", component, 1, MAX_EIGENVECTORS)
    return min(axes[0], state.n_eigenvectors), min(axes[1], state.n_eigenvectors)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise SpectralToolkitError(f"{name}={value!r} is not offered: use one of {', '.join(map(repr, known))}.")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not least <= int(value) <= most:
        raise SpectralToolkitError(f"{name}={value!r} is out of range: expected a whole number from {least} to {most}.")
