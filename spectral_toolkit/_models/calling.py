"""What a module is called with so that it sees images: whole, cut into patches, packed, as clips, or beside text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .._compute.torch_calls import TorchCalls
from .untyped import config_of

Call = Callable[[torch.nn.Module, Tensor], object]
_SIDES = ("target_sizes", "tgt_sizes")
_IMAGES = ("pixel_values", "pixel_values_videos")
_GRIDS = ("grid_thw", "image_grid_thw")
_TEXT = ("input_ids", "decoder_input_ids", "task_inputs")
MOST_PATCHES = 4096
"""The most patches of an image by default, where a model can do with fewer."""


def named_for_images(part: PreTrainedModel | type[PreTrainedModel]) -> bool:
    """Whether the main input of a model of transformers, or of a class, is an image."""
    names: object = part.main_input_name
    names = [names] if isinstance(names, str) else [*cast("Iterable[object]", names)] if names else []
    return any(str(name).startswith(("pixel", "image", "flattened_patches")) for name in names)


def parameters_of(part: torch.nn.Module) -> dict[str, inspect.Parameter]:
    """The arguments of a module's forward pass; none where they cannot be told."""
    try:
        return dict(inspect.signature(part.forward).parameters)
    except (TypeError, ValueError):
        return {}


def calls_of(part: torch.nn.Module) -> tuple[Call, ...]:
    """How to call a part with normalised values, likely ways first; none if its arguments are not those of images."""
    known = parameters_of(part)
    if "input_ids" in known and not (isinstance(part, PreTrainedModel) and named_for_images(part)):
        return ()  # it reads text, too: the part of it that does not is found by itself
    if {*_GRIDS} & {*known}:
        by_convolution = any(
            isinstance(one, torch.nn.Conv2d) and max(one.kernel_size) == patch_of(part) for one in part.modules()
        )
        whole = (packed_images, packed_in_a_batch) if by_convolution else ()
        return (*whole, packed, packed_blocks)
    if {*_SIDES} & {*known}:
        return (side_by_side,)
    if "aspect_ratio_ids" in known:
        return (one_tile,)
    if "prompt_pixel_values" in known:
        return (prompted,)
    if "flattened_patches" in known:
        return (flattened,)
    if "pixel_position_ids" in known:
        return (rows_of_patches,)
    if frames := frames_of(part):
        return tuple(_clips(part, frames))
    if {*_IMAGES} & {*known}:
        convolves = any(isinstance(one, (torch.nn.Conv2d, torch.nn.Conv3d)) for one in part.modules())
        return (named,) if convolves else (named, rows_of_patches)
    plain = [one for one in known.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in plain if one.default is one.empty]
    if isinstance(part, PreTrainedModel) and not named_for_images(part):
        return ()
    return (positional,) if plain and len(needed) <= 1 else ()


def calls_beside_text(part: torch.nn.Module) -> tuple[Call, ...]:
    """How to call a part whose one transformer reads images and text alike (ViLT, LayoutLMv3, NeoMME)."""
    if not {"input_ids", "pixel_values"} <= {*parameters_of(part)}:
        return ()
    marks = {"document_token_id", "image_token_id"}
    return (on_a_page,) if marks <= {*vars(getattr(part, "config", object()))} else (beside_text,)


# --- whole images ----------------------------------------------------------------------------------------------------


def positional(part: torch.nn.Module, values: Tensor) -> object:
    """Images as the only argument."""
    return part(values)


def named(part: torch.nn.Module, values: Tensor, **more: object) -> object:
    """Images by their name in transformers, and whatever else is needed."""
    known = parameters_of(part)
    inputs: dict[str, object] = {next((name for name in _IMAGES if name in known), "pixel_values"): values, **more}
    inputs |= _needed(part, len(values), values.device, set(inputs))
    if "interpolate_pos_encoding" in known and tuple(values.shape[-2:]) != config_size(part):
        inputs["interpolate_pos_encoding"] = True
    return part(**inputs)


