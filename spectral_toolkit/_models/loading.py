"""Fetches transformers models from a folder or the hub, and turns every failure into a sentence."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack, cast

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging as progress
from transformers.utils.hub import cached_file

from .._io.outputs import local_path
from ..errors import ModelNotFoundError, UnsupportedModelError, first_line
from . import families
from .building import Shapes, stored_shapes, try_out
from .calling import named_for_images
from .folder_settings import check_settings, one_line, read_settings_file, unreadable
from .untyped import untyped

WEIGHTS = Path(__file__).parent.parent / "scenes" / "weights"
"""The folder of the models that come with the package; each is an ordinary transformers folder."""

_IDLE = re.compile(r"^(pooler|head)\.|(^|\.)mask_token$")
_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class ModelSource:
    """The place of a model called ``source``, whether only this machine is searched, and the library that reads it."""

    source: str
    location: str
    local: bool
    library: str = "transformers"


@dataclass(frozen=True)
class Loaded:
    """A model fetched from disk or the hub, with what came beside it."""

    module: torch.nn.Module
    settings: dict[str, object] | None
    revision: str
    missing: frozenset[str]


def bundled_models() -> tuple[str, ...]:
    """Names of the models that come with the package.

    Examples
    --------
    >>> isinstance(bundled_models(), tuple)
    True
    """
    # The first file belongs to transformers' format, the second to that of diffusers.
    return tuple(
        sorted(path.parent.name for name in ("config", "model_index") for path in WEIGHTS.glob(f"*/{name}.json"))
    )


def training_record(name: str) -> Path:
    """The file beside a bundled model that records how it was trained."""
    return WEIGHTS / name / "training.json"


def training_sentence(name: str) -> str:
    """How a bundled model was trained, in one sentence; an empty string for other models."""
    record = training_record(name)
    if name not in bundled_models() or not record.exists():
        return ""
    return str(json.loads(record.read_text(encoding="utf-8"))["in_a_sentence"])


def not_found(name: str, why: str) -> ModelNotFoundError:
    """The error for a model that cannot be loaded, with three remedies."""
    bundled = ", ".join(repr(model) for model in bundled_models()) or "none in this installation"
    return ModelNotFoundError(
        f"The model {name!r} {why}; three remedies: give a local folder (config.json and model.safetensors), use a "
        f"bundled model ({bundled}), or log in with `hf auth login` if the model is gated or private."
    )


class Where(TypedDict):
    """Of which revision, and from where, files are taken."""

    revision: NotRequired[str | None]
    local_files_only: bool


class _Info(TypedDict):
    """What transformers says of the weights that it read."""

    missing_keys: NotRequired[list[str]]


class _Asked(Where):
    """The same, and whether code that comes with a model may run."""

    trust_remote_code: bool


def fetch(
    place: ModelSource,
    *,
    revision: str | None,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    safetensors_only: bool,
) -> Loaded:
    """Load the transformers model from its place."""
    source, location, local = place.source, place.location, place.local
    common: _Asked = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local}
    with quiet(), bars(shown=not local):
        config = _fetch_config(source, location, common)
        weights = _weights_here(source, Path(location)) if local else None
        if not trust_remote_code and not (families.config_sees_images(config) or _takes_images(config)):
            architecture = next(iter(getattr(config, "architectures", None) or []), type(config).__name__)
            raise UnsupportedModelError(
                f"The model {source!r} ({architecture}) sees no images: its configuration names no size of images or "
                "patches, and no vision part. Give a model with one."
            )
        if not (
            trust_remote_code and getattr(config, "auto_map", None)
        ):  # a model with code of its own may not support it
            try_out(source, lambda: _class_of(config)(copy.deepcopy(config)), weights, "config.json")
        module, info = _fetch_weights(source, location, config, dtype, safetensors_only, common)
        settings = read_settings(location, source, revision=revision, local_files_only=local)
        commit = _commit(location, common) or revision or ""
    return Loaded(module, settings, commit, frozenset(info.get("missing_keys", ())))


def read_settings(location: str, source: str | None = None, **options: Unpack[Where]) -> dict[str, object] | None:
    """The image settings kept beside a model, or None where there are none."""
    path = _file(location, "preprocessor_config.json", options)
    if path is not None:
        read_settings_file(source or location, path)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(location, **options)
    except (OSError, ValueError):
        return None
    except Exception as error:  # such as a processor_config.json that is a list
        raise unreadable(source or location, f"has image settings that are not readable ({one_line(error)})") from error
    return settings


def _file(location: str, name: str, options: Where) -> Path | None:
    """A file from a folder, or from the hub's cache if it is there or can be fetched."""
    try:
        found = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **options)
    except (OSError, ValueError):  # there is no such model, or it cannot be reached: reported when it is loaded
        return None
    return None if found is None else Path(found)


