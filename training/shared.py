"""What the trainings of all bundled models share: steps, checkpoints, the record of a run, the command line.

A training module gives a `Task`: its recipe, its model and its losses. Every draw of a step comes from the seed and the
step's number alone, so a run that was interrupted and resumed gives the weights of one that was not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from training.series import cached_series

CHECKPOINT = "checkpoint.safetensors"
KEPT = ("step", "seconds", "progress", "commands", "curve")
ROW = 40
"""Steps that are averaged into one row of the curve."""


@dataclass
class Run:
    """The state of a training run.

    ``modules`` are what is trained, by the name that stands before their parameters in a checkpoint; the first is the
    model. ``averaged`` are its weights averaged over the last steps, empty where the recipe has no ``average``.
    """

    recipe: Any
    modules: dict[str, torch.nn.Module]
    optimizer: torch.optim.AdamW
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    progress: float = 0.0  # share of the run that is behind us, 0..1
    commands: list[str] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def model(self) -> Any:
        return next(iter(self.modules.values()))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{prefix}.{name}": value
            for prefix, module in self.modules.items()
            for name, value in module.named_parameters()
        }


@dataclass(frozen=True)
class Task:
    """What one training module is about.

    ``build`` gives the modules of a recipe; ``losses`` the terms of a step; ``hold`` the share of a recipe's run after
    which the learning rate falls; ``export`` writes the finished model and returns facts for its record.
    """

    program: str
    about: str
    recipe: type
    build: Callable[[Any], dict[str, torch.nn.Module]]
    losses: Callable[[Run, np.ndarray, np.ndarray, np.random.Generator], dict[str, torch.Tensor]]
    hold: Callable[[Any], float]
    export: Callable[[Run, Path], dict[str, Any]]


def varied(pictures: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Flip ``(image, y_px, x_px, rgb)`` uint8 pictures and swap their colours; ``(image, rgb, y_px, x_px)`` in 0..1."""
    n = len(pictures)
    flipped = np.where((rng.random(n) < 0.5)[:, None, None, None], pictures[:, :, ::-1], pictures)
    values = torch.from_numpy(flipped.astype(np.float32) / 255).permute(0, 3, 1, 2)
    swapped = torch.from_numpy(np.stack([rng.permutation(3) for _ in range(n)]))
    return values.gather(1, swapped[:, :, None, None].expand_as(values))


