"""One eigenvector cut in two at a threshold: what every threshold costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from ..._affinity.layer_graph import LayerGraph
from ..._affinity.resampling import Grid, Resampling
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
"""Steps from the least threshold to the largest, unless others are given."""


@computing
def cut_costs(
    eig: xr.Dataset, graph: LayerGraph, component: int = 1, *, thresholds: Sequence[float] | np.ndarray | None = None
) -> xr.Dataset:
    """What it costs to cut one eigenvector in two, for every threshold.

    An eigenvector is a cut that has been relaxed to real numbers; a threshold makes a cut of it again. Which one is a
    choice: zero is the natural one of a balanced cut, the one of the smallest normalised cut that of Shi & Malik.

    Parameters
    ----------
    eig
        From :func:`spectral_toolkit.solve`, whole or one image of it.
    graph
        What ``eig`` was solved from.
    component
        Which eigenvector, counted from 1.
    thresholds
        In [-1, 1], as parts of the eigenvector's largest magnitude in the picture, or in all that were solved as one;
        201 of equal steps if None.

    Returns
    -------
    xarray.Dataset
        ``share (image, threshold)``, the part of the cells above the threshold (isolated ones are not counted);
        ``normalised_cut (image, threshold)`` of the joint graph into those above and those not, in [0, 2], NaN where
        one side is empty; and ``best (image)``, the threshold of the smallest, NaN if there is none. Of pictures solved
        as one all are without ``image``.

    Raises
    ------
    RegionsError
        If there is no such component, a threshold is out of range, ``eig`` is not of this graph, or the joint graph
        would be a full matrix over more than 4,096 cells.

    Notes
    -----
    On the grid that was solved on, no cut costs less than the eigenvalue of component 1, if that is at most 1. With W
    the joint affinity, d its row sums, B the joint degree and z the indicator of one side less its mean over d, the cut
    costs 1 - z'Wz / z' diag(d) z, and the eigenvalue is at most 1 - z'Wz / z'Bz. Where all layers have one grid, B is
    diag(d), and this is Shi & Malik's bound, at most 1 or not. Elsewhere B is non-negative with row sums d, so that
    z'Bz is the smaller; a cut whose z'Wz is negative costs more than 1.

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
    if not isinstance(graph, LayerGraph):
        raise RegionsError(f"graph is a {type(graph).__name__}: give what the eigenvectors were solved from.")
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
    """Share of the cells above every value, and the cost of that split."""
    below = np.searchsorted(vector[order], values, side="right")
    n = len(vector)
    inner = (below > 0) & (below < n)
    costs = np.full(len(values), np.nan)
    costs[inner] = cost[below[inner] - 1]
    return 1 - below / n if n else np.zeros(len(values)), costs
