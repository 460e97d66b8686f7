"""Regions: from eigenvectors to labelled segments, to masks of instances."""

from __future__ import annotations

import json
import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..affinities.layer_graph import LayerGraph
from ..errors import RegionsError
from .embedding import embed
from .found_instances import instances_of, parts_by_kmeans
from .kmeans import segment_by_kmeans

__all__ = ["METHODS", "instances", "segment"]


@dataclass(frozen=True)
class Method:
    """One line of the table: a way to make segments, what it needs and what it takes."""

    makes: str
    choices: tuple[str, ...]
    needs_graph: bool = False
    options: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "kmeans": Method(
        "k-means on the eigenvectors, each weighted by sqrt(1 - eigenvalue)",
        ("auto", "silhouette", "eigengap"),
        options=("components", "weighted"),
    ),
}
"""Name to what there is; errors, tests and documentation read it."""


def segment(
    eig: xr.Dataset,
    n_segments: int | str = "auto",
    *,
    method: str = "kmeans",
    graph: LayerGraph | None = None,
    seed: int = 0,
    **options: object,
) -> xr.DataArray:
    """Cut pictures into segments by their eigenvectors.

    Pictures that were solved alone are grouped alone, so that segment 1 of one picture has nothing to do with segment
    1 of another; pictures solved as one (``scope="dataset"``) are grouped as one, and a number means the same in all.

    Parameters
    ----------
    eig
        From :func:`spectral_toolkit.solve`, whole or one image of it (``eig.isel(image=0)``).
    n_segments
        A whole number, or how to choose one between 2 and 10: ``"silhouette"`` (also ``"auto"``) takes the number with
        the largest mean silhouette, over a seeded sample of 2,000 cells where there are more; ``"eigengap"`` one more
        than there are components before the widest gap.
    method
        ``"kmeans"``: k-means on the eigenvectors.
    graph
        What ``eig`` was solved from; k-means has no use for it.
    seed
        Of the starts and of the sample.
    **options
        ``components`` (default None, all: how many eigenvectors to use, from the first), ``weighted`` (default True:
        each times sqrt(1 - eigenvalue), so that distances are those the joint affinity sees).

    Returns
    -------
    xarray.DataArray
        int64 ``(image, y, x)``, numbered from the largest segment, 0. Coordinates are those of ``eig``, besides
        ``n_segments (image)`` (of all pictures together if they were solved as one), ``silhouette (image)`` (NaN where
        there are not two segments) and ``isolated (image, y, x)``: cells no affinity reaches are left out of the
        grouping and have the label of the nearest cell that one does; -1 where a picture has none. ``attrs["notes"]``
        says what else there is to know.

    Raises
    ------
    RegionsError
        If the eigenvectors cannot be used, there are fewer cells than segments, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> acts = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(acts, "vv", device="cpu"), n_eigenvectors=4)
    >>> dict(st.segment(eig, 3).sizes)
    {'image': 1, 'y': 3, 'x': 4}
    """
    line = _checked_method(method, graph, options)
    n_segments = _checked_number(n_segments, line, method)
    seed = _whole("seed", seed, 0)
    points = embed(eig, **_embedding_options(options))
    fewest, place = int(points.free.sum()), "the pictures have"
    if not points.joint:
        fewest, place = int(points.free.sum(axis=1).min()), _least(points.names, points.free)
    if isinstance(n_segments, int) and 0 < fewest < n_segments:
        raise RegionsError(
            f"n_segments={n_segments} is too many: {place} {fewest} cells with any affinity. Use at most that many."
        )
    if n_segments == "eigengap" and points.gaps is None:
        raise RegionsError("n_segments='eigengap' needs 'eigengap' or 'eigenvalue' beside the eigenvectors.")
    labels, scores = segment_by_kmeans(points, n_segments, seed)
    n_images = len(labels)
    if points.joint:
        found = np.full(n_images, labels.max() + 1)
    else:
        found = labels.max(axis=1) + 1
    n_isolated = int((~points.free).sum())
    if n_isolated:
        points.notes.append(
            f"Cells without affinity to speak of: {n_isolated}; left out, and given the label of the nearest other."
        )
    return xr.DataArray(
        labels.reshape(n_images, *points.grid),
        {**points.coords, "n_segments": ("image", found), "silhouette": ("image", scores)},
        ("image", "y", "x"),
        name="segment",
        attrs={
            **points.attrs,
            "method": method,
            "n_segments_asked": str(n_segments),
            "options": json.dumps(options),
            "seed": seed,
            "notes": " ".join(points.notes),
        },
    )


