"""How the bundled models were trained: ``python docs/make_models_page.py``.

Renders the tables of docs/models.md and draws docs/images/shared.png and generated.png from the records beside the
weights. ``--score NAME CHECKPOINT ...`` first measures checkpoints of a training run, on few scenes, and adds the
numbers to the record of the bundled model NAME; they are the curve over training steps, not the published scores.
``--twin`` says that they are of a run that differs from NAME's in its positions alone and is not bundled.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from marked import filled

DOCS = Path(__file__).resolve().parent
SEED, N_SCENES = 20261126, 48
SHOWN = {"qk": ("where", "what"), "vv": ("where", "what", "overclustered_miou")}
TIMESTEP = 300
"""At which checkpoints of the generative model are scored."""


def records() -> dict[str, dict[str, Any]]:
    """The record of every bundled model."""
    from spectral_toolkit._models import bundled_models, loading

    return {name: json.loads(loading.training_record(name).read_text()) for name in bundled_models()}


# --- measuring -------------------------------------------------------------------------------------------------------


def score(name: str, checkpoint: Path) -> dict[str, float]:
    """Where and what of all layers jointly, of one checkpoint, on `N_SCENES` scenes."""
    import spectral_toolkit as st
    from training import diffusion, shared
    from training import scenes as scenes_training

    generative = name == "scenes-diffusion"
    task = diffusion.TASK if generative else scenes_training.TASK
    run = shared.load_checkpoint(task, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        shared.export(task, run, Path(folder))
        if generative:
            import torch

            from spectral_toolkit._models.diffusion.scenes import load_scenes_diffusion

            model: Any = load_scenes_diffusion(Path(folder), torch.device("cpu"), None).at(timesteps=TIMESTEP)
        else:
            model = st.load_model(folder)
        scenes = st.scenes.sample(N_SCENES, seed=SEED)
        activations = st.capture(model, scenes["pixels"], progress=False)
        options: dict[str, Any] = {"controls": False, "n_bootstrap": 1, "progress": False}
        found = st.pathways(activations, scenes["label"], kinds=tuple(SHOWN), **options).sel(layer="joint")
    numbers = {
        f"{kind}_{one}": round(float(found[one].sel(kind=kind)), 4) for kind, names in SHOWN.items() for one in names
    }
    return {"step": run.step, **numbers}


def add_scores(name: str, checkpoints: list[Path], key: str) -> None:
    """Measure checkpoints and keep their scores in the record."""
    from spectral_toolkit._models import loading

    path = loading.training_record(name)
    record = json.loads(path.read_text())
    known = {row["step"]: row for row in record.get(key, [])}
    for checkpoint in checkpoints:
        row = score(name, checkpoint)
        known[row["step"]] = row
        print(name, row, flush=True)
    record[key] = [known[step] for step in sorted(known)]
    path.write_text(json.dumps(record, indent=1) + "\n")


# --- rendering -------------------------------------------------------------------------------------------------------


OWN, TWIN, EARLIER = "scores_by_steps", "rotary_twin_scores_by_steps", "earlier_scores_by_steps"


def runs(found: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Scores over steps of every run that was scored."""
    named = {f"`{name}`": record[OWN] for name, record in found.items() if OWN in record}
    named |= {f"rotary twin of `{name}`": record[TWIN] for name, record in found.items() if TWIN in record}
    # Of runs that are no longer bundled, under titles of their own.
    return named | {title: rows for record in found.values() for title, rows in record.get(EARLIER, {}).items()}


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


def curve(found: dict[str, dict[str, Any]]) -> str:
    """Scores over training steps."""
    columns = [(kind, one) for kind, names in SHOWN.items() for one in names]
    titles = [f"{kind.upper()} {one}".replace("overclustered_miou", "over-clustered mIoU") for kind, one in columns]
    lines = ["| model | step | " + " | ".join(titles) + " |", "|---" * (len(columns) + 2) + "|"]
    for title, rows in runs(found).items():
        for row in rows:
            cells = " | ".join(f"{row[f'{kind}_{one}']:.3f}" for kind, one in columns)
            lines.append(f"| {title} | {row['step']:,} | {cells} |")
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
    return filled(text, {"recipes": recipes(found), "curve": curve(found), "aims": aims()})


def draw_curves(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Scores over steps, one panel a model."""
    import holoviews as hv
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    from make_screenshots import photograph

    hv.extension("bokeh", logo=False)  # pyright: ignore[reportCallIssue]
    colours = {"qk_where": "#0072b2", "qk_what": "#56b4e9", "vv_where": "#e69f00", "vv_what": "#d55e00"}
    panels = []
    for title, rows in runs(found).items():
        lines = []
        for key, colour in colours.items():
            points = [(row["step"], row[key]) for row in rows]
            line: Any = hv.Curve(points, "step", "share", label=key[:2].upper() + key[2:].replace("_", " "))
            lines.append(line.opts(color=colour, line_width=2, line_dash="dashed" if key[0] == "v" else "solid"))
        frame = {"width": 420, "height": 300, "ylim": (0, 1), "toolbar": None, "show_grid": True}
        panels.append(hv.Overlay(lines).opts(title=title.replace("`", ""), legend_position="right", **frame))
    layout: Any = hv.Layout(panels).opts(shared_axes=False, toolbar=None)
    layout = layout.cols(2)
    html = file_html(hv.render(layout, backend="bokeh"), INLINE, "training")
    photograph(html).quantize(64).save(path, optimize=True)


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
    parser.add_argument("--score", nargs="+", metavar=("NAME", "CHECKPOINT"), help="a bundled model and checkpoints")
    parser.add_argument("--twin", action="store_true", help="they are of NAME's twin with rotary positions")
    parser.add_argument("--text", action="store_true", help="leave the images as they are")
    arguments = parser.parse_args()
    if arguments.score:
        add_scores(arguments.score[0], [Path(one) for one in arguments.score[1:]], TWIN if arguments.twin else OWN)
    found = records()
    target = DOCS / "models.md"
    target.write_text(page(target.read_text(), found))
    if not arguments.text:
        draw_curves(found, DOCS / "images" / "shared.png")
        if "scenes-diffusion" in found:
            draw_generated(DOCS / "images" / "generated.png")


if __name__ == "__main__":
    main()
