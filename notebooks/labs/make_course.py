"""From the labs' solutions, by nbgrader: the students' versions beside this file, or a course to teach from.

    python notebooks/labs/make_course.py              # writes the students' versions and the table of marks anew
    python notebooks/labs/make_course.py ~/my-course  # makes a folder in which nbgrader's commands work

The notebooks in ``solutions/`` are the only source: everything between BEGIN SOLUTION and END SOLUTION, and every
hidden test, is taken out by ``nbgrader generate_assignment``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sysconfig
import tempfile
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


def lab_names() -> list[str]:
    """Names of the labs, which are those of their notebooks and, in nbgrader, of their assignments."""
    return sorted(path.stem for path in SOLUTIONS.glob("*.ipynb"))


def make_course(folder: Path) -> None:
    """Make an nbgrader course of all labs in a folder that is empty or does not exist."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: name a folder that is, or one that does not exist.")
    for name in lab_names():
        (folder / "source" / name).mkdir(parents=True)
        shutil.copy(SOLUTIONS / f"{name}.ipynb", folder / "source" / name)
    (folder / "nbgrader_config.py").write_text(CONFIG)


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
    chosen = parser.parse_args().course
    if chosen is not None:
        make_course(chosen)
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
