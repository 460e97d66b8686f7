"""What a solver is: one row that carries all that anybody asks of it, and the table of those there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .._compute.arguments import number, whole
from .._table import Choice, NamedRow, NamedTable
from ..errors import SolverError
from .spectrum import Spectrum


@dataclass(frozen=True, eq=False, repr=False)
class Solver(NamedRow):
    """A way to find the eigenvectors of a graph.

    A solver that is registered (:func:`spectral_toolkit.solvers.register`) is found by its name in
    :func:`spectral_toolkit.solve`, in ``spectral-toolkit solve --method``, in reports and in the table of the
    documentation. A solver is called with its options to choose them: ``st.solvers.Exact(tolerance=1e-8)``.

    Attributes
    ----------
    name
        As the argument ``method`` of :func:`spectral_toolkit.solve`.
    meaning
        What it does, in one sentence.
    computes
        The function ``(graph, images, n_eigenvectors, *, grid, start, tolerance, seed, progress, **options)`` that
        returns a :class:`~spectral_toolkit.solvers.Spectrum` of a slice of the images; or where it is, as
        ``"module:function"``, to be imported when it is first used.
    options
        Name to type and least value of what else it takes: a float must lie above it, a whole number may equal it; a
        ``str`` is a path.
    """

    meaning: str
    computes: Callable[..., Spectrum] | str
    options: Mapping[str, tuple[type, float]] = field(default_factory=dict[str, tuple[type, float]])

    def __call__(self, **options: object) -> Choice[Solver]:
        """This solver with options."""
        return Choice(self, options)

    def __repr__(self) -> str:
        return f"<Solver {self.name!r}: {self.meaning}>"

    def checked(self, options: Mapping[str, object]) -> dict[str, object]:
        """Options, each of its type and in its range, or one sentence on what is wrong."""
        return {name: self._checked(name, value) for name, value in options.items()}

    def _checked(self, name: str, value: object) -> object:
        if name not in self.options:
            offered = f"which takes {', '.join(self.options)}" if self.options else "which takes no options"
            raise SolverError(f"{name}={value!r} does not apply to method={self.name!r}, {offered}: leave it out.")
        kind, least = self.options[name]
        if kind is int:
            return whole(name, value, int(least), error=SolverError)
        if kind is float:
            return number(name, value, above=least, error=SolverError)
        if value is None or isinstance(value, str | os.PathLike):
            return value
        raise SolverError(f"{name}={value!r} is not understood: expected a path.")


SOLVERS = NamedTable("method", Solver, "st.solvers", SolverError)
"""Every solver there is, by name. `register` adds to it."""


def register(solver: Solver) -> Solver:
    """Add a solver to those that are offered everywhere.

    Parameters
    ----------
    solver
        The row of the table. A solver of the same name is replaced, unless it is one of ours.

    Returns
    -------
    Solver
        The same, so that it can be assigned in the same line.

    Raises
    ------
    SolverError
        If it is no solver, or has the name of one of ours.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> def careful(graph, images, n_eigenvectors, **settings):
    ...     return st.solvers.exact.solve_images(graph, images, n_eigenvectors, **{**settings, "tolerance": 1e-10})
    >>> _ = st.solvers.register(st.solvers.Solver("careful", "The exact solver, to 1e-10.", careful))
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, progress=False)
    >>> st.solve(st.affinity(activations, "vv", device="cpu"), 2, method="careful").attrs["method"]
    'careful'
    >>> st.solvers.unregister("careful")
    """
    return SOLVERS.register(solver)


def unregister(name: str) -> None:
    """Take a solver that `register` added away again.

    Raises
    ------
    SolverError
        If there is none of that name, or it is one of ours.
    """
    SOLVERS.unregister(name)


Exact = register(
    Solver(
        "exact",
        "Dense on small grids, block Davidson iteration above; residuals of every pair are below the tolerance.",
        "spectral_toolkit.solvers.exact:solve_images",
    )
)
Gradient = register(
    Solver(
        "gradient",
        "Gradient descent on features, the source paper's own method: slow and approximate, for comparison.",
        "spectral_toolkit.solvers.gradient:solve_images",
        {
            "n_features": (int, 2),
            "steps": (int, 1),
            "epochs": (int, 1),
            "learning_rate": (float, 0.0),
            "patience": (int, 0),
            "checkpoint": (str, 0),
            "checkpoint_every": (int, 1),
        },
    )
)
SOLVERS.complete()
