"""What there is to measure when a GPU is at hand for some minutes: parity with the CPU, and speed. One table.

``python -m benchmarks.on_a_gpu`` takes the GPU that torch finds, prints rows as they are measured, and writes
``out/on_a_gpu.md``. It begins nothing after ``--minutes`` (10): what is most important comes first. ``--stand-in``
runs all of it on the stand-in of the tests, which shows that the script works (its seconds mean nothing, but it counts
launches), ``--quick`` only small sizes. Peers are measured where they are installed: ncut_pytorch on the GPU,
scikit-learn and scipy on the CPU.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import spectral_toolkit as st
from benchmarks.bench_single_layer import cosine_matrix, features, solvers, tree_of
from benchmarks.workload import mixed_resolution_activations
from spectral_toolkit._compute.devices import resolve_device

K = 20
Row = tuple[str, str]
"""What was done, and what was found."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="auto", help="as st.affinity takes it; 'cpu' compares the CPU with itself")
    parser.add_argument("--stand-in", action="store_true", help="run on the stand-in of the tests")
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin nothing after so many minutes")
    parser.add_argument("--out", type=Path, default=Path("out/on_a_gpu.md"))
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        counter = None
        if chosen.stand_in:
            sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "device"))
            import standin  # pyright: ignore[reportMissingImports]

            counter = stack.enter_context(standin.stand_in())
            chosen.device = standin.NAME
        device = resolve_device(chosen.device)
        table = [f"{_name(device)}, torch {torch.__version__}, {platform.processor() or platform.machine()}", ""]
        table += ["| what | found |", "|---|---|"]
        print("\n".join(table), flush=True)
        until = time.monotonic() + 60 * chosen.minutes
        for make in (_parity, _workload, _single_layers, _dataset):
            for what, found in _each(make(device, counter, chosen.quick), until):
                table.append(f"| {what} | {found} |")
                print(table[-1], flush=True)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text("\n".join(table) + "\n")
    return 0


def _each(rows: Iterator[Row], until: float) -> Iterator[Row]:
    """Rows until the time is up; one that breaks is a row, too, as there may be no second try."""
    while time.monotonic() < until:
        try:
            yield next(rows)
        except StopIteration:
            return
        except Exception as error:
            yield "broke", f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
            return


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _parity(device: torch.device, counter: Any, quick: bool) -> Iterator[Row]:
    """Results of the device and of the CPU, for every kernel and scope."""
    trees = {"dense": _random_tree(12), "iterated": _random_tree(24), "workload": mixed_resolution_activations()}
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        *(("dense", kind, kernel, {}) for kind, kernel in _KERNELS),
        *(("iterated", kind, kernel, {}) for kind, kernel in _KERNELS),
        ("workload", "qk", "softmax", {}),
        ("dense", "vv", "knn", {"scope": "dataset"}),
        ("dense", "qk", "shifted_cosine", {"scope": "dataset"}),
    ]
    for name, kind, kernel, chosen in cases:
        of_cpu, own = (
            st.solve(st.affinity(trees[name], kind, kernel=kernel, device=str(place), **chosen), 6)
            for place in ("cpu", device)
        )
        gap = float(np.nanmax(np.abs(of_cpu.eigenvalue.values - own.eigenvalue.values)))
        yield (
            f"parity, {name}, {kind} {kernel} {chosen.get('scope', 'image')}",
            f"eigenvalues within {gap:.0e}, subspaces within {1 - _cosine(of_cpu, own):.0e} of cosine 1, residual "
            f"{float(own.residual.max()):.0e}, {own.attrs['iterations']} steps (CPU: {of_cpu.attrs['iterations']})",
        )


_KERNELS = (("qk", "softmax"), ("vv", "cosine"), ("vv", "shifted_cosine"), ("token", "rbf"))


def _workload(device: torch.device, counter: Any, quick: bool) -> Iterator[Row]:
    """The joint solve of 12 layers, from nothing and after one weight changed."""
    activations = mixed_resolution_activations()

    def cold(place: Any) -> xr.Dataset:
        return st.solve(st.affinity(activations, "qk", device=str(place)), K)

    yield _versus("workload, from nothing", device, counter, cold)
    graphs = {place: st.affinity(activations, "qk", device=str(place)) for place in {torch.device("cpu"), device}}
    starts = {place: st.solve(graph, K) for place, graph in graphs.items()}
    layer = graphs[device].layers[3]
    yield _versus(
        "workload, one weight changed",
        device,
        counter,
        lambda place: st.solve(graphs[place].reweight({layer: 0.9}), K, start=starts[place]),
    )


