"""``generate``: a denoiser's own sampling, with queries, keys or values changed at every step."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .._compute.arguments import number, shown, whole
from .._compute.settings import computing
from .._models import Model, load_model
from .._models.diffusion.base import DiffusionModel
from .._models.diffusion.protocols import Pipeline
from .._models.diffusion.scenes import ScenesDiffusionModel
from .._models.model import evaluating
from ..errors import CaptureMemoryError, SpectralToolkitError, UnsupportedModelError, first_line
from ..scenes.generating import sampled
from .edits import EDITABLE, Edit, by_layer, edited, edits_of
from .plan import available_memory, format_bytes


@computing
def generate(
    model: object,
    prompt: object = None,
    *,
    edits: object = (),
    n: int = 1,
    seed: int = 0,
    steps: int = 30,
    guidance: float | None = None,
    size: int | tuple[int, int] | None = None,
) -> xr.Dataset:
    """Generate images with a denoiser, with queries, keys or values changed at every step of the sampling.

    The bundled model takes the steps of ``st.scenes.generate``, any other is sampled by its own pipeline. Whatever
    happens, both are left as they were. Without edits, and where an edit changes nothing, the images are those of the
    plain sampling.

    Parameters
    ----------
    model
        A denoiser with its pipeline, as anything that ``load_model`` takes.
    prompt
        A text, or a class of a class-conditional model; None takes the model's own.
    edits
        As for ``st.intervene``. The donors of ``st.exchange`` are a prompt here: images are generated from it first,
        with the same noise and steps, and each step sees their tokens of this step.
    n, seed
        Number of images, and the seed of their noise.
    steps
        Number of steps.
    guidance
        Classifier-free guidance; None takes the pipeline's own, 1 switches it off.
    size
        Size of the images (height, width), where the pipeline takes one; None takes the model's own.

    Returns
    -------
    xarray.Dataset
        ``pixels (image, y_px, x_px, rgb)`` uint8; the attributes hold prompt, seed, steps and edits.

    Raises
    ------
    UnsupportedModelError
        If the model generates no images, or came without its pipeline.
    SpectralToolkitError
        If an edit needs images, as a mean over images does.

    Examples
    --------
    >>> import spectral_toolkit as st
    >>> images = generate("scenes-diffusion", "a star", steps=1, edits=st.scale("value", 0.5, layers=0))
    >>> dict(images.pixels.sizes)
    {'image': 1, 'y_px': 96, 'x_px': 96, 'rgb': 3}
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if not isinstance(loaded, DiffusionModel):
        raise UnsupportedModelError(f"{loaded.name} generates no images: give a denoiser, such as 'scenes-diffusion'.")
    made = edits_of(edits)
    for edit in made:
        if edit.needs_mean or edit.images is not None or not isinstance(edit.donors, str | int | None):
            raise SpectralToolkitError(
                f"{edit.name} needs images, and there are none while images are generated: give a prompt as donors, or "
                "take the mean over patches."
            )
    asked = loaded.read_prompt(loaded.prompt if prompt is None else prompt)
    settings: _Settings = {
        "n": whole("n", n, 1),
        "seed": whole("seed", seed, 0, 2**63 - 1),
        "steps": whole("steps", steps, 1),
        "guidance": None if guidance is None else number("guidance", guidance),
        "size": loaded.image_size(size),
    }
    recorder = _Sampling(loaded, made, settings["size"])
    parts = (*loaded.parts, loaded.module)
    if not made:
        with evaluating(parts, settings["seed"], loaded.device):
            found = _sample(loaded, asked, **settings)
    else:
        with evaluating(parts, settings["seed"], loaded.device) as draws, recorder.open():
            for edit in made:
                if edit.donors is not None:
                    with recorder.learning(edit):
                        draws.seed(settings["seed"])
                        _sample(loaded, loaded.read_prompt(edit.donors), **settings)
            draws.seed(settings["seed"])
            recorder.begin()
            found = _sample(loaded, asked, **settings)
            recorder.end()
    about = {"prompt": str(asked), "seed": settings["seed"], "steps": settings["steps"]}
    return found.assign_attrs(model=loaded.name, edits=", ".join(edit.name for edit in made), **about)


class _Settings(TypedDict):
    n: int
    seed: int
    steps: int
    guidance: float | None
    size: tuple[int, int]


