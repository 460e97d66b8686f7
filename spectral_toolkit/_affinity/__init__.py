"""From activations to affinities: kinds, kernels, and the graph of layers that a solver works on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from .._compute.arguments import choice, instance, number
from .._compute.devices import resolve_device
from .._compute.settings import computing
from .._io.activations import check_tree, image_names, layer_names
from .._io.outputs import remove_remains, writable_path
from .._io.pairing import image_hashes, refuse_other_images
from .._table import Choice
from ..errors import AffinityError
from .approximate_neighbours import check_installed
from .dataset_graph import DatasetGraph, too_fine
from .features import refuse_linear
from .kernel import Kernel
from .layer_graph import DENSE_BYTES, LayerGraph, Member, Recipe, Weights, make_members, resolve_weights
from .table import KERNELS, SEARCHES, check_combination, default_kernel

__all__ = ["KERNELS", "LayerGraph", "affinity", "default_kernel"]


@computing
def affinity(
    activations: xr.DataTree,
    kind: str = "qk",
    *,
    kernel: str | Kernel | Choice[Kernel] | None = None,
    heads: str = "mean",
    scope: str = "image",
    weights: Weights = None,
    layers: str | Sequence[str] = "all",
    device: str = "auto",
    dense_bytes: float = DENSE_BYTES,
    mask: Mapping[str, xr.DataArray] | None = None,
    search: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: float,
) -> LayerGraph:
    """Make every layer of a capture a graph of affinities between its patches.

    Nothing large is computed here: operators are built when a solver first asks for them and are then kept. Do not
    change ``activations`` afterwards.

    Parameters
    ----------
    activations
        Activations from :func:`spectral_toolkit.capture`, or a tree built by hand with the same names.
    kind
        Which vectors are compared: ``"qk"`` queries with keys, ``"vv"`` values, ``"kk"`` keys, ``"qq"`` queries,
        ``"token"`` the residual stream, ``"qk_unrotated"`` queries with keys before their rotary positions.
    kernel
        ``"softmax"`` (the model's own attention; for ``"qk"`` only, where it is the default), ``"cosine"`` (the default
        of the other kinds), ``"shifted_cosine"`` or ``"rbf"``. With ``scope="dataset"``, ``"knn"`` (the default:
        cosine, kept between a patch and the nearest ones in its image and in the others) or ``"shifted_cosine"`` (exact
        at any size, and the default where the search for neighbours would take hours, which ``notes`` then says). A
        kernel that was registered goes by its name; instead of a name, an object of :mod:`spectral_toolkit.kernels`
        may be given, with options: ``st.kernels.RBF(bandwidth=0.3)``. Every
        affinity is made symmetric, (W + W') / 2, head by head, and keeps its diagonal.
    heads
        ``"mean"`` averages the heads of a layer; ``"each"`` makes every head a layer of its own, ``"<layer>[<head>]"``,
        with its own weight and share.
    scope
        ``"image"``: every image is a problem of its own. ``"dataset"``: all images are one problem, with edges within
        and between them; the activations are read layer by layer, so they may lie in a store larger than memory. Where
        layers differ in resolution, those of more than 32 x 32 patches are left out (weight 0), as in the source paper,
        and ``notes`` says so: name them in ``weights`` or ``layers`` to include them.
    weights
        Layer weights >= 0: a mapping from names to weights (layers that are not named keep 1), one number per layer in
        the order of ``layers``, or None for all ones. Noise samples of a denoiser (``timestep``, ``noise``) are
        averaged like heads, each head of each sample separately; to use one, select it first with
        ``activations.sel(timestep=...)``.
    layers
        ``"all"``, or the names of the layers to use.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    dense_bytes
        A layer whose matrix would take more than this (n_l^2 float32 for one image, one matrix for all heads and noise
        samples) is never formed; its products are recomputed in tiles of 64 MiB, which ``notes`` then says. The default
        is 2 GiB; all layers together may take 4 GiB, and beyond that the finest are recomputed. A matrix for each head
        is never formed.
    mask
        Tokens to leave out, layer by layer: a mapping from names of layers to booleans (image, y, x), true where the
        token should have no affinity to any other, such as :func:`spectral_toolkit.outlying_masks`
        finds. A patch that is masked in every layer is isolated. Only for ``scope="image"``.
    search
        How knn finds neighbours in other images: ``"exact"`` (the default) compares every pair; ``"faiss"`` searches
        part of an index, for large sets (needs faiss-cpu). The share of the true neighbours that it found, measured on
        256 patches per layer and head, is stated in the ``notes`` of the graph and of the result; the search goes on
        until that share is about 0.95 or more. Neighbours in the same image are always exact.
    folder
        Where knn keeps its tables of neighbours, one for each layer and head; the folder is made if it does not exist.
        Another graph of the same activations and settings, after an interruption or on another day, reads the tables
        instead of searching again. Where neighbours do not fit in memory, their edges are kept there too; without a
        folder, in a temporary one. It may be deleted whenever no graph uses it.
    **options
        ``threshold`` in [0, 1) (cosine; default 0.1: similarities at or below it count as zero, as in the source
        paper's dataset protocol), ``bandwidth`` > 0 (rbf; default 0.5, in units of the root mean square distance of a
        layer and head), ``steps`` >= 1 (the number of steps of a random walk on the row-normalised affinity),
        ``within`` and ``across`` (knn; default 50 each: how many neighbours a patch has, per layer and head, in its
        image and in the others; ``threshold`` applies too).

    Returns
    -------
    LayerGraph

    Raises
    ------
    AffinityError
        If the combination does not exist or an option is out of range.
    ActivationsError
        If a layer lacks the quantity.
    StoreError
        If a solver asks for neighbours and ``folder`` cannot be written to, is too small, or holds damaged tables.

    References
    ----------
    Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 3: the affinities. Ivanova et al., arXiv 2412.04678:
    the walk.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 2, 3, 4, 8)),
    ...                      dims=("image", "head", "y", "x", "channel"))
    >>> activations = xr.DataTree.from_dict({"block.0": xr.Dataset({"value": value})})
    >>> affinity(activations, "vv", device="cpu")
    LayerGraph('vv', kernel='cosine', heads='mean', scope='image': 1 layers on 3x4, 1 images)
    """
    check_tree(activations)
    if kernel is not None:
        kernel, options = KERNELS.choose(kernel, options)
    number("dense_bytes", dense_bytes, least=0, finite=False, error=AffinityError)
    chosen: dict[str, float | str] = {**options, **({} if search is None else {"search": search})}
    by_default = kernel is None and not chosen and folder is None
    kernel = check_combination(kind, kernel, heads, scope, chosen)
    checked = tuple((name, KERNELS[kernel].option(name).checked(value)) for name, value in sorted(options.items()))
    # The default is not written out, so that a graph is the same whether or not the option was given.
    checked += (("search", _checked_search(search)),) if search not in (None, "exact") else ()
    kept = _checked_folder(folder, kernel)
    names = layer_names(activations)
    if not isinstance(layers, str) or layers != "all":
        names = checked_layers(layers, names)
        weights = _by_name(weights, list(layers), names, heads)
    members = make_members(activations, names, kind, heads)
    if KERNELS[kernel].attention:
        for name in names:
            refuse_linear(activations.children[name], name)
    masked = _checked_mask(mask, activations)
    if scope == "dataset":
        if masked:
            raise AffinityError("mask is not offered with scope='dataset': leave it out, or use scope='image'.")
        remark = ""
        # Layers that were named are all wanted.
        cells = {member.layer: member.n_cells for member in members}
        left_out = too_fine(cells) if isinstance(layers, str) else ()
        default = {member.name: 0.0 if member.layer in left_out else 1.0 for member in members}
        weight = resolve_weights(weights, members, default)
        pairs = _pairs_to_compare([m for m in members if weight[m.name] > 0], len(image_names(activations)))
        if by_default and pairs > MOST_PAIRS:
            kernel, checked = "shifted_cosine", ()
            remark = (
                f"The kernel is shifted cosine and not knn, whose search would compare {pairs:.1e} pairs of vectors "
                "(search='faiss' compares fewer)."
            )
        return DatasetGraph(
            activations,
            members,
            Recipe(kind, kernel, heads, scope, checked),
            weights=weights,
            device=resolve_device(device),
            folder=kept,
            remark=remark,
            left_out=left_out,
        )
    return LayerGraph(
        activations,
        members,
        Recipe(kind, kernel, heads, scope, checked),
        weights=weights,
        device=resolve_device(device),
        dense_bytes=dense_bytes,
        mask=masked,
    )


def checked_layers(layers: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """The layers that are meant, in order of depth; raise an error that says what is wrong with them."""
    if layers == "all":
        return list(names)
    if not isinstance(layers, list | tuple):
        raise AffinityError(f"layers={layers!r} is not understood: use 'all' or a list of names.")
    unknown = [name for name in layers if name not in names]
    if unknown or not layers:
        raise AffinityError(
            f"layers={list(layers)!r} names {unknown or 'nothing'}: use 'all' or names among {', '.join(names)}."
        )
    return [name for name in names if name in layers]


def _by_name(weights: Weights, layers: Sequence[str], names: list[str], heads: str) -> Weights:
    """Return weights as a mapping where layers were named in another order than that of their depth."""
    if weights is None or isinstance(weights, Mapping) or list(layers) == names:
        return weights
    values = list(np.atleast_1d(np.asarray(weights)))
    if heads != "mean" or len(values) != len(names) or len(layers) != len(names):
        raise AffinityError(
            f"weights={values!r} cannot be assigned by position, because layers={list(layers)!r} are not in the order "
            "of depth: give a mapping from names to weights."
        )
    return dict(zip(layers, values, strict=True))


def _checked_mask(mask: object, activations: xr.DataTree) -> dict[str, np.ndarray]:
    if mask is None:
        return {}
    mask = instance("mask", mask, Mapping, "a mapping from layers to booleans (image, y, x)", error=AffinityError)
    checked: dict[str, np.ndarray] = {}
    names = image_names(activations)
    for layer, values in mask.items():
        if layer not in activations.children:
            raise AffinityError(
                f"mask names {layer!r}, which is not a layer: use {', '.join(layer_names(activations))}."
            )
        sizes = {name: activations.children[layer].sizes[name] for name in ("image", "y", "x")}
        if not isinstance(values, xr.DataArray) or dict(values.sizes) != sizes or values.dtype != bool:
            raise AffinityError(f"mask of layer {layer!r} is not understood: expected booleans of sizes {sizes}.")
        if "image" in values.coords:
            if (given := [str(name) for name in values["image"].values]) != names:
                raise AffinityError(
                    f"mask of layer {layer!r} is of other images than the activations, or in another order (it begins "
                    f"with {given[0]!r}): choose them with .sel(image=...)."
                )
            hashes = image_hashes(values, names), image_hashes(activations, names)
            refuse_other_images(names, *hashes, (f"mask of layer {layer!r}", "the activations"), AffinityError)
        checked[layer] = values.transpose("image", "y", "x").values
    return checked


MOST_PAIRS = 4e12
"""The number of comparisons up to which a search for neighbours is the default: about an hour on two cores."""


def _checked_search(search: object) -> str:
    choice("search", search, SEARCHES, error=AffinityError)
    check_installed()
    return str(search)


def _checked_folder(folder: object, kernel: str) -> Path | None:
    if folder is None:
        return None
    if not KERNELS[kernel].searches:
        raise AffinityError(f"folder={str(folder)!r} does not apply to kernel={kernel!r}: leave it out, or use 'knn'.")
    path = writable_path(folder, "folder", error=AffinityError)
    if path.exists() and not path.is_dir():
        raise AffinityError(f"folder={str(path)!r} is a file, and a folder is needed for the tables: choose another.")
    remove_remains(path)
    return path


def _pairs_to_compare(members: Sequence[Member], n_images: int) -> float:
    layers = {member.layer: member for member in members}.values()
    return float(sum(m.n_heads * (m.n_cells * n_images) ** 2 for m in layers))
