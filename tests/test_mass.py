"""The joint degree matrix and its inverse against their slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spectral_toolkit._affinity.mass import Mass
from spectral_toolkit._affinity.resampling import Resampling


def problem(grids, base=(6, 5), images=2, spread=1.0, seed=0):
    """Degrees of two images on some grids, spread over powers of ten, and B as a matrix, summed layer by layer."""
    rng = np.random.default_rng(seed)
    degrees = [torch.as_tensor(10 ** (-spread * rng.random((images, a * b)))) for a, b in grids]
    dense = torch.zeros(images, 30, 30, dtype=torch.float64)
    for grid, degree in zip(grids, degrees, strict=True):
        resampling = Resampling(base, grid).dense()
        for image in range(images):
            dense[image] += resampling.T @ torch.diag(degree[image]) @ resampling
    return Mass(base, grids, degrees), dense


@pytest.mark.parametrize(
    "grids", [[(6, 5)], [(6, 5), (3, 2)], [(3, 5), (6, 5), (2, 2)], [(3, 4), (7, 2)], [(6, 5), (9, 11)]]
)
def test_products_equal_those_of_the_matrix(grids):
    mass, dense = problem(grids)
    x = torch.randn(2, 4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(mass @ x, x @ dense, atol=1e-13)


@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("grids", [[(6, 5)], [(6, 5), (3, 2)], [(3, 5), (6, 5), (2, 2)]])
def test_the_inverse_is_that_of_the_matrix_in_single_precision(grids, spread):
    mass, dense = problem(grids, spread=spread)
    inverse = mass.inverse(dense.diagonal(dim1=1, dim2=2))
    assert inverse is not None
    found = inverse @ torch.eye(30, dtype=torch.float64).expand(2, -1, -1)
    np.testing.assert_allclose(found @ dense, torch.eye(30).expand(2, -1, -1), atol=1e-3)


def test_the_inverse_stays_positive_where_degrees_vary_by_twelve_powers_of_ten():
    """What it cannot resolve it smooths: as a direction to search along it must be positive and no larger than B^-1."""
    mass, dense = problem([(6, 5), (3, 2)], spread=12.0)
    inverse = mass.inverse(dense.diagonal(dim1=1, dim2=2))
    assert inverse is not None
    found = inverse @ torch.eye(30, dtype=torch.float64).expand(2, -1, -1)
    values = torch.linalg.eigvals(found @ dense).real
    assert float(values.min()) > 0
    assert float(values.max()) < 1.01


def test_nothing_is_inverted_without_a_layer_on_the_grid_itself():
    mass, dense = problem([(3, 4), (7, 2)])
    assert mass.inverse(dense.diagonal(dim1=1, dim2=2)) is None
