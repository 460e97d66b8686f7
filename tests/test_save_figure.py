"""Figures for papers: every view as PDF, SVG and PNG, with the colours that it shows."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh  # options of elements need it
import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, eigenvectors
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._render.composite import blend, colour_field, symmetric_limit
from spectral_toolkit.errors import SpectralToolkitError, StoreError


def heat_map() -> Any:
    scores = {name: (("kind", "layer"), [[0.9, 0.8, 0.1]]) for name in ("where", "what")}
    return st.heat_map(xr.Dataset(scores, {"kind": ["qk"], "layer": ["a", "b", "joint"]}))


def one(**options: Any) -> Any:
    return st.overlay(activations(), eigenvectors(), image=0, **options)


VIEWS: dict[str, Any] = {
    "eigenvector": lambda: one(component=1),
    "grid": lambda: one(layout="grid"),
    "segments": lambda: st.overlay(activations(), st.segment(eigenvectors(), n_segments=2), image=0),
    "heat map": heat_map,
    "side by side": lambda: one(component=1) + one(component=2),
    "with points": lambda: one(component=1) * hv.Points([(0.25, 0.25)]).opts(size=9, color="red"),
    "curve": lambda: hv.Overlay(
        [hv.Curve([(0, 1), (1, 3)]).opts(line_dash="dashed", title="Curve"), hv.Text(0.5, 2, "here")]
    ),
}


@pytest.mark.parametrize("ending", [".pdf", ".svg", ".png"])
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_is_written_the_same_twice(name: str, ending: str, tmp_path: Path) -> None:
    view = VIEWS[name]()
    paths = [st.save_figure(view, tmp_path / f"{turn}{ending}", width=4, dpi=100) for turn in range(2)]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith({".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}[ending])


def test_colours_are_those_of_the_patches(tmp_path: Path) -> None:
    """At the middle of every patch, in the frame that the panel has."""
    tree, eig = activations(), eigenvectors()
    path = st.save_figure(
        st.overlay(tree, eig, image=0, component=1, opacity=0.6, width=400), tmp_path / "one.png", dpi=96
    )
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    field = eig.eigenvector.isel(image=0).sel(component=1).to_numpy()
    colours = colour_field(field, symmetric_limit(field))
    picture = tree["pixels"].isel(image=0).to_numpy()
    rows, columns = field.shape
    frame = np.argwhere((drawn != 255).any(2))
    top = int(drawn.shape[0] - 12 - 400 * picture.shape[0] / picture.shape[1])
    for row in range(rows):
        for column in range(columns):
            y = top + int((row + 0.4) / rows * 400 * picture.shape[0] / picture.shape[1])
            x = 12 + int((column + 0.4) / columns * 400)
            below = picture[
                int((row + 0.4) / rows * picture.shape[0]), int((column + 0.4) / columns * picture.shape[1])
            ]
            expected = blend(below[None, None], colours[row, column][None, None], 0.6)[0, 0]
            assert np.abs(drawn[y, x] - expected.astype(int)).max() <= 4, (row, column)
    assert len(frame)


def test_a_pdf_has_fonts_and_every_pixel_of_its_images(tmp_path: Path) -> None:
    text = st.save_figure(one(component=1), tmp_path / "one.pdf", width=3).read_bytes()
    assert b"/FontFile2" in text
    sizes = {(int(w), int(h)) for w, h in re.findall(rb"/Width (\d+)\b[^>]*?/Height (\d+)", text)}
    sizes |= {(int(w), int(h)) for h, w in re.findall(rb"/Height (\d+)\b[^>]*?/Width (\d+)", text)}
    shown, patches = activations()["pixels"].sizes, eigenvectors().sizes
    assert sizes == {(shown["x_px"], shown["y_px"]), (patches["x"], patches["y"])}, "the colour bar is no image"
    streams = [
        zlib.decompress(one)
        for one in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", text, re.DOTALL)
        if one[:1] == b"x"
    ]
    assert any((b"BT" in stream and b"Tj" in stream) or b"TJ" in stream for stream in streams), "letters are text"


def test_width_scales_everything(tmp_path: Path) -> None:
    small, large = (
        Image.open(st.save_figure(one(component=1), tmp_path / f"{width}.png", width=width, dpi=100))
        for width in (3, 6)
    )
    assert (small.width, large.width) == (300, 600)
    half = np.asarray(large.convert("L").resize(small.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(half - np.asarray(small.convert("L")).astype(int)).mean() < 6


def test_an_overlay_with_more_on_top_keeps_its_shape_and_title() -> None:
    plain, marked = (hv.render(view, backend="bokeh") for view in (one(component=1), VIEWS["with points"]()))
    for name in ("frame_width", "frame_height"):
        assert getattr(plain, name) == getattr(marked, name)
    assert plain.title.text == marked.title.text
    assert (plain.y_range.start, plain.y_range.end) == (marked.y_range.start, marked.y_range.end) == (1, 0)
    assert not any(axis.visible for axis in (*marked.xaxis, *marked.yaxis))


def test_what_cannot_be_saved_and_why(tmp_path: Path) -> None:
    with pytest.raises(SpectralToolkitError, match=r"'figure.jpg' has no known ending: use one of .pdf, .svg, .png"):
        st.save_figure(one(component=1), "figure.jpg")
    with pytest.raises(SpectralToolkitError, match="has a slider"):
        st.save_figure(one(), tmp_path / "a.pdf")
    with pytest.raises(SpectralToolkitError, match="view=str"):
        st.save_figure("overlay", tmp_path / "a.pdf")
    with pytest.raises(SpectralToolkitError, match="width"):
        st.save_figure(one(component=1), tmp_path / "a.pdf", width=0)
    with pytest.raises(SpectralToolkitError, match="HexTile"):
        st.save_figure(hv.HexTiles(np.random.default_rng(0).normal(size=(50, 2))), tmp_path / "a.pdf")
    path = st.save_figure(one(component=1), tmp_path / "a.png")
    with pytest.raises(StoreError, match="overwrite=True"):
        st.save_figure(one(component=1), path)
    st.save_figure(one(component=1), path, overwrite=True)
