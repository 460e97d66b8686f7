"""Sees attention where it is computed, in any torch module, and says which module computed it.

``calls.py`` is the recorder; ``products.py`` recognises attention that is written out by hand.
"""

from __future__ import annotations

from .calls import Call, Watch, unwatched, watching

__all__ = ["Call", "Watch", "unwatched", "watching"]
