"""Models whose attention can be captured: loading them, and one class for all that a capture needs to know.

``families.py`` holds the table of supported models. A new family is one line there, and one file if it needs special
treatment.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypedDict

import torch
from transformers import PreTrainedConfig

from .._compute.devices import resolve_device
from .._compute.settings import computing
from ..errors import SpectralToolkitError, UnsupportedModelError
from . import families, loading, timm
from .diffusion import families as denoisers
from .diffusion import loading as diffusion_loading
from .entries import Told
from .loading import bundled_models
from .model import LayerShape, Model
from .processing import Processing, settings_of

__all__ = ["SUPPORTED", "LayerShape", "Model", "Processing", "bundled_models", "load_model"]

SUPPORTED = tuple(family.describe() for family in (*families.FAMILIES, *denoisers.FAMILIES))
"""One line per supported family, from the table; the documentation prints them."""


class _Around(TypedDict):
    """Parts of a pipeline that a denoiser alone has not."""

    vae: object
    scheduler: object


@computing
def load_model(
    source: object,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    processor: object = None,
    vae: object = None,
    scheduler: object = None,
    trust_remote_code: bool = False,
    safetensors_only: bool = True,
    tower: str | None = None,
    call: Callable[[torch.nn.Module, torch.Tensor], object] | None = None,
    size: int | tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
    special_tokens: Sequence[str] | None = None,
) -> Model:
    """Make a model ready for ``capture``.

    A family of the table of supported models is known: how images enter, and where its tokens stand. Any other module
    is watched while it sees images: every call of attention counts, whether it is torch's own or written out, and where
    the patches stand among its tokens is proven by changing patches of an image and seeing which tokens move. What
    cannot be proven is refused, with what was seen; the last five parameters tell it.

    Parameters
    ----------
    source
        Name of a bundled model (``"scenes"``), a local folder in transformers' or diffusers' format, a name on the
        Hugging Face hub, ``"timm/..."`` or a folder of timm (where timm is installed), any live ``torch.nn.Module``, a
        live pipeline or denoiser of diffusers, or an existing ``Model``. The model may have a task head or be
        multimodal: its vision tower is found.
    device
        ``"auto"`` puts a loaded model on CUDA, otherwise MPS, otherwise the CPU, and leaves a live object where it is;
        any other value moves it.
    dtype
        Precision of the weights, such as ``"float32"`` or ``torch.float16``. None keeps that of the checkpoint or of
        the live object. A live object is itself converted, as by its own ``.to(dtype)``: give ``copy.deepcopy(model)``
        to keep it as it is.
    revision
        Branch, tag or commit on the hub.
    processor
        A transformers processor or image processor, or a dictionary of its settings. None takes the processor kept
        beside the model, or otherwise makes one from its configuration and the usual normalisation of its family; the
        provenance records which one was used.
    vae, scheduler
        Live objects of diffusers, for a denoiser without its pipeline, or in place of the pipeline's own.
    trust_remote_code
        Whether a hub model may run its own Python code. Off by default.
    safetensors_only
        Whether to refuse weights in formats that can run code when they are loaded.
    tower
        Name of the part that sees images, where there are several or none is found: ``"vision_tower_high"``.
    call
        Runs that part on normalised images: a function of the module and the values (image, channel, height, width).
    size
        Size of images (height, width), in pixels, by default and for the proof.
    grid
        Patches (rows, columns) at that size. Nothing is proven then: tokens are taken to be the special ones, and
        then patches row by row.
    special_tokens
        Names of the tokens that are not patches.

    Returns
    -------
    Model
        With ``name``, ``family``, ``layers`` in depth order, ``special_tokens``, ``device``, ``dtype``,
        ``processor`` and the live ``module``. A denoiser also has ``at``, which returns the same model at other
        timesteps, with another prompt or other noise.

    Raises
    ------
    ModelNotFoundError
        If the name is misspelt, gated or out of reach, or has no safetensors weights.
    UnsupportedModelError
        If no attention over patches is found in it; the message says what was seen.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    >>> model = load_model(ViTModel(config))
    >>> model.family, model.layers
    ('ViT', ('layers.0', 'layers.1'))
    """
    precision = _dtype(dtype)
    told = Told(tower, call, size, grid, special_tokens)
    around: _Around = {"vae": vae, "scheduler": scheduler}
    if not isinstance(device, (str, torch.device)):
        raise SpectralToolkitError(f"device={device!r} is not a device: use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'.")
    if isinstance(source, Model):
        model = source
        if processor is not None:
            model = copy.copy(source)  # shares the module; the model passed in keeps its settings
            model.processor = _given(source.processor, processor)
    elif isinstance(source, str) and source == "scenes-diffusion":
        from .diffusion.scenes import load_scenes_diffusion

        model = load_scenes_diffusion(loading.WEIGHTS / source, resolve_device(device), precision)
        model.training = loading.training_sentence(source)
        return model
    elif isinstance(source, (str, os.PathLike)):
        return _from_name(
            os.fspath(source), device, precision, revision, processor, trust_remote_code, safetensors_only, around, told
        )
    elif diffusion_loading.is_of_diffusers(source):
        processing = _as_made if processor is None else partial(_given, processor=processor)
        model = diffusion_loading.from_object(source, processing, revision=revision or "", told=told, **around)
        around = {"vae": None, "scheduler": None}
    elif isinstance(source, torch.nn.Module):
        model = _from_module(source, revision, processor, told)
    else:
        raise UnsupportedModelError(
            f"A model cannot be made from {type(source).__name__}: expected the name of a bundled or hub model, a "
            f"local folder, or a live torch module{_hint(source)}."
        )
    _check_around(around, model.family)
    model.move(None if device == "auto" else resolve_device(device), precision)
    return model


def _from_name(
    source: str,
    device: str | torch.device,
    dtype: torch.dtype | None,
    revision: str | None,
    processor: object,
    trust_remote_code: bool,
    safetensors_only: bool,
    around: _Around,
    told: Told,
) -> Model:
    target = resolve_device(device)
    place = loading.locate(source, revision)
    if place.library == "timm":
        _check_around(around, repr(source))
        module = timm.load(place.location, revision, safetensors_only).to(target, dtype)
        model = _from_module(module, revision, processor, told)
        model.name = _short(source)
        return model
    if place.library == "diffusers":
        return diffusion_loading.from_name(
            source,
            place.location,
            _as_made if processor is None else partial(_given, processor=processor),
            local=place.local,
            device=target,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            safetensors_only=safetensors_only,
            told=told,
            **around,
        )
    _check_around(around, repr(source))
    loaded = loading.fetch(
        place,
        revision=revision,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        safetensors_only=safetensors_only,
    )
    if processor is not None:
        processing = partial(_given, processor=processor)
    elif loaded.settings is not None:
        processing = partial(Processing.from_settings, loaded.settings, source="kept beside the model")
    else:
        processing = _as_made
    model = families.build(loaded.module, processing, told, name=_short(source), revision=loaded.revision)
    model.training = loading.training_sentence(source)
    model.unused_weights = _unused(model, source, loaded.missing)
    model.tower.to(target)
    model.module.eval()
    return model


def _short(source: str) -> str:
    """The name of a model: of a folder, its last part."""
    return source if "/" not in source or not os.path.isdir(source) else os.path.basename(os.path.abspath(source))


def _from_module(module: torch.nn.Module, revision: str | None, processor: object, told: Told) -> Model:
    # A compiled module wraps the module whose parts have names.
    module = getattr(module, "_orig_mod", module)
    origin = _noted(module, "_name_or_path")
    # Only files already on this machine: wrapping a live object must not wait for a network.
    beside = loading.read_settings(origin, local_files_only=True) if origin and processor is None else None
    if processor is not None:
        processing = partial(_given, processor=processor)
    elif beside is not None:
        processing = partial(Processing.from_settings, beside, source=f"kept beside {origin}")
    else:
        processing = _as_made
    commit = revision or _noted(module, "_commit_hash")
    return families.build(module, processing, told, name=origin or type(module).__name__, revision=commit)


def _noted(module: torch.nn.Module, what: str) -> str:
    """The outermost configuration around the tower; wrappers such as ``DataParallel`` have none."""
    found = families.find_tower(module)
    path = next(name for name, part in module.named_modules() if found is None or part is found[1])
    steps = path.split(".") if path else []
    around = (module.get_submodule(".".join(steps[:depth])) for depth in range(len(steps) + 1))
    return next((str(noted) for part in around if (noted := getattr(getattr(part, "config", None), what, None))), "")


def _as_made(defaults: Processing) -> Processing:
    return defaults


def _given(defaults: Processing, processor: object) -> Processing:
    return Processing.from_settings(settings_of(processor), defaults, "given by the caller")


def _unused(model: Model, source: str, missing: frozenset[str]) -> frozenset[str]:
    """Check the weights that the checkpoint lacks: a pooler or a mask token, which no layer sees, may be missing."""
    prefix = next((f"{name}." for name, part in model.module.named_modules() if part is model.tower and name), "")
    inside = {name.removeprefix(prefix) for name in missing if name.startswith(prefix)}
    needed = sorted(loading.needed(inside))
    if needed:
        raise loading.not_found(
            source,
            f"lacks {len(needed)} weights that its layers need, such as {needed[0]!r} (it would be random there)",
        )
    return frozenset(inside)


def _check_around(around: _Around, model: str) -> None:
    for name, given in around.items():
        if given is not None:
            raise SpectralToolkitError(
                f"{name}={type(given).__name__} belongs to a denoiser of diffusers, but {model} is not one, or already "
                "has it: leave it out."
            )


def _hint(source: object) -> str:
    """What to do with objects of transformers that are close to a model."""
    if isinstance(getattr(source, "model", None), torch.nn.Module):
        return "; pass its model, as in pipe.model"
    if isinstance(source, PreTrainedConfig):
        return "; a configuration has no weights, so make a model from it first, with AutoModel.from_config"
    if hasattr(source, "image_processor_type") or hasattr(source, "image_mean") or hasattr(source, "image_processor"):
        return "; a processor goes into processor=..., beside the model"
    return ""


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise SpectralToolkitError(
            f"dtype={dtype!r} is not a precision: use 'float32', 'float16', 'bfloat16', 'float64' or None."
        )
    return found
