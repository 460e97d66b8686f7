"""Slow, obvious twins of the affinities and of the joint problem, written from the formulas, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr

from spectral_toolkit._affinity.resampling import Resampling

QUANTITIES = {"qk": ("query", "key"), "vv": ("value",) * 2, "kk": ("key",) * 2, "qq": ("query",) * 2}
QUANTITIES["qk_unrotated"] = ("query_unrotated", "key_unrotated")


def head_vectors(node: xr.DataTree, name: str, image: int) -> np.ndarray:
    """(heads, n, channels) in float64."""
    if name == "token":
        values = node.dataset["token"].values[image][None]
    else:
        values = node.dataset[name].values[image]
    return values.reshape(len(values), -1, values.shape[-1]).astype(np.float64)


def affinity_matrix(node: xr.DataTree, kind: str, kernel: str, image: int, **options) -> np.ndarray:
    """Head-averaged, symmetrised affinity (n, n) of one layer, head by head and pair by pair."""
    left_name, right_name = QUANTITIES.get(kind, ("token", "token"))
    left, right = (head_vectors(node, name, image) for name in (left_name, right_name))
    matrices = []
    for head in range(len(left)):
        a, b = left[head], right[head]
        if kernel == "softmax":
            special = node.dataset["special_key"].values[image][head] if "special_key" in node.data_vars else b[:0]
            keys = np.concatenate([special.astype(np.float64), b])
            logits = a @ keys.T * node.attrs["scale"]
            if "attention_bias" in node.data_vars:
                logits = logits + node.dataset["attention_bias"].values[head][len(special) :]
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            weights = (weights / weights.sum(axis=1, keepdims=True))[:, len(special) :]
        elif kernel == "rbf":
            square = np.array([[((x - y) ** 2).sum() for y in b] for x in a])
            mean = square.mean()
            weights = np.exp(-square / (2 * options.get("bandwidth", 0.5) ** 2 * mean)) if mean > 0 else square * 0 + 1
        else:
            lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
            cosine = np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            if kernel == "cosine":
                weights = np.where(cosine > options.get("threshold", 0.1), cosine, 0.0)
            else:
                weights = (1 + cosine) / 2
        matrices.append(weights)
    mean = np.mean(matrices, axis=0)
    if options.get("steps", 1) > 1:
        rows = mean.sum(axis=1, keepdims=True)
        mean = np.linalg.matrix_power(np.divide(mean, rows, out=np.zeros_like(mean), where=rows > 0), options["steps"])
    return (mean + mean.T) / 2


def resampling_matrix(base: tuple[int, int], layer: tuple[int, int]) -> np.ndarray:
    """G, entry by entry: area averages down, bilinear between cell centres up."""

    def axis(n_from: int, n_to: int) -> np.ndarray:
        out = np.zeros((n_to, n_from))
        for i in range(n_to):
            if n_to <= n_from:
                for j in range(n_from):
                    out[i, j] = max(0.0, min((i + 1) / n_to, (j + 1) / n_from) - max(i / n_to, j / n_from))
                out[i] /= out[i].sum()
            else:
                position = min(max((i + 0.5) / n_to * n_from - 0.5, 0.0), n_from - 1.0)
                for j in range(n_from):
                    out[i, j] = max(0.0, 1.0 - abs(position - j))
        return out

    return np.kron(axis(base[0], layer[0]), axis(base[1], layer[1]))


def interpolation_matrix(free: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """P (n, free cells): an isolated cell is the mean of the free cells nearest to it, in patches."""
    n = grid[0] * grid[1]
    centre = [(i // grid[1], i % grid[1]) for i in range(n)]
    columns = np.flatnonzero(free)
    out = np.zeros((n, len(columns)))
    for i in range(n):
        distance = np.array([np.hypot(centre[i][0] - centre[j][0], centre[i][1] - centre[j][1]) for j in columns])
        near = distance <= distance.min() * (1 + 1e-9)
        out[i, near] = 1 / near.sum()
    return out


def joint_pencil(matrices: dict, grids: dict, weights: dict, base: tuple[int, int]) -> tuple:
    """(A, B, P, free) of the joint problem of one image, on its free cells."""
    n = base[0] * base[1]
    own = np.zeros(n)
    for name, w in weights.items():
        if w > 0 and grids[name] == base:
            own += w * matrices[name].sum(axis=1) * n / matrices[name].sum()
    free = own > 1e-12 * own.mean()
    p = interpolation_matrix(free, base)
    a = b = 0.0
    for name, w in weights.items():
        if w == 0:
            continue
        affinity = matrices[name] * n / matrices[name].sum()
        degree = np.diag(affinity.sum(axis=1))
        g = resampling_matrix(base, grids[name]) @ p
        a = a + w * g.T @ (degree - affinity) @ g
        b = b + w * g.T @ degree @ g
    return a, b, p, free


def eigenpairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of the pencil but the constant one, which is projected out first."""
    n = len(a)
    ones = np.ones(n) @ b
    complement = scipy.linalg.null_space(ones[None, :])
    value, vector = scipy.linalg.eigh(complement.T @ a @ complement, complement.T @ b @ complement)
    return value, complement @ vector


def slow_neighbours(
    left: np.ndarray, right: np.ndarray, cells: int, within: int, across: int, threshold: float
) -> np.ndarray:
    """Similarities of every node's neighbours, those in its image first, each part falling; 0 where there are none."""
    n = len(left)
    within, across = min(within, cells), min(across, n - cells)
    rows = []
    for i in range(n):
        parts = []
        for k, inside in ((within, True), (across, False)):
            others = [j for j in range(n) if (i // cells == j // cells) == inside]
            best = np.sort(right[others] @ left[i])[::-1][:k]
            parts += [value if value > threshold else 0.0 for value in best]
        rows.append(parts)
    return np.array(rows).reshape(n, within + across)


def pencil_of_everything(graph: Any, matrices: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A and B of a dataset's joint problem written out, over the cells of all images."""
    weights, n_images = graph.weights, len(graph.images)
    base = max((m.grid for m in graph.members if weights[m.name] > 0), key=lambda grid: grid[0] * grid[1])
    n = base[0] * base[1] * n_images
    laplacian, mass = np.zeros((n, n)), np.zeros((n, n))
    for member in graph.members:
        lift = np.kron(np.eye(n_images), Resampling(base, member.grid).dense().numpy())
        affinity = matrices[member.name]
        degree = affinity.sum(axis=1)
        factor = weights[member.name] * n / degree.sum()
        laplacian += factor * lift.T @ (np.diag(degree) - affinity) @ lift
        mass += factor * lift.T @ np.diag(degree) @ lift
    return laplacian, mass
