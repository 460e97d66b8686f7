"""Which line a warning names: the one that the user wrote, however many of our own functions lie between."""

from __future__ import annotations

import sys
from pathlib import Path

_OURS = str(Path(__file__).parents[1])


def outside() -> int:
    """The ``stacklevel`` for a warning: how many frames up from here the first is that is not ours."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
