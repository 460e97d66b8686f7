"""Any torch module with attention over patches: what is known of it is what was seen and proven.

The family table is not asked. A module is run on images, its calls of attention are watched (`watching`), and where
patches stand among the tokens of each call is found by changing patches (`probing`).
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .._compute.random_state import drawing
from .._compute.settings import computing
from ..errors import SpectralToolkitError, UnsupportedModelError, first_line
from .entries import Entry, Told, sightless
from .model import Model, device_of, dtype_of, evaluating, prefix_of
from .passes import Prober
from .probing import NotProvenError
from .processing import Processing
from .proven import ProvenModel
from .stand_in import is_empty, stand_in
from .watching import watching


@dataclass
class GeneralModel(ProvenModel):
    """Any module that is called with images.

    Attributes
    ----------
    entry
        How images enter.
    """

    entry: Entry | None = None

    def __post_init__(self) -> None:
        assert self.entry is not None
        self.settle()

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def size_step(self) -> tuple[int, int]:
        rows, columns = min(self.grids, key=math.prod)
        return (math.ceil(self.own[0] / rows), math.ceil(self.own[1] / columns))

    def check_size(self, size: tuple[int, int]) -> None:
        if size == self.own:
            return
        try:
            if size not in self._layouts:
                seen = self._proven
                with evaluating((seen,), 0, device_of(seen)):  # attention itself may refuse what all else takes
                    self._run(seen, np.zeros((1, *size, 3), dtype=np.uint8), dtype_of(seen))
            self._layout(size)
        except NotProvenError as error:
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}: {error}; use its own size, {self.own}."
            ) from error
        except Exception as error:  # whatever a model says of a size that it does not take
            raise SpectralToolkitError(
                f"size={size} does not fit {self.name}, which refuses it ({first_line(error)}): use its own size, "
                f"{self.own}."
            ) from error

    # --- passes ------------------------------------------------------------------------------------------------------

    @property
    def implementation(self) -> str:
        return "watched: " + str(
            getattr(getattr(self.tower, "config", None), "_attn_implementation", None) or "its own"
        )

    @property
    def provenance(self) -> dict[str, str | int | float]:
        told = {} if self.told.grid is None else {"grid_told": str(tuple(self.told.grid))}
        return {**super().provenance, **told}

    def _prober(self, size: tuple[int, int], tower: torch.nn.Module | None = None) -> Prober:
        seen = self._proven if tower is None else tower
        return Prober(seen, lambda pixels: self._run(seen, pixels, dtype_of(seen)), size)

    def _run(self, tower: torch.nn.Module, pixels: np.ndarray, dtype: torch.dtype) -> object:
        assert self.entry is not None
        values = self.processor.normalise(pixels, device_of(tower), dtype)
        return self.entry.call(tower, values)

    def forward(self, pixels: np.ndarray) -> object:
        self._started.append(len(pixels))
        return self._run(self.tower, pixels, self.dtype)

    @property
    def images_at_once(self) -> int | None:  # type: ignore[override]
        return None if self.layout(self.own).together else 1

    # --- provenance --------------------------------------------------------------------------------------------------

    def config_sha256(self) -> str:
        text = f"{type(self.tower).__module__}.{type(self.tower).__qualname__} {self.tower!r} {self.entry}"
        return hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", text).encode()).hexdigest()

    @computing
    def untrained(self, seed: int) -> tuple[Model, tuple[str, ...]]:
        with drawing(seed):
            module = copy.deepcopy(self.module)
            kept = _draw_again(module)
        tower = module.get_submodule(prefix_of(self.module, self.tower).removesuffix("."))
        other = copy.copy(self)
        other.module, other.tower, other._hash, other._started = module, tower, None, []
        other.blocks, other.training = self.blocks_in(tower), ""
        return other, kept


def _draw_again(module: torch.nn.Module) -> tuple[str, ...]:
    """Draw every weight anew, each part by its own rule; the names of those that have none and stay."""
    kept: list[str] = []
    done: set[int] = set()
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
            done |= {id(one) for one in part.parameters(recurse=False)}
    for name, parameter in module.named_parameters():
        if id(parameter) in done:
            continue
        if parameter.ndim > 1:  # positions, class tokens, registers
            torch.nn.init.trunc_normal_(parameter.data, std=0.02)
        else:  # scales
            kept.append(name)
    return tuple(kept)


# --- making ----------------------------------------------------------------------------------------------------------


def make(
    module: torch.nn.Module,
    entries: Iterable[Entry],
    processor: Callable[[Processing], Processing],
    told: Told,
    *,
    name: str,
    revision: str,
) -> GeneralModel:
    """The first way in that leads to attention over patches.

    Raises
    ------
    UnsupportedModelError
        If there is none; the message says what was seen.
    """
    reasons: list[str] = []
    for entry in entries:
        settings = processor(entry.processing)
        proven = stand_in(entry.tower) if is_empty(entry.tower) else entry.tower
        size, refusal = _first_size(replace(entry, tower=proven), settings)
        if size is None:
            reasons.append(f"{entry.name or type(entry.tower).__name__} {refusal}")
            continue
        try:
            return GeneralModel(
                family=f"any module ({type(entry.tower).__name__})",
                module=module,
                tower=entry.tower,
                processor=settings,
                entry=entry,
                own=size,
                told=told,
                _stand_in=None if proven is entry.tower else proven,
                name=name,
                revision=revision,
            )
        except NotProvenError as error:
            reasons.append(f"{entry.name or type(entry.tower).__name__}: {error}")
    if sightless(module):
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot be captured: its configuration has no vision part (vision_config=None), "
            "so it reads text alone. Make it from a configuration with one."
        )
    raise UnsupportedModelError(
        f"{type(module).__name__} cannot be captured: "
        f"{'; '.join(dict.fromkeys(reasons)) or 'no part of it takes images'}. "
        "If you know how images enter it, say so with load_model(module, call=..., size=...)."
    )


def _first_size(entry: Entry, settings: Processing) -> tuple[tuple[int, int] | None, str]:
    """The first size of images that a way in takes; or None, and why it refuses the first."""
    refusals = []
    device, dtype = device_of(entry.tower), dtype_of(entry.tower)
    for size in entry.sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        values = settings.normalise(pixels, device, dtype)
        with evaluating((entry.tower,), 0, device):
            try:
                # Quickly at first; but a size that fits all but attention is refused by attention itself.
                with watching(entry.tower, lambda call: None, mute=True):
                    entry.call(entry.tower, values)
                entry.call(entry.tower, values)
                return size, ""
            except Exception as error:  # whatever a module says of an input that it does not take
                refusals.append(f"refuses images of {size[0]} x {size[1]} pixels ({first_line(error)})")
    return None, refusals[0]
