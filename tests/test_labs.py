"""Labs, by nbgrader itself: solutions earn every point, unsolved ones none, students' versions are up to date."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import xarray as xr
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.validator import Validator
from notebook_outputs import remote_resources
from traitlets.config import Config

import spectral_toolkit as st
from spectral_toolkit._views.report import render_report

LABS = Path(__file__).resolve().parents[1] / "notebooks" / "labs"


def load_make_course() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_course", LABS / "make_course.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_COURSE = load_make_course()
NAMES = MAKE_COURSE.lab_names()


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def graded(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """Cells that carry points, by their grade_id."""
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if utils.is_grade(cell)}


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[tuple[str, nbformat.NotebookNode]]:
    return [
        (cell.source, output)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == kind
    ]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One course of all labs, with one gradebook, as a class has it."""
    folder = tmp_path_factory.mktemp("class") / "course"
    MAKE_COURSE.make_course(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_settings_of_ipython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles that labs have made, for the labs that find them there: as in a class that was handed them out."""
    return tmp_path_factory.mktemp("bundles")


def copy_bundles(source: Path, target: Path) -> None:
    for path in source.glob("*.zip"):
        shutil.copy(path, target)


def test_every_solution_has_a_version_for_students() -> None:
    assert NAMES
    assert {path.stem for path in LABS.glob("*.ipynb")} == set(NAMES)


def test_a_course_is_not_made_where_something_is(course: Path) -> None:
    with pytest.raises(SystemExit, match="is not empty"):
        MAKE_COURSE.make_course(course)


@pytest.mark.parametrize("name", NAMES)
def test_a_lab_says_what_it_is_for(name: str) -> None:
    notebook = read(LABS / f"{name}.ipynb")
    opening = " ".join(notebook.cells[0].source.split())
    for part in ("# Lab ", "**What you can do afterwards**", "**You need**", " minutes"):
        assert part in opening
    assert sum(cell.source.startswith("# ") for cell in notebook.cells if cell.cell_type == "markdown") == 1
    predictions = [key for key in graded(notebook) if key.startswith("prediction-")]
    assert len(predictions) >= 2
    asked = [cell.source for cell in notebook.cells if "**Write down before you go on.**" in cell.source]
    assert len(asked) == len(predictions), "every prediction is asked for, and is a cell to write in"


def test_the_page_for_instructors_has_the_marks_of_the_notebooks(repository: Path) -> None:
    page = (repository / "docs" / "labs.md").read_text()
    assert MAKE_COURSE.with_marks(page) == page, "run: python notebooks/labs/make_course.py"


@pytest.mark.parametrize("name", NAMES)
def test_minutes_are_those_of_the_rule_on_the_page(name: str, repository: Path) -> None:
    """3 to open, 3 a prediction, 3 a point that is checked, 6 a question, 12 a measurement; rounded up to 5."""
    minutes = 3
    for key, cell in graded(read(LABS / f"{name}.ipynb")).items():
        if not utils.is_solution(cell):
            minutes += 3 * cell.metadata.nbgrader.points
        elif cell.cell_type == "code":
            minutes += 12
        else:
            minutes += 3 if key.startswith("prediction-") else 6
    minutes = -(-minutes // 5) * 5
    assert 60 <= minutes <= 90
    assert f"About {minutes} minutes" in " ".join(read(LABS / f"{name}.ipynb").cells[0].source.split())
    (row,) = [line for line in (repository / "docs" / "labs.md").read_text().splitlines() if f"{name}.ipynb" in line]
    assert row.endswith(f" {minutes} |")


def check(number: int, key: str, names: dict[str, Any]) -> None:
    """Run one check of a lab, hidden tests included, on the names it finds."""
    exec(cells_of(number)[key], names)


def cells_of(number: int) -> dict[str, str]:
    """The code cells of a lab's solution that have a name."""
    cells = read(LABS / "solutions" / f"{NAMES[number - 1]}.ipynb").cells
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in cells if "nbgrader" in cell.metadata}


