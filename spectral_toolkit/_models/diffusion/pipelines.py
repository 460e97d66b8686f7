"""Lets a pipeline prepare a call of its denoiser: the pipeline's own code runs until it calls the denoiser.

It reads the prompt, encodes further images, packs latents and makes positions as it does when it generates. A scheduler
that knows one timestep, and noise that holds the given latents, take the place of its own meanwhile; the pipeline
itself is not changed, as all of it happens in a shallow copy.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..._compute.torch_calls import TorchCalls
from ...errors import UnsupportedModelError
from ..watching import unwatched
from .base import DiffusionModel
from .forms import Shown
from .noising import steps_of, told_time
from .protocols import Configured, Inputs, Pipeline

_SIMPLE = (str, int, float, bool, type(None), torch.device, torch.dtype)


class _CalledError(BaseException):
    """Ends a pipeline where it calls its denoiser; not an Exception, so that nothing takes it for an error."""

    def __init__(self, args: tuple[object, ...], kwargs: Inputs) -> None:
        super().__init__()
        self.given, self.named = args, kwargs


@dataclass
class ByPipeline:
    """Called as the pipeline calls it."""

    component: str
    text: str = "the pipeline's text encoders"
    _encoded: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def forget(self) -> None:
        """Encode the prompt anew, as after a move."""
        self._encoded.clear()

    def prepare(self, model: DiffusionModel, shown: Shown) -> Callable[[torch.nn.Module], object]:
        args, kwargs = self.arguments(model, shown)
        first = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None)
        if first is not None and first.shape[0] != 1:
            raise UnsupportedModelError(
                f"{type(model.pipeline).__name__} shows {first.shape[0]} images at once to its denoiser, as guidance "
                "cannot be switched off in it: load the denoiser alone, with its VAE and scheduler"
            )
        dtype = shown.noisy.dtype
        cast = [_cast(one, dtype) for one in args]
        named = {name: _cast(one, dtype) for name, one in kwargs.items()}
        return lambda tower: tower(*cast, **named)

    def arguments(self, model: DiffusionModel, shown: Shown) -> tuple[tuple[object, ...], Inputs]:
        """What the pipeline gives its denoiser for these latents."""
        assert model.pipeline is not None
        pipeline = copy.copy(model.pipeline)
        parts = vars(pipeline)
        parts["scheduler"] = _at_one_timestep(model.scheduler, shown.timestep)
        if hasattr(model.pipeline, "encode_prompt"):
            parts["encode_prompt"] = self._remembered(model.pipeline)
        if model.vae is not None and getattr(pipeline, "vae", None) is not None:
            parts["vae"] = model.vae
        # Not the pipeline's own where the model has another one, such as untrained weights.
        tower = parts[self.component] = model.tower

        def stop(_: object, args: tuple[object, ...], kwargs: Inputs) -> None:
            raise _CalledError(args, kwargs)

        handle = tower.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            pipeline.set_progress_bar_config(disable=True)
            with unwatched(), _GivenNoise(shown.noisy):
                pipeline(**_settings(type(pipeline), model, shown))
        except _CalledError as call:
            return call.given, call.named
        finally:
            handle.remove()
        raise UnsupportedModelError(f"{type(model.pipeline).__name__} did not call its denoiser")

    def _remembered(self, pipeline: Pipeline) -> Callable[..., object]:
        """The encoding of a prompt, kept where it depends on nothing but texts and numbers."""
        own = pipeline.encode_prompt

        def encode_prompt(*args: object, **kwargs: object) -> object:
            simple = all(_is_simple(one) for one in (*args, *kwargs.values()))
            key = repr((args, sorted(kwargs.items(), key=lambda item: item[0]))) if simple else None
            if key is None:
                return own(*args, **kwargs)
            if key not in self._encoded:
                self._encoded.clear()
                self._encoded[key] = own(*args, **kwargs)
            return self._encoded[key]

        return encode_prompt


def _is_simple(value: object) -> bool:
    return all(map(_is_simple, value)) if isinstance(value, (list, tuple)) else isinstance(value, _SIMPLE)


def _cast(values: object, dtype: torch.dtype) -> object:
    """Double precision where a proof asks for it; everything else as the pipeline gave it."""
    if dtype != torch.float64:
        return values
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: _cast(one, dtype) for name, one in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_cast(one, dtype) for one in values)
    return values


def component_of(pipeline: Pipeline | None, tower: torch.nn.Module) -> str | None:
    """The name of the denoiser in a pipeline that can prepare its call; None where that is not possible.

    A pipeline without some of its text encoders cannot, and one that reads neither a prompt nor an image need not.
    """
    if pipeline is None:
        return None
    parts = dict(getattr(pipeline, "components", {}))
    readers = [part for name, part in parts.items() if name.startswith(("text_encoder", "tokenizer"))]
    asked = set(inspect.signature(type(pipeline).__call__).parameters)
    if any(part is None for part in readers) or not asked & {"prompt", "image", "hint"}:
        return None
    return next((name for name, part in parts.items() if getattr(part, "_orig_mod", part) is tower), None)


# --- what a pipeline is asked ----------------------------------------------------------------------------------------

_ALWAYS: Inputs = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "true_cfg_scale": 1.0,
    "strength": 1.0,
    "num_frames": 1,
    "output_type": "latent",
    "use_resolution_binning": False,
    "enable_prompt_rewriting": False,
    "clean_caption": False,
    "_auto_resize": False,
}
_IMAGES = ("image", "control_image", "conditioning_image", "image_list", "images")
_PICTURES = ("mask_image", "control_mask")


def _settings(kind: type[Pipeline], model: DiffusionModel, shown: Shown) -> Inputs:
    """The arguments of a pipeline: one step without guidance, of the size of the image."""
    height, width = shown.picture.shape[-2:]
    bytes_ = ((shown.picture[0].permute(1, 2, 0).float().cpu().numpy() + 1) * 127.5).clip(0, 255).round()
    image = Image.fromarray(bytes_.astype(np.uint8))
    # Everything is to be painted, so that a model for inpainting sees nothing of the image but what noise leaves.
    known: Inputs = {
        **_ALWAYS,
        "prompt": model.prompt,
        "height": height,
        "width": width,
        "generator": torch.Generator().manual_seed(0),
        **dict.fromkeys(_IMAGES, image),
        **dict.fromkeys(_PICTURES, Image.new("L", image.size, 255)),
        "max_area": height * width,
        "hint": (shown.picture + 1) / 2,
    }
    width_of_images = model.config.get("encoder_hid_dim") or model.config.get("cross_attention_dim")
    if isinstance(width_of_images, int):
        none = torch.zeros(1, width_of_images, dtype=model.dtype, device=model.device)
        known |= {"image_embeds": none, "negative_image_embeds": none}
    settings: Inputs = {}
    unknown = []
    for name, parameter in inspect.signature(kind.__call__).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        optional = name in ("image_embeds", "negative_image_embeds") and parameter.default is not parameter.empty
        if name in known and not optional:
            settings[name] = known[name]
        elif parameter.default is parameter.empty:
            unknown.append(name)
    if unknown:
        raise UnsupportedModelError(f"{kind.__name__} asks for {', '.join(unknown)}, whose content is not known here")
    return settings


class _Scheduler(Protocol):
    """What a scheduler keeps of the steps that it was given."""

    timesteps: torch.Tensor
    num_inference_steps: int
    sigmas: torch.Tensor


def _at_one_timestep(scheduler: Configured, timestep: int) -> Configured:
    """A copy of a scheduler that has one timestep, and leaves latents as they are."""
    other = copy.copy(scheduler)
    dtype = getattr(getattr(scheduler, "timesteps", None), "dtype", torch.float32)
    told = torch.tensor([told_time(scheduler, timestep)])
    share = timestep / steps_of(scheduler)

    def set_timesteps(
        self: _Scheduler,
        num_inference_steps: object = None,
        device: torch.device | str | None = None,
        timesteps: object = None,
        sigmas: object = None,
        mu: object = None,
        **_: object,
    ) -> None:
        self.timesteps = told.to(device, dtype)
        self.num_inference_steps = 1
        self.sigmas = torch.tensor([share, 0.0], device=device)

    changes = {
        "set_timesteps": set_timesteps,
        "scale_model_input": lambda self, sample, *args, **kwargs: sample,
        "add_noise": lambda self, original_samples, noise, timesteps: noise,
        "scale_noise": lambda self, sample, timestep, noise=None: noise,
        "init_noise_sigma": 1.0,
    }
    other.__class__ = type(type(scheduler).__name__, (type(scheduler),), changes)
    return other


class _GivenNoise(TorchCalls):
    """Gives latents where a pipeline draws noise of their shape, and zeros where a VAE draws from its Gaussian."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents

    def call(self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        out = func(*args, **kwargs)
        if func not in (torch.randn, torch.randn_like) or not isinstance(out, Tensor):
            return out
        if out.numel() != self.latents.numel():
            return out
        if _drawn_by_vae():
            return torch.zeros_like(out)
        shape = [side for side in out.shape if side != 1]
        given = self.latents.squeeze()
        if list(given.shape) == shape:
            return given.reshape(out.shape).to(out)
        if given.dim() == 3 and list(given.permute(1, 2, 0).shape) == shape:
            return given.permute(1, 2, 0).reshape(out.shape).to(out)
        return out


def _drawn_by_vae() -> bool:
    frame = sys._getframe(3)  # beyond this function, `call` and what calls it
    for _ in range(6):
        if frame.f_code.co_name == "sample" and "autoencoders" in frame.f_code.co_filename:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
