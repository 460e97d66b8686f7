"""Interventions: removing what eigenvectors span, and what an edit does to the tokens that a model gives out."""

from __future__ import annotations

from .effects import effects
from .removing import remove
from .resemblance import resemblance

__all__ = ["effects", "remove", "resemblance"]
