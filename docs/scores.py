"""Publish the bundled models' scores: ``python docs/scores.py [model ...]``.

Measures and writes docs/scores.json, and renders from it docs/scores.md and one heat map a model in docs/images. What
has been measured of a model is kept in out/scores, kind by kind, while neither its weights nor our code change, so that
an interrupted run goes on. A model whose quick measurement comes out as published, under the same weights, is not
measured again. ``--render`` renders without measuring; ``--scenes 8 --into FOLDER`` tries all of it on few scenes and
writes nothing into the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from score_pages import JOINT, KINDS, SHOWN, render

ROOT = Path(__file__).resolve().parents[1]
SEED, N_SCENES, N_QUICK = 20261124, 256, 24
NOISE_SEED, N_NOISE, TIMESTEPS = 20261125, 48, (100, 200, 300, 500, 700)
TOLERANCE, CLUSTERS_TOLERANCE, ENDS_TOLERANCE, CLUSTERS_MEAN_TOLERANCE = 0.005, 0.03, 0.15, 0.01
"""How far a quick score may be from the published one. An AMD and an Intel processor agree in shares to 1e-5. Scores of
clusters, means over starts of k-means, differ by less than 0.01 between instruction sets; the ends of their intervals,
which are single starts on the most unusual of 50 resamples, by up to 0.04."""
QUANTITIES = {"qk": ("query", "key"), "vv": ("value",), "qk_unrotated": ("query_unrotated", "key_unrotated")}
CLUSTERED = ("matched_miou", "overclustered_miou", "ari")
Scores = dict[str, dict[str, dict[str, list[float | None]]]]
"""kind -> row -> score -> estimate and both ends of its interval; None where there is none."""


@dataclass(frozen=True)
class Places:
    """Where results go."""

    docs: Path = ROOT / "docs"
    kept: Path = ROOT / "out" / "scores"
    trial: bool = False
    """Whether the models' own records are left alone."""


# --- measuring -------------------------------------------------------------------------------------------------------


def kinds_of(model: Any) -> tuple[str, ...]:
    """The kinds of affinity that are scored: QK before the rotation too, where there is one."""
    return tuple(kind for kind in KINDS if kind != "qk_unrotated" or "query_unrotated" in model.quantities)


