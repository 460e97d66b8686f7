"""How images enter a module: which part of it sees them, what it is called with, and at which sizes to try."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Required, TypedDict, cast

import torch
from transformers import PreTrainedModel

from ..errors import SpectralToolkitError
from .calling import (
    CUTTING,
    MOST_PATCHES,
    Call,
    Clip,
    calls_beside_text,
    calls_of,
    config_size,
    merged,
    named_for_images,
    pair,
    parameters_of,
    patch_of,
    prompted,
)
from .processing import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Processing

Size = tuple[int, int]
_USUAL = ((224, 224), (256, 256), (384, 384), (448, 448), (336, 336), (512, 512), (518, 518), (1024, 1024), (64, 64))
_TOWERS = ("visual", "vision_model", "vision_tower", "image_encoder", "vision_encoder", "vision", "trunk")
_PARTS = ("encoder", "backbone", "model")
"""Names that parts of models of text have, too."""


@dataclass(frozen=True)
class Told:
    """What the caller says of a module; see ``load_model``."""

    tower: str | None = None
    call: Call | None = None
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
            if value is not None and not whole and pair(value, least=1) is None:
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
    call: Call = field(repr=False)
    sizes: tuple[Size, ...]
    processing: Processing


def find(module: torch.nn.Module, told: Told) -> Iterator[Entry]:
    """Ways into a module, likely ones first: the module itself, then parts of it that see images.

    Where no part sees images alone, the module is shown them beside a token of text.
    """
    parts: dict[torch.nn.Module, str] = {}
    for name, part in _parts(module) if told.tower is None else [(told.tower, part_named(module, told.tower))]:
        parts.setdefault(part, name)
    if told.call is not None:
        part, name = next(iter(parts.items()))
        yield _entry(module, name, part, told.call, told)
        return
    for ways in (calls_of, calls_beside_text):
        found = [(name, part, call) for part, name in parts.items() for call in ways(part)]
        for one in found:
            yield _entry(module, *one, told)
        if found:
            return


def _entry(module: torch.nn.Module, name: str, part: torch.nn.Module, call: Call, told: Told) -> Entry:
    size = (told.size, told.size) if isinstance(told.size, int) else told.size
    sizes = sizes_of(module, part) if size is None else ((int(size[0]), int(size[1])),)
    processing = processing_of(module, part)
    if size is None and call in CUTTING:  # they take any size, and name their largest
        sizes = _whole_patches(sizes, part)
    if call is prompted:
        processing = replace(processing, frames=2)
    if isinstance(call, Clip):
        processing = replace(processing, frames=call.steps)
        if size is None:
            sizes = tuple((height * call.steps, width) for height, width in sizes)
    return Entry(name, part, call, sizes, processing)


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
    yield from sorted(towers, key=lambda item: ("video" in item[0], item[0].count(".")))
    for wanted in _TOWERS if isinstance(module, PreTrainedModel) else (*_TOWERS, *_PARTS):
        for name, part in module.named_modules():
            if name.rpartition(".")[2] == wanted:
                yield name, part


def sightless(module: torch.nn.Module) -> bool:
    """Whether a model of images and text was made without its vision part."""
    return getattr(getattr(module, "config", None), "vision_config", "no such setting") is None


def _sees_images(part: PreTrainedModel) -> bool:
    return named_for_images(part) or bool({"pixel_values", "flattened_patches"} & {*parameters_of(part)})


# --- sizes and settings ----------------------------------------------------------------------------------------------


def sizes_of(module: torch.nn.Module, part: torch.nn.Module) -> tuple[Size, ...]:
    """Sizes to try: what the module says of itself, what its positions allow, then usual ones."""
    found: list[Size | None] = [config_size(part)]
    for one in (part, *(sub for sub in part.modules() if "embed" in type(sub).__name__.lower())):
        for name in ("img_size", "image_size", "input_resolution", "native_size"):
            found.append(pair(getattr(one, name, None)))
    found += _sizes_of_positions(part)
    settings = timm_settings(part)
    if settings and len(size := settings.get("input_size") or ()) == 3:
        found.append((int(size[1]), int(size[2])))
    return tuple(dict.fromkeys([*(size for size in found if size is not None), *_USUAL]))


def _whole_patches(sizes: Iterable[Size], part: torch.nn.Module) -> tuple[Size, ...]:
    """Sizes cut to whole patches, and to such as are merged; those with too many patches last."""
    step = patch_of(part) * merged(part)
    cut = [(height // step * step, width // step * step) for height, width in sizes]
    kept = dict.fromkeys(one for one in cut if min(one) > step)
    return tuple(sorted(kept, key=lambda one: one[0] * one[1] > MOST_PATCHES * patch_of(part) ** 2))


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


class TimmSettings(TypedDict, total=False):
    """What is read of the settings that timm keeps."""

    input_size: Sequence[int]
    mean: Required[Sequence[float]]
    std: Required[Sequence[float]]
    interpolation: str


def timm_settings(part: torch.nn.Module) -> TimmSettings | None:
    """The settings of pretraining that timm keeps on its models."""
    inner = getattr(part, "timm_model", part)
    settings = getattr(inner, "pretrained_cfg", None) or getattr(inner, "default_cfg", None)
    return cast("TimmSettings", settings) if isinstance(settings, dict) and "mean" in settings else None


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
