"""The source paper's own method for a whole dataset: gradient descent on one table of features per image.

Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 4: K x 32 x 32 numbers per image, batches of 40 images, five
steps of AdamW per batch, and an exponential moving average of the tables as the result. The edges are those of the knn
graph that lie within the batch; rows are normalised after the others are dropped, so that a row without any edges stays
empty (the published code divides by zero there). With several processes, each takes a part of the layers and heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm.auto import tqdm

from .._affinity.dataset_graph import DatasetGraph
from .._affinity.dataset_pencil import make_pencil
from .._affinity.pencil import positive_members
from .._affinity.resampling import Grid, Resampling
from .._affinity.sparse_rows import SparseRows, product
from .._compute.processes import all_gather_rows, all_reduce, barrier, rank, world_size
from ..errors import SolverError
from .checkpoints import Checkpoint, fingerprint
from .descent import Progress, average, overlap, singular_pairs
from .exact import check_number, spectrum_of
from .plateau import Plateau
from .result import as_one
from .spectrum import Spectrum

SIDE = 32
"""Rows and columns of an image's table; finer layers are left out."""
BATCH, INNER_STEPS, DECAY = 40, 5, 0.99
N_FEATURES, EPOCHS, LEARNING_RATE = 100, 200, 1e-2


@dataclass(frozen=True)
class Edges:
    """One layer and head: its grid, its part in the loss, and where its table of neighbours is."""

    layer: str
    head: int
    grid: Grid
    weight: float


def solve_dataset(
    graph: DatasetGraph,
    n_eigenvectors: int,
    *,
    grid: Grid,
    seed: int,
    progress: Progress = False,
    n_features: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    patience: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
) -> Spectrum:
    """Solve all images as one problem; the result is measured in the pencil of the exact solver.

    Raises
    ------
    SolverError
        If the graph has no edges, no layer is coarse enough, or K is too small.
    """
    if not graph.kernel.searches:
        raise SolverError(
            f"kernel={graph.recipe.kernel!r} has no edges, which this method needs: use kernel='knn', or "
            "method='exact'."
        )
    n_features = N_FEATURES if n_features is None else n_features
    epochs = EPOCHS if epochs is None else epochs
    learning_rate = LEARNING_RATE if learning_rate is None else learning_rate
    if n_eigenvectors > n_features - 1:
        raise SolverError(
            f"n_eigenvectors={n_eigenvectors} is too many for n_features={n_features}: features carry at most one "
            "eigenvector fewer than there are of them, because the constant is one of theirs; use fewer eigenvectors "
            "or more features."
        )
    edges, left_out = edges_of(graph)
    pencil = make_pencil(graph, slice(0, len(graph.images)), grid)
    check_number(pencil, n_eigenvectors)
    settings = (n_features, learning_rate, seed, patience, str(graph.recipe), graph.images, str(edges))
    store = None
    if checkpoint is not None:
        for one in edges[rank() :: world_size()]:
            graph.neighbours(one.layer, one.head)
        if graph.folder is not None:
            barrier(patient=True)  # then the neighbours that others found are read
        tables = [graph.neighbours(one.layer, one.head).indices for one in edges]
        store = Checkpoint(checkpoint, "dataset", fingerprint(settings, tables), checkpoint_every)
    run = descend_dataset(
        graph,
        edges,
        n_features,
        epochs=epochs,
        learning_rate=learning_rate,
        patience=patience,
        seed=seed,
        store=store,
        progress=progress,
    )
    features = Resampling((SIDE, SIDE), grid)(run["features"].to(pencil.dtype).flatten(2))
    notes = [
        "Found by gradient descent: eigenvalues are Rayleigh quotients, and the vectors are only nearly B-orthogonal."
    ]
    if left_out:
        notes.append(
            f"Layers of more than {SIDE} x {SIDE} patches are left out, as in the paper: {', '.join(left_out)}."
        )
    spectrum = spectrum_of(
        pencil, singular_pairs(pencil, as_one(features), n_eigenvectors), n_eigenvectors, "gradient", notes
    )
    spectrum.iterations = run["epoch"]
    spectrum.details = {
        "steps_run": [run["epoch"]],
        "final_objective": [run["objective"]],
        "stopped_early": [run["stopped"]],
        "n_features": n_features,
        "learning_rate": learning_rate,
        "generator_seed": seed,
    }
    return spectrum


