"""Studies: models x pictures x affinities x layers, from one file to a page, its numbers and its eigenvectors.

``config.py`` says what a study is, ``yaml_text.py`` reads its file within bounds and ``reading.py`` makes one of it;
``claim.py`` sees that what is written over is its own, ``plan.py`` settles its cells, ``computing.py`` makes the
numbers of one, ``cache.py`` keeps it, ``running.py`` does all of that, ``numbers.py`` and ``showing.py`` write them
down, and ``check.py`` says which have moved since.
"""

from __future__ import annotations

from .check import Check, check_study
from .config import Study
from .reading import read_study
from .running import StudyResult, run_study

__all__ = ["Check", "Study", "StudyResult", "check_study", "read_study", "run_study"]
