"""What all denoisers of diffusers share: an image is encoded, noised, and shown to the denoiser with a prompt.

To add a family, write a file beside this one with a subclass of ``DiffusionModel``, and a line in ``families.py``. The
class defines

``find_layers()``
    names of the layers, in order of execution; each must name a module;
``attention_of(layer)``
    the module of the layer that holds ``processor`` (by default the layer itself);
``block_of(layer)``
    the module whose output is the residual stream after the layer (by default the module that contains the layer);
``layer_shape(layer, size)``
    the layer's grid, heads and widths for images of ``size``;
``size_step``
    the numbers of which height and width in pixels must be multiples, unless they are the VAE's factor alone;
``conditioning(size)``
    the denoiser's inputs besides noisy latents and timestep, for one image: a dictionary of tensors (1, ...), or of
    anything else, which is passed on as it is. ``encoded_prompt()`` asks the pipeline's own text encoders; where there
    are none, the inputs are zeros of the right width;
``denoise(latents, timestep, conditioning)``
    one forward pass; tensors of the conditioning are repeated to the number of images;
``special_tokens``, ``special_tokens_of(layer, quantity)``, ``tokens_of(layer, seen)`` and ``token_of(layer, output)``
    only if tokens that are not patches take part in the attention: their labels, which layers have them where not all
    do, and how to put them first, with patches after them, row by row;
``quantities`` and ``unrotated(part, rotary)``
    only if positions are rotary: how to undo the rotation of queries and keys;
``read_prompt(prompt)``
    only if a prompt is something other than text;
``untrained_tower()``
    only if training does not start from the initial weights of the diffusers class.

Nothing in this module imports diffusers before it is needed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypedDict, TypeVar, cast

import numpy as np
import torch

from ..._compute.random_state import drawing
from ..._compute.settings import computing
from ...errors import SpectralToolkitError, UnsupportedModelError
from ..model import Done, Recorder
from ..processing import Processing
from ..untyped import Config, config_of, untyped
from .encoding import decode, encode, latent_factor, overflows
from .noising import BETWEEN, N_TIMESTEPS, drawn_timesteps, noise_of, noised, steps_of, unnoised
from .protocols import Autoencoder, Configured, Inputs, Pipeline
from .recording import WatchedModel

_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Chosen(TypedDict, total=False):
    """Arguments of `DiffusionModel.at`."""

    timesteps: int | Sequence[int] | None
    between: tuple[int, int] | None
    n_timesteps: int | None
    n_draws: int | None
    prompt: str | int | None
    seed: int | None


class PipelineParts(TypedDict):
    """What every denoiser is made from."""

    name: str
    processor: Processing
    revision: str
    module: torch.nn.Module
    tower: torch.nn.Module
    pipeline: Pipeline | None
    vae: Autoencoder | None
    scheduler: Configured


class FurtherInputsError(UnsupportedModelError):
    """A denoiser takes more than its family knows of."""


@dataclass
class DiffusionModel(WatchedModel):
    """A denoiser of diffusers, shown images at some timesteps of its training noise.

    ``at`` returns the same model at other timesteps, with another prompt or other noise. Every quantity of a capture
    has the dimensions ``(image, timestep, noise, ...)``: the chosen timesteps, and the noise samples at each.

    Attributes
    ----------
    pipeline
        The pipeline it came with, or None.
    vae, scheduler
        The modules that encode images and add noise to them.
    prompt
        The prompt for every image; empty by default.
    between, n_timesteps
        The range from which timesteps are drawn, both ends included, and their number.
    chosen
        Timesteps given instead of drawn ones, or None.
    n_draws
        Number of noise samples at each timestep.
    noise_seed
        Determines the timesteps drawn and, with an image's bytes, its noise.
    """

    pipeline: Pipeline | None = None
    vae: Autoencoder | None = None
    scheduler: Configured = field(kw_only=True)
    prompt: str = ""
    between: tuple[int, int] = BETWEEN
    n_timesteps: int = N_TIMESTEPS
    chosen: tuple[int, ...] | None = None
    n_draws: int = 1
    noise_seed: int = 0
    _told: dict[tuple[int, int], Inputs] | None = field(default=None, repr=False)

    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "diffusers")

    def __post_init__(self) -> None:
        self.layers = self.find_layers()
        if not self.layers:
            raise UnsupportedModelError(
                f"{self.name} ({type(self.tower).__name__}) has no self-attention like that of {self.family}: there "
                "is nothing to capture."
            )

    @property
    def config(self) -> Config:
        """The settings of the denoiser."""
        return config_of(self.tower)

    def _facts(self) -> dict[str, object]:
        timesteps = ", ".join(map(str, self.timesteps))
        return {**super()._facts(), "timesteps": timesteps, "draws": self.n_draws, "prompt": self.prompt}

    # --- what a family defines ---------------------------------------------------------------------------------------

    def find_layers(self) -> tuple[str, ...]:
        """Names of the layers in order of execution."""
        raise UnsupportedModelError(f"{type(self).__name__} names no layers.")

    @property
    def sampling(self) -> Inputs:
        """Further arguments of its pipeline, so that it sees as many tokens while sampling as in a capture."""
        return {}

    def conditioning(self, size: tuple[int, int]) -> Inputs:
        """The denoiser's inputs besides latents and timestep, for one image."""
        return {}

    def denoise(self, latents: torch.Tensor, timestep: int, conditioning: Inputs) -> torch.Tensor:
        """One forward pass of the denoiser."""
        raise UnsupportedModelError(f"{type(self).__name__} cannot be run.")

    def read_prompt(self, prompt: object) -> str:
        """A prompt as it is kept; raises ``SpectralToolkitError`` where it cannot be read."""
        if not isinstance(prompt, str):
            raise SpectralToolkitError(f"prompt={prompt!r} is not a text: give one text for all images.")
        if prompt and not self.reads_prompts:
            raise SpectralToolkitError(
                f"prompt={prompt!r} cannot be read, as {self.name} came without tokenizer or text encoder: load the "
                "whole pipeline, or leave the prompt empty."
            )
        return prompt

    def check_channels(self, taken: int) -> None:
        """Refuse a denoiser that takes more than the latents of one image."""
        given = 3 if self.vae is None else self.vae.config.get("latent_channels")
        if taken != given:
            raise FurtherInputsError(
                f"{self.name} takes {taken} channels where its VAE gives {given}, as denoisers for inpainting, depth "
                "or instructions do: the content of the further channels is not known here; use the text-to-image "
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
    ) -> Self:
        """The same model at other timesteps, with another prompt or other noise; arguments of None change nothing.

        Parameters
        ----------
        timesteps
            One timestep or several, from 0 (hardly any noise) to the scheduler's last, usually 999.
        between, n_timesteps
            Draw this many timesteps from this range instead, both ends included. By default, 4 timesteps from 0 to 250
            of 1000: the range is that of the source paper, the number is ours.
        n_draws
            Number of noise samples at each timestep; 1 by default.
        prompt
            The prompt, which the pipeline's own text encoders read; empty by default. For a class-conditional model,
            the name or number of a class.
        seed
            Seed of timesteps and noise. An image's noise follows from the seed, the timestep, the number of the noise
            sample and the image's bytes, so that it does not depend on the other images of a batch.

        Returns
        -------
        DiffusionModel
            It shares all weights with this model.

        Raises
        ------
        SpectralToolkitError
            If a timestep does not exist, a number is out of range, or nothing can read the prompt.

        References
        ----------
        Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716: timesteps from 0 to 250 of 1000, several draws averaged.
        """
        total = steps_of(self.scheduler)
        other = _shallow(self)
        if timesteps is not None:
            if between is not None or n_timesteps is not None:
                raise SpectralToolkitError(
                    "timesteps cannot be both given and drawn: leave out timesteps, or between and n_timesteps."
                )
            other.chosen = _checked_timesteps(timesteps, total)
        elif between is not None or n_timesteps is not None:
            other.chosen = None
        if between is not None:
            if not isinstance(between, tuple | list) or len(between) != 2:
                raise SpectralToolkitError(
                    f"between={between!r} is not a range: expected two timesteps such as (0, 250)."
                )
            other.between = (_whole("between", between[0], 0), _whole("between", between[1], 0))
        if n_timesteps is not None:
            other.n_timesteps = _whole("n_timesteps", n_timesteps, 1)
        if n_draws is not None:
            other.n_draws = _whole("n_draws", n_draws, 1)
        if seed is not None:
            other.noise_seed = _whole("seed", seed, 0)
        if prompt is not None:
            other.prompt = self.read_prompt(prompt)
        _ = other.timesteps  # refused now, and not in the middle of a capture
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
        """Whether there are text encoders and tokenizers; without them the denoiser gets zeros."""
        return bool(self.text_encoders) and getattr(self.pipeline, "tokenizer", None) is not None

    @property
    def takes_text(self) -> bool:
        """Whether the denoiser takes a text at all."""
        return True

    @property
    def missing_encoders(self) -> tuple[str, ...]:
        """Text encoders that are missing while others exist: zeros stand for their output."""
        return ()

    @property
    def text(self) -> str:
        """The origin of the text states, in words."""
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

    # --- what a capture needs ----------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        encoders = (self.vae,) if isinstance(self.vae, torch.nn.Module) else ()
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
        own = getattr(self.config, "sample_size", None)
        if own is None:
            raise SpectralToolkitError(
                f"The configuration of {self.name} names no image size: give one, such as size=512."
            )
        height, width = own if isinstance(own, tuple | list) else (own, own)
        factor = latent_factor(self.vae)
        return (int(height) * factor, int(width) * factor)

    def check_size(self, size: tuple[int, int]) -> None:
        pass  # most denoisers need only multiples of ``size_step``, which are checked before

    def config_sha256(self) -> str:
        configs = [getattr(part, "config", {}) for part in self.parts]
        shown = [_settings(config) for config in (*configs, self.scheduler.config)]
        return hashlib.sha256(json.dumps([shown, self.provenance], sort_keys=True, default=str).encode()).hexdigest()

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, part in enumerate(self.parts):
            for name, tensor in part.state_dict().items():
                yield f"{number}.{name.replace('_orig_mod.', '')}", tensor

    def untrained_tower(self) -> torch.nn.Module:
        """The denoiser before its training."""
        return untyped(type(self.tower)).from_config(self.config)

    @computing
    def untrained(self, seed: int) -> tuple[Self, tuple[str, ...]]:
        with drawing(seed):
            fresh = self.untrained_tower()
        _move(fresh.eval(), self.device, self.dtype)
        other = _shallow(self)
        other.module = other.tower = fresh
        other._hash = None
        other.training = ""
        return other, ()

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        with super().recording(recorder):
            self._told = {}  # the denoiser's other inputs are made once for a capture
            try:
                yield
            finally:
                self._told = None

    def latents(self, pixels: np.ndarray) -> torch.Tensor:
        """Images as the VAE encodes them: the mean of its distribution, scaled as in the denoiser's training."""
        assert self.vae is not None
        return encode(self.vae, self.processor, pixels).to(self.device, self.dtype)

    def encoded_prompt(self, **settings: object) -> Sequence[torch.Tensor]:
        """The prompt, encoded by the pipeline's own text encoders; guidance is off."""
        assert self.pipeline is not None
        return self.pipeline.encode_prompt(prompt=self.prompt, device=self.device, num_images_per_prompt=1, **settings)

    def clean(self, predicted: torch.Tensor, noisy: torch.Tensor, timestep: int) -> torch.Tensor | None:
        """The clean latents (image, channel, y, x) that a pass of the denoiser predicts; None where it is not known."""
        if predicted.dim() == 5 and 1 in predicted.shape[1:3]:  # one frame
            predicted = predicted.squeeze(2 if predicted.shape[2] == 1 else 1)
        if predicted.shape[0] != noisy.shape[0] or predicted.shape[2:] != noisy.shape[2:]:
            return None
        # Some predict the variance of their noise, too, in further channels.
        return unnoised(self.scheduler, noisy, predicted[:, : noisy.shape[1]], timestep)

    def denoised(
        self, predicted: torch.Tensor, noisy: torch.Tensor, timestep: int, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """The clean image of ``size`` that a pass predicts, as an output by name; none where it is not known."""
        latents = self.clean(predicted, noisy, timestep)
        values = None if latents is None else decode(self.vae, latents)
        return {} if values is None else {"denoised": self.processor.shown(values).permute(0, 2, 3, 1)}

    def run(self, pixels: np.ndarray, begin: Callable[[tuple[int, ...]], None], done: Done | None = None) -> None:
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
                predicted = self.denoise(noisy, timestep, conditioning)
                if done is not None:
                    done(self.denoised(predicted, noisy, timestep, size))

    def forward(self, pixels: np.ndarray) -> None:
        self.run(pixels, lambda place: None)

    def one_pass(
        self, pixels: np.ndarray, convert: Callable[[torch.nn.Module], torch.nn.Module]
    ) -> Callable[[], object]:
        size = (pixels.shape[1], pixels.shape[2])
        told = {size: self.conditioning(size)}  # encoding one prompt is quick
        other = self.at(timesteps=self.timesteps[0], n_draws=1)
        other.tower = convert(self.tower)
        if self.vae is not None:
            # A VAE that overflows in half precision computes in single precision.
            vae = cast("torch.nn.Module", self.vae)
            other.vae = cast("Autoencoder", convert(copy.deepcopy(vae).float() if overflows(self.vae) else vae))
        other._told = told
        return lambda: other.forward(pixels)


def first_of(given: object) -> torch.Tensor | None:
    """The first tensor in what a denoiser gives out."""
    if isinstance(given, torch.Tensor):
        return given
    values = given.values() if isinstance(given, dict) else given if isinstance(given, tuple | list) else ()
    return next((found for one in values if (found := first_of(one)) is not None), None)


M = TypeVar("M", bound=DiffusionModel)


def _shallow(model: M) -> M:
    """A copy that shares everything, without searching for layers again."""
    other = copy.copy(model)
    other._told = None
    return other


def _move(part: torch.nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> None:
    if device is not None:
        part.to(device)
    # diffusers warns of any change of precision, even to the precision that the weights already have.
    if dtype is not None and next(part.parameters()).dtype != dtype:
        part.to(dtype)


def _repeated(value: object, n: int) -> object:
    if isinstance(value, dict):
        return {key: _repeated(inner, n) for key, inner in value.items()}
    return value.repeat(n, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value


def _settings(config: object) -> dict[str, object]:
    values: dict[str, object] = (
        untyped(config).to_dict() if hasattr(config, "to_dict") else {**cast("Mapping[str, object]", config)}
    )
    return {key: value for key, value in values.items() if not key.startswith("_")}


def _checked_timesteps(timesteps: object, total: int) -> tuple[int, ...]:
    given = list(timesteps) if isinstance(timesteps, Sequence | np.ndarray) else [timesteps]
    whole = [int(t) for t in given if isinstance(t, int | np.integer) and not isinstance(t, bool) and 0 <= t < total]
    if not given or len(set(whole)) != len(given):
        raise SpectralToolkitError(
            f"timesteps={timesteps!r} is not understood: expected one whole number from 0 to {total - 1}, or several "
            "different ones."
        )
    return tuple(whole)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise SpectralToolkitError(f"{name}={value!r} is not a whole number of at least {least}.")
    return int(value)
