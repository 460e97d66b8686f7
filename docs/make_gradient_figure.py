"""Draw the figure of docs/gradient.md and its numbers: ``python docs/make_gradient_figure.py``.

One scene, all layers of the bundled model, VV and QK: the exact solver's leading eigenvectors above those that gradient
descent found, and how its objective, its cut and its angle to the exact span went over the steps. Takes about two
minutes of processor time; needs a Chromium.
"""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from marked import filled
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SEED, N_EIGENVECTORS, STEPS = 1, 5, 2000
N_FEATURES = (N_EIGENVECTORS + 1, 20)
"""The solver's default, which the figure shows, and more, which the table shows too."""
KINDS = {"vv": ("VV", "#0072b2"), "qk": ("QK", "#d55e00")}
TOLD = (1, 10, 100, 500, STEPS)
LOGGED = sorted({round(10**power) for power in np.linspace(0, np.log10(STEPS), 60)} | set(TOLD))


def compare(activations: Any, kind: str, n_features: int) -> dict[str, Any]:
    """Both solvers on one graph, and the features that descent passed through."""
    import spectral_toolkit as st
    from spectral_toolkit._affinity.pencil import JointPencil
    from spectral_toolkit.solvers.descent import singular_pairs
    from spectral_toolkit.solvers.gradient import descend, head_affinities, objective

    graph = st.affinity(activations, kind, device="cpu")
    began = time.process_time()
    exact = st.solve(graph, n_features - 1)
    exact_seconds = time.process_time() - began
    pencil = JointPencil(graph, slice(0, 1))
    n = pencil.n
    affinities = [head_affinities(graph, member, slice(0, 1))[0].double() for member in graph.members]
    passed: dict[int, tuple[float, torch.Tensor]] = {}
    done = 0

    def loss(features: torch.Tensor) -> torch.Tensor:
        nonlocal done
        value, done = objective(affinities, features.double()), done + 1
        if done in LOGGED:
            passed[done] = float(value.detach()), features.detach().double().clone()
        return value

    began = time.process_time()
    descend(loss, pencil.grid, n_features, steps=STEPS, patience=0, seed=0)
    gradient_seconds = time.process_time() - began

    def orthonormal(vectors: torch.Tensor) -> torch.Tensor:
        """Rows with x' B x = 1 and at right angles in B, of the same span."""
        gram = (vectors @ pencil.mass_matmul(vectors[None])[0].T).double()
        return torch.linalg.solve_triangular(torch.linalg.cholesky(gram), vectors, upper=False)

    def cut(vectors: torch.Tensor) -> float:
        return float(len(vectors) - (vectors * pencil.affinity_matmul(vectors[None])[0]).sum())

    every = torch.as_tensor(exact.eigenvector.values[0].reshape(n, -1).T.copy())
    leading = orthonormal(every[:N_EIGENVECTORS])
    steps = {}
    for step, (value, features) in passed.items():
        found = singular_pairs(pencil, features.flatten(2), N_EIGENVECTORS).vectors[0]
        ours = orthonormal(found)
        cosine = torch.linalg.svdvals(leading @ pencil.mass_matmul(ours[None])[0].T).clamp(max=1)
        steps[step] = {
            "objective": value,
            "cut": cut(ours),
            "angles": torch.rad2deg(torch.arccos(cosine)).tolist(),
            "vectors": found.numpy(),
        }
    as_features = torch.cat([torch.ones(1, n, dtype=torch.float64), every]).reshape(1, n_features, *pencil.grid)
    return {
        "grid": pencil.grid,
        "exact": every[:N_EIGENVECTORS].numpy(),
        "exact_cut": cut(leading),
        "exact_objective": float(objective(affinities, as_features)),
        "exact_seconds": exact_seconds,
        "gradient_seconds": gradient_seconds,
        "steps": steps,
    }


def numbers(measured: dict[tuple[str, int], dict[str, Any]], weights: str) -> str:
    """The table of docs/gradient.md."""
    head = ("affinity", "features", "solver", "the paper's objective", "cut of the first 5", "angles to the exact span")
    lines = ["| " + " | ".join((*head, "processor seconds")) + " |", "|---" * (len(head) + 1) + "|"]
    for (kind, n_features), one in measured.items():
        begin = f"| {KINDS[kind][0]} | {n_features} |"
        cut = one["exact_cut"]
        lines.append(f"{begin} exact | {one['exact_objective']:.3f} | {cut:.3f} | | {one['exact_seconds']:.2f} |")
        for step in TOLD if n_features == N_FEATURES[0] else (STEPS,):
            at = one["steps"][step]
            cells = (f"{at['objective']:.3f}", f"{at['cut']:.3f}", " ".join(f"{a:.0f}\u00b0" for a in at["angles"]))
            seconds = f"{one['gradient_seconds'] * step / STEPS:.2g}"
            lines.append(f"{begin} gradient, step {step:,} | {' | '.join(cells)} | {seconds} |")
    lines.append(
        f"\nScene 0 of seed {SEED}, `scenes` with weights {weights[:8]}, learning rate 2e-3, seed 0. The exact\n"
        "solver's objective is that of the constant and as many vectors as there are further features. Processor\n"
        "seconds of one thread, those of earlier steps by their share."
    )
    return "\n".join(lines)


