"""Forward passes become a tree of activations: in memory, or streamed to a zarr store image by image.

``plan.py`` settles what will be recorded, ``memory.py`` and ``stores.py`` are the two places where it can be kept, and
the models know how their attention is observed. Everything that is changed in a model is undone when its context ends.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from .._compute.processes import rank, world_size
from .._compute.random_state import Draws
from .._compute.settings import computing, is_out_of_memory
from .._compute.warned import outside
from .._io.images import Images, load_images
from .._models import Model, load_model
from .._models.model import Done, evaluating
from ..errors import ActivationsError, CaptureMemoryError, SpectralToolkitError, UnsupportedModelError
from .memory import MemorySink, Sink
from .plan import Plan, available_memory, format_bytes, make_plan
from .stores import ZarrSink

__all__ = ["capture", "estimate_bytes"]

_DEFAULT = ("query", "key", "value")


@computing
def capture(
    model: object,
    images: object,
    *,
    layers: object = "all",
    quantities: str | Sequence[str] = _DEFAULT,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
    size: int | tuple[int, int] | None = None,
    memory_limit: int | None = None,
) -> xr.DataTree:
    """Record queries, keys, values and tokens of a model's layers on images.

    Whatever happens, the model is left as it was: attention implementation, training mode, device, precision, hooks and
    random state. During the capture its outputs are those that it always gives in evaluation mode.

    Parameters
    ----------
    model
        A ``Model``, or anything ``load_model`` takes.
    images
        Anything ``load_images`` takes.
    layers
        ``"all"``; or a name, a number (negative numbers count from the end), a slice, or a list of these.
    quantities
        One or several of ``"query"``, ``"key"`` and ``"value"`` (after rotary embedding and normalisation, as the
        softmax sees them; with grouped queries, keys and values are repeated for every query head), ``"token"`` (the
        residual stream after the block), and for models with rotary positions ``"query_unrotated"`` and
        ``"key_unrotated"`` (queries and keys after normalisation and before rotation).
    store
        Path of a zarr store to stream to, image by image. An interrupted capture resumes there and gives the same
        bytes; a finished one is opened and returned at once. Nothing is ever overwritten. If several processes run
        together, each writes its share, again with the same bytes: on the command line these are the processes that
        torchrun started, in a script of your own those inside ``with spectral_toolkit._compute.processes.join():``.
        Without that, each process captures everything.
    batch_size
        Images per forward pass.
    seed
        The seed for models that draw random numbers from torch, NumPy or Python; the state of these generators is
        restored. Such a model is shown the images one at a time: what is drawn for an image follows from ``seed`` and
        the image alone, whatever the batch size, the other images and interruptions.
    progress
        Whether to show a progress bar, with the number of bytes.
    size
        Size (height, width) in pixels to which all images are resized, without cropping; by default the model's own
        size.
    memory_limit
        The number of bytes that a capture without ``store`` may take; by default the memory that is available.

    Returns
    -------
    xarray.DataTree
        The root holds ``pixels (image, y_px, x_px, rgb)``, the coordinates ``image``, ``original_height``,
        ``original_width``, ``box_*`` and ``image_sha256`` along it, and the provenance in its attributes. The hash is
        that of the image's pixels before they were resized: results are only compared where it is the same. There is
        one child per layer, in the order of depth, with ``query``, ``key`` and ``value`` of dimensions
        ``(image, head, y, x, channel)``, ``token (image, y, x, feature)``, the special tokens separately as
        ``special_query (image, head, special, channel)`` and so on, ``attention_bias (head, query_token, key_token)``
        where the model adds one, and the attributes ``depth`` and ``scale``. Floats are float32 unless the model runs
        in float16 or float64.

    Raises
    ------
    CaptureMemoryError
        If the result would not fit in memory and no store is given.
    StoreError
        If the store is damaged, was not written by this package, or holds another capture.
    ActivationsError
        If a layer yields NaN or infinity.
    UnsupportedModelError
        If the model's attention cannot be captured.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    ... )
    >>> activations = capture(ViTModel(config), np.zeros((48, 64, 3), dtype=np.uint8), progress=False)
    >>> dict(activations["layers.0"]["query"].sizes)
    {'image': 1, 'head': 2, 'y': 4, 'x': 4, 'channel': 4}
    """
    plan = plan_of(model, images, layers, quantities, size, batch_size, seed)
    if store is None:
        check_memory(plan, memory_limit)
        sink: Sink = MemorySink(plan)
    else:
        _check_batch_memory(plan)
        sink = ZarrSink.open(store, plan)
    if sink.waiting:
        run(plan, sink, progress, SinkRecorder(plan, sink))
    return sink.tree()


@computing
def estimate_bytes(
    model: object,
    images: object,
    *,
    layers: object = "all",
    quantities: str | Sequence[str] = _DEFAULT,
    size: int | tuple[int, int] | None = None,
) -> int:
    """Return how many bytes ``capture`` with the same arguments will yield, without running the model.

    For BEiT this is an upper bound: a relative position bias that turns out to be all zero is dropped from the capture.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    ... )
    >>> estimate_bytes(ViTModel(config), np.zeros((48, 64, 3), dtype=np.uint8))
    6336
    """
    return plan_of(model, images, layers, quantities, size, 1, 0).nbytes


@computing
def make_capture_plan(
    model: object,
    images: object,
    *,
    layers: object = "all",
    quantities: str | Sequence[str] = _DEFAULT,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 8,
) -> Plan:
    """Return the plan of what ``capture`` with these arguments would record."""
    return plan_of(model, images, layers, quantities, size, batch_size, 0)


def plan_of(
    model: object,
    images: object,
    layers: object,
    quantities: str | Sequence[str],
    size: int | tuple[int, int] | None,
    batch_size: int,
    seed: int,
) -> Plan:
    """The checked plan of a capture with these arguments."""
    pictures = load_images(images)
    loaded = model if isinstance(model, Model) else load_model(model)
    return make_plan(loaded, pictures, layers, quantities, size, batch_size, seed)


def check_memory(plan: Plan, memory_limit: int | None) -> None:
    """Raise ``CaptureMemoryError`` if the result would not fit in memory."""
    limit = available_memory() if memory_limit is None else memory_limit
    if isinstance(limit, bool) or not isinstance(limit, (int, float, np.integer)):
        raise SpectralToolkitError(f"memory_limit={limit!r} is not a number of bytes: expected one such as 2 * 10**9.")
    if plan.nbytes > limit:
        raise CaptureMemoryError(
            f"The capture would take {format_bytes(plan.nbytes)} ({plan.nbytes:,} bytes) for {len(plan.pictures)} "
            f"images and {len(plan.layers)} layers, and {format_bytes(limit)} are available: stream it to disk with "
            "store='activations.zarr', or capture fewer layers, quantities or images, or a smaller size."
        )


def _check_batch_memory(plan: Plan) -> None:
    limit = available_memory()
    if plan.batch_nbytes > limit:
        raise CaptureMemoryError(
            f"One batch of {plan.batch_size} images would take {format_bytes(plan.batch_nbytes)} and "
            f"{format_bytes(limit)} are available: lower batch_size={plan.batch_size}, or capture fewer layers or "
            "quantities, or a smaller size."
        )


def run(plan: Plan, sink: Sink, progress: bool, recorder: SinkRecorder) -> None:
    """Make all passes of a plan, and let ``recorder`` put what it receives into the sink."""
    model = plan.model
    _ = plan.attrs  # computed now, so that weights that cannot be hashed are refused before the work
    n_waiting = sum(batch.stop - batch.start for batch in sink.waiting)
    title = f"capture {len(plan.layers)} layers, {format_bytes(plan.nbytes)}"
    shown = progress and rank() == 0
    if (n_processes := world_size()) > 1:
        title += f", rank 0 of {n_processes}"
    with (
        tqdm(total=len(plan.pictures), initial=len(plan.pictures) - n_waiting, desc=title, disable=not shown) as bar,
        evaluating(recorder.parts, plan.seed, model.device) as draws,
        model.recording(recorder),
        recorder.finishing(),
    ):
        together, at_once = True, plan.batch_size
        for batch in sink.waiting:
            pixels, hashes = read_pixels(plan, plan.pictures, batch)
            sink.begin(batch, pixels, hashes)
            if together:
                drew, at_once = _passes(plan, recorder, draws, batch, pixels, at_once)
                together = not drew or len(pixels) == 1
            if not together:
                # A model that draws random numbers draws them for a whole batch at once. Shown alone, an image gets
                # numbers of its own, whichever images are captured with it.
                for place in range(len(pixels)):
                    _pass(plan, recorder, draws, batch, pixels, slice(place, place + 1))
            sink.commit()
            bar.update(len(pixels))


def read_pixels(plan: Plan, pictures: Images, batch: slice) -> tuple[np.ndarray, tuple[str, ...]]:
    """Images as the model sees them, (image, y_px, x_px, rgb), and the hashes of what they were before."""
    read, hashes = zip(*(pictures.hashed(place) for place in range(batch.start, batch.stop)), strict=True)
    return np.stack([plan.model.processor.resize(picture, plan.size) for picture in read]), hashes


def _passes(
    plan: Plan, recorder: SinkRecorder, draws: Draws, batch: slice, pixels: np.ndarray, at_once: int
) -> tuple[bool, int]:
    """Run a batch ``at_once`` images at a time, fewer where these do not fit on the device.

    Returns whether the model drew random numbers, and how many images fitted.
    """
    done, drew = 0, False
    while done < len(pixels):
        rows = slice(done, min(done + at_once, len(pixels)))
        try:
            drew |= _pass(plan, recorder, draws, batch, pixels, rows)
        except CaptureMemoryError:
            if rows.stop - rows.start == 1:
                raise
            at_once = (rows.stop - rows.start) // 2
            warnings.warn(
                f"{rows.stop - rows.start} images at once do not fit on {plan.model.device}, so that "
                f"{at_once} are shown at a time: batch_size={at_once} spares the attempt.",
                stacklevel=outside(),
            )
            continue
        done = rows.stop
    return drew, at_once


def _pass(plan: Plan, recorder: SinkRecorder, draws: Draws, batch: slice, pixels: np.ndarray, rows: slice) -> bool:
    """Run some images of a batch through the model; return whether it drew random numbers."""
    recorder.begin(batch, rows)
    recorder.prepare(lambda shown: show(plan, recorder, draws, shown))
    return show(plan, recorder, draws, pixels[rows])


def show(plan: Plan, recorder: SinkRecorder, draws: Draws, shown: np.ndarray) -> bool:
    """Run images through the model; return whether it drew random numbers."""
    draws.seed(_seed_of(plan.seed, shown[0]))
    began = draws.states()
    try:
        plan.model.run(shown, recorder.begin_pass, recorder.done)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise CaptureMemoryError(
            f"The forward pass of {len(shown)} images does not fit on {plan.model.device}: lower "
            f"batch_size={plan.batch_size} or size={plan.size}."
        ) from error
    recorder.end()
    return draws.states() != began


def _seed_of(seed: int, pixels: np.ndarray) -> int:
    """Return the seed for one image, which follows from the capture's seed and the image alone."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
    sequence = np.random.SeedSequence([seed, int.from_bytes(digest, "little")])
    return int(sequence.generate_state(1, np.uint64)[0])


