"""From the labs' solutions, by nbgrader: the students' versions beside this file, or a course to teach from.

    python notebooks/labs/make_course.py              # writes the students' versions and the table of marks anew
    python notebooks/labs/make_course.py ~/my-course  # makes a folder in which nbgrader's commands work
    python notebooks/labs/make_course.py ~/exam --exam      # the same, with other images for every student
    python notebooks/labs/make_course.py --bundles ~/hand-out  # the bundles that the labs read, ready to hand out

The notebooks in ``solutions/`` are the only source: everything between BEGIN SOLUTION and END SOLUTION, and every
hidden test, is taken out by ``nbgrader generate_assignment``. A course gets one thing more, which students do not see:
every check begins by putting the reference in the place of what earlier exercises asked for, so that one mistake costs
its own points and no others.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import os
import re
import shutil
import sysconfig
import tempfile
import textwrap
from pathlib import Path

try:
    import nbformat
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} is not installed in this Python: install the extra 'labs', docs/labs.md says how."
    ) from error

HERE = Path(__file__).resolve().parent
SOLUTIONS = HERE / "solutions"
PAGE = HERE.parents[1] / "docs" / "labs.md"

CONFIG = '''"""nbgrader's settings for this course; everything else is as it comes."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "spectral-toolkit-labs"
c.ExecutePreprocessor.timeout = 300  # seconds a cell may take
'''


BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


def lab_names() -> list[str]:
    """Names of the labs, which are those of their notebooks and, in nbgrader, of their assignments."""
    return sorted(path.stem for path in SOLUTIONS.glob("*.ipynb"))


def make_course(folder: Path, *, exam: bool = False) -> None:
    """Make an nbgrader course of all labs in a folder that is empty or does not exist.

    Parameters
    ----------
    exam
        Whether every student gets images of their own, from a seed that is made of their name.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: name a folder that is, or one that does not exist.")
    for name in lab_names():
        (folder / "source" / name).mkdir(parents=True)
        notebook = nbformat.read(SOLUTIONS / f"{name}.ipynb", 4)
        notebook = with_own_seeds(notebook) if exam else notebook
        nbformat.write(with_references(notebook), folder / "source" / name / f"{name}.ipynb")
    (folder / "nbgrader_config.py").write_text(CONFIG)


STUDENT = """STUDENT = ""  # write your student number between the quotes, before you run anything else
"""
OWN_SEED = """import hashlib

assert STUDENT.strip(), "write your student number into the cell above"
OWN_SEED = int(hashlib.sha256(STUDENT.strip().encode()).hexdigest()[:6], 16)  # decides your images
"""
_SAMPLED = re.compile(r"(st\.scenes\.sample\(\d+, seed=)\d+\)")
_BUNDLE = re.compile(r'Path\("(scenes-\d+)\.zip"\)')


def with_own_seeds(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The exam of a lab: every student has images of their own, which their number decides, and the same exercises.

    What the checks expect is computed from these images, so nothing else changes; texts that describe what is seen in
    the lab's own images are in answers alone, which students do not get.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = _SAMPLED.sub(r"\1OWN_SEED)", cell.source)
            cell.source = _BUNDLE.sub(r'Path(f"\1-{OWN_SEED}.zip")', cell.source)
    asked, derived = nbformat.v4.new_code_cell(STUDENT.strip()), nbformat.v4.new_code_cell(OWN_SEED.strip())
    asked.id, derived.id = "student", "own-seed"
    place = next(number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells[place:place] = [asked, derived]
    return notebook


def make_bundles(folder: Path) -> list[Path]:
    """Make the bundles that labs 1 to 3 read, as the labs would make them, and one to investigate in lab 4."""
    import spectral_toolkit as st

    folder.mkdir(parents=True, exist_ok=True)
    for name in lab_names():
        for cell in nbformat.read(SOLUTIONS / f"{name}.ipynb", 4).cells:
            if cell.cell_type == "code" and "st.save_bundle(bundle_path" in cell.source:
                lines = itertools.takewhile(lambda line: "load_bundle(" not in line, cell.source.splitlines())
                with contextlib.chdir(folder):
                    exec("\n".join(lines), {"st": st, "Path": Path})
    quantities = ("query", "key", "value", "token")
    for model in ("scenes", "scenes-absolute"):
        images = st.scenes.sample(6, seed=20).pixels
        activations = st.capture(model, images, quantities=quantities, progress=False)
        st.save_bundle(folder / f"investigate-{model}.zip", activations, overwrite=True)
    return sorted(folder.glob("*.zip"))


def with_references(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook, in which every check first restores what earlier exercises asked for, hidden from students.

    Functions are always restored. What an exercise assigns is the student's own work, on which later ones build: it is
    replaced only where it does not pass its own check.
    """
    restoring: dict[str, str] = {}  # by exercise, the code that does so
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader")
        if cell.cell_type != "code" or not mark:
            continue
        if mark.solution and not mark.grade:
            restoring[mark.grade_id] = _without_marks(cell.source)
        elif not mark.solution:
            own = mark.grade_id.removesuffix("-check")
            blocks = [code for exercise, code in restoring.items() if exercise != own]
            restoring[own] = _where_unfit(restoring[own], cell.source)
            if blocks:
                reason = "# A mistake in an earlier exercise costs no points here."
                cell.source = "\n".join([BEGIN_HIDDEN, reason, *blocks, END_HIDDEN, cell.source])
    return notebook


def _without_marks(source: str) -> str:
    return "\n".join(line for line in source.splitlines() if not line.strip().startswith("### "))


def _where_unfit(solution: str, check: str) -> str:
    """Functions as they are; assignments only where what was handed in fails its check."""
    if all(isinstance(node, ast.FunctionDef) for node in ast.parse(solution).body):
        return solution
    visible = re.sub(rf"{BEGIN_HIDDEN}.*?{END_HIDDEN}\n?", "", check, flags=re.DOTALL)
    tried, instead = (textwrap.indent(text, "    ") for text in (visible, solution))
    return f"try:\n{tried}\nexcept Exception:\n{instead}"


def course_api(folder: Path) -> NbGraderAPI:
    """nbgrader's own interface to a course, whatever is configured elsewhere on this machine."""
    # nbgrader calls the command alembic by its name, which an environment that is not activated does not offer.
    scripts = sysconfig.get_path("scripts")
    if scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    config = Config()
    config.CourseDirectory.root = str(folder.resolve())
    config.CourseDirectory.course_id = "spectral-toolkit-labs"
    config.ExecutePreprocessor.timeout = 300
    return NbGraderAPI(config=config)


def generate(folder: Path, name: str) -> Path:
    """Let nbgrader make the students' version of one lab of a course.

    Returns
    -------
    pathlib.Path
        The notebook in the course's folder ``release``.

    Raises
    ------
    RuntimeError
        If nbgrader refuses; its log is in the message.
    """
    result = course_api(folder).generate_assignment(name, force=True, create=True)
    if not result["success"]:
        raise RuntimeError(f"nbgrader generate_assignment {name} failed:\n{result.get('error')}\n{result.get('log')}")
    return folder / "release" / name / f"{name}.ipynb"


def graded_cells(name: str) -> list[tuple[str, int, bool]]:
    """Of every cell of a lab that carries points: its grade_id, its points, and whether nbgrader marks it alone."""
    cells = [cell.metadata.get("nbgrader") for cell in nbformat.read(SOLUTIONS / f"{name}.ipynb", 4).cells]
    return [(cell.grade_id, cell.points, not cell.solution) for cell in cells if cell and cell.grade]


def with_marks(page: str) -> str:
    """The instructor's page with its table of marks as the notebooks have it."""
    lines = ["| lab | cell | points | marked |", "|---|---|---|---|"]
    for name in lab_names():
        cells = graded_cells(name)
        lines += [
            f"| {name[0]} | `{key}` | {points} | {'by nbgrader' if by_machine else 'by hand'} |"
            for key, points, by_machine in cells
        ]
        machine = sum(points for _, points, by_machine in cells if by_machine)
        total = sum(points for _, points, _ in cells)
        lines.append(f"| {name[0]} | **all** | **{total}** | {total - machine} by hand |")
    table = "\n".join(["<!-- marks -->", *lines, "<!-- /marks -->"])
    return re.sub("<!-- marks -->.*<!-- /marks -->", lambda _: table, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("course", nargs="?", type=Path, help="make a course here, in place of the students' versions")
    parser.add_argument("--exam", action="store_true", help="give every student images of their own")
    parser.add_argument("--bundles", type=Path, metavar="FOLDER", help="only make the bundles that the labs read")
    given = parser.parse_args()
    chosen = given.course
    if given.bundles is not None:
        for path in make_bundles(given.bundles):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if given.exam and chosen is None:
        parser.error("--exam needs the folder of a course")
    if chosen is not None:
        make_course(chosen, exam=given.exam)
        print(f"{chosen}: a course of {len(lab_names())} labs. Go on there: nbgrader generate_assignment NAME")
        return
    with tempfile.TemporaryDirectory() as scratch:
        course = Path(scratch) / "course"
        make_course(course)
        for name in lab_names():
            shutil.copy(generate(course, name), HERE / f"{name}.ipynb")
            print(HERE / f"{name}.ipynb")
    PAGE.write_text(with_marks(PAGE.read_text()))


if __name__ == "__main__":
    main()