def _commit(location: str, options: Where) -> str:
    """The commit of a model from the hub, as its cache records it; newer versions of transformers do not tell."""
    path = _file(location, "config.json", options)
    return path.parent.name if path is not None and path.parent.parent.name == "snapshots" else ""


def _weights_here(source: str, folder: Path) -> Shapes | None:
    """Shapes of the weights that transformers will read from a folder."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.is_file():
        return stored_shapes(source, folder)
    return stored_shapes(source, folder, read_settings_file(source, index))


def locate(source: str, revision: str | None) -> ModelSource:
    """Look for a bundled model, a local folder or a hub name, in this order."""
    if source in bundled_models():
        return ModelSource(source, str(WEIGHTS / source), True)
    if not source.strip():
        raise not_found(source, "has no name")
    path = local_path(source, "source", error=ModelNotFoundError)
    if path.is_dir():
        library = library_of(path)
        if library == "transformers" and not (path / "config.json").is_file():
            raise not_found(source, "is a folder without config.json")
        return ModelSource(source, str(path), True, library)
    if path.exists():
        raise not_found(source, "is a file; expected the folder that holds it, with config.json")
    if source.startswith("timm/"):  # timm asks the hub itself
        return ModelSource(source, source, False, "timm")
    return _probe(source, revision)


def library_of(path: Path) -> str:
    """The library in whose format a folder is: diffusers (a pipeline or a component), timm or transformers."""
    if (path / "model_index.json").is_file():
        return "diffusers"
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        return "transformers"
    of_timm = "architecture" in config and "pretrained_cfg" in config
    return "diffusers" if "_diffusers_version" in config else "timm" if of_timm else "transformers"


def _probe(source: str, revision: str | None) -> ModelSource:
    """Ask the hub once, so that being offline takes seconds and not half a minute; if it fails, search this machine."""
    cached, library = False, "transformers"
    try:
        found = [
            try_to_load_from_cache(source, name, revision=revision) for name in ("config.json", "model_index.json")
        ]
        cached = any(isinstance(path, str) for path in found)
        here = {library_of(Path(path).parent) for path in found if isinstance(path, str)} - {"transformers"}
        library = min(here, default=library)
        info = HfApi().model_info(source, revision=revision, timeout=_PROBE_SECONDS)
        files = {file.rfilename for file in getattr(info, "siblings", None) or ()}
        if (told := getattr(info, "library_name", None)) in ("diffusers", "timm"):
            library = told
        if "model_index.json" in files:
            library = "diffusers"
    except HFValidationError as error:
        raise not_found(source, "is neither a folder that exists nor a name the hub could have") from error
    except RevisionNotFoundError as error:
        raise not_found(source, f"has no revision {revision!r} on the hub") from error
    except GatedRepoError as error:  # caught before the next error, which is its base class
        raise not_found(source, "is gated, and this machine has not been granted access") from error
    except RepositoryNotFoundError as error:
        raise not_found(source, "does not exist on the hub, or is private") from error
    except Exception as error:
        # Connection errors come from whatever HTTP client the hub library uses.
        of_client = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
        if not (of_client or isinstance(error, (OfflineModeIsEnabled, HfHubHTTPError, OSError))):
            raise
        if not cached:
            raise not_found(source, "is not on this machine and the hub cannot be reached") from error
        return ModelSource(source, source, True, library)
    return ModelSource(source, source, False, library)


def _fetch_config(source: str, location: str, common: _Asked) -> PreTrainedConfig:
    where: Where = {"revision": common.get("revision"), "local_files_only": common["local_files_only"]}
    if (path := _file(location, "config.json", where)) is not None:
        check_settings(source, path, frozenset(family.model_type for family in families.FAMILIES))
    try:
        config = AutoConfig.from_pretrained(location, **common)
        config.return_dict = True  # it determines only the form of a model's output, and some models need it themselves
        return config
    except (OSError, GatedRepoError) as error:
        raise _explain(source, error) from error
    except (ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"The model {source!r} runs code of its own: read it, and pass trust_remote_code=True if you trust it."
            ) from error
        raise families.unsupported(
            repr(source), f"has a configuration that this version of transformers cannot read ({one_line(error)})"
        ) from error
    except Exception as error:  # a setting of an unexpected type may fail anywhere
        raise unreadable(source, f"has a config.json that transformers cannot use ({one_line(error)})") from error


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers for a configuration: that of `AutoModel`, or else the one that it names itself.

    Raises
    ------
    ValueError
        If the installed transformers has neither.
    """
    if type(config) in MODEL_MAPPING:
        found = MODEL_MAPPING[type(config)]
        return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)
    if (named := _named_class(config)) is not None:
        return named
    raise ValueError(f"transformers {transformers.__version__} has no model for a {type(config).__name__}")