class SinkRecorder:
    """Receives what a model reports during each forward pass, and puts it where the sink says."""

    def __init__(self, plan: Plan, sink: Sink):
        self.layers, self.quantities, self.size = plan.layers, plan.quantities, plan.size
        self._plan, self._sink = plan, sink
        self._rows = slice(0, 0)
        self._names: Sequence[str] = ()
        self._sizes = tuple(len(values) for values in plan.model.draws.values())
        self._place: tuple[int, ...] | None = None
        self._passed: set[tuple[int, ...]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._described: dict[str, torch.Tensor] = {}

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        """Every module that takes part."""
        return self._plan.model.parts

    @property
    def done(self) -> Done | None:
        """What receives the model's outputs, where anybody wants them."""
        return None

    def finishing(self) -> AbstractContextManager[None]:
        """Receive the final tokens in this context, where anybody wants them."""
        return nullcontext()

    def prepare(self, show: Callable[[np.ndarray], object]) -> None:
        """Receive what is needed from other images before the images of ``begin`` are shown."""

    def edited(self, layer: str) -> Sequence[str]:
        """Nothing is changed in a capture."""
        return ()

    def edit(self, layer: str, quantity: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def begin(self, batch: slice, rows: slice) -> None:
        """Prepare for some images of a batch, which follow in any number of passes."""
        self._rows = rows
        self._names = self._plan.pictures.names[batch.start :][rows]
        self._place = None
        self._passed.clear()

    def begin_pass(self, place: tuple[int, ...]) -> None:
        """Prepare for a forward pass; ``place`` is its position in the dimensions of the model's noise samples."""
        self._end_pass()
        self._place = place
        self._passed.add(place)

    def end(self) -> None:
        self._end_pass()
        assert len(self._passed) == math.prod(self._sizes), "every noise sample has been recorded"

    def _end_pass(self) -> None:
        missing = (
            []
            if self._place is None
            else [
                (layer, quantity)
                for layer in self.layers
                for quantity in self.quantities
                if (layer, quantity) not in self._seen
            ]
        )
        if missing:
            raise UnsupportedModelError(
                f"{self._plan.model.name} ran without using {missing[0][1]} of layer {missing[0][0]!r} where it was "
                "expected, so that layer cannot be captured: leave it out of layers=..."
            )
        self._seen.clear()

    def record(self, layer: str, quantity: str, tensor: torch.Tensor) -> None:
        n_special, grid = self.checked(layer, quantity, tensor)
        # Splitting one axis into (y, x) gives a view whatever the strides, so each number is copied once.
        self._put(layer, quantity, tensor[..., n_special:, :].unflatten(-2, grid))
        if n_special:
            self._put(layer, f"special_{quantity}", tensor[..., :n_special, :])

    def checked(
        self, layer: str, quantity: str, tensor: torch.Tensor, *, before: bool = False
    ) -> tuple[int, tuple[int, int]]:
        """The number of special tokens and the grid in a quantity that a layer reports once in each pass.

        ``before`` says that it is not reported yet.
        """
        if (layer, quantity) in self._seen:
            raise UnsupportedModelError(
                f"{self._plan.model.name} uses layer {layer!r} twice in one pass, so it is unclear which {quantity} is "
                "meant: leave it out of layers=..., or put a copy.deepcopy of it in one of its places."
            )
        if not before:
            self._seen.add((layer, quantity))
        model = self._plan.model
        n_special = len(model.special_tokens_of(layer, quantity, self.size))
        n_images, grid = len(self._names), model.layer_shape(layer, self.size).grid_of(quantity)
        n_tokens = n_special + grid[0] * grid[1]
        if tensor.shape[0] != n_images or tensor.shape[-2] != n_tokens:
            raise UnsupportedModelError(
                f"Layer {layer!r} of {self._plan.model.name} yields {quantity} of shape {tuple(tensor.shape)}; "
                f"expected {n_images} images, {n_special} special tokens and {grid[0]} x {grid[1]} patches."
            )
        return n_special, grid

    def _put(self, layer: str, name: str, tensor: torch.Tensor) -> None:
        target = self._sink.target(layer, name)[(self._rows, *(self._place or ()))]
        stored = torch.from_numpy(target)
        if stored.shape != tensor.shape:
            raise UnsupportedModelError(
                f"Layer {layer!r} of {self._plan.model.name} yields {name} of shape {tuple(tensor.shape)}; "
                f"expected {tuple(stored.shape)}."
            )
        stored.copy_(tensor)
        # A sum is finite only if all its terms are, and takes a fraction of the time of testing each one.
        if not bool(torch.isfinite(stored.sum())) and not np.isfinite(target).all():
            bad = next(index for index, picture in enumerate(target) if not np.isfinite(picture).all())
            image = self._names[bad]
            raise ActivationsError(
                f"{name} of layer {layer!r} holds NaN or infinity in image {image!r}: the model overflowed or its "
                "weights are damaged; load it with dtype='float32', or leave the image out."
            )

    def describe(self, layer: str, scale: float, bias: torch.Tensor | None) -> None:
        if "attention_bias" in self._plan.arrays(layer):  # one for each image
            spec = self._plan.arrays(layer)["attention_bias"]
            lowest = float(np.finfo(spec.dtype).min)
            empty = torch.zeros((len(self._names), *spec.shape))
            self._put(layer, "attention_bias", empty if bias is None else bias.clamp(min=lowest).expand(empty.shape))
            bias = None
        if bias is not None and not bool(torch.any(bias != 0)):
            bias = None  # it changes nothing
        sums = torch.zeros(0) if bias is None else _sums(bias)
        alike = bias is None or bias.shape[0] == 1 or bool(torch.all(bias == bias[:1]))
        if not alike or not torch.equal(sums, self._described.get(layer, sums)):
            raise UnsupportedModelError(
                f"Layer {layer!r} of {self._plan.model.name} does not add the same attention bias to every image, "
                "but a tree of activations holds one bias for all: capture each image in a separate call."
            )
        if layer not in self._described:
            self._sink.describe(layer, scale, None if bias is None else self._bias(layer, bias))
            self._described[layer] = sums

    def _bias(self, layer: str, bias: torch.Tensor) -> np.ndarray:
        """Return the bias of one layer, (head, query, key)."""
        spec = self._plan.bias(layer)
        # Minus infinity (a token is not seen) becomes the lowest number: softmax sees no difference.
        lowest = float(np.finfo(spec.dtype).min)
        seen = bias[0].detach().cpu().double()  # in this order: MPS has no double precision
        array = seen.clamp(min=lowest).expand(spec.shape).numpy().astype(spec.dtype)
        if not np.isfinite(array).all():
            raise ActivationsError(
                f"The attention bias of layer {layer!r} holds NaN or infinity: the weights are damaged."
            )
        return array


def _sums(bias: torch.Tensor) -> torch.Tensor:
    """Identify a bias without keeping it: its sums over queries and over keys, with infinite values clipped."""
    one = bias[0].detach().clamp(min=-1e4).flatten(0, -3)
    return torch.cat([one.sum(dim=axis, dtype=torch.float32).flatten() for axis in (-1, -2)]).cpu()
