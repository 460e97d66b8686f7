"""What docs/scores.json holds, as Markdown and as pictures; docs/scores.py calls this."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marked import filled

SHOWN = ("where", "what", "where_plain", "what_plain", "image_share", "r2_position", "matched_miou",
         "overclustered_miou", "ari")  # fmt: skip
KINDS = {"qk": "QK", "vv": "VV", "qk_unrotated": "QK before rotation"}
JOINT, PIXELS, UNTRAINED, SHUFFLED = "joint", "raw pixels", "untrained model", "shuffled labels"


def page(published: Mapping[str, Any]) -> str:
    """docs/scores.md."""
    head = (
        "# Scores of the bundled models\n\nMade by `python docs/scores.py` from `docs/scores.json`; a test renders it "
        "anew, compares the weights and measures a part again. Every score is explained in `st.pathways`.\n\n"
        "Scores of k-means segments (matched mIoU, over-clustered mIoU, ARI) are means over many starts, and their "
        "intervals hold the spread of the starts as well as that of the images. With activations disturbed by rounding "
        "(2e-7, relative), as another processor leaves them, no score of 20 scenes moves by 0.01; "
        "`tests/test_scoring_disturbed.py` says so.\n"
    )
    return "\n".join([head, *(_section(name, entry) for name, entry in sorted(published.items()))])


def _section(name: str, entry: Mapping[str, Any]) -> str:
    full = entry["full"]
    lines = [
        f"## {name}\n",
        f"{full['scenes']} scenes of seed {full['seed']}, kernel {full['kernel']}; 95 % intervals over images. "
        f"{full['notes']}{_remark(entry)}\n",
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
            f"### Noise, on {entry['noise']['scenes']} other scenes, of seed {entry['noise']['seed']}\n",
            "| noise | " + " | ".join(f"{KINDS[kind]} {score}" for kind, score in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        lines += [
            f"| {level} | " + " | ".join(f"{found[kind][score]:.3f}" for kind, score in columns) + " |"
            for level, found in levels.items()
        ]
        lines.append("")
    return "\n".join(lines)


def readme_table(published: Mapping[str, Any]) -> str:
    """What stands in README.md: all layers jointly, and the controls."""
    if not published:
        return "Not measured yet: `python docs/scores.py`."
    scores = ("where", "what", "overclustered_miou")
    lines = [
        "| model | affinity | where | what | over-clustered mIoU | untrained | raw pixels | shuffled labels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    remarks = []
    for name, entry in sorted(published.items()):
        full = entry["full"]
        for kind, rows in full["scores"].items():
            cells = [_cell(rows[JOINT][score]) for score in scores]
            for control in (UNTRAINED, PIXELS, SHUFFLED):
                cells.append(" / ".join(_number(rows[control][score][0]) for score in scores))
            lines.append(f"| `{name}` | {KINDS[kind]} | " + " | ".join(cells) + " |")
        if remark := _remark(entry):
            remarks.append(f"`{name}`:{remark}")
    full = next(iter(published.values()))["full"]
    lines.append(
        f"\nFirst 15 eigenvectors of all layers jointly over {full['scenes']} held-out scenes, {full['kernel']}, with "
        "95 % intervals; controls give where / what / over-clustered mIoU. Every layer and every score: "
        f"[docs/scores.md](docs/scores.md). {' '.join(remarks)}".rstrip()
    )
    return "\n".join(lines)


def with_table(text: str, published: Mapping[str, Any]) -> str:
    """README.md with its table of scores made anew."""
    return filled(text, {"scores": readme_table(published)})


def _remark(entry: Mapping[str, Any]) -> str:
    remark = ""
    if "noise" in entry:
        noise = entry["noise"]
        remark += (
            f" Shown at noise {noise['chosen']:g}, chosen on {noise['scenes']} other scenes, of seed {noise['seed']}, "
            f"{noise['how']}."
        )
    if entry.get("aligned_with"):
        remark += f" In training its features were aligned with those of {entry['aligned_with']}."
    if entry.get("decayed"):
        decay = entry["decayed"]
        remark += (
            f" In training the matrices of its queries decayed by {decay['queries']:g} and those of its keys by "
            f"{decay['keys']:g}, all others by {decay['others']:g}"
        )
        if entry.get("positions") == "absolute":
            remark += ", as in its rotary twin: here a place is content, and attending to it costs as much."
        else:
            remark += ": attending by place is cheaper than by content, which presses QK towards where."
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


def render(published: Mapping[str, Any], docs: Path, readme: Path) -> None:
    """Write page, table and heat maps from the numbers; a picture of the same numbers is left as it is."""
    from PIL import Image

    docs.mkdir(parents=True, exist_ok=True)
    (docs / "scores.md").write_text(page(published))
    readme.write_text(with_table(readme.read_text(), published))
    for name, entry in published.items():
        path = docs / picture_path(name)
        if not path.exists() or Image.open(path).info.get("scores_sha256") != numbers_sha256(entry):
            draw(entry, path)
