"""Runs a study again, and reports which numbers have moved since an earlier JSON, with likely causes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import numpy as np
import xarray as xr

from .._analysis.comparison.angles import principal_angles
from .._compute.settings import computing
from .._io.outputs import local_path
from .._views.study_record import (
    CELL_NAMES,
    AnswerRecord,
    CellRecord,
    EvaluationRecord,
    ScoresRecord,
    StudyRecord,
)
from ..errors import StudyError, first_line
from ..solvers.result import DEGENERATE_GAP
from .cache import Cache, open_answer
from .claim import locked
from .config import Study, Tolerances
from .numbers import read_record, study_record
from .plan import plan_study
from .reading import read_study
from .running import compute

_PROVENANCE: tuple[Literal["versions", "arithmetic"], ...] = ("versions", "arithmetic")
_NUMBERS: tuple[Literal["eigenvalue", "eigengap"], ...] = ("eigenvalue", "eigengap")
_BY_COMPONENT: tuple[Literal["eigenvalue", "eigengap", "converged", "degenerate_group"], ...] = (
    *_NUMBERS,
    "converged",
    "degenerate_group",
)
_SUBJECTS: dict[Literal["models", "pictures"], tuple[str, ...]] = {
    "models": ("label",),
    "pictures": ("label", "names", "sizes"),
}
"""What is compared of models and images, without what may differ."""
_BY_LAYER: dict[Literal["layer_share", "layer_mass"], str] = {
    "layer_share": "share of the eigenvalue",
    "layer_mass": "mass",
}


@dataclass(frozen=True)
class Moved:
    """One number that has moved.

    Attributes
    ----------
    where
        Cell and image in words.
    what
        The name of the number.
    difference, tolerance
        How far it moved, and how far it is allowed to move.
    """

    where: str
    what: str
    old: object
    new: object
    difference: float | None
    tolerance: float | None

    def __str__(self) -> str:
        line = f"{self.where}: {self.what} was {_shown(self.old)}, is {_shown(self.new)}"
        if self.difference is None:
            return line
        return f"{line} (moved {self.difference:.3g}, tolerance {self.tolerance:.3g})"


@dataclass(frozen=True)
class Check:
    """The result of a comparison.

    Attributes
    ----------
    moved
        One entry for every number beyond its tolerance, in the order of the old file.
    missing, added
        Cells that only the old study has, or only the new one.
    changed
        Differences in versions, code, weights, images and settings, which are the likely causes.
    n_compared
        How many numbers and subspaces were compared, including those that moved.
    n_unsettled
        How many groups of components were left out, because the next eigenvalue is nearly equal and was not computed:
        which vectors of that space a result holds is a matter of chance.
    subspaces
        Whether eigenvectors were compared, for which the old zarr store must exist.
    """

    moved: list[Moved]
    missing: list[str]
    added: list[str]
    changed: list[str]
    n_compared: int
    n_unsettled: int
    subspaces: bool

    @property
    def passed(self) -> bool:
        """Whether every old cell exists and none of its numbers moved."""
        return not self.moved and not self.missing

    def lines(self) -> list[str]:
        """The findings, one per line."""
        lines = [str(one) for one in self.moved]
        lines += [f"{label}: no longer part of the study" for label in self.missing]
        lines += [f"{label}: new, so it was not compared" for label in self.added]
        if self.changed:
            lines += [f"{'changed since' if self.passed else 'likely cause'}: {text}" for text in self.changed]
        elif not self.passed:
            lines.append(
                "likely cause: none recorded; versions, code, weights, images and settings are the same, so the "
                "old numbers may have been changed by hand"
            )
        if not self.subspaces:
            lines.append("eigenvectors were not compared: there is no zarr store beside the old numbers")
        if self.n_unsettled:
            lines.append(
                f"{self.n_unsettled} groups of components were left out: the eigenvalue after them is nearly equal"
            )
        found = f"{len(self.moved)} of them moved" if self.moved else "none moved"
        if self.missing:
            found += f"; {len(self.missing)} cells are missing"
        return [*lines, f"{self.n_compared} numbers compared with tolerances: {found}"]


@computing
def check_study(
    config: str | os.PathLike[str] | Mapping[str, object] | Study,
    old: str | os.PathLike[str],
    *,
    progress: bool = True,
    tell: Callable[[str], object] | None = None,
) -> Check:
    """Run a study again and compare it with the numbers of an earlier run.

    Nothing is taken from the cache of that run, and nothing in it is changed. Finished cells are kept in
    ``<old name>.check`` beside the old file until the comparison, so that an interrupted check can be resumed.

    Parameters
    ----------
    config
        As in `run_study`; ``check`` in it holds the tolerances.
    old
        The JSON of the earlier run. Eigenvectors are compared if its zarr store is beside it.
    progress, tell
        As in `run_study`.

    Raises
    ------
    StudyError
        If ``old`` holds no numbers of a study.
    """
    study = config if isinstance(config, Study) else read_study(config)
    path = local_path(old, "--check", error=StudyError)
    before = _comparable(path)
    plan = plan_study(study)
    cache = Cache(_working_folder(path))
    with locked(cache):
        numbers, _ = compute(plan, cache, progress=progress, tell=tell or (lambda line: None))
        after = study_record(plan, numbers)
        contents = {row["group"]: row["content_sha256"] for row in after["cells"]}
        store = path.with_suffix(".zarr")
        check = compare(
            before,
            after,
            study.check,
            eigenvectors=(
                (lambda group: open_answer(store / group), lambda group: cache.eigenvectors(contents[group]))
                if store.is_dir()
                else None
            ),
        )
        shutil.rmtree(cache.folder, ignore_errors=True)
    return check


def _comparable(path: Path) -> StudyRecord:
    """Read the old numbers, and check before anything is computed that nothing is missing for the comparison."""
    before = read_record(path)
    try:
        compare(before, before, Tolerances())
        for cell in before["cells"]:
            if not re.fullmatch(r"[\w-]+", cell["group"]):
                raise ValueError("the name of a group")
            for answer in cell["answers"]:
                if len({len(answer[name]) for name in _BY_COMPONENT}) > 1:
                    raise ValueError("lists of several lengths")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StudyError(
            f"{str(path)!r} lacks numbers of a study, or holds different ones ({type(error).__name__}: "
            f"{first_line(error)}): give the JSON that an earlier study wrote, unchanged."
        ) from error
    return before


def _working_folder(old: Path) -> Path:
    """A folder beside the old file, or among temporary files if nothing can be written there."""
    if os.access(old.parent, os.W_OK):
        return old.with_suffix(".check")
    return Path(tempfile.mkdtemp(prefix="spectral-toolkit-check-"))


def compare(
    before: StudyRecord,
    after: StudyRecord,
    tolerances: Tolerances,
    *,
    eigenvectors: tuple[Callable[[str], xr.Dataset], Callable[[str], xr.Dataset]] | None = None,
) -> Check:
    """Compare two records, and eigenvectors where functions from a cell's group to old and new ones are given."""
    olds, news = _by_cell(before), _by_cell(after)
    found: list[Moved | None] = []
    unsettled: list[str] = []
    for key, old in olds.items():
        if key not in news:
            continue
        where, new = " · ".join(key), news[key]
        found += _compared_answers(where, old, new, tolerances)
        found += _compared_scores(where, old.get("scores"), new.get("scores"), tolerances.score)
        found += _compared_evaluations(where, old.get("evaluation"), new.get("evaluation"), tolerances.score)
        if eigenvectors is not None:
            found += _compared_spaces(where, old, new, eigenvectors, tolerances.subspace, unsettled)
    return Check(
        moved=[one for one in found if one is not None],
        missing=[" · ".join(key) for key in olds if key not in news],
        added=[" · ".join(key) for key in news if key not in olds],
        changed=list(_changes(before, after)),
        n_compared=len(found),
        n_unsettled=len(unsettled),
        subspaces=eigenvectors is not None,
    )


