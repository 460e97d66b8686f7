"""Fetches denoisers: a pipeline or a component of one, from a folder, the hub, or a live object; errors are sentences.

Only what a capture needs of a pipeline is loaded: denoiser, VAE, scheduler, text encoders and tokenizers.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, TypeGuard, TypeVar, cast

import torch

from ..._compute.warned import outside
from ...errors import ModelNotFoundError, SpectralToolkitError, UnsupportedModelError
from ..building import stored_shapes, try_out
from ..entries import Told
from ..folder_settings import check_settings, one_line, read_settings_file
from ..loading import Where, not_found, quiet
from ..processing import HALF, Processing
from ..untyped import Settings, config_of, untyped
from . import general
from .base import DiffusionModel, FurtherInputsError, PipelineParts
from .encoding import sees_pixels
from .families import DiffusionFamily, find_family, supported
from .forms import class_names
from .noising import check_scheduler
from .protocols import Autoencoder, Configured, Pipeline
from .refused import refuse_class, refuse_others

_NEEDED = (
    *("vae", "movq", "vqvae", "scheduler", "text_encoder", "tokenizer", "controlnet"),
    *("image_encoder", "image_processor", "processor", "connectors", "guider"),
)
"""Beginnings of the names of a pipeline's needed components, besides its denoiser."""


_TOWERS = ("unet", "transformer", "decoder")
"""Names that pipelines give to their denoiser."""
_ENCODERS = ("vae", "movq", "vqvae", "vqgan")
"""Names that pipelines give to what encodes images."""

T = TypeVar("T")


def is_of_diffusers(source: object) -> TypeGuard[Pipeline | torch.nn.Module]:
    """Whether a live object is a pipeline or a model of diffusers, perhaps compiled."""
    bases = type(getattr(source, "_orig_mod", source)).__mro__
    return any(base.__module__.partition(".")[0] == "diffusers" for base in bases)


class _Weights(TypedDict):
    """How diffusers loads weights."""

    torch_dtype: torch.dtype
    use_safetensors: bool | None
    low_cpu_mem_usage: bool


def from_object(
    source: Pipeline | torch.nn.Module,
    processing: Callable[[Processing], Processing],
    *,
    vae: object = None,
    scheduler: object = None,
    name: str = "",
    revision: str = "",
    told: Told | None = None,
) -> DiffusionModel:
    """Wrap a live pipeline, or a denoiser with the VAE and the scheduler that belong to it."""
    told = told or Told()
    _check_installed("A model of diffusers")
    # A pipeline is not a module.
    if isinstance(source, torch.nn.Module):
        pipeline, tower = None, _uncompiled(source)
    else:
        pipeline = source
        given = [getattr(pipeline, component, None) for component in _TOWERS]
        tower = next((_uncompiled(module) for module in given if module is not None), None)
    label = name or _origin(pipeline, tower) or type(source).__name__
    if tower is None:
        raise unsupported(type(source).__name__)
    refuse_others(tower, label)
    family = find_family(class_names(tower), config_of(tower))
    alone = vae is None and sees_pixels(config_of(tower), pipeline)
    encoder = None if alone else cast("Autoencoder", _part("vae", vae, pipeline, label))
    noising = cast("Configured", _part("scheduler", scheduler, pipeline, label))
    check_scheduler(noising)
    own = Processing(HALF, HALF, resample="lanczos", source="of diffusers: -1 to 1, by the Lanczos filter")
    shown = processing(own)
    if told.size is not None:
        height, width = (told.size, told.size) if isinstance(told.size, int) else told.size
        shown = replace(shown, size=(int(height), int(width)))
    about: PipelineParts = {
        "name": label,
        "processor": shown,
        "revision": revision,
        "module": tower,
        "tower": tower,
        "pipeline": pipeline,
        "vae": _uncompiled(encoder),
        "scheduler": noising,
    }
    shows_more = getattr(pipeline, "controlnet", None) is not None or "Kontext" in type(pipeline).__name__
    overridden = replace(told, size=None).overrides or shows_more
    model = None if overridden else _of_family(family, about)
    if model is None:
        model = general.make(told, **about)
    if not model.reads_prompts and model.takes_text:
        warnings.warn(
            f"{label} came without tokenizer or text encoder: it gets zeros instead of a prompt. Load the whole "
            "pipeline if that is not what you want.",
            UserWarning,
            stacklevel=outside(),
        )
    elif model.missing_encoders:
        warnings.warn(
            f"{label} came without {' and '.join(model.missing_encoders)}: zeros stand for their encoding of a prompt.",
            UserWarning,
            stacklevel=outside(),
        )
    return model


