"""LayerGraph: one affinity operator per layer of a capture, and the layers' weights."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from .._compute.settings import computing
from .._io.activations import image_names
from .._io.pairing import image_hashes
from .._io.reprs import Described, few
from ..errors import AffinityError
from .features import KINDS, layer_shape, read_features
from .kernel import Kernel
from .mass import KeptInverse
from .operators import DenseOperator, LowRankOperator, Operator, Rows, TiledOperator, WalkOperator, dense_from_rows
from .resampling import Grid
from .table import KERNELS
from .windows import BlockOperator, by_window, window_length, window_places

Weights = Mapping[str, float] | Sequence[float] | None

DENSE_BYTES = 2 * 2**30
"""A layer whose matrix would take more, for one image in float32, is never formed: its products are made in tiles."""
CACHE_BYTES = 4 * 2**30
"""Bytes that the matrices of all layers may take for one image; beyond it, the finest are made in tiles too."""
SMALL, SMALLEST = 1e-20, 1e-280
"""Mean degrees below which single precision, or double precision, loses the smaller affinities of a layer, of which
patches of a 1e-12th of the mean degree may depend."""
CONTENT = ("weights_sha256", "config_sha256", "pictures_sha256")
"""Attributes of activations that say which model and which images they belong to."""


@dataclass(frozen=True)
class Member:
    """One operator of the graph: a layer, or one head of it.

    ``n_heads`` counts the heads of all noise samples of a denoiser, which are averaged like heads; ``head`` is one of
    the model's own.
    """

    name: str
    layer: str
    head: int | None
    grid: Grid
    rank: int
    n_heads: int = 1
    n_draws: int = 1
    window: int | None = None
    """Patches in the largest window, where attention is inside windows."""

    @property
    def n_entries(self) -> int:
        """Entries of its matrix, which is zero between windows."""
        return self.n_cells * (self.window or self.n_cells)

    @property
    def heads(self) -> tuple[int, ...]:
        """The heads of the layer that it consists of, in all noise samples."""
        if self.head is None:
            return tuple(range(self.n_heads))
        return tuple(range(self.head, self.n_heads, self.n_heads // self.n_draws))

    @property
    def n_cells(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a graph, apart from activations and weights."""

    kind: str
    kernel: str
    heads: str
    scope: str
    options: tuple[tuple[str, float | str], ...] = ()


