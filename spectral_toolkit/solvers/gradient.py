"""The source paper's own method for single images: gradient descent on features from a small generator.

Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 3. It is offered for comparison and for teaching: the exact
solver finds better vectors in a fraction of the time. Where the published code and its text differ, we follow the text:

- Rows without any affinity stay empty. The code adds its epsilon after the division 1/sum, so they become infinite.
- Every layer's weight is that layer's own. The code looks it up at layer * head, which is right only with one head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from tqdm.auto import tqdm

from .._affinity.dataset_graph import DatasetGraph
from .._affinity.features import read_features
from .._affinity.layer_graph import LayerGraph, Member, masked_rows
from .._affinity.pencil import JointPencil, positive_members
from .._affinity.resampling import Grid
from .._affinity.table import KERNELS
from .._affinity.windows import rows_of_windows, window_places
from .._compute.random_state import drawing
from .._compute.settings import differentiable
from ..errors import SolverError
from .checkpoints import Checkpoint, fingerprint
from .descent import Progress, average, overlap, singular_pairs
from .exact import spectrum_of
from .gradient_dataset import solve_dataset
from .plateau import Plateau
from .spectrum import Spectrum, WarmStart

N_CHANNELS = 128

MOST_BYTES = 4 * 2**30
"""Bytes that the matrices of all heads may take: this method holds each of them, the exact one holds their mean."""


@differentiable
def objective(
    affinities: Sequence[Tensor],
    features: Tensor,
    *,
    grids: Sequence[Grid] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Compute the paper's loss for one image: 2 mean|e - 1| + 2 mean(offdiag(z'z)^2), averaged over layers and heads.

    Per layer, z is ``features`` average-pooled to the layer's grid, with each column of length one, and e = diag(z' A
    z) per head. The first mean is over heads and features, the second over the K (K - 1) entries off the diagonal (0
    for a single feature).

    Parameters
    ----------
    affinities
        One tensor (heads, n_l, n_l) per layer, with rows that sum to one (or to zero, where a patch attends to none)
        and patches row by row.
    features
        (1, K, H, W), on the base grid.
    grids
        Rows and columns of every layer. By default they are derived from n_l and H:W: rows x columns = n_l, each within
        one of what that ratio requires.
    weights
        Relative weights of the layers, equal by default.

    Returns
    -------
    torch.Tensor
        A scalar of at least 0, differentiable in ``features`` and ``affinities``.

    Raises
    ------
    SolverError
        If shapes do not fit, or a layer's grid cannot be derived from its size.

    References
    ----------
    Zhang, Yunis & Maire, CVPR 2024, arXiv 2312.06716, section 3.

    Examples
    --------
    >>> import torch
    >>> features = torch.eye(4).reshape(1, 4, 2, 2)
    >>> float(objective([torch.eye(4)[None]], features))
    0.0
    >>> float(objective([torch.full((1, 4, 4), 0.25)], features))
    1.5
    """
    if features.ndim != 4 or features.shape[0] != 1:
        raise SolverError(f"features have shape {tuple(features.shape)}: expected (1, K, H, W).")
    if not affinities:
        raise SolverError("affinities is empty: give one tensor (heads, n, n) per layer.")
    for name, values in (("grids", grids), ("weights", weights)):
        if values is not None and len(values) != len(affinities):
            raise SolverError(f"{name} has {len(values)} entries for {len(affinities)} layers: give one per layer.")
    relative = [1.0] * len(affinities) if weights is None else [float(weight) for weight in weights]
    if not min(relative) >= 0 or not 0 < sum(relative) < float("inf"):
        raise SolverError(
            f"weights={relative} cannot be used for an average: give finite numbers >= 0, not all of them 0."
        )
    dtype = functools.reduce(torch.promote_types, [affinity.dtype for affinity in affinities], features.dtype)
    features = features.to(dtype)
    total = features.new_zeros(())
    for index, (affinity, weight) in enumerate(zip(affinities, relative, strict=True)):
        if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
            raise SolverError(f"Affinity {index} has shape {tuple(affinity.shape)}: expected (heads, n, n).")
        n = affinity.shape[2]
        grid = derived_grid(n, (features.shape[2], features.shape[3])) if grids is None else grids[index]
        if grid[0] * grid[1] != n:
            raise SolverError(
                f"grids[{index}]={grid} does not have the {n} patches of its affinity: give rows and columns."
            )
        pooled = average(features, grid)
        z = functional.normalize(pooled.flatten(2)[0].T, dim=0)
        energy = (z * (affinity.to(dtype) @ z)).sum(dim=1)
        total = total + weight / sum(relative) * (2 * (energy - 1).abs().mean() + 2 * overlap(z))
    return total


