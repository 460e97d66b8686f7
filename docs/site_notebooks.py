"""Copies of the notebooks below docs/, where Sphinx looks: with outputs where they were executed, with links mended."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat

REMOTE_STYLE = re.compile(r"https://cdn\.holoviz\.org/[^\"'\\\s]+?\.css(?:\?v=[\w.]+)?")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def copy_notebooks(root: Path, target: Path) -> list[Path]:
    """Copy ``notebooks/**`` of the repository at ``root`` to ``target``; returns the notebooks.

    A copy in ``out/notebooks`` that was executed takes a notebook's place if its source is still the same. Pages in
    Markdown beside the notebooks come along. Solutions of the labs do not: they are for teachers.
    """
    source = root / "notebooks"
    copied = []
    kept = set()
    for path in sorted([*source.rglob("*.ipynb"), *source.rglob("*.md")]):
        place = path.relative_to(source)
        if ".ipynb_checkpoints" in place.parts or "solutions" in place.parts:
            continue
        written = target / place
        if path.suffix == ".md":
            text = with_site_links(path.read_text(), path.parent, root)
        else:
            notebook = executed_twin(path, root / "out" / "notebooks" / place)
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = with_site_links(cell.source, path.parent, root)
            text = nbformat.writes(notebook)
            copied.append(written)
        kept.add(written)
        written.parent.mkdir(parents=True, exist_ok=True)
        if not written.exists() or written.read_text() != text:  # Sphinx reads again what is newer
            written.write_text(text)
    for path in target.rglob("*") if target.exists() else ():
        if path.is_file() and path not in kept:
            path.unlink()
    return copied


def executed_twin(path: Path, executed: Path) -> nbformat.NotebookNode:
    """The notebook at ``executed`` if it is the one at ``path``, executed; else that one."""
    plain = nbformat.read(path, as_version=4)
    if not executed.exists():
        return plain
    run = nbformat.read(executed, as_version=4)
    same = [cell.source for cell in run.cells] == [cell.source for cell in plain.cells]
    return without_remote_styles(run) if same else plain


def without_remote_styles(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same without the style sheets that Panel, by which HoloViews draws, would fetch; figures need none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, shown in output.get("data", {}).items():
                if isinstance(shown, str):
                    output.data[kind] = REMOTE_STYLE.sub("data:text/css,", shown)
    return notebook


def with_site_links(text: str, folder: Path, root: Path) -> str:
    """Links of a page in ``folder`` as they have to be in its copy below docs/; what the site lacks becomes text."""

    def mended(match: re.Match[str]) -> str:
        label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, _, part = target.partition("#")
        there = Path(os.path.normpath(folder / name))
        if (root / "notebooks") in there.parents and "solutions" not in there.parts:
            return match[0] if there.exists() and there.suffix in {".ipynb", ".md"} else f"`{label.strip('`')}`"
        if (root / "docs") in there.parents and there.exists():
            copy = root / "docs" / folder.relative_to(root)
            return f"[{label}]({Path(os.path.relpath(there, copy)).as_posix()}{'#' * bool(part)}{part})"
        return f"`{label.strip('`')}`"

    return LINK.sub(mended, text)