class LayerGraph(Described):
    """Affinities of all layers of one capture, made by :func:`spectral_toolkit.affinity`.

    Operators are built when they are first needed and kept while they fit in ``cache_bytes``, so that solving again
    with other weights rebuilds nothing. The activations must not be changed meanwhile.

    Attributes
    ----------
    layers : tuple of str
        Names in depth order; with ``heads="each"`` one entry per head, ``"<layer>[<head>]"``.
    weights : dict[str, float]
        One non-negative weight per entry of ``layers``.
    images, hashes : tuple of str
        Names of the images, and the hashes of their pixels; empty where the activations hold none.
    subspaces : dict
        Used by solvers: for each batch of images and grid, a fingerprint of the last result and the subspace in which
        it was found, which holds more than the result and speeds up a warm start from that result, and what was
        searched along.
    """

    def __init__(
        self,
        activations: xr.DataTree,
        members: Sequence[Member],
        recipe: Recipe,
        *,
        weights: Weights = None,
        device: torch.device,
        dense_bytes: float = DENSE_BYTES,
        cache_bytes: int = CACHE_BYTES,
        mask: Mapping[str, np.ndarray] | None = None,
        left_out: Sequence[str] = (),
    ) -> None:
        self.activations = activations
        self.members = tuple(members)
        self.recipe = recipe
        self.device = device
        self.dense_bytes = dense_bytes
        self.cache_bytes = cache_bytes
        self.mask = dict(mask or {})
        self.images = tuple(image_names(activations))
        self.hashes = tuple(image_hashes(activations, self.images))
        self.left_out = tuple(left_out)
        self._default_weights = {m.name: 0.0 if m.layer in self.left_out else 1.0 for m in self.members}
        self._weights = resolve_weights(weights, self.members, self._default_weights)
        self._cache: dict[tuple[str, int, int], Operator] = {}
        self._remarks: dict[str, set[str]] = {}
        self.subspaces: dict[tuple[int, int, Grid], tuple[torch.Tensor, torch.Tensor, KeptInverse]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know about how the affinities were made."""
        remarks = []
        used = [member for member in self.members if self.weights[member.name] > 0]
        tiled = [member for member in used if not self.is_dense(member)]
        if tiled and not KERNELS[self.recipe.kernel].low_rank:
            names = ", ".join(member.name for member in tiled)
            pairs = sum(len(member.heads) * member.n_cells**2 for member in tiled)
            remarks.append(
                f"Affinities are recomputed in tiles for every product, {pairs:.1e} similarities each time, because "
                f"their matrices exceed dense_bytes, or those of all layers cache_bytes: {names}. That is slow: use "
                "fewer layers or pixels to make it fast."
            )
        windowed = [member.name for member in used if member.window is not None]
        if windowed:
            names = ", ".join(windowed)
            remarks.append(f"Attention is inside windows, between which there is no affinity: {names}.")
        masked = {m.layer: int(self.mask[m.layer].sum()) for m in used if m.layer in self.mask}
        if any(masked.values()):
            counts = ", ".join(f"{count} of {layer}" for layer, count in masked.items() if count)
            remarks.append(f"Masked tokens, which have no affinity in their layer: {counts}.")
        remarks += sorted(set().union(*(self._remarks.get(member.name, ()) for member in used)))
        return tuple(remarks)

    @property
    def kernel(self) -> Kernel:
        """The row of the table that its affinities are computed by."""
        return KERNELS[self.recipe.kernel]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)

    @computing
    def reweight(self, weights: Weights) -> LayerGraph:
        """Return the same graph with other weights; operators that are already built are shared.

        Parameters
        ----------
        weights
            A mapping from layer names to weights >= 0 (layers not named keep theirs; the name of a layer stands for all
            its heads), one weight per entry of ``layers``, or None for all ones (and zero for layers left out of a
            dataset).

        Raises
        ------
        AffinityError
            If a name is unknown, or a weight is negative, NaN or infinite.
        """
        other = copy.copy(self)
        start = self._default_weights if weights is None else self._weights
        other._weights = resolve_weights(weights, self.members, start)
        return other

    @computing
    def operators(self, member: Member, images: slice = slice(None)) -> Operator:
        """Return the affinity operator of one member for a slice of the images."""
        return self.all_operators([member], images)[member.name]

    @computing
    def all_operators(self, members: Sequence[Member], images: slice) -> dict[str, Operator]:
        """Return the affinity operators of several members; whether they are in order is asked once for all of them."""
        start, stop, _ = images.indices(len(self.images))
        found: dict[str, Operator] = {}
        made: list[Member] = []
        for member in members:
            kept = self._cache.get((member.name, start, stop))
            if kept is None:
                made.append(member)
            found[member.name] = kept or self._build(member, slice(start, stop))
        for member, told in zip(made, _told([found[member.name].degree for member in made]), strict=True):
            if bool((told[0] < SMALL).any()):
                found[member.name] = self._build(member, slice(start, stop), doubled=True)
                (told,) = _told([found[member.name].degree])
            self._check(told, member, start)
            operator = found[member.name]
            if self.cached_bytes + operator.n_bytes <= self.cache_bytes:
                self._cache[member.name, start, stop] = operator
        return found

    @property
    def cached_bytes(self) -> int:
        """Bytes held by the operators that are kept."""
        return sum(operator.n_bytes for operator in self._cache.values())

    def is_dense(self, member: Member) -> bool:
        """Tell whether the member's affinity is held as a matrix, and not as factors or recomputed tiles."""
        return member.name in self._dense_members

    @functools.cached_property
    def _dense_members(self) -> frozenset[str]:
        return dense_members(self.members, self.recipe.kernel, self.dense_bytes, self.cache_bytes)

    @computing
    def to_dense(self, image: int | str = 0) -> dict[str, np.ndarray]:
        """Return every layer's affinity W of one image, as the solver sees it before scaling by the total degree.

        Returns
        -------
        dict
            Layer name to float64 array (n_l, n_l), symmetric, non-negative. They are copies: to change them does not
            change the graph.
        """
        index = self.image_index(image)
        images = slice(index, index + 1)
        return {member.name: own_array(self.operators(member, images).dense()[0]) for member in self.members}

    @property
    def attrs(self) -> dict[str, object]:
        """What a result says about the graph it was solved from, as attributes that every store can hold."""
        return {
            "affinity": self.recipe.kind,
            "kernel": self.recipe.kernel,
            "kernel_options": json.dumps(dict(self.recipe.options)),
            "layers": json.dumps(self.layers),
            "weights": json.dumps(list(self.weights.values())),
            "heads": self.recipe.heads,
            "scope": self.recipe.scope,
        }

    @property
    def content(self) -> dict[str, object]:
        """What a result says about the model and the images, as attributes, as far as two results must agree in it."""
        told = {f"activations_{name}": self.activations.attrs.get(name) for name in CONTENT}
        return {name: value for name, value in told.items() if value is not None}

    def image_index(self, image: int | str) -> int:
        """Return the position of an image given by name or number."""
        if isinstance(image, str) and image in self.images:
            return self.images.index(image)
        if isinstance(image, (int, np.integer)) and -len(self.images) <= image < len(self.images):
            return int(image) % len(self.images)
        raise AffinityError(
            f"image={image!r} is not among the {len(self.images)} images: use a number below that or one of the names "
            f"{', '.join(self.images[:5])}{', ...' if len(self.images) > 5 else ''}."
        )

    def _check(self, told: torch.Tensor, member: Member, first: int) -> None:
        mean, finite = told
        if not bool(finite.all()):
            image = self.images[first + int(finite.argmin())]
            raise AffinityError(
                f"The affinities of layer {member.name!r} in image {image!r} are not finite: its {self.recipe.kind} "
                "products overflow; check the activations, or use kernel='cosine'."
            )
        lost = (mean > 0) & (mean < SMALLEST)
        if bool(lost.any()):
            image = self.images[first + int(lost.to(torch.int8).argmax())]
            raise AffinityError(
                f"The affinities of layer {member.name!r} in image {image!r} add up to {float(mean[lost][0]):.0e} for "
                "a patch, where double precision loses most of them: use kernel='cosine', or for kernel='rbf' a larger "
                "bandwidth."
            )

    def _build(self, member: Member, images: slice, *, doubled: bool = False) -> Operator:
        recipe = self.recipe
        kernel = KERNELS[recipe.kernel]
        options = dict(recipe.options)
        steps = int(options.pop("steps", 1))
        features = read_features(
            self.activations, member.layer, recipe.kind, images, self.device, for_softmax=kernel.attention
        )
        features = replace(features, remarks=self._remarks.setdefault(member.name, features.remarks))
        if member.head is not None:
            features = features.pick(member.heads)
        n, n_images, symmetric = features.n, len(features.left), features.is_symmetric
        keep = self.unmasked(member, images)
        windows = None
        if member.window is not None:
            windows = window_places(self.activations.children[member.layer], self.device)
            features = by_window(features, windows)
            n, n_images = windows.cells.shape[1], n_images * len(windows.cells)
            keep = None if keep is None else keep[:, windows.cells].flatten(0, 1)
            if steps > 1:
                raise AffinityError(
                    f"steps={steps} is not offered for layer {member.name!r}, whose attention is inside windows: use "
                    "steps=1, or leave the layer out."
                )
        if kernel.factors is not None and not self.is_dense(member) and steps == 1 and windows is None:
            left, right = kernel.factors(features)
            if keep is None:
                return LowRankOperator(left, right)
            kept = keep.to(left)[:, :, None]
            masked = left * kept
            return LowRankOperator(masked, masked if left is right else right * kept)
        if doubled or steps > 1:  # rows are divided by their sums, which may have vanished in single precision
            features = features.doubled()
        assert kernel.prepare is not None
        rows = kernel.prepare(features, **options)
        if keep is not None:
            rows = masked_rows(rows, keep)
        if steps > 1:
            n_bytes = n * n * features.left.element_size()
            if n_bytes > self.dense_bytes:
                raise AffinityError(
                    f"steps={steps} needs the matrix of layer {member.name!r}, {n_bytes:,} bytes, above "
                    f"dense_bytes={self.dense_bytes:,}: raise dense_bytes, use steps=1 or a smaller image."
                )
            matrix = dense_from_rows(rows, n, n_images)
            if kernel.positive:
                self._check_rows(matrix, keep, member, images)
            return WalkOperator(matrix, steps)
        if windows is not None:
            held = windows.held.repeat(n_images // len(windows.cells), 1)
            made = DenseOperator.from_rows(masked_rows(rows, held), n, n_images, symmetric=symmetric)
            return BlockOperator.from_dense(made, windows, member.n_cells, n_images // len(windows.cells))
        if not self.is_dense(member):
            return TiledOperator(rows, n, n_images, features.left, symmetric=symmetric)
        return DenseOperator.from_rows(rows, n, n_images, symmetric=symmetric)

    def _check_rows(self, matrix: torch.Tensor, keep: torch.Tensor | None, member: Member, images: slice) -> None:
        """Refuse to walk from patches whose affinities, all above 0, are lost even in double precision."""
        lost = matrix.sum(dim=2) < SMALLEST
        if keep is not None:
            lost &= keep
        if bool(lost.any()):
            place = int(lost.any(dim=1).to(torch.int8).argmax())
            raise AffinityError(
                f"A walk cannot leave {int(lost[place].sum())} patches of layer {member.name!r} in image "
                f"{self.images[images.start + place]!r}, whose affinities are below {SMALLEST:.0e} and lost in double "
                "precision: choose a larger bandwidth, mask these patches, or use steps=1."
            )

    def unmasked(self, member: Member, images: slice) -> torch.Tensor | None:
        """Tell which tokens of a member are not masked, (images, n); None where all are kept."""
        masked = self.mask.get(member.layer)
        if masked is None or not masked[images].any():
            return None
        return torch.as_tensor(~masked[images], device=self.device).flatten(1)

    def _facts(self) -> dict[str, object]:
        recipe = self.recipe
        grids = sorted({member.grid for member in self.members}, reverse=True)
        weights = {name: weight for name, weight in self.weights.items() if weight != 1}
        return {
            "affinity": recipe.kind,
            "kernel": recipe.kernel,
            "heads": recipe.heads,
            "scope": recipe.scope,
            "layers": few(self.layers),
            "grids": ", ".join(f"{rows}x{columns}" for rows, columns in grids),
            "weights other than 1": ", ".join(f"{name} {weight:g}" for name, weight in weights.items()),
            "images": few(self.images),
            "device": self.device,
        }

    def _line(self) -> str:
        recipe = self.recipe
        grids = sorted({member.grid for member in self.members}, reverse=True)
        return (
            f"{type(self).__name__}({recipe.kind!r}, kernel={recipe.kernel!r}, heads={recipe.heads!r}, "
            f"scope={recipe.scope!r}: "
            f"{len(self.members)} layers on {', '.join(f'{rows}x{columns}' for rows, columns in grids)}, "
            f"{len(self.images)} images)"
        )


def dense_members(
    members: Sequence[Member], kernel: str, dense_bytes: float = DENSE_BYTES, cache_bytes: int = CACHE_BYTES
) -> frozenset[str]:
    """Choose the members that are held as matrices: coarse ones first, as long as all of them fit."""
    low_rank = KERNELS[kernel].low_rank
    held, total = set(), 0
    for member in sorted(members, key=lambda member: member.n_cells):
        n_bytes = member.n_entries * 4
        if (low_rank and member.window is None and member.n_cells > 2 * member.rank) or n_bytes > dense_bytes:
            continue
        total += n_bytes
        if total <= cache_bytes:
            held.add(member.name)
    return frozenset(held)


def masked_rows(rows: Rows, keep: torch.Tensor) -> Rows:
    """Return the same rows with the affinities of masked tokens set to zero, in both directions."""

    def masked(start: int, stop: int) -> torch.Tensor:
        tile = rows(start, stop)
        kept = keep.to(tile)
        return tile * kept[:, start:stop, None] * kept[:, None, :]

    return masked


def make_members(activations: xr.DataTree, layers: Sequence[str], kind: str, heads: str) -> list[Member]:
    """Make the members of a graph from shapes alone."""
    members = []
    for layer in layers:
        node = activations.children[layer]
        grid, n_heads, n_draws, channels = layer_shape(node, layer, kind)
        # Pooled keys and values have a grid of their own, of which windows say nothing.
        window = window_length(node) if "y" in node.dataset[KINDS[kind][0]].dims else None
        sides, total = len(set(KINDS[kind])), n_heads * n_draws
        if heads == "mean":
            members.append(Member(layer, layer, None, grid, sides * (1 + total * channels), total, n_draws, window))
        else:
            rank = sides * (1 + n_draws * channels)
            members += [Member(f"{layer}[{h}]", layer, h, grid, rank, total, n_draws, window) for h in range(n_heads)]
    return members


def own_array(values: torch.Tensor) -> np.ndarray:
    """The values as a float64 array of their own, never the memory of a tensor that the graph keeps."""
    return values.to("cpu", torch.float64, copy=True).numpy()


def _told(degrees: list[torch.Tensor]) -> list[torch.Tensor]:
    """Mean degrees, and whether all are finite, as (2, images) on the host for each of the operators."""
    if not degrees:
        return []
    told = [torch.stack([own.mean(dim=1), torch.isfinite(own).all(dim=1).to(own.dtype)]) for own in degrees]
    return list(torch.stack(told).cpu())


def resolve_weights(weights: Weights, members: Sequence[Member], start: Mapping[str, float]) -> dict[str, float]:
    """Return a checked weight for every member; members that ``weights`` does not name keep theirs from ``start``."""
    resolved = dict(start)
    if weights is None:
        return resolved
    if isinstance(weights, Mapping):
        for name, weight in weights.items():
            targets = [member.name for member in members if name in (member.name, member.layer)]
            if not targets:
                raise AffinityError(
                    f"weights names {name!r}, which is not a layer of this graph: use names among "
                    f"{', '.join(member.name for member in members)}."
                )
            resolved.update({target: _checked_weight(target, weight) for target in targets})
        return resolved
    values = list(np.atleast_1d(np.asarray(weights)))
    if len(values) != len(members):
        raise AffinityError(
            f"weights has {len(values)} entries but the graph has {len(members)} layers: give one weight per layer, "
            "or a mapping from names to weights."
        )
    return {member.name: _checked_weight(member.name, value) for member, value in zip(members, values, strict=True)}


def _checked_weight(name: str, weight: object) -> float:
    try:
        value = float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise AffinityError(f"The weight of layer {name!r} is {weight!r}: expected a finite number >= 0.")
    return value
