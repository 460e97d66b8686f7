"""From a YAML file to a `Study`: every key and value is checked, and every error is one sentence with a remedy."""

from __future__ import annotations

import difflib
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .._affinity.features import KINDS
from .._affinity.presets import PRESETS
from .._affinity.table import HEADS, KERNELS, SCOPES, check_combination
from .._compute.settings import computing
from .._io.outputs import local_path
from ..errors import AffinityError, StudyError
from .config import AffinityChoice, LayerChoice, ModelChoice, PictureChoice, ScenesChoice, Study, Tolerances, portable
from .yaml_text import Places, read_yaml

EACH = "each"
"""The choice of layers that means every layer alone."""
MAX_SCENES = 100_000
MAX_LAYERS = 10_000
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_LONGEST_TEXT = 4096
_LAST_STEP = re.compile(r"(\[\d*\]|\.?[^.\[]*|.)\Z", re.DOTALL)
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except line breaks and tabs, and surrogates, which no file can hold."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 4, 10, 10, 10, 78, 78
_STUDY_KEYS = (*(one.name for one in fields(Study) if one.name != "folder"), "kernel")


@computing
def read_study(source: str | os.PathLike[str] | Mapping[str, Any], *, folder: str | os.PathLike[str] = ".") -> Study:
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
    if isinstance(source, Mapping):
        return _study(_Reader("the study"), dict(source), Path(folder))
    path = local_path(source, "config", error=StudyError)
    content, places = read_yaml(path)
    return _study(_Reader(path.name, places), content, path.resolve().parent)


