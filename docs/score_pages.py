"""What docs/scores.json holds, as Markdown and as images; docs/scores.py calls this."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = ("where", "what", "where_plain", "what_plain", "image_share", "r2_position", "matched_miou",
         "overclustered_miou", "ari")  # fmt: skip
KINDS = {"qk": "QK", "vv": "VV", "qk_unrotated": "QK before rotation"}
JOINT, PIXELS, UNTRAINED, SHUFFLED = "joint", "raw pixels", "untrained model", "shuffled labels"


def page(published: Mapping[str, Any]) -> str:
    """docs/scores.md."""
    head = (
        "# Scores of the bundled models\n\nThis page is made by `python docs/scores.py` from `docs/scores.json`. A "
        "test renders it anew, compares the weights and measures a part again. `st.pathways` explains every score; "
        "[how the models were trained](models.md) has a page of its own.\n\n"
        "Scores of k-means segments (matched mIoU, over-clustered mIoU, ARI) are means over many starts, and their "
        "intervals include the spread over starts as well as that over images. Rounding errors in the activations "
        "(2e-7, relative), such as another processor makes, move no score of 20 scenes by 0.01 or more; "
        "`tests/test_scoring_disturbed.py` tests that.\n"
    )
    return "\n".join([head, _summary(published), *(_section(name, entry) for name, entry in sorted(published.items()))])


def _section(name: str, entry: Mapping[str, Any]) -> str:
    full = entry["full"]
    lines = [
        f"## {name}\n",
        f"Measured on {full['scenes']} scenes of seed {full['seed']} with kernel {full['kernel']}; the intervals are "
        f"95 % intervals over images. {full['notes']}{_remark(entry)}\n",
        f"![Where and what of every layer of {name}]({picture_path(name)})\n",
    ]
    for kind, rows in full["scores"].items():
        lines += [
            f"### {KINDS[kind]}\n",
            "| layer | " + " | ".join(score.replace("_", " ") for score in SHOWN) + " |",
            "|---" * (len(SHOWN) + 1) + "|",
        ]
        lines += [f"| {row} | " + " | ".join(_cell(scores[s]) for s in SHOWN) + " |" for row, scores in rows.items()]
        lines.append("")
    if "noise" in entry:
        levels = entry["noise"]["levels"]
        kinds = list(next(iter(levels.values())))
        columns = [(kind, score) for kind in kinds for score in ("where", "what")]
        lines += [
            f"### Noise levels, on {entry['noise']['scenes']} other scenes of seed {entry['noise']['seed']}\n",
            "| noise | " + " | ".join(f"{KINDS[kind]} {score}" for kind, score in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        lines += [
            f"| {level} | " + " | ".join(f"{found[kind][score]:.3f}" for kind, score in columns) + " |"
            for level, found in levels.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _summary(published: Mapping[str, Any]) -> str:
    """All layers jointly, and the controls."""
    scores = ("where", "what", "overclustered_miou")
    full = next(iter(published.values()))["full"]
    lines = [
        "## Summary\n",
        f"The table scores the first 15 eigenvectors of all layers jointly over {full['scenes']} held-out scenes "
        f"({full['kernel']}), with 95 % intervals. For the controls it gives where / what / over-clustered mIoU.\n",
        "| model | affinity | where | what | over-clustered mIoU | untrained | raw pixels | shuffled labels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in sorted(published.items()):
        for kind, rows in entry["full"]["scores"].items():
            cells = [_cell(rows[JOINT][score]) for score in scores]
            for control in (UNTRAINED, PIXELS, SHUFFLED):
                cells.append(" / ".join(_number(rows[control][score][0]) for score in scores))
            lines.append(f"| `{name}` | {KINDS[kind]} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _remark(entry: Mapping[str, Any]) -> str:
    remark = ""
    if "noise" in entry:
        noise = entry["noise"]
        remark += (
            f" The noise level {noise['chosen']:g} was chosen on {noise['scenes']} other scenes, of seed "
            f"{noise['seed']}, {noise['how']}."
        )
    if entry.get("trained"):
        remark += f" How the model was trained: {entry['trained']}"
    return remark


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(values: list[float | None]) -> str:
    estimate, low, high = map(_number, values)
    return estimate if low == high == "-" else f"{estimate} ({low} to {high})"


def picture_path(name: str) -> str:
    return f"images/scores-{name}.png"


def dataset(entry: Mapping[str, Any]) -> Any:
    """The scores as the Dataset of st.pathways that they were."""
    import xarray as xr

    scores, roles = entry["full"]["scores"], entry["full"]["roles"]
    rows = list(next(iter(scores.values())))
    data = {
        f"{score}{end}": (
            ("kind", "layer"),
            [[math.nan if (v := scores[k][row][score][i]) is None else v for row in rows] for k in scores],
        )
        for score in SHOWN
        for i, end in enumerate(("", "_low", "_high"))
    }
    coords = {"kind": [KINDS[k] for k in scores], "layer": rows, "role": ("layer", [roles[row] for row in rows])}
    return xr.Dataset(data, coords)


def numbers_sha256(entry: Mapping[str, Any]) -> str:
    """What a heat map carries, so that one of other numbers is noticed."""
    return hashlib.sha256(json.dumps(entry["full"]["scores"], sort_keys=True).encode()).hexdigest()


def draw(entry: Mapping[str, Any], path: Path) -> None:
    """The two-panel heat map as a PNG, photographed in a headless Chromium; needs one, and the extra ``test``."""
    import holoviews as hv
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    from make_screenshots import photograph
    from PIL.PngImagePlugin import PngInfo

    import spectral_toolkit as st

    layout = st.heat_map(dataset(entry)).opts(toolbar=None)
    picture = photograph(file_html(hv.render(layout, backend="bokeh"), INLINE, "scores"))
    about = PngInfo()
    about.add_text("scores_sha256", numbers_sha256(entry))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(128).save(path, optimize=True, pnginfo=about)


def render(published: Mapping[str, Any], docs: Path) -> None:
    """Write the page and the heat maps from the numbers; a heat map of the same numbers is left as it is."""
    from PIL import Image

    docs.mkdir(parents=True, exist_ok=True)
    (docs / "scores.md").write_text(page(published))
    for name, entry in published.items():
        path = docs / picture_path(name)
        if not path.exists() or Image.open(path).info.get("scores_sha256") != numbers_sha256(entry):
            draw(entry, path)