def from_name(
    source: str,
    location: str,
    processing: Callable[[Processing], Processing],
    *,
    local: bool,
    device: torch.device,
    dtype: torch.dtype | None,
    revision: str | None,
    trust_remote_code: bool,
    safetensors_only: bool,
    vae: object = None,
    scheduler: object = None,
    told: Told | None = None,
) -> DiffusionModel:
    """Load the pipeline or component from a folder, or by its name on the hub."""
    _check_installed(f"The model {source!r}")
    common: Where = {"revision": revision, "local_files_only": local}
    weights: _Weights = {
        "torch_dtype": dtype or torch.float32,
        "use_safetensors": True if safetensors_only else None,
        "low_cpu_mem_usage": True,
    }
    with quiet(), warnings.catch_warnings(), _explained(source):
        # Newer versions call it dtype; older versions do not know that name.
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        folder = Path(location)
        if not folder.is_dir():
            folder = _download(location, dtype, weights["use_safetensors"], trust_remote_code, common)
        commit = folder.name if folder.parent.name == "snapshots" else revision or ""
        _check_files(source, folder)
        index = _json(folder / "model_index.json")
        loaded: Pipeline | torch.nn.Module
        if index:
            loaded = _load_pipeline(source, folder, index, dtype, weights, trust_remote_code, safetensors_only)
        else:
            loaded = _load_component(source, folder, weights, safetensors_only)
    name = os.path.basename(os.path.abspath(source)) if os.path.isdir(source) else source
    model = from_object(loaded, processing, vae=vae, scheduler=scheduler, name=name, revision=commit, told=told)
    model.move(device)
    for part in model.parts:
        part.eval()
    return model


def _of_family(family: DiffusionFamily | None, about: PipelineParts) -> DiffusionModel | None:
    """A denoiser of a known family; None where it takes more than that family knows of."""
    if family is None:
        return None
    try:
        return family.model(family=family.label, **about)
    except FurtherInputsError:
        return None


def unsupported(name: str) -> UnsupportedModelError:
    """The error for a model of diffusers that is not in the table."""
    return UnsupportedModelError(
        f"{name} is not a supported model: queries, keys and values can be captured, {supported()}."
    )


def _check_installed(what: str) -> None:
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise UnsupportedModelError(
            f"{what} needs diffusers, which is not installed: pip install 'spectral-toolkit[diffusers]'."
        ) from error


