"""How much 'where' and 'what' eigenvectors and segments hold, measured with labels, with intervals over images."""

from __future__ import annotations

from .evaluating import evaluate
from .labels import prepare_labels
from .paths import pathways

__all__ = ["evaluate", "pathways", "prepare_labels"]
