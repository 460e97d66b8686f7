"""Noise: timesteps, random numbers and their amount, as a scheduler adds them to an image during training."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from ...errors import SpectralToolkitError, UnsupportedModelError
from ..untyped import Untyped, untyped
from .protocols import Configured

BETWEEN = (0, 250)
"""By default, timesteps are drawn from this range of 1000, which is that of the source paper."""
N_TIMESTEPS = 4
"""How many are drawn by default, which is our choice: more give smoother affinities and larger captures."""


def steps_of(scheduler: Configured) -> int:
    """Number of timesteps with which the model was trained."""
    return int(scheduler.config.num_train_timesteps)


def drawn_timesteps(between: tuple[int, int], n: int, total: int, seed: int) -> tuple[int, ...]:
    """Draw ``n`` different timesteps from the range, both ends included, in order.

    Examples
    --------
    >>> drawn_timesteps((0, 250), 3, 1000, seed=0) == drawn_timesteps((0, 250), 3, 1000, seed=0)
    True
    """
    low, high = between
    numbers = range(low, min(high, total - 1) + 1)
    if not 0 <= low <= high or not 1 <= n <= len(numbers):
        raise SpectralToolkitError(
            f"n_timesteps={n} of between={between} cannot be drawn: expected two whole numbers from 0 to {total - 1}, "
            "the smaller first, and at most as many timesteps as the range holds."
        )
    return tuple(sorted(np.random.default_rng([seed, 0]).choice(np.array(numbers), n, replace=False).tolist()))


def noise_of(picture: np.ndarray, numbers: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise that depends on the image's bytes and on ``numbers``, such as a seed, and on nothing else."""
    digest = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest()
    rng = np.random.default_rng([*numbers, int.from_bytes(digest[:8], "little")])
    return rng.standard_normal(shape).astype(np.float32)


def check_scheduler(scheduler: Configured) -> None:
    """Raise ``UnsupportedModelError`` unless it is known how the scheduler adds noise during training."""
    if not hasattr(scheduler, "alphas_cumprod") and not _flows(scheduler) and not _of_sigmas(scheduler):
        raise UnsupportedModelError(
            f"{type(scheduler).__name__} adds noise in a way that is not known here: give a scheduler of diffusers "
            "that follows betas (DDPM, DDIM, PNDM, Euler and the like) or a flow (FlowMatchEuler and the like)."
        )


def noised(scheduler: Configured, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
    """Latents as the denoiser saw them at ``timestep`` during training.

    Schedulers differ in how they remove noise, but not in how they add it: a flow mixes linearly, and all others are
    DDPM, whose diffusers class is created from the scheduler's own betas. The scheduler itself, which may be set to a
    few inference steps, is not changed.
    """
    if _of_sigmas(scheduler):
        sigma = _sigma(scheduler, timestep)
        return (latents + sigma * noise) / (sigma**2 + scheduler.config.sigma_data**2) ** 0.5
    if _flows(scheduler):
        level = timestep / steps_of(scheduler)
        return (1 - level) * latents + level * noise
    return _training(scheduler).add_noise(latents, noise, torch.full((len(latents),), timestep, device=latents.device))


def unnoised(scheduler: Configured, noisy: torch.Tensor, predicted: torch.Tensor, timestep: int) -> torch.Tensor | None:
    """The clean latents that follow from a prediction; None where it is not known what is predicted.

    The opposite of `noised`: a flow predicts noise minus latents, all others what their scheduler says.
    """
    if _of_sigmas(scheduler):
        return None
    if _flows(scheduler):
        return noisy - timestep / steps_of(scheduler) * predicted
    kept = float(_training(scheduler).alphas_cumprod[timestep])
    signal, noise = kept**0.5, (1 - kept) ** 0.5
    kinds = {
        "epsilon": (noisy - noise * predicted) / signal,
        "sample": predicted,
        "v_prediction": signal * noisy - noise * predicted,
    }
    return kinds.get(scheduler.config.get("prediction_type", "epsilon"))


def _training(scheduler: Configured) -> Untyped:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return untyped(DDPMScheduler).from_config(scheduler.config)


def told_time(scheduler: Configured, timestep: int) -> float:
    """What a denoiser is given of a timestep: its number, or a function of the amount of noise."""
    if not _of_sigmas(scheduler):
        return timestep
    told = 0.25 * math.log(_sigma(scheduler, timestep))
    return 1000 * told if "Consistency" in type(scheduler).__name__ else told


def _of_sigmas(scheduler: Configured) -> bool:
    """Whether the amount of noise has no upper limit, as in Karras et al. 2022 (EDM, consistency models)."""
    return scheduler.config.get("sigma_data") is not None and scheduler.config.get("sigma_max") is not None


def _sigma(scheduler: Configured, timestep: int) -> float:
    """The amount of noise at a timestep: from the least at 0 to the most at the last."""
    config = scheduler.config
    low, high = (value ** (1 / (config.get("rho") or 7.0)) for value in (config.sigma_min, config.sigma_max))
    return float((low + timestep / (steps_of(scheduler) - 1) * (high - low)) ** (config.get("rho") or 7.0))


def _flows(scheduler: Configured) -> bool:
    config = scheduler.config
    return (
        hasattr(scheduler, "scale_noise")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )
