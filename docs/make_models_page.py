"""How the bundled models were trained: ``python docs/make_models_page.py``.

Renders the tables of docs/models.md from the records beside the weights, and draws docs/images/generated.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from marked import filled

DOCS = Path(__file__).resolve().parent


def records() -> dict[str, dict[str, Any]]:
    """The record of every bundled model."""
    from spectral_toolkit._models import bundled_models, loading

    return {name: json.loads(loading.training_record(name).read_text()) for name in bundled_models()}


def recipes(found: dict[str, dict[str, Any]]) -> str:
    """How long each model was trained, in how many runs, and by which command in the end."""
    lines = [
        "| model | parameters | steps | minutes of a busy core | runs | last command |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in found.items():
        # Earlier commands of a record may have options that no longer exist: they are history, not instructions.
        commands = record["commands"]
        lines.append(
            f"| `{name}` | {record['parameters']:,} | {record['steps']:,} | {record['minutes']:.0f} | {len(commands)} "
            f"| `{commands[-1]}` |"
        )
    return "\n".join(lines)


AIMS: dict[str, dict[str, float]] = {
    "scenes": {
        "QK where": 0.9,
        "QK where / VV where": 50,
        "VV what": 0.3,
        "VV what / QK what": 20,
        "VV over-clustered mIoU": 0.6,
        "VV over-clustered mIoU / the better of raw pixels and untrained": 2,
        "VV matched mIoU": 0.3,
    },
    "scenes-diffusion": {"QK where": 0.4, "QK where / VV where": 20, "VV what": 0.12, "VV what / QK what": 3},
}
"""What training aimed at, all layers jointly, for the published scores."""


def reached(scores: dict[str, Any]) -> dict[str, float]:
    """The published numbers that `AIMS` names; without controls, those that need none."""
    joint = {kind: {name: values[0] for name, values in rows["joint"].items()} for kind, rows in scores.items()}
    qk, vv = joint["qk"], joint["vv"]
    numbers = {
        "QK where": qk["where"],
        "QK where / VV where": qk["where"] / vv["where"],
        "VV what": vv["what"],
        "VV what / QK what": vv["what"] / qk["what"],
        "VV over-clustered mIoU": vv["overclustered_miou"],
        "VV matched mIoU": vv["matched_miou"],
    }
    controls = [row for row in ("raw pixels", "untrained model") if row in scores["vv"]]
    if controls:
        most = max(scores["vv"][row]["overclustered_miou"][0] for row in controls)
        numbers["VV over-clustered mIoU / the better of raw pixels and untrained"] = vv["overclustered_miou"] / most
    return numbers


def aims() -> str:
    """What was aimed at, and what the published scores are."""
    published = json.loads((DOCS / "scores.json").read_text())
    lines = ["| model | all layers jointly | aim: above | published | |", "|---|---|---|---|---|"]
    for name, wanted in AIMS.items():
        entry = published[name]
        numbers = reached(entry["full"]["scores"])
        for what, aim in wanted.items():
            shown = f"{numbers[what]:,.0f}" if numbers[what] >= 100 else f"{numbers[what]:.3g}"
            verdict = "reached" if numbers[what] > aim else "**not reached**"
            lines.append(f"| `{name}` | {what} | {aim:g} | {shown} | {verdict} |")
    return "\n".join(lines)


def page(text: str, found: dict[str, dict[str, Any]]) -> str:
    """docs/models.md with its tables made again."""
    return filled(text, {"recipes": recipes(found), "aims": aims()})


CAPTIONS = ("a house and two trees", "two rings and a star", "a fish", "three flowers", "")


def draw_generated(path: Path) -> None:
    """Images from the generative model, one row per caption."""
    from make_screenshots import save_small
    from PIL import Image, ImageDraw

    import spectral_toolkit as st

    side, margin, text = 96, 6, 16
    canvas = Image.new("RGB", (margin + 6 * (side + margin), len(CAPTIONS) * (side + margin + text) + margin), "white")
    pen = ImageDraw.Draw(canvas)
    for row, caption in enumerate(CAPTIONS):
        top = row * (side + margin + text) + margin
        pen.text((margin, top), f"“{caption}”" if caption else "no caption", fill="black")
        for column, pixels in enumerate(st.scenes.generate(caption, 6, seed=row).pixels.values):
            canvas.paste(Image.fromarray(np.asarray(pixels)), (margin + column * (side + margin), top + text))
    save_small(canvas, path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="store_true", help="leave the image as it is")
    arguments = parser.parse_args()
    target = DOCS / "models.md"
    target.write_text(page(target.read_text(), records()))
    if not arguments.text:
        draw_generated(DOCS / "images" / "generated.png")


if __name__ == "__main__":
    main()
