"""Makes the graph that a result was solved from again, from the attributes of the result."""

from __future__ import annotations

import json
import os

import xarray as xr

from ..._affinity import affinity
from ..._affinity.layer_graph import LayerGraph
from ..._affinity.table import KERNELS
from ...errors import SolverError


def graph_of(
    eig: xr.Dataset, activations: xr.DataTree, *, folder: str | os.PathLike[str] | None, device: str
) -> LayerGraph:
    """Make the graph of these activations with every setting that the attributes of ``eig`` name.

    Raises
    ------
    SolverError
        If the attributes do not name all settings.
    ActivationsError, AffinityError
        If the graph cannot be made from the activations.
    """
    try:
        layers, weights = (json.loads(eig.attrs[name]) for name in ("layers", "weights"))
        options = json.loads(eig.attrs["kernel_options"])
        kind, kernel, heads, scope = (str(eig.attrs[name]) for name in ("affinity", "kernel", "heads", "scope"))
    except (KeyError, ValueError, TypeError) as error:
        raise SolverError(
            f"eig does not say how it was solved ({error!r} of its attributes): give the graph that it was solved from "
            "instead of the activations."
        ) from error
    if heads == "each":
        layers = [layer.rpartition("[")[0] for layer in layers]
    return affinity(
        activations,
        kind,
        kernel=kernel,
        heads=heads,
        scope=scope,
        weights=weights,
        layers=list(dict.fromkeys(layers)),
        device=device,
        folder=folder if KERNELS[kernel].searches else None,
        **options,
    )
