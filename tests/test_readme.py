"""What the README says is what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import spectral_toolkit as st


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_opens_with_two_commands_then_python_then_a_picture_then_the_map(readme: str) -> None:
    assert readme.startswith("```sh\nmake demo")
    commands, python = blocks(readme, "sh")[0], blocks(readme, "python")[0]
    assert [line.split("#")[0].strip() for line in commands.splitlines()] == ["make demo", "make test"]
    assert python.count("\n") == 4
    places = [readme.index(part) for part in (commands, python, "![", "# spectral_toolkit", "    spectral_toolkit/\n")]
    assert places == sorted(places)


def test_tables_are_those_of_the_code(repository: Path, readme: str) -> None:
    tables = load(repository / "docs" / "make_tables.py")
    assert readme == tables.with_tables(readme), "run: python docs/make_tables.py"
    for name in tables.TABLES:
        assert tables.TABLES[name]().strip()


def test_links_and_map_lead_somewhere(repository: Path, readme: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", readme):
        assert target.startswith("https://") or (repository / target).exists(), target
    block = readme[readme.index("    spectral_toolkit/\n") :].split("\n\n")[0]
    folder = ""
    for line in block.splitlines():
        name = line.split()[0]
        indent = len(line) - len(line.lstrip())
        folder = name if indent == 4 else folder
        assert (repository / (name if indent == 4 else folder + name)).exists(), name


def test_pictures_are_small(repository: Path) -> None:
    pictures = list((repository / "docs" / "images").glob("*.png"))
    assert pictures
    assert all(path.stat().st_size < 400_000 for path in pictures)


def test_every_own_error_is_explained(repository: Path) -> None:
    """docs/errors.md has a part for every error class."""
    text = (repository / "docs" / "errors.md").read_text()
    classes = [name for name, value in vars(st.errors).items() if isinstance(value, type) and "Error" in name]
    assert classes
    for name in classes:
        assert f"`{name}`" in text


def test_explained_messages_are_those_of_the_code(repository: Path) -> None:
    """The first column of docs/errors.md quotes the fixed parts of messages."""
    spoken = []
    for path in (repository / "spectral_toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                spoken.append(node.value)
    text = (repository / "docs" / "errors.md").read_text().split("## No error")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(quoted) > 10
    for message in quoted:
        assert any(message in sentence for sentence in spoken), message
