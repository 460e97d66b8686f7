"""Trains the bundled generative model ``scenes-diffusion`` on one CPU core.

    python -m training.diffusion --out runs/scenes-diffusion --minutes 60

`flow` says what the model is. It learns to see the clean picture behind noise, told (mostly) which kinds of things are
in it and how many, never where. With ``--align`` all blocks but the last are also asked, by one linear map each, for
what the bundled model ``scenes`` sees in the clean picture (representation alignment, Yu et al. 2025,
https://arxiv.org/abs/2410.06940); the maps are not part of the finished model.
Every draw of a step comes from the seed and the step's number alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectral_toolkit.scenes import PATCH
from spectral_toolkit.scenes.flow import MEAN, STD, build, predict, to_tokens
from training import shared as training
from training.shared import Run, Task, varied, watching

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, apart from its length in minutes."""

    seed: int = 20261123
    n_scenes: int = 10_000
    size: int = 96
    batch: int = 32
    steps: int = 4_000
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    query_decay: float = 0.0  # weight decay of the matrices of patches' queries; 0: as of all others
    key_decay: float = 0.0  # and of patches' keys
    slow: float = 1.0  # of the learning rate is what they learn at after the hold
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
    align: float = 0.0  # weight of the alignment of each block but the last with the bundled model `scenes`
    bfloat16: bool = False  # matrix products in training; six to ten times slower where the processor has no such unit


def _build(recipe: Recipe) -> tuple[dict[str, torch.nn.Module], Any]:
    modules: dict[str, torch.nn.Module] = {"model": build(recipe.layers, recipe.heads, recipe.width)}
    if not recipe.align:
        return modules, None
    from transformers import AutoModel

    teacher = AutoModel.from_pretrained(WEIGHTS / "scenes").eval().requires_grad_(False)
    maps = {str(b): torch.nn.Linear(recipe.width, teacher.config.hidden_size) for b in range(recipe.layers - 1)}
    return modules | {"maps": torch.nn.ModuleDict(maps)}, teacher


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

    maps: Any = run.modules.get("maps", {})
    blocks = {block: run.model.transformer_blocks[int(block)] for block in maps}
    with watching(blocks) as seen, torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        t = level[:, None, None]
        answer = predict(run.model, (1 - t) * clean + t * noise, level, counts, grid, kept)
    # The error of the velocity is that of the clean picture over t.
    error = (answer.float() - clean).square().mean((1, 2))
    terms = {"velocity": (error * (level**-2).clamp(max=recipe.heaviest)).mean()}
    if seen:
        with torch.no_grad():
            truth = run.teacher((values - 0.5) / 0.25).last_hidden_state[:, -n_patches:][:, kept].float()
            truth = truth - truth.mean((0, 1))
        for block, (_, tokens) in seen.items():
            likeness = torch.nn.functional.cosine_similarity(maps[block](tokens.float()), truth, dim=-1)
            terms[f"align_block{block}"] = recipe.align * (1 - likeness).mean()
    return terms


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
    facts: dict[str, Any] = {"stored_as": "float16", "versions": {"diffusers": version("diffusers")}}
    if run.recipe.align:
        digest = hashlib.sha256((WEIGHTS / "scenes" / "model.safetensors").read_bytes()).hexdigest()
        facts["aligned_with"] = {"model": "scenes", "weights_file_sha256": digest}
    return facts


TASK = Task(
    program="training.diffusion",
    about=str(__doc__),
    recipe=Recipe,
    build=_build,
    losses=losses,
    hold=lambda recipe: recipe.falls_from,
    export=_export,
    queries="to_q",
    keys="to_k",
)

if __name__ == "__main__":
    training.main(TASK)
