"""Kernels: how the vectors of one layer become affinities between its patches.

Each kernel is one object that carries all that anybody asks of it. ``st.affinity(..., kernel=)`` takes it by name or as
the object itself, with options: ``st.kernels.RBF(bandwidth=0.3)``. `register` adds one of your own.
"""

from __future__ import annotations

from ._affinity.features import LayerFeatures
from ._affinity.kernel import KERNELS, STEPS, Kernel, Option, register, unregister
from ._affinity.table import RBF, Cosine, NearestNeighbours, ShiftedCosine, Softmax

__all__ = [
    "KERNELS",
    "RBF",
    "STEPS",
    "Cosine",
    "Kernel",
    "LayerFeatures",
    "NearestNeighbours",
    "Option",
    "ShiftedCosine",
    "Softmax",
    "register",
    "unregister",
]
