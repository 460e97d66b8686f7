"""Vision encoders of transformers: one class for all families that differ only in their line of the table.

A family that needs special treatment (masking, packing, patches as input) is a subclass in its own file.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .._compute.random_state import drawing
from .._compute.settings import computing
from ..errors import SpectralToolkitError, UnsupportedModelError
from . import attention
from .model import UNROTATED, Done, LayerShape, Model, Recorder, as_written, class_scores, edit_all, prefix_of
from .untyped import Config, config_of, untyped

_NOT_COMPUTED = ("transformers_version", "dtype", "torch_dtype", "architectures", "id2label", "label2id")
"""Settings of a configuration that change no number, or that are recorded separately."""


@dataclass
class EncoderModel(Model):
    """A vision encoder of transformers whose attention goes through the library's attention interface.

    Attributes
    ----------
    attention_class
        Name of the class of the attention modules; a layer is the module that holds one.
    sizes
        ``"own"``: one size only; ``"interpolated"``: other sizes by interpolating the position embeddings, on request;
        ``"any"``: every multiple of the patch; ``"square"``: also every multiple, if the model was trained on a square
        grid.
    rotary
        Whether positions enter by rotating queries and keys.
    """

    attention_class: str = ""
    sizes: str = "own"
    rotary: bool = False
    attentions: dict[str, torch.nn.Module] = field(default_factory=dict, repr=False)
    blocks: dict[str, torch.nn.Module] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        prefix = prefix_of(self.module, self.tower)
        for name, part in self.tower.named_modules():
            if any(base.__name__ == self.attention_class for base in type(part).__mro__):
                block = name.rpartition(".")[0]
                layer = as_written(prefix + block + ".").removesuffix(".")
                self.attentions[layer], self.blocks[layer] = part, self.tower.get_submodule(block)
        if not self.attentions:
            raise UnsupportedModelError(
                f"{type(self.tower).__name__} has no module of class {self.attention_class}, so its attention cannot "
                "be captured: the installed transformers may be older or newer than the tested versions."
            )
        self.layers = tuple(self.attentions)
        if self.rotary:
            self.quantities = (*self.quantities, *UNROTATED)

    @property
    def config(self) -> Config:
        return config_of(self.tower)

    @property
    def patch_size(self) -> tuple[int, int]:
        return _pair(self.config.patch_size)

    @property
    def trained_size(self) -> tuple[int, int]:
        """Pixels (height, width) for which the position embeddings were made.

        Only whole patches count: a model for 384 pixels in patches of 14 has a grid of 27, and never sees the last 6.
        """
        height, width = (size // patch * patch for size, patch in zip(self._size, self.patch_size, strict=True))
        return (height, width)

    @property
    def _size(self) -> tuple[int, int]:
        return _pair(self.config.image_size)

    @property
    def own_size(self) -> tuple[int, int]:
        wanted = self.processor.size
        if wanted is None or self.sizes == "own" or any(w % p for w, p in zip(wanted, self.patch_size, strict=True)):
            return self.trained_size
        return wanted

    def check_size(self, size: tuple[int, int]) -> None:
        trained = self.trained_size
        oblong = trained[0] // self.patch_size[0] != trained[1] // self.patch_size[1]
        if self.sizes == "square":
            if oblong:
                raise SpectralToolkitError(
                    f"{self.name} takes no images at all: its position embeddings are for {trained} pixels, and "
                    f"{self.family} models of transformers interpolate from a square grid only."
                )
            return
        if (size == trained and trained == self._size) or self.sizes == "any":
            return
        if self.sizes == "own" and size != trained:
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}: {self.family} models take images of {trained} pixels only."
            )
        if self.sizes != "own" and oblong:
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}: its position embeddings are not on a square grid and cannot "
                f"be interpolated; use {trained}."
            )

    def layer_shape(self, layer: str, size: tuple[int, int]) -> LayerShape:
        part = untyped(self.attentions[layer])
        heads = getattr(part, "num_heads", None) or part.num_attention_heads
        # Not from the projections, because a user's adapters may be in their place.
        return LayerShape(
            grid=(size[0] // self.patch_size[0], size[1] // self.patch_size[1]),
            heads=heads,
            channels=part.head_dim,
            value_channels=part.head_dim,
            features=self.config.hidden_size,
            biased=any(getattr(self.config, f"use_{kind}relative_position_bias", False) for kind in ("", "shared_")),
        )

    @property
    def implementation(self) -> str:
        return attention.implementation(self.attentions.values())

    def config_sha256(self) -> str:
        settings = json.dumps(_computing(self.config.to_dict()), sort_keys=True, default=str)
        return hashlib.sha256(settings.encode()).hexdigest()

    @computing
    def untrained(self, seed: int) -> tuple[Model, tuple[str, ...]]:
        outer = self.module
        if not hasattr(outer, "config"):
            raise UnsupportedModelError(
                f"{type(outer).__name__} has no configuration, so it cannot be built with fresh weights: load the "
                "transformers model inside it."
            )
        with drawing(seed):
            module = untyped(type(outer))(copy.deepcopy(config_of(outer)))
        learned, kept = dict(outer.named_parameters()), []
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                # Fixed tables that some classes leave at zero until a checkpoint fills them belong to the architecture,
                # not to the training.
                if not parameter.requires_grad and name in learned and not bool(parameter.any()):
                    parameter.copy_(learned[name])
                    kept.append(name)
        module.to(self.device, self.dtype).eval()
        tower = module.get_submodule(prefix_of(outer, self.tower).removesuffix("."))
        # Layers must find their modules again, and the hash of the trained weights must not be copied.
        own = {"attentions": {}, "blocks": {}, "quantities": Model.quantities, "_hash": None, "training": ""}
        return replace(self, module=module, tower=tower, **own), tuple(kept)

    @contextmanager
    def recording(self, recorder: Recorder) -> Iterator[None]:
        with ExitStack() as stack:
            listeners = {}
            for layer in recorder.layers:
                part = self.attentions[layer]
                listeners[part] = _listener(recorder, layer)
                if "token" in recorder.quantities:
                    handle = self.blocks[layer].register_forward_hook(_token_hook(recorder, layer))
                    stack.callback(handle.remove)
                for quantity, projection in zip(UNROTATED, ("q_proj", "k_proj"), strict=True):
                    if quantity in recorder.quantities:
                        channels = self.layer_shape(layer, self.own_size).channels
                        hook = _projection_hook(recorder, layer, quantity, channels)
                        stack.callback(getattr(part, projection).register_forward_hook(hook).remove)
            stack.enter_context(attention.listening(self.tower, listeners))
            yield

    def forward(self, pixels: np.ndarray) -> object:
        return self.tower(**self.inputs(pixels))

    def run(self, pixels: np.ndarray, begin: Callable[[tuple[int, ...]], None], done: Done | None = None) -> None:
        begin(())
        # The classifier around the tower runs the tower itself.
        whole = done is not None and "ForImageClassification" in type(self.module).__name__
        given = self.module(**self.inputs(pixels)) if whole else self.forward(pixels)
        if done is not None:
            done(class_scores(self.module, given))

    @contextmanager
    def final_tokens(self, keep: Callable[[torch.Tensor], None], size: tuple[int, int]) -> Iterator[None]:
        """The last hidden state, which is normalised in most models."""
        handle = self.tower.register_forward_hook(lambda tower, args, output: keep(output[0]))
        try:
            yield
        finally:
            handle.remove()

    def inputs(self, pixels: np.ndarray) -> dict[str, object]:
        """The tower's arguments for bytes (image, height, width, 3)."""
        inputs: dict[str, object] = {"pixel_values": self.processor.normalise(pixels, self.device, self.dtype)}
        # On the trained grid this interpolates nothing; it only lets the model accept an image without the remainder.
        if self.sizes == "interpolated" and pixels.shape[1:3] != self._size:
            inputs["interpolate_pos_encoding"] = True
        return inputs


def _listener(recorder: Recorder, layer: str) -> attention.Listener:
    wanted = [name for name in ("query", "key", "value") if name in recorder.quantities]

    def listen(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
    ) -> attention.Seen:
        seen = edit_all(recorder, layer, {"query": query, "key": key, "value": value})
        for name in wanted:
            recorder.record(layer, name, seen[name])
        recorder.describe(layer, scale, bias)
        return seen["query"], seen["key"], seen["value"]

    return listen


def _token_hook(recorder: Recorder, layer: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        recorder.record(layer, "token", output[0] if isinstance(output, tuple) else output)

    return hook


def _projection_hook(recorder: Recorder, layer: str, quantity: str, channels: int) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        recorder.record(layer, quantity, output.unflatten(-1, (-1, channels)).transpose(1, 2))

    return hook


def _computing(settings: object) -> object:
    """A configuration, including nested ones, without names, versions and settings of the attention library."""
    if not isinstance(settings, dict):
        return settings
    return {
        str(key): _computing(value)
        for key, value in settings.items()
        if key not in _NOT_COMPUTED and not str(key).startswith(("_", "attn_implementation"))
    }


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, Sequence):
        return (int(value[0]), int(value[1]))
    return (int(value), int(value))
