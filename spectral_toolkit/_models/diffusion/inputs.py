"""What a denoiser takes besides latents, where no pipeline says: by the names of the arguments of its forward.

Zeros stand for texts; sizes, positions and the like are what diffusers' own pipelines would give. A model in which a
name means something else has a line in `_OWN`.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...errors import UnsupportedModelError
from ..untyped import Config, config_of
from .forms import IMAGE, PACKED, Form, Packed, class_names, in_channels
from .protocols import Inputs, whole_number

TEXT_LENGTH = 77
"""Tokens of zeros in place of a prompt."""
_LATENTS = ("hidden_states", "sample", "x", "latents")
_WHOLE = ("UNet", "ControlNet", "UNetControlNet", "SparseControlNet", "I2VGen", "Kandinsky3", "StableCascade")
"""Those that take a whole number, whatever their precision."""
_MOMENTS = 4
"""Tokens of silence for a model that makes sound beside images."""
_TEXT_WIDTHS = (
    *("joint_attention_dim", "caption_channels", "text_embed_dim", "cap_feat_dim", "text_dim", "in_text_dim"),
    *("context_in_dim", "text_hidden_dim", "text_in_dim", "llm_features_dim", "encoder_hid_dim", "cross_attention_dim"),
)
"""Settings that say how wide the states of a text are; the first that a configuration has counts."""
_SHARE = ("Flux", "Qwen", "Chroma", "AuraFlow", "LongCatImage", "Ovis", "Krea", "Nucleus", "PRX", "BriaFibo2", "Cosmos")
"""Beginnings of classes that take a timestep as a share of the scheduler's timesteps."""
_REST = ("Lumina", "ZImage", "Mochi", "OmniGen", "Ideogram")
"""Those that take the share that is left."""


class UnknownInputError(UnsupportedModelError):
    """A denoiser takes something whose content is not known."""


