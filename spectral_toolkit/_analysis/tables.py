"""Any result as a tidy data frame: one observation a row, named columns, ready for CSV, pandas and R."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .._compute.arguments import choice
from .._compute.settings import computing
from ..errors import SpectralToolkitError

if TYPE_CHECKING:
    import pandas as pd

_ENDS = ("_low", "_high")
_PROVENANCE = ("image_sha256", "original_", "box_", "isolated")
"""Coordinates that say where an image comes from, and are no observations."""
_OF_COMPONENTS = ("eigenvalue", "eigengap", "degenerate_group", "residual", "converged")
_OF_LAYERS = ("layer_share", "layer_mass")
_OF_EIGENVECTORS = {"eigenvalues": _OF_COMPONENTS, "layers": _OF_LAYERS, "patches": ("eigenvector",)}


@computing
def to_dataframe(result: object, of: str | None = None) -> pd.DataFrame:
    """Give any result as a tidy table: one observation a row, with named columns.

    Parameters
    ----------
    result
        What a function of this package returned: eigenvectors, scores, effects, distances, cut values, segments,
        instances, statements, norms, a row of the affinity, an estimate of memory, a study.
    of
        Which table of eigenvectors: ``"eigenvalues"``, the default (image, component, eigenvalue, eigengap,
        degenerate_group, residual, converged), ``"layers"`` (image, component, layer, layer_share, layer_mass) or
        ``"patches"`` (image, y, x, component, eigenvector). Of a study: ``"scores"``, the default, or
        ``"eigenvalues"``. Other results have one table.

    Returns
    -------
    pandas.DataFrame
        Scores, effects, distances and cut values: the dimensions, then measure, value, low and high, where low and high
        are the ends of its interval, and are empty where there is none. Segments: image, segment, n_patches, share.
        Instances: image, instance, score, n_patches. Anything given layer by layer: layer, the dimensions, value.

    Raises
    ------
    SpectralToolkitError
        If the result is none of these, or has no such table.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> activations = st.capture("scenes", st.scenes.sample(2, seed=0).pixels, progress=False)
    >>> eig = st.solve(st.affinity(activations, "vv", device="cpu"), n_eigenvectors=3)
    >>> st.to_dataframe(eig)[["image", "component"]].values.tolist()[-1]
    ['scene_0001', 3]
    >>> list(st.to_dataframe(st.segment(eig, 2)).columns)
    ['image', 'segment', 'n_patches', 'share']
    """
    import pandas as pd

    if isinstance(result, xr.Dataset):
        return _eigenvectors(result, of or "eigenvalues") if "eigenvector" in result else _measures(result)
    if isinstance(result, xr.DataArray):
        return _array(result)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return _by_layer({"joint": result[0], **result[1]})
    if isinstance(result, Mapping) and all(isinstance(one, xr.DataArray) for one in result.values()):
        return _by_layer(result)
    result = getattr(result, "findings", result)  # of st.doctor
    if isinstance(result, list | tuple) and all(is_dataclass(one) for one in result):
        return pd.DataFrame([asdict(one) for one in result])  # pyright: ignore[reportArgumentType]
    if (own := getattr(result, "to_dataframe", None)) is not None:  # of a study
        return own() if of is None else own(of)
    if is_dataclass(result):
        return pd.DataFrame([asdict(result)])  # pyright: ignore[reportArgumentType]
    raise SpectralToolkitError(
        f"A {type(result).__name__} is no result that has a table: give what a function of this package returned, such "
        "as eigenvectors, scores or segments."
    )


def _eigenvectors(eig: xr.Dataset, of: str) -> pd.DataFrame:
    names = _OF_EIGENVECTORS[choice("of", of, tuple(_OF_EIGENVECTORS))]
    return _columns(xr.Dataset({name: eig[name] for name in names if name in eig}))


def _array(array: xr.DataArray) -> pd.DataFrame:
    name = array.name
    size_name = "n_pixels" if "y_px" in array.dims else "n_patches"
    if name == "segment":
        return _segments(array, size_name)
    if name == "instance_mask":
        sizes = array.sum([dim for dim in ("y", "x", "y_px", "x_px") if dim in array.dims])
        scores, sizes = (one.reset_coords(drop=True) for one in (array["score"], sizes.astype(np.int64)))
        found = _columns(xr.Dataset({"score": scores, size_name: sizes}))
        return found.loc[found[size_name] > 0].reset_index(drop=True)
    return _columns(array.to_dataset(name=name or "value"))


def _segments(array: xr.DataArray, size_name: str) -> pd.DataFrame:
    import pandas as pd

    rows = []
    images = array.transpose("image", ...) if "image" in array.dims else [array]
    for one in images:
        labels, counts = np.unique(one.values[one.values >= 0], return_counts=True)  # -1 is no segment
        name = str(one["image"].item()) if "image" in one.coords else ""
        rows += [
            {"image": name, "segment": int(label), size_name: int(count), "share": float(count / counts.sum())}
            for label, count in zip(labels, counts, strict=True)
        ]
    return pd.DataFrame(rows, columns=["image", "segment", size_name, "share"])


def _by_layer(arrays: Mapping[str, xr.DataArray]) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for layer, array in arrays.items():
        frame = _columns(array.to_dataset(name="value"))
        frame.insert(0, "layer", layer)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["layer", "value"])


def _measures(found: xr.Dataset) -> pd.DataFrame:
    """One row a measure: its value, and the ends of its interval where it has them."""
    import pandas as pd

    ends = {f"{name}{end}" for name in found.data_vars for end in _ENDS if f"{name}{end}" in found}
    dims: dict[Hashable, None] = {}
    frames = []
    for name in found.data_vars:
        if name in ends:
            continue
        parts = {"value": found[name]} | {end[1:]: found[f"{name}{end}"] for end in _ENDS if f"{name}{end}" in found}
        frame = _columns(xr.Dataset(parts))
        dims |= dict.fromkeys(column for column in frame.columns if column not in ("value", "low", "high"))
        frames.append(frame.assign(measure=str(name)))
    columns = [*dims, "measure", "value", "low", "high"]
    aligned = [frame.reindex(columns=columns).astype(object) for frame in frames]
    return pd.concat(aligned, ignore_index=True).infer_objects()


def _columns(found: xr.Dataset) -> pd.DataFrame:
    """Dimensions and labels as columns, then the variables, without what only says where an image comes from."""
    import pandas as pd

    kept = {str(name) for name in found.dims} | {str(name) for name in found.data_vars}
    dropped = [
        name
        for name, coordinate in found.coords.items()
        if str(name) not in kept
        and (str(name).startswith(_PROVENANCE) or not coordinate.dims or len(coordinate.dims) > 1)
        and name != "image"
    ]
    found = found.drop_vars(dropped)
    if not found.dims:
        return pd.DataFrame([{str(name): found[name].item() for name in [*found.coords, *found.data_vars]}])
    for dim in found.dims:
        if dim not in found.coords:
            found = found.assign_coords({dim: np.arange(found.sizes[dim])})
    order = sorted(found.dims, key=lambda dim: dim != "image")  # the image first, the others as they were
    frame = found.to_dataframe(dim_order=order).reset_index()
    labels = sorted((name for name in frame.columns if name not in found.data_vars), key=lambda name: name != "image")
    return frame.reindex(columns=[*labels, *map(str, found.data_vars)])
