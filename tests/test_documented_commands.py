"""Every command that a page or notebook names exists, with its options; and no formula cuts a cell of a table."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from spectral_toolkit import cli

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "docs" / "notebooks"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(path for path in (ROOT / "docs").rglob("*.md") if COPIES not in path.parents),
        *(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts),
    ]
)
FENCE = re.compile(r"^ *(`{3,})(\w*)[^\n]*\n(.*?)^ *\1 *$", re.DOTALL | re.MULTILINE)
OF_SHELLS = {"cd", "export", "ls", "source", "docker", "conda", "apt-get", "git"}
"""Part of every shell, or of systems that are not installed with us."""
INSTALLED = {"papermill", "torchrun", "hf", "pre-commit", "ruff", "pytest", "playwright", "nbstripout"}
"""Commands of packages that come with our extras."""
KNOWN = OF_SHELLS | INSTALLED | {"spectral-toolkit", "python", "pip", "make", "nbgrader", "jupyter"}


def text_of(page: Path) -> str:
    if page.suffix == ".md":
        return page.read_text().split("<!-- messages -->")[0]  # messages of errors are no commands
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def commands(text: str) -> Iterator[list[str]]:
    """Command lines of shell blocks and of indented ones, and those between backticks that have more than one word."""
    lines: list[str] = []
    for _, language, code in FENCE.findall(text):
        if language in ("sh", "bash", "console", "shell"):
            lines += code.replace("\\\n", " ").splitlines()
    rest = FENCE.sub("", text)
    named = [match[1].strip() for match in re.finditer(r"^ {4,}(\S[^\n]*)$", rest, re.MULTILINE)]
    named += [" ".join(match[2].split()) for match in re.finditer(r"(`+)([^`]+)\1", rest)]
    lines += [line for line in named if line.split(" ")[0] in KNOWN and " " in line]
    for line in lines:
        words = [word for word in shlex.split(line.removeprefix("$ "), comments=True) if word != "--"]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def fault(words: list[str]) -> str:
    """What of a command line does not exist; nothing if all does."""
    name, *rest = words
    name = re.sub(r"^python3[\d.]*$", "python", name)
    if name == "python" and rest[:1] == ["-m"]:
        return fault_of_module(rest[1], rest[2:])
    if name == "python":
        script = next((word for word in rest if word.endswith(".py")), None)
        return "" if script is None or (ROOT / script).is_file() else f"there is no {script}"
    if name == "spectral-toolkit":
        return fault_of_ours(rest)
    if name == "make":
        makefile = (ROOT / "Makefile").read_text()
        missing = [word for word in rest if "=" not in word and not re.search(rf"^{word}:", makefile, re.MULTILINE)]
        return f"make has no {missing[0]}" if missing else ""
    if name == "nbgrader":
        from nbgrader.apps import NbGraderApp

        known: Any = NbGraderApp.subcommands
        gone = rest[0] not in known or rest[0] == "formgrade"  # which only says that it moved
        return f"nbgrader has no {rest[0]}" if gone else ""
    if name == "jupyter":
        return "" if installed(f"jupyter-{rest[0]}") else f"jupyter has no {rest[0]}"
    if name == "pip":
        return fault_of_pip(rest)
    if name in OF_SHELLS or (name in INSTALLED and installed(name)):
        return ""
    return f"{name} is no command known here"


def installed(name: str) -> bool:
    return (Path(sys.executable).parent / name).exists() or shutil.which(name) is not None


def fault_of_ours(words: list[str]) -> str:
    group: Any = typer.main.get_command(cli.app)
    command = group
    while words[:1] == ["--with"] and words[2:]:  # and the name of a module
        words = words[2:]
    if words and not words[0].startswith("-"):
        if words[0] not in group.commands:
            return f"spectral-toolkit has no {words[0]}"
        command = group.commands[words[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known | {"--help"}]
    return f"spectral-toolkit {words[0]} has no {unknown[0]}" if unknown else ""


def fault_of_module(module: str, words: list[str]) -> str:
    if module == "spectral_toolkit":
        return fault_of_ours(words)
    if module == "pip":
        return fault_of_pip(words)
    found = find_spec(module)
    if found is None:
        return f"there is no module {module}"
    if module.partition(".")[0] not in ("spectral_toolkit", "training", "benchmarks"):
        return ""
    if module == "benchmarks" and words and not words[0].startswith("-"):
        script = ROOT / "benchmarks" / f"bench_{words[0].removeprefix('bench_')}.py"
        if not script.is_file():
            return f"there is no benchmark {words[0]}"
    source = "\n".join(path.read_text() for path in Path(str(found.origin)).parent.glob("*.py"))
    options = [word.split("=")[0].replace("--no-", "--") for word in words if word.startswith("--")]
    # An option stands in the source as it is typed, or as the name of what it sets.
    unknown = [one for one in options if one not in source and one[2:].replace("-", "_") not in source]
    return f"{module} has no {unknown[0]}" if unknown else ""


def fault_of_pip(words: list[str]) -> str:
    if words[0] not in ("install", "download", "uninstall", "list", "wheel"):
        return f"pip has no {words[0]}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        one
        for word in words
        for found in re.findall(r"^(?:spectral-toolkit|\.)\[(.*)\]", word)
        for one in found.split(",")
    }
    return f"there is no extra {sorted(asked - set(extras))[0]}" if asked - set(extras) else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_exists(page: Path) -> None:
    lines = [
        words for words in commands(text_of(page)) if page.name != "errors.md" or words[0] != "make"
    ]  # "make room"
    if page.name == "models.md":  # how models were trained: records, with the options that there were
        lines = [words[:3] if "training.scenes" in " ".join(words) else words for words in lines]
    faults = [f"{shlex.join(words)}: {found}" for words in lines if (found := fault(words))]
    assert not faults


def test_there_are_commands_to_check() -> None:
    named = {words[0] for page in PAGES for words in commands(text_of(page))}
    assert {"spectral-toolkit", "python", "pip", "make", "nbgrader", "jupyter", "papermill", "torchrun"} <= named


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("nbgrader formgrader", "nbgrader has no formgrader"),
        ("nbgrader formgrade", "nbgrader has no formgrade"),
        ("nbgrader autograde x", ""),
        ("spectral-toolkit reprot", "spectral-toolkit has no reprot"),
        ("spectral-toolkit report --cofnig x", "spectral-toolkit report has no --cofnig"),
        ("python -m spectral_toolkit report --config x", ""),
        ("python -m spectral_toolkit.scenes.trian", "there is no module spectral_toolkit.scenes.trian"),
        ("python -m training.scenes --stepps 3", "training.scenes has no --stepps"),
        ("python -m benchmarks nothing", "there is no benchmark nothing"),
        ("python docs/make_nothing.py", "there is no docs/make_nothing.py"),
        ("jupyter lab", ""),
        ("jupyter formgrader", "jupyter has no formgrader"),
        ("make dmeo", "make has no dmeo"),
        ("pip install 'spectral-toolkit[aap]'", "there is no extra aap"),
        ("frobnicate", "frobnicate is no command known here"),
        ("HF_HUB_OFFLINE=1 ls", None),
    ],
)
def test_what_does_not_exist_is_found(line: str, found: str | None) -> None:
    ((words),) = commands(f"```sh\n{line}\n```\n")
    assert fault(words) == (found or "")


def rows(text: str) -> Iterator[list[list[str]]]:
    """Tables of a page, each a list of rows, each a list of cells."""
    table: list[list[str]] = []
    for line in [*FENCE.sub("", text).splitlines(), ""]:
        if line.lstrip().startswith("|"):
            table.append(re.split(r"(?<!\\)\|", line.strip())[1:-1])
        elif table:
            yield table
            table = []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_bar_inside_a_cell_of_a_table_cuts_it(page: Path) -> None:
    for table in rows(text_of(page)):
        for row in table:
            assert len(row) == len(table[0]), row
            for cell in row:
                assert cell.count("$") % 2 == 0, cell
                assert cell.count("`") % 2 == 0, cell


def test_a_bar_in_a_formula_is_found() -> None:
    (table,) = rows("| a | b |\n|---|---|\n| $|x|$ | y |\n")
    assert len(table[2]) != len(table[0])
    (table,) = rows("| a | b |\n|---|---|\n| `x\\|y` | y |\n")
    assert len(table[2]) == len(table[0])
