"""Labs grade fairly: right answers pass, wrong ones do not, and one mistake costs its own points and no others.

The cells are run in this process, one after another, and go on after an error, as nbgrader does.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import xarray as xr
from lab_variants import RIGHT, WRONG
from test_labs import LABS, MAKE_COURSE, NAMES

import spectral_toolkit as st

HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", re.DOTALL)


def course_cells(number: int, *, with_references: bool = True) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(LABS / "solutions" / f"{NAMES[number - 1]}.ipynb", 4)
    if with_references:
        notebook = MAKE_COURSE.with_references(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def key_of(cell: nbformat.NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def is_check(cell: nbformat.NotebookNode) -> bool:
    return key_of(cell).endswith("-check")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By lab, what its notebook has defined when every exercise is solved, and its checks."""
    known: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
    folder = tmp_path_factory.mktemp("labs")

    def of(number: int) -> tuple[dict[str, Any], dict[str, str]]:
        if number not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                names: dict[str, Any] = {}
                cells = course_cells(number)
                for cell in cells:
                    if not is_check(cell):
                        run(cell.source, cell, names)
            known[number] = names, {key_of(cell): cell.source for cell in cells if is_check(cell)}
        return known[number]

    return of


def run(source: str, cell: nbformat.NotebookNode, names: dict[str, Any]) -> None:
    """Run what a cell defines, without what it only shows, and without figures, which need a notebook."""
    mark = cell.metadata.get("nbgrader")
    if mark and mark.grade and mark.solution:
        return  # a person marks it, and nothing builds on it
    kept = []
    for statement in ast.parse(source).body:
        shows = isinstance(statement, ast.Expr | ast.For) and not mark
        if shows and (isinstance(statement, ast.Expr) or "print(" in ast.unparse(statement)):
            continue
        if not mark and re.search(r"\bhv\.|st\.overlay|st\.Explorer|outlying_masks\(", ast.unparse(statement)):
            continue
        kept.append(statement)
    exec(compile(ast.Module(kept, []), key_of(cell) or "given", "exec"), names)


def passes(number: int, exercise: str, answer: str, worked: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    names, checks = worked(number)
    if exercise == "four":  # what the reference finds, in place of minutes of bootstrap
        found = [names["where_and_what"](eig, names["labels"]) for eig in names["results"].values()]
        both = {
            name: (("kind", "layer"), [[one[place]] for one in found]) for place, name in enumerate(("where", "what"))
        }
        theirs = xr.Dataset(both, coords={"kind": ["qk", "vv"], "layer": ["joint"]})
        monkeypatch.setattr(st, "pathways", lambda *_, **__: theirs)
    names = dict(names)
    exercise_names = _functions(number, exercise)
    exec(exercise_names, names)  # again, so that they call what is defined here
    if "good" in answer:
        names["good"] = names[answer.split("\n")[0].rpartition("= ")[2].split(",")[0].strip()]
    try:
        exec(answer, names)
        exec(checks[f"{exercise}-check"], names)
    except AssertionError as error:
        return False, str(error)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return True, ""


def _functions(number: int, exercise: str) -> str:
    return next(cell.source for cell in course_cells(number) if key_of(cell) == exercise)


VARIANTS = {
    (*place, name): code for found in (WRONG, RIGHT) for place, codes in found.items() for name, code in codes.items()
}


def test_there_are_many_variants() -> None:
    assert sum(map(len, WRONG.values())) + sum(map(len, RIGHT.values())) == len(VARIANTS) >= 100


@pytest.mark.parametrize(("number", "exercise"), WRONG, ids=str)
def test_wrong_answers_fail_and_right_ones_pass(
    number: int, exercise: str, worked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, answer in {"the reference": "", **RIGHT.get((number, exercise), {})}.items():
        assert passes(number, exercise, answer, worked, monkeypatch) == (True, ""), name
    passed = [
        name
        for name, answer in WRONG[number, exercise].items()
        if passes(number, exercise, answer, worked, monkeypatch)[0]
    ]
    assert passed == [], "wrong answers that earn the points"


@pytest.mark.parametrize("name", NAMES)
def test_every_assertion_says_what_is_wrong(name: str) -> None:
    for cell in nbformat.read(LABS / "solutions" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code" and is_check(cell):
            silent = [
                ast.unparse(one)
                for one in ast.walk(ast.parse(cell.source))
                if isinstance(one, ast.Assert) and not one.msg
            ]
            assert silent == [], key_of(cell)


@pytest.mark.parametrize("name", NAMES)
def test_students_are_told_what_is_not_looked_at(name: str) -> None:
    """A check with a hidden part says what the points are given for besides."""
    for cell in nbformat.read(LABS / "solutions" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code" and is_check(cell) and HIDDEN.search(cell.source):
            seen = HIDDEN.sub("", cell.source)
            assert re.search(r"^# The points are given .* not looked at here\.$", seen, re.MULTILINE), key_of(cell)


def points(
    number: int, answers: dict[str, str], folder: Path, *, with_references: bool = True
) -> tuple[dict[str, int], dict[str, int]]:
    """What each check gives for a submission, and what it can give."""
    names: dict[str, Any] = {}
    given, most = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for cell in course_cells(number, with_references=with_references):
            key = key_of(cell)
            source = str(cell.source if is_check(cell) else answers.get(key, cell.source))
            if "good" in source:
                source = f"{cell.source}\n{source}"
            try:
                run(source, cell, names)
                passed = True
            except Exception:
                passed = False
            if is_check(cell):
                most[key] = cell.metadata.nbgrader.points
                given[key] = most[key] if passed else 0
    return given, most


SUBMISSIONS: dict[str, dict[str, str]] = {
    "three mistakes": {
        "degrees": "def degrees(W): return W.mean(axis=1)\ndef laplacian(W): return np.diag(degrees(W)) - W",
        "cut-values": f"{WRONG[1, 'cut-values']['both directions']}\n{WRONG[1, 'cut-values']['by nodes']}",
        "eigenvectors": "def generalised_eigenvectors(W): return np.linalg.eigh(laplacian(W))",
    },
    "a step that crashes": {"degrees": "raise RuntimeError('not finished')"},
    "nothing": dict.fromkeys(
        ("degrees", "cut-values", "brute-force", "eigenvectors", "quotient", "round", "picture-cut", "joint"),
        "raise NotImplementedError()",
    ),
    "the last two wrong": {
        "picture-cut": WRONG[1, "picture-cut"]["the third"],
        "joint": WRONG[1, "joint"]["hard-wired 144"],
    },
    "all right": {},
}
"""What five students hand in for lab 1."""


@pytest.mark.parametrize("student", SUBMISSIONS)
def test_a_mistake_costs_its_own_points(student: str, tmp_path: Path) -> None:
    answers = SUBMISSIONS[student]
    given, most = points(1, answers, tmp_path)
    assert {key for key in most if given[key] != most[key]} == {f"{key}-check" for key in answers}


def test_an_investigation_that_failed_is_replaced(tmp_path: Path) -> None:
    """Lab 4 builds on what the student captured and solved: where that fails, later exercises are graded on ours."""
    given, most = points(4, {"capture": "activations = None", "solve": "results = graphs = {}"}, tmp_path)
    lost = {key for key in most if given[key] != most[key]}
    assert lost <= {"capture-check", "solve-check", "report-check"}
    assert {"capture-check", "solve-check"} <= lost
