"""Every page that shows a bundled model says how it was trained, and no other page does."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import numpy as np
import pytest
from transformers import ViTConfig, ViTModel

import spectral_toolkit as st
from spectral_toolkit._models import bundled_models, loading


@pytest.mark.parametrize("name", bundled_models())
def test_a_bundled_model_says_how_it_was_trained(name: str) -> None:
    told = json.loads(loading.training_record(name).read_text())["in_a_sentence"]
    model = st.load_model(name, device="cpu")
    assert model.training == told != ""
    assert escape(told) in model._repr_html_()
    fresh, _ = model.untrained(seed=0)
    assert fresh.training == "", "other weights were not trained so"


def test_other_models_say_nothing() -> None:
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    model = st.load_model(ViTModel(config), device="cpu")
    assert model.training == ""
    activations = st.capture(model, np.zeros((32, 32, 3), np.uint8), progress=False)
    assert "training" not in activations.attrs


def test_pages_say_it(tmp_path: Path) -> None:
    model = st.load_model("scenes", device="cpu")
    activations = st.capture(model, st.scenes.sample(1, seed=0).pixels, progress=False)
    st.report(activations, path=tmp_path / "report.html", n_eigenvectors=2, progress=False)
    st.freeze(activations, path=tmp_path / "frozen.html", kinds=("vv",), n_eigenvectors=2, progress=False)
    study = {
        "models": "scenes",
        "pictures": {"made": {"scenes": 1}},
        "affinities": ["vv"],
        "n_eigenvectors": 2,
        "scores": False,
    }
    st.studies.run_study(study, tmp_path / "study.html", progress=False)
    for page in ("report", "frozen", "study"):
        assert model.training in (tmp_path / f"{page}.html").read_text(encoding="utf-8"), page
    assert json.loads((tmp_path / "study.json").read_text())["models"][0]["training"] == model.training
