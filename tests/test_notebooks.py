"""Notebooks are stripped in git, name their kernel, and run from top to bottom."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from notebook_outputs import remote_resources

NOTEBOOKS_FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.rglob("*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]
EXECUTED = [  # nbgrader executes the labs, in test_labs.py; the checkout itself may lie in a folder of that name
    path for path in NOTEBOOKS if "labs" not in path.relative_to(NOTEBOOKS_FOLDER).parts
]


def named(path: Path) -> str:
    return path.relative_to(NOTEBOOKS_FOLDER).with_suffix("").as_posix()


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebook_is_stripped(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebook_names_its_kernel(path: Path) -> None:
    """Without a kernelspec, Jupyter opens a dialog and runs nothing."""
    assert nbformat.read(path, as_version=4).metadata["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebook_draws_from_what_is_installed(path: Path) -> None:
    """After ``hv.extension``, a figure drawn before the first overlay links to style sheets on a server."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [source for source in sources if "hv.extension" in source] == [], "call st.extension()"
    ready = [place for place, source in enumerate(sources) if "st.extension()" in source or "st.overlay(" in source]
    drawn = [place for place, source in enumerate(sources) if re.search(r"hv\.(Curve|Image|RGB|HeatMap)\(", source)]
    assert not drawn or ready[0] <= drawn[0]


def widgets_without_twin(notebook: Any) -> list[str]:
    """Explorers that a cell makes, and after which neither it nor a later cell ends with their frozen twin.

    A widget is lost when a notebook is saved or opened without a kernel; what the last line of a cell shows is not.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    lost = []
    for number, source in enumerate(sources):
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("st.Explorer")):
                continue
            (name,) = map(ast.unparse, node.targets)
            last_lines = [ast.unparse(ast.parse(later).body[-1]) for later in sources[number:]]
            if not any(line.startswith(f"{name}.to_html(") for line in last_lines):
                lost.append(name)
    return lost


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_widgets_end_with_their_frozen_twin(path: Path) -> None:
    assert widgets_without_twin(nbformat.read(path, as_version=4)) == []


def test_a_widget_without_its_twin_is_noticed() -> None:
    cells = ["explorer = st.Explorer(model)\nexplorer", "other = st.Explorer(model)\nother.to_html()\nother"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    assert widgets_without_twin(notebook) == ["explorer", "other"]
    notebook.cells.append(nbformat.v4.new_code_cell("explorer.to_html()"))
    assert widgets_without_twin(notebook) == ["other"]


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("path", EXECUTED, ids=named)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    """Offline, from top to bottom; how long it took goes into a report (``pytest --junit-xml``)."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    record_property("seconds", round(time.perf_counter() - began, 1))
    figures = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            if output.output_type == "stream" and output.name == "stderr":
                # Progress bars are welcome there; warnings that point at our code or the notebook's are not.
                assert "Warning" not in output.text, output.text
            figures += any("bokeh" in kind or "html" in kind for kind in output.get("data", {}))
    assert figures > 0
    assert remote_resources(notebook) == set()
    # For `make docs`, which shows notebooks with their outputs where they are here.
    kept = NOTEBOOKS_FOLDER.parent / "out" / "notebooks" / path.relative_to(NOTEBOOKS_FOLDER)
    kept.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)


@pytest.mark.parametrize("path", EXECUTED, ids=named)
def test_a_notebook_ends_with_three_questions(path: Path) -> None:
    last = nbformat.read(path, as_version=4).cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Three questions to go on with\n")
    assert len([line for line in last.source.splitlines() if line[:2] in ("1.", "2.", "3.")]) == 3
    assert last.source.count("?") >= 3