def beside_text(part: torch.nn.Module, values: Tensor) -> object:
    """Images beside the shortest text: one token, the same for every image."""
    n, device, known = len(values), values.device, parameters_of(part)
    text = {name: _tokens(part, n, device, name) for name in _TEXT if name in known}
    if "visual_bbox" in known:  # a patch on which text stands becomes one token with it: let it be the first (UDOP)
        size, patch = config_size(part) or (224, 224), patch_of(part)
        box = torch.tensor([0, 0, patch / size[1], patch / size[0]], device=device)
        text["bbox"] = box.expand(n, 1, 4)
    elif "bbox" in known:  # where the text stands on a page
        text["bbox"] = torch.zeros((n, 1, 4), dtype=torch.long, device=device)
    with _InOrder():
        return named(part, values, **text)


def prompted(part: torch.nn.Module, values: Tensor) -> object:
    """The lower half of each strip, with the upper half as its prompt, of which nothing is marked (SegGPT)."""
    prompt, image = values.chunk(2, 2)
    return part(pixel_values=image, prompt_pixel_values=prompt, prompt_masks=torch.zeros_like(prompt))


class _InOrder(TorchCalls):
    """Where a model draws a random order of all its patches, as ViLT does, their own order is one of them."""

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        if func is torch.multinomial and not kwargs and len(args) == 2:
            weights, n = args
            if (
                isinstance(weights, Tensor)
                and weights.ndim == 1
                and len(weights) == n
                and bool((weights == weights[:1]).all())
            ):
                return torch.arange(len(weights), device=weights.device)
        return func(*args, **kwargs)


def _needed(part: torch.nn.Module, n: int, device: torch.device, given: set[str]) -> dict[str, object]:
    """Values for the arguments without a default that are not images."""
    found: dict[str, object] = {}
    for name, one in parameters_of(part).items():
        if one.default is not one.empty or one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) or name in given:
            continue
        if "mask" in name:  # every patch is to be seen
            found[name] = None
        elif name in _TEXT:
            found[name] = _tokens(part, n, device, name)
        elif name == "merge_sizes":
            found[name] = torch.ones(n, dtype=torch.long, device=device)
    return found


def _tokens(part: torch.nn.Module, n: int, device: torch.device, name: str) -> Tensor:
    """One token of text for each image; a task, which OneFormer pads to one length, has as many as it asks for."""
    config: object = getattr(part, "config", None)
    length = int(getattr(config, "task_seq_len", 1)) if name == "task_inputs" else 1
    return torch.zeros((n, length), dtype=torch.long, device=device)


# --- cut out patches -------------------------------------------------------------------------------------------------


