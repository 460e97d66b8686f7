"""The still image of an explorer in a cell's output: what it shows, when it follows, and how small it is."""

from __future__ import annotations

import base64
import io
import sys
from types import SimpleNamespace
from typing import Any

import IPython.core.getipython
import IPython.display
import numpy as np
import pytest
from explorer_fixtures import capture_of
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._views.still_picture import MOST, small_png


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What is displayed by a cell that runs, with its settings."""
    header = {"msg_type": "execute_request", "session": "page", "msg_id": "1"}
    shell = SimpleNamespace(parent_header={"header": header, "metadata": {}})
    made: list[tuple[dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(IPython.display, "publish_display_data", lambda data, **more: made.append((data, more)))
    return made


def _pixels(data: dict[str, str]) -> np.ndarray:
    png = base64.b64decode(data["image/png"])
    assert f"base64,{data['image/png']}" in data["text/html"]
    assert len(png) <= MOST
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_picture_is_shown_before_the_widget_and_follows_the_view(
    published: list[tuple[dict[str, str], dict[str, Any]]],
) -> None:
    explorer = st.Explorer(capture_of(1), synchronous=True)
    explorer.set(component=2)
    assert published == [], "it was not displayed yet"
    bundle: Any = explorer._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
    (first, how), seen = published[0], []
    assert not how["update"]
    name = how["transient"]["display_id"]
    assert f'class="{name}-still"' in first["text/html"]
    assert f".{name}-still {{ display: none; }}" in explorer._style.value, "a page that has the widget hides it"
    for changes in ({"component": 1}, {"view": "rgb"}, {"view": "spectrum"}, {"view": "layers"}, {"patch": (0, 0)}):
        explorer.set(**changes)
        data, how = published[-1]
        assert how == {"transient": {"display_id": name}, "update": True}
        seen.append(_pixels(data))
        assert seen[-1].std() > 5, changes
    assert len({one.tobytes() for one in [_pixels(first), *seen]}) == 6
    explorer.close()


def test_a_picture_is_small_whatever_is_in_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    png = small_png(Image.fromarray(noise))
    assert 10_000 < len(png) <= MOST
    flat = Image.new("RGB", (900, 800), "white")
    assert Image.open(io.BytesIO(small_png(flat))).size == flat.size, "nothing is lost where nothing must be"
