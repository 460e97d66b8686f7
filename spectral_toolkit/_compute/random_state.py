"""The random generators of the process belong to the caller: foreign code may use them, and they are restored."""

from __future__ import annotations

import pickle
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Draws:
    """Torch's, NumPy's and Python's own generators, from which other libraries may draw."""

    def __init__(self, device: torch.device | None = None) -> None:
        kind = "cpu" if device is None else device.type
        if kind == "cpu" and torch.cuda.is_initialized():
            kind = "cuda"
        self._module: Any = None if kind == "cpu" else torch.get_device_module(kind)
        n_devices = self._module.device_count() if kind == "cuda" else 1
        self._places = [(index,) for index in range(n_devices)] if kind == "cuda" else [()]

    def _of_device(self) -> list[torch.Tensor]:
        return [] if self._module is None else [self._module.get_rng_state(*place) for place in self._places]

    def seed(self, seed: int) -> None:
        """Seed all of them; torch's is seeded as by ``torch.manual_seed``."""
        torch.default_generator.manual_seed(seed)
        if self._module is not None:
            getattr(self._module, "manual_seed_all", self._module.manual_seed)(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(8))
        random.seed(seed)

    def kept(self) -> list[Any]:
        """Their states, for `restore`."""
        return [torch.default_generator.get_state(), self._of_device(), np.random.get_state(), random.getstate()]

    def restore(self, kept: list[Any]) -> None:
        """Give them the states that they had."""
        of_cpu, of_device, of_numpy, of_python = kept
        torch.default_generator.set_state(of_cpu)
        for place, state in zip(self._places, of_device, strict=False):
            self._module.set_rng_state(state, *place)
        np.random.set_state(of_numpy)
        random.setstate(of_python)

    def states(self) -> list[Any]:
        """Return their states, which have changed if something was drawn, in a form that can be compared."""
        of_cpu, of_device, of_numpy, of_python = self.kept()
        of_torch = [state.cpu().numpy().tobytes() for state in (of_cpu, *of_device)]
        return [*of_torch, pickle.dumps(of_numpy), of_python]


@contextmanager
def drawing(seed: int, device: torch.device | None = None) -> Generator[Draws, None, None]:
    """Seed the generators that other libraries draw from, and restore their states afterwards.

    Parameters
    ----------
    seed
        The seed of all generators.
    device
        The device whose generator is seeded in addition to the CPU's.

    Examples
    --------
    >>> import torch
    >>> with drawing(3) as draws:
    ...     began = draws.states()
    ...     first = torch.rand(2)
    ...     draws.states() == began
    False
    >>> with drawing(3):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    draws = Draws(device)
    kept = draws.kept()
    try:
        draws.seed(seed)
        yield draws
    finally:
        draws.restore(kept)
