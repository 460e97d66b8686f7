"""Studies: models x images x affinities x layers, from one file to a page, its numbers and its eigenvectors.

``config.py`` defines a study, ``yaml_text.py`` reads its file within bounds, and ``reading.py`` turns the file into a
study; ``claim.py`` makes sure that a study only overwrites its own results, ``plan.py`` lists its cells,
``computing.py`` computes the numbers of one cell, ``cache.py`` keeps them, ``running.py`` runs the whole study,
``numbers.py`` and ``showing.py`` write the results, and ``check.py`` reports which numbers have moved since.
"""

from __future__ import annotations

from .check import Check, check_study
from .config import Study
from .reading import read_study
from .running import StudyResult, run_study
from .sources import label_maps

__all__ = ["Check", "Study", "StudyResult", "check_study", "label_maps", "read_study", "run_study"]