def edges_of(graph: DatasetGraph) -> tuple[list[Edges], list[str]]:
    """Return the layers and heads that take part, and the names of the layers that are too fine."""
    edges, left_out = [], []
    for member in positive_members(graph):
        if member.n_cells > SIDE * SIDE:
            left_out.append(member.name)
            continue
        weight = graph.weights[member.name] * SIDE / member.n_cells**0.5 / len(member.heads)
        edges += [Edges(member.layer, head, member.grid, weight) for head in member.heads]
    if not edges:
        raise SolverError(
            f"Every layer has more than {SIDE} x {SIDE} patches, which this method leaves out: use method='exact'."
        )
    total = sum(one.weight for one in edges)
    return [Edges(one.layer, one.head, one.grid, one.weight / total) for one in edges], left_out


def batch_matrix(graph: DatasetGraph, edges: Edges, batch: Tensor) -> SparseRows:
    """Return the row-normalised edges among the images of a batch, sparse (nodes, nodes); empty rows stay empty."""
    cells = edges.grid[0] * edges.grid[1]
    found = graph.neighbours(edges.layer, edges.head)
    nodes = (batch[:, None] * cells + torch.arange(cells)).flatten()
    indices, values = found.indices[nodes].long(), found.similarity[nodes].float()
    place = torch.full((len(graph.images) + 1,), -1)
    place[batch] = torch.arange(len(batch))
    # -1 // cells is the last entry, which no batch has.
    images = place[indices.div(cells, rounding_mode="floor")]
    rows, columns = (images >= 0).nonzero(as_tuple=True)
    targets = images[rows, columns] * cells + indices[rows, columns] % cells
    values = values[rows, columns]
    total = torch.where(images >= 0, found.similarity[nodes].float(), 0.0).sum(1)
    values = values / total[rows].clamp_min(torch.finfo(values.dtype).tiny)
    ends = functional.pad((images >= 0).sum(1).cumsum(0), (1, 0))
    to = graph.device
    return SparseRows(ends.to(to), targets.to(to), values.to(to), len(nodes))


def batch_objective(tables: Tensor, edges: Sequence[Edges], matrices: Sequence[SparseRows]) -> Tensor:
    """Compute the loss of tables (batch, K, 32, 32): sum_l weight_l (2 mean|e - 1| + 2 mean(offdiag(z'z)^2))."""
    total = tables.new_zeros(())
    for one, matrix in zip(edges, matrices, strict=True):
        pooled = average(tables, one.grid)
        z = functional.normalize(pooled.permute(0, 2, 3, 1).flatten(0, 2), dim=0)
        energy = (z * product(matrix, z)).sum(dim=0)
        total = total + one.weight * (2 * (energy - 1).abs().mean() + 2 * overlap(z))
    return total