def _cut_out(values: Tensor, patch: int, merge: int = 1) -> tuple[Tensor, int, int]:
    """Patches (image and patch, channel, y, x) in the order of Qwen2-VL: those that will be merged stand together."""
    n, channels, height, width = values.shape
    rows, columns = height // patch, width // patch
    cut = values.reshape(n, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(n * rows * columns, channels, patch, patch), rows, columns


def patch_of(part: torch.nn.Module) -> int:
    """Pixels along a side of a patch."""
    patch: int | list[int] | tuple[int, ...] = getattr(getattr(part, "config", None), "patch_size", 16)
    return int(patch[-1] if isinstance(patch, (list, tuple)) else patch)


def merged(part: torch.nn.Module) -> int:
    """How many patches along a side are merged into one token of the language model."""
    config: object = getattr(part, "config", None)
    for name in ("spatial_merge_size", "merge_size", "pooling_kernel_size"):
        merge = getattr(config, name, None)
        if isinstance(merge, (list, tuple)) and merge:
            merge = merge[0]
        if isinstance(merge, int) and merge > 0:
            return merge
    return 1


def tubelet_of(part: torch.nn.Module) -> int:
    """How many frames of a clip one token stands for."""
    config: object = getattr(part, "config", None)
    size: object = getattr(config, "tubelet_size", None)
    if isinstance(size, (list, tuple)) and size:
        return int(size[0])
    if isinstance(size, int):
        return size
    names = ("temporal_patch_size", "patch_temporal")
    return next((int(one) for name in names if (one := getattr(config, name, 0))), 1)


def packed(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches as rows of numbers, and how many there are along each side."""
    patches, rows, columns = _cut_out(values, patch_of(part), merged(part))
    frames = patches[:, :, None].expand(-1, -1, tubelet_of(part), -1, -1)
    return _with_sizes(part, frames.flatten(1), len(values), rows, columns)


def packed_blocks(part: torch.nn.Module, values: Tensor) -> object:
    """Patches cut out with those that they will be merged with, channels last, and counted as such (Inkling)."""
    blocks, rows, columns = _cut_out(values, patch_of(part) * merged(part))
    return _with_sizes(part, blocks.permute(0, 2, 3, 1), len(values), rows, columns)


def packed_images(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches as small images, row by row, for a tower that embeds them with a convolution (MoonViT)."""
    patches, rows, columns = _cut_out(values, patch_of(part))
    return _with_sizes(part, patches, len(values), rows, columns)


def packed_in_a_batch(part: torch.nn.Module, values: Tensor) -> object:
    """The same, in a batch of one."""
    patches, rows, columns = _cut_out(values, patch_of(part))
    return _with_sizes(part, patches[None], len(values), rows, columns)


def _with_sizes(part: torch.nn.Module, patches: Tensor, n: int, rows: int, columns: int) -> object:
    known = list(parameters_of(part))
    name = next(one for one in _GRIDS if one in known)
    first = next(one for one in known if one != name)
    inputs = {first: patches, name: torch.tensor([[1, rows, columns]] * n, device=patches.device)}
    return part(**inputs, **_needed(part, n, patches.device, set(inputs)))


def side_by_side(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches beside each other in one low image, and how many there are along each side (MiniCPM-V)."""
    patches, rows, columns = _cut_out(values, patch_of(part))
    name = next(one for one in _SIDES if one in parameters_of(part))
    sizes = torch.tensor([[rows, columns]] * len(values), dtype=torch.int32, device=values.device)
    return part(patches.permute(1, 2, 0, 3).flatten(2)[None], **{name: sizes})


def rows_of_patches(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches as rows of numbers, channels last, for each image (Molmo), with their places (Gemma 4)."""
    patches, rows, columns = _cut_out(values, patch_of(part))
    cut = patches.permute(0, 2, 3, 1).reshape(len(values), rows * columns, -1)
    if "pixel_position_ids" not in parameters_of(part):
        return part(cut)
    places = _places(rows, columns).flip(-1).flatten(0, 1).to(values.device)  # x before y
    return part(cut, pixel_position_ids=places.expand(len(values), -1, -1))


def on_a_page(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches as rows of numbers, channels last, for tokens of text that hold their places (NeoMME)."""
    config = config_of(part)
    patches, rows, columns = _cut_out(values, patch_of(part))
    n, device = len(values), values.device
    marks = torch.tensor([config.document_token_id, config.image_token_id], device=device)
    tokens = torch.cat([marks, marks[1:].expand(rows * columns)])
    before = torch.arange(2, device=device)[:, None].expand(2, 2)
    places = torch.cat([before, 2 + _places(rows, columns).flatten(0, 1).to(device)])
    return part(
        input_ids=tokens.expand(n, -1),
        attention_mask=torch.ones((n, len(tokens)), dtype=torch.long, device=device),
        position_ids=places.T[:, None].expand(2, n, -1),
        pixel_values=patches.permute(0, 2, 3, 1).flatten(1),
    )


def _places(rows: int, columns: int) -> Tensor:
    """Row and column of each patch, of shape (rows, columns, 2)."""
    return torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)


def one_tile(part: torch.nn.Module, values: Tensor) -> object:
    """Each image as the only tile of the only image of a prompt; the other tiles are masked (Llama 3.2)."""
    config: object = getattr(part, "config", None)
    n_tiles = int(getattr(config, "max_num_tiles", 1))
    tiles = torch.nn.functional.pad(values[:, None, None], (0, 0) * 3 + (0, n_tiles - 1))
    mask = (torch.arange(n_tiles, device=values.device) == 0).long().expand(len(values), 1, n_tiles)
    return part(tiles, aspect_ratio_ids=mask[..., 0], aspect_ratio_mask=mask)


def flattened(part: torch.nn.Module, values: Tensor) -> object:
    """Cut-out patches row by row, each after the numbers of its row and column, as Pix2Struct takes them."""
    patches, rows, columns = _cut_out(values, patch_of(part))
    cut = patches.permute(0, 2, 3, 1).reshape(len(values), rows, columns, -1)
    places = (_places(rows, columns) + 1).to(values).expand(len(values), rows, columns, 2)
    patches = torch.cat([places, cut], -1).flatten(1, 2)
    return part(flattened_patches=patches, attention_mask=torch.ones_like(patches[..., 0]))


CUTTING = (
    packed,
    packed_blocks,
    packed_images,
    packed_in_a_batch,
    side_by_side,
    rows_of_patches,
    flattened,
    on_a_page,
)
"""The ways of calling that cut patches out themselves."""


# --- clips -----------------------------------------------------------------------------------------------------------


def frames_of(part: torch.nn.Module) -> int:
    """How many frames a model of clips was trained on; 0 for a model of images."""
    config: object = getattr(part, "config", None)
    taken = {*_IMAGES} & {*parameters_of(part)}
    if not isinstance(part, PreTrainedModel) or not taken:
        return 0
    known = (getattr(config, name, None) for name in ("num_frames", "frames_per_clip"))
    return next((one for one in known if isinstance(one, int) and one > 0), int("pixel_values" not in taken))


@dataclass(frozen=True)
class Clip:
    """Images that are strips of film, one step of time below the other, as clips.

    Attributes
    ----------
    steps
        Steps of time of a strip; each becomes as many equal frames as one token stands for.
    loose
        Whether frames enter as images of a batch (X-CLIP's tower) rather than in a dimension of their own.
    """

    steps: int
    loose: bool = False

    def __call__(self, part: torch.nn.Module, values: Tensor) -> object:
        n, channels, height, width = values.shape
        frames = values.reshape(n, channels, self.steps, height // self.steps, width).transpose(1, 2)
        frames = frames.repeat_interleave(tubelet_of(part), 1)
        return named(part, frames.flatten(0, 1) if self.loose else frames)


def _clips(part: torch.nn.Module, frames: int) -> Iterator[Clip]:
    """With the steps of time of its training, and with one; the latter first where that saves many patches."""
    trained = max(1, frames // tubelet_of(part))
    height, width = config_size(part) or (224, 224)
    n_patches = trained * (height // patch_of(part)) * (width // patch_of(part))
    for steps in dict.fromkeys((trained, 1) if n_patches <= MOST_PATCHES else (1, trained)):
        yield Clip(steps)
        if tubelet_of(part) == 1:
            yield Clip(steps, loose=True)


# --- size ------------------------------------------------------------------------------------------------------------


def config_size(part: torch.nn.Module) -> tuple[int, int] | None:
    """The size (height, width) that a configuration names."""
    config: object = getattr(part, "config", None)
    for one in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        for name in ("image_size", "crop_size"):
            size = pair(getattr(one, name, None))
            if size is not None:
                return size
    return None


def pair(value: object, least: int = 2) -> tuple[int, int] | None:
    """Two whole numbers of at least ``least``, also as one number or as {"height": ..., "width": ...}."""
    sides = (value.get("height"), value.get("width")) if isinstance(value, dict) else value
    if isinstance(sides, int) and not isinstance(sides, bool) and sides >= least:
        return (sides, sides)
    if isinstance(sides, (list, tuple)) and len(sides) == 2:
        high, wide = sides
        if isinstance(high, int) and isinstance(wide, int) and high >= least and wide >= least:
            return (high, wide)
    return None
