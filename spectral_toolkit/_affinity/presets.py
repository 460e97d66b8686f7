"""Named choices of layers: all of them, or the early, middle or late third."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._compute.arguments import choice
from .._compute.settings import computing
from ..errors import AffinityError

PRESETS = ("all", "early", "middle", "late")
"""Names that `preset_weights` knows."""


@computing
def preset_weights(layers: Sequence[str], preset: str) -> dict[str, float]:
    """Return weight 1 for the layers of a preset, and 0 for the others.

    Parameters
    ----------
    layers
        Names in depth order.
    preset
        ``"all"``, or ``"early"``, ``"middle"`` or ``"late"``: one third of the layers, rounded up.

    Raises
    ------
    AffinityError
        If there is no such preset.

    Examples
    --------
    >>> preset_weights(["a", "b", "c", "d"], "late")
    {'a': 0.0, 'b': 0.0, 'c': 1.0, 'd': 1.0}
    """
    third = math.ceil(len(layers) / 3)
    first = {"all": 0, "early": 0, "middle": (len(layers) - third) // 2, "late": len(layers) - third}
    choice("preset", preset, PRESETS, error=AffinityError)
    chosen = layers if preset == "all" else layers[first[preset] :][:third]
    return {layer: float(layer in chosen) for layer in layers}
