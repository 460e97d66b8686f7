"""The basis of the iteration stays orthonormal whatever is added to it, and what it keeps equals its slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity.pencil import JointPencil
from spectral_toolkit.solvers import davidson
from spectral_toolkit.solvers.davidson import _add, _Basis


def alike(x):
    """Vectors that differ in the last digits only."""
    x[:, 1:] = x[:, :1] + 1e-13 * x[:, 1:]
    return x


ADDED = {
    "random": lambda x: x,
    "of all sizes": lambda x: x * torch.logspace(-12, 12, x.shape[1], dtype=x.dtype)[:, None],
    "alike": alike,
    "nearly alike": lambda x: x[:, :1] + 1e-5 * x,
    "the constant": lambda x: 1.0 + 1e-9 * x,
    "some of them zero": lambda x: x * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=x.dtype)[:, None],
}


@pytest.mark.parametrize("given", ADDED.values(), ids=ADDED)
def test_added_vectors_are_orthonormal_and_projected(given):
    graph = st.affinity(make_tree([(8, 7), (4, 3)], images=2), "vv", device="cpu")
    pencil = JointPencil(graph, slice(0, 2))
    generator = torch.Generator().manual_seed(0)
    basis = _Basis(pencil, 15)
    for _ in range(3):  # the second block also holds what the first one does
        x = torch.randn(2, 5, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        _add(pencil, basis, given(x), generator, exact=True)
    v = basis.vectors
    np.testing.assert_allclose(v @ pencil.mass_matmul(v).transpose(-1, -2), np.eye(16)[None].repeat(2, 0), atol=1e-11)
    np.testing.assert_allclose(basis.mass, pencil.mass_matmul(v), atol=1e-11)
    own = v[:, 1:]
    slow = own @ pencil.affinity_matmul(own).transpose(-1, -2)
    mu, rotation = basis.ritz()
    np.testing.assert_allclose(rotation @ slow @ rotation.transpose(-1, -2), torch.diag_embed(mu), atol=1e-11)


def test_well_conditioned_vectors_need_no_second_look(monkeypatch):
    pencil = JointPencil(st.affinity(make_tree([(8, 7)]), "vv", device="cpu"), slice(0, 1))
    monkeypatch.setattr(davidson, "_orthonormalise", None)
    x = torch.randn(1, 5, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _add(pencil, _Basis(pencil, 5), x, torch.Generator(), exact=True)
