"""Still pictures of figures in a cell's output, for pages that run no scripts: they show what the figure shows."""

from __future__ import annotations

import base64
import io
from typing import Any

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, eigenvectors
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._render.composite import colour_field, symmetric_limit
from spectral_toolkit._views.charts import layers_chart, spectrum_chart
from spectral_toolkit._views.still_picture import MOST, figure_picture


@pytest.fixture(scope="module")
def eig() -> xr.Dataset:
    return eigenvectors(isolated=((0, 3, 7),))


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    st.extension()


def shown(view: Any) -> dict[str, str]:
    """What a notebook gets of a view."""
    data = hv.Store.renderers["bokeh"].components(view)[0]
    assert data is not None
    return data


def still(view: Any) -> np.ndarray:
    """The still picture in it, which is seen before the figure until a script hides it."""
    data = shown(view)
    png, page = data["image/png"], data["text/html"]
    assert page.index(png) < page.index("data-root-id")
    assert "still.style.display = 'none'" in page
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    assert len(base64.b64decode(png)) <= MOST
    assert picture.std() > 5
    return picture


def middles(picture: Image.Image, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Colours in the middle of every patch of a figure, which stands on the margin below it."""
    bottom = picture.height - 24
    frame = picture.crop((24, bottom - 2 * size[1], 24 + 2 * size[0], bottom))
    places = [(np.arange(n) + 0.5) * 2 * side / n for n, side in zip(grid, size[::-1], strict=True)]
    return np.asarray(frame)[np.ix_(*(place.astype(int) for place in places))].astype(int)


def test_a_picture_shows_what_the_figure_shows(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig.drop_vars("isolated"), image=0, component=2, opacity=1.0, width=80)
    drawn = middles(figure_picture(hv.render(view, backend="bokeh")), (80, 40), (4, 8))
    field = eig["eigenvector"].isel(image=0).sel(component=2).transpose("y", "x").values
    expected = colour_field(field, symmetric_limit(field)).astype(int)
    assert np.abs(drawn - expected).max() <= 8  # the figure has 256 colours


def test_every_figure_of_ours_has_one_also_where_it_needs_a_kernel(eig: xr.Dataset) -> None:
    acts = activations()
    solved = st.solve(st.affinity(acts, "vv", device="cpu"), 3)
    kinds = {"kind": ["qk", "vv"], "layer": ["a", "joint"]}
    scores = xr.Dataset({name: (("kind", "layer"), [[0.9, np.nan], [0.1, 0.5]]) for name in ("where", "what")}, kinds)
    slider = hv.Dimension("n", values=[1, 2])
    live = hv.DynamicMap(lambda n: st.overlay(acts, eig, image=0, component=n), kdims=slider)
    views = {
        "slider": st.overlay(acts, eig, image=0),
        "cut": st.overlay(acts, eig, image=0, component=1, threshold=0.1, smooth=True, marked=[(1, 2)]),
        "grid": st.overlay(acts, eig, layout="grid"),
        "rgb": st.overlay(acts, eig, layout="rgb"),
        "pca": st.overlay(acts, eig, layout="pca"),
        "segments": st.overlay(acts, st.segment(solved, 2), image=0),
        "scores": st.heat_map(scores),
        "spectrum": spectrum_chart({"VV": solved}),
        "layers": layers_chart({"VV": solved}),
        "live": live,
    }
    pictures = {name: still(view) for name, view in views.items()}
    first = still(st.overlay(acts, eig, image=0, component=1))
    assert np.array_equal(pictures["live"], first), "what is shown first"
    wide, high = pictures["grid"].shape[1], pictures["grid"].shape[0]
    assert wide > high, "rows as in the figure"
    assert "st-fits" in shown(live)["text/html"], "it fits its cell like any other"


def test_a_figure_of_marks_that_are_not_known_has_none() -> None:
    assert set(shown(hv.Curve([1, 2, 3]))) & {"image/png"} == set()
    acts, eig = activations(), eigenvectors()
    view = st.overlay(acts, eig, image=0, component=1)
    assert "image/png" not in shown(view * hv.Curve([(0, 0), (1, 1)]))
