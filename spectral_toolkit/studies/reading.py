"""From a YAML file to a `Study`: every key and value is checked, and every error is one sentence with a remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from .._compute.arguments import shown
from .._compute.settings import computing
from .._io.outputs import local_path
from ..errors import StudyError
from .config import Study
from .yaml_text import Places, read_yaml

_LAST_STEP = re.compile(r"(\[\d*\]|\.?[^.\[]*|.)\Z", re.DOTALL)


@computing
def read_study(source: str | os.PathLike[str] | Mapping[str, object], *, folder: str | os.PathLike[str] = ".") -> Study:
    """Read and check the description of a study.

    Parameters
    ----------
    source
        Path of a YAML file, or the content of such a file as a mapping.
    folder
        The folder from which relative paths in a mapping start; those in a file start from the file's folder.

    Raises
    ------
    StudyError
        If the file cannot be read, a key is unknown or missing, or a value is not what is expected.

    Examples
    --------
    >>> study = read_study({"models": "scenes", "pictures": {"made": {"scenes": {"n": 2}}}, "layers": ["all", "late"]})
    >>> [choice.label for choice in study.layers]
    ['all', 'late']
    """
    name, places = "the study", {}
    content = source
    if not isinstance(source, Mapping):
        path = local_path(source, "config", error=StudyError)
        content, places = read_yaml(path)
        name, folder = path.name, path.resolve().parent
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise _sentence(error, content, name, places) from None
    return study.model_copy(update={"folder": Path(folder)})


def _sentence(error: ValidationError, content: object, name: str, places: Places) -> StudyError:
    """What is wrong first, at the key and line where it stands."""
    first = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    steps = [*first["loc"], *([context["inside"]] if context.get("inside") else [])]
    if steps[:1] == ["pictures"] and isinstance(content, Mapping) and not isinstance(content["pictures"], dict):
        del steps[1:3]  # a list of paths is one set
    key, value = _found(content, steps)
    where = f"{name}{_place(key, places)}"
    if first["type"] in ("sentence", "quoted"):
        middle = shown(key) if first["type"] == "quoted" else key
        return StudyError(f"{where}: {context['before']}{middle}{context['after']}")
    said = "empty" if value is None else shown(value)
    return StudyError(f"{where}: {key or 'the whole'} is {said}: expected {context.get('expected', first['msg'])}.")


def _found(content: object, steps: Sequence[int | str]) -> tuple[str, object]:
    """The path and the value of what was written, which may be shorter than what it stands for.

    Examples
    --------
    >>> _found({"models": ["scenes"], "layers": {"late": [3, True]}}, ["models", 0, "source"])
    ('models[0]', 'scenes')
    >>> _found({"models": ["scenes"], "layers": {"late": [3, True]}}, ["layers", 0])
    ('layers.late', [3, True])
    """
    key = ""
    for step in steps:
        if isinstance(step, int) and key in ("pictures", "layers") and isinstance(content, dict):
            step = list(content)[step]
        if isinstance(step, int) and isinstance(content, list | tuple):
            key, content = f"{key}[{step}]", content[step]
        elif not isinstance(step, int) and isinstance(content, Mapping):
            key, content = f"{key}.{step}" if key else str(step), content.get(step)
    return key, content


def _place(key: str, places: Places) -> str:
    """Line and column of the value, or of the nearest value around it, where they are known."""
    while places and key not in places:
        key = _LAST_STEP.sub("", key)
    return f", line {places[key][0]}, column {places[key][1]}" if places else ""
