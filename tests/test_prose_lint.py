"""``docs/lint_prose.py`` finds what proselint finds, and says where; code and numbers are not prose."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def lint(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repository / "docs"))
    return import_module("lint_prose")


def test_faults_of_a_page_are_found_with_their_lines(lint: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\nA heading says what follows. It is is here.\n\n```python\nthe the\n```\n\nVery good.\n"
    )
    assert lint.main([str(page)]) == 1
    found = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in found] == [["page.md:3", "'is is'"], ["page.md:9", "'Very'"]]


def test_faults_of_notebooks_and_docstrings_are_found(lint: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    notebook = {
        "cells": [
            {"cell_type": "code", "source": "the the"},
            {"cell_type": "markdown", "source": ["So so.\n", "At at."]},
        ]
    }
    (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "one.py").write_text('x = 1\n\n\ndef f():\n    """Says says ``the`` the."""\n')
    assert lint.main([str(tmp_path / "one.ipynb"), str(tmp_path / "one.py")]) == 1
    found = capsys.readouterr().out
    assert "one.ipynb, notebook cell 2, line 2" in found
    assert "one.py:5: 'Says says'" in found


def test_code_and_sizes_are_not_repeated_words(lint: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Grids of 4 x 32 x 32 patches, `a` or `b` or `c`, and `d` `e`.\n")
    assert lint.main([str(page)]) == 0
