"""Scores: what eigenvectors and segments hold, each in one object that carries all that anybody asks of it.

`register` adds one of your own. It is then computed by ``st.pathways``, ``st.eigenvector_scores`` and ``st.evaluate``,
and in studies.
"""

from __future__ import annotations

from ._analysis.scores.score import Score, Scored, register, unregister
from ._analysis.scores.table import SCORES

__all__ = ["SCORES", "Score", "Scored", "register", "unregister"]