def _sample(
    model: DiffusionModel, prompt: str, n: int, seed: int, steps: int, guidance: float | None, size: tuple[int, int]
) -> xr.Dataset:
    if isinstance(model, ScenesDiffusionModel):
        found = sampled(model.tower, prompt, n, seed=seed, steps=steps, guidance=2.0 if guidance is None else guidance)
        return found.drop_attrs()
    pipeline = model.pipeline
    if pipeline is None:
        raise UnsupportedModelError(
            f"{model.name} came without its pipeline, which does the sampling: load the whole pipeline."
        )
    known = inspect.signature(pipeline.__call__).parameters
    asked: dict[str, object] = {"prompt": [prompt] * n, "class_labels": [prompt] * n, "guidance_scale": guidance}
    asked |= {"height": size[0], "width": size[1], "num_inference_steps": steps, "output_type": "np", **model.sampling}
    asked["use_resolution_binning"] = False  # else the pipeline takes the nearest size that it knows, and crops
    if "class_labels" in known:
        asked["class_labels"] = [model.number_of(prompt)] * n  # pyright: ignore[reportAttributeAccessIssue]
    asked |= {"generator": [torch.Generator().manual_seed(seed + index) for index in range(n)]}
    given = {name: value for name, value in asked.items() if name in known and value is not None}
    with _untouched(pipeline):
        try:
            images = np.asarray(pipeline(**given).images)
        except (SpectralToolkitError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # it may need an image, or make a video
            raise UnsupportedModelError(
                f"The pipeline of {model.name} ({type(pipeline).__name__}) generates no images from a prompt alone "
                f"({first_line(error)}): give a text-to-image or class-conditional pipeline."
            ) from error
    pixels = (images * 255).round().clip(0, 255).astype(np.uint8)
    names = np.array([f"generated_{index:04d}" for index in range(len(pixels))], dtype=str)
    return xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), pixels)}, {"image": names})


@contextmanager
def _untouched(pipeline: Pipeline) -> Iterator[None]:
    """Sample with a copy of the scheduler, which keeps its steps, and without a progress bar."""
    own = dict(vars(pipeline))
    try:
        vars(pipeline).update(scheduler=copy.deepcopy(pipeline.scheduler), _progress_bar_config={"disable": True})
        yield
    finally:  # a pipeline also notes how it was called
        vars(pipeline).clear()
        vars(pipeline).update(own)


class _Sampling:
    """Says what the softmax is to see in every call of a denoiser while it samples; keeps those of donors."""

    def __init__(self, model: DiffusionModel, edits: Sequence[Edit], size: tuple[int, int]) -> None:
        self.model, self.size = model, size
        self._edits = by_layer(edits, model)
        self.layers = tuple(one for one in model.layers if any(one == layer for layer, _ in self._edits))
        self.quantities = tuple(one for one in EDITABLE if any(one == quantity for _, quantity in self._edits))
        self._donor: Edit | None = None
        self._calls: dict[int, int] = {}
        self._call = 0
        self._learned: dict[tuple[str, str, int], dict[int, Tensor]] = defaultdict(dict)
        self._left = available_memory()

    @contextmanager
    def open(self) -> Iterator[None]:
        def count(tower: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            first = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
            self.model.expect(len(first))
            self._call += 1

        handle = self.model.tower.register_forward_pre_hook(count, with_kwargs=True)
        try:
            with self.model.recording(self):
                yield
        finally:
            handle.remove()

    @contextmanager
    def learning(self, edit: Edit) -> Iterator[None]:
        self._donor = edit
        self.begin()
        try:
            yield
        finally:
            self._donor = None
        self._calls[id(edit)] = self._call

    def begin(self) -> None:
        self._call = 0

    def end(self) -> None:
        if any(calls != self._call for calls in self._calls.values()):
            raise SpectralToolkitError(
                "The donors took another number of passes than the images, as one of the prompts is empty and needs no "
                "guidance: give both a prompt, or guidance=1."
            )

    def record(self, layer: str, quantity: str, tensor: Tensor) -> None:
        if self._donor is None or self._donor not in self._edits.get((layer, quantity), ()):
            return
        self._left -= tensor.nbytes
        if self._left < 0:
            raise CaptureMemoryError(
                f"The donors' {quantity} of all steps do not fit in {format_bytes(available_memory())}: exchange fewer "
                "layers, or take fewer steps."
            )
        self._learned[layer, quantity, self._call][id(self._donor)] = tensor.clone()

    def describe(self, layer: str, scale: float, bias: Tensor | None) -> None:
        """Nothing is kept of it."""

    def edited(self, layer: str) -> Sequence[str]:
        return () if self._donor else [one for one in EDITABLE if (layer, one) in self._edits]

    def edit(self, layer: str, quantity: str, tensor: Tensor) -> Tensor:
        learned = self._learned.get((layer, quantity, self._call), {})
        if any(edit.donors is not None and id(edit) not in learned for edit in self._edits[layer, quantity]):
            self.end()
            raise SpectralToolkitError(f"The donors were not seen in pass {shown(self._call)}: give both a prompt.")
        n_special = len(self.model.special_tokens_of(layer, quantity, self.size))
        grid = self.model.layer_shape(layer, self.size).grid_of(quantity)
        if tensor.shape[-2] != n_special + grid[0] * grid[1]:
            raise UnsupportedModelError(
                f"Layer {layer!r} of {self.model.name} has {tensor.shape[-2]} tokens while sampling; expected "
                f"{n_special} special ones and {grid[0]} x {grid[1]} patches for size={self.size}: give the size "
                "at which its pipeline generates."
            )
        return edited(
            tensor,
            self._edits[layer, quantity],
            learned,
            layer=layer,
            quantity=quantity,
            images=range(len(tensor)),
            place=(self._call,),
            n_special=n_special,
            grid=grid,
        )
