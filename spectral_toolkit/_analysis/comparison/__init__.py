"""Comparing results: two models, two checkpoints of one training, the same model without one of its layers.

Single eigenvectors can seldom be compared: signs are a convention, equal eigenvalues leave their vectors free, and two
cuts of nearly equal value may change places. Align them to look at them side by side; measure distances between the
spaces that they span.
"""

from __future__ import annotations

from .alignment import align
from .distances import layer_distances, subspace_distance

__all__ = ["align", "layer_distances", "subspace_distance"]
