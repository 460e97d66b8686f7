"""Pages for developers name only what exists: files, functions, methods, arguments and attributes of our sources."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import spectral_toolkit as st

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs" / "developing").glob("*.md")), ROOT / "CONTRIBUTING.md"]
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FILE = re.compile(r"[\w.*/-]*/[\w.*/-]*|[\w-]+\.(?:py|pyi|md|toml|txt|json|js|css|html|ipynb|cff)")
NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\(.*\)|=.*)?")
MADE_LATER = ("out/", ".venv")
"""What commands make, and a fresh clone does not have."""
LOCAL = {"scored", "measure", "rows", "factors", "prepare", "shapes", "scores"}
"""Names that stand for something of the reader's, in examples."""
COMMANDS = ("make ", "python ", "pre-commit ", "source ", "spectral-toolkit ", "hf ", "--", "<!--", "import ")


@cache
def files() -> frozenset[str]:
    """Files and folders that git knows."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {str(parent) for path in tracked for parent in Path(path).parents}
    return frozenset(tracked) | folders


@cache
def names() -> tuple[frozenset[str], frozenset[str]]:
    """What our sources define as functions and classes, and every name that they use at all."""
    made: set[str] = set()
    used: set[str] = {"st", "spectral_toolkit"}
    for path in (ROOT / "spectral_toolkit").rglob("*.py"):
        used |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    made.add(name)
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                    used |= set(name.split("."))
                case ast.keyword(arg=str(name)) | ast.Constant(value=str(name)):
                    used.add(name)
                case _:
                    pass
    return frozenset(made), frozenset(made | used)


def missing(code: str) -> str:
    """Return what a piece of code in a page names and nothing has; empty if all is there."""
    if code.startswith(COMMANDS):
        return next(filter(None, (missing(word) for word in code.split()[1:] if "/" in word)), "")
    if FILE.fullmatch(code):
        path = code.rstrip("/")
        if path.startswith(MADE_LATER):
            return ""
        pattern = re.compile(rf"(?:.*/)?{re.escape(path)}".replace(r"\*", "[^/]*"))
        return "" if any(map(pattern.fullmatch, files())) else f"no file {code}"
    found = NAME.fullmatch(code)
    if found is None:
        return ""
    parts, rest = found[1].split("."), found[2] or ""
    made, used = names()
    if parts[0] == "st":
        place: object = st
        for part in parts[1:]:
            if not hasattr(place, part):
                return f"no {found[1]}"
            place = getattr(place, part)
    elif rest.startswith("(") and parts[-1] not in made | LOCAL:
        return f"no function {parts[-1]}"
    return next((f"no {part}" for part in parts if part not in used | LOCAL), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_for_developers_name_what_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    assert not (wrong := [f"`{code}`: {why}" for code in CODE.findall(text) if (why := missing(code))]), wrong


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("st.solve", ""),
        ("st.solved", "no st.solved"),
        ("model.recording()", ""),
        ("model.recorded_of()", "no function recorded_of"),
        ("_affinity/table.py", ""),
        ("spectral_toolkit/scoring/", "no file spectral_toolkit/scoring/"),
        ("python docs/make_nothing.py", "no file docs/make_nothing.py"),
        ("n_segments=", ""),
        ("n_parts_of=3", "no n_parts_of"),
    ],
)
def test_a_name_of_nothing_is_found(code: str, wrong: str) -> None:
    assert missing(code) == wrong
