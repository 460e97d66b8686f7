"""Any letter in a name is printed, whatever the encoding; what we write to files is UTF-8 everywhere."""

from __future__ import annotations

import ast
import io
import os
import sys
from pathlib import Path

import pytest
from eigen_fixtures import eigenvectors
from test_imports import SOURCES

import spectral_toolkit as st
from spectral_toolkit._io.console import any_letters
from spectral_toolkit.cli import main

NAMES = ("łódź 猫 🐈", os.fsdecode(b"caf\xe9"))  # letters of no Western code page, and bytes that are no text


class Console:
    """Standard output and error as a terminal or a redirect of that encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str):
        self.encoding = encoding
        self.buffers = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, buffer in self.buffers.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding, errors="strict", write_through=True))

    def said(self) -> str:
        # Typer takes ASCII for a mistake, and writes UTF-8 all the same.
        encoding = "utf-8" if self.encoding == "ascii" else self.encoding
        return "".join(buffer.getvalue().decode(encoding) for buffer in self.buffers.values())


@pytest.mark.parametrize(
    ("encoding", "name"), [("cp1252", NAMES[0]), ("cp1252", NAMES[1]), ("ascii", NAMES[0]), ("utf-8", NAMES[1])]
)
def test_a_command_ends_well_whatever_its_console_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str
) -> None:
    folder = tmp_path / name
    eigenvectors().to_zarr(folder / "eig")
    console = Console(monkeypatch, encoding)
    command = ["segment", "--eigenvectors", str(folder / "eig"), "--n-segments", "2", "--out"]
    assert main([*command, str(folder / "segments")]) == 0
    assert main([*command, str(folder / "segments")]) == 2
    assert main(["segment", "--eigenvectors", str(folder), "--n-segments", "2", "--out", str(tmp_path / "x")]) == 2
    assert main(["capture", "--model", str(folder), "--images", str(folder / "*.png"), "--out", str(folder / "a")]) == 2
    assert main(["report", "--model", "scenes", "--images", name, "--out", str(folder / "a.txt")]) == 2
    assert main(["nonsense " + name]) == 2
    said = console.said()
    assert "2 segments in each of 2 images" in said
    assert "exists already: add --overwrite" in said
    assert said.split("-> ")[1].splitlines()[0].endswith("segments")
    assert (sys.stdout.errors, sys.stderr.errors) == ("strict", "strict"), "as they were"


def test_warnings_and_the_doctor_print_any_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(monkeypatch, "ascii")
    monkeypatch.setattr("spectral_toolkit.cli.diagnosis.Diagnosis.__str__", lambda _: NAMES[0])
    st.doctor()
    with any_letters():
        print(*NAMES)
    assert console.said().count(r"\u0142") == 2


def test_streams_that_are_none_of_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with any_letters():
        pass


_PLACES = {"read_text": 0, "write_text": 1}
"""What takes text from a file or puts it there, and the place of its argument ``encoding``."""
_PROCESSES = {"run", "Popen", "check_output"}


def _without_encoding(source: str) -> list[int]:
    """Lines that read or write text in the encoding of whoever's machine it is."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("open", "fdopen"):
            words = [part.value for part in node.args if isinstance(part, ast.Constant)]
            # Of other objects' open only that of a path is meant, whose first argument is a mode.
            is_file = isinstance(node.func, ast.Name) or called == "fdopen" or words[:1] in (["r"], ["w"], ["a"], ["x"])
            if is_file and not any("b" in str(word) for word in words):
                lines.append(node.lineno)
        elif len(node.args) <= _PLACES.get(called, -1) or (
            called in _PROCESSES and any(keyword.arg == "text" for keyword in node.keywords)
        ):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_text_is_read_and_written_as_utf_8(path: Path) -> None:
    assert _without_encoding(path.read_text(encoding="utf-8")) == []


def test_the_check_notices_a_file_without_encoding() -> None:
    source = "p.read_text()\np.write_text(x)\nopen(p)\np.open('w')\nrun(c, text=True)\n"
    assert sorted(_without_encoding(source)) == [1, 2, 3, 4, 5]
    assert _without_encoding("p.read_text('utf-8')\nopen(p, 'rb')\nImage.open(p)\np.open('rb')") == []