def instances(
    eig: xr.Dataset,
    *,
    graph: LayerGraph | None = None,
    n_parts: int = 10,
    n_instances: int | None = None,
    overlap: float = 0.7,
    min_score: float = 0.0,
    smallest: int = 2,
    seed: int = 0,
    **options: object,
) -> xr.DataArray:
    """Propose masks of single things, ordered by how well the eigenvectors set them apart.

    Every picture is cut into many segments, these into their connected parts, and the two touching parts that are
    closest in eigenvector space are merged until one is left. Whatever arises on the way is a candidate. Its score is
    the binary silhouette, the mean over all cells of the silhouettes of 'inside' and 'outside'; of candidates that
    nearly coincide the best is kept. Masks may lie inside each other: a thing and its part are both proposed.

    Parameters
    ----------
    eig
        From :func:`spectral_toolkit.solve`, whole or one image of it.
    graph
        What ``eig`` was solved from.
    n_parts
        How many segments to begin with; more find smaller things, and more that is none.
    n_instances
        At most so many of a picture, the best; None for all.
    overlap
        Intersection over union above which the worse of two masks is dropped.
    min_score
        Masks of this score or a smaller one are dropped.
    smallest
        Fewest cells of a mask.
    seed
        Of k-means.
    **options
        ``components`` and ``weighted``, as of :func:`segment`.

    Returns
    -------
    xarray.DataArray
        bool ``(image, instance, y, x)``, with ``score (image, instance)`` in [-1, 1] and ``n_instances (image)``:
        pictures that have fewer than others are filled up with empty masks of score NaN. ``isolated (image, y, x)``
        marks cells that no affinity reaches: they belong to the parts of their nearest neighbours, and count in no
        score.

    Raises
    ------
    RegionsError
        If the eigenvectors cannot be used, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> acts = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(acts, "vv", device="cpu"), n_eigenvectors=4)
    >>> st.instances(eig, n_instances=3).dims
    ('image', 'instance', 'y', 'x')
    """
    if graph is not None and not isinstance(graph, LayerGraph):
        raise RegionsError(f"graph is a {type(graph).__name__}: give what st.affinity returned, or None.")
    _check_options("instances", ("components", "weighted"), options)
    n_parts, smallest, seed = _whole("n_parts", n_parts, 2), _whole("smallest", smallest, 1), _whole("seed", seed, 0)
    most = None if n_instances is None else _whole("n_instances", n_instances, 1)
    overlap, min_score = _within("overlap", overlap, 0, 1), _within("min_score", min_score, -1, 1)
    points = embed(eig, **_embedding_options(options))
    labels = parts_by_kmeans(points, n_parts, seed)
    found = []
    for image, (rows, free) in enumerate(zip(points.rows, points.free, strict=True)):
        masks, scores = instances_of(
            rows, free, labels[image], points.grid, overlap=overlap, min_score=min_score, smallest=smallest
        )
        found.append((masks[:most], scores[:most]))
    counts = np.array([len(masks) for masks, _ in found])
    all_masks = np.zeros((len(found), counts.max(), points.free.shape[1]), dtype=bool)
    all_scores = np.full(all_masks.shape[:2], np.nan)
    for image, (masks, scores) in enumerate(found):
        all_masks[image, : len(masks)] = masks
        all_scores[image, : len(masks)] = scores
    coords = {
        **points.coords,
        "instance": np.arange(counts.max()),
        "score": (("image", "instance"), all_scores),
        "n_instances": ("image", counts),
    }
    return xr.DataArray(
        all_masks.reshape(*all_masks.shape[:2], *points.grid),
        coords,
        ("image", "instance", "y", "x"),
        name="instance_mask",
        attrs={
            **points.attrs,
            "n_parts": n_parts,
            "overlap": overlap,
            "min_score": min_score,
            "smallest": smallest,
            "options": json.dumps(options),
            "seed": seed,
            "notes": " ".join(points.notes),
        },
    )


def _checked_method(method: str, graph: object, options: dict[str, object]) -> Method:
    if method not in METHODS:
        raise RegionsError(f"method={method!r} is not offered: use one of {', '.join(map(repr, METHODS))}.")
    if graph is not None and not isinstance(graph, LayerGraph):
        raise RegionsError(f"graph is a {type(graph).__name__}: give what st.affinity returned, or None.")
    _check_options(f"method={method!r}", METHODS[method].options, options)
    return METHODS[method]


def _check_options(of: str, known: tuple[str, ...], options: dict[str, object]) -> None:
    for name, value in options.items():
        if name not in known:
            raise RegionsError(f"{name}={value!r} means nothing to {of}, which takes {', '.join(known)}: leave it out.")


def _checked_number(n_segments: object, line: Method, method: str) -> int | str:
    if isinstance(n_segments, str) and n_segments in line.choices:
        return n_segments
    if not isinstance(n_segments, str):
        return _whole("n_segments", n_segments, 1)
    raise RegionsError(
        f"n_segments={n_segments!r} is not offered with method={method!r}: use a whole number of at least 1 or one of "
        f"{', '.join(map(repr, line.choices))}."
    )


def _embedding_options(options: dict[str, object]) -> dict[str, Any]:
    weighted = options.get("weighted", True)
    if not isinstance(weighted, bool):
        raise RegionsError(f"weighted={weighted!r} is not understood: use True or False.")
    return {"components": options.get("components"), "weighted": weighted}


def _least(names: list[str], free: np.ndarray) -> str:
    return f"image {names[int(free.sum(axis=1).argmin())]!r} has"


def _whole(name: str, value: object, least: int) -> int:
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (number.is_integer() and least <= number < 2**31):
        raise RegionsError(f"{name}={value!r} is out of range: expected a whole number of at least {least}.")
    return int(number)


def _within(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= float(value) <= most:
        raise RegionsError(f"{name}={value!r} is out of range: expected a number from {least} to {most}.")
    return float(value)