def _by_cell(record: StudyRecord) -> dict[tuple[str, ...], CellRecord]:
    return {tuple(str(cell.get(name)) for name in CELL_NAMES): cell for cell in record["cells"]}


def _pairs(old: CellRecord, new: CellRecord) -> Iterator[tuple[str | None, AnswerRecord, AnswerRecord | None]]:
    """Results of the same image: its name, the old result, and the new result or None."""
    found = {answer["image"]: answer for answer in new["answers"]}
    for answer in old["answers"]:
        yield answer["image"], answer, found.get(answer["image"])


def _compared_answers(where: str, old: CellRecord, new: CellRecord, tolerances: Tolerances) -> Iterator[Moved | None]:
    """One item for everything compared, as in the functions below: None where it stayed within its tolerance."""
    for image, before, after in _pairs(old, new):
        place = where if image is None else f"{where} · {image}"
        if after is None or len(before["eigenvalue"]) != len(after["eigenvalue"]):
            found = "none" if after is None else len(after["eigenvalue"])
            yield Moved(place, "number of eigenvectors", len(before["eigenvalue"]), found, None, None)
            continue
        layers = {name: [layer for layer in before[name] if layer in after[name]] for name in _BY_LAYER}
        for layer in dict.fromkeys(layer for name in _BY_LAYER for layer in before[name] if layer not in layers[name]):
            yield Moved(place, f"layer {layer}", "there", "gone", None, None)
        for name in _NUMBERS:
            for component, pair in enumerate(zip(before[name], after[name], strict=True), start=1):
                yield _beyond(place, f"{name} {component}", pair[0], pair[1], tolerances.eigenvalue)
        for component, pair in enumerate(zip(before["converged"], after["converged"], strict=True), start=1):
            words = [("converged" if one else "not converged") for one in pair]
            same = words[0] == words[1]
            yield None if same else Moved(place, f"component {component}", words[0], words[1], None, None)
        groups = _groups(before, after)
        for name, words in _BY_LAYER.items():
            for group in groups:
                if not _is_settled(group, before, after):
                    continue
                for layer in layers[name]:
                    pair = [_part(answer, name, layer, group) for answer in (before, after)]
                    what = f"{words} of components {_range(group)} in layer {layer}"
                    yield _beyond(place, what, pair[0], pair[1], tolerances.share)


