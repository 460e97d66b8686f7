"""The documentation site: every public name has its place, notebooks become pages, nothing is asked of a network."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import spectral_toolkit as st


@pytest.fixture
def site(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "docs"))
    return importlib.import_module("site_notebooks")


def directives(text: str) -> set[str]:
    """Full names of everything that a page documents from its docstring, or lists with a page of its own."""
    names = re.findall(r"^\.\. (?:auto(?:function|class|module)|py:data):: (\S+)", text, re.MULTILINE)
    for listed in re.findall(r"^\.\. autosummary::\n   :toctree: api\n\n((?:   \S+\n)+)", text, re.MULTILINE):
        names += listed.split()
    return {name if name.startswith("spectral_toolkit.") else f"spectral_toolkit.{name}" for name in names}


def test_every_public_name_is_in_the_reference(repository: Path) -> None:
    documented = directives((repository / "docs" / "reference" / "index.md").read_text())
    assert {f"spectral_toolkit.{name}" for name in st.__all__} - documented == set()


def test_what_the_reference_names_exists_and_says_something(repository: Path) -> None:
    for name in directives((repository / "docs" / "reference" / "index.md").read_text()):
        owner, _, own = name.rpartition(".")
        if owner == "spectral_toolkit" and own in st.__all__:
            found = getattr(st, own)
        else:
            try:
                found = importlib.import_module(name)
            except ModuleNotFoundError:
                found = getattr(importlib.import_module(owner), own)
        assert (found.__doc__ or "").strip(), name


def test_every_page_is_in_a_table_of_contents(repository: Path) -> None:
    """Each page by its name; notebooks by a pattern, and functions by autosummary."""
    docs = repository / "docs"
    listed = {"index"}
    for page in (docs / "index.md", docs / "how-to" / "index.md"):
        for body in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            entries = [line for line in body.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / entry).relative_to(docs).as_posix() for entry in entries}
    for page in docs.rglob("*.md"):
        name = page.relative_to(docs).with_suffix("").as_posix()
        if not name.startswith(("notebooks/", "reference/api/")):
            assert name in listed, name


def notebook(*sources: str, run: bool = False) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_markdown_cell("# A title\n\n" + sources[0])]
    for source in sources[1:]:
        cell = nbformat.v4.new_code_cell(source)
        if run:
            cell.outputs = [nbformat.v4.new_output("stream", text="seen\n")]
        made.cells.append(cell)
    return made


def test_notebooks_are_copied_with_outputs_and_links(site: ModuleType, tmp_path: Path) -> None:
    for folder in ("notebooks/labs/solutions", "docs/images", "out/notebooks/labs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs/errors.md").write_text("# Errors\n")
    (tmp_path / "LICENSE").write_text("")
    text = "[e](../docs/errors.md#part) [l](labs/one.ipynb) [LICENSE](../LICENSE) [w](https://a.org) ![i](../x.png)"
    nbformat.write(notebook(text, "1 + 1"), tmp_path / "notebooks/start.ipynb")
    nbformat.write(notebook("[s](solutions/one.ipynb)", "2"), tmp_path / "notebooks/labs/one.ipynb")
    nbformat.write(notebook("secret", "3"), tmp_path / "notebooks/labs/solutions/one.ipynb")
    (tmp_path / "notebooks/labs/page.md").write_text("# Page\n\n[up](../start.ipynb)\n")
    nbformat.write(notebook(text, "1 + 1", run=True), tmp_path / "out/notebooks/start.ipynb")
    nbformat.write(notebook("older", "1", run=True), tmp_path / "out/notebooks/labs/one.ipynb")
    target = tmp_path / "docs/notebooks"
    (target / "gone").mkdir(parents=True)
    (target / "gone/old.ipynb").write_text("{}")

    copied = site.copy_notebooks(tmp_path, target)

    assert sorted(path.relative_to(target).as_posix() for path in copied) == ["labs/one.ipynb", "start.ipynb"]
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert files == ["labs/one.ipynb", "labs/page.md", "start.ipynb"]
    start = nbformat.read(target / "start.ipynb", as_version=4)
    assert start.cells[0].source.endswith(
        "[e](../errors.md#part) [l](labs/one.ipynb) `LICENSE` [w](https://a.org) ![i](../x.png)"
    )
    assert start.cells[1].outputs[0].text == "seen\n"
    lab = nbformat.read(target / "labs/one.ipynb", as_version=4)
    assert lab.cells[0].source.endswith("`s`"), "solutions are not on the site"
    assert lab.cells[1].outputs == [], "an executed copy of other cells is not taken"
    assert "[up](../start.ipynb)" in (target / "labs/page.md").read_text()


def test_executed_notebooks_fetch_no_styles(site: ModuleType) -> None:
    made = notebook("words", "1")
    url = "https://cdn.holoviz.org/panel/1.9.4/dist/css/loading.css?v=1.9.4"
    made.cells[1].outputs = [nbformat.v4.new_output("display_data", {"text/html": f'{{"url": "{url}"}}'})]
    assert site.without_remote_styles(made).cells[1].outputs[0].data["text/html"] == '{"url": "data:text/css,"}'


def test_the_figure_of_the_mathematics_is_that_of_the_code(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers, to two digits; pixels of tiles may differ between processors."""
    monkeypatch.syspath_prepend(str(repository / "docs"))
    maker = importlib.import_module("make_mathematics_figure")
    drawn, kept = (re.findall(r"(?:= |: )(\d\.\d\d)", text) for text in (maker.figure(), maker.FIGURE.read_text()))
    assert len(kept) == 2 * 4 * 7, "an eigenvalue and six layers, for four eigenvectors by two affinities"
    assert [float(number) for number in drawn] == pytest.approx([float(number) for number in kept], abs=0.011)


def test_nothing_on_the_pages_comes_from_a_network(repository: Path) -> None:
    """Sphinx and MyST would add these: MathJax for formulas, scripts of widgets, names of other projects."""
    configuration = (repository / "docs" / "conf.py").read_text()
    assert "nb_ipywidgets_js = {}" in configuration
    assert 'html_math_renderer = "mathml"' in configuration
    assert "intersphinx" not in configuration
    assert "http" not in configuration
    for ours in (repository / "docs" / "_static").iterdir():
        assert "http" not in ours.read_text(), ours.name


def test_the_gallery_shows_figures_that_lead_somewhere(repository: Path) -> None:
    docs = repository / "docs"
    text = (docs / "index.md").read_text()
    cards = re.findall(
        r"^:::\{container\} card\n\[!\[([^\]]+)\]\(([^)]+)\)\]\(([^)]+)\)\n\n\*\*\[[^\]]+\]\(([^)]+)\)", text, re.M
    )
    assert len(cards) == text.count("{container} card") >= 10
    for alternative, figure, target, again in cards:
        assert len(alternative) > 20
        assert (docs / figure).stat().st_size < 450_000
        assert target == again
        assert (docs / target).exists() or (repository / target).exists(), target
    drawn = {path.stem for path in (docs / "images" / "gallery").glob("*.png")}
    assert drawn - {"photographs"} <= set(st.__all__), "each is shown with the function of its name"


def test_topics_are_few_enough_to_read(repository: Path) -> None:
    tables = re.findall(r"^```{toctree}\n(.*?)^```", (repository / "docs" / "index.md").read_text(), re.DOTALL | re.M)
    for body in tables:
        assert ":caption:" in body
        assert len([line for line in body.splitlines() if not line.startswith(":")]) <= 8
