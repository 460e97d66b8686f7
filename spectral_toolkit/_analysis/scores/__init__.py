"""How much 'where' and 'what' eigenvectors and segments hold, measured with labels, with intervals over images."""

from __future__ import annotations

from .labels import prepare_labels
from .paths import pathways
from .segments import evaluate

__all__ = ["evaluate", "pathways", "prepare_labels"]
