"""Trains the bundled models ``scenes`` and ``scenes-absolute``, each on one CPU core.

    python -m training.scenes --out runs/scenes
    python -m training.scenes --out runs/scenes-absolute --positions absolute

`backbones` says what they are: twins but for where positions enter. `objectives` says what they are asked. The recipe
is an ordinary one, and the same for both: AdamW, one weight decay for all matrices, and no term that names queries,
keys, values, layers or positions. Every draw of a step comes from the seed and the step's number alone, so both see the
same images, and a run that was interrupted and resumed gives the weights of one that was not (as long as the length is
given in steps; a length in minutes depends on the machine).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from spectral_toolkit.scenes import PATCH
from spectral_toolkit.scenes.compose import CATEGORIES
from training import shared
from training.backbones import build, encode
from training.objectives import (
    Heads,
    caption_loss_patches,
    caption_loss_picture,
    grey,
    patch_gradients,
    patch_pixels,
)
from training.shared import Run, Task, varied

# Pixels in 0..1 are shifted and scaled by these before they enter the model.
MEAN, STD = 0.5, 0.25
# How much is seen and asked in a step of the second phase, as shares of the patches, and how often.
CAPTION_MIXES = ((0.35, 0.3), (0.5, 0.25), (0.75, 0.15))
CAPTION_ODDS = (0.4, 0.35, 0.25)
PIXEL_MIX = (0.35, 0.28)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, apart from its length in minutes."""

    seed: int = 20261123
    n_scenes: int = 10_000
    size: int = 96
    batch: int = 32
    steps: int = 8_000
    first_phase: float = 0.5  # share of the run that goes to masked pixels
    learning_rate: float = 1.0e-3
    weight_decay: float = 0.1
    warmup: int = 250
    width: int = 128
    layers: int = 6
    heads: int = 4
    registers: int = 4
    positions: str = "rotary"
    patches: float = 1.0  # weight of the captions asked of patches
    shift: float = 0.7  # the mean colour of every patch is moved by up to this
    grain: float = 0.25  # standard deviation of the noise added to pixels, up to this


def _build(recipe: Recipe) -> dict[str, torch.nn.Module]:
    shape = {name: getattr(recipe, name) for name in ("size", "width", "layers", "heads", "registers")}
    return {
        "backbone": build(recipe.positions, **shape),
        "heads": Heads(recipe.width, PATCH, len(CATEGORIES)),
    }


def augment(pictures: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Flip and recolour ``(image, y_px, x_px, rgb)`` uint8 pictures; returns ``(image, rgb, y_px, x_px)`` in 0..1."""
    n, values = len(pictures), varied(pictures, rng)
    paleness, gain, offset = (
        torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))
        for low, high in ((0.0, 0.8), (0.75, 1.2), (-0.08, 0.08))
    )
    values = values + paleness * (values.mean(1, keepdim=True) - values)
    return (values * gain + offset).clamp(0, 1)


def disturb(pictures: torch.Tensor, rng: np.random.Generator, shift: float, grain: float) -> torch.Tensor:
    """Move the mean colour of every patch on its own and add noise, to some pictures more than to others.

    Without this the mean colour, much the same all over a picture, tells the early layers little but which picture
    they look at. The targets are made from the pictures before they are disturbed.
    """
    n, _, height, width = pictures.shape
    strength = rng.uniform(0, shift, (n, 1, 1, 1))
    shifts = torch.from_numpy(
        (strength * rng.uniform(-1, 1, (n, 3, height // PATCH, width // PATCH))).astype(np.float32)
    )
    noise = rng.standard_normal(pictures.shape, dtype=np.float32)
    noise *= rng.uniform(0, grain, (n, 1, 1, 1)).astype(np.float32)
    return pictures + shifts.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3) + torch.from_numpy(noise)


def draw_places(
    rng: np.random.Generator, n_images: int, n_patches: int, mix: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which patches are seen and which are asked, drawn for each picture."""
    order = torch.from_numpy(rng.random((n_images, n_patches)).argsort(1))
    n_seen, n_asked = (round(share * n_patches) for share in mix)
    return order[:, :n_seen], order[:, n_seen : n_seen + n_asked]


def losses(run: Run, pictures: np.ndarray, captions: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The terms of one step's loss; their sum is minimised."""
    recipe = run.recipe
    backbone, heads = run.model, cast(Heads, run.modules["heads"])
    augmented = augment(pictures, rng)
    n_patches = (recipe.size // PATCH) ** 2
    first = run.progress < recipe.first_phase
    mix = PIXEL_MIX if first else CAPTION_MIXES[rng.choice(len(CAPTION_MIXES), p=CAPTION_ODDS)]
    seen, asked = draw_places(rng, len(augmented), n_patches, mix)
    shifted = (disturb(augmented, rng, recipe.shift, recipe.grain) - MEAN) / STD
    last = encode(backbone, shifted, seen, asked)
    n_special = 1 + recipe.registers
    n_shown = n_special + seen.shape[1]
    hidden = last[:, n_shown:]
    luma = grey(augmented)
    pixels = (heads.pixels(hidden) - _at(patch_pixels(luma, PATCH), asked)).square().mean()
    if first:
        return {"pixels": pixels}

    counts = torch.from_numpy(captions.astype(np.int64))
    gradients = heads.gradients(hidden) - patch_gradients(luma, PATCH, asked)
    terms = {
        "pixels": pixels,
        "gradients": gradients.square().sum(-1).mean(),
        "caption_picture": caption_loss_picture(heads.picture(last[:, 0]), counts),
    }
    if recipe.patches:
        named = heads.patches_last(last[:, n_special:])
        terms["caption_patches"] = recipe.patches * caption_loss_patches(named, counts, mix[0])
    return terms


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


def _export(run: Run, folder: Path) -> dict[str, Any]:
    """Write the model as an ordinary transformers folder."""
    run.model.save_pretrained(folder)
    # DINOv3's own processor needs torchvision; this one does the same steps and falls back to Pillow.
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": run.recipe.size, "width": run.recipe.size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return {}


TASK = Task(
    program="training.scenes",
    about=str(__doc__),
    recipe=Recipe,
    build=_build,
    losses=losses,
    hold=lambda recipe: recipe.first_phase,
    export=_export,
)

if __name__ == "__main__":
    shared.main(TASK)
