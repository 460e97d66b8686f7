"""One solve over all pictures of a dataset: how time and memory grow with their number."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
import zarr

N_LAYERS, N_HEADS, CHANNELS, SIDE = 12, 4, 32, 16
N_EIGENVECTORS = 20
SIZES = (125, 250, 500, 1000)
ROUNDS = 3
"""Each size is solved so often, in turns; the run of the fewest processor seconds counts: what else runs only adds."""
MEMORY_TARGET = 8 * 2**30

CHILD = """
import json, pathlib, re, sys, time
import torch
import xarray as xr
import spectral_toolkit as st

path, n_images, n_eigenvectors, kind, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
activations = xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None).isel(image=slice(n_images))
began, worked = time.perf_counter(), time.process_time()
graph = st.affinity(activations, kind, scope="dataset", device="cpu", **json.loads(options))
for member in graph.members:
    graph.operators(member, slice(0, n_images))
built = time.process_time() - worked
eig = st.solve(graph, n_eigenvectors)
# Not getrusage: its peak is inherited from the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({
    "images": n_images, "seconds": time.perf_counter() - began, "processor": time.process_time() - worked,
    "built": built, "peak": peak, "iterations": eig.attrs["iterations"], "residual": float(eig.residual.max()),
    "notes": eig.attrs["notes"], "eigenvalues": eig.eigenvalue.values.tolist(),
}))
"""


def made_values(generator: np.random.Generator, n_images: int) -> Iterator[np.ndarray]:
    """One layer's values, image by image (1, heads, patches, channels): position, a few categories and noise."""
    y, x = np.meshgrid(*[(np.arange(SIDE) + 0.5) / SIDE] * 2, indexing="ij")
    waves = np.stack([f(k * np.pi * axis) for axis in (y, x) for k in (1, 2) for f in (np.sin, np.cos)], axis=-1)
    # The same in every layer, whatever the number of images: half as many are the first half.
    categories = np.random.default_rng(0).integers(0, 20, (n_images, 4, 4)).repeat(4, axis=1).repeat(4, axis=2)
    position = waves @ generator.normal(size=(N_HEADS, 1, waves.shape[-1], CHANNELS)) / 4
    things = generator.normal(size=(20, N_HEADS, CHANNELS))
    for category in categories:
        noise = generator.standard_normal((N_HEADS, SIDE, SIDE, CHANNELS), dtype=np.float32)
        own = np.moveaxis(things[category], 2, 0)
        yield (noise + position + own).astype(np.float32).reshape(1, N_HEADS, SIDE * SIDE, CHANNELS)


def write_activations(path: str, n_images: int, seed: int = 0) -> None:
    """Values of 12 layers of 4 heads and width 128 on 16 x 16 patches."""
    generator = np.random.default_rng(seed)
    root = zarr.open_group(path, mode="w")
    shape = (n_images, N_HEADS, SIDE, SIDE, CHANNELS)
    for layer in range(N_LAYERS):
        group = root.create_group(f"block.{layer}", attributes={"depth": layer, "scale": CHANNELS**-0.5})
        array = group.create_array(
            "value",
            shape=shape,
            chunks=(1, *shape[1:]),
            dtype="float32",
            compressors=None,
            dimension_names=("image", "head", "y", "x", "channel"),
        )
        for image, values in enumerate(made_values(generator, n_images)):
            array[image] = values.reshape(shape[1:])


def measure(path: str, n_images: int, kind: str = "vv", threads: int = 1, **options: Any) -> dict[str, Any]:
    """Time and peak memory of one solve, in a process of its own, imports and reading included in the memory.

    On one thread, so that processor seconds are work and not waiting; they hardly change when other programs run too.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    numbers = [path, str(n_images), str(N_EIGENVECTORS), kind, json.dumps(options)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *numbers],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"The solve of {n_images} images failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope of the least-squares line through the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def bench_growth_with_the_number_of_images() -> Iterator[dict[str, Any]]:
    """125, 250, 500 and 1,000 images of 256 patches, 12 layers of width 128; ``BENCH_SCALE=0.1`` takes a tenth."""
    scale = float(os.environ.get("BENCH_SCALE", "1"))
    sizes = [max(2, math.ceil(size * scale)) for size in SIZES]
    with tempfile.TemporaryDirectory(prefix="bench-dataset-") as folder:
        path = os.path.join(folder, "activations.zarr")
        write_activations(path, max(sizes))
        assert len(xr.open_datatree(path, engine="zarr", consolidated=False).children) == N_LAYERS
        # What a process takes whatever it solves would flatter the exponent of memory: it is taken off there.
        base = measure(path, 2, kernel="shifted_cosine")
        rounds = [[measure(path, size, kernel="shifted_cosine") for size in sizes] for _ in range(ROUNDS)]
    runs = [min(of_size, key=lambda run: run["processor"]) for of_size in zip(*rounds, strict=True)]
    images = [run["images"] for run in runs]
    largest = runs[-1]
    span = f"in the number of images, {images[0]} to {images[-1]}, low rank"
    for name, costs, note in (
        (
            f"exponent of processor seconds {span}",
            [run["processor"] for run in runs],
            "; ".join(
                f"{run['images']} images {run['processor']:.1f} s, of which {run['built']:.1f} s reading and factors, "
                f"{run['iterations']} iterations"
                for run in runs
            )
            + f"; one thread; 2 images {base['processor']:.1f} s; largest residual "
            f"{max(run['residual'] for run in runs):.0e}",
        ),
        (
            f"exponent of processor seconds of building and of an iteration {span}",
            [run["built"] + (run["processor"] - run["built"]) / (run["iterations"] + 1) for run in runs],
            "whatever the number of iterations is",
        ),
        (
            f"exponent of peak memory {span}",
            [run["peak"] - base["peak"] for run in runs],
            "; ".join(f"{run['images']} images {run['peak'] / 2**30:.2f} GiB" for run in runs)
            + f"; beyond the {base['peak'] / 2**30:.2f} GiB of 2 images",
        ),
    ):
        slope = exponent(images, costs)
        yield {"name": name, "ours": slope, "theirs": 1.0, "ratio": slope, "unit": "", "target": "<= 1.1", "note": note}
    yield {
        "name": f"peak memory, {images[-1]} images of 256 patches, 12 layers, low rank, against 8 GiB",
        "ours": largest["peak"] / 2**30,
        "theirs": MEMORY_TARGET / 2**30,
        "unit": "GiB",
        "target": ">= 1",
        "note": f"{largest['seconds']:.1f} s in all",
    }