def _download(
    name: str, dtype: torch.dtype | None, use_safetensors: bool | None, trust_remote_code: bool, common: Where
) -> Path:
    """Fetch the needed files of a repository; return the snapshot folder.

    Files of half precision have names of their own: they are fetched where half precision is asked for, or where a
    repository has no others.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from huggingface_hub import snapshot_download

    try:
        index = untyped(DiffusionPipeline).load_config(name, **common)
    except OSError:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors*", "*.bin*"], **common))
    _tower_of(name, index)
    options = {"use_safetensors": use_safetensors, "trust_remote_code": trust_remote_code, **_unneeded(index), **common}
    order = ("fp16", None) if dtype == torch.float16 else (None, "fp16")
    refused: list[Exception] = []
    for variant in order:
        try:
            return Path(DiffusionPipeline.download(name, variant=variant, **options))
        except (OSError, ValueError) as error:  # no files of these names
            refused.append(error)
    raise refused[order.index(None)]


def _load_pipeline(
    source: str,
    folder: Path,
    index: dict[str, object],
    dtype: torch.dtype | None,
    weights: _Weights,
    trust_remote_code: bool,
    safetensors_only: bool,
) -> Pipeline:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    component, class_name = _tower_of(source, index)
    config = _json(folder / component / "config.json")
    _check_known(source, class_name, config)
    needed = [name for name in index if name == component or name.startswith(_NEEDED)]
    for name in needed:
        entry = index[name]
        if isinstance(entry, list) and (name == component or name.startswith("vae")):
            _try_out(source, folder / name, str(entry[1]))
    if safetensors_only:
        for name in needed:
            _check_safe(source, folder / name)
    # Some repositories hold half-precision files, alone or beside the others, under separate names.
    half = [path for name in needed for path in (folder / name).glob("*.fp16*.safetensors")]
    plain = [path for path in (folder / component).glob("*.safetensors") if ".fp16" not in path.name]
    variant = {"variant": "fp16"} if half and (dtype == torch.float16 or not plain) else {}
    return untyped(DiffusionPipeline).from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        **_unneeded(index),
        **weights,
        **variant,
    )


def _load_component(source: str, folder: Path, weights: _Weights, safetensors_only: bool) -> torch.nn.Module:
    from diffusers.models.auto_model import AutoModel

    config = _json(folder / "config.json")
    class_name = str(config.get("_class_name"))
    _check_known(source, class_name, config)
    if safetensors_only:
        _check_safe(source, folder)
    _try_out(source, folder, class_name)
    return untyped(AutoModel).from_pretrained(str(folder), local_files_only=True, **weights)


def _check_known(source: str, class_name: str, config: Settings) -> None:
    """Refuse what is not a denoiser of diffusers before anything of it is loaded."""
    import diffusers

    if find_family([class_name], config) is None and not hasattr(diffusers, class_name):
        raise unsupported(f"{source!r} ({class_name})")
    refuse_class(class_name, repr(source))


def _check_files(source: str, folder: Path) -> None:
    """Check every file of settings that is read below, except those of tokenizers."""
    for path in [
        folder / "model_index.json",
        *sorted(folder.glob("*.index.json")),
        *sorted(folder.glob("*/*.index.json")),
    ]:
        if path.is_file():
            read_settings_file(source, path)
    found = [
        folder / "config.json",
        *sorted(folder.glob("*/config.json")),
        *sorted(folder.glob("*/scheduler_config.json")),
    ]
    for path in found:
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            check_settings(source, path, name=name, plain=not name.startswith("text_encoder"))


def _try_out(source: str, folder: Path, class_name: str) -> None:
    """First build a component without numbers; classes from elsewhere are left to diffusers."""
    import diffusers

    config = _json(folder / "config.json")
    family = find_family([class_name], config)
    made_of = getattr(diffusers, class_name if family is None else family.tower, None)
    if made_of is not None and config:
        name = "config.json" if (folder / "model_index.json").is_file() else f"{folder.name}/config.json"
        try_out(source, lambda: made_of.from_config(config), stored_shapes(source, folder), name)


def _tower_of(source: str, index: dict[str, object]) -> tuple[str, str]:
    """The name of the denoiser in a pipeline, and its class."""
    for component in _TOWERS:
        entry = index.get(component)
        if isinstance(entry, list | tuple) and len(entry) == 2 and entry[1]:
            return component, str(entry[1])
    raise unsupported(f"{source!r} ({index.get('_class_name')})")


def _unneeded(index: dict[str, object]) -> dict[str, object]:
    """Components that are not loaded, such as a safety checker."""
    components = [name for name, entry in index.items() if isinstance(entry, list | tuple)]
    left: dict[str, object] = {
        name: None for name in components if name not in _TOWERS and not name.startswith(_NEEDED)
    }
    return {**left, "requires_safety_checker": False} if "safety_checker" in left else left


def _check_safe(source: str, folder: Path) -> None:
    kinds = {path.suffix for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".ckpt")}
    if kinds and ".safetensors" not in kinds:
        raise ModelNotFoundError(
            f"The model {source!r} has no safetensors weights ({folder.name}): other formats can run code when they "
            "are loaded, so pass safetensors_only=False only if you trust it, or convert it."
        )


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn errors of the libraries into sentences."""
    try:
        yield
    except SpectralToolkitError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"The model {source!r} runs code of its own: read it, and pass trust_remote_code=True if you trust it."
            ) from error
        # diffusers raises many kinds of errors for files that are missing, damaged or from another model.
        raise not_found(source, f"cannot be loaded by diffusers ({one_line(error)})") from error


def _part(what: str, given: object, pipeline: Pipeline | None, label: str) -> object:
    """The VAE or the scheduler that was given, or the pipeline's own."""
    names = _ENCODERS if what == "vae" else (what,)
    own = (getattr(pipeline, name, None) for name in names)
    found = given if given is not None else next((one for one in own if one is not None), None)
    if found is None:
        raise UnsupportedModelError(
            f"{label} came without a {'VAE' if what == 'vae' else what}, and images cannot be shown to it without one: "
            "load the whole pipeline, or give the one it was trained with, as in load_model(unet, vae=vae, "
            "scheduler=scheduler)."
        )
    if isinstance(found, str | os.PathLike) or not hasattr(found, "config"):
        raise SpectralToolkitError(
            f"{what}={found!r} is not a live object of diffusers: load it first, with AutoencoderKL.from_pretrained or "
            "DDPMScheduler.from_pretrained and the like."
        )
    return found


def _uncompiled(module: T) -> T:
    return getattr(module, "_orig_mod", module)


def _origin(pipeline: object, tower: object) -> str:
    for part in (pipeline, tower):
        origin = getattr(getattr(part, "config", None), "_name_or_path", "")
        if origin:
            return str(origin)
    return ""


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
