"""Which line a warning names: the one that the user wrote, however many of our own functions lie in between."""

from __future__ import annotations

import sys
from pathlib import Path

_OURS = str(Path(__file__).parents[1])


def outside() -> int:
    """Return the ``stacklevel`` for a warning: the number of frames up to the first one outside the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