def _single_layers(device: torch.device, counter: Any, quick: bool) -> Iterator[Row]:
    """One layer of cosine affinity, with the peers that are installed."""
    for side in (32,) if quick else (32, 64, 128):
        values = features(side)
        activations = tree_of(values)
        name = f"one layer, {side * side:,} nodes"
        yield _versus(
            name, device, counter, lambda place, a=activations: st.solve(st.affinity(a, "vv", device=str(place)), K)
        )
        if importlib.util.find_spec("ncut_pytorch"):
            seconds = _seconds(device, lambda values=values: _ncut(values, device))
            yield f"{name}, ncut_pytorch {version('ncut-pytorch')}", f"{seconds:.4f} s"
        if importlib.util.find_spec("sklearn") and side < 128:
            matrix = cosine_matrix(values)[0]
            for peer, solver in solvers(side).items():
                seconds = _seconds(torch.device("cpu"), lambda solver=solver, matrix=matrix: solver(matrix), repeats=1)
                yield f"{name}, {peer} on the CPU, its matrix given", f"{seconds:.4f} s"


def _ncut(values: np.ndarray, device: torch.device) -> Any:
    ncut: Any = importlib.import_module("ncut_pytorch")
    flat = torch.as_tensor(values).reshape(-1, values.shape[-1]).to(device)
    return ncut.Ncut(n_eig=K).fit_transform(flat)


def _dataset(device: torch.device, counter: Any, quick: bool) -> Iterator[Row]:
    """All images as one problem, by factors and by neighbours."""
    tree = _random_tree(12 if quick else 24, images=8 if quick else 64)
    for kernel in ("shifted_cosine", "knn"):
        yield _versus(
            f"dataset of {tree.children['layer'].sizes['image']} images, {kernel}",
            device,
            counter,
            lambda place, kernel=kernel: st.solve(
                st.affinity(tree, "vv", kernel=kernel, scope="dataset", device=str(place)), 6
            ),
        )


def _random_tree(side: int, images: int = 4) -> xr.DataTree:
    rng = np.random.default_rng(0)
    smooth = features(side)[None, None, ..., :8]
    dims = ("image", "head", "y", "x", "channel")
    parts = {
        name: (dims, (smooth + rng.normal(size=(images, 2, side, side, 8))).astype("float32"))
        for name in ("query", "key", "value")
    }
    token = (("image", "y", "x", "feature"), rng.normal(size=(images, side, side, 16)).astype("float32"))
    return xr.DataTree.from_dict({"layer": xr.Dataset({**parts, "token": token}, attrs={"depth": 0, "scale": 0.35})})


def _versus(what: str, device: torch.device, counter: Any, work: Callable[[Any], Any]) -> Row:
    """Seconds of the device and of the CPU; the device's launches where the stand-in counts them."""
    own, of_cpu = (_seconds(place, lambda place=place: work(place)) for place in (device, torch.device("cpu")))
    found = f"{own:.4f} s, CPU {of_cpu:.4f} s"
    if counter is not None:
        counter.reset()
        work(device)
        found += f"; {counter.launches} launches, {counter.waits} waits"
    return what, found


def _seconds(device: torch.device, work: Callable[[], Any], repeats: int = 3) -> float:
    """The best of a few runs after one that is not counted."""
    best = np.inf
    for number in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.get_device_module(device.type).synchronize()
        best = min(best, time.perf_counter() - began) if number else best
    return float(best)


def _cosine(a: xr.Dataset, b: xr.Dataset) -> float:
    """The smallest cosine between what the eigenvectors of two results span, over all problems."""
    split = "image" in a.eigenvalue.dims
    found = []
    for image in range(a.sizes["image"]) if split else [slice(None)]:
        x, y = (eig.eigenvector[image].values.reshape(-1, eig.sizes["component"]) for eig in (a, b))
        found.append(np.linalg.svd(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0], compute_uv=False).min())
    return float(min(found))


if __name__ == "__main__":
    sys.exit(main())
