"""What a capture will record, settled before the first forward pass: names, shapes, bytes and provenance."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
import xarray as xr

from .._io.activations import QUANTITIES, UNROTATED, names_array, patch_centres
from .._io.images import FRAMES, IMAGE_HASH, Images
from .._models.model import LayerShape, Model
from ..errors import SpectralToolkitError

FORMAT = "spectral_toolkit activations 1"
_GEOMETRY = ("original_height", "original_width", "box_top", "box_left", "box_bottom", "box_right")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a layer, or of the root: its dimensions, its shape for one image, and its type."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """A capture before it runs."""

    model: Model
    pictures: Images
    layers: tuple[str, ...]
    quantities: tuple[str, ...]
    size: tuple[int, int]
    batch_size: int
    seed: int
    _known_coords: dict[tuple[object, ...], xr.Coordinates] = field(default_factory=dict, repr=False, compare=False)

    @property
    def batches(self) -> list[slice]:
        n = len(self.pictures)
        return [slice(start, min(start + self.batch_size, n)) for start in range(0, n, self.batch_size)]

    @property
    def dtype(self) -> np.dtype:
        """The type in which floats are stored: bfloat16 becomes float32, which NumPy and zarr have."""
        return np.dtype({torch.float16: "float16", torch.float64: "float64"}.get(self.model.dtype, "float32"))

    @cached_property
    def shapes(self) -> dict[str, LayerShape]:
        return {layer: self.model.layer_shape(layer, self.size) for layer in self.layers}

    @property
    def pixels(self) -> ArraySpec:
        return ArraySpec(("y_px", "x_px", "rgb"), (*self.size, 3), np.dtype("uint8"))

    def arrays(self, layer: str) -> dict[str, ArraySpec]:
        """The arrays of one layer that have an ``image`` dimension, without that dimension."""
        return self._specs[layer]

    @cached_property
    def _specs(self) -> dict[str, dict[str, ArraySpec]]:
        return {layer: self._make_specs(layer) for layer in self.layers}

    def _make_specs(self, layer: str) -> dict[str, ArraySpec]:
        shape = self.shapes[layer]
        draws = self.model.draws
        names, sizes = tuple(draws), tuple(len(values) for values in draws.values())

        def spec(dims: tuple[str, ...], sides: tuple[int, ...]) -> ArraySpec:
            return ArraySpec((*names, *dims), (*sizes, *sides), self.dtype)

        specs = {}
        for quantity in self.quantities:
            n_special = len(self.special_tokens(layer, quantity))
            if quantity == "token":
                specs[quantity] = spec(("y", "x", "feature"), (*shape.grid, shape.features))
                special = spec(("special", "feature"), (n_special, shape.features))
            else:
                # Values may have a different width, and then they have a dimension of their own.
                same = quantity != "value" or shape.value_channels == shape.channels
                name, width = ("channel", shape.channels) if same else ("value_channel", shape.value_channels)
                pooled = quantity != "query" and shape.key_grid is not None
                sides = ("key_y", "key_x") if pooled else ("y", "x")
                specs[quantity] = spec(("head", *sides, name), (shape.heads, *shape.grid_of(quantity), width))
                special = spec(("head", "special", name), (shape.heads, n_special, width))
            if n_special:
                specs[f"special_{quantity}"] = special
        if shape.biased and shape.biased_by_image:
            specs["attention_bias"] = self.bias(layer)
        return specs

    def special_tokens(self, layer: str, quantity: str) -> tuple[str, ...]:
        """Names of the special tokens that images of this size have in one quantity of one layer."""
        return self.model.special_tokens_of(layer, quantity, self.size)

    def bias(self, layer: str) -> ArraySpec:
        """The attention bias of one layer, for one image or the same for all; inside windows, one for each window."""
        shape = self.shapes[layer]
        if shape.windows is not None:
            sides = (shape.windows.length, shape.windows.key_length)
            dims = ("head", "window_number", "query_place", "key_place")
            return ArraySpec(dims, (shape.heads, shape.windows.count, *sides), self.dtype)
        queries, keys = (
            len(self.special_tokens(layer, quantity)) + math.prod(shape.grid_of(quantity))
            for quantity in ("query", "key")
        )
        return ArraySpec(("head", "query_token", "key_token"), (shape.heads, queries, keys), self.dtype)

    @property
    def _nbytes_per_image(self) -> int:
        return self.pixels.nbytes + sum(spec.nbytes for layer in self.layers for spec in self.arrays(layer).values())

    @property
    def batch_nbytes(self) -> int:
        """Bytes of one batch, which a store keeps in memory before it writes them."""
        return self.batch_size * self._nbytes_per_image

    @property
    def nbytes(self) -> int:
        """Bytes of the finished tree; this is an upper bound where a bias turns out to be zero and is dropped."""
        shapes = self.shapes
        common = [layer for layer in self.layers if shapes[layer].biased and not shapes[layer].biased_by_image]
        biases = sum(self.bias(layer).nbytes for layer in common)
        return len(self.pictures) * self._nbytes_per_image + biases

    @cached_property
    def attrs(self) -> dict[str, object]:
        """Provenance: everything needed to make the same capture again, as numbers and strings."""
        model = self.model
        return {
            "format": FORMAT,
            "model": model.name,
            "family": model.family,
            "revision": model.revision,
            "weights_sha256": model.weights_sha256(),
            "config_sha256": model.config_sha256(),
            "user_hooks": model.user_hooks,
            "processor": model.processor.to_json(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.implementation,
            "image_size": json.dumps(self.size),
            "patch_size": json.dumps(model.patch_size),
            "layers": json.dumps(self.layers),
            "quantities": json.dumps(self.quantities),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "pictures_sha256": self.pictures.sha256,
            "names_sha256": self.pictures.names_sha256,
            **({"training": model.training} if model.training else {}),
            **model.provenance,
            "versions": _versions(model.libraries),
        }

    def root(self, data: Mapping[str, object] | None = None, hashes: np.ndarray | None = None) -> xr.Dataset:
        """Make the root: ``data``, names, hashes if they are known yet, the images' geometry, and the provenance."""
        heights, widths = np.array(self.pictures.sizes, dtype=np.int64).T
        zeros = np.zeros_like(heights)
        columns = (heights, widths, zeros, zeros, heights, widths)
        coords: dict[str, object] = {"image": names_array(self.pictures.names)}
        coords |= {name: ("image", column) for name, column in zip(_GEOMETRY, columns, strict=True)}
        if (frames := self.model.processor.frames) > 1:
            coords[FRAMES] = ("image", np.full(len(self.pictures), frames))
        if hashes is not None:
            coords[IMAGE_HASH] = ("image", hashes)
        return xr.Dataset(data, coords=coords, attrs=self.attrs)

    def node(self, layer: str, data: Mapping[str, object] | None = None, **attrs: object) -> xr.Dataset:
        """Make the node of a layer: ``data``, patch centres, special tokens, depth and further attributes."""
        # A layer may have no special tokens, whatever others have.
        held = (self.special_tokens(layer, quantity) for quantity in self.quantities)
        shape = self.shapes[layer]
        coords = self._coords(shape.grid, max(held, key=len, default=()))
        if shape.linear:
            attrs["attention"] = "linear"
        node = xr.Dataset(data, coords=coords, attrs={"depth": self.model.layers.index(layer), **attrs})
        if shape.key_grid is not None and any(one in self.quantities for one in ("key", "value")):
            node = node.assign_coords(key_y=patch_centres(shape.key_grid[0]), key_x=patch_centres(shape.key_grid[1]))
        if shape.windows is not None:
            windows = shape.windows
            node = node.assign(window=(("y", "x"), windows.window), window_place=(("y", "x"), windows.place))
            if windows.key_window is not None:
                node = node.assign(
                    key_window=(("key_y", "key_x"), windows.key_window),
                    key_place=(("key_y", "key_x"), windows.key_place),
                )
            if len(windows.special_window) and len(windows.special_window) == node.sizes.get("special"):
                node = node.assign(
                    special_window=("special", windows.special_window), special_place=("special", windows.special_place)
                )
        return node

    def _coords(self, grid: tuple[int, int], special: tuple[str, ...]) -> xr.Coordinates:
        # Most layers share a grid, and making an index takes longer than the rest of a node.
        if (grid, special) not in self._known_coords:
            coords: dict[str, object] = {"y": patch_centres(grid[0]), "x": patch_centres(grid[1])}
            if special:
                coords["special"] = names_array(special)
            coords |= self.model.draws
            self._known_coords[grid, special] = xr.Dataset(coords=coords).coords
        return self._known_coords[grid, special]