def tile(values: np.ndarray, grid: tuple[int, int], like: np.ndarray) -> Image.Image:
    """An eigenvector in the diverging colours, white at zero, with the sign of another."""
    from spectral_toolkit._render.colour import DIVERGING

    values = values * (1 if values @ like >= 0 else -1)
    level = np.clip(values / np.quantile(np.abs(values), 0.98), -1, 1)
    return Image.fromarray(DIVERGING[np.rint((level + 1) * 127.5).astype(int)].reshape(*grid, 3))


def page(picture: np.ndarray, measured: dict[tuple[str, int], dict[str, Any]]) -> str:
    """Tiles and curves as one page of HTML."""
    from bokeh.embed import components
    from bokeh.layouts import row
    from bokeh.resources import INLINE

    rows = []
    for kind, (label, colour) in KINDS.items():
        one = measured[kind, N_FEATURES[0]]
        for name, vectors in (("exact", one["exact"]), (f"gradient, {STEPS:,} steps", one["steps"][STEPS]["vectors"])):
            images = "".join(
                f"<td>{_img(tile(vector, one['grid'], like))}</td>"
                for vector, like in zip(vectors, one["exact"], strict=True)
            )
            rows.append(f"<tr><th style='color:{colour}'>{label}<br><small>{name}</small></th>{images}</tr>")
    scene = f"<td rowspan=4 style='padding-right:16px'>{_img(Image.fromarray(picture))}</td>"
    rows[0] = rows[0].replace("<tr>", f"<tr>{scene}", 1)
    script, parts = components(row(*_curves(measured)))
    style = (
        "body{margin:0;font:14px sans-serif;color:#333} img{width:110px;image-rendering:pixelated;display:block}"
        "th{font-weight:600;text-align:right;padding:0 8px;width:130px} td{padding:2px}"
    )
    return (
        f"<!doctype html><meta charset='utf-8'><style>{style}</style>{INLINE.render()}"
        f"<table>{''.join(rows)}</table>{parts}{script}"
    )


def _img(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return f"<img src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _curves(measured: dict[tuple[str, int], dict[str, Any]]) -> list[Any]:
    from bokeh.plotting import figure

    plots = []
    panels = (
        ("the paper's objective", lambda at: at["objective"], "exact_objective"),
        ("cut of the first 5 vectors", lambda at: at["cut"], "exact_cut"),
        ("largest angle to the exact span, degrees", lambda at: max(at["angles"]), None),
    )
    for title, read, best in panels:
        plot: Any = figure(
            width=330, height=230, x_axis_type="log", title=title, toolbar_location=None, x_axis_label="steps"
        )
        for kind, (label, colour) in KINDS.items():
            one = measured[kind, N_FEATURES[0]]
            steps = one["steps"]
            plot.line(list(steps), [read(at) for at in steps.values()], color=colour, line_width=2, legend_label=label)
            if best is not None:
                level = [one[best]] * 2
                plot.line([1, STEPS], level, color=colour, line_dash="dashed", legend_label=f"{label}, exact")
        plot.legend.label_text_font_size = "8pt"
        plot.legend.background_fill_alpha = 0.6
        plot.legend.location = "top_right" if best else "bottom_left"
        plot.legend.padding = plot.legend.spacing = 1
        plots.append(plot)
    return plots


def main() -> None:
    """Measure, draw and write."""
    from make_screenshots import photograph, save_small

    import spectral_toolkit as st

    torch.set_num_threads(1)
    scene = st.scenes.sample(1, seed=SEED).pixels
    model = st.load_model("scenes", device="cpu")
    activations = st.capture(model, scene, progress=False)
    measured = {(kind, n): compare(activations, kind, n) for kind in KINDS for n in N_FEATURES}
    save_small(photograph(page(scene.values[0], measured)), ROOT / "docs" / "images" / "gradient.png")
    written = ROOT / "docs" / "gradient.md"
    written.write_text(filled(written.read_text(), {"numbers": numbers(measured, model.weights_sha256())}))


if __name__ == "__main__":
    main()
