"""The interface of every model to a capture, whatever its library.

A family is a subclass of ``Model`` in a file of its own. ``capture`` knows nothing of transformers: it asks a model for
its layers and their shapes, enters ``recording`` and calls ``forward``; the model passes every quantity of every layer
to the recorder, with special tokens first and patches row by row.
"""

from __future__ import annotations

import copy
import hashlib
import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch

from .._compute.devices import working_dtype
from .._compute.random_state import Draws, drawing
from .._compute.settings import computing, own_settings
from .._io.activations import UNROTATED as UNROTATED
from .._io.reprs import Described, few
from ..errors import SpectralToolkitError, UnsupportedModelError
from .processing import Processing


@dataclass(frozen=True, eq=False)
class Windows:
    """Which tokens of a layer see each other, where attention is inside windows.

    Attributes
    ----------
    window, place
        For each patch (y, x), the number of its window and its place among that window's tokens.
    special_window, special_place
        The same for each special token, such as the padding of a window.
    count, length, key_length
        Number of windows, and of tokens and of keys in the longest.
    key_window, key_place
        As ``window`` and ``place``, for keys that have a grid of their own.
    """

    window: np.ndarray
    place: np.ndarray
    special_window: np.ndarray
    special_place: np.ndarray
    count: int
    length: int
    key_length: int
    key_window: np.ndarray | None = None
    key_place: np.ndarray | None = None


@dataclass(frozen=True)
class LayerShape:
    """Sizes of the quantities of one layer for one image.

    Attributes
    ----------
    grid
        The grid of patches (y, x).
    heads
        Number of query heads; keys and values are repeated to this number.
    channels
        Channels per head of queries and keys.
    value_channels
        Channels per head of values.
    features
        Width of the residual stream.
    biased
        Whether a bias is added to the attention scores.
    key_grid
        The grid of keys and values where it is not that of queries, as where they are pooled.
    windows
        Which tokens see each other, where not all do.
    biased_by_image
        Whether the bias differs from image to image.
    linear
        Whether attention has no softmax, so that ``"qk"`` has no softmax, either.
    """

    grid: tuple[int, int]
    heads: int
    channels: int
    value_channels: int
    features: int
    biased: bool = False
    key_grid: tuple[int, int] | None = None
    windows: Windows | None = None
    biased_by_image: bool = False
    linear: bool = False

    def grid_of(self, quantity: str) -> tuple[int, int]:
        """The grid of one quantity."""
        return self.key_grid or self.grid if quantity in ("key", "value") else self.grid


class Recorder(Protocol):
    """What a capture passes to ``Model.recording``: it receives every quantity of every wanted layer."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the wanted layers."""
        ...

    @property
    def quantities(self) -> Sequence[str]:
        """The wanted quantities of each layer."""
        ...

    def record(self, layer: str, quantity: str, tensor: torch.Tensor) -> None:
        """Receive ``tensor`` (image, head, token, channel), or (image, token, feature) for ``token``."""
        ...

    def describe(self, layer: str, scale: float, bias: torch.Tensor | None) -> None:
        """Receive the softmax scale of a layer and its additive bias (image, head, query, key), if any."""
        ...

    def edited(self, layer: str) -> Sequence[str]:
        """The quantities of a layer that the softmax is to see changed in the present pass."""
        ...

    def edit(self, layer: str, quantity: str, tensor: torch.Tensor) -> torch.Tensor:
        """What takes the place of ``tensor`` (image, head, token, channel): itself where nothing changes."""
        ...


