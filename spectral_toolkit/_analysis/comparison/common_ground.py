"""Brings two results together: the same images in one order, one grid, one inner product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from ..._affinity.dataset_pencil import make_pencil
from ..._affinity.layer_graph import LayerGraph
from ..._affinity.pencil import JointPencil
from ..._affinity.resampling import Grid, Resampling
from ..._compute.arguments import instance
from ..._io.pairing import first_names, image_hashes, refuse_other_images
from ...errors import ComparisonError
from ...solvers import batches
from .angles import Product

CELLS = "cells"
"""The inner product that counts every patch once."""


@dataclass(frozen=True)
class ComparedResult:
    """Eigenvectors (image, y, x, component) as arrays, with what is known about them.

    ``joint`` says that all images were solved as one, ``single`` that the dimension ``image`` did not exist.
    """

    vectors: np.ndarray
    free: np.ndarray
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    components: tuple[int, ...]
    joint: bool
    single: bool

    @property
    def grid(self) -> Grid:
        return self.vectors.shape[1], self.vectors.shape[2]

    def ordered(self, names: tuple[str, ...]) -> ComparedResult:
        """Return the same with its images in another order."""
        order = [self.names.index(name) for name in names]
        hashes = tuple(self.hashes[place] for place in order)
        return replace(self, vectors=self.vectors[order], free=self.free[order], names=names, hashes=hashes)


def read(eig: xr.Dataset, argument: str) -> ComparedResult:
    """Read a result of :func:`spectral_toolkit.solve`, whole or for one image."""
    instance(argument, eig, xr.Dataset, "the Dataset that st.solve returned", has="eigenvector", error=ComparisonError)
    single = "image" not in eig["eigenvector"].dims
    names = np.atleast_1d(eig["image"].values) if "image" in eig.coords else np.arange(eig.sizes.get("image", 1))
    vectors = eig["eigenvector"].expand_dims("image") if single else eig["eigenvector"]
    expected = ("image", "y", "x", "component")
    if set(vectors.dims) != set(expected) or 0 in vectors.shape:
        raise ComparisonError(
            f"{argument} has eigenvectors of dimensions {tuple(map(str, vectors.dims))} and sizes {vectors.shape}; "
            "expected image, y, x and component, none of them empty: give a result of st.solve as it was returned."
        )
    values = np.asarray(vectors.transpose(*expected).values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ComparisonError(f"{argument} holds NaN or infinity: give a result of st.solve as it was returned.")
    free = np.ones(values.shape[:3], dtype=bool)
    if "isolated" in eig:
        isolated = eig["isolated"].expand_dims("image") if single else eig["isolated"]
        free = ~np.asarray(isolated.transpose("image", "y", "x").values, dtype=bool)
    numbers = eig["component"].values if "component" in eig.coords else np.arange(1, values.shape[3] + 1)
    scope = eig.attrs.get("scope")
    per_image = "eigenvalue" not in eig or "image" in eig["eigenvalue"].dims
    # One image of a dataset is a problem of its own here, as there is nothing else beside it.
    joint = not single and (scope == "dataset" if scope else not per_image)
    named = tuple(map(str, names))
    hashes = tuple(image_hashes(eig, named))
    return ComparedResult(values, free, named, hashes, tuple(int(n) for n in numbers), joint, single)


@dataclass(frozen=True)
class Common:
    """Two results of the same images on one grid; ``images`` are those of the first, in its order."""

    first: ComparedResult
    second: ComparedResult
    grid: Grid

    def problems(self, inner: str | LayerGraph) -> Iterator[tuple[np.ndarray, np.ndarray, Product, int]]:
        """Yield for every problem the vectors of both, (nodes, component), M, and the number of nodes that count.

        The problems are the images one after another, or all of them as one where they were solved as one.
        """
        both = [_on(answer.vectors, answer.grid, self.grid) for answer in (self.first, self.second)]
        if isinstance(inner, LayerGraph):
            products = _products_of(inner, self)
        else:
            free = np.multiply(
                *(
                    _on(answer.free[..., None].astype(float), answer.grid, self.grid)[..., 0]
                    for answer in (self.first, self.second)
                )
            )
            weights = free.reshape(1, -1) if self.first.joint else free
            products = ((_weighing(weight), int(np.count_nonzero(weight))) for weight in weights)
        if self.first.joint:
            both = [vectors.reshape(1, -1, vectors.shape[-1]) for vectors in both]
        for x, y, (product, n_free) in zip(*both, products, strict=True):
            yield x, y, product, n_free


def common(eig: xr.Dataset, other: xr.Dataset, inner: str | LayerGraph, names: tuple[str, str]) -> Common:
    """Read two results and bring them together; ``names`` are the caller's names of the arguments.

    Raises
    ------
    ComparisonError
        If they are not results, are of different images, or one was solved image by image and the other as one.
    """
    if not isinstance(inner, LayerGraph) and inner != CELLS:
        raise ComparisonError(
            f"inner={inner!r} is not offered: use 'cells', or a graph of st.affinity, whose degrees then count."
        )
    first, second = read(eig, names[0]), read(other, names[1])
    if set(first.names) != set(second.names):
        raise ComparisonError(
            f"{names[0]} and {names[1]} are of different images ({first_names(first.names)}; "
            f"{first_names(second.names)}): give eigenvectors of the same images."
        )
    if first.joint != second.joint:
        raise ComparisonError(
            f"One of {names[0]} and {names[1]} was solved with scope='dataset' and the other image by image: solve "
            "both in the same way."
        )
    second = second.ordered(first.names)
    refuse_other_images(first.names, first.hashes, second.hashes, names, ComparisonError)
    grid = min(first.grid[0], second.grid[0]), min(first.grid[1], second.grid[1])
    return Common(first, second, grid)


def _on(values: np.ndarray, own: Grid, grid: Grid) -> np.ndarray:
    """Average fields (image, y, x, k) down to a grid, as (image, patches, k)."""
    columns = torch.as_tensor(values).flatten(1, 2).transpose(1, 2)
    return Resampling(own, grid)(columns).transpose(1, 2).contiguous().numpy()


def _weighing(weight: np.ndarray) -> Product:
    return lambda x: weight[:, None] * x


def _products_of(graph: LayerGraph, both: Common) -> Iterator[tuple[Product, int]]:
    """Yield B of a graph, problem by problem."""
    if graph.images != both.first.names or (graph.recipe.scope == "dataset") != both.first.joint:
        raise ComparisonError(
            f"inner is a graph of {len(graph.images)} images and scope={graph.recipe.scope!r}, which differ from those "
            "compared: give the graph that one of the results was solved from, or inner='cells'."
        )
    refuse_other_images(graph.images, graph.hashes, both.first.hashes, ("inner", "what is compared"), ComparisonError)
    for images in batches(graph):
        pencil = make_pencil(graph, images, both.grid)
        for place in range(pencil.n_images):
            yield _mass_of(pencil, place), int(pencil.n_free[place])


def _mass_of(pencil: JointPencil, place: int) -> Product:
    def product(x: np.ndarray) -> np.ndarray:
        columns = torch.zeros(pencil.n_images, x.shape[1], pencil.n, dtype=pencil.dtype, device=pencil.graph.device)
        columns[place] = torch.as_tensor(x.T).to(columns)
        return pencil.mass_matmul(columns)[place].T.cpu().numpy().astype(np.float64)

    return product