def derived_grid(n: int, base: Grid) -> Grid:
    """Return the rows and columns of ``n`` patches in the proportions of ``base``.

    Examples
    --------
    >>> derived_grid(64, (16, 16)), derived_grid(50, (10, 20))
    ((8, 8), (5, 10))
    """
    wanted = (n * base[0] / base[1]) ** 0.5, (n * base[1] / base[0]) ** 0.5
    pairs = [(rows, n // rows) for rows in range(1, n + 1) if n % rows == 0]
    distance = [max(abs(a - b) for a, b in zip(pair, wanted, strict=True)) for pair in pairs]
    best = min(distance, default=float("inf"))
    nearest = [pair for pair, far in zip(pairs, distance, strict=True) if far <= best + 1e-9]
    if best > 1 or len(nearest) != 1:
        raise SolverError(
            f"The grid of a layer of {n} patches cannot be derived from features on {base[0]}x{base[1]}: give "
            "grids=[(rows, columns), ...], one per layer."
        )
    return nearest[0]


class Generator(nn.Module):
    """Makes features (1, K, H, W), positive and summing to one over K, from fixed noise: a deep image prior."""

    def __init__(self, grid: Grid, n_features: int) -> None:
        super().__init__()
        self.noise: Tensor
        self.register_buffer("noise", torch.randn(1, N_CHANNELS, *grid))
        self.layers = nn.Sequential(
            nn.Conv2d(N_CHANNELS, N_CHANNELS, 3, padding=1),
            nn.BatchNorm2d(N_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(N_CHANNELS, N_CHANNELS, 3, padding=1),
            nn.BatchNorm2d(N_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(N_CHANNELS, n_features, 3, padding=1),
            nn.Softmax(dim=1),
        )

    def forward(self) -> Tensor:
        return self.layers(self.noise)


def row_stochastic(matrix: Tensor) -> Tensor:
    """Divide rows by their sums; a row without any affinity stays empty."""
    total = matrix.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, matrix / total.clamp_min(torch.finfo(matrix.dtype).tiny), 0.0)


def head_affinities(graph: LayerGraph, member: Member, images: slice) -> Tensor:
    """Return A of every head of a member, (images, heads, n, n): the kernel among patches, with rows summing to one."""
    options = dict(graph.recipe.options)
    steps = int(options.pop("steps", 1))
    kernel = graph.recipe.kernel
    features = read_features(
        graph.activations, member.layer, graph.recipe.kind, images, graph.device, for_softmax=KERNELS[kernel].attention
    )
    keep = graph.unmasked(member, images)
    windows = None if member.window is None else window_places(graph.activations.children[member.layer], graph.device)
    prepare = KERNELS[kernel].prepare
    assert prepare is not None
    matrices = []
    for head in member.heads:
        own = features.pick((head,))
        rows = prepare(own, **options) if windows is None else rows_of_windows(prepare, own, windows, options)
        step = row_stochastic((rows if keep is None else masked_rows(rows, keep))(0, own.n).float())
        walked = step
        for _ in range(steps - 1):
            walked = step @ walked
        matrices.append(walked)
    return torch.stack(matrices, dim=1)


def solve_images(
    graph: LayerGraph,
    images: slice,
    n_eigenvectors: int,
    *,
    grid: Grid,
    start: WarmStart | None,
    tolerance: float,
    seed: int,
    progress: Progress = False,
    n_features: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
) -> Spectrum:
    """Solve each of a few images by gradient descent; see :func:`spectral_toolkit.solve`.

    The result is measured in the joint pencil of the exact solver: eigenvalues are Rayleigh quotients there, and
    ``converged`` is false wherever the residual is above ``tolerance``, which is nearly everywhere.
    """
    if isinstance(graph, DatasetGraph):
        if steps is not None:
            raise SolverError(f"steps={steps!r} does not apply to a dataset, which is optimised in epochs: use epochs.")
        return solve_dataset(
            graph,
            n_eigenvectors,
            grid=grid,
            seed=seed,
            progress=progress,
            n_features=n_features,
            epochs=epochs,
            learning_rate=learning_rate,
            patience=0 if patience is None else patience,
            checkpoint=checkpoint,
            checkpoint_every=10 if checkpoint_every is None else checkpoint_every,
        )
    if epochs is not None:
        raise SolverError(
            f"epochs={epochs!r} does not apply to single images, each of which is optimised in steps: use steps."
        )
    steps = 2000 if steps is None else steps
    learning_rate = 2e-3 if learning_rate is None else learning_rate
    patience = 200 if patience is None else patience
    checkpoint_every = 100 if checkpoint_every is None else checkpoint_every
    members = positive_members(graph)
    needed = sum(4 * len(member.heads) * member.n_cells**2 for member in members)
    if needed > MOST_BYTES:
        raise SolverError(
            f"method='gradient' holds the matrix of every head, {needed:,} bytes here, but at most {MOST_BYTES:,}: "
            "leave out the finest layers with weights=, select one timestep with activations.sel(timestep=...), or use "
            "method='exact'."
        )
    pencil = JointPencil(graph, images, grid)
    n_features = n_eigenvectors + 1 if n_features is None else n_features
    if n_eigenvectors > min(n_features, int(pencil.n_free.min())) - 1:
        raise SolverError(
            f"n_eigenvectors={n_eigenvectors} is too many for n_features={n_features} on {int(pencil.n_free.min())} "
            "patches: both must be larger than the number of eigenvectors, because the constant is one of theirs: use "
            "fewer eigenvectors or more features."
        )
    weights = [graph.weights[member.name] for member in members]
    grids = [member.grid for member in members]
    first = images.indices(len(graph.images))[0]
    runs = []
    for image in range(first, first + pencil.n_images):
        affinities = [head_affinities(graph, member, slice(image, image + 1))[0] for member in members]
        store = None
        if checkpoint is not None:
            problem = (grid, n_features, steps, learning_rate, patience, seed, weights, grids, str(graph.recipe))
            store = Checkpoint(checkpoint, graph.images[image], fingerprint(problem, affinities), checkpoint_every)
        runs.append(
            descend(
                lambda features, affinities=affinities: objective(
                    affinities, features, grids=grids, weights=weights
                ),
                grid, n_features, steps=steps, learning_rate=learning_rate, patience=patience,
                seed=seed, device=graph.device, store=store, progress=progress,
            )
        )  # fmt: skip
    notes = [
        "Found by gradient descent: eigenvalues are Rayleigh quotients, and the vectors are only nearly B-orthogonal."
    ]
    if start is not None:
        notes.append("start was not used: the gradient method begins from its own generator.")
    features = torch.cat([run["features"] for run in runs]).flatten(2).to(pencil.dtype)
    spectrum = spectrum_of(pencil, singular_pairs(pencil, features, n_eigenvectors), n_eigenvectors, "gradient", notes)
    spectrum.iterations = max(run["step"] for run in runs)
    spectrum.details = {
        "steps_run": [run["step"] for run in runs],
        "final_objective": [run["objective"] for run in runs],
        "stopped_early": [run["stopped"] for run in runs],
        "n_features": n_features,
        "learning_rate": learning_rate,
        "generator_seed": seed,
    }
    return spectrum


def descend(
    loss: Callable[[Tensor], Tensor],
    grid: Grid,
    n_features: int,
    *,
    steps: int,
    learning_rate: float = 2e-3,
    patience: int = 200,
    seed: int = 0,
    device: torch.device | str = "cpu",
    store: Checkpoint | None = None,
    progress: Progress = False,
) -> dict:
    """Run Adam on the generator; return the final features (1, K, H, W), with step, objective and stopped."""
    if store is not None:
        store.try_place()
    saved = None if store is None else store.read()
    if saved is not None and saved["finished"]:
        return {**saved, "features": saved["features"].to(device)}
    # The generator is made on the CPU whatever the device, so that a seed means the same everywhere.
    with drawing(seed):
        generator = Generator(grid, n_features)
    generator.to(device)
    optimiser = torch.optim.Adam(generator.parameters(), lr=learning_rate)
    plateau = Plateau(patience)
    step = 0
    if saved is not None:
        generator.load_state_dict(saved["generator"])
        optimiser.load_state_dict(saved["optimiser"])
        plateau.best, plateau.waited, step = saved["best"], saved["waited"], saved["step"]
    stopped = False
    with tqdm(total=steps, initial=step, desc="gradient", disable=progress is not True) as bar:
        while step < steps and not stopped:
            with torch.enable_grad():
                optimiser.zero_grad()
                value = loss(generator())
                value.backward()
            optimiser.step()
            step += 1
            number = float(value.detach())
            stopped = plateau(number)
            bar.update()
            if store is not None and step % store.every == 0 and step < steps and not stopped:
                state = {"generator": generator.state_dict(), "optimiser": optimiser.state_dict()}
                store.write({"finished": False, "step": step, **state, "best": plateau.best, "waited": plateau.waited})
            if callable(progress):
                progress(step, steps, number)
    with torch.no_grad():
        features = generator()
        run = {"features": features, "step": step, "objective": float(loss(features)), "stopped": stopped}
    if store is not None:
        store.write({"finished": True, **run})
    return run
