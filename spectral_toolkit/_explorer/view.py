"""What a view of the explorer is: one row that carries all that anybody asks of it, and the table of all views."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import xarray as xr

from .._models.untyped import untyped
from .._render.tile import Tile
from .._table import NamedRow, NamedTable
from ..errors import SpectralToolkitError

if TYPE_CHECKING:
    from .._affinity import LayerGraph
    from .._io.images import Images
    from .._models.model import Model
    from .code import CodedSide, Program
    from .session import ShownState, Side
    from .state import State

T = TypeVar("T")

MODEL = "model"
"""What a view needs that runs the model again: an explorer of saved activations does not offer it."""
CONTROLS = ("component", "opacity", "smooth", "threshold", "three", "n_segments", "axes", "projection", "coloured")
"""Settings of the explorer that a view may use: each is a field of the state, and has a control that is shown then."""


@dataclass(frozen=True)
class Slider:
    """A number that only one view uses; the explorer shows a slider for it, and ``state.options`` holds its value.

    One of 0 and 1 in steps of 1 is shown as a switch.

    Attributes
    ----------
    name
        The key of ``state.options``.
    title, hint
        What stands beside the slider, and the sentence shown on hover.
    least, most, start
        The range, ends included, and the value before it is moved.
    step
        The distance between two values of the slider.
    """

    name: str
    title: str
    hint: str
    least: float
    most: float
    start: float
    step: float = 1.0

    @property
    def is_switch(self) -> bool:
        """Whether it has two values only, so that a switch is shown in its place."""
        return (self.least, self.most, self.step) == (0, 1, 1)

    def checked(self, value: object) -> float:
        """The value as a number, or one sentence on what is wrong with it."""
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not self.least <= float(value) <= self.most:  # pyright: ignore[reportArgumentType]
            raise SpectralToolkitError(
                f"{self.name}={value!r} is out of range: expected a number from {self.least:g} to {self.most:g}."
            )
        return float(value)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class LiveModel:
    """The model of an explorer, for views that run it again.

    Attributes
    ----------
    model
        What ``st.load_model`` returned.
    images
        The images that it was shown, as ``st.load_images`` returns them.
    layers
        The names of the layers that were captured.
    size
        The size at which they were captured, as ``st.capture`` takes it.
    """

    model: Model
    images: Images
    layers: tuple[str, ...]
    size: int | tuple[int, int] | None

    def at(self, timestep: float) -> LiveModel:
        """The same denoiser, at one of its timesteps."""
        return replace(self, model=untyped(self.model).at(timesteps=int(timestep)))


class Keep(Protocol):
    """Returns what ``make`` does, which is computed once for a key."""

    def __call__(self, key: Hashable, make: Callable[[], T], /) -> T: ...


def _made_again(key: Hashable, make: Callable[[], T], /) -> T:
    return make()


@dataclass(frozen=True)
class Inputs:
    """What the data of a view are computed from: one image under one setting.

    Attributes
    ----------
    state
        The explorer's state.
    eig
        The eigenvectors, as ``st.solve`` returns them, of this image alone.
    activations
        The activations of this image alone.
    graph
        A function that returns the graph, as ``st.affinity`` does; it is made only when it is asked for.
    outlying
        A function that returns the tokens of outlying norm, as ``st.outlying_masks`` does.
    whole
        The eigenvectors of everything that was solved together: all images in a dataset, otherwise the same as ``eig``.
    segments, means, labels
        Functions that return segments, mean colours of pixels, and labels (-1 where there is none) of the patches of
        ``whole``: integers (image, y, x), uint8 (image, y, x, rgb), and integers again. None where they are not known.
    live
        The model and its images, as a :class:`~spectral_toolkit.views.LiveModel`; None where saved activations are
        explored. A view that needs it says so by ``needs=("model",)``.
    kept
        A function of a key and of a function without arguments: it returns what the latter does, which is computed
        once and kept for other settings, too.
    """

    state: State
    eig: xr.Dataset
    activations: xr.DataTree
    graph: Callable[[], LayerGraph]
    outlying: Callable[[], Mapping[str, xr.DataArray]]
    whole: xr.Dataset
    segments: Callable[[], np.ndarray] | None = None
    means: Callable[[], np.ndarray] | None = None
    labels: Callable[[], np.ndarray] | None = None
    live: LiveModel | None = None
    kept: Keep = field(default=_made_again)


def _all_eigenvectors(state: State, side: Side) -> str:
    return f"{side.eig.sizes['component']} eigenvectors"


@dataclass(frozen=True, eq=False, repr=False)
class View(NamedRow):
    """What the explorer shows of a result.

    A view that is registered (:func:`spectral_toolkit.views.register`) is found by its name in the explorer's menu, in
    ``explorer.state.view``, in *Copy as code*, on frozen pages and in the table of the documentation.

    Attributes
    ----------
    name
        The value of ``explorer.state.view``.
    title, hint
        Its button, and the sentence shown on hover.
    code
        A function of a :class:`~spectral_toolkit.views.Program` and some of its sides that returns lines of Python, the
        last of which is an expression that shows the view. It is called for each setting, or once for all settings
        that are drawn together.
    tiles
        For a view over images: a function of a :class:`~spectral_toolkit.views.ShownState` and one of its sides that
        returns :class:`~spectral_toolkit.views.Tile` objects.
    chart
        For any other view, in place of ``tiles``: a function of a :class:`~spectral_toolkit.views.ShownState` that
        returns HoloViews elements; or where a class of this package is that keeps its figure and changes only the data.
    data
        A function of :class:`~spectral_toolkit.views.Inputs` that computes what is shown besides the eigenvectors, on
        another thread; the result is ``side.data``.
    common
        Whether the data are computed from everything that was solved together, and not from one image: ``data`` then
        returns one array for every image of ``inputs.whole``, and ``side.data`` is that of the image shown.
    depends
        A function of the state that returns what the data depend on besides the result that is shown. The default is
        the view's own sliders.
    controls
        Which of the explorer's settings the view uses.
    sliders
        Settings of its own.
    needs
        Quantities that every layer must have, such as ``"token"``; ``"label"`` stands for label maps of the images, and
        ``"model"`` for a model that the view can run again.
    legend
        How to read the colours: a text, or a function of the state.
    scale
        The colour map shown before the legend, (n, 3).
    ends
        A function of the state and a side that returns the numbers at both ends of that colour map.
    heading
        A function of the state and a side that returns the title above the image, after the affinity and its kernel.
    alone
        Whether it is the same for every setting, so that a second one has no figure of its own.
    apart
        For a chart: whether every setting has a frame of its own, and not only a colour.
    tap
        What a tap on a tile chooses: ``"patch"`` or ``"component"``.
    reads, decimals
        Names of the values under the cursor, and the number of their decimals.
    joined
        Whether the code shows two settings side by side, and not one after the other.
    all_layers
        Whether layers that are switched off are shown, too.
    page
        How a frozen page draws it: ``"drawn"``, as it was drawn beforehand; the name of a drawing of the page's own
        script; or None, if it is not on the page.
    tab
        The view of whose tab on the frozen page it is a part; the default is a tab of its own.
    page_components
        How many eigenvectors the frozen page must have.
    page_data
        For a drawing of the page's own script: a function of the result of all images, the number of segments and the
        seed that returns one array for every image.
    """

    title: str
    hint: str
    code: Callable[[Program, Sequence[CodedSide]], Sequence[str]]
    tiles: Callable[[ShownState, Side], Sequence[Tile]] | None = None
    chart: Callable[[ShownState], object] | str | None = None
    data: Callable[[Inputs], Any] | None = None
    common: bool = False
    depends: Callable[[State], Hashable] | None = None
    controls: tuple[str, ...] = ("opacity",)
    sliders: tuple[Slider, ...] = ()
    needs: tuple[str, ...] = ()
    legend: str | Callable[[State], str] = ""
    scale: np.ndarray | None = None
    ends: Callable[[State, Side], tuple[str, str]] | None = None
    heading: Callable[[State, Side], str] = field(default=_all_eigenvectors)
    alone: bool = False
    apart: bool = False
    tap: str = "patch"
    reads: tuple[str, ...] = ("value",)
    decimals: int = 4
    joined: bool = True
    all_layers: bool = False
    page: str | None = "drawn"
    tab: str = ""
    page_components: int = 1
    page_data: Callable[[xr.Dataset, int | str, int], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not callable(self.code) or (self.tiles is None) == (self.chart is None):
            raise SpectralToolkitError(
                f"view {self.name!r} does not say how it is drawn: give code=, and either tiles= or chart=."
            )
        if unknown := [name for name in self.controls if name not in CONTROLS]:
            raise SpectralToolkitError(
                f"view {self.name!r} names the control {unknown[0]!r}: use {', '.join(CONTROLS)}, or a Slider."
            )

    def __repr__(self) -> str:
        return f"<View {self.name!r}: {self.hint}>"

    def key(self, state: State) -> Hashable:
        """What its data depend on besides the result; None if it has none."""
        if self.data is None:
            return None
        if self.depends is not None:
            return self.depends(state)
        return tuple(state.options.get(slider.name, slider.start) for slider in self.sliders)


VIEWS = NamedTable("view", View, "st.views", SpectralToolkitError)
"""Every view there is, by name. `register` adds to it."""


def register(view: View) -> View:
    """Add a view to those that are offered everywhere.

    Parameters
    ----------
    view
        The row of the table. A view of the same name is replaced, unless it is one of ours.

    Returns
    -------
    View
        The same, so that it can be assigned in the same line.

    Raises
    ------
    SpectralToolkitError
        If it is no view, or has the name of one of ours.

    Examples
    --------
    >>> import numpy as np, spectral_toolkit as st
    >>> def tiles(shown, side):
    ...     values = side.eig["degenerate_group"].values[0] * np.ones((2, 2, 1))
    ...     return [st.views.Tile(np.full((2, 2, 4), 99, np.uint8), values[..., 0], shown.small)]
    >>> def code(program, sides):
    ...     return [f"{sides[0].eig}['degenerate_group']"]
    >>> _ = st.views.register(st.views.View("groups", "Groups", "Equal eigenvalues.", code, tiles))
    >>> explorer = st.Explorer("scenes", st.scenes.sample(1, seed=0).pixels, progress=False, synchronous=True)
    >>> explorer.set(view="groups")
    >>> explorer.code().splitlines()[-1]
    'view + view_other'
    >>> explorer.close()
    >>> st.views.unregister("groups")
    """
    return VIEWS.register(view)


def unregister(name: str) -> None:
    """Take a view that `register` added away again.

    Raises
    ------
    SpectralToolkitError
        If there is none of that name, or it is one of ours.
    """
    VIEWS.unregister(name)


def offered(quantities: Collection[str]) -> list[View]:
    """The views of activations whose layers all have these quantities."""
    return [view for view in VIEWS.values() if set(view.needs) <= set(quantities)]


def quantities_of(activations: xr.DataTree, layers: Iterable[str]) -> frozenset[str]:
    """What every layer has."""
    held = [frozenset(map(str, activations.children[name].data_vars)) for name in layers]
    return frozenset.intersection(*held)


def checked_options(view: View, options: object) -> dict[str, float]:
    """Values of sliders, with those of this view that are not among them; raises an error that says what is wrong."""
    known = {slider.name: slider for one in VIEWS.values() for slider in one.sliders}
    if not isinstance(options, Mapping):
        raise SpectralToolkitError(f"options={options!r} is not understood: give numbers by the names of sliders.")
    if unknown := [name for name in options if name not in known]:
        offered = f"use {', '.join(known)}" if known else "no view has options of its own, so leave it out"
        raise SpectralToolkitError(f"options name {unknown[0]!r}, which no view takes: {offered}.")
    first = {slider.name: slider.start for slider in view.sliders}
    return {name: known[name].checked(value) for name, value in {**first, **options}.items()}
