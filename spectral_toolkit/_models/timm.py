"""Models of timm: recognised, and refused with a sentence.

timm 1.0 imports torchvision as soon as it is imported, but this toolkit does without it: beside the CPU build of torch
that its tests pin, torchvision breaks the import.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError


def refuse_module(module: Any) -> None:
    """Raise ``UnsupportedModelError`` for a live model of timm, including one in a transformers wrapper."""
    inside = getattr(module, "timm_model", module)
    if any(base.__module__.partition(".")[0] == "timm" for base in type(inside).__mro__):
        raise _refused(type(inside).__name__)


def refuse_folder(source: str, path: Path) -> None:
    """Raise ``UnsupportedModelError`` for a folder in the format of timm."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(config, dict) and "architecture" in config and "pretrained_cfg" in config:
        raise _refused(repr(source))


def refuse_name(source: str, library: str = "") -> None:
    """Raise ``UnsupportedModelError`` for a hub name under ``timm/``, or one that the hub attributes to timm."""
    if source.startswith("timm/") or library == "timm":
        raise _refused(repr(source))


def _refused(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{what} is a model of timm, which is not supported, as timm cannot be imported without torchvision: load the "
        "same architecture from transformers, such as 'google/vit-base-patch16-224' or 'facebook/dinov2-base'."
    )
