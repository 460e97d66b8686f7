"""A new picture laid into eigenvectors that are there, against solving anew with it; how alike the two answers are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg
import torch
import xarray as xr

import spectral_toolkit as st

FITTED, NEW, N_EIGENVECTORS = 64, 4, 10


def bench_project() -> Iterator[dict[str, Any]]:
    """Processor seconds for a picture: `project` alone, and affinity and solve of all pictures together."""
    torch.set_num_threads(1)
    scenes = st.scenes.sample(FITTED + NEW, seed=0).pixels
    activations = st.capture("scenes", scenes, quantities=("query", "key", "value"), progress=False)
    old, new = activations.isel(image=slice(0, FITTED)), activations.isel(image=slice(FITTED, None))
    for kind in ("qk", "vv"):
        for kernel in ("knn", "shifted_cosine"):
            graph = st.affinity(old, kind, kernel=kernel, scope="dataset", device="cpu")
            eig = st.solve(graph, N_EIGENVECTORS)
            ours, laid = measured(lambda eig=eig, graph=graph: st.project(new, eig, graph))

            def anew(kind: str = kind, kernel: str = kernel) -> xr.Dataset:
                return st.solve(
                    st.affinity(activations, kind, kernel=kernel, scope="dataset", device="cpu"), N_EIGENVECTORS
                )

            theirs, whole = measured(anew)
            yield {
                "name": f"{NEW} pictures laid into {FITTED}, {kind}, {kernel}, against solving all anew",
                "ours": ours,
                "theirs": theirs,
                "note": f"processor seconds; least cosine of the new pictures' part with that of the joint answer, of "
                f"{N_EIGENVECTORS} eigenvectors turned to each other: {likeness(eig, laid, whole):.3f}",
            }


def measured(function: Callable[[], xr.Dataset]) -> tuple[float, xr.Dataset]:
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def likeness(eig: xr.Dataset, laid: xr.Dataset, whole: xr.Dataset) -> float:
    """Least cosine over eigenvectors, the joint answer turned so that its fitted part is nearest to ``eig``."""
    fitted, joint, mine = (
        answer.eigenvector.transpose("image", "y", "x", "component").values for answer in (eig, whole, laid)
    )
    k = fitted.shape[-1]
    turn = scipy.linalg.orthogonal_procrustes(joint[: len(fitted)].reshape(-1, k), fitted.reshape(-1, k))[0]
    truth, own = joint[len(fitted) :].reshape(-1, k) @ turn, mine.reshape(-1, k)
    return float(((truth * own).sum(axis=0) / np.linalg.norm(truth, axis=0) / np.linalg.norm(own, axis=0)).min())