def measure(
    model: Any,
    n_scenes: int,
    *,
    seed: int = SEED,
    layers: Any = "all",
    controlled: tuple[str, ...] = tuple(KINDS),
    kept: Path | None = None,
    say: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Every score of one model on the first scenes of a series, as plain numbers; kept kind by kind in a folder.

    Kinds that are not ``controlled`` have no controls beside them.
    """
    import spectral_toolkit as st

    kinds = options.pop("kinds", None) or kinds_of(model)
    about = {"weights_sha256": model.weights_sha256(), "config_sha256": model.config_sha256()}
    settings = {**about, "scenes": n_scenes, "seed": seed, "layers": str(layers), "controlled": controlled}
    settings |= {"options": options, "code": _code()}
    quantities = [name for kind in kinds for name in QUANTITIES[kind]]

    @cache
    def captured() -> tuple[Any, Any]:
        scenes = st.scenes.sample(n_scenes, seed=seed)
        activations = st.capture(model, scenes["pixels"], layers=layers, quantities=quantities, progress=False)
        return activations, scenes["label"]

    def one(kind: str) -> dict[str, Any]:
        began = time.process_time()
        activations, labels = captured()
        controls = kind in controlled
        found = st.pathways(activations, labels, kinds=kind, model=model, controls=controls, progress=say, **options)
        return {**_plain(found, kind), "processor_seconds": round(time.process_time() - began, 1)}

    parts = {}
    for kind in kinds:
        key = hashlib.sha256(json.dumps([settings, kind], sort_keys=True).encode()).hexdigest()[:24]
        file = None if kept is None else kept / f"{model.name}-{n_scenes}-{kind}-{key}.json"
        if file is not None and file.exists():
            parts[kind] = json.loads(file.read_text())
            continue
        parts[kind] = one(kind)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".part").write_text(json.dumps(parts[kind]))
            file.with_suffix(".part").replace(file)
    return {
        **about,
        "scenes": n_scenes,
        "seed": seed,
        "kernel": " and ".join(dict.fromkeys(part["kernel"] for part in parts.values())),
        "notes": _once(" ".join(part["notes"] for part in parts.values() if part["notes"])),
        "roles": {row: role for part in parts.values() for row, role in part["roles"].items()},
        "processor_seconds": {kind: part["processor_seconds"] for kind, part in parts.items()},
        "scores": {kind: part["scores"] for kind, part in parts.items()},
    }


def _once(notes: str) -> str:
    """Every sentence once: the kinds have some in common."""
    return " ".join(dict.fromkeys(re.split(r"(?<=\.) ", notes)))


def _plain(found: Any, kind: str) -> dict[str, Any]:
    rows = [str(row) for row in found["layer"].values]

    def numbers(score: str, row: str) -> list[float | None]:
        values = [float(found[f"{score}{end}"].sel(kind=kind, layer=row)) for end in ("", "_low", "_high")]
        return [round(value, 6) if math.isfinite(value) else None for value in values]

    return {
        "scores": {row: {score: numbers(score, row) for score in SHOWN} for row in rows},
        "roles": {row: str(role) for row, role in zip(rows, found["role"].values, strict=True)},
        "notes": found.attrs["notes"],
        "kernel": found.attrs["kernel"],
    }


def _code() -> str:
    """Hash of our code: what was kept by another version is measured again."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "spectral_toolkit").rglob("*.py")):
        if not {"_views", "_explorer", "_render"} & set(path.relative_to(ROOT).parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def choose_noise(
    model: Any,
    *,
    timesteps: tuple[int, ...] = TIMESTEPS,
    n_scenes: int = N_NOISE,
    kept: Path | None = None,
    say: bool = False,
) -> dict[str, Any]:
    """The noise level at which QK where and VV what, of all layers jointly, add up to most; on other scenes."""
    from spectral_toolkit._models.diffusion.noising import steps_of

    found = {}
    for timestep in timesteps:
        level = timestep / steps_of(model.scheduler)
        if say:
            print(f"{model.name}: noise {level:g}, {n_scenes} scenes of seed {NOISE_SEED}", file=sys.stderr, flush=True)
        options: dict[str, Any] = {"kinds": ("qk", "vv"), "controlled": (), "n_bootstrap": 1}
        scores = measure(model.at(timesteps=timestep), n_scenes, seed=NOISE_SEED, kept=kept, **options)["scores"]
        found[f"{level:g}"] = {
            kind: {score: scores[kind][JOINT][score][0] for score in ("where", "what")} for kind in scores
        }
    best = max(found, key=lambda level: found[level]["qk"]["where"] + found[level]["vv"]["what"])
    return {
        "chosen": float(best),
        "how": "as the one at which the sum of QK where and VV what, over all layers jointly, is largest",
        "scenes": n_scenes,
        "seed": NOISE_SEED,
        "weights_sha256": model.weights_sha256(),
        "levels": found,
    }


def at_chosen_noise(model: Any, n_scenes: int, places: Places) -> tuple[Any, dict[str, Any] | None]:
    """The model at the noise chosen for it, and how that was chosen; other models as they are."""
    from spectral_toolkit._models.diffusion.noising import steps_of

    if not hasattr(model, "at"):
        return model, None
    noise = choose_noise(model, n_scenes=min(N_NOISE, n_scenes), kept=places.kept, say=True)
    return model.at(timesteps=round(noise["chosen"] * steps_of(model.scheduler))), noise


def measure_quickly(model: Any, n_scenes: int = N_QUICK, **options: Any) -> dict[str, Any]:
    """What a test measures again: few scenes, the last two layers, all kinds, and the controls of one of them."""
    return measure(model, n_scenes, layers=slice(-2, None), controlled=("vv",), n_bootstrap=50, **options)


def differences(found: Scores, wanted: Scores) -> list[str]:
    """What a second measurement found otherwise, one sentence each."""
    told, clusters = [], []
    for kind, rows in wanted.items():
        if set(found.get(kind, {})) != set(rows):
            told.append(f"{kind}: rows {sorted(found.get(kind, {}))}, published {sorted(rows)}")
            continue
        for row, scores in rows.items():
            for score, values in scores.items():
                tolerances = (
                    (CLUSTERS_TOLERANCE, ENDS_TOLERANCE, ENDS_TOLERANCE) if score in CLUSTERED else (TOLERANCE,) * 3
                )
                for value, old, most in zip(found[kind][row][score], values, tolerances, strict=True):
                    far = abs((value or 0) - (old or 0))
                    clusters += [far] if score in CLUSTERED else []
                    if (value is None) != (old is None) or far > most:
                        told.append(f"{kind}, {row}, {score}: {value}, published {old}")
    if clusters and sum(clusters) / len(clusters) > CLUSTERS_MEAN_TOLERANCE:
        told.append(f"scores of clusters differ by {sum(clusters) / len(clusters):.3f} on average")
    return told


# --- publishing ------------------------------------------------------------------------------------------------------


def publish(names: list[str], places: Places, *, n_scenes: int = N_SCENES, n_quick: int = N_QUICK) -> dict[str, Any]:
    """Measure what is missing or out of date, and write everything after every model."""
    import spectral_toolkit as st
    from spectral_toolkit._models import loading

    target = places.docs / "scores.json"
    published = json.loads(target.read_text()) if target.exists() else {}
    for number, name in enumerate(names, 1):
        model: Any = st.load_model(name)
        title = f"{name} ({number} of {len(names)})"
        entry = published.get(name, {})
        record = json.loads(loading.training_record(name).read_text()) if loading.training_record(name).exists() else {}
        model, noise = at_chosen_noise(model, n_scenes, places)
        if noise is not None and not places.trial and record.get("noise") != noise["chosen"]:
            record |= {"noise": noise["chosen"], "noise_chosen": f"by docs/scores.py, {noise['how']}"}
            loading.training_record(name).write_text(json.dumps(record, indent=1) + "\n")
        _tell(f"{title}: {n_quick} scenes, quick")
        quick = measure_quickly(model, n_quick, kept=places.kept)
        current = (
            entry.get("noise") == noise
            and entry.get("full", {}).get("scenes") == n_scenes
            and all(
                entry["full"][key] == entry["quick"][key] == quick[key] for key in ("weights_sha256", "config_sha256")
            )
            and not differences(quick["scores"], entry["quick"]["scores"])
        )
        if current:
            _tell(f"{title}: as published")
            continue
        _tell(f"{title}: {n_scenes} scenes, {', '.join(kinds_of(model))}")
        full = measure(model, n_scenes, kept=places.kept, say=True)
        published[name] = {
            "full": full,
            "quick": quick,
            **({} if noise is None else {"noise": noise}),
            **({"trained": model.training} if model.training else {}),
        }
        places.docs.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(published, indent=1) + "\n")
        render(published, places.docs)
        seconds = sum(full["processor_seconds"].values())
        _tell(f"{title}: done, {seconds:.0f} s of processor time for {n_scenes} scenes")
    render(published, places.docs)
    return published


def _tell(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line."""
    from spectral_toolkit._models import bundled_models

    parser = argparse.ArgumentParser(description="Publish the bundled models' scores.")
    parser.add_argument("models", nargs="*", help="bundled models; all by default")
    parser.add_argument("--render", action="store_true", help="only render what is in docs/scores.json")
    parser.add_argument("--scenes", type=int, default=N_SCENES, help="for a trial, with --into")
    parser.add_argument("--into", type=Path, help="a folder for a trial; nothing is written elsewhere")
    arguments = parser.parse_args()
    places = Places()
    if arguments.into is not None:
        into = arguments.into
        places = Places(into, into / "kept", trial=True)
        into.mkdir(parents=True, exist_ok=True)
    elif arguments.scenes != N_SCENES:
        parser.error("--scenes is for trials: give --into, so that nothing of it is published.")
    if arguments.render:
        render(json.loads((places.docs / "scores.json").read_text()), places.docs)
        return
    publish(arguments.models or list(bundled_models()), places, n_scenes=arguments.scenes)


if __name__ == "__main__":
    main()
