"""Notebooks are stripped in git, name their kernel, and run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS_FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.rglob("*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]
EXECUTED = [path for path in NOTEBOOKS if "labs" not in path.parts]  # nbgrader executes those, in test_labs.py


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


@pytest.mark.parametrize("path", EXECUTED, ids=named)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figures = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            if output.output_type == "stream" and output.name == "stderr":
                # Progress bars are welcome there; warnings that point at our code or the notebook's are not.
                assert "Warning" not in output.text, output.text
            figures += any("bokeh" in kind or "html" in kind for kind in output.get("data", {}))
    assert figures > 0
    # For `make docs`, which shows notebooks with their outputs where they are here.
    kept = NOTEBOOKS_FOLDER.parent / "out" / "notebooks" / path.relative_to(NOTEBOOKS_FOLDER)
    kept.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