SIX_NODES = """W = np.zeros((6, 6))
for i, j in [(0, 1), (0, 2), (1, 2), (2, 3), (1, 3), (3, 4), (4, 5)]:
    W[i, j] = W[j, i] = 1 / (1 + j)
"""
WRONG = {
    "every tie counted in both directions": (
        1,
        "cut-values",
        "def cut(W, side): return 2 * W[side][:, ~side].sum()",
        "counts once",
    ),
    "partings as lists": (
        1,
        "brute-force",
        "good = bipartitions\ndef bipartitions(n): return [side.tolist() for side in good(n)]",
        "a boolean array",
    ),
    "partings as numbers": (
        1,
        "brute-force",
        "good = bipartitions\ndef bipartitions(n): return [side.astype(int) for side in good(n)]",
        "a boolean array",
    ),
    "the value first": (
        1,
        "brute-force",
        "good = best_bipartition\ndef best_bipartition(W, value): return good(W, value)[::-1]",
        "first the side",
    ),
    "the value first, of thresholds": (
        1,
        "round",
        "good = best_threshold\ndef best_threshold(W, x): return good(W, x)[::-1]",
        "first the side",
    ),
    "labels shuffled in place": (
        3,
        "shuffle",
        "def shuffled(labels, seed=0):\n    labels[:] = np.roll(labels, 1, axis=0)\n    return labels",
        "stay as they were",
    ),
    "components counted from 0": (
        4,
        "readable",
        "good = readable\ndef readable(eig): return [number - 1 for number in good(eig)]",
        "the first is 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(case: str) -> None:
    number, key, answer, told = WRONG[case]
    names: dict[str, Any] = {"np": np, "xr": xr, "itertools": itertools, "results": {}, "names": []}
    exec(SIX_NODES, names)
    wanted = {1: ["degrees", "cut-values", "brute-force", "eigenvectors", "round"], 3: ["shuffle"], 4: ["readable"]}
    for needed in wanted[number]:
        exec(cells_of(number)[needed], names)
    check(number, f"{key}-check", dict(names))
    exec(answer, names)
    with pytest.raises(AssertionError, match=told):
        check(number, f"{key}-check", names)


def test_a_right_answer_may_be_a_list() -> None:
    names: dict[str, Any] = {"np": np}
    exec("def shuffled(labels, seed=0): return [labels[place - 1] for place in range(len(labels))]", names)
    check(3, "shuffle-check", names)


def test_a_bundle_will_do_for_an_investigation(tmp_path: Path) -> None:
    """Lab 4 asks for a model, or for a bundle, which has none."""
    quantities = ("query", "key", "value", "token")
    acts = st.capture("scenes", st.scenes.sample(6, seed=0).pixels, quantities=quantities, progress=False)
    st.save_bundle(tmp_path / "class.zip", acts)
    names: dict[str, Any] = {"Path": Path, "activations": st.load_bundle(tmp_path / "class.zip").activations}
    check(4, "capture-check", names)
    two = names["activations"].isel(image=[0, 1])
    answers = {kind: st.solve(st.affinity(two, kind), n_eigenvectors=3) for kind in ("qk", "vv")}
    names["report_path"] = render_report(two, answers, tmp_path / "investigation.html")
    check(4, "report-check", names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_students_version_is_up_to_date_and_the_solution_earns_every_point(
    name: str, course: Path, bundles: Path
) -> None:
    """By nbgrader's autograde, hidden tests included; what a person has to mark stays open."""
    generated = MAKE_COURSE.generate(course, name).read_text()
    assert (LABS / f"{name}.ipynb").read_text() == generated, "run: python notebooks/labs/make_course.py"
    for mark in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS"):
        assert mark not in generated
        assert mark in (LABS / "solutions" / f"{name}.ipynb").read_text()
    handed_in = course / "submitted" / "somebody" / name
    handed_in.mkdir(parents=True)
    shutil.copy(LABS / "solutions" / f"{name}.ipynb", handed_in)
    copy_bundles(bundles, handed_in)
    result = MAKE_COURSE.course_api(course).autograde(name, "somebody", force=True, create=True)
    assert result["success"], result
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        grades = gradebook.find_submission_notebook(name, name, "somebody").grades
        by_machine = {one.name: (one.auto_score, one.max_score) for one in grades if one.auto_score is not None}
        by_hand = {one.name for one in grades if one.needs_manual_grade}
    cells = graded(read(LABS / f"{name}.ipynb"))
    assert {key for key, cell in cells.items() if not utils.is_solution(cell)} == set(by_machine)
    assert {key for key, cell in cells.items() if utils.is_solution(cell)} == by_hand
    assert {key: score for key, (score, most) in by_machine.items() if score != most} == {}

    folder = course / "autograded" / "somebody" / name
    copy_bundles(folder, bundles)
    done = read(folder / f"{name}.ipynb")
    assert outputs(done, "error") == []
    assert [text for _, output in outputs(done, "stream") if "Warning" in (text := output.text)] == []
    shown = [output for kind in ("display_data", "execute_result") for _, output in outputs(done, kind)]
    assert any("bokeh" in mime or "html" in mime for output in shown for mime in output.data)
    assert remote_resources(done) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_unsolved_lab_fails_at_every_graded_cell(name: str, tmp_path: Path, bundles: Path) -> None:
    """What the button Validate tells a student who has not begun."""
    shutil.copy(LABS / f"{name}.ipynb", tmp_path)
    copy_bundles(bundles, tmp_path)
    config = Config()
    config.ExecutePreprocessor.timeout = 300
    results = Validator(config=config).validate(str(tmp_path / f"{name}.ipynb"))
    wanted = graded(read(LABS / f"{name}.ipynb"))
    assert set(results) <= {"failed"}, results
    assert [cell["source"].strip() for cell in results["failed"]] == [cell.source.strip() for cell in wanted.values()]
