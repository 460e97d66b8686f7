"""Neighbours in other images from an index (faiss), for sets too large to compare every pair."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..errors import AffinityError
from .kernels.precision import AT_THRESHOLD
from .neighbours import NONE, SPARE, Keys, Neighbours, as_exact, exact_keys, largest, nearest, share_among_threads

WANTED_RECALL = 0.95
"""So many lists of the index are searched that at least this share of the true neighbours is found."""
SAMPLE = 256
"""Patches on which recall is measured; the same number of others decides how many lists are searched."""
LISTS = 4.0
"""The index has this many lists times the root of the number of vectors (faiss's own advice is 4 to 16)."""
TRAINING_PER_LIST = 64
"""Vectors from which the centre of an inverted list is computed; faiss warns below 39."""
TIE = 1e-6
"""A neighbour that is less similar than the true one by no more than rounding is as good."""


def check_installed() -> None:
    """Raise an error of one sentence if faiss is not installed.

    Raises
    ------
    AffinityError
    """
    if importlib.util.find_spec("faiss") is None:
        raise AffinityError(
            "search='faiss' needs faiss-cpu, which is not installed: pip install 'spectral-toolkit[faiss]', or leave "
            "search='exact'."
        )


def nearest_by_index(
    left: Float[Tensor, "nodes channels"],
    right: Float[Tensor, "nodes channels"],
    cells: int,
    *,
    images: slice,
    within: int,
    across: int,
    threshold: float,
) -> tuple[Neighbours, float]:
    """Find neighbours like `nearest`, but search for those in other images only in some lists of an index.

    The index is an inverted file: vectors are sorted into lists by the nearest of many centres, and a row is compared
    with the vectors in the lists whose centres it is most similar to. The number of lists is doubled until 0.95 of the
    true neighbours of a sample of rows are found; neighbours within the image are always exact. What is found is
    ordered in double precision, as by `nearest`. The seed is fixed, so that two runs find the same.

    Parameters
    ----------
    left, right, cells, within, across, threshold
        As for `nearest`, for all images.
    images
        The images whose rows are wanted.

    Returns
    -------
    Neighbours
        The neighbours of the rows of ``images``.
    float
        The recall: for 256 rows, drawn at random from all, the share of the neighbours in other images found by the
        exact search that were found or equalled here; nan where there are none to find.

    References
    ----------
    Sivic & Zisserman, 'Video Google', ICCV 2003: inverted files of vectors. Douze et al., 'The Faiss library', arXiv
    2401.08281.
    """
    nodes = slice(images.start * cells, images.stop * cells)
    own = nearest(left[nodes], right, cells, within=within, across=0, threshold=threshold, first=nodes.start)
    k = max(min(across, len(right) - cells), 0)
    index = _Index(right.float().cpu(), cells, k, threshold)
    rows = left.float().cpu()
    generator = np.random.default_rng(0)
    tried, judged = (torch.from_numpy(generator.permutation(len(rows))[:SAMPLE]) for _ in range(2))
    truth = index.exact(rows, tried)
    while index.probes < index.n_lists and _recall(index.found(rows, tried), truth) < WANTED_RECALL:
        index.probes = min(2 * index.probes, index.n_lists)
    recall = _recall(index.found(rows, judged), index.exact(rows, judged))
    indices = torch.full((nodes.stop - nodes.start, k), NONE, dtype=torch.int32)
    similarity = torch.zeros(len(indices), k, dtype=left.dtype)

    lowest = threshold + AT_THRESHOLD
    exact_left, exact_right = as_exact(left.cpu()), as_exact(right.cpu())

    def look(image: int) -> None:
        of_image = torch.arange(image * cells, (image + 1) * cells)
        place = of_image - nodes.start
        found = index.search(rows, of_image, k + k // SPARE)
        best = largest(exact_keys(index.keys, found, exact_left[of_image], exact_right, lowest), k)
        indices[place] = index.keys.columns(best).to(indices.dtype)
        similarity[place] = index.keys.values(best).to(similarity.dtype)

    if k:
        share_among_threads(look, list(range(images.start, images.stop)))
    own_indices, own_similarity = own.indices.cpu(), own.similarity.cpu()
    both = torch.cat([own_indices, indices], dim=1), torch.cat([own_similarity, similarity], dim=1)
    return Neighbours(*both, own.within), recall


class _Index:
    """Inverted lists of all columns; what is found in them is encoded as keys, as in the exact search."""

    def __init__(self, right: Float32[Tensor, "nodes channels"], cells: int, k: int, threshold: float) -> None:
        import faiss

        self._faiss: Any = faiss
        self.right, self.cells, self.k, self.threshold = right, cells, k, threshold
        self.keys = Keys(len(right))
        vectors = np.ascontiguousarray(right.numpy())
        n, channels = vectors.shape
        self.n_lists = max(1, min(round(LISTS * n**0.5), n // TRAINING_PER_LIST))
        self.probes = min(8, self.n_lists)
        before = faiss.omp_get_max_threads()
        # faiss brings its own OpenMP, which by default uses every core, whatever the settings of torch.
        faiss.omp_set_num_threads(torch.get_num_threads())
        try:
            quantizer = faiss.IndexFlatIP(channels)
            self._index: Any = faiss.IndexIVFFlat(quantizer, channels, self.n_lists, faiss.METRIC_INNER_PRODUCT)
            self._index.cp.seed, self._index.cp.spherical = 1234, True
            self._index.cp.max_points_per_centroid = TRAINING_PER_LIST
            self._index.cp.min_points_per_centroid = 1  # a few images make small lists, which is no reason to warn
            self._index.train(vectors)
            self._index.add(vectors)
        finally:
            faiss.omp_set_num_threads(before)

    def search(
        self, left: Float32[Tensor, "nodes channels"], rows: Int64[Tensor, " rows"], k: int | None = None
    ) -> Int64[Tensor, "rows k"]:
        """Keys of the best columns in other images for some rows, descending; 0 where no more were found."""
        faiss, k = self._faiss, self.k if k is None else k
        keys = torch.zeros(len(rows), k, dtype=torch.int64)
        if not k:
            return keys
        faiss.omp_set_num_threads(1)  # this holds for one thread, and several search at once
        for image in (rows // self.cells).unique().tolist():
            of_image = torch.nonzero(rows // self.cells == image)[:, 0]
            own = faiss.IDSelectorRange(image * self.cells, (image + 1) * self.cells)
            others = faiss.IDSelectorNot(own)
            parameters = faiss.SearchParametersIVF(sel=others, nprobe=self.probes)
            queries = np.ascontiguousarray(left[rows[of_image]].numpy())
            values, columns = (torch.from_numpy(part) for part in self._index.search(queries, k, params=parameters))
            found = (columns >= 0) & (values > self.threshold)
            keys[of_image] = largest(torch.where(found, self.keys.of(values, columns), 0), k)
        return keys

    def found(self, left: Float32[Tensor, "nodes channels"], rows: Int64[Tensor, " rows"]) -> Float[Tensor, "rows k"]:
        """Similarities of what `search` finds; 0 where no more were found."""
        return self.keys.values(self.search(left, rows))

    def exact(self, left: Float32[Tensor, "nodes channels"], rows: Int64[Tensor, " rows"]) -> Float32[Tensor, "rows k"]:
        """Similarities of the true best columns in other images for some rows, descending; 0 where there is none."""
        best = torch.zeros(len(rows), self.k)
        for place, row in enumerate(rows.tolist() if self.k else ()):
            similarity = self.right @ left[row]
            similarity[row // self.cells * self.cells :][: self.cells] = -1.0
            values = similarity.topk(self.k).values
            best[place] = torch.where(values > self.threshold, values, 0.0)
        return best


def _recall(found: Float[Tensor, "rows k"], truth: Float32[Tensor, "rows k"]) -> float:
    """The share of the true neighbours that were found, or replaced by others that are just as similar."""
    there = truth > 0
    worst = torch.where(there, truth, 2.0).amin(dim=1, keepdim=True)
    good = (found >= worst - TIE).sum(dim=1).minimum(there.sum(dim=1))
    return float(good.sum()) / float(there.sum()) if bool(there.any()) else float("nan")