@cache
def _versions(libraries: tuple[str, ...]) -> str:
    return json.dumps({name: version(name) for name in ("spectral-toolkit", *libraries)})


def make_plan(
    model: Model,
    pictures: Images,
    layers: object,
    quantities: str | Sequence[str],
    size: int | tuple[int, int] | None,
    batch_size: int,
    seed: int,
) -> Plan:
    """Check the arguments and settle the plan."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise SpectralToolkitError(f"batch_size={batch_size!r} is out of range: expected a whole number of at least 1.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise SpectralToolkitError(f"seed={seed!r} is not an integer from 0 to 2**63 - 1.")
    return Plan(
        model=model,
        pictures=pictures,
        layers=choose_layers(model, layers),
        quantities=_choose_quantities(model, quantities),
        size=model.image_size(size),
        batch_size=min(int(batch_size), len(pictures), model.images_at_once or int(batch_size)),
        seed=int(seed),
    )


def choose_layers(model: Model, layers: object) -> tuple[str, ...]:
    """Choose layers by name, number (negative ones from the end), slice, or a list of these, in the order of depth."""
    if isinstance(layers, str) and layers == "all":
        return model.layers
    if layers is None:
        raise SpectralToolkitError("layers=None is not understood: use layers='all' to choose all of them.")
    chosen: set[str] = set()
    for item in layers if isinstance(layers, (list, tuple, range, set, frozenset, np.ndarray)) else [layers]:
        if isinstance(item, slice):
            try:
                chosen |= set(model.layers[item])
            except TypeError as error:
                raise SpectralToolkitError(f"layers={layers!r}: the slice must hold whole numbers.") from error
        elif isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            if not -len(model.layers) <= item < len(model.layers):
                raise SpectralToolkitError(
                    f"layers={layers!r}: {model.name} has {len(model.layers)} layers, numbered 0 to "
                    f"{len(model.layers) - 1}; there is no layer {item}."
                )
            chosen.add(model.layers[int(item)])
        elif isinstance(item, str) and item in model.layers:
            chosen.add(item)
        else:
            close = difflib.get_close_matches(str(item), model.layers, n=1)
            raise SpectralToolkitError(
                f"layers={layers!r}: {model.name} has no layer {item!r}"
                f"{f' (did you mean {close[0]!r}?)' if close else ''}; its layers are {model.layers[0]!r} to "
                f"{model.layers[-1]!r}, and 'all', numbers and slices are understood too."
            )
    if not chosen:
        raise SpectralToolkitError(f"layers={layers!r} chooses no layer; expected 'all', names, numbers or a slice.")
    return tuple(layer for layer in model.layers if layer in chosen)


def _choose_quantities(model: Model, quantities: str | Sequence[str]) -> tuple[str, ...]:
    known = (*QUANTITIES, *UNROTATED)
    if not isinstance(quantities, Iterable):
        raise SpectralToolkitError(f"quantities={quantities!r} is not understood: expected any of {', '.join(known)}.")
    wanted = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    for quantity in wanted:
        if quantity not in known:
            raise SpectralToolkitError(f"quantities={wanted!r}: {quantity!r} is not one of {', '.join(known)}.")
        if quantity == "token" and not model.has(quantity):
            raise SpectralToolkitError(
                f"quantities={wanted!r}: what the blocks of {model.name} give out could not be matched with patches; "
                "leave out 'token'."
            )
        if not model.has(quantity):
            raise SpectralToolkitError(
                f"quantities={wanted!r}: {model.name} ({model.family}) has no rotary positions that are known, so its "
                f"{quantity.removesuffix('_unrotated')} is not rotated; ask for "
                f"{quantity.removesuffix('_unrotated')!r} instead of {quantity!r}."
            )
    if not wanted:
        raise SpectralToolkitError(f"quantities={wanted!r} is empty; expected any of {', '.join(known)}.")
    return tuple(quantity for quantity in known if quantity in wanted)


def format_bytes(n: int) -> str:
    """Write a number of bytes with a unit.

    Examples
    --------
    >>> format_bytes(999), format_bytes(87_400_000)
    ('999 bytes', '87.4 MB')
    """
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if n >= 10**power:
            return f"{n / 10**power:.1f} {unit}"
    return f"{n} bytes"


def available_memory() -> int:
    """Return how many bytes are still available, within the limit of a container if there is one."""
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8").strip()
        return min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def differences(found: Mapping[str, object], wanted: Mapping[str, object], ignoring: Sequence[str] = ()) -> list[str]:
    """Describe the provenance entries in which two captures differ, one phrase each."""
    found, wanted = _by_setting(found), _by_setting(wanted)
    keys = [key for key in wanted if key not in ignoring and found.get(key) != wanted[key]]
    return [f"{key} is {_shown(found.get(key))} there and {_shown(wanted[key])} here" for key in keys]


def _by_setting(attrs: Mapping[str, object]) -> dict[str, object]:
    """Return the entries with each image setting apart, so that a difference is named precisely."""
    try:
        settings = json.loads(str(attrs["processor"]))
        return {**attrs, "processor": "", **{f"processor.{key}": value for key, value in settings.items()}}
    except (KeyError, TypeError, ValueError, AttributeError):
        return dict(attrs)


def _shown(value: object) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
