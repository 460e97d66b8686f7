"""Rewrite the table of messages in docs/errors.md: ``python docs/make_errors.py``. A test compares them.

The messages are found in the source, where errors are made. Which of them tests raise is in docs/errors.json, kept from
a run that writes them down, and brought up to date from it:

    SPECTRAL_TOOLKIT_RECORD_ERRORS=out/errors make test
    python docs/make_errors.py out/errors
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from marked import filled

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spectral_toolkit"
PAGE = ROOT / "docs" / "errors.md"
RAISED = ROOT / "docs" / "errors.json"
GAP = "…"
"""Stands for a value that a message names."""


@dataclass(frozen=True)
class Message:
    """One sentence of the source, and where it is made: file below the package, first and last line."""

    kind: str
    text: str
    file: str
    lines: tuple[int, int]

    @property
    def key(self) -> str:
        """What tells it from others, wherever it stands in its file."""
        return f"{self.kind}: {self.text}"


def messages() -> list[Message]:
    """Every message of the package, by class as errors.py has them, then by file and line."""
    kinds = _kinds()
    found = [one for path in sorted(PACKAGE.rglob("*.py")) for one in _messages_of(path, kinds)]
    return sorted(found, key=lambda one: (kinds.index(one.kind), one.file, one.lines))


def raised_before(made: Collection[str], folder: Path | None = None) -> list[str]:
    """Keys of messages that tests raise: those known, and those of a run, as far as they are still made."""
    known = set(json.loads(RAISED.read_text())) if RAISED.exists() else set()
    for path in sorted(folder.glob("*.json")) if folder is not None else []:
        known |= set(json.loads(path.read_text()))
    return sorted(known & set(made))


def table(found: Collection[Message], raised: Collection[str]) -> str:
    """One row for every message that is worded differently."""
    rows: dict[str, dict[str, list[Message]]] = {}
    for one in found:
        rows.setdefault(one.kind, {}).setdefault(one.text, []).append(one)
    n_raised = sum(one.key in raised for one in found)
    lines = [f"There are {len(found)} messages, and tests raise {n_raised} of them. {GAP} stands for a value."]
    for kind, texts in rows.items():
        lines += ["", f"### Messages of `{kind}`", "", "| what is wrong | what to do | made in | a test raises it |"]
        lines.append("|---|---|---|---|")
        for text, places in texts.items():
            wrong, way_out = _halves(text)
            files = ", ".join(dict.fromkeys(f"`{one.file}`" for one in places))
            mark = "yes" if places[0].key in raised else ""
            lines.append(f"| {_code(wrong)} | {_code(way_out)} | {files} | {mark} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its table made again."""
    found = messages()
    return filled(text, {"messages": table(found, raised_before([one.key for one in found]))})


def _kinds() -> list[str]:
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _messages_of(path: Path, kinds: Collection[str]) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and (kind := _kind(node.func, kinds)) and node.args:
            text = _text(node.args[0])
            if text.strip(GAP):  # what only passes another message on says nothing itself
                place = path.relative_to(PACKAGE).as_posix()
                yield Message(kind, text, place, (node.lineno, node.end_lineno or node.lineno))


def _kind(made: ast.expr, kinds: Collection[str]) -> str:
    """The class of an error that is made; ``self.error(...)`` is that of a table, which stands for several."""
    if isinstance(made, ast.Attribute) and ast.unparse(made) == "self.error":
        return "SpectralToolkitError"
    return made.id if isinstance(made, ast.Name) and made.id in kinds else ""


def _text(node: ast.expr) -> str:
    """The words of a message, with a gap for every value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub(f"{GAP}+", GAP, "".join(_text(part) for part in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return GAP


def _halves(text: str) -> tuple[str, str]:
    """What is wrong, and what to do: sentences of the house have a colon or a semicolon between the two."""
    # A gap before a colon is a file or a cell that the sentence is about.
    match = re.match(rf"((?:{GAP}: )*.*?[^:;{GAP}].*?)[:;] (.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


def _code(text: str) -> str:
    """Words as they are, in a cell of a table."""
    if not text:
        return ""
    return "`` {} ``".format(" ".join(text.split()).replace("|", "\\|"))


if __name__ == "__main__":
    keys = [one.key for one in messages()]
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    RAISED.write_text(json.dumps(raised_before(keys, folder), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
