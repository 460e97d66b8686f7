"""Publish what interventions do in the bundled models: ``python docs/interventions.py [model ...]``.

Measures, writes docs/interventions.json, and fills the tables of docs/interventions.md from it. ``--render`` fills them
without measuring.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from marked import filled

DOCS = Path(__file__).resolve().parent
PAGE, NUMBERS = DOCS / "interventions.md", DOCS / "interventions.json"
SEED, N_IMAGES, N_REFERENCE, N_VECTORS = 20261130, 24, 72, 5
MODELS = ("scenes", "scenes-absolute", "scenes-diffusion")
EXCHANGED = {"queries and keys": ("query", "key"), "values": ("value",)}
REMOVED = {"queries and keys": "qk", "values": "vv"}
COLUMNS = [(what, outcome) for what in ("category", "position") for outcome in ("kept", "moved", "lost")]
COLUMNS += [("nearer place", outcome) for outcome in ("kept", "moved")]


def ranges(n_layers: int) -> dict[str, slice]:
    """The ranges of layers that are edited."""
    half = n_layers // 2
    return {"all": slice(None), f"1 to {half}": slice(0, half), f"{half + 1} to {n_layers}": slice(half, None)}


def measure(model: Any, n_images: int = N_IMAGES, n_reference: int = N_REFERENCE) -> list[dict[str, Any]]:
    """Rows of the tables of one model: what was edited, and the shares of every outcome with their intervals."""
    import numpy as np

    import spectral_toolkit as st

    scenes, others = st.scenes.sample(n_images, seed=SEED), st.scenes.sample(n_reference, seed=SEED + 1)
    order = np.roll(np.arange(n_images), 1)
    images, donors = scenes.pixels, scenes.pixels.isel(image=order)
    labels = {"images": scenes.label, "donors": scenes.label.isel(image=order), "reference": others.label}
    quiet: dict[str, Any] = {"progress": False, "layers": -1, "quantities": "value"}
    fresh, _ = model.untrained(seed=0)

    def passes(one: Any) -> tuple[Any, Any, Any]:
        first, second, third = (st.intervene(one, pixels, **quiet) for pixels in (images, donors, others.pixels))
        return first, second, third

    plain, of_donors, reference = passes(model)
    fresh_plain, fresh_donors, fresh_reference = passes(fresh)
    edited: dict[str, Any] = {}
    untrained: dict[str, Any] = {}
    random: dict[str, Any] = {}
    for name, quantities in EXCHANGED.items():
        for of, layers in ranges(len(model.layers)).items():
            edit = st.exchange(quantities, donors, layers, mirrored=True)
            key = f"exchange|{name}|{of}"
            edited[key] = st.intervene(model, images, edit, **quiet)
            again = st.intervene(fresh, images, edit, **quiet)
            untrained[key] = (fresh_plain, again, fresh_donors, fresh_reference)
    activations = st.capture(model, images, progress=False)
    for name, kind in REMOVED.items():
        eig = st.solve(st.affinity(activations, kind), N_VECTORS)
        key = f"removal|{name}|all"
        spans = (st.remove(eig, "all", EXCHANGED[name], random_span=seed) for seed in (None, 0))
        edited[key], random[key] = (st.intervene(model, images, span, **quiet) for span in spans)
    found = st.effects(
        plain,
        edited,
        of_donors,
        reference=reference,
        labels=labels,
        mirrored=True,
        controls={"untrained": untrained, "random span": random},
    )
    rows = []
    for edit in found["edit"].values:
        for control in found["control"].values:
            part = found.sel(edit=edit, control=control)
            ends = {end: part[f"share{end}"] for end in ("", "_low", "_high")}
            numbers = {
                f"{what} {outcome}": [round(float(one.sel(property=what, outcome=outcome)), 4) for one in ends.values()]
                for what, outcome in COLUMNS
            }
            if all(np.isfinite(one[0]) for one in numbers.values()):
                rows.append({"edit": str(edit), "control": str(control), **numbers})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The table of one model."""
    lines = [
        "| edit | of | layers | | " + " | ".join(f"{what} {outcome}" for what, outcome in COLUMNS) + " |",
        "|" + "---|" * (4 + len(COLUMNS)),
    ]
    before: list[Any] = []
    for row in rows:
        what, of, layers = row["edit"].split("|")
        if row["control"] == "before":
            numbers = [row[f"{name} {outcome}"] for name, outcome in COLUMNS]
            if numbers in before:  # the same donors
                continue
            before.append(numbers)
            what, of, layers = "none", "", ""
        shown = [_written(row[f"{name} {outcome}"]) for name, outcome in COLUMNS]
        lines.append(f"| {what} | {of} | {layers} | {row['control']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _written(numbers: list[float]) -> str:
    value, low, high = numbers
    return f"{value:.2f} ({low:.2f}-{high:.2f})" if low == low else f"{value:.2f}"  # NaN where there is no interval


def page(text: str, numbers: dict[str, Any]) -> str:
    """The page with the tables of all models."""
    return filled(text, {name: table(numbers[name]["rows"]) for name in MODELS if name in numbers})


def main() -> None:
    """Measure what is asked, and render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--render", action="store_true")
    asked = parser.parse_args()
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
    if not asked.render:
        import spectral_toolkit as st

        for name in asked.models:
            model = st.load_model(name, device="cpu")
            numbers[name] = {"weights_sha256": model.weights_sha256(), "rows": measure(model)}
            NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
