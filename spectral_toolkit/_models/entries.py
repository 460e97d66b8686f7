"""How images enter a module: which part of it sees them, what it is called with, and at which sizes to try."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import SpectralToolkitError
from .processing import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Processing

Size = tuple[int, int]
_USUAL = ((224, 224), (256, 256), (384, 384), (448, 448), (336, 336), (512, 512), (518, 518), (1024, 1024), (64, 64))
_TOWERS = ("visual", "vision_model", "vision_tower", "image_encoder", "vision_encoder", "vision", "trunk")
_SIDES = ("target_sizes", "tgt_sizes")
_MOST_PATCHES = 4096
"""The most patches of an image by default, for models that take images of any size."""
_PARTS = ("encoder", "backbone", "model")
"""Names that parts of models of text have, too."""


@dataclass(frozen=True)
class Told:
    """What the caller says of a module; see ``load_model``."""

    tower: str | None = None
    call: Callable[[torch.nn.Module, Tensor], Any] | None = None
    size: int | tuple[int, int] | None = None
    grid: tuple[int, int] | None = None
    special_tokens: Sequence[str] | None = None

    @property
    def overrides(self) -> bool:
        """Whether anything is said that takes the place of what is known of a family."""
        return any(one is not None for one in (self.call, self.size, self.grid, self.special_tokens))

    def __post_init__(self) -> None:
        if self.call is not None and not callable(self.call):
            raise SpectralToolkitError(
                f"call={self.call!r} is not a function: expected one of the module and normalised images, such as "
                "lambda module, values: module.encode_image(values)."
            )
        for name in ("size", "grid"):
            value = getattr(self, name)
            whole = name == "size" and isinstance(value, int) and not isinstance(value, bool) and value > 0
            if value is not None and not whole and _pair(value, least=1) is None:
                raise SpectralToolkitError(
                    f"{name}={value!r} is not understood: expected two whole numbers of at least 1."
                )
        if isinstance(self.special_tokens, str):
            raise SpectralToolkitError(
                f"special_tokens={self.special_tokens!r} is one text: expected a list of names, such as ['cls']."
            )


@dataclass(frozen=True)
class Entry:
    """One way into a module.

    Attributes
    ----------
    name
        Name of the part that sees images, within the module that the user gave.
    tower
        That part.
    call
        Runs it on normalised values (image, channel, height, width).
    sizes
        Sizes (height, width) to try, in this order.
    processing
        Image settings where nothing else tells them.
    """

    name: str
    tower: torch.nn.Module = field(repr=False)
    call: Callable[[torch.nn.Module, Tensor], Any] = field(repr=False)
    sizes: tuple[Size, ...]
    processing: Processing


def find(module: torch.nn.Module, told: Told) -> Iterator[Entry]:
    """Ways into a module, likely ones first: the module itself, then parts of it that see images."""
    seen: set[int] = set()
    parts = _parts(module) if told.tower is None else [(told.tower, part_named(module, told.tower))]
    for name, part in parts:
        if id(part) in seen:
            continue
        seen.add(id(part))
        for call in calls_of(part) if told.call is None else (told.call,):
            size = (told.size, told.size) if isinstance(told.size, int) else told.size
            sizes = sizes_of(module, part) if size is None else ((int(size[0]), int(size[1])),)
            if size is None and call in _CUTTING:  # they take any size, and name their largest
                sizes = _whole_patches(sizes, part)
            yield Entry(name, part, call, sizes, processing_of(module, part))
        if told.call is not None:
            return


def part_named(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """A part of a module by its name; raises `SpectralToolkitError` if there is none."""
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        known = [one for one, _ in module.named_modules() if one]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise SpectralToolkitError(
            f"tower={name!r} is not a part of {type(module).__name__}"
            f"{f' (did you mean {close[0]!r}?)' if close else ''}: use a name from module.named_modules()."
        ) from error


def _parts(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    yield "", module
    towers = [
        (name, part)
        for name, part in module.named_modules()
        if name and isinstance(part, PreTrainedModel) and _sees_images(part)
    ]
    yield from sorted(towers, key=lambda item: item[0].count("."))
    for wanted in _TOWERS if isinstance(module, PreTrainedModel) else (*_TOWERS, *_PARTS):
        for name, part in module.named_modules():
            if name.rpartition(".")[2] == wanted:
                yield name, part


def _sees_images(part: PreTrainedModel) -> bool:
    return _named_for_images(part) or bool({"pixel_values", "flattened_patches"} & set(_parameters(part)))


def _named_for_images(part: PreTrainedModel) -> bool:
    return str(part.main_input_name).startswith(("pixel", "image", "flattened_patches"))


def _parameters(part: torch.nn.Module) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(part.forward).parameters)
    except (TypeError, ValueError):
        return {}


def calls_of(part: torch.nn.Module) -> tuple[Callable[[torch.nn.Module, Tensor], Any], ...]:
    """How to call a part with normalised values, likely ways first; none if its arguments are not those of images."""
    known = _parameters(part)
    if "input_ids" in known and not (isinstance(part, PreTrainedModel) and _named_for_images(part)):
        return ()  # it reads text, too: the part of it that does not is found by itself
    if {"grid_thw", "image_grid_thw"} & set(known):
        by_convolution = any(
            isinstance(one, torch.nn.Conv2d) and max(one.kernel_size) == _patch_of(part) for one in part.modules()
        )
        return (_packed_images, _packed_in_a_batch) if by_convolution else (_packed,)
    if set(_SIDES) & set(known):
        return (_side_by_side,)
    if "aspect_ratio_ids" in known:
        return (_one_tile,)
    if "flattened_patches" in known:
        return (_flattened,)
    if "pixel_values" in known:
        convolves = any(isinstance(one, (torch.nn.Conv2d, torch.nn.Conv3d)) for one in part.modules())
        return (_named,) if convolves else (_named, _rows_of_patches)
    plain = [one for one in known.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in plain if one.default is one.empty]
    if isinstance(part, PreTrainedModel) and not _named_for_images(part):
        return ()
    return (_positional,) if plain and len(needed) <= 1 else ()


def _positional(part: torch.nn.Module, values: Tensor) -> Any:
    return part(values)


def _named(part: torch.nn.Module, values: Tensor) -> Any:
    known = _parameters(part)
    inputs: dict[str, Any] = {"pixel_values": values}
    # A mask without a default: every patch is to be seen.
    inputs |= {name: None for name, one in known.items() if "mask" in name and one.default is one.empty}
    if "interpolate_pos_encoding" in known and tuple(values.shape[-2:]) != config_size(part):
        inputs["interpolate_pos_encoding"] = True
    return part(**inputs)


def _cut_out(part: torch.nn.Module, values: Tensor, merge: int) -> tuple[Tensor, int, int]:
    """Patches (image and patch, channel, y, x) in the order of Qwen2-VL: those that will be merged stand together."""
    patch = _patch_of(part)
    n, channels, height, width = values.shape
    rows, columns = height // patch, width // patch
    cut = values.reshape(n, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n * rows * columns, channels, patch, patch), rows, columns


def _patch_of(part: torch.nn.Module) -> int:
    patch: Any = getattr(getattr(part, "config", None), "patch_size", 16)
    return int(patch[0] if isinstance(patch, (list, tuple)) else patch)


def _merged(part: torch.nn.Module) -> int:
    """How many patches along a side are merged into one token of the language model."""
    config: Any = getattr(part, "config", None)
    for name in ("spatial_merge_size", "merge_size"):
        merge = getattr(config, name, None)
        if isinstance(merge, (list, tuple)) and merge:
            merge = merge[0]
        if isinstance(merge, int) and merge > 0:
            return merge
    return 1


def _frames(part: torch.nn.Module) -> int:
    config: Any = getattr(part, "config", None)
    return next(
        (int(one) for name in ("temporal_patch_size", "patch_temporal") if (one := getattr(config, name, 0))), 1
    )


def _packed(part: torch.nn.Module, values: Tensor) -> Any:
    """Cut-out patches as rows of numbers, and how many there are along each side."""
    patches, rows, columns = _cut_out(part, values, _merged(part))
    frames = patches[:, :, None].expand(-1, -1, _frames(part), -1, -1)
    return _with_sizes(part, frames.flatten(1), len(values), rows, columns)


def _packed_images(part: torch.nn.Module, values: Tensor) -> Any:
    """Cut-out patches as small images, row by row, for a tower that embeds them with a convolution (MoonViT)."""
    patches, rows, columns = _cut_out(part, values, 1)
    return _with_sizes(part, patches, len(values), rows, columns)


def _packed_in_a_batch(part: torch.nn.Module, values: Tensor) -> Any:
    """The same, in a batch of one."""
    patches, rows, columns = _cut_out(part, values, 1)
    return _with_sizes(part, patches[None], len(values), rows, columns)


def _with_sizes(part: torch.nn.Module, patches: Tensor, n: int, rows: int, columns: int) -> Any:
    known = list(_parameters(part))
    name = "grid_thw" if "grid_thw" in known else "image_grid_thw"
    first = next(one for one in known if one != name)
    return part(**{first: patches, name: torch.tensor([[1, rows, columns]] * n, device=patches.device)})


def _side_by_side(part: torch.nn.Module, values: Tensor) -> Any:
    """Cut-out patches beside each other in one low image, and how many there are along each side (MiniCPM-V)."""
    patches, rows, columns = _cut_out(part, values, 1)
    name = next(one for one in _SIDES if one in _parameters(part))
    sizes = torch.tensor([[rows, columns]] * len(values), dtype=torch.int32, device=values.device)
    return part(patches.permute(1, 2, 0, 3).flatten(2)[None], **{name: sizes})


def _rows_of_patches(part: torch.nn.Module, values: Tensor) -> Any:
    """Cut-out patches as rows of numbers, channels last, for each image (Molmo)."""
    patches, rows, columns = _cut_out(part, values, 1)
    return part(patches.permute(0, 2, 3, 1).reshape(len(values), rows * columns, -1))


def _one_tile(part: torch.nn.Module, values: Tensor) -> Any:
    """Each image as the only tile of the only image of a prompt; the other tiles are masked (Llama 3.2)."""
    config: Any = getattr(part, "config", None)
    n_tiles = int(getattr(config, "max_num_tiles", 1))
    tiles = torch.nn.functional.pad(values[:, None, None], (0, 0) * 3 + (0, n_tiles - 1))
    mask = (torch.arange(n_tiles, device=values.device) == 0).long().expand(len(values), 1, n_tiles)
    return part(tiles, aspect_ratio_ids=mask[..., 0], aspect_ratio_mask=mask)


def _flattened(part: torch.nn.Module, values: Tensor) -> Any:
    """Cut-out patches row by row, each after the numbers of its row and column, as Pix2Struct takes them."""
    patches, rows, columns = _cut_out(part, values, 1)
    cut = patches.permute(0, 2, 3, 1).reshape(len(values), rows, columns, -1)
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1) + 1
    places = places.to(values).expand(len(values), rows, columns, 2)
    patches = torch.cat([places, cut], -1).flatten(1, 2)
    return part(flattened_patches=patches, attention_mask=torch.ones_like(patches[..., 0]))


_CUTTING = (_packed, _packed_images, _packed_in_a_batch, _side_by_side, _rows_of_patches, _flattened)
"""The ways of calling that cut patches out themselves."""


# --- sizes and settings ----------------------------------------------------------------------------------------------


def config_size(part: torch.nn.Module) -> Size | None:
    """The size that a configuration names."""
    config: Any = getattr(part, "config", None)
    for one in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        size = _pair(getattr(one, "image_size", None))
        if size is not None:
            return size
    return None


def _pair(value: Any, least: int = 2) -> Size | None:
    if isinstance(value, dict):
        value = (value.get("height"), value.get("width"))
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return (value, value)
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(one, int) and one >= least for one in value)
    ):
        return (value[0], value[1])
    return None


def sizes_of(module: torch.nn.Module, part: torch.nn.Module) -> tuple[Size, ...]:
    """Sizes to try: what the module says of itself, what its positions allow, then usual ones."""
    found: list[Size | None] = [config_size(part)]
    for one in (part, *(sub for sub in part.modules() if "embed" in type(sub).__name__.lower())):
        for name in ("img_size", "image_size", "input_resolution", "native_size"):
            found.append(_pair(getattr(one, name, None)))
    found += _sizes_of_positions(part)
    settings = timm_settings(part)
    if settings and len(settings.get("input_size") or ()) == 3:
        found.append((int(settings["input_size"][1]), int(settings["input_size"][2])))
    return tuple(dict.fromkeys([*(size for size in found if size is not None), *_USUAL]))


def _whole_patches(sizes: Iterable[Size], part: torch.nn.Module) -> tuple[Size, ...]:
    """Sizes cut to whole patches, and to such as are merged; those with too many patches last."""
    step = _patch_of(part) * _merged(part)
    cut = [(height // step * step, width // step * step) for height, width in sizes]
    kept = dict.fromkeys(one for one in cut if min(one) > step)
    return tuple(sorted(kept, key=lambda one: one[0] * one[1] > _MOST_PATCHES * _patch_of(part) ** 2))


def _sizes_of_positions(part: torch.nn.Module) -> list[Size]:
    """Square sizes for which a table of positions has one entry a patch, with up to 16 special tokens."""
    stems = [one for one in part.modules() if isinstance(one, torch.nn.Conv2d) and one.in_channels == 3]
    strides = [max(one.stride) for one in stems if max(one.stride) > 2]  # others are no patches, but start a network
    if not strides:
        return []
    found = []
    for name, parameter in part.named_parameters():
        if "pos" in name.lower() and parameter.ndim in (2, 3):
            n = parameter.shape[-2]
            for special in range(17):
                side = math.isqrt(max(0, n - special))
                if side > 1 and side * side == n - special:
                    found.append((side * strides[0], side * strides[0]))
                    break
    return found


def timm_settings(part: torch.nn.Module) -> dict[str, Any] | None:
    """The settings of pretraining that timm keeps on its models."""
    inner = getattr(part, "timm_model", part)
    settings = getattr(inner, "pretrained_cfg", None) or getattr(inner, "default_cfg", None)
    return settings if isinstance(settings, dict) and "mean" in settings else None


def processing_of(module: torch.nn.Module, part: torch.nn.Module) -> Processing:
    """Image settings, from what the module keeps of its training or what its family commonly uses."""
    settings = timm_settings(part) or timm_settings(module)
    if settings is not None:
        return Processing(
            tuple(settings["mean"]),
            tuple(settings["std"]),
            str(settings.get("interpolation") or "bicubic"),
            source="timm",
        )
    for one in (part, module, getattr(module, "visual", None)):
        mean, std = getattr(one, "image_mean", None), getattr(one, "image_std", None)
        if mean is not None and std is not None and len(mean) == 3:
            return Processing(tuple(map(float, mean)), tuple(map(float, std)), source="kept by the model")
    names = f"{type(module).__name__} {type(part).__name__}".lower()
    if "clip" in names or "qwen" in names or "glm" in names:
        return Processing(CLIP_MEAN, CLIP_STD)
    if "siglip" in names or "gemma" in names:
        return Processing(HALF, HALF, resample="bilinear")
    return Processing(IMAGENET_MEAN, IMAGENET_STD)
