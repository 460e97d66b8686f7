"""How often a solve makes a GPU start something, and wait: what bounds small solves there, whatever their size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from standin import NAME, Device, stand_in

import spectral_toolkit as st

PER_STEP, WAITS_PER_STEP = 60, 2
LAUNCHES, WAITS = 2000, 80
DIMS = ("image", "head", "y", "x", "channel")


def bars(images: int = 1) -> xr.DataTree:
    """Twelve layers of 8 heads on 32 x 32, 16 x 16 and 8 x 8 patches, with six regions under noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 32))
    layers = {}
    for depth in range(12):
        side = (32, 16, 8)[depth // 4]
        y, x = np.mgrid[:side, :side] / side
        region = (np.floor(y * 2) * 3 + np.floor(x * 3)).astype(int)
        query, key = (
            (centres[region] + 0.8 * rng.normal(size=(images, 8, side, side, 32))).astype("float32") for _ in range(2)
        )
        layers[f"layer_{depth:02}"] = xr.Dataset(
            {"query": (DIMS, query), "key": (DIMS, key)}, attrs={"depth": depth, "scale": 32**-0.5}
        )
    return xr.DataTree.from_dict(layers)


@pytest.mark.parametrize("images", [1, 3])
def test_a_solve_launches_little_and_hardly_waits(images: int) -> None:
    tree = bars(images)
    steps: list[tuple[int, int, int]] = []
    with stand_in() as device:
        graph = st.affinity(tree, "qk", device=NAME)
        own = st.solve(graph, 20, progress=lambda step, *_: steps.append((step, device.launches, device.waits)))
        told = f"{device.launches} launches, {device.waits} waits: {device.operations}, {device.waiting}"
        assert device.launches <= LAUNCHES, told
        assert device.waits <= WAITS, told
    assert bool(own.converged.all())
    assert len(steps) > 8
    # The first call comes before the affinities, the last one after a look at the residuals.
    each = [(b[1] - a[1], b[2] - a[2]) for a, b in pairwise(steps[1:-1])]
    assert max(launches for launches, _ in each) <= PER_STEP, each
    assert sum(waits for _, waits in each) <= WAITS_PER_STEP * len(each) + 2, each


def test_its_answer_is_that_of_the_cpu() -> None:
    """At a tolerance at which the square of a residual is far below every eigengap."""
    tree, found = bars(), []
    with stand_in():
        found.append(st.solve(st.affinity(tree, "qk", device=NAME), 20, tolerance=1e-8))
    found.append(st.solve(st.affinity(tree, "qk", device="cpu"), 20, tolerance=1e-8))
    np.testing.assert_allclose(found[0].eigenvalue, found[1].eigenvalue, rtol=0, atol=1e-9)


def test_two_runs_give_the_same_numbers(device: Device) -> None:
    tree = bars()
    first, second = (st.solve(st.affinity(tree, "qk", device=NAME), 20) for _ in range(2))
    assert first.drop_attrs().identical(second.drop_attrs())
