"""From the labs' solutions, by nbgrader: the students' versions beside this file, or a course to teach from.

    python notebooks/labs/make_course.py              # writes the students' versions anew
    python notebooks/labs/make_course.py ~/my-course  # makes a folder in which nbgrader's commands work

The notebooks in ``solutions/`` are the only source: everything between BEGIN SOLUTION and END SOLUTION, and every
hidden test, is taken out by ``nbgrader generate_assignment``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
SOLUTIONS = HERE / "solutions"

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


if __name__ == "__main__":
    main()
