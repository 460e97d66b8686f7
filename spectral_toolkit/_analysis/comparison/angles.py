"""Principal angles between two subspaces, under any inner product.

    x . y = x' M y,   M symmetric and positive on both spans

Björck & Golub, 'Numerical methods for computing angles between linear subspaces', Mathematics of Computation 27, 1973:
large angles are computed from their cosines and small ones from their sines, as an arc cosine loses half of the digits
near 0. Knyazev & Argentati, 'Principal angles between subspaces in an A-based scalar product', SIAM Journal on
Scientific Computing 23(6), 2002: the same under M, which is only ever applied.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Product = Callable[[np.ndarray], np.ndarray]
"""M, applied to the columns of an array (nodes, k)."""

SMALLEST_INDEPENDENT = 1e-10
"""The smallest eigenvalue of the Gram matrix of unit vectors that is larger than rounding errors."""


def centred(x: Float[np.ndarray, "n k"], product: Product) -> Float[np.ndarray, "n k"]:
    """Remove from the columns their part along the constant.

    The constant is the trivial solution of every graph, so it belongs to both spans: removing it leaves all other
    angles as they are.
    """
    one = np.ones((len(x), 1))
    weighted = product(one)
    return x - one * (weighted.T @ x) / (weighted.T @ one)


def orthonormal(x: Float[np.ndarray, "n k"], product: Product) -> Float[np.ndarray, "n k"] | None:
    """Return a basis of the columns with x' M x = 1; None where they are not independent."""
    for _ in range(2):  # the second pass removes what rounding left
        length = np.sqrt(np.einsum("ij,ij->j", x, product(x)).clip(0))
        if not (length > 0).all():
            return None
        x = x / length
        values, vectors = np.linalg.eigh(x.T @ product(x))
        if values[0] < SMALLEST_INDEPENDENT:
            return None
        x = x @ (vectors / np.sqrt(values))
    return x


def principal_angles(
    p: Float[np.ndarray, "n k"], q: Float[np.ndarray, "n k"], product: Product
) -> Float[np.ndarray, " k"]:
    """Return the angles between the spans of two orthonormal bases, ascending, in [0, pi/2].

    Examples
    --------
    >>> p = np.eye(3)[:, :1]
    >>> q = np.array([[1.0], [1.0], [0.0]]) / np.sqrt(2)
    >>> float(np.degrees(principal_angles(p, q, lambda x: x)[0]).round(9))
    45.0
    """
    across = p.T @ product(q)
    _, cosines, turned = np.linalg.svd(across)
    # From each principal vector of q, its projection on p is subtracted: what is left is as long as the sine.
    vectors = q @ turned.T
    left = vectors - p @ (p.T @ product(vectors))
    sines = np.sqrt(np.einsum("ij,ij->j", left, product(left)).clip(0))
    from_sines, from_cosines = np.arcsin(sines.clip(0, 1)), np.arccos(cosines.clip(0, 1))
    return np.sort(np.where(cosines**2 > 0.5, from_sines, from_cosines))
