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
        self.of_torch = [torch.default_generator]
        kind = "cpu" if device is None else device.type
        if kind == "cuda" or torch.cuda.is_initialized():
            torch.cuda.init()
            self.of_torch += torch.cuda.default_generators
        if kind == "mps":
            self.of_torch.append(torch.mps._get_default_mps_generator())

    def seed(self, seed: int) -> None:
        """Seed all of them; torch's is seeded as by ``torch.manual_seed``."""
        for generator in self.of_torch:
            generator.manual_seed(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(8))
        random.seed(seed)

    def states(self) -> list[Any]:
        """Return their states, which have changed if something was drawn."""
        of_torch = [generator.get_state().numpy().tobytes() for generator in self.of_torch]
        return [*of_torch, pickle.dumps(np.random.get_state()), random.getstate()]


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
    of_torch = [(generator, generator.get_state()) for generator in draws.of_torch]
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        draws.seed(seed)
        yield draws
    finally:
        for generator, state in of_torch:
            generator.set_state(state)
        np.random.set_state(of_numpy)
        random.setstate(of_python)
