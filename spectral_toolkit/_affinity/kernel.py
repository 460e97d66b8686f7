"""What a kernel is: one row that carries all that anybody asks of it, and the table of those there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .._compute.arguments import number
from .._table import Choice, NamedRow, NamedTable
from ..errors import AffinityError
from .features import KINDS, LayerFeatures
from .operators import Rows


@dataclass(frozen=True)
class Option:
    """A number that a kernel takes.

    Attributes
    ----------
    name
        As a keyword argument of :func:`spectral_toolkit.affinity`.
    meaning
        What it does, in one clause.
    expected
        Which values it may have, in words, for the message that refuses another.
    fits
        Whether a finite number is one of them.
    """

    name: str
    meaning: str
    expected: str
    fits: Callable[[float], bool]

    def checked(self, value: object) -> float:
        """The value as a number, or one sentence on what is wrong with it."""
        return number(self.name, value, fits=self.fits, expected=self.expected, error=AffinityError)


STEPS = Option(
    "steps",
    "how many steps to walk along the row-normalised affinity",
    "a whole number of at least 1",
    lambda value: value >= 1 and value == int(value),
)
"""Taken by every kernel with rows, as the walk is made of the affinity and not of the vectors."""


@dataclass(frozen=True, eq=False, repr=False)
class Kernel(NamedRow):
    """How the vectors of one layer become affinities between its patches.

    A kernel that is registered (:func:`spectral_toolkit.kernels.register`) is found by its name in
    :func:`spectral_toolkit.affinity`, on the command line, in study files, in the explorer's menu, on frozen pages, in
    reports and in the table of the documentation. A kernel is called with its options to choose them:
    ``st.kernels.RBF(bandwidth=0.3)``.

    Attributes
    ----------
    name
        As the argument ``kernel`` of :func:`spectral_toolkit.affinity`.
    formula
        The affinity before it is made symmetric, of vectors ``l`` and ``r``.
    short
        The formula with ``{}`` twice for the names of the two vectors, for tight places.
    label
        The entry in the explorer's menu.
    prepare
        A function of :class:`~spectral_toolkit.kernels.LayerFeatures` and the options, by keyword, that does what all
        rows share and returns a function ``rows(start, stop)``: affinities (images, stop - start, n), averaged over
        heads, not negative. None for the search for neighbours.
    factors
        For a kernel of low rank: a function of the features that returns L and R, both (images, n, rank), where L R' is
        the affinity before it is made symmetric. With it, no matrix is formed on large grids, and whole datasets can be
        solved as one.
    kinds
        The kinds of affinity it can be made of.
    scopes
        ``"image"``, ``"dataset"`` or both.
    options
        What it takes; every kernel with rows takes ``steps``, too.
    in_menu
        Whether the explorer offers it.
    attention
        Whether it is the model's own attention, and needs the scale, the bias and the special keys of the layer.
    columns
        A function of the features, a list of patches and the options that returns their columns (images, n, patches)
        of what ``prepare`` gives, without holding all rows; None computes them from the rows.
    positive
        Whether every affinity is above 0, so that a row without any is one that rounding has lost.
    """

    formula: str
    short: str
    label: str
    prepare: Callable[..., Rows] | None
    factors: Callable[[LayerFeatures], tuple[Tensor, Tensor]] | None = None
    kinds: tuple[str, ...] = tuple(KINDS)
    scopes: tuple[str, ...] = ("image",)
    options: tuple[Option, ...] = (STEPS,)
    searches: bool = field(default=False, kw_only=True)
    in_menu: bool = True
    attention: bool = False
    columns: Callable[..., Tensor] | None = field(default=None, kw_only=True)
    positive: bool = False

    def __post_init__(self) -> None:
        if not self.searches and self.prepare is None:
            raise AffinityError(f"kernel {self.name!r} has no prepare=, which computes its rows: give one.")
        if "dataset" in self.scopes and self.factors is None and not self.searches:
            raise AffinityError(
                f"kernel {self.name!r} is offered with scope='dataset', which needs factors=: give them, or leave "
                "'dataset' out of scopes."
            )
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise AffinityError(f"kernel {self.name!r} names the kind {unknown[0]!r}: use {', '.join(KINDS)}.")

    def __call__(self, **options: float) -> Choice[Kernel]:
        """This kernel with options."""
        return Choice(self, options)

    def __repr__(self) -> str:
        return f"<Kernel {self.name!r}: {self.formula}>"

    @property
    def low_rank(self) -> bool:
        """Whether it has factors, so that no matrix need be formed."""
        return self.factors is not None

    @property
    def option_names(self) -> tuple[str, ...]:
        """Names of the options, and of what else it takes."""
        return (*(option.name for option in self.options), *(("search",) if self.searches else ()))

    def option(self, name: str) -> Option:
        """One option by its name."""
        return next(option for option in self.options if option.name == name)


KERNELS = NamedTable("kernel", Kernel, "st.kernels", AffinityError)
"""Every kernel there is, by name. `register` adds to it."""


def register(kernel: Kernel) -> Kernel:
    """Add a kernel to those that are offered everywhere.

    Parameters
    ----------
    kernel
        The row of the table. A kernel of the same name is replaced, unless it is one of ours.

    Returns
    -------
    Kernel
        The same, so that it can be assigned in the same line.

    Raises
    ------
    AffinityError
        If it is no kernel, or has the name of one of ours.

    Examples
    --------
    >>> import spectral_toolkit as st, torch
    >>> def prepare(features):
    ...     left, right = (side.mean(1) for side in (features.left, features.right))
    ...     return lambda start, stop: torch.cdist(left[:, start:stop], right).neg().exp()
    >>> laplacian = st.kernels.register(
    ...     st.kernels.Kernel("laplacian", "exp(-|l - r|)", "exp(-|{} - {}|)", "Laplacian", prepare)
    ... )
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> st.affinity(activations, "vv", kernel="laplacian", device="cpu").recipe.kernel
    'laplacian'
    >>> st.kernels.unregister("laplacian")
    """
    return KERNELS.register(kernel)


def unregister(name: str) -> None:
    """Take a kernel that `register` added away again.

    Raises
    ------
    AffinityError
        If there is none of that name, or it is one of ours.
    """
    KERNELS.unregister(name)