def descend_dataset(
    graph: DatasetGraph,
    edges: Sequence[Edges],
    n_features: int,
    *,
    epochs: int,
    learning_rate: float,
    patience: int,
    seed: int,
    store: Checkpoint | None = None,
    progress: Progress = False,
) -> dict:
    """Run AdamW over the tables; return their moving averages (images, K, 32, 32), epoch, objective and stopped."""
    n_images = len(graph.images)
    source = torch.Generator().manual_seed(seed)
    tables = [torch.randn(n_features, SIDE, SIDE, generator=source).to(graph.device) for _ in range(n_images)]
    tables = [table.requires_grad_() for table in tables]
    # An image outside the batch has no gradient, and AdamW leaves it unchanged.
    optimiser = torch.optim.AdamW(tables, lr=learning_rate)
    averages = [torch.zeros_like(table) for table in tables]
    counts = [0] * n_images
    own = edges[rank() :: world_size()]
    plateau, epoch, objective, stopped = Plateau(patience), 0, float("nan"), False
    if store is not None and rank() == 0:
        store.try_place()
    saved = None if store is None else store.read()
    if store is not None:
        _refuse_unshared(store, -1 if saved is None else saved["epoch"], graph.device)
    if store is not None and saved is not None and saved["epoch"] > epochs:
        raise SolverError(
            f"checkpoint={str(store.path)!r} already holds {saved['epoch']} epochs, more than epochs={epochs}: ask for "
            "at least as many, or give another file."
        )
    if saved is not None:
        with torch.no_grad():
            for table, average, one, other in zip(tables, averages, saved["tables"], saved["averages"], strict=True):
                table.copy_(one)
                average.copy_(other)
        optimiser.load_state_dict(saved["optimiser"])
        counts, epoch, objective, stopped = saved["counts"], saved["epoch"], saved["objective"], saved["stopped"]
        plateau.best, plateau.waited = saved["best"], saved["waited"]
    with tqdm(total=epochs, initial=epoch, desc="gradient", disable=progress is not True or rank() > 0) as bar:
        while epoch < epochs and not stopped:
            # The order follows from seed and epoch alone, so that a resumed run has the same one as an uninterrupted
            # run.
            order = torch.randperm(n_images, generator=torch.Generator().manual_seed(((seed << 20) + epoch) % 2**63))
            seen = []
            for batch in order.split(BATCH):
                seen.append(_step_batch(graph, own, batch, tables, averages, counts, optimiser))
            epoch += 1
            objective = sum(seen) / len(seen)
            stopped = plateau(objective)
            bar.update()
            if store is not None and rank() == 0 and (epoch % store.every == 0 or epoch == epochs or stopped):
                state = {
                    "tables": [table.detach() for table in tables],
                    "averages": averages,
                    "optimiser": optimiser.state_dict(),
                    "counts": counts,
                    "epoch": epoch,
                    "objective": objective,
                    "stopped": stopped,
                }
                store.write({**state, "best": plateau.best, "waited": plateau.waited})
            if callable(progress) and rank() == 0:
                progress(epoch, epochs, objective)
    # A moving average that begins at zero is too small by this factor.
    features = torch.stack([a / (1 - DECAY**count) for a, count in zip(averages, counts, strict=True)])
    return {"features": features, "epoch": epoch, "objective": objective, "stopped": stopped}


def _refuse_unshared(store: Checkpoint, epoch: int, device: torch.device) -> None:
    """Check that all processes resume from the same epoch; otherwise they would wait for each other in vain."""
    epochs = all_gather_rows(torch.tensor([epoch], device=device)).tolist()
    if len(set(epochs)) > 1:
        other = next(number for number, found in enumerate(epochs) if found != epochs[0])
        read = [f"{epochs[i]} epochs" if epochs[i] >= 0 else "nothing" for i in (0, other)]
        raise SolverError(
            f"checkpoint={str(store.path)!r} holds {read[0]} for rank 0 and {read[1]} for rank {other}: give a file in "
            "a folder that all machines share, or remove it everywhere to begin again."
        )


def _step_batch(
    graph: DatasetGraph,
    edges: Sequence[Edges],
    batch: Tensor,
    tables: list[Tensor],
    averages: list[Tensor],
    counts: list[int],
    optimiser: torch.optim.Optimizer,
) -> float:
    """Take a few steps on one batch; return the objective before the last of them, for all processes together."""
    chosen = [tables[image] for image in batch.tolist()]
    matrices = [batch_matrix(graph, one, batch) for one in edges]
    total = 0.0
    for _ in range(INNER_STEPS):
        with torch.enable_grad():
            optimiser.zero_grad(set_to_none=True)
            value = batch_objective(torch.stack(chosen), edges, matrices)
            if edges:
                value.backward()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in chosen]
        for one, gradient in zip(chosen, all_reduce(torch.stack(gradients)), strict=True):
            one.grad = gradient
        optimiser.step()
        total = float(all_reduce(value.detach()))
    with torch.no_grad():
        for image in batch.tolist():
            averages[image].mul_(DECAY).add_(tables[image], alpha=1 - DECAY)
            counts[image] += 1
    return total