def _part(
    answer: AnswerRecord, name: Literal["layer_share", "layer_mass"], layer: str, group: Sequence[int]
) -> float | None:
    """Mean over components that cannot be told apart, as a fraction of 1, independent of the choice of vectors."""
    values = [value for place in group if (value := answer[name][layer][place]) is not None]
    totals = [sum(by_layer[place] or 0.0 for by_layer in answer[name].values()) for place in group]
    if len(values) < len(group) or not sum(totals) > 0:
        return None
    return sum(values) / sum(totals)


def _compared_scores(
    where: str,
    old: ScoresRecord | None,
    new: ScoresRecord | None,
    tolerance: float,
) -> Iterator[Moved | None]:
    if not old:
        return
    found = new["values"] if new else {}
    for name, value in old["values"].items():
        now = found.get(name)
        yield _beyond(where, f"score {name}", value["value"], now and now["value"], tolerance)
        for control, was in value.get("controls", {}).items():
            again = now.get("controls", {}).get(control) if now else None
            again = again and again["value"]
            yield _beyond(where, f"score {name} of the control {control!r}", was["value"], again, tolerance)


def _compared_evaluations(
    where: str, old: EvaluationRecord | None, new: EvaluationRecord | None, tolerance: float
) -> Iterator[Moved | None]:
    after = dict(_evaluation_numbers(new))
    for name, value in _evaluation_numbers(old):
        yield _beyond(where, f"evaluation {name}", value, after.get(name), tolerance)


def _evaluation_numbers(found: EvaluationRecord | None) -> Iterator[tuple[str, object]]:
    """The numbers of an evaluation and of its controls, each with its name."""
    if not found:
        return
    for part in (found["regions"], *found["clusters"]):
        of = f"{part['n']} {'clusters' if 'asked' in part else 'regions'}"
        yield from ((f"{name} of {of}", value) for name, value in part.items() if name not in ("n", "asked"))
    for control, one in found.get("controls", {}).items():
        yield from ((f"{name} of the control {control!r}", value) for name, value in _evaluation_numbers(one))


def _beyond(where: str, what: str, old: object, new: object, tolerance: float) -> Moved | None:
    if old is None or new is None:
        return None if old is new else Moved(where, what, old, new, None, None)
    difference = abs(float(cast("float", new)) - float(cast("float", old)))
    return None if difference <= tolerance else Moved(where, what, old, new, difference, tolerance)


def _groups(before: AnswerRecord, after: AnswerRecord) -> list[list[int]]:
    """Positions of components, grouped where either result cannot tell them apart.

    Examples
    --------
    >>> _groups({"degenerate_group": [0, 1, 1, 2]}, {"degenerate_group": [0, 1, 2, 3]})
    [[0], [1, 2], [3]]
    """
    groups = [[0]]
    pairs = zip(pairwise(before["degenerate_group"]), pairwise(after["degenerate_group"]), strict=True)
    for place, (old, new) in enumerate(pairs, start=1):
        if old[0] == old[1] or new[0] == new[1]:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _is_settled(group: Sequence[int], before: AnswerRecord, after: AnswerRecord) -> bool:
    """Whether the computed components determine the space of a group: the last group may extend beyond them."""
    last = group[-1]
    if last + 1 < len(before["eigenvalue"]):
        return True
    for answer in (before, after):
        gap, value = answer["eigengap"][last], answer["eigenvalue"][last]
        if gap is not None and gap <= DEGENERATE_GAP * max(value or 0.0, 1e-12):
            return False
    return True