def _named_class(config: object) -> type[PreTrainedModel] | None:
    """The class that a configuration says it was saved from; None where the installed transformers has none."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return None


def _takes_images(config: PreTrainedConfig) -> bool:
    """Whether the main input of a configuration's class is an image; some settings do not say so (timm's)."""
    try:
        return named_for_images(_class_of(config))
    except ValueError:
        return False


def _fetch_weights(
    source: str,
    location: str,
    config: PreTrainedConfig,
    dtype: torch.dtype | None,
    safetensors_only: bool,
    common: _Asked,
) -> tuple[torch.nn.Module, _Info]:
    remote = common["trust_remote_code"] and getattr(config, "auto_map", None)
    options = {
        "config": config,
        "dtype": "auto" if dtype is None else dtype,
        "use_safetensors": True if safetensors_only else None,
        "output_loading_info": True,
        **common,
    }
    try:
        module, info = untyped(AutoModel if remote else _class_of(config)).from_pretrained(location, **options)
        saved_from = _named_class(config)
        lacks = needed(info["missing_keys"])
        if lacks and not remote and saved_from is not None and saved_from is not type(module):
            # AutoModel's class does not find every weight that was saved under the name of a part (LightOnOCR), or only
            # once for several parts (UDOP).
            own, own_info = untyped(saved_from).from_pretrained(location, **options)
            if len(needed(own_info["missing_keys"])) < len(lacks):
                return own, own_info
        return module, info
    except OSError as error:
        if safetensors_only and "safetensors" in str(error):
            raise ModelNotFoundError(
                f"The model {source!r} has no safetensors weights: other formats can run code when they are loaded, "
                "so pass safetensors_only=False only if you trust it, or convert it."
            ) from error
        raise _explain(source, error) from error
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"The model {source!r} runs code of its own: read it, and pass trust_remote_code=True if you trust it."
            ) from error
        raise families.unsupported(f"{source!r} ({type(config).__name__})", "cannot be loaded") from error
    except (RuntimeError, TypeError) as error:
        raise not_found(source, f"has a config.json that does not fit its weights ({one_line(error)})") from error
    except SafetensorError as error:
        raise not_found(source, f"has damaged weights ({one_line(error)})") from error
    except Exception as error:  # missing packages that a configuration asks for, or settings of the wrong type
        raise unreadable(source, f"cannot be loaded ({one_line(error)})") from error


def needed(missing: Iterable[str]) -> list[str]:
    """Those of the missing weights that layers depend on: they do not on a pooler or a mask token."""
    return [name for name in missing if not _IDLE.search(name)]


def _explain(source: str, error: BaseException) -> ModelNotFoundError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return not_found(source, "is gated, and this machine has not been granted access")
        cause = cause.__cause__
    return not_found(source, f"cannot be loaded ({first_line(error)})")


@contextmanager
def bars(*, shown: bool) -> Iterator[None]:
    """Whether transformers shows a progress bar: local files load too quickly for one, and the bar would remain."""
    hide = not shown and progress.is_progress_bar_enabled()
    hub_too = hide and not are_progress_bars_disabled()  # transformers' switch also sets the hub's
    try:
        if hide:
            progress.disable_progress_bar()
        yield
    finally:
        if hide:
            progress.enable_progress_bar()
            if not hub_too:
                disable_progress_bars()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' output while loading: what matters is in the error that we raise."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "diffusers")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
