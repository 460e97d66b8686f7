"""Figures of the landing page and of the reference, each by the function that it shows; also of real photographs.

    python docs/make_gallery.py            # writes docs/images/gallery/*.png anew
    python docs/make_gallery.py overlay    # one of them

The photographs come with scikit-image, on which this package depends: Chelsea the cat (Stefan van der Walt) and a cup
of coffee (Rachel Michetti, Pikolo Espresso Bar), both dedicated to the public domain (CC0).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import spectral_toolkit as st

FOLDER = Path(__file__).resolve().parent / "images" / "gallery"
QUANTITIES = ("query", "key", "value", "token")
COLOURS = 192
"""Of the palette to which figures are reduced, so that the repository stays small."""


@cache
def scenes() -> Any:
    return st.scenes.sample(6, seed=11)


@cache
def activations() -> Any:
    return st.capture("scenes", scenes().pixels, quantities=QUANTITIES, progress=False)


@cache
def graph(kind: str) -> Any:
    return st.affinity(activations(), kind)


@cache
def eigenvectors(kind: str) -> Any:
    return st.solve(graph(kind), n_eigenvectors=8)


def overlay() -> Any:
    """Where and what: the first eigenvectors of queries and keys, and below of values."""
    chosen = {"image": 0, "layout": "grid", "components": [1, 2, 3], "width": 180}
    return (
        st.overlay(activations(), eigenvectors("qk"), **chosen)
        + st.overlay(activations(), eigenvectors("vv"), **chosen)
    ).cols(3)


def segment() -> Any:
    """Segments of three images, by k-means on their eigenvectors."""
    return st.overlay(activations(), st.segment(eigenvectors("vv"), 5), image=[0, 1, 2], width=180)


def instances() -> Any:
    """Masks of single objects."""
    return st.overlay(activations(), st.instances(eigenvectors("vv"), n_instances=4), image=[0, 1, 2], width=180)


def refine() -> Any:
    """The same segments, from patches to pixels."""
    pixels = st.refine(st.segment(eigenvectors("vv"), 5), scenes().pixels)
    return st.overlay(activations(), pixels, image=[0, 1, 2], width=180)


def spectrum_chart() -> Any:
    """Eigenvalues of one image, and the gap between them."""
    return st.spectrum_chart({"QK": eigenvectors("qk"), "VV": eigenvectors("vv")})


def layers_chart() -> Any:
    """The layers' shares of one eigenvector."""
    return st.layers_chart({"QK": eigenvectors("qk"), "VV": eigenvectors("vv")})


def heat_map() -> Any:
    """Scores of every layer, with controls."""
    scores = st.pathways(
        activations(), scenes().label, n_eigenvectors=6, model="scenes", n_bootstrap=20, progress=False
    )
    return st.heat_map(scores)


def photographs() -> Any:
    """Two photographs, and the first eigenvectors of values: by a model that never saw one."""
    from skimage import data

    cut = [np.asarray(data.chelsea())[:, 60:360], np.asarray(data.coffee())[20:380, 130:490]]
    images = [Image.fromarray(one).resize((192, 192)) for one in cut]
    captured = st.capture("scenes", images, size=192, quantities=QUANTITIES, progress=False)
    found = st.solve(st.affinity(captured, "vv"), n_eigenvectors=3)
    chosen = {"layout": "grid", "components": [1, 2, 3], "width": 180}
    return (st.overlay(images, found, image=0, **chosen) + st.overlay(images, found, image=1, **chosen)).cols(3)


FIGURES: dict[str, Callable[[], Any]] = {
    one.__name__: one
    for one in (overlay, segment, instances, refine, spectrum_chart, layers_chart, heat_map, photographs)
}


def main(names: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or FIGURES:
        path = st.save_figure(FIGURES[name](), FOLDER / f"{name}.png", width=6, dpi=130, overwrite=True)
        with Image.open(path) as drawn:
            reduced = drawn.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        reduced.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size // 1000} kB, {reduced.width} x {reduced.height}")


if __name__ == "__main__":
    main(sys.argv[1:])
