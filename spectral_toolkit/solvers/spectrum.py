"""What every solver returns for a few images, before it becomes a labelled Dataset."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass
class Spectrum:
    """Eigenpairs of several images on the base grid, B-orthonormal, by ascending eigenvalue.

    ``following`` is the eigenvalue after the last one returned, NaN where there is none; it closes the last eigengap.
    """

    vectors: Float[Tensor, "images k n"]
    eigenvalue: Float[Tensor, "images k"]
    following: Float[Tensor, " images"]
    residual: Float[Tensor, "images k"]
    layer_share: Float[Tensor, "images k layers"]
    layer_mass: Float[Tensor, "images k layers"]
    isolated: Bool[Tensor, "images n"]
    iterations: int
    solver: str
    notes: tuple[str, ...] = ()
    began_from: str = "nothing"
    details: dict[str, object] = field(default_factory=dict[str, object])
    """What only this method reports: a list with one entry per image, or one value for all."""


@dataclass
class WarmStart:
    """An earlier result for the same images: its eigenvectors on the base grid."""

    columns: Float[Tensor, "images k n"]
