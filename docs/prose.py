"""The prose of this repository without its code: what tests/test_wording.py and docs/lint_prose.py read.

Prose is what people read as sentences: pages, Markdown cells of notebooks, docstrings, strings of the source that hold
more than one word, and the text of templates. Code within them is blanked, line by line, so that line numbers stay
those of the file.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = "_"
"""Stands where code was, so that the words around it do not meet."""

NOT_YET: frozenset[str] = frozenset()
"""Parts (see `parts`) whose prose has not been rewritten yet. A test fails where one of them is clean: this shrinks."""


@dataclass(frozen=True)
class Passage:
    """Prose of one file that begins at one line of it; of a notebook, at a line of one notebook cell."""

    path: str
    line: int
    text: str
    cell: int | None = None

    def place(self, offset: int) -> str:
        """Where a character of the text is, for people."""
        line = self.line + self.text.count("\n", 0, offset)
        return f"{self.path}:{line}" if self.cell is None else f"{self.path}, notebook cell {self.cell}, line {line}"


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md, CHANGELOG.md and the pages below docs/."""
    copies = ROOT / "docs" / "notebooks"
    below = [path for path in (ROOT / "docs").rglob("*.md") if copies not in path.parents]
    return sorted([*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *below])


def notebooks() -> list[Path]:
    """Every notebook, solutions of the labs included."""
    found = (ROOT / "notebooks").rglob("*.ipynb")
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def passages(path: Path) -> Iterator[Passage]:
    """The prose of one file."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    if path.suffix == ".md":
        yield Passage(name, 1, of_markdown(path.read_text(encoding="utf-8")))
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], start=1):
            if cell["cell_type"] == "markdown":
                yield Passage(name, 1, of_markdown("".join(cell["source"])), number)
    elif path.suffix == ".j2":
        yield Passage(name, 1, of_template(path.read_text(encoding="utf-8")))
    else:
        of_source = of_script if path.suffix == ".js" else of_python
        for line, text in of_source(path.read_text(encoding="utf-8")):
            yield Passage(name, line, text)


def parts() -> dict[str, list[Path]]:
    """Everything whose prose is checked, by name: a page, a notebook, a module or the modules of one folder."""
    package = ROOT / "spectral_toolkit"
    found = {path.relative_to(ROOT).as_posix(): [path] for path in [*pages(), *notebooks(), *package.glob("*.py")]}
    below = [path for ending in ("py", "j2", "js") for path in package.glob(f"*/**/*.{ending}")]
    for path in sorted([*below, *(ROOT / "docs").glob("*.py")]):
        found.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return found


# --- Markdown --------------------------------------------------------------------------------------------------------

BLOCKS = (
    r"^ *(`{3,}|~{3,}).*?^ *\1[ ]*$",  # fenced code
    r"<!-- (\w+) -->.*?<!-- /\1 -->",  # a table that a script makes from the source, where its words are checked
    r"<!--.*?-->",
    r"(?<=\n\n)(?:^ {4,}[^\n]*\n?|^[ ]*\n(?= {4}))+",  # indented code
    r"\$\$.*?\$\$",
)
INLINE = (r"(`+)(?!`).*?(?<!`)\1(?!`)", r"\$[^$\n]+\$", r"<[a-z/][^>\n]*>", r"https?://\S+")


def of_markdown(text: str) -> str:
    """The same text with code, formulas, comments, addresses and generated tables blanked."""
    for pattern in BLOCKS:
        text = re.sub(pattern, _blank, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)\s]+\)", "]", text)
    for pattern in INLINE:
        text = re.sub(pattern, _mark, text, flags=re.DOTALL)
    return re.sub(r"^(#+ .*\w)$", r"\1.", text, flags=re.MULTILINE)  # headings end, so that they run into no sentence


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _mark(match: re.Match[str]) -> str:
    return CODE + "\n" * match[0].count("\n")


# --- Python ----------------------------------------------------------------------------------------------------------

WORD = re.compile(r"(?<![\w.])[^\W\d_]{2,}(?![\w(=])")
GAP = "…"
"""Stands for a value that a string names."""


def of_python(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, and strings of more than one word or of one capitalised word; each with its line."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and _is_text(node.value)}
    for node in _strings(tree):
        text = _joined(node)
        if id(node) in told:
            yield node.lineno, of_docstring(text)
        elif _says_something(text):
            yield node.lineno, re.sub(r"(`+).*?\1|<[a-z/][^>]*>|[\w-]+:[^ ;]*;|[\w-]+:[^;]*px[^;]*;?", CODE, text)


def _says_something(text: str) -> bool:
    """Whether a string is more than a name or a selector of CSS."""
    several = " " in text and len(WORD.findall(text)) > 1 and not re.match(r"[#.][a-z]", text)
    return several or bool(re.fullmatch(r"[A-Z][a-z]+", text))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _strings(node: ast.AST) -> Iterator[ast.expr]:
    """Strings of a tree, without those of annotations and subscripts, which are shapes and names."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.expr) and _is_text(node)):
        yield node  # type: ignore[misc]
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "slice"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _strings(child)


def _joined(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)


def of_docstring(text: str) -> str:
    """A docstring without examples, names of arguments, and words between backticks."""
    kept = []
    in_example = False
    for line in inspect.cleandoc(text).splitlines():
        in_example = line.strip().startswith(">>>") or (in_example and bool(line.strip()))
        declares = re.match(r"[\w*, ]+( : .*)?$|-+$", line) and not line.endswith(".")
        kept.append("" if in_example or declares else line)
    return re.sub(r"(`+).*?\1", _mark, "\n".join(kept), flags=re.DOTALL)


# --- Templates -------------------------------------------------------------------------------------------------------


def of_template(text: str) -> str:
    """The text of an HTML template, with what its tags say to those who point at them or cannot see."""
    for pattern in (r"{#.*?#}", r"{%.*?%}", r"<!--.*?-->", r"<(style|script)\b.*?</\1>"):
        text = re.sub(pattern, _blank, text, flags=re.DOTALL)
    text = re.sub(r"{{.*?}}", GAP, text, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", _said_by_tag, text)


def _said_by_tag(match: re.Match[str]) -> str:
    said = re.findall(r"\b(?:title|aria-label|alt|placeholder)=\"([^\"]*)\"", match[0])
    return " ".join([*said, "\n" * (match[0].count("\n") - "".join(said).count("\n"))])


def of_script(source: str) -> Iterator[tuple[int, str]]:
    """Strings of JavaScript that say something, each with its line."""
    for match in re.finditer(r"\"((?:[^\"\\\n]|\\.)*)\"|`((?:[^`\\]|\\.)*)`", source):
        text = re.sub(r"\${[^}]*}", GAP, match[1] or match[2] or "")
        if _says_something(text):
            yield source.count("\n", 0, match.start()) + 1, re.sub(r"<[a-z/][^>]*>", CODE, text)
