"""Draw the figure of docs/explanation/mathematics.md: ``python docs/make_mathematics_figure.py``. Needs no browser.

One scene through the bundled model: its leading eigenvectors by QK and by VV over all layers, what each costs, and
what it costs in every layer alone. A test draws it anew and compares the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs" / "images" / "mathematics.svg"
KINDS = {"qk": "QK", "vv": "VV"}
TILE, GAP, LEFT, BARS = 110, 16, 160, 60


def figure(seed: int = 0, n_eigenvectors: int = 4) -> str:
    """The figure as SVG."""
    import spectral_toolkit as st
    from spectral_toolkit._render.composite import colour_field, symmetric_limit
    from spectral_toolkit._render.marks import picture_uri, tile_uri

    activations = st.capture("scenes", st.scenes.sample(1, seed=seed).pixels, progress=False)
    parts = [_image(picture_uri(activations.dataset["pixels"].values[0]), 0, 44)]
    parts.append(_text("the scene", 0, 36))
    height = TILE + BARS + 58
    for row, (kind, label) in enumerate(KINDS.items()):
        eig = st.solve(st.affinity(activations, kind, device="cpu"), n_eigenvectors).isel(image=0)
        cost = (eig.layer_share / eig.layer_mass).transpose("component", "layer").values
        top = row * height + 44
        parts.append(_text(label, LEFT - 34, top + TILE / 2, weight="bold"))
        parts.append(_text("in each layer", LEFT - 10, top + TILE + BARS, anchor="end"))
        for place, values in enumerate(eig.eigenvector.transpose("component", "y", "x").values):
            left = LEFT + place * (TILE + GAP)
            parts.append(_text(f"\u03bb = {float(eig.eigenvalue[place]):.2f}", left, top - 8))
            parts.append(_image(tile_uri(colour_field(values, symmetric_limit(values))), left, top))
            parts += _bars(cost[place], left, top + TILE + 10)
    width = LEFT + n_eigenvectors * (TILE + GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * height + 20}" width="{width}" role="img">'
    )
    style = "<style>text{font:13px sans-serif;fill:#333}image{image-rendering:pixelated}</style>"
    back = '<rect width="100%" height="100%" fill="#fff"/>'
    title = "<title>Leading eigenvectors of one scene by QK and VV, their costs, and the cost in each layer</title>"
    return "\n".join([head, title, style, back, *parts, "</svg>\n"])


def _bars(costs: Any, left: float, top: float) -> list[str]:
    """A bar a layer, first to last; full height is a cost of 1, what a random cut costs."""
    width = TILE / len(costs)
    drawn = [f'<line x1="{left}" x2="{left + TILE}" y1="{top}" y2="{top}" stroke="#999" stroke-dasharray="3 3"/>']
    for layer, cost in enumerate(costs):
        tall = min(float(cost), 1.2) * BARS
        drawn.append(
            f'<rect x="{left + layer * width + 1:.1f}" y="{top + BARS - tall:.0f}" width="{width - 2:.1f}" '
            f'height="{tall:.0f}" fill="#0072b2"><title>layer {layer}: {float(cost):.2f}</title></rect>'
        )
    return drawn


def _image(uri: str, left: float, top: float) -> str:
    return f'<image href="{uri}" x="{left}" y="{top}" width="{TILE}" height="{TILE}"/>'


def _text(words: str, left: float, top: float, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{left}" y="{top}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'


if __name__ == "__main__":
    FIGURE.write_text(figure())
