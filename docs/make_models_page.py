"""How the bundled models were trained: ``python docs/make_models_page.py``.

Renders the table of docs/models.md from the records beside the weights, and draws docs/images/generated.png.
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
    """How every model was trained, and how long."""
    lines = ["| model | how it was trained | parameters | minutes of a busy core |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {record['in_a_sentence']} | {record['parameters']:,} | {record['minutes']:.0f} |"
        for name, record in found.items()
    ]
    return "\n".join(lines)


def page(text: str, found: dict[str, dict[str, Any]]) -> str:
    """docs/models.md with its table made again."""
    return filled(text, {"recipes": recipes(found)})


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
