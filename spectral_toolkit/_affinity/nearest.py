"""The patches to which a patch has its strongest affinities, jointly and in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from .._compute.arguments import whole
from .._compute.settings import computing
from .._io.grids import moved
from ..errors import AffinityError
from .layer_graph import LayerGraph
from .rows import affinity_row

JOINT = "all layers"
"""The name of the joint affinity among those of the layers."""


@computing
def nearest(graph: LayerGraph, cell: tuple[int, int], image: int | str = 0, *, n: int = 10) -> pd.DataFrame:
    """Return the patches to which one patch has its strongest affinities, jointly and in every layer.

    Parameters
    ----------
    graph, cell, image
        As in :func:`spectral_toolkit.affinity_row`: in a graph of scope ``"dataset"`` patches of all images are found.
    n
        How many patches are listed for each layer; fewer where fewer have an affinity above 0.

    Returns
    -------
    pandas.DataFrame
        One line per layer and rank, the joint affinity (``"all layers"``) first: ``layer``, ``rank`` from 1, ``image``,
        ``y`` and ``x`` as fractions of the image, ``row`` and ``column`` on the layer's own grid, ``affinity``, and
        ``relative``, the affinity as a fraction of the strongest in its layer. The patch itself is not among them. The
        patches of one layer can be assigned to ``explorer.selection``.

    Raises
    ------
    AffinityError
        If the patch or the image does not exist.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(1, seed=0).pixels, layers=[0, 1], progress=False)
    >>> table = nearest(st.affinity(activations, "vv", device="cpu"), (2, 3), n=3)
    >>> table["layer"].unique().tolist(), table["rank"].tolist()[:3], float(table["relative"][0])
    (['all layers', 'model.layer.0', 'model.layer.1'], [1, 2, 3], 1.0)
    """
    if not isinstance(graph, LayerGraph):
        raise AffinityError(f"graph is a {type(graph).__name__}: give what st.affinity returned.")
    number = whole("n", n, 1, error=AffinityError)
    joint, layers = affinity_row(graph, cell, image)
    return nearest_in({JOINT: joint, **layers}, cell, graph.images, graph.image_index(image), number)


def nearest_in(
    rows: Mapping[str, xr.DataArray], cell: Sequence[int], names: Sequence[str], image: int, n: int
) -> pd.DataFrame:
    """The strongest of rows that are known already, as `nearest` returns them; ``cell`` is on the grid of the first."""
    grid = next(iter(rows.values())).shape[-2:]
    parts = []
    for layer, row in rows.items():
        values = np.array(row.values, dtype=float)
        several = values.ndim == 3
        values = values if several else values[None]
        values[(image if several else 0, *moved(cell, grid, values.shape[1:]))] = -1.0
        order = np.argsort(-values.ravel(), kind="stable")[:n]
        order = order[values.ravel()[order] > 0]
        place, down, across = np.unravel_index(order, values.shape)
        strength = values.ravel()[order]
        parts.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "rank": np.arange(1, len(order) + 1),
                    "image": [str(names[one if several else image]) for one in place.tolist()],
                    "y": (down + 0.5) / values.shape[1],
                    "x": (across + 0.5) / values.shape[2],
                    "row": down,
                    "column": across,
                    "affinity": strength,
                    "relative": strength / strength[0] if len(strength) else strength,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
