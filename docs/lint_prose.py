"""Run proselint over pages, notebooks and docstrings: ``python docs/lint_prose.py [file ...]``; ``make lint`` does.

It finds repeated words, cliches, weasel words, misspelt terms and the like. Which checks run is in docs/proselint.json:
all that proselint offers but *typography*, which wants curly quotes and an accent on Voila; *restricted*, which forbids
a letter; *write_good*, to which "draw the line" is a cliche; and *consistency*, which finds an American colour in
colorcet. Words of the glossary, and British spelling, are for tests/test_wording.py. What has not been rewritten yet
(`prose.NOT_YET`) is left out unless it is named.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import prose
from proselint.checks import __register__
from proselint.config import Config, load_from
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

SETTINGS = prose.ROOT / "docs" / "proselint.json"


def faults(path: Path, settings: Config) -> Iterator[str]:
    """What proselint finds in one file, a line each."""
    # One text a file: each check then runs once, and repeated beginnings of neighbouring strings stay apart.
    found = [one for one in prose.passages(path) if one.text.strip()]
    starts, text = [], ""
    for one in found:
        starts.append(len(text))
        text += f"{one.text}\n\n.\n\n"
    if not text:
        return
    for result in LintFile(path.name, text).lint(settings):
        start, end = result.check_result.span
        offset = start - 1  # proselint puts a line break in front
        said = " ".join(text[offset : end - 1].split())
        if result.check_result.check_path == "lexical_illusions" and re.search(rf"\d|\b{prose.CODE}\b", said):
            continue  # 32 x 32, or `a` or `b`
        if result.check_result.check_path == "needless_variants" and path.stem == "coco_stuff":
            continue  # the data set's own names of categories
        number = bisect_right(starts, offset) - 1
        place = found[number].place(offset - starts[number])
        yield f"{place}: {said!r}: {result.check_result.message} ({result.check_result.check_path})"


def main(names: list[str]) -> int:
    """Print what was found; 1 if anything was."""
    CheckRegistry().register_many(__register__)
    settings = load_from(SETTINGS)
    paths = [Path(name).resolve() for name in names] or [
        path for part, files in prose.parts().items() if part not in prose.NOT_YET for path in files
    ]
    lines = [line for path in paths for line in faults(path, settings)]
    print("\n".join(lines) if lines else f"proselint: nothing found in {len(paths)} files.")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
