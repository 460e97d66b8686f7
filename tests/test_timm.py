"""Models of timm are refused with one sentence, by name, by folder and live; timm itself is not needed for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import spectral_toolkit as st
from spectral_toolkit.errors import UnsupportedModelError

SENTENCE = "is a model of timm, which is not supported, .* without torchvision: load the same architecture"


def test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit._models import loading

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(loading.HfApi, "model_info", fail)
    with pytest.raises(UnsupportedModelError, match=SENTENCE):
        st.load_model("timm/vit_base_patch16_224.augreg_in21k")

    class Info:
        library_name = "timm"
        siblings = ()

    monkeypatch.setattr(loading.HfApi, "model_info", lambda *args, **kwargs: Info())
    with pytest.raises(UnsupportedModelError, match=f"'someone/else' {SENTENCE}"):
        st.load_model("someone/else")


def test_by_folder(tmp_path: Path) -> None:
    config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=SENTENCE):
        st.load_model(tmp_path)


def test_live() -> None:
    theirs = type("VisionTransformer", (torch.nn.Module,), {"__module__": "timm.models.vision_transformer"})
    inside = torch.nn.Module()
    inside.timm_model = theirs()
    for module in (theirs(), inside):
        with pytest.raises(UnsupportedModelError, match=f"VisionTransformer {SENTENCE}"):
            st.load_model(module)


def test_other_modules_are_not_taken_for_it() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear is not a supported model"):
        st.load_model(torch.nn.Linear(1, 1))
