"""From spectra to the labelled Dataset that every solver returns, and from an earlier Dataset to a warm start."""

from __future__ import annotations

import json

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .._affinity.layer_graph import LayerGraph
from .._affinity.resampling import Grid, Resampling
from .._compute.arguments import instance
from .._compute.devices import working_dtype
from .._io.activations import image_coordinates, names_array, patch_centres
from .._io.pairing import image_hashes, refuse_other_images
from ..errors import SolverError
from .spectrum import Spectrum, WarmStart

DEGENERATE_GAP = 1e-3
"""Eigenvalues closer than this, relatively, span a subspace whose vectors are arbitrary."""
TELLING = 100
"""An affinity (1 - eigenvalue) of this many tolerances is distinct from others; a smaller one may be a mixture."""
ZERO_EIGENVALUE = 1e-7
"""Eigenvalues below this, ten times the noise of single precision, count as zero: the graph is not connected."""


def assemble(
    graph: LayerGraph,
    spectra: list[Spectrum],
    *,
    solved_on: Grid,
    shown_on: Grid,
    method: str,
    tolerance: float,
    seed: int,
    seconds: float,
) -> xr.Dataset:
    """Assemble the Dataset that is documented at :func:`spectral_toolkit.solve`."""
    joint = graph.recipe.scope == "dataset"
    n_images = len(graph.images)
    vectors = by_image(torch.cat([spectrum.vectors for spectrum in spectra]), n_images)
    isolated = by_image(torch.cat([spectrum.isolated for spectrum in spectra])[:, None].to(vectors.dtype), n_images)
    notes = list(dict.fromkeys(note for spectrum in spectra for note in spectrum.notes))
    if shown_on != solved_on:
        lift = Resampling(solved_on, shown_on)
        vectors, isolated = lift(vectors), lift(isolated)
        notes.append(
            f"Solved on {solved_on[0]}x{solved_on[1]}, the finest grid of a layer of positive weight, and interpolated "
            f"bilinearly to {shown_on[0]}x{shown_on[1]}."
        )
    vectors = by_image(canonical_sign(as_one(vectors)), n_images) if joint else canonical_sign(vectors)
    eigenvalue = _numpy(torch.cat([s.eigenvalue for s in spectra]))
    following = _numpy(torch.cat([s.following for s in spectra]))
    residual = _numpy(torch.cat([s.residual for s in spectra]))
    gap = np.maximum(np.diff(np.concatenate([eigenvalue, following[:, None]], axis=1), axis=1), 0.0)
    per_component = ("image", "component")
    layer_share = _numpy(torch.cat([s.layer_share for s in spectra]))
    layer_mass = _numpy(torch.cat([s.layer_mass for s in spectra]))
    if joint:  # one value for all images
        per_component = ("component",)
        eigenvalue, residual, gap, layer_share, layer_mass = (
            values[0] for values in (eigenvalue, residual, gap, layer_share, layer_mass)
        )
    left_out = _numpy(isolated) > 0.5
    n_isolated = int(left_out.sum())
    if n_isolated:
        notes.append(
            f"Patches with hardly any affinity: {n_isolated}. They are left out, and interpolated for display."
        )
    if any(spectrum.solver == "davidson" for spectrum in spectra):
        notes.extend(_hardly_found(eigenvalue, tolerance))
    notes.extend(graph.notes)
    cells = (len(vectors), *shown_on)
    components = vectors.shape[1]
    return xr.Dataset(
        {
            "eigenvector": (
                ("image", "y", "x", "component"),
                _numpy(vectors.transpose(-1, -2)).reshape(*cells, components),
            ),
            "eigenvalue": (per_component, eigenvalue),
            "residual": (per_component, residual),
            "converged": (per_component, residual <= tolerance),
            "eigengap": (per_component, gap),
            "degenerate_group": (per_component, degenerate_groups(eigenvalue)),
            "layer_share": ((*per_component, "layer"), layer_share),
            "layer_mass": ((*per_component, "layer"), layer_mass),
            "layer_weight": ("layer", np.array(list(graph.weights.values()))),
            "isolated": (("image", "y", "x"), left_out.reshape(cells)),
        },
        coords={
            "image": names_array(graph.images),
            "y": patch_centres(shown_on[0]),
            "x": patch_centres(shown_on[1]),
            "component": np.arange(1, components + 1),
            "layer": names_array(graph.layers),
            **image_coordinates(graph.activations),
        },
        attrs={
            **graph.attrs,
            "method": method,
            "solver": ", ".join(dict.fromkeys(spectrum.solver for spectrum in spectra)),
            "tolerance": tolerance,
            "start": ", ".join(dict.fromkeys(spectrum.began_from for spectrum in spectra)),
            "iterations": max(spectrum.iterations for spectrum in spectra),
            "seconds": seconds,
            "seed": seed,
            "device": str(graph.device),
            "dtype": str(vectors.dtype).removeprefix("torch."),
            "grid": f"{solved_on[0]}x{solved_on[1]}",
            "notes": " ".join(notes),
            **_details(spectra),
            **{f"activations_{name}": value for name, value in graph.activations.attrs.items()},
        },
    )


def _hardly_found(eigenvalue: np.ndarray, tolerance: float) -> list[str]:
    """Write a note on eigenvectors of so little affinity that a residual below the tolerance says little about them."""
    affinity = np.abs(1 - eigenvalue).reshape(-1, eigenvalue.shape[-1])
    components = np.flatnonzero((affinity < TELLING * tolerance).any(axis=0)) + 1
    if not len(components):
        return []
    return [
        f"From eigenvector {components[0]} on, 1 - eigenvalue is below {TELLING} times the tolerance "
        f"({tolerance:.0e}), so that residuals say little: these eigenvectors and their eigengaps may be mixtures of "
        "others. Solve with a lower tolerance, or for fewer eigenvectors."
    ]


