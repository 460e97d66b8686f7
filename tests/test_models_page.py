"""docs/models.md says what the records beside the weights say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> Any:
    spec = importlib.util.spec_from_file_location("make_models_page", repository / "docs" / "make_models_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_records(repository: Path, script: Any) -> None:
    text = (repository / "docs" / "models.md").read_text()
    assert script.page(text, script.records()) == text, "run python docs/make_models_page.py --text"


def test_every_bundled_model_has_its_row(script: Any) -> None:
    found = script.records()
    table = script.recipes(found)
    for name, record in found.items():
        assert table.count(f"| `{name}` |") == 1
        assert not [key for key in record if "scores" in key], f"{name}: scores of weights that are not bundled"
