"""Answers over a whole dataset: large enough for the iteration, falling apart, judged and shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from reference import pencil_of_everything
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._affinity.dataset_pencil import make_pencil
from spectral_toolkit._affinity.isolated import Interpolation
from spectral_toolkit._analysis.trust import trust_statements


@settings(max_examples=10)
@given(
    grids=some.lists(some.tuples(some.integers(1, 6), some.integers(1, 6)), min_size=1, max_size=3),
    images=some.integers(2, 5),
    kernel=some.sampled_from(["knn", "shifted_cosine"]),
    isolated=some.booleans(),
    seed=some.integers(0, 99),
)
def test_pencil_is_the_whole_matrix_between_interpolations(grids, images, kernel, isolated, seed) -> None:
    acts = make_tree(grids, images=images, seed=seed)
    finest = max(range(len(grids)), key=lambda i: grids[i][0] * grids[i][1])
    cells = grids[finest][0] * grids[finest][1]
    isolated = isolated and kernel == "knn" and cells > 1
    if isolated:
        values_of(acts, f"block.{finest}", "value")[1, :, 0, 0] = 0.0
    options: dict[str, Any] = {"within": 9, "across": 9} if kernel == "knn" else {}
    graph = st.affinity(acts, "vv", kernel=kernel, scope="dataset", device="cpu", **options)
    pencil = make_pencil(graph, slice(0, images))
    n = images * cells
    assert pencil.grid == grids[finest]
    assert (pencil.n_images, pencil.n) == (1, n)
    laplacian, mass = pencil_of_everything(graph, graph.to_dense())
    # Image by image, as the interpolation of a single image would have it.
    free = pencil.free.view(images, cells)
    eye = torch.eye(cells, dtype=torch.float64)
    blocks = [Interpolation(own[None], pencil.grid)(eye[None])[0].numpy().T for own in free]
    lift = scipy.linalg.block_diag(*blocks)
    affinity, own_mass = (x[0].numpy() for x in pencil.dense())
    np.testing.assert_allclose(own_mass, lift.T @ mass @ lift, atol=1e-6 * n)
    np.testing.assert_allclose(affinity, lift.T @ (mass - laplacian) @ lift, atol=1e-6 * n)


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_the_iteration_finds_what_the_whole_matrix_has(kernel: str) -> None:
    acts = make_tree([(8, 8), (4, 4), (8, 8)], images=14, smooth=2.0)
    options: dict[str, Any] = {"within": 12, "across": 12} if kernel == "knn" else {}
    graph = st.affinity(acts, "vv", kernel=kernel, scope="dataset", weights=[1, 0.4, 0.2], device="cpu", **options)
    eig = st.solve(graph, 5, tolerance=1e-10)
    assert eig.attrs["solver"] == "davidson"
    laplacian, mass = pencil_of_everything(graph, graph.to_dense())
    values, vectors = scipy.linalg.eigh(laplacian, mass)
    np.testing.assert_allclose(eig.eigenvalue, values[1:6], atol=1e-8)
    found = eig.eigenvector.values.reshape(-1, 5)
    assert np.linalg.svd(found.T @ mass @ vectors[:, 1:6], compute_uv=False).min() > 1 - 1e-7
    assert bool(eig.converged.all())


def test_more_pieces_than_vectors_are_counted_and_reported() -> None:
    """Seven images without edges between them, through the iteration: eigenvalue 0 seven times, one of them trivial."""
    acts = make_tree([(9, 9)], images=7)
    graph = st.affinity(acts, "vv", scope="dataset", across=0, device="cpu")
    eig = st.solve(graph, 8)
    assert eig.attrs["solver"] == "davidson"
    np.testing.assert_allclose(eig.eigenvalue[:6], 0, atol=1e-9)
    assert float(eig.eigenvalue[6]) > 1e-4
    assert eig.degenerate_group.values[:7].tolist() == [0] * 6 + [1]
    within = eig.eigenvector.isel(component=slice(6)).std(["y", "x"])
    assert float(within.max()) < 1e-4 * float(abs(eig.eigenvector).max())
    assert any("falls apart into 7 pieces" in statement.text for statement in trust_statements(eig))
    few = trust_statements(st.solve(graph, 3))
    assert any("into 4 or more pieces" in statement.text for statement in few)


def test_judged_and_shown_as_one() -> None:
    acts = make_tree([(6, 6)], images=3)
    names = ["a", "b", "c"]
    pixels = np.random.default_rng(0).integers(0, 255, (3, 24, 24, 3), dtype=np.uint8)
    acts.dataset = xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), pixels)}, {"image": names})
    values_of(acts, "block.0", "value")[2, :, 0, 0] = 0.0
    eig = st.solve(st.affinity(acts, "vv", scope="dataset", device="cpu"), 3)
    assert eig.eigenvalue.dims == ("component",)
    assert eig.eigenvector.image.values.tolist() == names
    text = " ".join(statement.text for statement in trust_statements(eig, acts))
    assert "All 3 eigenvectors converged" in text
    assert "1 of 108 patches" in text
    one = trust_statements(eig.isel(image=0), acts)
    assert all("patches have hardly any affinity" not in statement.text for statement in one)
    assert st.overlay(acts, eig, image=1) is not None


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_an_image_without_ties_in_the_finest_layer_is_left_out_of_all(kernel: str) -> None:
    acts = make_tree([(4, 6), (2, 3)], images=4)
    values_of(acts, "block.0", "value")[1] = 0
    graph = st.affinity(acts, "vv", kernel=kernel, scope="dataset", device="cpu")
    pencil = make_pencil(graph, slice(0, 4))
    constant = pencil.constant()
    cut = pencil.mass_matmul(constant) - pencil.affinity_matmul(constant)
    assert float(cut.abs().max()) < 1e-12
    eig = st.solve(graph, 3)
    assert eig.converged.all()
    assert float(eig.layer_share.sum("layer").sel(component=1)) == pytest.approx(float(eig.eigenvalue[0]))
    if kernel == "knn":
        assert not eig.eigenvector[1].any()
