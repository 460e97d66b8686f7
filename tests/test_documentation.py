"""Every block of code in README.md and below docs/ runs, page by page, as a reader would run it: offline, in order.

A page is read from top to bottom in one namespace, in a folder that holds what the pages name: ``photos/``,
``my-photo.jpg``, a small model ``my-model``, a small pipeline ``my-pipeline`` and
``study.yaml``, the example of ``docs/``. Python is executed; of shell blocks
our own commands are, ``make``'s targets are looked up. What cannot run here carries ``<!-- not run: reason -->`` in
the line above it.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from explorer_fixtures import kept_comms
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit.cli import main

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "docs" / "notebooks"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(path for path in (ROOT / "docs").rglob("*.md") if COPIES not in path.parents),
    ]
)
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n)?^(?P<ticks>`{3,})(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=ticks)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
SHOWN_ONLY = ("bibtex", "text", "yaml", "toml", "diff", "css")
"""Languages that nobody runs."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    reason: str | None
    """Why it is not run; None where it is."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        found.append(Block(match["language"].strip(), match["code"], line, match["reason"]))
    return found


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def command_lines(code: str) -> Iterator[list[str]]:
    """Commands of a shell block: lines that a backslash continues are one, comments are none."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    # Errors then name the line of the page.
    source = "\n" * (block.line - 1) + block.code
    exec(compile(ast.parse(source, named(page)), named(page), "exec"), namespace)


def run_command(page: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in words[1:]:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{named(page)}: make has no {target}"
        return
    if words[:3] == ["python", "-m", "spectral_toolkit"]:
        words = ["spectral-toolkit", *words[3:]]
    assert words[0] == "spectral-toolkit", f"{named(page)}: cannot run {words}: say why with <!-- not run: reason -->"
    code = main(words[1:])
    assert code == 0, f"{named(page)}: {shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.fixture(scope="session")
def belongings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: photographs and a model."""
    from diffusion_zoo import stable_diffusion
    from model_zoo import BY_NAME

    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").mkdir()
    pixels = st.scenes.sample(2, seed=7)["pixels"].values
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "photos" / f"{number}.jpg")
    Image.fromarray(pixels[0]).save(folder / "my-photo.jpg")
    shutil.copy(ROOT / "docs" / "study.yaml", folder)
    BY_NAME["vit"].make().save_pretrained(folder / "my-model")
    stable_diffusion().save_pretrained(folder / "my-pipeline")
    return folder


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=named)
def test_every_block_of_the_page_runs(
    page: Path,
    belongings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "reader"
    shutil.copytree(belongings, place)
    monkeypatch.chdir(place)
    namespace: dict[str, Any] = {}
    with kept_comms():
        try:
            for block in blocks(page):
                if block.reason is not None or block.language in SHOWN_ONLY or block.language.startswith("{"):
                    continue
                if block.language == "python":
                    run_python(page, block, namespace)
                elif block.language == "sh":
                    for words in command_lines(block.code):
                        run_command(page, words, capsys)
                else:
                    pytest.fail(f"{named(page)}, line {block.line}: a block of no known language, {block.language!r}")
        finally:
            for value in namespace.values():
                if isinstance(value, st.Explorer):
                    value.close()


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    left_out = [(named(page), block) for page in PAGES for block in blocks(page) if block.reason is not None]
    run = [block for page in PAGES for block in blocks(page) if block.reason is None]
    for name, block in left_out:
        assert len(str(block.reason).split()) >= 4, f"{name}, line {block.line}: say why it is not run"
        assert block.language in ("python", "sh"), f"{name}, line {block.line}: nobody runs that anyway"
    assert len(left_out) <= 12, [(name, block.line) for name, block in left_out]
    assert len(run) > 5 * len(left_out)


def test_every_marker_stands_above_a_block() -> None:
    for page in PAGES:
        markers = len(re.findall(r"^<!-- not run:", page.read_text(), re.MULTILINE))
        assert markers == sum(block.reason is not None for block in blocks(page)), named(page)


def test_fences_are_found_as_markdown_has_them() -> None:
    text = "a\n```python\nx = 1\n```\n<!-- not run: it needs a hub -->\n```sh\nmake \\\n  demo  # why\n```\n"
    found = [match.groupdict() for match in FENCE.finditer(text)]
    assert [(one["language"], one["reason"]) for one in found] == [("python", None), ("sh", "it needs a hub")]
    assert list(command_lines(found[1]["code"])) == [["make", "demo"]]


def test_a_block_that_is_wrong_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "README.md"
    with pytest.raises(NameError):
        run_python(page, Block("python", "unknown_name", 3, None), {})
    with pytest.raises(AssertionError, match="make has no dmeo"):
        run_command(page, ["make", "dmeo"], capsys)
    with pytest.raises(AssertionError, match="say why"):
        run_command(page, ["rm", "-rf", str(tmp_path)], capsys)
    with pytest.raises(AssertionError, match="No such option"):
        run_command(page, ["spectral-toolkit", "demo", "--otu", "x"], capsys)
