"""Regions: from eigenvectors to labelled segments, and to masks of instances."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from ..._affinity.layer_graph import LayerGraph
from ..._compute.settings import computing
from ...errors import RegionsError
from .arguments import (
    EMBEDDING,
    METHODS,
    check_graph,
    check_options,
    checked_method,
    checked_number,
    embedding_options,
    whole,
    within,
)
from .embedding import MOST, Embedding, embed
from .found_instances import instances_of, parts_by_kmeans
from .kmeans import segment_by_kmeans
from .matching import match_segments
from .pixels import refine
from .segments_by_cuts import THRESHOLD, parts_by_cuts, segment_by_cuts
from .thresholds import cut_costs
from .trees import hierarchy, limit_note, recut, written

__all__ = ["METHODS", "cut_costs", "hierarchy", "instances", "match_segments", "recut", "refine", "segment"]


@computing
def segment(
    eig: xr.Dataset,
    n_segments: int | str = "auto",
    *,
    method: str = "kmeans",
    graph: LayerGraph | None = None,
    seed: int = 0,
    **options: object,
) -> xr.DataArray:
    """Divide images into segments by their eigenvectors.

    Images that were solved separately are grouped separately, so that segment 1 of one image has nothing to do with
    segment 1 of another; images solved as one (``scope="dataset"``) are grouped as one, and a label means the same in
    all.

    Parameters
    ----------
    eig
        The result of :func:`spectral_toolkit.solve`, whole or for one image (``eig.isel(image=0)``).
    n_segments
        With ``"kmeans"``, a whole number, or how to choose one between 2 and 10: ``"silhouette"`` (also ``"auto"``)
        takes the number with the largest mean silhouette, over a seeded sample of 2,000 patches where there are more;
        ``"eigengap"`` takes one more than the number of components before the widest gap. With ``"cuts"``, an upper
        bound; 10 for ``"auto"``.
    method
        ``"kmeans"``: k-means on the eigenvectors. ``"cuts"``: the joint graph is cut in two where the normalised cut
        along its second eigenvector is smallest. Each part is solved and cut in the same way, the lowest cut value
        first, as long as a cut value is below ``threshold`` (Shi & Malik 2000). Of ``eig``, this uses only the grid and
        the images.
    graph
        The graph that ``eig`` was solved from; cuts work on it, and k-means does not use it.
    seed
        The seed of the sample, and of the random starts that ``agreement`` compares with; k-means itself starts from
        the eigenvectors.
    **options
        For k-means: ``components`` (how many eigenvectors to use, from the first; the default None uses all, but none
        of a last group whose eigenvalues hardly differ from the next one) and ``weighted``
        (default True: each is multiplied by sqrt(1 - eigenvalue), so that distances are those that the joint affinity
        sees). For cuts: ``threshold`` (default 0.85; a normalised cut lies in [0, 2], a random one is about 1, and the
        best one of unrelated patches is 0.75 to 0.9, so a cut only just below the threshold may mean nothing).

    Returns
    -------
    xarray.DataArray
        int64 ``(image, y, x)``, numbered from the largest segment, 0. The coordinates are those of ``eig``, with
        ``n_segments (image)`` (of all images together if they were solved as one) and ``isolated (image, y, x)``:
        patches that no affinity reaches are left out of the grouping and get the label of the nearest patch that is
        reached; -1 where an image has none. With k-means there are also ``silhouette (image)`` and
        ``agreement (image)``, which says how far k-means from four random starts finds the same segments (mean adjusted
        Rand index: 1 if it does, about 0 if they have nothing in common); both are NaN where there are fewer than two
        segments. With cuts there is ``attrs["tree"]``, and for images that were cut one by one ``tree (image)``, which
        assigns the trees to images: :func:`spectral_toolkit.hierarchy` reads them, and
        :func:`spectral_toolkit.recut` cuts elsewhere without solving again. ``attrs["notes"]`` says
        what else there is to know, for example where the number chosen is the largest one tried.

    Raises
    ------
    RegionsError
        If the eigenvectors cannot be used, there are fewer patches than segments, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=4)
    >>> dict(st.segment(eig, 3).sizes)
    {'image': 1, 'y': 3, 'x': 4}
    """
    checked_method(method, graph, options)
    wanted = checked_number(n_segments, method)
    seed = whole("seed", seed, 0)
    points = embed(eig, **embedding_options(options)) if method == "kmeans" else embed(eig, weighted=False)
    extra: dict[str, object] = {}
    coords: dict[str, object] = {}
    if method == "cuts":
        assert graph is not None
        threshold = within("threshold", options.get("threshold", THRESHOLD), least=0, most=2)
        options = {**options, "threshold": threshold}
        most = wanted if isinstance(wanted, int) else MOST
        labels, trees, numbers = segment_by_cuts(points, graph, threshold, most, seed)
        tree = written(trees, numbers, labels, points.names, points.hashes)
        if wanted == "auto" and (note := limit_note(tree, threshold)):
            points.notes.append(note)
        extra["tree"] = tree
        if not points.joint:
            coords["tree"] = ("image", np.arange(len(trees)))
    else:
        _check_count(points, wanted)
        labels, scores, agreed = segment_by_kmeans(points, wanted, seed)
        coords |= {"silhouette": ("image", scores), "agreement": ("image", agreed)}
    found = np.full(len(labels), labels.max() + 1) if points.joint else labels.max(axis=1) + 1
    n_isolated = int((~points.free).sum())
    if n_isolated:
        points.notes.append(
            f"Patches with hardly any affinity: {n_isolated}. They are left out, and have the label of the nearest "
            "other."
        )
    return xr.DataArray(
        labels.reshape(-1, *points.grid),
        {**points.coords, "n_segments": ("image", found), **coords},
        ("image", "y", "x"),
        name="segment",
        attrs={
            **points.attrs,
            "method": method,
            "n_segments_asked": str(wanted),
            "options": json.dumps(options, default=lambda number: number.item()),
            "seed": seed,
            "notes": " ".join(points.notes),
            **extra,
        },
    )


@computing
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
    """Propose masks of single objects, ordered by how clearly the eigenvectors separate them.

    Every image is divided into many segments, and these into their connected parts; then the two touching parts that
    are closest in eigenvector space are merged until only one is left. Every part that arises on the way is a
    candidate. Its score is the binary silhouette, the mean over all patches of the silhouettes of 'inside' and
    'outside'; of candidates that nearly coincide, the best is kept. Masks may lie inside each other: an object and its
    part are both proposed.

    Parameters
    ----------
    eig
        The result of :func:`spectral_toolkit.solve`, whole or for one image.
    graph
        The graph that ``eig`` was solved from.
    n_parts
        The number of segments to begin with; more segments find smaller objects, and more masks that are not objects.
    n_instances
        The largest number of masks of one image, of which the best are kept; None keeps all.
    overlap
        Intersection over union above which the worse of two masks is dropped.
    min_score
        Masks whose score is not above this are dropped.
    smallest
        The smallest number of patches of a mask.
    seed
        The seed of the solver, where ``graph`` is given.
    **options
        ``components`` and ``weighted``, as for :func:`spectral_toolkit.segment`.

    Returns
    -------
    xarray.DataArray
        bool ``(image, instance, y, x)``, with ``score (image, instance)`` in [-1, 1] and ``n_instances (image)``:
        images that have fewer than others are padded with empty masks of score NaN. ``isolated (image, y, x)`` marks
        patches that no affinity reaches: they belong to the parts of their nearest neighbours, and count in no score.

    Raises
    ------
    RegionsError
        If the eigenvectors cannot be used, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=4)
    >>> st.instances(eig, n_instances=3).dims
    ('image', 'instance', 'y', 'x')
    """
    check_graph(graph)
    check_options("instances", EMBEDDING, options)
    n_parts, smallest, seed = whole("n_parts", n_parts, 2), whole("smallest", smallest, 1), whole("seed", seed, 0)
    most = None if n_instances is None else whole("n_instances", n_instances, 1)
    overlap, min_score = within("overlap", overlap, least=0, most=1), within("min_score", min_score, least=-1, most=1)
    points = embed(eig, **embedding_options(options))
    if graph is None:
        labels = parts_by_kmeans(points, n_parts)
    else:
        labels = parts_by_cuts(points, graph, n_parts, seed)
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
            "options": json.dumps(options, default=lambda number: number.item()),
            "seed": seed,
            "notes": " ".join(points.notes),
        },
    )


def _check_count(points: Embedding, wanted: int | str) -> None:
    """Refuse more segments than patches, and the eigengap where there is none."""
    counts = points.free.sum(axis=1)
    fewest, place = int(counts.min()), f"image {points.names[int(counts.argmin())]!r} has"
    if points.joint:
        fewest, place = int(counts.sum()), "the images have"
    if isinstance(wanted, int) and 0 < fewest < wanted:
        raise RegionsError(
            f"n_segments={wanted} is too many: {place} {fewest} patches with any affinity. Use at most that many."
        )
    if wanted == "eigengap" and points.gaps is None:
        raise RegionsError(
            "n_segments='eigengap' needs 'eigengap' or 'eigenvalue' with the eigenvectors: keep them in the Dataset."
        )
