"""The affinities of a new image in one layer, in the form that its row of the joint problem needs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass
class Ties:
    """Affinities of the m patches of one new image in one layer, unscaled.

    ``known`` is W_new,fitted Y for columns Y over the fitted patches; ``own`` is W_new,new, symmetric.
    """

    known: Float[Tensor, "m k"]
    own: Float[Tensor, "m m"]