def start(task: Task, recipe: Any) -> Run:
    """Build everything from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    run = Run(recipe, task.build(recipe), torch.optim.AdamW([torch.zeros(1)]))
    # Matrices alone fall towards zero: what they are not needed for, biases, tokens and positions do.
    groups: dict[float, list[torch.nn.Parameter]] = {recipe.weight_decay: [], 0.0: []}
    for name, value in run.parameters().items():
        groups[recipe.weight_decay if value.ndim > 1 and name.endswith(".weight") else 0.0].append(value)
    run.optimizer = torch.optim.AdamW(
        [{"params": values, "weight_decay": decay} for decay, values in groups.items()],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    if getattr(recipe, "average", 0):
        run.averaged = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    return run


def learning_rate(task: Task, recipe: Any, step: int, progress: float) -> float:
    """Warm up, hold, then fall along a cosine to nearly nothing."""
    hold = task.hold(recipe)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (progress - hold) / (1 - hold)))))
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * max(fall, 0.003)


def train_step(task: Task, run: Run, pictures: np.ndarray, captions: np.ndarray) -> dict[str, float]:
    """One step of AdamW; returns the terms of the loss."""
    rng = np.random.default_rng((run.recipe.seed, run.step))
    chosen = rng.integers(0, len(pictures), run.recipe.batch)
    rate = learning_rate(task, run.recipe, run.step, run.progress)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    terms = task.losses(run, pictures[chosen], captions[chosen], rng)
    run.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(list(run.parameters().values()), 1.0)
    run.optimizer.step()
    run.step += 1
    if run.averaged:
        keep = min(run.recipe.average, run.step / (run.step + 9))
        with torch.no_grad():
            for name, value in run.model.named_parameters():
                run.averaged[name].lerp_(value, 1 - keep)
    return {name: value.item() for name, value in terms.items()} | {"learning_rate": rate}


def save_checkpoint(run: Run, path: Path) -> None:
    """Write everything a later run needs to go on, in one safetensors file, all or nothing."""
    tensors = {f"averaged.{name}": value for name, value in run.averaged.items()}
    for name, value in run.parameters().items():
        tensors[f"weight.{name}"] = value.detach()
        for key, state in run.optimizer.state.get(value, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(state)
    facts = {"recipe": asdict(run.recipe)} | {key: getattr(run, key) for key in KEPT}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"run": json.dumps(facts)})
    os.replace(partial, path)


def load_checkpoint(task: Task, path: Path, changed: dict[str, Any] | None = None) -> Run:
    """Read a run back; ``changed`` replaces entries of its recipe that do not change the shape of the model."""
    with safe_open(path, framework="pt") as stored:
        facts = json.loads(stored.metadata()["run"])
        run = start(task, task.recipe(**(facts["recipe"] | (changed or {}))))
        names = set(stored.keys())
        for name, value in run.parameters().items():
            value.data.copy_(stored.get_tensor(f"weight.{name}"))
            states = {key: f"optimizer.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if states["step"] in names:
                run.optimizer.state[value] = {key: stored.get_tensor(state) for key, state in states.items()}
        run.averaged = {name: stored.get_tensor(f"averaged.{name}") for name in run.averaged}
    for key in KEPT:
        setattr(run, key, facts[key])
    return run


def in_a_sentence(recipe: Any) -> str:
    """What every page says that shows the model."""
    return (
        f"By an ordinary recipe: {recipe.steps:,} steps of AdamW on {recipe.n_scenes:,} generated scenes, one weight "
        f"decay ({recipe.weight_decay:g}) for all matrices, seed {recipe.seed}; no term of the loss names queries, "
        "keys, values, layers or positions."
    )


def export(task: Task, run: Run, folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Write the model, and how it came about beside it in ``training.json``; ``facts`` are added to the record."""
    folder.mkdir(parents=True, exist_ok=True)
    own = task.export(run, folder)
    record = {
        "in_a_sentence": in_a_sentence(run.recipe),
        "recipe": asdict(run.recipe),
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "parameters": sum(value.numel() for value in run.model.parameters()),
        "commands": run.commands,
        **own,
        **(facts or {}),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")} | own.get("versions", {}),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "curve": [
            {key: round(value, 6) for key, value in row.items()} for row in run.curve[:: max(1, len(run.curve) // 150)]
        ],
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train(
    task: Task, run: Run, out: Path, *, minutes: float | None, save_every: float, stop_at_step: int | None = None
) -> Run:
    """Train until the recipe's steps or the minutes are over, saving a checkpoint every ``save_every`` minutes."""
    pictures, captions = cached_series(out, run.recipe.seed, run.recipe.n_scenes, run.recipe.size)
    recent: list[dict[str, float]] = []
    last_save = last = time.monotonic()
    while True:
        run.progress = run.step / run.recipe.steps
        if minutes is not None:
            run.progress = max(run.progress, run.seconds / 60 / minutes)
        if run.progress >= 1 or run.step == stop_at_step:
            break
        recent.append(train_step(task, run, pictures, captions))
        now = time.monotonic()
        run.seconds += now - last
        last = now
        if len(recent) == ROW:
            row = {"step": run.step, "minutes": run.seconds / 60}
            for name in sorted({name for terms in recent for name in terms}):
                row[name] = float(np.mean([terms[name] for terms in recent if name in terms]))
            run.curve.append(row)
            recent = []
            print(" ".join(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
        if now - last_save > 60 * save_every:
            save_checkpoint(run, out / CHECKPOINT)
            last_save = now
    save_checkpoint(run, out / CHECKPOINT)
    return run


def main(task: Task, arguments: Sequence[str] | None = None) -> None:
    """Command line of a training module."""
    parser = argparse.ArgumentParser(prog=f"python -m {task.program}", description=task.about)
    parser.add_argument("--out", type=Path, required=True, help="folder for the rendered scenes and checkpoints")
    parser.add_argument("--export", type=Path, help="folder for the trained model (default: OUT/export)")
    parser.add_argument("--minutes", type=float, help="length of the whole run; the schedule is fitted to it")
    parser.add_argument("--save-every", type=float, default=4.0, help="minutes between checkpoints")
    parser.add_argument("--stop-at-step", type=int, help="stop here, as if interrupted")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")
    for entry in fields(task.recipe):
        action: dict[str, Any] = {"type": type(entry.default)}
        if isinstance(entry.default, bool):
            action = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            "--" + entry.name.replace("_", "-"), default=None, help=f"default {entry.default}", **action
        )
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    chosen = {e.name: getattr(options, e.name) for e in fields(task.recipe) if getattr(options, e.name) is not None}
    if options.resume:
        run = load_checkpoint(task, options.out / CHECKPOINT, chosen)
    else:
        run = start(task, task.recipe(**chosen))
    run.commands.append(_command(task, options))
    length = {"minutes": options.minutes, "save_every": options.save_every, "stop_at_step": options.stop_at_step}
    run = train(task, run, options.out, **length)
    export(task, run, options.export or options.out / "export")


def _command(task: Task, options: argparse.Namespace) -> str:
    """The command that was run, with folders by their names only."""
    words = [f"python -m {task.program}"]
    for name, value in vars(options).items():
        flag = "--" + name.replace("_", "-")
        if value is None or (value is False and name == "resume"):
            continue
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words.append(f"{flag} {value.name if isinstance(value, Path) else value}")
    return " ".join(words)