@dataclass(frozen=True)
class Asked:
    """One pass: the denoiser, noisy latents (1, channel, y, x), and what else an argument may depend on.

    ``picture`` is the image (1, 3, height, width) from -1 to 1, ``clean`` its latents without noise.
    """

    tower: torch.nn.Module
    form: Form
    latents: Tensor
    clean: Tensor
    picture: Tensor
    timestep: float
    steps: int

    @cached_property
    def config(self) -> Config:
        return config_of(self.tower)

    @property
    def size(self) -> tuple[int, int]:
        return (self.picture.shape[-2], self.picture.shape[-1])

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (y, x) that the form makes."""
        return (self.latents.shape[-2] // self.form.side, self.latents.shape[-1] // self.form.side)

    @property
    def patches(self) -> tuple[int, int]:
        """Patches (y, x) that the denoiser itself makes of an image or a frame."""
        patch = self.config.get("patch_size") or 1
        patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
        return (self.latents.shape[-2] // patch, self.latents.shape[-1] // patch)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(1, *shape, dtype=self.latents.dtype, device=self.latents.device)

    def ones(self, *shape: int) -> Tensor:
        return torch.ones(1, *shape, dtype=torch.long, device=self.latents.device)

    def numbers(self, *values: float) -> Tensor:
        return torch.tensor([values], dtype=self.latents.dtype, device=self.latents.device)

    def width(self, *names: str) -> int:
        found = next((self.config.get(name) for name in names if self.config.get(name)), None)
        if found is None:
            raise UnknownInputError(
                f"the configuration of {type(self.tower).__name__} does not say how wide its text is"
            )
        return int(found[-1] if isinstance(found, (list, tuple)) else found)

    @property
    def share(self) -> float:
        return self.timestep / self.steps


def _time(asked: Asked) -> Tensor:
    names = class_names(asked.tower)
    if any(name.startswith(_SHARE) for name in names):
        return asked.numbers(asked.share)[0]
    if any(name.startswith(_REST) for name in names):
        share = 1 - asked.share
        return asked.numbers(asked.steps * share if any(name.startswith("Mochi") for name in names) else share)[0]
    if isinstance(asked.timestep, int) and any(name.startswith(_WHOLE) for name in names):
        return torch.tensor([asked.timestep], device=asked.latents.device)
    return asked.numbers(asked.timestep)[0]


def _text(asked: Asked) -> Tensor:
    return asked.zeros(TEXT_LENGTH, asked.width(*_TEXT_WIDTHS))


def _guidance(asked: Asked) -> Tensor | None:
    return asked.numbers(1.0)[0] if asked.config.get("guidance_embeds") else None


def _axes(asked: Asked) -> int:
    return len(asked.config.get("axes_dims_rope") or asked.config.get("axes_dims") or (0, 0, 0))


def _image_ids(asked: Asked) -> Tensor:
    rows, columns = asked.grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ids = torch.zeros(rows * columns, _axes(asked))
    ids[:, 1], ids[:, 2] = y.flatten(), x.flatten()
    ids = ids.to(asked.latents)
    return ids[None] if _axes(asked) > 3 else ids


def _text_ids(asked: Asked) -> Tensor:
    ids = torch.zeros(TEXT_LENGTH, _axes(asked))
    if _axes(asked) > 3:
        ids[:, 3] = torch.arange(TEXT_LENGTH)
        return ids[None].to(asked.latents)
    if any(name.startswith(("LongCat", "Ovis")) for name in class_names(asked.tower)):
        ids[:, 1] = ids[:, 2] = torch.arange(TEXT_LENGTH)
    return ids.to(asked.latents)


def _added(asked: Asked) -> Mapping[str, Tensor | None] | None:
    """What SDXL, Kandinsky and PixArt take besides a text."""
    kind = asked.config.get("addition_embed_type")
    height, width = asked.size
    if kind == "text_time":
        count = 6
        rest = asked.config.get("projection_class_embeddings_input_dim")
        pooled = rest - count * asked.config.get("addition_time_embed_dim")
        return {
            "text_embeds": asked.zeros(pooled),
            "time_ids": asked.numbers(height, width, 0, 0, height, width),
        }
    if kind in ("image", "image_hint", "text_image"):
        told = {"image_embeds": asked.zeros(asked.width("encoder_hid_dim", "cross_attention_dim"))}
        if kind == "image_hint":
            told["hint"] = asked.picture
        if kind == "text_image":
            embedding = asked.tower.get_submodule("add_embedding")
            image, text = (embedding.get_submodule(name) for name in ("image_proj", "text_proj"))
            told = {
                "image_embeds": asked.zeros(whole_number(image, "in_features")),
                "text_embeds": asked.zeros(whole_number(text, "in_features")),
            }
        return told
    if asked.config.get("encoder_hid_dim_type") in ("image_proj", "text_image_proj"):
        return {"image_embeds": asked.zeros(asked.width("encoder_hid_dim", "cross_attention_dim"))}
    if hasattr(asked.tower, "use_additional_conditions"):
        none = not asked.tower.use_additional_conditions
        return {
            "resolution": None if none else asked.numbers(height, width),
            "aspect_ratio": None if none else asked.numbers(height / width),
        }
    return None


def _classes(asked: Asked) -> Tensor | None:
    kind, count = asked.config.get("class_embed_type"), asked.config.get("num_class_embeds")
    if kind in ("projection", "simple_projection"):
        return asked.zeros(asked.width("projection_class_embeddings_input_dim"))
    if kind == "timestep" or count is not None:
        return torch.zeros(1, dtype=torch.long, device=asked.latents.device)
    return None


def _hunyuan_rotary(asked: Asked) -> tuple[Tensor, ...]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    rows, columns = asked.patches
    base = 512 // 8 // asked.config.patch_size
    large = max(rows, columns)
    # As the pipeline does: the grid is cropped to the centre of a square one.
    height, width = (round(base * side / large) for side in (rows, columns))
    start = (round((base - height) / 2), round((base - width) / 2))
    found = get_2d_rotary_pos_embed(
        whole_number(asked.tower, "inner_dim") // whole_number(asked.tower, "num_heads"),
        (start, (start[0] + height, start[1] + width)),
        (rows, columns),
        device=asked.latents.device,
        output_type="pt",
    )
    return tuple(one.to(asked.latents.dtype) for one in found)


def _lumina_rotary(asked: Asked) -> Tensor:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    head = asked.config.hidden_size // asked.config.num_attention_heads
    return get_2d_rotary_pos_embed_lumina(head, 384, 384, linear_factor=1.0, ntk_factor=1.0)


def _video_rotary(asked: Asked) -> object:
    if not asked.config.get("use_rotary_positional_embeddings"):
        return None
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    rows, columns = asked.patches
    if asked.config.get("patch_size_t"):  # CogVideoX 1.5
        limits = (
            asked.config.sample_height // asked.config.patch_size,
            asked.config.sample_width // asked.config.patch_size,
        )
        return get_3d_rotary_pos_embed(
            asked.config.attention_head_dim,
            None,  # type: ignore[arg-type]
            (rows, columns),
            1,
            grid_type="slice",
            max_size=limits,
            device=asked.latents.device,
        )
    return get_3d_rotary_pos_embed(
        asked.config.attention_head_dim,
        ((0, 0), (rows, columns)),
        (rows, columns),
        1,
        device=asked.latents.device,
    )


def _spatial_ids(asked: Asked, length: int) -> Tensor:
    """Positions of text and then of patches: (token, 3)."""
    rows, columns = asked.grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ids = torch.zeros(length + rows * columns, 3, dtype=torch.long)
    ids[length:, 1], ids[length:, 2] = y.flatten(), x.flatten()
    return ids.to(asked.latents.device)


def _pooled(asked: Asked) -> Tensor | None:
    width = asked.config.get("pooled_projection_dim") or asked.config.get("in_text_dim2")
    return asked.zeros(int(width)) if width else None


Argument = Callable[[Asked], object]

_ARGUMENTS: dict[str, Argument] = {
    **dict.fromkeys(("timestep", "timesteps", "t"), _time),
    "r_timestep": _time,
    "timestep_ratio": lambda asked: asked.numbers(asked.share)[0],
    **dict.fromkeys(("encoder_hidden_states", "text_bth"), _text),
    "cap_feats": lambda asked: [_text(asked)[0]],
    "text_lens": lambda asked: torch.tensor([TEXT_LENGTH], device=asked.latents.device),
    "encoder_hidden_states_t5": lambda asked: (
        asked.zeros(TEXT_LENGTH, asked.config.text_embed_dim_t5) if asked.config.get("text_embed_dim_t5") else None
    ),
    "encoder_hidden_states_2": lambda asked: (
        asked.zeros(TEXT_LENGTH, asked.width("text_embed_2_dim")) if asked.config.get("text_embed_2_dim") else None
    ),
    "encoder_attention_mask_2": lambda asked: asked.ones(TEXT_LENGTH) if asked.config.get("text_embed_2_dim") else None,
    **dict.fromkeys(
        ("encoder_attention_mask", "encoder_hidden_states_mask", "text_embedding_mask", "encoder_mask"),
        lambda asked: asked.ones(TEXT_LENGTH),
    ),
    "text_embedding_mask_t5": lambda asked: asked.ones(TEXT_LENGTH),
    "pooled_projections": _pooled,
    "guidance": _guidance,
    "img_ids": _image_ids,
    "txt_ids": _text_ids,
    "img_shapes": lambda asked: [[(1, *asked.grid)]],
    "added_cond_kwargs": _added,
    "class_labels": _classes,
    "original_size": lambda asked: asked.numbers(*asked.size),
    "target_size": lambda asked: asked.numbers(*asked.size),
    "crop_coords": lambda asked: asked.zeros(2),
    "num_frames": lambda asked: 1,
    "height": lambda asked: asked.latents.shape[-2],
    "width": lambda asked: asked.latents.shape[-1],
    "fps": lambda asked: None,
}
"""The value of an argument by its name."""


def _own_condition(asked: Asked) -> Tensor:
    """What a ControlNet is shown: the image itself, from 0 to 1."""
    return (asked.picture + 1) / 2


def _own_latents(asked: Asked) -> Packed:
    return asked.form.pack(asked.clean)


def _sparse_condition(asked: Asked) -> Tensor:
    """Latents or the image, as the configuration says, and a mask: everything of the image is given."""
    simple = asked.config.get("use_simplified_condition_embedding")
    shown = asked.clean if simple else _own_condition(asked)
    return shown[:, : asked.config.conditioning_channels]


def _text_layers(asked: Asked) -> list[Tensor]:
    count = asked.config.num_layers + asked.config.num_single_layers
    return [asked.zeros(TEXT_LENGTH, asked.config.text_encoder_dim)] * count


def _shorter_text(asked: Asked) -> Tensor:
    return asked.zeros(asked.config.max_text_seq_length, asked.config.text_embed_dim)


def _ideogram_position_ids(asked: Asked) -> Tensor:
    from diffusers.models.transformers.transformer_ideogram4 import IMAGE_POSITION_OFFSET

    ids = _spatial_ids(asked, TEXT_LENGTH)
    ids[:TEXT_LENGTH] = torch.arange(TEXT_LENGTH, device=ids.device)[:, None]
    ids[TEXT_LENGTH:] += IMAGE_POSITION_OFFSET
    return ids[None]


def _ideogram_indicator(asked: Asked) -> Tensor:
    from diffusers.models.transformers import transformer_ideogram4 as theirs

    n = asked.grid[0] * asked.grid[1]
    kinds = (theirs.LLM_TOKEN_INDICATOR, theirs.OUTPUT_IMAGE_INDICATOR)
    parts = [torch.full((1, count), kind) for count, kind in zip((TEXT_LENGTH, n), kinds, strict=True)]
    return torch.cat(parts, 1).to(asked.latents.device)


def _behind_text(asked: Asked) -> Tensor:
    tokens = asked.form.pack(asked.latents)
    assert isinstance(tokens, Tensor)
    return torch.cat([asked.zeros(TEXT_LENGTH, tokens.shape[-1]), tokens], 1)


def _omnigen_length(asked: Asked) -> int:
    return TEXT_LENGTH + 1 + asked.patches[0] * asked.patches[1]


def _prior_tokens(asked: Asked) -> Tensor:
    rows, columns = asked.patches
    return torch.zeros(1, rows * columns, dtype=torch.long, device=asked.latents.device)


def _frame_positions(asked: Asked) -> list[Tensor]:
    return [torch.arange(n, device=asked.latents.device) for n in (1, *asked.patches)]


def _boolean_text(asked: Asked) -> Tensor:
    return asked.ones(TEXT_LENGTH).bool()


def _needs(asked: Asked, what: str) -> None:
    raise UnknownInputError(f"{type(asked.tower).__name__} takes {what}, which an image does not tell")


def _padding(asked: Asked) -> Tensor | None:
    if importlib.util.find_spec("torchvision") is None and asked.config.concat_padding_mask:
        raise UnknownInputError(f"diffusers' {type(asked.tower).__name__} needs torchvision, which is not installed")
    return asked.zeros(1, *asked.size)


def _times_of_frames(asked: Asked) -> Tensor:
    return _time(asked)[:, None].to(asked.latents.dtype)


_OWN: dict[str, dict[str, Argument]] = {
    "AnyFlowTransformer3DModel": {"timestep": _times_of_frames, "r_timestep": _times_of_frames},
    "BriaFiboTransformer2DModel": {"text_encoder_layers": _text_layers},
    "CogVideoXTransformer3DModel": {"encoder_hidden_states": _shorter_text, "image_rotary_emb": _video_rotary},
    "ConsisIDTransformer3DModel": {
        "encoder_hidden_states": _shorter_text,
        "image_rotary_emb": _video_rotary,
        "id_cond": lambda asked: _needs(asked, "the embedding of a face") if asked.config.is_train_face else None,
    },
    "CosmosTransformer3DModel": {
        "padding_mask": _padding,
        "condition_mask": lambda asked: None,
    },
    "GlmImageTransformer2DModel": {
        "prior_token_id": _prior_tokens,
        "prior_token_drop": lambda asked: torch.ones_like(_prior_tokens(asked), dtype=torch.bool),
    },
    "HiDreamImageTransformer2DModel": {
        "encoder_hidden_states_t5": lambda asked: asked.zeros(TEXT_LENGTH, asked.config.caption_channels[0]),
        "encoder_hidden_states_llama3": lambda asked: asked.zeros(
            1, TEXT_LENGTH, asked.config.caption_channels[1]
        ).repeat(max(asked.config.llama_layers) + 1, 1, 1, 1),
        "pooled_embeds": lambda asked: asked.zeros(asked.config.text_emb_dim),
    },
    "HunyuanDiT2DModel": {
        "encoder_hidden_states": lambda asked: asked.zeros(asked.config.text_len, asked.config.cross_attention_dim),
        "text_embedding_mask": lambda asked: asked.ones(asked.config.text_len),
        "encoder_hidden_states_t5": lambda asked: asked.zeros(
            asked.config.text_len_t5, asked.config.cross_attention_dim_t5
        ),
        "text_embedding_mask_t5": lambda asked: asked.ones(asked.config.text_len_t5),
        "image_meta_size": lambda asked: asked.numbers(*asked.size, *asked.size, 0, 0),
        "style": lambda asked: torch.zeros(1, dtype=torch.long, device=asked.latents.device),
        "image_rotary_emb": _hunyuan_rotary,
    },
    "HunyuanVideo15Transformer3DModel": {
        "image_embeds": lambda asked: asked.zeros(8, asked.config.image_embed_dim),
    },
    "HunyuanVideoFramepackTransformer3DModel": {
        "image_embeds": lambda asked: asked.zeros(8, asked.config.image_proj_dim),
        "indices_latents": lambda asked: _needs(asked, "the frames before it"),
    },
    "Ideogram4Transformer2DModel": {
        "hidden_states": _behind_text,
        "encoder_hidden_states": lambda asked: asked.zeros(
            TEXT_LENGTH + asked.grid[0] * asked.grid[1], asked.config.llm_features_dim
        ),
        "position_ids": _ideogram_position_ids,
        "segment_ids": lambda asked: asked.ones(TEXT_LENGTH + asked.grid[0] * asked.grid[1]),
        "indicator": _ideogram_indicator,
    },
    "JoyImageEditPlusTransformer3DModel": {"shape_list": lambda asked: [[(1, *asked.grid)]]},
    "Kandinsky5Transformer3DModel": {
        "visual_rope_pos": _frame_positions,
        "text_rope_pos": lambda asked: torch.arange(TEXT_LENGTH, device=asked.latents.device),
    },
    "Krea2Transformer2DModel": {
        "encoder_hidden_states": lambda asked: asked.zeros(
            TEXT_LENGTH, asked.config.num_text_layers, asked.config.text_hidden_dim
        ),
        "encoder_attention_mask": _boolean_text,
        "position_ids": lambda asked: _spatial_ids(asked, TEXT_LENGTH).to(asked.latents.dtype),
    },
    "LTX2VideoTransformer3DModel": {
        "audio_hidden_states": lambda asked: asked.zeros(_MOMENTS, asked.config.audio_in_channels),
        "audio_encoder_hidden_states": _text,
        "audio_num_frames": lambda asked: _MOMENTS,
        "fps": lambda asked: 25.0,
    },
    "LuminaNextDiT2DModel": {"image_rotary_emb": _lumina_rotary, "cross_attention_kwargs": lambda asked: {}},
    "OmniGenTransformer2DModel": {
        "input_ids": lambda asked: torch.zeros(1, TEXT_LENGTH, dtype=torch.long, device=asked.latents.device),
        "input_img_latents": lambda asked: [],
        "input_image_sizes": lambda asked: {},
        "attention_mask": lambda asked: asked.ones(_omnigen_length(asked), _omnigen_length(asked)).to(asked.latents),
        "position_ids": lambda asked: torch.arange(_omnigen_length(asked), device=asked.latents.device)[None],
    },
    "WanAnimateTransformer3DModel": {"pose_hidden_states": lambda asked: _needs(asked, "a pose and a video of a face")},
    "WanVACETransformer3DModel": {
        "control_hidden_states": lambda asked: asked.zeros(asked.config.vace_in_channels, 1, *asked.latents.shape[-2:]),
    },
    "Kandinsky3UNet": {"encoder_attention_mask": lambda asked: asked.ones(TEXT_LENGTH).to(asked.latents)},
    "StableCascadeUNet": {
        "clip_text_pooled": lambda asked: asked.zeros(1, asked.config.clip_text_pooled_in_channels),
    },
    "I2VGenXLUNet": {
        "fps": lambda asked: torch.tensor([8], device=asked.latents.device),
        "image_latents": lambda asked: asked.clean[:, :, None],
        "image_embeddings": lambda asked: asked.zeros(asked.config.cross_attention_dim),
    },
    "UNetSpatioTemporalConditionModel": {
        "encoder_hidden_states": lambda asked: asked.zeros(1, asked.config.cross_attention_dim),
        "added_time_ids": lambda asked: asked.numbers(6, 127, 0.02),
    },
    "UNet2DConditionModel": {"encoder_attention_mask": lambda asked: None},
    "ControlNetModel": {"controlnet_cond": _own_condition},
    "ControlNetUnionModel": {
        "controlnet_cond": lambda asked: [_own_condition(asked)],
        "control_type": lambda asked: asked.zeros(asked.config.num_control_type),
        "control_type_idx": lambda asked: [0],
    },
    "SparseControlNetModel": {
        "controlnet_cond": lambda asked: _sparse_condition(asked)[:, :, None],
        "conditioning_mask": lambda asked: torch.ones_like(_sparse_condition(asked)[:, :1, None]),
    },
    "UNetControlNetXSModel": {"controlnet_cond": _own_condition},
    "FluxControlNetModel": {"controlnet_cond": _own_latents},
    "SD3ControlNetModel": {"controlnet_cond": lambda asked: asked.clean},
    "SanaControlNetModel": {"controlnet_cond": lambda asked: asked.clean},
    "HunyuanDiT2DControlNetModel": {"controlnet_cond": lambda asked: asked.clean},
    "QwenImageControlNetModel": {"controlnet_cond": _own_latents},
}
_OWN["HunyuanDiT2DControlNetModel"] |= _OWN["HunyuanDiT2DModel"]
_OWN["LatteTransformer3DModel"] = {"encoder_attention_mask": lambda asked: None}
"""The same for one class."""


def arguments(asked: Asked) -> Inputs:
    """Every argument of a denoiser's forward, by name.

    Raises
    ------
    UnsupportedModelError
        If the denoiser takes something whose content is not known.
    """
    own = {name: value for base in reversed(class_names(asked.tower)) for name, value in _OWN.get(base, {}).items()}
    known = {**_ARGUMENTS, **own}
    found: Inputs = {}
    unknown = []
    parameters = inspect.signature(asked.tower.forward).parameters
    latents = next((name for name in _LATENTS if name in parameters), None)
    if latents is None:
        raise UnknownInputError(f"{type(asked.tower).__name__} takes no latents of an image")
    for name, parameter in parameters.items():
        if name == latents:
            found[name] = own[name](asked) if name in own else asked.form.pack(with_further_channels(asked))
        elif name in known:
            value = known[name](asked)
            if value is not None or parameter.default is parameter.empty:
                found[name] = value
        elif name == "return_dict":
            found[name] = False
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            unknown.append(name)
    if unknown:
        raise UnknownInputError(
            f"{type(asked.tower).__name__} takes {', '.join(unknown)}, whose content is not known here"
        )
    return found


def with_further_channels(asked: Asked) -> Tensor:
    """Noisy latents, with what a denoiser for editing or inpainting takes beside them.

    Raises
    ------
    UnsupportedModelError
        If it is not known what the further channels hold.
    """
    noisy, clean = asked.latents, asked.clean
    n, wanted = noisy.shape[1], in_channels(asked.config) // (4 if asked.form is PACKED else 1)
    if wanted in (n, 0):
        return noisy
    factor = asked.picture.shape[-1] // noisy.shape[-1]
    if wanted == 2 * n + factor**2:  # Flux Fill: the mask has one channel for each pixel of a position
        mask = torch.ones_like(noisy[:, :1]).expand(-1, factor**2, -1, -1)
        return torch.cat([noisy, torch.zeros_like(noisy), mask], 1)
    if wanted < n:
        raise UnknownInputError(
            f"{type(asked.tower).__name__} takes {wanted} channels, and the VAE gives {n}, so it is not the one that "
            "belongs to it"
        )
    if wanted == 2 * n:  # editing: the image itself, without noise
        return torch.cat([noisy, clean], 1)
    if wanted == 2 * n + 1:  # inpainting: everything is to be painted, nothing of the image is given
        if asked.form is IMAGE:
            return torch.cat([noisy, torch.ones_like(noisy[:, :1]), torch.zeros_like(noisy)], 1)
        return torch.cat([noisy, torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])], 1)
    raise UnknownInputError(
        f"{type(asked.tower).__name__} takes {in_channels(asked.config)} channels, and its VAE gives {n}: what the "
        "further ones hold is not known here"
    )
