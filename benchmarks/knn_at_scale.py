"""The knn graph of a large dataset, measured once: ``python -m benchmarks.knn_at_scale FOLDER --images 1000``.

Too long for ``make bench``. Prints one JSON line a step: processor seconds (of one thread) and peak memory so far.
Interrupted, it goes on from what lies in the folder; processor seconds are then those of the last run only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

N_EIGENVECTORS = 20


def peak() -> float:
    """GiB of memory that this process has taken at most."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 2**20


def say(step: str, began: float, **more: Any) -> None:
    """One line of the record."""
    line = {"step": step, "processor_seconds": round(time.process_time() - began, 1), "peak_gib": round(peak(), 2)}
    print(json.dumps(line | more), flush=True)


def main() -> None:
    """Search, build, solve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for activations, tables and edges: about 25 GB for 1,000 images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--search", default="faiss", choices=("exact", "faiss"))
    parser.add_argument("--sample", type=int, default=0, help="only time the exact search, for this many images' rows")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"] = "1", "PASSIVE"

    import torch
    import xarray as xr

    import spectral_toolkit as st
    from spectral_toolkit._affinity.dataset_graph import DatasetGraph
    from spectral_toolkit._affinity.neighbours import nearest

    from .bench_dataset import write_activations

    torch.set_num_threads(1)
    path = arguments.folder / "activations.zarr"
    written = arguments.folder / "activations.written"
    if not written.exists():
        shutil.rmtree(path, ignore_errors=True)
        write_activations(str(path), arguments.images)
        written.touch()
    activations = xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None).isel(
        image=slice(arguments.images)
    )
    graph = st.affinity(
        activations, "vv", scope="dataset", device="cpu", search=arguments.search, folder=arguments.folder / "tables"
    )
    assert isinstance(graph, DatasetGraph)
    if arguments.sample:
        vectors, _ = graph.unit_vectors_of(graph.members[0], 0)
        rows = vectors[: arguments.sample * graph.members[0].n_cells]
        began = time.process_time()
        nearest(rows, vectors, graph.members[0].n_cells)
        share = arguments.images / arguments.sample
        per_head = (time.process_time() - began) * share
        say("exact search of a part", began, images=arguments.sample, one_head=per_head, all_heads=48 * per_head)
        return
    everything = time.process_time()
    for member in graph.members:
        for head in member.heads:
            began = time.process_time()
            graph._table(member, head)
            say(f"search {member.name} head {head}", began, recall=graph._recall.get((member.layer, head)))
    for member in graph.members:
        began = time.process_time()
        kept: Path | None = getattr(graph.operators(member, slice(0, arguments.images)), "folder", None)
        files = 0 if kept is None else sum(file.stat().st_size for file in kept.iterdir())
        say(f"edges {member.name}", began, gigabytes=round(files / 1e9, 2))
    operator = graph.operators(graph.members[-1], slice(0, arguments.images))
    x = torch.randn(1, 25, operator.degree.shape[1], dtype=torch.float64)
    began = time.process_time()
    operator.matmul(x, exact=False)
    say("one product of 25 vectors, one layer", began)
    began = time.process_time()
    eig = st.solve(graph, N_EIGENVECTORS)
    say(
        "solve",
        began,
        iterations=eig.attrs["iterations"],
        residual=float(eig.residual.max()),
        notes=eig.attrs["notes"],
        eigenvalues=[round(float(value), 5) for value in eig.eigenvalue],
    )
    say("everything", everything)


if __name__ == "__main__":
    main()
