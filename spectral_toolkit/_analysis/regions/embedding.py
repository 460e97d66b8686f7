"""Eigenvectors as points to be grouped: one row per patch, with what is known about every image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from ..._compute.arguments import whole
from ..._io.pairing import image_hashes
from ...errors import RegionsError
from ...solvers.result import whole_groups
from ..trust import is_flat


@dataclass
class Embedding:
    """Rows to group.

    Attributes
    ----------
    rows
        Eigenvectors, each multiplied by sqrt(1 - eigenvalue) if weighted.
    free
        Patches that some affinity reaches; the others have no value of their own.
    grid
        Rows and columns of patches.
    joint
        Whether all images were solved as one, so that equal values mean the same in each.
    names, hashes
        Names and hashes of the images.
    gaps
        The gaps from every eigenvalue to the next, one row per image (the same in all if joint).
    coords
        The coordinates that a result over (image, y, x) keeps.
    attrs
        The provenance of the eigenvectors.
    notes
        What a reader should know; grouping adds to these notes.
    """

    rows: Float[np.ndarray, "images cells components"]
    free: Bool[np.ndarray, "images cells"]
    grid: tuple[int, int]
    joint: bool
    names: list[str]
    hashes: list[str]
    gaps: Float[np.ndarray, "images components"] | None
    coords: dict[str, object]
    attrs: dict[str, object]
    notes: list[str] = field(default_factory=list)


MOST = 10
"""The largest number of segments, unless a number is given."""


def titles(joint: bool, names: list[str]) -> list[str]:
    """Return the names of the problems: every image that is grouped separately, or all of them as one."""
    return ["all images as one"] if joint else names


def most_tried(where: list[str]) -> str:
    """Write the note on numbers of segments that are the largest one tried; empty if there are none."""
    if not where:
        return ""
    return f"More than {MOST} segments are only tried if asked for, and {MOST} were chosen in {listed(where)}."


def embed(eig: xr.Dataset, components: object = None, weighted: bool = True) -> Embedding:
    """Read the result of :func:`spectral_toolkit.solve`.

    Distances between weighted rows are those that the joint affinity sees: with B X = 1, the affinity relative to the
    degrees is the sum over components of (1 - eigenvalue) x x', so late components, in which little belongs together,
    have little weight. Components of eigenvalue 1 and above, cuts no better than chance, have no weight. Unless a
    number of ``components`` is given, nor have those after the last eigengap, which rounding turns into others.

    Raises
    ------
    RegionsError
        If there are no eigenvectors, they are not finite, or fewer than ``components``.
    """
    vectors, eig = _vectors(eig)
    n_images, rows, columns, n_components = vectors.shape
    if components is not None:
        why = ", as many as there are: solve for more (n_eigenvectors=...) or use fewer"
        n_components = whole("components", components, 1, n_components, why=why, error=RegionsError)
    points = np.asarray(vectors.values[..., :n_components], dtype=np.float64).reshape(n_images, -1, n_components)
    names = image_names(eig)
    finite = np.isfinite(points).all(axis=(1, 2))
    if not finite.all():
        raise RegionsError(
            f"The eigenvectors of image {names[int(finite.argmin())]!r} hold NaN or infinity: solve again, and read "
            "the attribute 'notes' and the variable 'converged'."
        )
    joint = is_joint(eig)
    values = _per_component(eig, "eigenvalue", n_images)
    notes = []
    if weighted:
        if values is None:
            raise RegionsError(
                "The eigenvectors come without 'eigenvalue': keep it in the Dataset, or set weighted=False."
            )
        weight = np.sqrt(np.maximum(1 - values[:, :n_components], 0))
        hopeless = [name for name, own in zip(names, weight, strict=True) if not own.any()]
        if hopeless:
            notes.append(f"No eigenvalue is below 1, so there are no segments to find, in {listed(hopeless)}.")
        points = points * weight[:, None]
    gaps = _gaps(eig, values, n_images)
    if values is not None and gaps is not None:
        if components is None:
            kept = [whole_groups(*own) for own in zip(values, gaps, strict=True)]
            points = np.where(np.arange(n_components) < np.array(kept)[:, None, None], points, 0.0)
            fewer = [title for title, own in zip(titles(joint, names), kept, strict=False) if own < n_components]
            if fewer:
                notes.append(
                    "The last eigenvectors are left out, as the next eigenvalue hardly differs from theirs and "
                    f"rounding decides which come first, in {listed(fewer)}."
                )
        flat = [title for title, *own in zip(titles(joint, names), values, gaps, strict=False) if is_flat(*own)]
        if flat:
            notes.append(f"Eigenvalues hardly differ, so that segments may mean nothing, in {listed(flat)}.")
    isolated = isolated_cells(eig, (n_images, rows, columns))
    return Embedding(
        rows=points,
        free=~isolated.reshape(n_images, -1),
        grid=(rows, columns),
        joint=joint,
        names=names,
        hashes=image_hashes(eig, names),
        gaps=gaps,
        coords=_coords(eig, vectors, isolated),
        attrs=_provenance(eig),
        notes=notes,
    )


def image_names(eig: xr.Dataset) -> list[str]:
    """Return the names of the images, or their numbers as text if they have no names."""
    if "image" in eig.coords:
        return [str(name) for name in np.atleast_1d(eig.coords["image"].values)]
    return [str(index) for index in range(eig.sizes["image"])]


def is_joint(eig: xr.Dataset) -> bool:
    """Tell whether all images were solved as one."""
    scope = eig.attrs.get("scope")
    return scope == "dataset" if scope else "eigenvalue" in eig and "image" not in eig["eigenvalue"].dims


def isolated_cells(eig: xr.Dataset, shape: tuple[int, int, int]) -> Bool[np.ndarray, "images y x"]:
    """Return the patches that no affinity reaches, as the solver recorded them; none where it recorded nothing."""
    if "isolated" not in eig:
        return np.zeros(shape, dtype=bool)
    isolated = eig["isolated"]
    if set(isolated.dims) != {"image", "y", "x"} or isolated.transpose("image", "y", "x").shape != shape:
        raise RegionsError(
            f"'isolated' has dimensions {tuple(map(str, isolated.dims))} and shape {isolated.shape}; expected those of "
            f"the eigenvectors, {shape} over image, y and x."
        )
    return np.asarray(isolated.transpose("image", "y", "x").values, dtype=bool)


def listed(names: list[str], n_shown: int = 3) -> str:
    """List the first few names, and the number of the others.

    Examples
    --------
    >>> listed(["a", "b", "c", "d"], 2)
    "'a', 'b' and 2 more"
    """
    shown = ", ".join(map(repr, names[:n_shown]))
    return shown if len(names) <= n_shown else f"{shown} and {len(names) - n_shown} more"


def _vectors(eig: xr.Dataset) -> tuple[xr.DataArray, xr.Dataset]:
    if not isinstance(eig, xr.Dataset) or "eigenvector" not in eig.data_vars:
        raise RegionsError(
            f"A {type(eig).__name__} was given as eigenvectors: give the Dataset that st.solve returns, with a "
            "variable 'eigenvector' (image, y, x, component)."
        )
    if "image" not in eig["eigenvector"].dims:  # one image was chosen, as in eig.isel(image=0)
        eig = eig.expand_dims("image")
        alone = {name: ("image", [value.item()]) for name, value in eig.coords.items() if not value.dims}
        eig = eig.assign_coords(alone)
    vectors = eig["eigenvector"]
    expected = ("image", "y", "x", "component")
    if set(vectors.dims) != set(expected) or 0 in vectors.shape:
        raise RegionsError(
            f"The eigenvectors have dimensions {tuple(map(str, vectors.dims))} of sizes {vectors.shape}; expected "
            "image, y, x and component, none of them empty."
        )
    return vectors.transpose(*expected), eig


def _per_component(eig: xr.Dataset, name: str, n_images: int) -> Float[np.ndarray, "images components"] | None:
    if name not in eig:
        return None
    values = eig[name]
    order = ("image", "component") if "image" in values.dims else ("component",)
    if set(values.dims) != set(order):
        raise RegionsError(
            f"{name!r} has dimensions {tuple(map(str, values.dims))}; expected component, with or without image."
        )
    array = np.asarray(values.transpose(*order).values, dtype=np.float64)
    return np.broadcast_to(array, (n_images, array.shape[-1]))


def _gaps(eig: xr.Dataset, values: np.ndarray | None, n_images: int) -> np.ndarray | None:
    gaps = _per_component(eig, "eigengap", n_images)
    if gaps is None and values is not None:
        gaps = np.diff(values, axis=1)
    return gaps


def _coords(eig: xr.Dataset, vectors: xr.DataArray, isolated: np.ndarray) -> dict[str, object]:
    kept = {
        str(name): coordinate.variable
        for name, coordinate in vectors.coords.items()
        if coordinate.dims in (("image",), ("y",), ("x",))
    }
    return {**kept, "isolated": (("image", "y", "x"), isolated)}


def _provenance(eig: xr.Dataset) -> dict[str, object]:
    """Return what the eigenvectors say about themselves; how they were solved is put under names of its own."""
    kept = ("affinity", "kernel", "kernel_options", "layers", "weights", "heads", "scope")
    return {
        **{name: eig.attrs[name] for name in kept if name in eig.attrs},
        **{f"solve_{name}": eig.attrs[name] for name in ("method", "tolerance", "seed") if name in eig.attrs},
        **{name: value for name, value in eig.attrs.items() if str(name).startswith("activations_")},
    }
