"""One eigenvector cut in two at a threshold: the cut value of every threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from ..._affinity.layer_graph import LayerGraph
from ..._affinity.resampling import Grid, Resampling
from ..._compute.arguments import instance
from ..._compute.settings import computing
from ..._io.activations import names_array
from ..._io.pairing import hash_coordinate
from ...errors import RegionsError
from .arguments import whole
from .cutting import split_costs
from .embedding import embed
from .joint import cutting_grid, joint_affinities
from .segments_by_cuts import positions

STEPS = 200
"""Number of steps from the lowest threshold to the highest, unless thresholds are given."""


@computing
def cut_costs(
    eig: xr.Dataset, graph: LayerGraph, component: int = 1, *, thresholds: Sequence[float] | np.ndarray | None = None
) -> xr.Dataset:
    """Compute the cut value of dividing the patches by one eigenvector, for every threshold.

    An eigenvector is a cut that has been relaxed to real numbers; a threshold turns it into a cut again. The threshold
    is a choice: zero is natural for a balanced cut, and Shi & Malik take the one with the smallest normalised cut.

    Parameters
    ----------
    eig
        The result of :func:`spectral_toolkit.solve`, whole or for one image.
    graph
        The graph that ``eig`` was solved from.
    component
        The number of the eigenvector, counted from 1.
    thresholds
        Thresholds in [-1, 1], relative to the largest magnitude of the eigenvector in the image, or in all images that
        were solved as one; None for 201 equally spaced ones.

    Returns
    -------
    xarray.Dataset
        ``share (image, threshold)``, the share of the patches above the threshold (isolated ones are not counted);
        ``normalised_cut (image, threshold)`` of the joint graph into the patches above it and the others, in [0, 2],
        NaN where one side is empty; and ``best (image)``, the threshold of the smallest cut value, NaN if there is
        none. If the images were solved as one, none of these has the dimension ``image``.

    Raises
    ------
    RegionsError
        If there is no such component, a threshold is out of range, ``eig`` is not of this graph, or the joint graph
        would be a full matrix over more than 4,096 patches.

    Notes
    -----
    On the grid that was solved on, no cut value is below the eigenvalue of component 1, if that is at most 1. With W
    the joint affinity, d its row sums, B the joint degree and z the indicator of one side minus its mean over d, the
    cut value is 1 - z'Wz / z' diag(d) z, and the eigenvalue is at most 1 - z'Wz / z'Bz. Where all layers have one grid,
    B is diag(d), and this is Shi & Malik's bound, whether it is at most 1 or not. Elsewhere B is non-negative with row
    sums d, so that z'Bz is the smaller; a cut with negative z'Wz has a cut value above 1.

    References
    ----------
    Shi & Malik, IEEE Trans. Pattern Anal. Mach. Intell. 22 (2000) 888, section 3.

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> graph = st.affinity(activations, "vv", device="cpu")
    >>> costs = st.cut_costs(st.solve(graph, 2), graph, thresholds=[-1, 0])
    >>> costs.share.values.round(2).tolist(), costs.normalised_cut.isnull().values.tolist()
    ([[1.0, 0.5]], [[True, False]])
    """
    instance("graph", graph, LayerGraph, "the graph of the eigenvectors", error=RegionsError)
    wanted = _checked(thresholds)
    points = embed(eig, weighted=False)
    number = whole("component", component, 1)
    numbers = (
        np.atleast_1d(eig["component"].values) if "component" in eig.coords else np.arange(1, points.rows.shape[2] + 1)
    )
    if number not in numbers:
        raise RegionsError(
            f"component={number} was not computed: these eigenvectors have components {numbers[0]} to {numbers[-1]}."
        )
    images = positions(points, graph)
    grid = cutting_grid(graph, points.grid)
    fields = points.rows[:, :, list(numbers).index(number)]
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for image, affinity, free in joint_affinities(graph, images, grid):
        shown = fields if points.joint else fields[images.index(image)][None]
        vector = _on(shown, points.grid, grid).ravel()
        limit = np.abs(shown).max()
        found[image] = _at(wanted * limit, vector[free], *split_costs(affinity[free][:, free], vector[free]))
    ordered = [found[image] for image in ([0] if points.joint else images)]
    share, cost = (np.stack([one[part] for one in ordered]) for part in (0, 1))
    filled = np.where(np.isnan(cost), np.inf, cost)
    best = np.where(np.isfinite(filled).any(axis=1), wanted[filled.argmin(axis=1)], np.nan)
    costs = xr.Dataset(
        {
            "share": (("image", "threshold"), share),
            "normalised_cut": (("image", "threshold"), cost),
            "best": ("image", best),
        },
        {"threshold": wanted, "component": number},
        {**points.attrs, "notes": " ".join(points.notes)},
    )
    if points.joint:
        return costs.isel(image=0)
    return costs.assign_coords({"image": names_array(points.names), **hash_coordinate(points.hashes)})


def _checked(thresholds: object) -> Float[np.ndarray, " thresholds"]:
    if thresholds is None:
        return np.arange(-STEPS // 2, STEPS // 2 + 1) / (STEPS // 2)
    try:
        values = np.asarray(thresholds, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.ndim != 1 or not len(values) or not (np.abs(values) <= 1).all():
        raise RegionsError(f"thresholds={thresholds!r} is not understood: give numbers from -1 to 1, or None.")
    return values


def _on(fields: Float[np.ndarray, "images cells"], shown: Grid, grid: Grid) -> Float[np.ndarray, "images others"]:
    return Resampling(shown, grid)(torch.as_tensor(fields)[:, None])[:, 0].numpy()


def _at(
    values: Float[np.ndarray, " thresholds"],
    vector: Float[np.ndarray, " cells"],
    order: np.ndarray,
    cost: Float[np.ndarray, " places"],
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """Return the share of the patches above every value, and the cut value of that split."""
    below = np.searchsorted(vector[order], values, side="right")
    n = len(vector)
    inner = (below > 0) & (below < n)
    costs = np.full(len(values), np.nan)
    costs[inner] = cost[below[inner] - 1]
    return 1 - below / n if n else np.zeros(len(values)), costs
