"""Trains the bundled generative model ``scenes-diffusion`` on one CPU core.

    python -m training.diffusion --out runs/scenes-diffusion

`flow` says what the model is. It learns to see the clean image behind noise, told (mostly) which kinds of objects are
in it and how many, never where. The recipe is an ordinary one: AdamW, one weight decay for all matrices, one loss, and
nothing that names queries, keys, values, blocks or positions.
Every draw of a step comes from the seed and the step's number alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectral_toolkit.scenes import PATCH
from spectral_toolkit.scenes.flow import MEAN, STD, build, predict, to_tokens
from training import shared
from training.shared import Run, Task, varied


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, apart from its length in minutes."""

    seed: int = 20261123
    n_scenes: int = 10_000
    size: int = 96
    batch: int = 32
    steps: int = 8_000
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 100
    falls_from: float = 0.5  # share of the run after which the learning rate falls
    width: int = 128
    layers: int = 6
    heads: int = 4
    noise_mean: float = 0.0  # of the noise level's logit
    noise_std: float = 1.2
    heaviest: float = 6.0  # largest weight 1 / t^2 of a picture's error
    no_caption: float = 0.25  # share of pictures without their caption
    keep: float = 0.5  # share of the patches that a step shows: cheaper, and a thing is seldom seen whole
    average: float = 0.995  # of the weights that are kept in the end


def _build(recipe: Recipe) -> dict[str, torch.nn.Module]:
    return {"model": build(recipe.layers, recipe.heads, recipe.width)}


def losses(run: Run, pictures: np.ndarray, captions: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The terms of one step's loss; their sum is minimised."""
    recipe = run.recipe
    values = varied(pictures, rng)
    n, grid = len(values), (recipe.size // PATCH, recipe.size // PATCH)
    clean = to_tokens((values - MEAN) / STD)
    logit = recipe.noise_mean + recipe.noise_std * rng.standard_normal(n)
    level = torch.from_numpy((1 / (1 + np.exp(-logit))).astype(np.float32))
    n_patches = clean.shape[1]
    kept = torch.from_numpy(rng.permutation(n_patches)[: round(recipe.keep * n_patches)])
    clean = clean[:, kept]
    noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
    counts = captions * (rng.random(n) >= recipe.no_caption)[:, None]

    t = level[:, None, None]
    answer = predict(run.model, (1 - t) * clean + t * noise, level, counts, grid, kept)
    # The error of the velocity is that of the clean image over t.
    error = (answer - clean).square().mean((1, 2))
    return {"velocity": (error * (level**-2).clamp(max=recipe.heaviest)).mean()}


def _export(run: Run, folder: Path) -> dict[str, Any]:
    """Write the averaged weights as an ordinary diffusers pipeline folder, in float16."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    finished = build(run.recipe.layers, run.recipe.heads, run.recipe.width)
    finished.load_state_dict(run.averaged)
    finished.half().save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "SpectralToolkitScenesDiffusion",
        "_diffusers_version": version("diffusers"),
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return {"stored_as": "float16", "versions": {"diffusers": version("diffusers")}}


TASK = Task(
    program="training.diffusion",
    about=str(__doc__),
    recipe=Recipe,
    build=_build,
    losses=losses,
    hold=lambda recipe: recipe.falls_from,
    export=_export,
)

if __name__ == "__main__":
    shared.main(TASK)
