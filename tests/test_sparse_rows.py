"""Sparse products: right, equal both ways of summing, and with a gradient; and nothing adds in an order of threads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity import sparse_rows
from spectral_toolkit._affinity.sparse_rows import SparseRows, product, summed_rows
from spectral_toolkit._compute import torch_state

PACKAGE = Path(st.__file__).parent


def drawn(rows: int = 40, n: int = 30, density: float = 0.2, seed: int = 0) -> tuple[SparseRows, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_array(np.where(rng.random((rows, n)) < density, rng.normal(size=(rows, n)), 0.0))
    ends, columns = (torch.as_tensor(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    return SparseRows(ends, columns, torch.as_tensor(matrix.data), n), matrix.toarray()


@pytest.mark.parametrize("gathered", [1, 64, 2**26])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.2, 1.0])
def test_both_ways_of_summing_are_the_product(density: float, gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_rows, "GATHERED", gathered)
    matrix, dense = drawn(density=density)
    x = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for one, wanted, to in ((matrix, dense, x), (matrix.transposed, dense.T, torch.as_tensor(dense) @ x)):
        np.testing.assert_allclose(one @ to, wanted @ to.numpy(), atol=1e-12)
        np.testing.assert_allclose(summed_rows(one.ends, one.columns, one.values, to), wanted @ to.numpy(), atol=1e-12)
        np.testing.assert_array_equal(one.to_dense(), wanted)
        np.testing.assert_array_equal(one.to(torch.float32).to_dense(), wanted.astype(np.float32))


def test_the_gradient_is_that_of_the_dense_product() -> None:
    matrix, dense = drawn()
    x = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (product(matrix, x).sin() * weight).sum().backward()
    found, x.grad = x.grad, None
    ((torch.as_tensor(dense) @ x).sin() * weight).sum().backward()
    assert found is not None
    assert x.grad is not None
    torch.testing.assert_close(found, x.grad, rtol=0, atol=1e-12)


ADDS_BY_THREADS = re.compile(
    r"\.(index_add_?|scatter_add_?|scatter_reduce_?|index_reduce_?|index_put_?|put_|histc|kthvalue|bincount)\("
    r"|torch\.(bincount|histc|scatter_add|index_add|scatter_reduce)\(|torch\.sparse\.mm|sparse_coo_tensor"
    r"|adaptive_(avg|max)_pool\dd\(|interpolate\(|grid_sample|embedding_bag|EmbeddingBag|max_unpool|ctc_loss|nll_loss"
    r"|(Reflection|Replication)Pad|padding_mode=.(reflect|replicate)"
)
"""What torch's page on `use_deterministic_algorithms` says adds up in an order of threads on a GPU, forward or back."""
ALLOWED = {
    ("_affinity/isolated.py", "index_add_"),  # on a CPU only
    ("_affinity/isolated.py", "index_put_"),  # with accumulate=True it sorts first on a GPU
    ("solvers/extension/knn.py", "scatter_add_"),  # all but zeros have places of their own
    ("_affinity/neighbours.py", "bincount"),  # of whole numbers
    ("_affinity/sparse_rows.py", "bincount"),
    ("_affinity/windows.py", "bincount"),
    ("_affinity/stored_edges.py", "bincount"),  # NumPy's
    ("_models/token_maps.py", "bincount"),
    ("_analysis/regions/cutting.py", "bincount"),
    ("_analysis/scores/segments.py", "bincount"),
}


def test_no_operation_adds_in_an_order_of_threads() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        code = "\n".join(line for line in path.read_text().splitlines() if not line.strip().startswith("#"))
        for match in ADDS_BY_THREADS.finditer(code):
            name = re.sub(r"^torch\.|[.(]", "", match[0])
            found.add((path.relative_to(PACKAGE).as_posix(), name))
    assert found - ALLOWED == set()
    assert ALLOWED - found == set(), "no longer used"


@pytest.mark.parametrize("gathers", [False, True])
def test_every_solver_runs_where_torch_allows_only_what_repeats(gathers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own settings would lift the caller's ban, which is held here all the way through."""
    if gathers:  # as on a GPU
        monkeypatch.setattr(sparse_rows, "_whole", lambda *parts: None)
    # The settings of the whole process are left as they are, so that the ban stays.
    monkeypatch.setattr(torch_state.PROCESS, "_running", 1)
    monkeypatch.setattr(torch_state._Process, "__enter__", lambda self: None)
    monkeypatch.setattr(torch_state._Process, "__exit__", lambda self, *_: None)
    tree = make_tree([(4, 4), (2, 3)], images=4)
    torch.use_deterministic_algorithms(True)
    try:
        for scope, kernels in (("image", ("cosine", "softmax", "rbf", "shifted_cosine")), ("dataset", ("knn",))):
            for kernel in kernels:
                graph = st.affinity(tree, "qk", kernel=kernel, scope=scope, device="cpu")
                few: dict[str, Any] = {"steps": 2} if scope == "image" else {"epochs": 2, "n_features": 4}
                for method, options in (("exact", {}), ("gradient", few)):
                    assert torch.are_deterministic_algorithms_enabled()
                    found = [st.solve(graph, 2, seed=0, method=method, **options) for _ in range(2)]
                    np.testing.assert_array_equal(found[0].eigenvector, found[1].eigenvector)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
