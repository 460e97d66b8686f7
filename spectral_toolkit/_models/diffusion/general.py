"""A denoiser of diffusers of any class: its attention is watched, and where patches stand among its tokens is proven.

The families with a class of their own (`families.py`) are told apart by what is known of them; of all others this is
enough: how they are called. A pipeline calls its denoiser itself (`pipelines.py`), a denoiser alone is called by the
names of its arguments (`inputs.py`), or as the caller says (``load_model(denoiser, call=...)``).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from ...errors import SpectralToolkitError, UnsupportedModelError, first_line
from ..entries import Told
from ..model import Done, Recorder, device_of, dtype_of
from ..passes import Prober
from ..probing import NotProvenError
from ..proven import ProvenModel
from ..untyped import config_of
from .base import DiffusionModel, PipelineParts, first_of
from .encoding import latent_channels, latent_factor, pixel_channels
from .forms import Form, Shown, form_of
from .inputs import Asked, UnknownInputError, arguments
from .noising import noise_of, noised, steps_of, told_time
from .pipelines import ByPipeline, component_of
from .unet_maps import MapProber

_ADVICE = (
    "Say how it is called, with load_model(denoiser, vae=vae, scheduler=scheduler, call=lambda denoiser, latents, "
    "timestep: ...)."
)
OWN_CELLS = 128
"""Latent positions, in each direction, of an image by default, where no configuration names a size."""


class Way(Protocol):
    """How a denoiser is called."""

    @property
    def text(self) -> str:
        """Where its text comes from."""
        ...

    def prepare(self, model: GeneralDenoiser, shown: Shown) -> Callable[[torch.nn.Module], object]:
        """One pass of a denoiser, ready to be made."""
        ...


@dataclass(frozen=True)
class AsTold:
    """Called as the caller says."""

    function: Callable[..., object]
    text: str = "as given by the caller"

    def prepare(self, model: GeneralDenoiser, shown: Shown) -> Callable[[torch.nn.Module], object]:
        return lambda tower: self.function(tower, shown.noisy, shown.timestep)


@dataclass(frozen=True)
class ByName:
    """Called by the names of its arguments, with zeros for texts."""

    form: Form
    text: str = "zeros, as there is no text encoder"

    def prepare(self, model: GeneralDenoiser, shown: Shown) -> Callable[[torch.nn.Module], object]:
        asked = Asked(
            model.tower,
            self.form,
            shown.noisy,
            shown.clean,
            shown.picture,
            told_time(model.scheduler, shown.timestep),
            steps_of(model.scheduler),
        )
        named = arguments(asked)
        return lambda tower: tower(**named)


@dataclass
class GeneralDenoiser(ProvenModel, DiffusionModel):
    """A denoiser of which the layout of its tokens was proven."""

    way: Way | None = None

    images_at_once = 1

    def __post_init__(self) -> None:
        self.own = self._first_size()
        try:
            self.settle()
        except NotProvenError as error:
            what = f"{self.name} ({type(self.tower).__name__})"
            raise UnsupportedModelError(f"{what} cannot be captured: {error}.") from error

    def _names(self, modules: list[str]) -> dict[str, str]:
        return {module: module for module in modules}

    def _usual_labels(self, n: int) -> tuple[str, ...]:
        return tuple(f"special_{index}" for index in range(n))

    # --- sizes -------------------------------------------------------------------------------------------------------

    def _first_size(self) -> tuple[int, int]:
        factor = latent_factor(self.vae)
        if self.processor.size is not None:
            return self.processor.size
        config = self.config
        own = config.get("sample_size") or getattr(self.pipeline, "default_sample_size", None)
        if own is None and config.get("sample_height") and config.get("sample_width"):
            own = (config.sample_height, config.sample_width)
        height, width = own if isinstance(own, (tuple, list)) else (own or OWN_CELLS,) * 2
        return (int(height) * factor, int(width) * factor)

    @property
    def size_step(self) -> tuple[int, int]:
        rows, columns = min(self.grids, key=math.prod)
        return (self.own[0] // rows, self.own[1] // columns)

    def check_size(self, size: tuple[int, int]) -> None:
        if size == self.own:
            return
        try:
            self._layout(size)
        except Exception as error:  # whatever a model says of a size that it does not take
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name} ({first_line(error)}): use its own size, {self.own}."
            ) from error

    # --- passes ------------------------------------------------------------------------------------------------------

    def _prober(self, size: tuple[int, int], tower: torch.nn.Module | None = None) -> Prober:
        # Latents are changed and not pixels: what an encoder does to neighbours does not matter here.
        seen = self._proven if tower is None else tower
        precision, device = dtype_of(seen), device_of(seen)
        factor = latent_factor(self.vae)
        n = self.latent_channels
        picture = torch.zeros(1, 3, *size, dtype=precision, device=device)
        cells = (size[0] // factor, size[1] // factor)

        def forward(pixels: np.ndarray) -> None:
            if len(pixels) != 1:
                raise NotProvenError("one image at a time")
            values = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).to(device, precision) / 127.5 - 1
            latents = torch.einsum("nchw,dc->ndhw", values, _colours(n).to(values))
            self._call(seen, Shown(latents, torch.zeros_like(latents), picture, self.timesteps[0]))

        if hasattr(seen, "down_blocks"):
            start = np.random.default_rng(0).integers(0, 256, (1, *cells, 3), dtype=np.uint8)
            return MapProber(seen, lambda: forward(start), cells)
        return Prober(seen, forward, cells)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents of an image."""
        return pixel_channels(self.config) if self.vae is None else latent_channels(self.vae)

    def _call(self, tower: torch.nn.Module, shown: Shown) -> object:
        assert self.way is not None
        self._started.append(1)
        return self.way.prepare(self, shown)(tower)

    def latents(self, pixels: np.ndarray) -> Tensor:
        if self.vae is None:
            values = self.processor.normalise(pixels, self.device, self.dtype)
            return values.mean(1, keepdim=True) if self.latent_channels == 1 else values
        return super().latents(pixels)

    def run(self, pixels: np.ndarray, begin: Callable[[tuple[int, ...]], None], done: Done | None = None) -> None:
        for one in pixels[:, None]:
            clean = self.latents(one)
            picture = self.processor.normalise(one, self.device, self.dtype)
            for first, timestep in enumerate(self.timesteps):
                for draw in range(self.n_draws):
                    numbers = (self.noise_seed, timestep, draw)
                    noise = torch.from_numpy(noise_of(one[0], numbers, tuple(clean.shape[1:])))[None]
                    noisy = noised(self.scheduler, clean, noise.to(clean), timestep)
                    begin((first, draw))
                    found = first_of(self._call(self.tower, Shown(noisy, clean, picture, timestep)))
                    if done is not None:
                        size = (one.shape[1], one.shape[2])
                        done({} if found is None else self.denoised(found, noisy, timestep, size))

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        own = super().parts
        further = getattr(self.pipeline, "components", {}).values() if isinstance(self.way, ByPipeline) else ()
        kept = {id(one) for one in (*own, self.module)}
        return (*own, *(one for one in further if isinstance(one, torch.nn.Module) and id(one) not in kept))

    def move(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().move(device, dtype)
        if isinstance(self.way, ByPipeline):
            self.way.forget()

    def one_pass(
        self, pixels: np.ndarray, convert: Callable[[torch.nn.Module], torch.nn.Module]
    ) -> Callable[[], object]:
        height, width = pixels.shape[1:3]
        factor = latent_factor(self.vae)
        cells = torch.zeros(1, self.latent_channels, height // factor, width // factor)
        picture = self.processor.normalise(pixels[:1], self.device, self.dtype)
        latents = cells.to(picture)
        assert self.way is not None
        prepared = self.way.prepare(self, Shown(latents, latents, picture, self.timesteps[0]))
        tower = convert(self.tower)
        return lambda: prepared(tower)

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        self._refuse_hooks()
        with ProvenModel.recording(self, recorder):
            yield

    @property
    def reads_prompts(self) -> bool:
        return isinstance(self.way, ByPipeline)

    @property
    def takes_text(self) -> bool:
        names = inspect.signature(self.tower.forward).parameters
        return isinstance(self.way, ByName) and any("encoder_hidden_states" in name or "cap_" in name for name in names)

    @property
    def implementation(self) -> str:
        return "watched: " + self._processors()

    def _processors(self) -> str:
        found = (getattr(self.tower.get_submodule(one), "processor", None) for one in self.modules.values())
        return ", ".join(sorted({type(one).__name__ for one in found if one is not None})) or "its own"

    @property
    def text(self) -> str:
        assert self.way is not None
        return self.way.text

    def untrained(self, seed: int) -> tuple[Self, tuple[str, ...]]:
        other, kept = super().untrained(seed)
        other.blocks = self.blocks_in(other.tower)
        other._started = []
        return other, kept


@lru_cache(maxsize=8)
def _colours(n: int) -> Tensor:
    """How the three colours of a proof's image become ``n`` channels."""
    return torch.from_numpy(np.random.default_rng(n).standard_normal((n, 3)) / 2)


def make(told: Told, **about: Unpack[PipelineParts]) -> GeneralDenoiser:
    """A denoiser of no known family, or one that takes more than its family knows of.

    Raises
    ------
    UnsupportedModelError
        If its attention cannot be seen, its call is not known, or its tokens cannot be shown to be patches.
    """
    tower, vae = about["tower"], about["vae"]
    component = component_of(about["pipeline"], tower)
    way: Way
    if told.call is not None:
        way = AsTold(told.call)
    elif component is not None:
        way = ByPipeline(component)
    else:
        way = ByName(form_of(tower, pixel_channels(config_of(tower)) if vae is None else latent_channels(vae)))
    try:
        return GeneralDenoiser(family=f"any denoiser ({type(tower).__name__})", told=told, way=way, **about)
    except UnknownInputError as error:
        raise UnsupportedModelError(f"{about['name']} cannot be shown an image: {error}. {_ADVICE}") from error
    except (SpectralToolkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a denoiser says of inputs that it does not take
        what = f"{about['name']} ({type(tower).__name__})"
        raise UnsupportedModelError(
            f"{what} cannot be shown an image, as it says {first_line(error)!r}. {_ADVICE}"
        ) from error
