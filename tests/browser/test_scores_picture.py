"""The heat maps of the published scores, as pictures."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser


def test_a_heat_map_is_drawn_and_carries_its_numbers(
    repository: Path, tmp_path: Path, chromium_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(repository / "docs"), *sys.path])
    pages: Any = importlib.import_module("score_pages")
    values = {score: [0.9, 0.8, 1.0] for score in pages.SHOWN}
    entry: Any = {"full": {"roles": {"block.0": "layer", "joint": "joint"}, "scores": {}}}
    for kind in pages.KINDS:
        entry["full"]["scores"][kind] = {"block.0": values, "joint": {**values, "what": [None] * 3}}
    pages.draw(entry, tmp_path / "images" / "scores.png")
    with Image.open(tmp_path / "images" / "scores.png") as picture:
        assert picture.info["scores_sha256"] == pages.numbers_sha256(entry)
        colours = np.asarray(picture.convert("RGB"))
    assert 100 < colours.shape[0] < 400 < colours.shape[1] < 1280
    red = (colours[..., 0] > 100) & (colours[..., 1] < 60) & (colours[..., 2] < 60)
    assert red.mean() > 0.1  # cells of 0.9
    assert (colours[:5] == 255).all()  # a margin, and no toolbar in it
    assert (tmp_path / "images" / "scores.png").stat().st_size < 100_000
