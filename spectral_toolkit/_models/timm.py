"""Models of timm by name or from a folder, where timm is installed; a live one is a module like any other.

timm is never imported otherwise. It imports torchvision, with which this toolkit does without.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from ..errors import ModelNotFoundError, UnsupportedModelError, first_line
from .untyped import untyped


def load(name: str, revision: str | None, safetensors_only: bool) -> torch.nn.Module:
    """Load a model with timm.

    Raises
    ------
    UnsupportedModelError
        If timm is not installed, or cannot be imported.
    ModelNotFoundError
        If timm does not find the model, or its weights are in a format that can run code.
    """
    try:
        timm = untyped(importlib.import_module("timm"))
    except Exception as error:  # torchvision raises whatever its compiled part raises
        raise UnsupportedModelError(
            f"{name!r} is a model of timm, which cannot be imported ({first_line(error)}): install it with pip install "
            "'spectral-toolkit[timm]', or pass a live model."
        ) from error
    folder = Path(name)
    local = folder.is_dir()
    if local and safetensors_only and not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"The model {name!r} has no safetensors weights: other formats can run code when they are loaded, so pass "
            "safetensors_only=False only if you trust it, or convert it."
        )
    where = f"local-dir:{folder}" if local else f"hf-hub:{name}{f'@{revision}' if revision else ''}"
    try:
        return timm.create_model(where, pretrained=True).eval()
    except Exception as error:  # of the hub's client, of safetensors, or of the model's own code
        raise ModelNotFoundError(
            f"The model {name!r} cannot be loaded by timm ({first_line(error)}): check its name, or give a folder with "
            "config.json and model.safetensors."
        ) from error
