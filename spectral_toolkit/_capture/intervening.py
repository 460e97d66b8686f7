"""``intervene``: the passes of a capture, with queries, keys or values changed before the softmax sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .._compute.settings import computing
from .._io.activations import QUANTITIES, UNROTATED
from .._models.model import Done
from ..errors import UnsupportedModelError
from . import _DEFAULT, SinkRecorder, check_memory, plan_of, read_pixels, run
from .edits import EDITABLE, Edit, by_layer, check_images, donor_images, edited, edits_of
from .memory import MemorySink, Sink
from .plan import Plan, choose_layers

Place = tuple[int, ...]
_Where = tuple[str, str, Place]


@computing
def intervene(
    model: object,
    images: object,
    edits: object = (),
    *,
    layers: object = "all",
    quantities: str | Sequence[str] = _DEFAULT,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = True,
    size: int | tuple[int, int] | None = None,
    memory_limit: int | None = None,
) -> xr.DataTree:
    """Run a model with queries, keys or values changed between their computation and the softmax.

    Whatever happens, the model is left as it was, as by ``st.capture``. Without edits, and where an edit changes
    nothing, every number is that of the plain pass.

    A layer sees what the edits of the layers before it have made of the image. Biases of attention scores that a model
    computes from its queries, such as the relative positions of SAM, stay those of the queries before the edit.

    Parameters
    ----------
    model
        A ``Model``, or anything ``load_model`` takes.
    images
        Anything ``load_images`` takes.
    edits
        One of ``st.exchange``, ``st.remove``, ``st.average``, ``st.scale`` and ``st.change``; or a function of (layer,
        tensor), which is called for queries, for keys and for values of every layer; or several of these, which are
        made in this order.
    layers, quantities
        What the returned tree holds, as in ``st.capture``; edits say themselves what they edit.
    batch_size, seed, progress, size, memory_limit
        As in ``st.capture``.

    Returns
    -------
    xarray.DataTree
        What ``st.capture`` returns, with queries, keys and values as the softmax saw them. The root also holds what the
        model gave out, as far as it has any: ``final_token (image, final_y, final_x, final_feature)``, the tokens after
        its last layer (of models of transformers, its last hidden state); ``special_final_token``, the special ones
        among them; ``logits (image, class)`` of a classifier; and ``denoised (image, timestep, noise, y_px, x_px,
        rgb)`` from 0 to 1, the clean image that a denoiser predicts.

    Raises
    ------
    SpectralToolkitError
        If an edit does not fit the model or the images.
    UnsupportedModelError
        If the attention of a layer can be captured and cannot be edited; the message says why.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    ... )
    >>> pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    >>> import spectral_toolkit as st
    >>> without = st.change("value", lambda layer, tensor: 0 * tensor, layers=-1)
    >>> changed = intervene(ViTModel(config), pixels, without, progress=False)
    >>> dict(changed["final_token"].sizes)
    {'image': 1, 'final_y': 4, 'final_x': 4, 'final_feature': 8}
    """
    plan = plan_of(model, images, layers, quantities, size, batch_size, seed)
    check_memory(plan, memory_limit)
    sink = MemorySink(plan)
    recorder = EditingRecorder(plan, sink, edits_of(edits))
    run(plan, sink, progress, recorder)
    tree = sink.tree()
    root = tree.to_dataset(inherit=False).assign(recorder.outputs()).assign_coords(plan.model.draws)
    tree.dataset = root.assign_attrs(edits=recorder.described)
    return tree


class EditingRecorder(SinkRecorder):
    """Records what the softmax sees, and says what it is to see."""

    def __init__(self, plan: Plan, sink: Sink, edits: Sequence[Edit]):
        super().__init__(plan, sink)
        self._batch = slice(0, 0)
        self._edits = by_layer(edits, plan.model)
        self._changed: set[tuple[str, str]] = set()
        for edit in edits:
            check_images(edit, plan.pictures.names)
        self.described = json.dumps(
            [{"edit": edit.name, "layers": choose_layers(plan.model, edit.layers)} for edit in edits]
        )
        self._donors = {id(edit): donor_images(edit, len(plan.pictures), plan.model.draws) for edit in edits}
        self._in_need = [edit for edit in edits if edit.needs_mean]
        self._learned: dict[tuple[int, str, str, Place], Tensor] = {}
        self._learn: Callable[[str, str, Tensor], None] | None = None
        self._outputs: dict[str, np.ndarray] = {}
        # What is edited must be seen, too, whether it is kept or not.
        model = plan.model
        seen = {*plan.layers, *(layer for layer, _ in self._edits)}
        self.layers = tuple(one for one in model.layers if one in seen)
        wanted = (*plan.quantities, *(quantity for _, quantity in self._edits))
        self.quantities = tuple(one for one in (*QUANTITIES, *UNROTATED) if one in wanted)

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        return (*super().parts, self._plan.model.module)

    # --- what is learned from other passes ---------------------------------------------------------------------------

    def begin(self, batch: slice, rows: slice) -> None:
        self._batch = batch
        super().begin(batch, rows)

    def prepare(self, show: Callable[[np.ndarray], object]) -> None:
        batch, rows = self._batch, self._rows
        if self._in_need:
            self._learn_means(show)
        for edit in {id(one): one for found in self._edits.values() for one in found}.values():
            donors = self._donors[id(edit)]
            if donors is None:
                continue

            def keep(layer: str, quantity: str, tensor: Tensor, edit: Edit = edit) -> None:
                if edit in self._edits.get((layer, quantity), ()):
                    self._learned[id(edit), layer, quantity, self._now] = tensor.clone()

            pixels, _ = read_pixels(self._plan, donors, batch)
            self._learning(keep, lambda pixels=pixels: show(pixels[rows]))
        self.begin(batch, rows)

    def _learn_means(self, show: Callable[[np.ndarray], object]) -> None:
        """The means over all images that edits need, of the unedited model."""
        edits, self._in_need = self._in_need, []
        n, sums = len(self._plan.pictures), dict[_Where, Tensor]()
        for batch in self._plan.batches:
            pixels, _ = read_pixels(self._plan, self._plan.pictures, batch)
            found: dict[_Where, Tensor] = {}

            def keep(layer: str, quantity: str, tensor: Tensor, found: dict[_Where, Tensor] = found) -> None:
                if any(edit in edits for edit in self._edits.get((layer, quantity), ())):
                    found[layer, quantity, self._now] = tensor.to(torch.float64).sum(0, keepdim=True)

            self.begin(batch, slice(0, len(pixels)))
            self._learning(keep, lambda pixels=pixels: show(pixels))
            for key, one in found.items():
                sums[key] = sums[key] + one if key in sums else one
        for (layer, quantity, place), total in sums.items():
            for edit in edits:
                self._learned[id(edit), layer, quantity, place] = total / n

    def _learning(self, keep: Callable[[str, str, Tensor], None], show: Callable[[], object]) -> None:
        self._learn = keep
        self._place = None
        self._passed.clear()
        try:
            show()
        finally:
            self._learn = None

    @property
    def _now(self) -> Place:
        return self._place or ()

    # --- what the model reports --------------------------------------------------------------------------------------

    def edited(self, layer: str) -> Sequence[str]:
        return () if self._learn else [quantity for quantity in EDITABLE if (layer, quantity) in self._edits]

    def edit(self, layer: str, quantity: str, tensor: Tensor) -> Tensor:
        n_special, grid = self.checked(layer, quantity, tensor, before=True)
        start = self._batch.start + self._rows.start
        learned = {key[0]: one for key, one in self._learned.items() if key[1:] == (layer, quantity, self._now)}
        self._changed.add((layer, quantity))
        return edited(
            tensor,
            self._edits[layer, quantity],
            learned,
            layer=layer,
            quantity=quantity,
            images=range(start, start + len(self._names)),
            place=self._now,
            n_special=n_special,
            grid=grid,
        )

    def record(self, layer: str, quantity: str, tensor: Tensor) -> None:
        if self._learn is not None:
            self.checked(layer, quantity, tensor)
            self._learn(layer, quantity, tensor)
        elif layer in self._plan.layers and quantity in self._plan.quantities:
            super().record(layer, quantity, tensor)
        else:
            self.checked(layer, quantity, tensor)

    def describe(self, layer: str, scale: float, bias: Tensor | None) -> None:
        if self._learn is None and layer in self._plan.layers:
            super().describe(layer, scale, bias)

    def _end_pass(self) -> None:
        super()._end_pass()
        if self._learn is None and self._place is not None:
            for layer, quantity in self._edits:
                if (layer, quantity) not in self._changed:
                    raise UnsupportedModelError(
                        f"{self._plan.model.name} ran without using {quantity} of layer {layer!r}, so it cannot be "
                        "edited there: leave the layer out of the edits."
                    )
        self._changed.clear()

    # --- what the model gives out ------------------------------------------------------------------------------------

    def finishing(self) -> AbstractContextManager[None]:
        return self._plan.model.final_tokens(self._keep_tokens, self._plan.size)

    def _keep_tokens(self, tokens: Tensor) -> None:
        n_special = len(self._plan.model.final_special_tokens(self._plan.size))
        grid = self._plan.model.final_grid(self._plan.size)
        self._keep("final_token", tokens[:, n_special:].unflatten(1, grid))
        if n_special:
            self._keep("special_final_token", tokens[:, :n_special])

    @property
    def done(self) -> Done | None:
        return None if self._learn else self._keep_outputs

    def _keep_outputs(self, given: dict[str, Tensor]) -> None:
        for name, tensor in given.items():
            self._keep(name, tensor)

    def _keep(self, name: str, tensor: Tensor) -> None:
        if self._learn is not None:
            return
        if name not in self._outputs:
            shape = (len(self._plan.pictures), *self._sizes, *tensor.shape[1:])
            self._outputs[name] = np.empty(shape, np.float32 if name == "denoised" else self._plan.dtype)
        start = self._batch.start + self._rows.start
        target = self._outputs[name][(slice(start, start + len(self._names)), *self._now)]
        torch.from_numpy(target).copy_(tensor)

    def outputs(self) -> dict[str, xr.Variable]:
        """What the model gave out, as variables of the root."""
        draws = tuple(self._plan.model.draws)
        return {name: xr.Variable(("image", *draws, *_DIMS[name]), found) for name, found in self._outputs.items()}


_DIMS = {
    "final_token": ("final_y", "final_x", "final_feature"),
    "special_final_token": ("final_special", "final_feature"),
    "logits": ("class",),
    "denoised": ("y_px", "x_px", "rgb"),
}
