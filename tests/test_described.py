"""What an object of ours shows at the end of a cell: short, escaped, and nothing computed for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import KeepingComm, capture_of
from IPython.core.formatters import DisplayFormatter

import spectral_toolkit as st
from spectral_toolkit._io import images
from spectral_toolkit._io.reprs import Described
from spectral_toolkit._models.model import Model
from spectral_toolkit._views.widget import Explorer

HOSTILE = "<img src=x onerror=alert(1)>\n" + 200 * "a"


def made() -> dict[str, Callable[[], Any]]:
    acts = capture_of(images=2)
    return {
        "model": lambda: st.load_model("scenes"),
        "denoiser": lambda: st.load_model("scenes-diffusion"),
        "pictures": lambda: st.load_images(np.zeros((5, 4, 6, 3), dtype=np.uint8)),
        "graph": lambda: st.affinity(acts, "vv", device="cpu"),
        "dataset graph": lambda: st.affinity(acts, "vv", scope="dataset", kernel="shifted_cosine", device="cpu"),
        "explorer": lambda: Explorer(acts, device="cpu", synchronous=True),
    }


@pytest.mark.parametrize("name", ["model", "denoiser", "pictures", "graph", "dataset graph", "explorer"])
def test_reprs_are_short_and_useful(name: str, comms: type[KeepingComm]) -> None:
    thing = made()[name]()
    text, page = repr(thing), thing._repr_html_()
    assert len(text) <= 300, text
    assert "\n" not in text
    assert text.lstrip("<").startswith(type(thing).__name__)
    assert page.startswith("<div")
    assert page.count("<tr>") >= 2
    assert len(page) < 4000
    shown, _ = DisplayFormatter().format(thing)
    assert shown["text/plain"][:80] == text[:80], "ipywidgets cuts it"
    if name == "explorer":
        assert "application/vnd.jupyter.widget-view+json" in shown
        thing.close()
        assert repr(thing) == "<Explorer closed>"
    else:
        assert shown["text/html"] == page
    kind: Any = type(thing)
    bare = kind.__new__(kind)
    assert repr(bare).startswith(f"<{type(thing).__name__}")
    assert bare._repr_html_().startswith("<div")


def test_every_model_has_the_short_repr() -> None:
    kinds: list[type] = [Model]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len(kinds) > 10
    assert {kind.__repr__ for kind in kinds} == {Described.__repr__}


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    tree = capture_of(images=1)
    names = tree.to_dataset().assign_coords(image=[HOSTILE])
    layers = {
        name: node.to_dataset(inherit=False).drop_vars("image", errors="ignore") for name, node in tree.children.items()
    }
    tree = xr.DataTree.from_dict({"/": names, **layers})
    graph = st.affinity(tree, "vv", device="cpu")
    pictures = st.load_images(tree)
    bundle = st.load_bundle(st.save_bundle(tmp_path / "hostile.zip", tree))
    for thing in (graph, pictures, bundle):
        assert len(repr(thing)) <= 300
        assert "\n" not in repr(thing)
        assert "<img" not in thing._repr_html_()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_repr_reads_no_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    pictures = st.load_images(tmp_path / "a.png")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a picture was read")

    monkeypatch.setattr(images.Images, "__getitem__", never)
    monkeypatch.setattr(Image, "open", never)
    assert repr(pictures) == "<Images: 1 (a.png)>"
    assert "6x8" in pictures._repr_html_()
