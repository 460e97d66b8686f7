"""The out-of-sample extension: new images get the colours of images solved before, without solving again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ..._affinity.dataset_graph import DatasetGraph
from ..._affinity.layer_graph import LayerGraph, Member, make_members
from ..._affinity.pencil import positive_members
from ..._affinity.resampling import Grid, Resampling
from ..._compute.arguments import instance
from ..._compute.devices import working_dtype
from ..._compute.settings import computing
from ..._compute.warned import outside
from ..._io.activations import check_tree, image_coordinates, image_names, layer_names, names_array, patch_centres
from ..._io.pairing import image_hashes, refuse_other_images
from ...errors import ActivationsError, SolverError
from . import knn, low_rank
from .rebuilding import graph_of
from .system import PictureSystem, Solution

__all__ = ["project"]

ENTRIES_AT_ONCE = 2**25
"""Matrix entries of the images that are projected together, 256 MiB in float64."""


@computing
def project(
    activations: xr.DataTree,
    eig: xr.Dataset,
    fitted: LayerGraph | xr.DataTree,
    *,
    folder: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> xr.Dataset:
    """Extend the eigenvectors of a solved dataset to new images, and leave the original values unchanged.

    The patches of a new image get the values that its own rows of the joint eigenproblem require while the fitted
    images keep theirs: (1 - lambda) B x = W_own x + W_fitted x_fitted, summed over layers with the weights and scales
    of the graph (the Nyström extension, including the affinities within the new image). Colours and signs therefore
    mean the same as in the fitted images, and every image is projected alone: the other new images change
    nothing.

    Parameters
    ----------
    activations
        Activations of the new images: the same layers and quantities of the same model. The size of the images may
        differ from that of the fitted images.
    eig
        The result of :func:`spectral_toolkit.solve` over a graph of scope ``"dataset"``; it may have been read from a
        store.
    fitted
        The graph; or the activations that it was made from, from which it is made again with the settings in the
        attributes of ``eig``.
    folder, device
        Arguments of a graph that is made again, as in :func:`spectral_toolkit.affinity`: with the ``folder`` of the
        earlier graph, its neighbours need not be searched for again.

    Returns
    -------
    xarray.Dataset
        Like that of :func:`spectral_toolkit.solve`, for the new images: ``eigenvector (image, y, x, component)``,
        ``isolated (image, y, x)``, and, unchanged, what belongs to the fitted images: ``eigenvalue``, ``residual``,
        ``eigengap``, layer shares. In addition ``tie (image, y, x)``: a patch's degree to the fitted images, divided by
        the mean degree of theirs; it is low where few fitted patches are like it. Also
        ``determined (image, component)``: false where the patches of the image belong together more strongly than the
        eigenvalue allows, so that their affinities to fitted images say little about it. ``notes`` says so too.

    Raises
    ------
    SolverError
        If ``eig`` is not a result of ``fitted``, or was not solved over the dataset.
    ActivationsError
        If a layer is missing, has other heads or channels, or the new images were captured with another model.

    References
    ----------
    Bengio et al., "Learning eigenfunctions links spectral embedding and kernel PCA", Neural Computation 16 (2004);
    Fowlkes, Belongie, Chung & Malik, "Spectral grouping using the Nyström method", PAMI 26 (2004).

    Examples
    --------
    >>> import numpy as np, xarray as xr, spectral_toolkit as st
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(5, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> graph = st.affinity(activations.isel(image=slice(0, 4)), "vv", scope="dataset", device="cpu")
    >>> eig = st.solve(graph, n_eigenvectors=2)
    >>> st.project(activations.isel(image=slice(4, 5)), eig, graph).eigenvector.sizes["image"]
    1
    """
    check_tree(activations)
    instance("eig", eig, xr.Dataset, "what st.solve returned", has="eigenvector", error=SolverError)
    graph = graph_of(eig, fitted, folder=folder, device=device) if isinstance(fitted, xr.DataTree) else fitted
    if not isinstance(graph, DatasetGraph):
        what = f"of scope {graph.recipe.scope!r}" if isinstance(graph, LayerGraph) else f"a {type(graph).__name__}"
        raise SolverError(
            f"fitted is {what}: give the graph that eig was solved from, st.affinity(..., scope='dataset')."
        )
    vectors = _fitted_vectors(eig, graph)
    layers = _paired(activations, graph)
    grid = max((layer.new.grid for layer in layers), key=lambda grid: grid[0] * grid[1])
    eigenvalue = np.asarray(eig["eigenvalue"].values, dtype=np.float64)
    found: list[Solution] = []
    for places in _batches(len(image_names(activations)), grid):
        systems = [PictureSystem(grid) for _ in places]
        for layer in layers:
            columns = _on_layer(vectors, layer.fitted.grid)
            tied = (knn.ties if graph.kernel.searches else low_rank.ties)(
                graph, layer.fitted, activations, places, columns
            )
            for system, ties in zip(systems, tied, strict=True):
                system.add(ties, layer.new.grid, layer.coefficient)
        found += [system.solve(eigenvalue) for system in systems]
    return _assembled(activations, eig, graph, grid, found)


@dataclass(frozen=True)
class _Layer:
    """A member of the graph, its counterpart for the new images, and the factor of its affinities."""

    fitted: Member
    new: Member
    coefficient: float


def _fitted_vectors(eig: xr.Dataset, graph: DatasetGraph) -> Float[Tensor, "images k y x"]:
    """Return the eigenvectors of the fitted images, after checking that they belong to the graph."""
    for name, own in {**graph.attrs, **graph.content}.items():
        if eig.attrs.get(name) != own:
            raise SolverError(
                f"eig was solved with {name}={eig.attrs.get(name)!r}, but the graph has {own!r}: give the graph that "
                "it was solved from, or one made in the same way."
            )
    if "image" not in eig.coords or tuple(map(str, eig["image"].values)) != graph.images:
        raise SolverError(
            "eig has other images than the graph: give the graph that it was solved from, and all of eig."
        )
    refuse_other_images(graph.images, image_hashes(eig, graph.images), graph.hashes, ("eig", "the graph"), SolverError)
    vectors = np.array(eig["eigenvector"].transpose("image", "component", "y", "x").values, dtype=np.float64)
    if not np.isfinite(vectors).all():
        raise SolverError("eig holds NaN or infinity: give a result of st.solve as it was returned.")
    return torch.as_tensor(vectors).to(device=graph.device, dtype=working_dtype(graph.device))


def _paired(activations: xr.DataTree, graph: DatasetGraph) -> list[_Layer]:
    """Pair the members of positive weight with those of the new activations, which must be of the same model."""
    hashes = [tree.attrs.get("weights_sha256", "") for tree in (graph.activations, activations)]
    if all(hashes) and hashes[0] != hashes[1]:
        models = [tree.attrs.get("model", "?") for tree in (graph.activations, activations)]
        raise ActivationsError(
            f"The new images were captured with model {models[1]!r}, whose weights differ from those of {models[0]!r}, "
            "with which the fitted images were captured: capture both with the same model."
        )
    members = positive_members(graph)
    names = layer_names(activations)
    if lacking := [member.layer for member in members if member.layer not in names]:
        raise ActivationsError(
            f"The new activations lack layer {lacking[0]!r}, over which the eigenvectors were solved: capture it too."
        )
    layers = list(dict.fromkeys(member.layer for member in members))
    new = {member.name: member for member in make_members(activations, layers, graph.recipe.kind, graph.recipe.heads)}
    total = sum(graph.weights[member.name] for member in members)
    pairs: list[_Layer] = []
    for member in members:
        other = new.get(member.name)
        if other is None or (other.n_heads, other.rank) != (member.n_heads, member.rank):
            raise ActivationsError(
                f"Layer {member.name!r} of the new activations has other heads or channels than that of the fitted "
                "images: capture both with the same model and the same settings."
            )
        # As in the pencil, every layer has the same total degree, chosen here so that a fitted patch has 1 on
        # average.
        degree = float(graph.operators(member).degree.mean())
        pairs.append(_Layer(member, other, graph.weights[member.name] / total / degree))
    return pairs


def _batches(n_images: int, grid: Grid) -> Iterator[range]:
    size = max(1, ENTRIES_AT_ONCE // (2 * (grid[0] * grid[1]) ** 2))
    for start in range(0, n_images, size):
        yield range(start, min(start + size, n_images))


def _on_layer(fitted: Float[Tensor, "images k y x"], grid: Grid) -> Float[Tensor, "nodes columns"]:
    """Resample the eigenvectors to the patches of a layer, image by image, and append a constant."""
    there = Resampling((fitted.shape[2], fitted.shape[3]), grid)(fitted.flatten(2))
    nodes = there.transpose(1, 2).flatten(0, 1)
    return torch.cat([nodes, torch.ones_like(nodes[:, :1])], dim=1)


def _doubts(names: Sequence[str], found: Sequence[Solution], components: np.ndarray) -> list[str]:
    """What a reader should know about images that the fitted ones say little or nothing about."""
    lost = [name for name, one in zip(names, found, strict=True) if one.isolated.all()]
    doubts = [f"{_named(lost, names)} have no affinity to any fitted image, so all their values are 0."] if lost else []
    unsure = {name: one for name, one in zip(names, found, strict=True) if not one.determined.all()}
    if apart := [name for name in unsure if name not in lost]:
        certain = np.stack([unsure[name].determined for name in apart])
        doubts.append(
            f"In {_named(apart, names)} the patches belong together more strongly than eigenvectors from "
            f"{int(components[np.argmin(certain.all(axis=0))])} on allow, so that their affinities to fitted images "
            "say little about these eigenvectors ('determined' is false)."
        )
    return doubts


def _named(some: Sequence[str], names: Sequence[str]) -> str:
    return f"{len(some)} of {len(names)} images ({', '.join(map(repr, some[:3]))}{', ...' if len(some) > 3 else ''})"


def _assembled(
    activations: xr.DataTree, eig: xr.Dataset, graph: DatasetGraph, grid: Grid, found: Sequence[Solution]
) -> xr.Dataset:
    names, by_cell = image_names(activations), ("image", "y", "x")
    remarks = [f"Projected into the eigenvectors of {len(graph.images)} other images, which this did not change."]
    for doubt in _doubts(names, found, eig["component"].values):
        warnings.warn(doubt, stacklevel=outside())
        remarks.append(doubt)
    if eig.attrs.get("notes"):
        remarks.append(f"About the fitted images: {eig.attrs['notes']}")
    own = [name for name in eig.variables if "image" in eig[name].dims or name in ("image", "y", "x")]
    attrs = {name: value for name, value in eig.attrs.items() if not str(name).startswith("activations_")}
    attrs |= {
        "grid": f"{grid[0]}x{grid[1]}",
        "fitted_images": len(graph.images),
        "notes": " ".join(remarks),
        **{f"activations_{name}": value for name, value in activations.attrs.items()},
    }
    vectors, isolated, tie = (
        np.stack([getattr(one, name).reshape(*grid, *extra) for one in found])
        for name, extra in (("vectors", (-1,)), ("isolated", ()), ("tie", ()))
    )
    return (
        eig.drop_vars(own)
        .assign(
            eigenvector=((*by_cell, "component"), vectors),
            isolated=(by_cell, isolated),
            tie=(by_cell, tie),
            determined=(("image", "component"), np.stack([one.determined for one in found])),
        )
        .assign_coords(
            {
                "image": names_array(names),
                "y": patch_centres(grid[0]),
                "x": patch_centres(grid[1]),
                **image_coordinates(activations),
            }
        )
        .drop_attrs(deep=False)
        .assign_attrs(attrs)
    )
