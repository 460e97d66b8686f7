"""One solve over all pictures of a dataset against the source paper's dataset mode, on the same graphs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch

import spectral_toolkit as st
from spectral_toolkit._affinity.dataset_graph import DatasetGraph
from spectral_toolkit._affinity.dataset_pencil import make_pencil
from spectral_toolkit._affinity.pencil import JointPencil
from spectral_toolkit._affinity.resampling import Resampling
from spectral_toolkit.solvers.descent import singular_pairs
from spectral_toolkit.solvers.gradient_dataset import (
    BATCH,
    EPOCHS,
    LEARNING_RATE,
    N_FEATURES,
    SIDE,
    batch_matrix,
    batch_objective,
    descend_dataset,
    edges_of,
)
from spectral_toolkit.solvers.result import as_one

N_SCENES, SEED = 256, 20261124


def bench_dataset_solve_against_the_papers_dataset_mode() -> Iterator[dict[str, Any]]:
    """Values of the bundled model on 256 scenes, K = 100; 5 epochs of the paper's 200 (``GRADIENT_EPOCHS`` runs more).

    Neighbours are searched beforehand, once for both. Ours holds everything from these tables to labelled
    eigenvectors, as many as K features carry beside the constant.
    """
    n_scenes = int(os.environ.get("BENCH_SCENES", N_SCENES))
    n_features = int(os.environ.get("BENCH_FEATURES", N_FEATURES))
    epochs = int(os.environ.get("GRADIENT_EPOCHS", "5"))
    scenes = st.scenes.sample(n_scenes, seed=SEED)
    model = st.load_model("scenes", device="cpu")
    activations = st.capture(model, scenes.pixels, quantities="value", progress=False)
    graph = st.affinity(activations, "vv", scope="dataset", device="cpu")
    assert isinstance(graph, DatasetGraph)
    edges, _ = edges_of(graph)
    searched = _clocks()
    for one in edges:
        graph.neighbours(one.layer, one.head)
    searched = _since(searched)

    began = _clocks()
    eig = st.solve(graph, n_features - 1)
    ours = _since(began)

    settings: dict[str, Any] = {"learning_rate": LEARNING_RATE, "patience": 0, "seed": 0}
    began = _clocks()
    run = descend_dataset(graph, edges, n_features, epochs=epochs, **settings)
    theirs = tuple(seconds / epochs * EPOCHS for seconds in _since(began))

    pencil = make_pencil(graph, slice(0, n_scenes), graph.members[0].grid)
    exact = torch.as_tensor(eig.eigenvector.transpose("component", "image", "y", "x").values)
    features = Resampling((SIDE, SIDE), pencil.grid)(run["features"].to(pencil.dtype).flatten(2))
    found = singular_pairs(pencil, as_one(features), n_features - 1).vectors[0]
    what = f"dataset solve (knn, VV, {n_scenes} scenes), K = {n_features}, against the paper's dataset mode"
    for index, clock in enumerate(("wall", "processor")):
        yield {
            "name": f"{what}, {clock} time",
            "ours": ours[index],
            "theirs": theirs[index],
            "target": ">= 50",
            "note": f"theirs extrapolated from {epochs} epochs to {EPOCHS}; {eig.attrs['iterations']} iterations, our "
            f"largest residual {float(eig.residual.max()):.0e}; the search for neighbours, the same for both, took "
            f"{searched[index]:.0f} s",
        }
    yield {
        "name": f"its objective tr(X'AX) of {n_features - 1} vectors, both B-orthonormal",
        "ours": trace(pencil, exact.reshape(n_features - 1, -1)),
        "theirs": trace(pencil, found),
        "unit": "trace",
        "target": "> 1",
        "note": f"theirs after {epochs} epochs",
    }
    constant = torch.ones(n_scenes, 1, *pencil.grid)
    as_features = torch.cat([constant, exact.float().transpose(0, 1)], dim=1)
    yield {
        "name": "the paper's own objective, mean over batches; ours of the constant and the eigenvectors",
        "ours": paper_objective(graph, edges, as_features),
        "theirs": paper_objective(graph, edges, run["features"]),
        "unit": "loss",
        "note": f"theirs after {epochs} epochs; it measures right angles within batches and without the degrees",
    }


def trace(pencil: JointPencil, rows: torch.Tensor) -> float:
    """tr(X'AX) of the span of ``rows`` (k, n), after projecting out the constant and B-orthonormalising."""
    x = rows.to(pencil.dtype)[None]
    one = pencil.constant()
    mass_one = pencil.mass_matmul(one)
    x = x - (x @ mass_one.transpose(-1, -2)) @ one / (one * mass_one).sum()
    mass = x @ pencil.mass_matmul(x).transpose(-1, -2)
    cut = mass - x @ pencil.affinity_matmul(x).transpose(-1, -2)
    return float(torch.linalg.solve(mass, cut).diagonal(dim1=1, dim2=2).sum())


def paper_objective(graph: DatasetGraph, edges: Any, tables: torch.Tensor) -> float:
    """Mean over batches, images in their order, of the loss of tables (images, K, rows, columns)."""
    values = []
    with torch.no_grad():
        for batch in torch.arange(len(tables)).split(BATCH):
            matrices = [batch_matrix(graph, one, batch) for one in edges]
            values.append(float(batch_objective(tables[batch], edges, matrices)))
    return sum(values) / len(values)


def _clocks() -> tuple[float, float]:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    now = _clocks()
    return now[0] - began[0], now[1] - began[1]
