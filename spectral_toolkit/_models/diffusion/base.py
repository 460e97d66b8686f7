"""What all denoisers of diffusers share: a picture is encoded, noised, and shown to the denoiser with a prompt.

How to add a family: a file beside this one with a subclass of ``DiffusionModel``, and a line in ``families.py``. The
class fills in

``find_layers()``
    names of the layers, in order of execution; each must name a module;
``attention_of(layer)``
    the module of the layer that holds ``processor`` (the layer itself, unless it says otherwise);
``block_of(layer)``
    the module whose output is the residual stream after the layer (what contains the layer);
``layer_shape(layer, size)``
    the layer's grid, heads and widths for pictures of ``size``;
``size_step``
    what height and width in pixels must be multiples of, unless it is the VAE's factor alone;
``conditioning(size)``
    what the denoiser is told beside noisy latents and timestep, for one picture: a dictionary of tensors (1, ...), or
    of anything else that is handed on as it is. ``encoded_prompt()`` asks the pipeline's own text encoders; where there
    are none, zeros of the right width;
``denoise(latents, timestep, conditioning)``
    one forward pass; tensors of the conditioning are repeated to the number of pictures;
``special_tokens``, ``special_tokens_of(layer, quantity)``, ``tokens_of(layer, seen)`` and ``token_of(layer, output)``
    only if tokens that are not patches take part in the attention: their labels, where not every layer has them which
    has, and how to put them first and patches after them, row by row;
``quantities`` and ``unrotated(part, rotary)``
    only if positions are rotary: how to turn queries and keys back;
``read_prompt(prompt)``
    only if a prompt is something else than text;
``untrained_tower()``
    only if training does not start where the class of diffusers does.

Nothing here imports diffusers before it is needed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from ..._compute.random_state import drawing
from ..._compute.settings import computing
from ...errors import SpectralToolkitError, UnsupportedModelError
from ..model import Model, Recorder
from .encoding import encode, latent_factor, overflows
from .noising import BETWEEN, N_TIMESTEPS, drawn_timesteps, noise_of, noised, steps_of
from .recording import WatchedModel

_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass
class DiffusionModel(WatchedModel):
    """A denoiser of diffusers, shown pictures at some timesteps of its training noise.

    ``at`` gives the same model at other timesteps, with another prompt or other noise. Every quantity of a capture has
    the dimensions ``(image, timestep, noise, ...)``: the chosen timesteps, and that many draws of noise at each.

    Attributes
    ----------
    pipeline
        The pipeline it came with, or None.
    vae, scheduler
        What encodes pictures, and what noises them.
    prompt
        What the denoiser is told about every picture; empty by default.
    between, n_timesteps
        Range of timesteps that are drawn, both ends included, and how many.
    chosen
        Timesteps given instead of drawn ones, or None.
    n_draws
        Draws of noise at each timestep.
    noise_seed
        Decides the timesteps drawn and, with a picture's bytes, its noise.
    """

    pipeline: Any = None
    vae: Any = None
    scheduler: Any = None
    prompt: str = ""
    between: tuple[int, int] = BETWEEN
    n_timesteps: int = N_TIMESTEPS
    chosen: tuple[int, ...] | None = None
    n_draws: int = 1
    noise_seed: int = 0
    _told: dict[Any, Any] | None = field(default=None, repr=False)

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "diffusers")

    def __post_init__(self) -> None:
        self.layers = self.find_layers()
        if not self.layers:
            raise UnsupportedModelError(
                f"{self.name} ({type(self.tower).__name__}) has no self-attention of the kind {self.family} has: there "
                "is nothing to capture."
            )

    def _facts(self) -> dict[str, Any]:
        timesteps = ", ".join(map(str, self.timesteps))
        return {**super()._facts(), "timesteps": timesteps, "draws": self.n_draws, "prompt": self.prompt}

    # --- what a family fills in --------------------------------------------------------------------------------------

    def find_layers(self) -> tuple[str, ...]:
        """Names of the layers in order of execution."""
        raise UnsupportedModelError(f"{type(self).__name__} names no layers.")

    def conditioning(self, size: tuple[int, int]) -> dict[str, Any]:
        """What the denoiser is told beside latents and timestep, for one picture."""
        return {}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: dict[str, Any]) -> Any:
        """One forward pass of the denoiser."""
        raise UnsupportedModelError(f"{type(self).__name__} cannot be run.")

    def read_prompt(self, prompt: Any) -> str:
        """A prompt as it is kept, or ``SpectralToolkitError`` where it cannot be read."""
        if not isinstance(prompt, str):
            raise SpectralToolkitError(f"prompt={prompt!r} is not a text: give one text for all pictures.")
        if prompt and not self.reads_prompts:
            raise SpectralToolkitError(
                f"prompt={prompt!r} cannot be read, as {self.name} came without tokenizer or text encoder: load the "
                "whole pipeline, or leave the prompt empty."
            )
        return prompt

    def check_channels(self, taken: int) -> None:
        """Refuse a denoiser that is shown more than the latents of one picture."""
        given = self.vae.config.get("latent_channels")
        if taken != given:
            raise UnsupportedModelError(
                f"{self.name} takes {taken} channels where its VAE gives {given}, as denoisers for inpainting, depth "
                "or instructions do: what the further channels should hold is not known here; use the text-to-image "
                "model it was made from."
            )

    # --- timesteps, noise, prompt ------------------------------------------------------------------------------------

    @computing
    def at(
        self,
        *,
        timesteps: int | Sequence[int] | None = None,
        between: tuple[int, int] | None = None,
        n_timesteps: int | None = None,
        n_draws: int | None = None,
        prompt: str | int | None = None,
        seed: int | None = None,
    ) -> Any:
        """The same model at other timesteps, with another prompt or other noise; what is None stays as it is.

        Parameters
        ----------
        timesteps
            One timestep or several, from 0 (hardly any noise) to the scheduler's last, usually 999.
        between, n_timesteps
            Draw that many timesteps from this range instead, both ends included. Range 0 to 250 of 1000 and 4
            timesteps unless told otherwise: the range is the source paper's, the number ours.
        n_draws
            Draws of noise at each timestep; 1 unless told otherwise.
        prompt
            What the denoiser is told, read by the pipeline's own text encoders; empty unless told otherwise. Of a
            model of classes, the name or number of one.
        seed
            Of timesteps and noise. A picture's noise follows from it, the timestep, the number of the draw and the
            picture's bytes, so that it does not depend on which pictures share a batch.

        Returns
        -------
        DiffusionModel
            Sharing all weights with this one.

        Raises
        ------
        SpectralToolkitError
            If a timestep does not exist, a number is out of range, or there is nothing that could read the prompt.

        References
        ----------
        Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716: timesteps from 0 to 250 of 1000, several draws averaged.
        """
        total = steps_of(self.scheduler)
        other = _shallow(self)
        if timesteps is not None:
            if between is not None or n_timesteps is not None:
                raise SpectralToolkitError(
                    "timesteps are given and drawn at once: leave out timesteps, or between and n_timesteps."
                )
            other.chosen = _checked_timesteps(timesteps, total)
        elif between is not None or n_timesteps is not None:
            other.chosen = None
        if between is not None:
            if not isinstance(between, tuple | list) or len(between) != 2:
                raise SpectralToolkitError(f"between={between!r} is no range: expected two timesteps such as (0, 250).")
            other.between = (_whole("between", between[0], 0), _whole("between", between[1], 0))
        if n_timesteps is not None:
            other.n_timesteps = _whole("n_timesteps", n_timesteps, 1)
        if n_draws is not None:
            other.n_draws = _whole("n_draws", n_draws, 1)
        if seed is not None:
            other.noise_seed = _whole("seed", seed, 0)
        if prompt is not None:
            other.prompt = self.read_prompt(prompt)
        _ = other.timesteps  # refused now rather than in the middle of a capture
        return other

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps in use, in order."""
        if self.chosen is not None:
            return self.chosen
        return drawn_timesteps(self.between, self.n_timesteps, steps_of(self.scheduler), self.noise_seed)

    @property
    def draws(self) -> dict[str, np.ndarray]:
        return {"timestep": np.array(self.timesteps), "noise": np.arange(self.n_draws)}

    @property
    def text_encoders(self) -> tuple[torch.nn.Module, ...]:
        """The pipeline's text encoders, if it has any."""
        found = (getattr(self.pipeline, name, None) for name in _TEXT)
        return tuple(encoder for encoder in found if encoder is not None)

    @property
    def reads_prompts(self) -> bool:
        """Whether text encoders and tokenizers are there; without them the denoiser gets zeros."""
        return bool(self.text_encoders) and getattr(self.pipeline, "tokenizer", None) is not None

    @property
    def missing_encoders(self) -> tuple[str, ...]:
        """Text encoders that are not there, though others are: zeros stand for what they would say."""
        return ()

    @property
    def text(self) -> str:
        """Where the text states come from, in words."""
        if not self.reads_prompts:
            return "zeros, as there is no text encoder"
        return "; ".join(["the pipeline's text encoders", *(f"zeros for {name}" for name in self.missing_encoders)])

    @property
    def provenance(self) -> dict[str, str | int | float]:
        return {
            "prompt": self.prompt,
            "text_states": self.text,
            "timesteps": json.dumps(self.timesteps),
            "timesteps_drawn_between": json.dumps(self.between) if self.chosen is None else "",
            "n_draws": self.n_draws,
            "noise_seed": self.noise_seed,
            "guidance": "off",
            "scheduler": type(self.scheduler).__name__,
        }

    # --- what a capture asks -----------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        encoders = () if self.vae is None else (self.vae,)
        return (self.tower, *encoders, *self.text_encoders)

    def move(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        for part in self.parts:
            _move(part, device, dtype)

    @property
    def patch_size(self) -> tuple[int, int]:
        factor = latent_factor(self.vae)
        return (factor, factor)

    @property
    def own_size(self) -> tuple[int, int]:
        if self.processor.size is not None:
            return self.processor.size
        own = getattr(self.tower.config, "sample_size", None)
        if own is None:
            raise SpectralToolkitError(
                f"The configuration of {self.name} names no size of pictures: give one, such as size=512."
            )
        height, width = own if isinstance(own, tuple | list) else (own, own)
        factor = latent_factor(self.vae)
        return (int(height) * factor, int(width) * factor)

    def check_size(self, size: tuple[int, int]) -> None:
        pass  # multiples of ``size_step``, which are looked at before, are all that most denoisers need

    def config_sha256(self) -> str:
        configs = [getattr(part, "config", {}) for part in self.parts]
        shown = [_settings(config) for config in (*configs, self.scheduler.config)]
        return hashlib.sha256(json.dumps([shown, self.provenance], sort_keys=True, default=str).encode()).hexdigest()

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, part in enumerate(self.parts):
            for name, tensor in part.state_dict().items():
                yield f"{number}.{name.replace('_orig_mod.', '')}", tensor

    def untrained_tower(self) -> Any:
        """A denoiser as it is before training."""
        tower: Any = self.tower
        return type(tower).from_config(tower.config)

    @computing
    def untrained(self, seed: int) -> tuple[Model, tuple[str, ...]]:
        with drawing(seed):
            fresh = self.untrained_tower()
        _move(fresh.eval(), self.device, self.dtype)
        other = _shallow(self)
        other.module = other.tower = fresh
        other._hash = None
        return other, ()

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        with super().recording(recorder):
            self._told = {}  # what a capture tells the denoiser is made once
            try:
                yield
            finally:
                self._told = None

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        """Pictures as the VAE encodes them: the mean of what it believes, scaled as the denoiser was trained."""
        return encode(self.vae, self.processor, pixels).to(self.device, self.dtype)

    def encoded_prompt(self, **settings: Any) -> Any:
        """What the pipeline's own text encoders make of the prompt; guidance is off."""
        return self.pipeline.encode_prompt(prompt=self.prompt, device=self.device, num_images_per_prompt=1, **settings)

    def run(self, pixels: np.ndarray, begin: Callable[[tuple[int, ...]], None]) -> None:
        size = (pixels.shape[1], pixels.shape[2])
        told = {} if self._told is None else self._told
        if size not in told:
            told[size] = self.conditioning(size)
        conditioning = {key: _repeated(value, len(pixels)) for key, value in told[size].items()}
        clean = self.latents(pixels)
        for first, timestep in enumerate(self.timesteps):
            for draw in range(self.n_draws):
                numbers = (self.noise_seed, timestep, draw)
                noise = np.stack([noise_of(picture, numbers, tuple(clean.shape[1:])) for picture in pixels])
                noisy = noised(self.scheduler, clean, torch.from_numpy(noise).to(clean), timestep)
                begin((first, draw))
                self.denoise(noisy, timestep, conditioning)

    def forward(self, pixels: np.ndarray) -> Any:
        self.run(pixels, lambda place: None)

    def one_pass(self, pixels: np.ndarray, convert: Callable[[torch.nn.Module], torch.nn.Module]) -> Callable[[], Any]:
        size = (pixels.shape[1], pixels.shape[2])
        told = {size: self.conditioning(size)}  # one prompt is quickly read
        other = self.at(timesteps=self.timesteps[0], n_draws=1)
        other.tower = convert(self.tower)
        if self.vae is not None:
            # One that overflows in half precision computes in single precision.
            other.vae = convert(copy.deepcopy(self.vae).float() if overflows(self.vae) else self.vae)
        other._told = told
        return lambda: other.forward(pixels)


def _shallow(model: DiffusionModel) -> Any:
    """A copy that shares everything; no layer is looked for again."""
    other = copy.copy(model)
    other._told = None
    return other


def _move(part: torch.nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> None:
    if device is not None:
        part.to(device)
    # diffusers warns of any change of precision, even to the one the weights have.
    if dtype is not None and next(part.parameters()).dtype != dtype:
        part.to(dtype)


def _repeated(value: Any, n: int) -> Any:
    if isinstance(value, dict):
        return {key: _repeated(inner, n) for key, inner in value.items()}
    return value.repeat(n, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value


def _settings(config: Any) -> dict[str, Any]:
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {key: value for key, value in values.items() if not key.startswith("_")}


def _checked_timesteps(timesteps: Any, total: int) -> tuple[int, ...]:
    given = list(timesteps) if isinstance(timesteps, Sequence | np.ndarray) else [timesteps]
    whole = [isinstance(t, int | np.integer) and not isinstance(t, bool) and 0 <= t < total for t in given]
    if not given or not all(whole) or len(set(given)) != len(given):
        raise SpectralToolkitError(
            f"timesteps={timesteps!r} is not understood: expected one whole number from 0 to {total - 1}, or several "
            "different ones."
        )
    return tuple(int(t) for t in given)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise SpectralToolkitError(f"{name}={value!r} is not a whole number of at least {least}.")
    return int(value)
