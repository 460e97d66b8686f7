"""The stand-in as CUDA and as MPS, for every test of this folder that asks for ``device``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from standin import NAME, Device, stand_in


def _random_states() -> list[object]:
    own = torch.get_device_module(NAME).get_rng_state(), torch.get_rng_state()
    # Not Python's own: what checks annotated shapes in tests draws from it.
    return [*(state.numpy().tobytes() for state in own), repr(np.random.get_state())]


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The stand-in; the caller's random generators, its own among them, must not move."""
    with stand_in(as_mps=request.param == "mps") as device:
        before = _random_states()
        yield device
        assert _random_states() == before, "a random generator of the caller has moved"