def edit_all(recorder: Recorder, layer: str, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What takes the place of queries, keys and values (image, head, token, channel) of a layer."""
    edited = recorder.edited(layer)
    return {name: recorder.edit(layer, name, one) if name in edited else one for name, one in seen.items()}


Done = Callable[[dict[str, torch.Tensor]], None]


@dataclass
class Model(Described, ABC):
    """A model whose attention can be captured; made by ``load_model``.

    Attributes
    ----------
    name
        Hub name, folder or class name of the model.
    family
        Name of the family as the table of supported models lists it.
    module
        The live torch module that the user gave, or that was loaded; layers have the names of its modules.
    tower
        The part of ``module`` that sees images; often ``module`` itself.
    layers
        Names of the layers in depth order.
    special_tokens
        Labels of the tokens that are not patches, in order, e.g. ``("cls", "register_0")``.
    processor
        The image settings in use.
    revision
        Commit of the weights on the hub, or an empty string.
    training
        How a bundled model was trained, in one sentence; an empty string for all others.
    """

    name: str
    family: str
    module: torch.nn.Module
    tower: torch.nn.Module
    processor: Processing
    layers: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()
    revision: str = ""
    training: str = ""
    unused_weights: frozenset[str] = frozenset()
    """Weights of the tower that were not in the checkpoint and that no layer depends on, such as a pooler."""
    _hash: tuple[object, str] | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    quantities: tuple[str, ...] = ("query", "key", "value", "token")
    """The quantities that a capture can record; `has` knows of those, too, that take a pass to find."""
    images_at_once: ClassVar[int | None] = None
    """The largest batch that the model can take; None where there is no limit."""
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    """Libraries whose versions belong to the provenance."""

    def _facts(self) -> dict[str, object]:
        parameters = list(self.tower.parameters())
        first = parameters[0] if parameters else None
        return {
            "name": self.name,
            "family": self.family,
            "layers": few(self.layers),
            "special tokens": few(self.special_tokens),
            "parameters": f"{sum(one.numel() for one in parameters):,}",
            "on": "" if first is None else f"{first.device}, {str(first.dtype).removeprefix('torch.')}",
            "revision": self.revision,
            "trained": self.training,
        }

    def __getstate__(self) -> dict[str, object]:
        # A lock belongs to one object in one process: copies and pickles get a lock of their own.
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        """Every module that takes part in a capture."""
        return (self.tower,)

    def special_tokens_of(self, layer: str, quantity: str, size: tuple[int, int] | None = None) -> tuple[str, ...]:
        """The special tokens in one quantity of one layer, for images of ``size`` (its own by default).

        In most models, all of them; windows are filled up with as many as a size needs.
        """
        return self.special_tokens

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """Further dimensions of every quantity, after ``image``, with their coordinates.

        Every combination is one forward pass, such as a denoiser at one of several timesteps. Most models have none.
        """
        return {}

    @property
    def provenance(self) -> dict[str, str | int | float]:
        """Further settings that determine the numbers of a capture and belong in its attributes."""
        return {}

    def move(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        """Move and convert everything that the user gave."""
        # The whole model and not its tower alone: half converted, it would be of no use outside.
        if device is not None:
            self.module.to(device)
        if dtype is not None:
            self.module.to(dtype)

    def has(self, quantity: str) -> bool:
        """Whether a capture can record a quantity; one before rotary positions may have to be looked for."""
        return quantity in self.quantities

    @property
    def device(self) -> torch.device:
        """The present device of the tower's weights."""
        return device_of(self.tower)

    @property
    def dtype(self) -> torch.dtype:
        """The present precision of the tower's weights."""
        return dtype_of(self.tower)

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Pixels (height, width) of one patch."""

    @property
    def size_step(self) -> tuple[int, int]:
        """Pixels (height, width) of which an image's size must be a multiple."""
        return self.patch_size

    @property
    @abstractmethod
    def own_size(self) -> tuple[int, int]:
        """Pixels (height, width) of an image by default."""

    @abstractmethod
    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ``SpectralToolkitError`` if the model cannot take images of ``size`` (height, width)."""

    @abstractmethod
    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        """Sizes of the quantities of ``layer`` for an image of ``size`` (height, width)."""

    @property
    @abstractmethod
    def implementation(self) -> str:
        """The implementation that computes the attention during a capture, for the provenance."""

    @abstractmethod
    def recording(self, recorder: Recorder) -> AbstractContextManager[None]:
        """Let every ``forward`` inside the context report to ``recorder``, and leave no trace afterwards."""

    @abstractmethod
    def forward(self, pixels: np.ndarray) -> object:
        """Run the tower on bytes (image, height, width, 3) of a size that passed ``check_size``."""

    def run(self, pixels: np.ndarray, begin: Callable[[tuple[int, ...]], None], done: Done | None = None) -> None:
        """Make every forward pass that a capture of ``pixels`` needs.

        Before each pass, ``begin`` is called with its place in ``draws``; after it, ``done`` with what the model gives
        out by name: ``logits`` (image, class), or ``denoised`` (image, y_px, x_px, rgb) from 0 to 1.
        """
        begin(())
        given = self.forward(pixels)
        if done is not None:
            done(class_scores(self.tower, given))

    def final_tokens(self, keep: Callable[[torch.Tensor], None], size: tuple[int, int]) -> AbstractContextManager[None]:
        """Let every ``forward`` of images of ``size`` in the context give its final tokens to ``keep``, if it has any.

        They are (image, token, feature), special tokens first: see ``final_special_tokens``.
        """
        return nullcontext()

    def final_special_tokens(self, size: tuple[int, int]) -> tuple[str, ...]:
        """The special tokens among the final tokens, for images of ``size``."""
        return self.special_tokens_of(self.layers[-1], "token", size)

    def final_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid of the final tokens, for images of ``size``."""
        return self.layer_shape(self.layers[-1], size).grid

    def expect(self, n: int) -> None:
        """Know that the tower is about to be called with ``n`` images by somebody else, such as its pipeline.

        Raises
        ------
        UnsupportedModelError
            If it is not known how that many are seen together.
        """

    def one_pass(
        self, pixels: np.ndarray, convert: Callable[[torch.nn.Module], torch.nn.Module]
    ) -> Callable[[], object]:
        """Make one forward pass over ``pixels`` with copies of the modules that ``convert`` makes.

        The copies may be without numbers; small inputs are computed here.
        """
        other = copy.copy(self)
        other.tower = convert(self.tower)
        return lambda: other.forward(pixels)

    def image_size(self, size: int | tuple[int, int] | None = None) -> tuple[int, int]:
        """The size (height, width) to which images are resized, checked; ``None`` gives the model's own size.

        Raises
        ------
        SpectralToolkitError
            If the size is not a multiple of the patch, or the model takes only its own size.
        """
        if size is None:
            chosen = self.own_size
        elif isinstance(size, (int, np.integer)) and not isinstance(size, bool):
            chosen = (int(size), int(size))
        else:
            try:
                height, width = size  # type: ignore[misc]
                chosen = (operator.index(height), operator.index(width))
            except (TypeError, ValueError) as error:
                raise SpectralToolkitError(
                    f"size={size!r} is not a size in pixels: expected an integer, (height, width) or None."
                ) from error
        step = self.size_step
        if min(chosen) <= 0 or chosen[0] % step[0] or chosen[1] % step[1]:
            nearest = tuple(max(p, round(c / p) * p) for c, p in zip(chosen, step, strict=True))
            which = "its patch" if step == self.patch_size else "its coarsest patch"
            raise SpectralToolkitError(
                f"size={chosen} does not fit {self.name}: height and width must be positive multiples of {which}, "
                f"{step[0]} x {step[1]} pixels; the nearest is {nearest}."
            )
        self.check_size(chosen)
        return chosen

    @abstractmethod
    def config_sha256(self) -> str:
        """Hash over the settings that, besides the weights, determine what the model computes."""

    def untrained(self, seed: int) -> tuple[Model, tuple[str, ...]]:
        """The same architecture, image settings and fixed tables, with weights drawn from ``seed``.

        Raises
        ------
        UnsupportedModelError
            If it is not known how to build the model again.
        """
        raise UnsupportedModelError(
            f"{self.name} ({self.family}) cannot be built with fresh weights of seed {seed}: build one yourself and "
            "capture it."
        )

    @property
    def user_hooks(self) -> int:
        """Number of other parties' forward hooks on the tower, which may change what it computes."""
        hooks = [
            hook
            for part in self.tower.modules()
            for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        ]
        # The libraries' own hooks (pruning, hidden states kept for the caller) follow from weights and configuration.
        return sum(not str(getattr(hook, "__module__", "")).startswith(("torch.", "transformers.")) for hook in hooks)

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor on which a capture depends."""
        # A compiled module has the weights of the module from which it was made.
        for name, tensor in self.tower.state_dict().items():
            if name not in self.unused_weights:
                yield as_written(name), tensor

    @computing
    def weights_sha256(self) -> str:
        """Hash over the names, types and bytes of the tower's weights.

        The hash is kept, and made again only when a weight has changed, which the tensors' version counters and sums
        show.
        """
        tensors = list(self.named_weights())
        for name, tensor in tensors:
            if not isinstance(tensor, torch.Tensor) or tensor.is_quantized:
                raise UnsupportedModelError(
                    f"{self.name} has quantised weights ({name}), which cannot be captured: load it in float32 or "
                    "float16."
                )
            if tensor.is_meta:
                raise UnsupportedModelError(
                    f"{self.name} has no weights, as it is on the device 'meta': load them with from_pretrained."
                )
        with torch.no_grad():
            sums: dict[torch.device, list[torch.Tensor]] = {}
            for _, tensor in tensors:
                sums.setdefault(tensor.device, []).append(tensor.sum(dtype=working_dtype(tensor.device)))
            totals = {device: iter(torch.stack(own).tolist()) for device, own in sums.items()}  # one wait a device
            key = tuple(
                (n, t.data_ptr(), 0 if t.is_inference() else t._version, next(totals[t.device])) for n, t in tensors
            )
        with self._lock:
            if self._hash is None or self._hash[0] != key:
                self._hash = (key, sha256_of(tensors))
            return self._hash[1]


_HEADS = frozenset({"head", "heads", "fc", "classifier", "linear_head", "cls_head"})
"""Names of the parts of classifiers that give out logits."""


def class_scores(module: torch.nn.Module, given: object) -> dict[str, torch.Tensor]:
    """The logits (image, class) in what a module gives out, or no output at all.

    A plain matrix counts where the module has a linear head of that width: pooled features are no logits.
    """
    logits = given.get("logits") if isinstance(given, dict) else getattr(given, "logits", None)
    if isinstance(given, torch.Tensor):
        heads = [
            part.out_features
            for name, part in module.named_modules()
            if isinstance(part, torch.nn.Linear) and _HEADS & set(name.split("."))
        ]
        logits = given if given.ndim == 2 and given.shape[-1] in heads else None
    return {"logits": logits} if isinstance(logits, torch.Tensor) and logits.ndim == 2 else {}


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the weights of a module are; the CPU if it has none."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


def dtype_of(module: torch.nn.Module) -> torch.dtype:
    """The precision of a module's weights; single if it has none."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)


def prefix_of(module: torch.nn.Module, tower: torch.nn.Module) -> str:
    """What stands before the names of a tower's parts within the module that holds it."""
    return next((f"{name}." if name else "" for name, part in module.named_modules() if part is tower), "")


def as_written(name: str) -> str:
    """A name without what a compiler puts in: a compiled module has the name of the one from which it was made."""
    return name.replace("_orig_mod.", "")


def sha256_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash named tensors in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


_counting = threading.Lock()
_n_uncompiled = 0
_stance = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled modules as written, because the compiler would also compile the recording of a capture."""
    # The stance applies to the whole process: the last capture to end, in any thread, restores it.
    global _n_uncompiled
    with _counting:
        if not _n_uncompiled:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _n_uncompiled += 1
    try:
        yield
    finally:
        with _counting:
            _n_uncompiled -= 1
            if not _n_uncompiled:
                _stance.close()


@contextmanager
def evaluating(modules: Sequence[torch.nn.Module], seed: int, device: torch.device | None = None) -> Iterator[Draws]:
    """Set evaluation mode, our own settings, no compiled code and seeded generators, and restore all of it afterwards.

    The output of a model then depends only on its weights and their precision, and not on the caller's autocast,
    default dtype or default device. Tensors that a model makes without naming a device are on the model's device.
    Plain values that modules change in a pass are set back, too: a Swin that was shown a small image would otherwise
    keep smaller windows from then on.
    """
    found = [(vars(part), _plain_values(part)) for module in modules for part in module.modules()]
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        # Gradients are switched off without inference mode: models cache tensors (rotary tables), and a tensor made in
        # inference mode would break the user's next training step.
        stack.enter_context(own_settings())
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        draws = stack.enter_context(drawing(seed, device))
        try:
            for module in modules:
                module.eval()
            yield draws
        finally:
            for present, before in found:
                present |= before


def _plain_values(part: torch.nn.Module) -> dict[str, object]:
    """Numbers, names and sizes that a module keeps as attributes, whether it is being trained among them."""
    return {name: value for name, value in vars(part).items() if isinstance(value, (int, float, str, tuple))}
