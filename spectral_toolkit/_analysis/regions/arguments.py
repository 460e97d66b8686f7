"""The arguments that regions accept: one table of methods, and one sentence for whatever it does not offer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypedDict

from ..._affinity.layer_graph import LayerGraph
from ..._compute import arguments
from ...errors import RegionsError

whole = partial(arguments.whole, most=2**31 - 1, error=RegionsError)
within = partial(arguments.number, error=RegionsError)
EMBEDDING = ("components", "weighted")
"""Options of every function that works on eigenvectors."""


@dataclass(frozen=True)
class Method:
    """One line of the table: a way to make segments.

    Attributes
    ----------
    makes
        What the method does, in words.
    choices
        Words that the method takes instead of a number of segments.
    number
        What a number of segments means to the method.
    needs_graph
        Whether the method works on the graph, and not on the eigenvectors alone.
    options
        Keyword arguments that the method takes.
    """

    makes: str
    choices: tuple[str, ...]
    number: str
    needs_graph: bool = False
    options: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "kmeans": Method(
        "k-means on the eigenvectors, each weighted by sqrt(1 - eigenvalue)",
        ("auto", "silhouette", "eigengap"),
        "exactly this many",
        options=EMBEDDING,
    ),
    "cuts": Method(
        "two-way normalised cuts of the joint graph, repeated while their cut value is below a threshold",
        ("auto",),
        "at most this many",
        needs_graph=True,
        options=("threshold",),
    ),
}
"""The methods by name; errors, tests and documentation read this table."""


def checked_method(method: object, graph: object, options: dict[str, object]) -> Method:
    """Return the line of the table, if the method exists and fits."""
    line = METHODS[arguments.choice("method", method, METHODS, error=RegionsError)]
    check_graph(graph)
    if line.needs_graph and graph is None:
        raise RegionsError(
            f"method={method!r} works on the graph: give graph=, what the eigenvectors were solved from."
        )
    check_options(f"method={method!r}", line.options, options)
    return line


def check_graph(graph: object) -> None:
    """Refuse what is not a graph."""
    if graph is not None:
        arguments.instance("graph", graph, LayerGraph, "what st.affinity returned, or None", error=RegionsError)


def check_options(of: str, known: tuple[str, ...], options: dict[str, object]) -> None:
    """Refuse options that do not apply to a method."""
    for name, value in options.items():
        if name not in known:
            raise RegionsError(
                f"{name}={value!r} does not apply to {of}, which takes {', '.join(known)}: leave it out."
            )


def checked_number(n_segments: object, method: str) -> int | str:
    """Return a whole number, or one of the words that the method takes."""
    choices = METHODS[method].choices
    if not isinstance(n_segments, str):
        return whole("n_segments", n_segments, 1)
    also = f", or a whole number of at least 1, with method={method!r}"
    return arguments.choice("n_segments", n_segments, choices, also=also, error=RegionsError)


class EmbeddingOptions(TypedDict):
    """Options of `embedding.embed`."""

    components: object
    weighted: bool


def embedding_options(options: dict[str, object]) -> EmbeddingOptions:
    """Return the options of :func:`~spectral_toolkit._analysis.regions.embedding.embed`, with their defaults."""
    weighted = arguments.flag("weighted", options.get("weighted", True), error=RegionsError)
    return {"components": options.get("components"), "weighted": weighted}
