"""What a teacher gets besides the labs: slides that build, an exam with images of each student's own, plans."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import SlidesExporter
from test_labs import LABS, MAKE_COURSE, NAMES


def test_the_slides_build_with_their_figures(repository: Path) -> None:
    deck = repository / "docs" / "teaching" / "slides.ipynb"
    text, _ = SlidesExporter().from_filename(str(deck))
    cells = nbformat.read(deck, 4).cells
    kinds = [cell.metadata.slideshow.slide_type for cell in cells]
    assert len(re.findall(r"<section\s*>\s*<section\s*>", text)) == kinds.count("slide") >= 8
    held = {name: data["image/png"] for cell in cells for name, data in cell.get("attachments", {}).items()}
    assert len(held) == 3
    for name, data in held.items():
        figure = repository / "docs" / "images" / "gallery" / name
        assert base64.b64decode(data) == figure.read_bytes(), f"{name} is not that of the gallery: attach it again"
        assert data[:2000] in text


@pytest.mark.parametrize("name", NAMES)
def test_an_exam_gives_every_student_other_images(name: str) -> None:
    lab = nbformat.read(LABS / "solutions" / f"{name}.ipynb", 4)
    exam = MAKE_COURSE.with_own_seeds(nbformat.read(LABS / "solutions" / f"{name}.ipynb", 4))
    nbformat.validate(exam)
    code = [cell.source for cell in exam.cells if cell.cell_type == "code"]
    sampled = re.findall(r"st\.scenes\.sample\(\d+, seed=([^)]+)\)", "\n".join(code))
    assert sampled, "the lab draws no images"
    assert set(sampled) == {"OWN_SEED"}
    assert not any(re.search(r"scenes-\d+\.zip", source) for source in code), "a bundle of another student's images"
    graded = [cell.metadata.nbgrader.grade_id for cell in lab.cells if "nbgrader" in cell.metadata]
    assert [cell.metadata.nbgrader.grade_id for cell in exam.cells if "nbgrader" in cell.metadata] == graded
    seeds = []
    for student in ("17", "18", " 17 "):
        names: dict[str, Any] = {}
        exec(code[0].replace('""', repr(student)), names)
        exec(code[1], names)
        seeds.append(names["OWN_SEED"])
    assert seeds[0] != seeds[1]
    assert seeds[0] == seeds[2]
    with pytest.raises(AssertionError, match="student number"):
        exec(code[1], {"STUDENT": ""})


def test_the_page_for_teachers_has_plans(repository: Path) -> None:
    page = (repository / "docs" / "labs.md").read_text()
    for part in (
        "**45 minutes",
        "**90 minutes",
        "generate_feedback",
        "--exam",
        "--bundles",
        "JupyterLite",
        "handout.md",
    ):
        assert part in page