class _Reader:
    """Checks values of a mapping; ``name`` tells every message where they come from."""

    def __init__(self, name: str, places: Places | None = None):
        self.name, self._places = name, places or {}

    def at(self, key: str) -> str:
        """The name, with line and column of the value or of the nearest value around it, where they are known."""
        while self._places and key not in self._places:
            key = _LAST_STEP.sub("", key)
        return f"{self.name}, line {self._places[key][0]}, column {self._places[key][1]}" if self._places else self.name

    def fail(self, key: str, value: Any, expected: str) -> StudyError:
        return StudyError(f"{self.at(key)}: {key or 'the whole'} is {_shown(value)}: expected {expected}.")

    def mapping(self, key: str, value: Any, known: tuple[str, ...], what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(key, value, f"{what} with any of the keys {', '.join(known)}")
        for name in value:
            if name not in known:
                hint = f"did you mean {close!r}? " if (close := _closest(name, known, cutoff=0.5)) else ""
                inside = f"{key}.{name}" if key else str(name)
                raise StudyError(
                    f"{self.at(inside)}: {_shown(inside)} is not a key of {what}: {hint}The keys are "
                    f"{', '.join(sorted(known))}."
                )
        return value

    def text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.fail(key, value, "a text" + (", in quotes" if isinstance(value, bool | int | float) else ""))
        if len(value) > _LONGEST_TEXT or _NO_TEXT.search(value):
            raise self.fail(
                key, value, f"a text of at most {_LONGEST_TEXT} characters, none of them a control character"
            )
        return value

    def one_of(self, key: str, value: Any, known: tuple[str, ...]) -> str:
        if not isinstance(value, str) or value not in known:
            hint = f" (did you mean {close!r}?)" if (close := _closest(value, known)) else ""
            raise self.fail(key, value, f"one of {', '.join(known)}{hint}")
        return value

    def whole(self, key: str, value: Any, least: int, most: int = 2**32 - 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.fail(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, value: Any, fits: Callable[[float], bool], expected: str) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found) or not fits(found):
            raise self.fail(key, value, expected)
        return found

    def yes(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self.fail(key, value, "true or false")
        return value

    def listed(self, key: str, value: Any) -> list[Any]:
        items = value if isinstance(value, list | tuple) else [value]
        if not items or value is None:
            raise self.fail(key, value, "at least one item")
        return list(items)

    def distinct(self, key: str, labels: list[str]) -> None:
        for label, n_items in Counter(labels).items():
            if n_items > 1:
                raise StudyError(
                    f"{self.at(key)}: two items of {key} have the label {_shown(label)}: give one of them another "
                    "label."
                )


def _shown(value: Any) -> str:
    """A value in a sentence: on one line, and short, however large it is."""
    if value is None:
        return "empty"
    try:
        text = " ".join(_REPR.repr(value).splitlines())
    except ValueError:  # Python does not write numbers of more than 4300 digits
        text = f"a {type(value).__name__} too long to write"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _closest(name: Any, known: tuple[str, ...], cutoff: float = 0.6) -> str | None:
    close = (
        difflib.get_close_matches(name, known, n=1, cutoff=cutoff) if isinstance(name, str) and len(name) < 80 else []
    )
    return close[0] if close else None


def _study(reader: _Reader, content: Any, folder: Path) -> Study:
    given = reader.mapping("", content, _STUDY_KEYS, "a study")
    for needed in ("models", "pictures"):
        if needed not in given:
            raise StudyError(f"{reader.name}: {needed!r} is missing: a study needs `models` and `pictures`.")
    scope = reader.one_of("scope", given.get("scope", "image"), SCOPES)
    readers: dict[str, Callable[[Any], Any]] = {
        "models": lambda value: _models(reader, value),
        "pictures": lambda value: _pictures(reader, value),
        "layers": lambda value: _layers(reader, value),
        "title": lambda value: reader.text("title", value),
        "n_eigenvectors": lambda value: reader.whole("n_eigenvectors", value, 1, 10_000),
        "tolerance": lambda value: reader.number("tolerance", value, lambda x: 0 < x < 1, "a number between 0 and 1"),
        "seed": lambda value: reader.whole("seed", value, 0),
        "device": lambda value: reader.text("device", value),
        "size": lambda value: None if value is None else reader.whole("size", value, 1, 100_000),
        "batch_size": lambda value: reader.whole("batch_size", value, 1),
        "threads": lambda value: None if value is None else reader.whole("threads", value, 1, 1024),
        "scores": lambda value: reader.yes("scores", value),
        "show": lambda value: reader.whole("show", value, 1, 1000),
        "keep_activations": lambda value: reader.yes("keep_activations", value),
        "check": lambda value: _tolerances(reader, value),
    }
    values = {name: read(given[name]) for name, read in readers.items() if name in given}
    values["affinities"] = _affinities(reader, given.get("affinities", ["qk", "vv"]), given.get("kernel"), scope)
    return Study(folder=folder, scope=scope, **values)


def _models(reader: _Reader, value: Any) -> tuple[ModelChoice, ...]:
    choices = []
    for place, item in enumerate(reader.listed("models", value)):
        key = f"models[{place}]"
        if isinstance(item, str):
            choices.append(ModelChoice(portable(reader.text(key, item)), item))
            continue
        given = reader.mapping(key, item, ("source", "label", "dtype", "revision"), "a model")
        source = reader.text(f"{key}.source", given.get("source"))
        dtype, revision = given.get("dtype"), given.get("revision")
        choices.append(
            ModelChoice(
                reader.text(f"{key}.label", given.get("label", portable(source))),
                source,
                None if dtype is None else reader.one_of(f"{key}.dtype", dtype, _DTYPES),
                None if revision is None else reader.text(f"{key}.revision", revision),
            )
        )
    reader.distinct("models", [choice.label for choice in choices])
    return tuple(choices)


def _pictures(reader: _Reader, value: Any) -> tuple[PictureChoice, ...]:
    if isinstance(value, dict):
        named = {reader.text("pictures", name): item for name, item in value.items()}
        if not named:
            raise reader.fail("pictures", value, "at least one set")
    else:
        items = reader.listed("pictures", value)
        if not all(isinstance(item, str) for item in items):
            raise reader.fail("pictures", value, "sets by name, such as {cats: 'cats/*.jpg'}, or paths")
        named = {portable(items[0]) if len(items) == 1 else "pictures": items}
    return tuple(_picture_set(reader, f"pictures.{name}", name, item) for name, item in named.items())


def _picture_set(reader: _Reader, key: str, name: str, item: Any) -> PictureChoice:
    if not isinstance(item, dict):
        return PictureChoice(name, files=_texts(reader, key, item))
    given = reader.mapping(key, item, ("files", "labels", "scenes", "ignore"), "a set of images")
    if ("files" in given) == ("scenes" in given):
        raise reader.fail(key, item, "either files or scenes")
    ignore = _ignored(reader, f"{key}.ignore", given) if "ignore" in given else ()
    if "files" in given:
        labels = _texts(reader, f"{key}.labels", given["labels"]) if "labels" in given else ()
        return PictureChoice(name, files=_texts(reader, f"{key}.files", given["files"]), labels=labels, ignore=ignore)
    if "labels" in given:
        raise reader.fail(f"{key}.labels", given["labels"], "no labels for scenes, which come with their own")
    scenes = given["scenes"] if not isinstance(given["scenes"], int) else {"n": given["scenes"]}
    asked = reader.mapping(f"{key}.scenes", scenes, ("n", "seed", "size"), "a series of scenes")
    size = reader.whole(f"{key}.scenes.size", asked.get("size", 96), 8, 8192)
    if size % 8:
        raise reader.fail(f"{key}.scenes.size", size, "a multiple of 8")
    return PictureChoice(
        name,
        scenes=ScenesChoice(
            reader.whole(f"{key}.scenes.n", asked.get("n"), 1, MAX_SCENES),
            reader.whole(f"{key}.scenes.seed", asked.get("seed", 0), 0),
            size,
        ),
        ignore=ignore,
    )


def _ignored(reader: _Reader, key: str, given: dict[str, Any]) -> tuple[int, ...]:
    if "labels" not in given and "scenes" not in given:
        raise reader.fail(key, given["ignore"], "labels beside it, some of which are ignored")
    return tuple(reader.whole(key, value, -(2**31), 2**31 - 1) for value in reader.listed(key, given["ignore"]))


def _texts(reader: _Reader, key: str, value: Any) -> tuple[str, ...]:
    return tuple(reader.text(key, item) for item in reader.listed(key, value))


def _affinities(reader: _Reader, value: Any, kernels: Any, scope: str) -> tuple[AffinityChoice, ...]:
    kinds, known = tuple(KINDS), tuple(KERNELS)
    if kernels is not None and not isinstance(kernels, dict):
        reader.one_of("kernel", kernels, known)
    by_kind = reader.mapping("kernel", kernels, kinds, "kernels by affinity") if isinstance(kernels, dict) else {}
    options = tuple(
        dict.fromkeys(name for kernel in KERNELS.values() for name in kernel.option_names if name != "search")
    )
    choices = []
    for place, item in enumerate(reader.listed("affinities", value)):
        key = f"affinities[{place}]"
        given = {"kind": item} if isinstance(item, str) else item
        given = reader.mapping(key, given, ("kind", "label", "kernel", "heads", *options), "an affinity")
        kind = reader.one_of(key if given is not item else f"{key}.kind", given.get("kind"), kinds)
        kernel = given.get("kernel", by_kind.get(kind) if isinstance(kernels, dict) else kernels)
        if kernel is not None:
            reader.one_of(f"{key}.kernel", kernel, known)
        heads = reader.one_of(f"{key}.heads", given.get("heads", "mean"), HEADS)
        numbers = {
            name: reader.number(f"{key}.{name}", given[name], lambda x: x >= 0, "a number of at least 0")
            for name in options
            if name in given
        }
        try:
            check_combination(kind, kernel, heads, scope, numbers)
        except AffinityError as error:
            raise StudyError(f"{reader.at(key)}: {key}: {error}") from error
        parts = [kind, *([given["kernel"]] if "kernel" in given else []), *(["each head"] if heads == "each" else [])]
        parts += [f"{name} {number:g}" for name, number in numbers.items()]
        label = reader.text(f"{key}.label", given.get("label", " ".join(parts)))
        choices.append(AffinityChoice(label, kind, kernel, heads, tuple(sorted(numbers.items()))))
    reader.distinct("affinities", [choice.label for choice in choices])
    return tuple(choices)


def _layers(reader: _Reader, value: Any) -> tuple[LayerChoice, ...]:
    """Read choices of layers: each item of a list is one choice, and a mapping gives names to the choices."""
    if isinstance(value, dict):
        items = [(reader.text("layers", name), item) for name, item in value.items()]
        if not items:
            raise reader.fail("layers", value, "at least one choice")
    else:
        items = [(None, item) for item in reader.listed("layers", value)]
    choices = []
    for place, (name, item) in enumerate(items):
        key = f"layers[{place}]" if name is None else f"layers.{name}"
        if isinstance(item, str) and item in (*PRESETS, EACH):
            if name is not None and item == EACH:
                raise reader.fail(key, item, f"one choice; {EACH!r} means many, so write it in a list without a name")
            choices.append(LayerChoice(name or item, item))
            continue
        numbers = item if isinstance(item, list) else [item]
        if not numbers or not all(isinstance(one, int | str) and not isinstance(one, bool) for one in numbers):
            expected = f"{', '.join((*PRESETS, EACH))}, the name or number of a layer, or a list of these"
            raise reader.fail(key, item, expected)
        expanded: list[int | str] = []
        for one in numbers:
            expanded += _expanded(reader, key, one)
            if len(expanded) > MAX_LAYERS:
                raise reader.fail(key, item, f"at most {MAX_LAYERS} layers")
        choices.append(LayerChoice(name or ", ".join(map(str, numbers)), tuple(expanded)))
    reader.distinct("layers", [choice.label for choice in choices])
    return tuple(choices)


def _expanded(reader: _Reader, key: str, item: int | str) -> list[int | str]:
    """Replace ranges such as 2-5 by numbers, both ends included."""
    if isinstance(item, int):
        return [reader.whole(key, item, -MAX_LAYERS, MAX_LAYERS)]
    match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", reader.text(key, item))
    if match is None:
        return [item]
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise reader.fail(key, item, "a range whose smaller number comes first")
    return list(range(first, last + 1))


def _tolerances(reader: _Reader, value: Any) -> Tolerances:
    known = tuple(one.name for one in fields(Tolerances))
    given = reader.mapping("check", value, known, "the tolerances")
    return Tolerances(
        **{
            name: reader.number(f"check.{name}", number, lambda x: x >= 0, "a number of at least 0")
            for name, number in given.items()
        }
    )
