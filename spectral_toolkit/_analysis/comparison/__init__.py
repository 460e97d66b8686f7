"""Comparing answers: two models, two checkpoints of one training, the same model without one of its layers.

Single eigenvectors rarely compare: signs are a convention, equal eigenvalues leave their vectors free, and two cuts of
nearly one cost may change places. Align them to look at them side by side; measure on the spaces they span.
"""

from __future__ import annotations

from .alignment import align
from .distances import layer_distances, subspace_distance

__all__ = ["align", "layer_distances", "subspace_distance"]
