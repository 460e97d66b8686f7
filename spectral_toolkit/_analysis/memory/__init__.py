"""Estimates how much memory a capture and the solve after it will take, before they start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

from ..._affinity.features import KINDS
from ..._affinity.layer_graph import CACHE_BYTES, Member, dense_members
from ..._affinity.operators import TILE_ELEMENTS
from ..._affinity.table import KERNELS, check_combination
from ..._capture import make_capture_plan
from ..._capture.plan import Plan, format_bytes
from ..._compute.settings import computing
from ..._models import Model
from ..._models.model import evaluating
from ...errors import UnsupportedModelError
from ...solvers import BATCH_ELEMENTS, BATCH_ELEMENTS_DEFAULT
from .tracing import peak_bytes

__all__ = ["MemoryEstimate", "estimate_memory"]


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes of everything that takes memory, and their totals.

    Attributes
    ----------
    program
        What this process holds now besides the model's weights: Python, libraries, your own data.
    weights
        Weights of all parts of the model that take part.
    activations
        What a capture keeps: the whole tree, or one batch where it streams to a store.
    forward
        What one forward pass of one batch holds at its peak.
    solve
        Affinities of all layers, and what is needed to compute and to multiply them.
    device
        The device of weights, forward pass and solve.
    """

    program: int
    weights: int
    activations: int
    forward: int
    solve: int
    device: str

    @property
    def on_device(self) -> int:
        """Peak on the accelerator; 0 where everything is on the CPU."""
        return 0 if self.device == "cpu" else self.weights + max(self.forward, self.solve)

    @property
    def in_memory(self) -> int:
        """Peak of the process in main memory."""
        own = self.program + self.activations
        return own if self.on_device else own + self.weights + max(self.forward, self.solve)

    def __str__(self) -> str:
        rows = {name: getattr(self, name) for name in ("program", "weights", "activations", "forward", "solve")}
        rows["peak in memory"] = self.in_memory
        if self.on_device:
            rows[f"peak on {self.device}"] = self.on_device
        return "\n".join(f"{name:<16} {format_bytes(n):>10}" for name, n in rows.items())


@computing
def estimate_memory(
    model: object,
    images: object,
    *,
    layers: object = "all",
    quantities: str | Sequence[str] = ("query", "key", "value"),
    size: int | tuple[int, int] | None = None,
    batch_size: int = 8,
    store: object = None,
    kind: str = "qk",
    kernel: str | None = None,
) -> MemoryEstimate:
    """Estimate the memory of ``capture`` with these arguments, and of ``affinity`` and ``solve`` after it.

    The forward pass is traced with tensors that have shapes but no numbers. The solve is that of ``scope="image"`` with
    the default tolerance. One that does not converge is repeated with matrices in double precision, which is not
    counted, and neither are the buffers of a GPU's libraries.

    Parameters
    ----------
    model, images, layers, quantities, size, batch_size, store
        As for :func:`spectral_toolkit.capture`.
    kind, kernel
        As for :func:`spectral_toolkit.affinity`.

    Returns
    -------
    MemoryEstimate
        An object that ``print`` shows as a table.

    Raises
    ------
    UnsupportedModelError
        If the model's forward pass cannot be traced without numbers.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=8
    ... )
    >>> estimate = estimate_memory(ViTModel(config), np.zeros((48, 64, 3), dtype=np.uint8))
    >>> estimate.activations
    6336
    """
    plan = make_capture_plan(model, images, layers=layers, quantities=quantities, size=size, batch_size=batch_size)
    kernel = check_combination(kind, kernel, "mean", "image", {})
    weights = _weight_bytes(plan.model)
    device = plan.model.device.type
    resident = psutil.Process().memory_info().rss
    return MemoryEstimate(
        program=max(0, resident - weights) if device == "cpu" else resident,
        weights=weights,
        activations=plan.nbytes if store is None else plan.batch_nbytes,
        forward=_forward_bytes(plan),
        solve=_solve_bytes(plan, kind, kernel),
        device=device,
    )


def _weight_bytes(model: Model) -> int:
    tensors = [tensor for part in model.parts for tensor in (*part.parameters(), *part.buffers())]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _forward_bytes(plan: Plan) -> int:
    model = plan.model
    pixels = np.zeros((min(plan.batch_size, len(plan.pictures)), *plan.size, 3), np.uint8)
    with evaluating(model.parts, plan.seed, model.device):
        try:
            return peak_bytes(lambda convert: model.one_pass(pixels, convert))
        except Exception as error:
            # PyTorch has many ways of refusing an operation that needs numbers.
            raise UnsupportedModelError(
                f"The forward pass of {model.name} cannot be traced without numbers ({type(error).__name__}), so its "
                "memory cannot be estimated: use capturing.estimate_bytes for the activations alone."
            ) from error


def _solve_bytes(plan: Plan, kind: str, kernel: str) -> int:
    members, draws = [], math.prod(len(values) for values in plan.model.draws.values())
    for layer, shape in plan.shapes.items():
        heads = draws * (1 if kind == "token" else shape.heads)
        widths = {"token": shape.features, "vv": shape.value_channels}
        rank = len(set(KINDS[kind])) * (1 + heads * widths.get(kind, shape.channels))
        members.append(Member(layer, layer, None, shape.grid, rank, heads, draws))
    dense = dense_members(members, kernel)
    low_rank = KERNELS[kernel].low_rank
    finest = max(member.n_cells for member in members)
    n_images = len(plan.pictures)
    elements = BATCH_ELEMENTS.get(plan.model.device.type, BATCH_ELEMENTS_DEFAULT)
    batch = min(64, n_images, max(1, elements // finest**2))
    each = sum(4 * m.n_cells**2 if m.name in dense else 4 * m.n_cells * m.rank * low_rank for m in members)
    held = max(each * batch, min(each * n_images, CACHE_BYTES))  # they are kept for the next solve while they fit
    grids = [member.grid for member in members if member.name in dense]
    sums = sum(4 * batch * (grid[0] * grid[1]) ** 2 for grid in set(grids) if grids.count(grid) > 1)
    # Vectors of the finest layer, one tile of a head, and one of a matrix in double precision.
    vectors = max(4 * batch * member.n_cells * member.rank for member in members)
    tile = min(batch * finest**2, TILE_ELEMENTS)
    return held + sums + vectors + 12 * tile
