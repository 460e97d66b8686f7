"""Writes down which messages tests raise, for the table of docs/errors.md; see docs/make_errors.py."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from spectral_toolkit.errors import SpectralToolkitError

ROOT = Path(__file__).resolve().parents[1]


def record_errors(folder: Path) -> None:
    """From now on every error of ours is noted by the line that made it; at the end they go to a file in ``folder``."""
    places: set[tuple[str, int]] = set()

    def noted(self: SpectralToolkitError, *arguments: Any) -> None:
        frame: FrameType = sys._getframe(1)
        places.add((frame.f_code.co_filename, frame.f_lineno))
        ValueError.__init__(self, *arguments)

    SpectralToolkitError.__init__ = noted  # type: ignore[method-assign]
    # Workers of xdist are processes of their own, and write files of their own.
    atexit.register(write, places, folder / f"{os.getpid()}.json")


def write(places: set[tuple[str, int]], path: Path) -> None:
    """The keys of the messages that were made at these files and lines."""
    sys.path.insert(0, str(ROOT / "docs"))
    from make_errors import PACKAGE, messages

    found = sorted(
        {
            one.key
            for one in messages()
            for file, line in places
            if file == str(PACKAGE / one.file) and one.lines[0] <= line <= one.lines[1]
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