def _details(spectra: list[Spectrum]) -> dict[str, object]:
    """What the method adds to the attributes; lists of one entry per image are joined, and written as JSON."""
    details: dict[str, object] = {}
    for name, first in spectra[0].details.items():
        values = [spectrum.details[name] for spectrum in spectra]
        joined = [entry for value in values if isinstance(value, list) for entry in value]
        details[name] = json.dumps(joined) if isinstance(first, list) else first
    return details


def by_image(vectors: Tensor, n_images: int) -> Tensor:
    """Reshape vectors over the nodes of a dataset, (1, k, images * n), image after image, to (images, k, n).

    Vectors that already have one entry per image stay as they are.
    """
    if len(vectors) == n_images:
        return vectors
    return vectors[0].unflatten(1, (n_images, -1)).transpose(0, 1)


def as_one(vectors: Tensor) -> Tensor:
    """Reverse `by_image`: from (images, k, n) to (1, k, images * n)."""
    return vectors.transpose(0, 1).flatten(1)[None]


def canonical_sign(vectors: Tensor) -> Tensor:
    """Flip eigenvectors (images, k, n) so that the smaller side is positive; see :func:`spectral_toolkit.solve`."""
    tiny = torch.finfo(vectors.dtype).tiny
    scaled = vectors / vectors.abs().amax(dim=2, keepdim=True).clamp_min(tiny)
    skew = scaled.pow(3).sum(dim=2) / scaled.pow(2).sum(dim=2).clamp_min(tiny)
    first_large = (scaled.abs() > 1 - 1e-6).to(torch.int8).argmax(dim=2, keepdim=True)
    leading = torch.take_along_dim(scaled, first_large, dim=2)[..., 0]
    sign = torch.where(skew.abs() > 1e-6, skew.sign(), leading.sign())
    return vectors * torch.where(sign == 0, 1.0, sign)[..., None]


def degenerate_groups(eigenvalue: np.ndarray) -> np.ndarray:
    """Number the groups of ascending eigenvalues (..., k) whose neighbours differ by less than 1e-3 relatively.

    Examples
    --------
    >>> degenerate_groups(np.array([0.1, 0.2, 0.2, 0.3])).tolist()
    [0, 1, 1, 2]
    """
    ahead, behind = eigenvalue[..., 1:], eigenvalue[..., :-1]
    apart = (ahead - behind) > np.maximum(DEGENERATE_GAP * np.abs(ahead), ZERO_EIGENVALUE)
    return np.concatenate([np.zeros_like(eigenvalue[..., :1], dtype=int), np.cumsum(apart, axis=-1)], axis=-1)


def whole_groups(eigenvalue: np.ndarray, eigengap: np.ndarray) -> int:
    """Count the first of the components (k,) that end at a gap, so that rounding does not decide what they span.

    If the next eigenvalue, ``eigengap[-1]`` above the last, belongs to the last degenerate group, that group is left
    out, unless nothing else is there or the gap is unknown.

    Examples
    --------
    >>> value = np.array([0.1, 0.2, 0.2])
    >>> [whole_groups(value, np.array([0.1, 0, last])) for last in (0.3, 0.0, np.nan)]
    [3, 1, 3]
    """
    k = len(eigenvalue)
    if len(eigengap) < k or not np.isfinite(eigengap[-1]):
        return k
    groups = degenerate_groups(np.append(eigenvalue, eigenvalue[-1] + eigengap[-1]))
    if groups[k] != groups[k - 1]:
        return k
    return int(np.argmax(groups == groups[k])) or k


def warm_start(start: xr.Dataset | None, graph: LayerGraph, images: slice, grid: Grid) -> WarmStart | None:
    """Return an earlier result on ``grid``, or None.

    Raises
    ------
    SolverError
        If the result is of other images, or is not a result.
    """
    if start is None:
        return None
    give = "the Dataset of an earlier st.solve or None"
    start = instance("start", start, xr.Dataset, give, has="eigenvector", error=SolverError)
    if set(start.eigenvector.dims) != {"image", "y", "x", "component"}:
        raise SolverError(
            f"start has eigenvectors of dimensions {tuple(map(str, start.eigenvector.dims))}; expected image, y, x and "
            "component: give a result of st.solve as it was returned, or None."
        )
    if tuple(map(str, start["image"].values)) != graph.images:
        raise SolverError(
            "start was solved for other images than this graph's: give a result for the same images in the same "
            "order, or None."
        )
    hashes = image_hashes(start, graph.images), graph.hashes
    refuse_other_images(graph.images, *hashes, ("start", "the graph"), SolverError)
    components = start["component"].values if "component" in start.coords else np.arange(1)
    if components[:1].tolist() not in ([0], [1]) or (np.diff(components) != 1).any():
        raise SolverError(
            f"start holds components {components.tolist()}: give the first components of a result of st.solve without "
            "a gap (otherwise the lowest might not be found), or None."
        )
    vectors = start["eigenvector"].isel(image=images).transpose("image", "y", "x", "component")
    values = np.array(vectors.values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise SolverError("start holds NaN or infinity: give a result of st.solve as it was returned, or None.")
    dtype = working_dtype(graph.device)
    columns = torch.as_tensor(values).flatten(1, 2).transpose(1, 2).contiguous().to(device=graph.device, dtype=dtype)
    columns = Resampling((vectors.sizes["y"], vectors.sizes["x"]), grid)(columns)
    return WarmStart(as_one(columns) if graph.recipe.scope == "dataset" else columns)


def _numpy(x: Tensor) -> np.ndarray:
    values = x.detach().cpu().numpy()
    return values.astype(np.float64, copy=False)