def _compared_spaces(
    where: str,
    old: CellRecord,
    new: CellRecord,
    eigenvectors: tuple[Callable[[str], xr.Dataset], Callable[[str], xr.Dataset]],
    tolerance: float,
    unsettled: list[str],
) -> Iterator[Moved | None]:
    try:
        was = eigenvectors[0](old["group"])
    except ValueError as error:
        yield Moved(where, "old eigenvectors", "there", f"unreadable ({error})", None, None)
        return
    now = eigenvectors[1](new["group"])
    names = [[str(name) for name in one["image"].values] for one in (was, now)]
    for image, before, after in _pairs(old, new):
        if after is None or len(before["eigenvalue"]) != len(after["eigenvalue"]):
            continue  # already reported
        place = where if image is None else f"{where} · {image}"
        if image is None:
            if names[0] != names[1]:
                yield Moved(where, "pictures", len(names[0]), f"others ({len(names[1])})", None, None)
                continue
            pair = [_columns(one) for one in (was, now)]
        else:
            pair = [_columns(one.isel(image=[name.index(image)])) for one, name in zip((was, now), names, strict=True)]
        if pair[0].shape != pair[1].shape:
            yield Moved(place, "cells", len(pair[0]), len(pair[1]), None, None)
            continue
        for group in _groups(before, after):
            if not _is_settled(group, before, after):
                unsettled.append(f"{place}: {_range(group)}")
                continue
            sine = sine_between(pair[0][:, group], pair[1][:, group])
            what = f"eigenvectors {_range(group)}, sine of the largest angle"
            yield None if sine <= tolerance else Moved(place, what, 0.0, sine, sine, tolerance)


def _columns(eig: xr.Dataset) -> np.ndarray:
    vectors = eig["eigenvector"].transpose("image", "y", "x", "component").to_numpy()
    return vectors.reshape(-1, vectors.shape[-1])


def sine_between(old: np.ndarray, new: np.ndarray) -> float:
    """Sine of the largest principal angle between the spaces of two sets of columns, from 0 to 1.

    Examples
    --------
    >>> turned = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])
    >>> round(sine_between(np.eye(3)[:, :2], -turned), 12)
    0.0
    >>> round(sine_between(np.eye(3)[:, :1], turned[:, :1]), 6)
    0.707107
    """
    first, second = (np.linalg.qr(columns)[0] for columns in (old, new))
    return float(np.sin(principal_angles(first, second, lambda columns: columns)[-1]))


def _changes(before: StudyRecord, after: StudyRecord) -> Iterator[str]:
    old, new = before["provenance"], after["provenance"]
    for was, now in ((old.get(kind) or {}, new[kind]) for kind in _PROVENANCE):
        for name in dict.fromkeys([*was, *now]):
            if was.get(name) != now.get(name):
                words = {"threads": "number of threads", "cpu": "instructions of the processor"}.get(name, name)
                yield f"{words} {was.get(name, 'missing')} -> {now.get(name, 'missing')}"
    if old.get("code_sha256") != new["code_sha256"] and old.get("versions") == new["versions"]:
        yield "the toolkit's own code, under the same version"
    for kind, ignored in _SUBJECTS.items():
        olds: dict[object, Mapping[str, object]] = {one.get("label"): one for one in before[kind]}
        for one in after[kind]:
            was = olds.get(one["label"])
            if was is None:
                continue
            for name in one:
                if name not in ignored and was.get(name) != one.get(name):
                    words = {"sha256": "content", "weights_sha256": "weights", "config_sha256": "configuration"}
                    subject = f"{kind.removesuffix('s')} {one['label']!r}: {words.get(name, name)}"
                    yield f"{subject} {_shown(was.get(name))} -> {_shown(one.get(name))}"
    settings: Mapping[str, object] = before.get("study", {})
    news: Mapping[str, object] = after["study"]
    for name in news:
        # What is compared, shown or kept changes no number; models and images are compared above.
        if name not in (
            "title",
            "question",
            "check",
            "show",
            "keep_activations",
            "models",
            "pictures",
            "layers",
            "affinities",
        ) and (settings.get(name) != news[name]):
            yield f"setting {name} {_shown(settings.get(name))} -> {_shown(news[name])}"


def _range(group: Sequence[int]) -> str:
    return str(group[0] + 1) if len(group) == 1 else f"{group[0] + 1} to {group[-1] + 1}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "missing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
