"""Peak memory of one process when a dataset solve is shared among 1, 2 and 4: ``python -m benchmarks.bench_ranks``.

Low-rank kernel, random activations that are made once and read from a store. Prints, for each number of processes, the
largest resident memory of any of them, and what it is beyond the memory after importing the libraries.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def make(path: Path, images: int, layers: int, side: int, heads: int, channels: int) -> None:
    import xarray as xr
    import zarr

    root = xr.Dataset(coords={"image": [str(i) for i in range(images)]})
    nodes = {"/": root} | {
        f"layer{i:02d}": xr.Dataset(attrs={"depth": i, "scale": channels**-0.5}) for i in range(layers)
    }
    xr.DataTree.from_dict(nodes).to_zarr(path, consolidated=False)
    rng = np.random.default_rng(0)
    for i in range(layers):
        array = zarr.open_group(path, mode="r+")[f"layer{i:02d}"].create_array(  # pyright: ignore
            "value",
            shape=(images, heads, side, side, channels),
            chunks=(1, heads, side, side, channels),
            dtype="float32",
            compressors=None,
            dimension_names=("image", "head", "y", "x", "channel"),
        )
        for image in range(images):
            array[image] = rng.normal(size=array.shape[1:]).astype(np.float32)


def work(path: Path) -> None:
    import torch
    import xarray as xr

    import spectral_toolkit as st
    from spectral_toolkit._compute.processes import all_reduce, join, rank

    affinity, solve = st.affinity, st.solve
    with join():
        before = peak()
        tree = xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None)
        answer = solve(affinity(tree, "vv", kernel="shifted_cosine", scope="dataset", device="cpu"), 5, tolerance=1e-4)
        largest = all_reduce(torch.tensor([peak(), peak() - before]), "max")
        if rank() == 0:
            print(f"{largest[0]:8.0f} {largest[1]:12.0f} {answer.attrs['seconds']:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.zarr"
        make(path, given.images, given.layers, given.side, given.heads, given.channels)
        print("processes  peak MB  beyond import  seconds")
        for n in given.ranks:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
            print(f"{n:9d} ", end="", flush=True)
            subprocess.run([sys.executable, *launcher, "-m", "benchmarks.bench_ranks", "--work", str(path)], check=True)


if __name__ == "__main__":
    main()
