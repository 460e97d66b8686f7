"""Pages, notebooks, docstrings and messages use the words of docs/glossary.md, and none that these replace.

Where a word means something else, its rule allows it by `unless` or `allowed`. What has not been rewritten yet is in
`NOT_YET` of docs/prose.py; a part that has become clean has to leave that list.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
prose: Any = import_module("prose")
sys.path.pop(0)


@dataclass(frozen=True)
class Rule:
    """A word or phrase that is not said, and what is said instead."""

    not_said: str
    """A regular expression; case does not matter, and it begins and ends with a word."""
    said: str
    unless: str = ""
    """Where this matches, around the place, the word means something else."""
    allowed: tuple[str, ...] = ()
    """Files, or beginnings of their paths, in which the word means something else."""
    pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        spaced = self.not_said.replace(" ", r"\s+")
        object.__setattr__(self, "pattern", re.compile(rf"(?<![\w-])(?:{spaced})(?![\w-])", re.IGNORECASE))


ABOUT_WORDS = ("CONTRIBUTING.md", "docs/glossary.md")
LABS = ("docs/labs.md", "notebooks/labs/", "docs/notebooks/labs/")

NOTEBOOK_CELL = (
    r"(notebook|study|table|code|output|markdown)('s)?\s+cells?|cells? of (a|the|this) (notebook|table|study)"
    r"|cell's output|run (the|this|all)( \w+)? cells?|cells? (below|above)|cell=|'cells'"  # the last two name arguments
)
PHOTOGRAPHS = ("docs/how-to/command-line.md", "docs/index.md", "docs/start/tutorial.md", "docs/make_gallery.py")
HOLOVIEWS = (
    "spectral_toolkit/_views/elements.py",
    "spectral_toolkit/_views/widget/still_view.py",
)  # the element of an image is called "Picture"
NAMES_OF_CATEGORIES = ("spectral_toolkit/datasets/coco_stuff.py",)
STUDIES = ("spectral_toolkit/studies", "spectral_toolkit/_views/study", "spectral_toolkit/_views/templates/study")

RULES = (
    # Models and images.
    Rule("pictures?", "image", unless=r"bundle\.pictures", allowed=HOLOVIEWS),
    Rule(
        "photos?|photographs?",
        "image, unless a camera took it",
        allowed=(*ABOUT_WORDS, *PHOTOGRAPHS),
    ),
    Rule("cells", "patches; 'notebook cells', 'study cells'", unless=NOTEBOOK_CELL, allowed=(*STUDIES, "docs/labs.md")),
    Rule(
        "cell",
        "patch; 'notebook cell', 'study cell'",
        unless=NOTEBOOK_CELL,
        allowed=(*STUDIES, *NAMES_OF_CATEGORIES, "notebooks/", "docs/labs.md"),
    ),
    Rule("draws? of noise|noise draws?|(number|mean) of draws|timesteps and draws|draws and timesteps", "noise sample"),
    # Graphs.
    Rule("ties?|tied|tying", "affinity, edge; 'connected', 'belong together'", allowed=NAMES_OF_CATEGORIES),
    Rule("mass|masses", "degree"),
    Rule("how much (it|they|each|each layer|a layer|layers) counts?|(equal|same|a) say", "layer weight"),
    Rule("lift|lifts|lifted|lifting", "resample, interpolate"),
    # Spectral problems.
    Rule("answers?", "result", unless=r"questions?.{0,40}answer|answer.{0,40}question|issues", allowed=LABS),
    Rule("cheap|cheaply|cheaper|cheapest|dear|dearer|dearest", "of low cut value, of high cut value"),
    Rule("(cost|price) of (a|the|this|that|each) cut|what (a|the|this|that|each) cut costs", "cut value"),
    Rule(r"la(y|ys|id|ying) (\S+ ){0,4}into", "project, extend"),
    Rule("partings?", "partition"),
    Rule(
        "things?",
        "object, instance; or the noun",
        unless="(first|last|only|one|two|three|same|such a|wrong|right) things?",
    ),
    Rule("small groups|blue group|gold group", "segment, side of a cut"),
    # Files.
    Rule("(take|takes|taken|taking) along", "keep, save, export"),
    Rule("(go|goes|went|gone) on from", "resume from"),
    Rule("(made|make|makes|solved?|opened|written?|drawn) anew", "again", unless="writes .{0,40}anew|renders it anew"),
    # Sentences that read as translated.
    Rule("where is what|is all well|are no more|that for tests is none|the ground a noise", "a sentence"),
    Rule(r"unless told otherwise|(is|are|was|were) told (?!apart|how|that|what|where|which)\w+", "by default; given"),
    Rule("for want of|read it so", "for lack of; a sentence"),
    # Spelling.
    Rule("colors?|colored|neighbors?|neighborhoods?|grays?|grayscale|centers?|centered|licenses", "British spelling"),
    Rule(
        "(normali|visuali|initiali|optimi|minimi|maximi|organi|recogni|regulari|summari)z(e|es|ed|ing|ation)",
        "-ise, -isation",
        unless="Normalized Cuts and Image Segmentation",
    ),
)


QUESTION = re.compile(
    r"(\d+\. )?(who|what|where|when|which|why|how|is|are|do|does|can|has|have)(?![\w-])", re.IGNORECASE
)
NOUNS = re.compile(r"(\d+\. )?(what and where|where and what|what,|where,)", re.IGNORECASE)


def findings(part: str) -> Iterator[str]:
    """Every place of a part that uses a word that is not said."""
    for path in prose.parts()[part]:
        for passage in prose.passages(path):
            yield from found_in(passage)
            if path.suffix == ".md":
                yield from headings(passage)


def headings(passage: Any) -> Iterator[str]:
    """Headings that begin as a question and do not end as one."""
    for match in re.finditer(r"^#+ (.*)", passage.text, re.MULTILINE):
        if QUESTION.match(match[1]) and not NOUNS.match(match[1]) and not match[1].rstrip(".").endswith("?"):
            yield f"{passage.place(match.start())}: {match[0]!r}; a heading is a noun phrase or a question"


def found_in(passage: Any) -> Iterator[str]:
    for rule in RULES:
        if passage.path.startswith(rule.allowed):
            continue
        for match in rule.pattern.finditer(passage.text):
            around = " ".join(passage.text[max(0, match.start() - 60) : match.end() + 60].split())
            if not rule.unless or not re.search(rule.unless, around, re.IGNORECASE):
                yield f"{passage.place(match.start())}: {' '.join(match[0].split())!r} in {around!r}; say: {rule.said}"


@pytest.mark.parametrize("part", sorted(set(prose.parts()) - prose.NOT_YET))
def test_words_are_those_of_the_glossary(part: str) -> None:
    found = list(findings(part))
    assert not found, "\n".join(["", *found])


def test_the_list_of_what_is_not_rewritten_yet_shrinks() -> None:
    gone = sorted(part for part in prose.NOT_YET if part not in prose.parts())
    assert not gone, f"there is no such part any more: take it off NOT_YET in docs/prose.py: {gone}"
    clean = sorted(part for part in prose.NOT_YET if next(findings(part), None) is None)
    assert not clean, f"clean: take it off NOT_YET in docs/prose.py: {clean}"


def test_the_list_never_holds_a_page() -> None:
    assert not [part for part in prose.NOT_YET if part.endswith(".md") or part == "docs"]


@pytest.mark.parametrize(
    "sentence",
    [
        "Where is what",
        "Is all well?",
        "Colours of the largest groups; of a picture, the best: there are no more.",
        "Lay new pictures into the eigenvectors.",
        "New images are laid into the eigenvectors.",
        "Remember that small groups are dear.",
        "Only leave the ground a noise.",
        "Extras that a user may want; that for tests is none.",
        "Four timesteps unless told otherwise.",
        "A tie is cut where it\ngoes on from here.",
        "The cells of the grid are normalized.",
    ],
)
def test_what_is_not_said_is_found(sentence: str) -> None:
    assert list(found_in(prose.Passage("docs/x.md", 1, sentence)))


@pytest.mark.parametrize(
    "sentence",
    [
        "The first notebook cell; run the cell again; cells of a study.",
        "They answer the question, and cannot be told apart.",
        "An image of 32 x 32 patches; the affinity of an edge; something else.",
    ],
)
def test_what_may_be_said_is_not_found(sentence: str) -> None:
    assert not list(found_in(prose.Passage("docs/x.md", 1, sentence)))


def test_a_heading_is_a_noun_phrase_or_a_question() -> None:
    text = prose.of_markdown("# How it works\n\n## Does it work?\n\n## What and where\n\n## 2. Where it runs\n")
    found = [one.partition(": ")[0] for one in headings(prose.Passage("docs/x.md", 1, text))]
    assert found == ["docs/x.md:1", "docs/x.md:7"]


def test_a_finding_says_where() -> None:
    (found,) = found_in(prose.Passage("docs/x.md", 1, "One.\n\nTwo pictures."))
    assert found.startswith("docs/x.md:3: 'pictures' in ")


def test_code_in_pages_is_not_prose() -> None:
    page = (
        "# Say `picture`\n\n```python\npicture = 1\n```\n\n"
        "<!-- table -->\n| picture |\n<!-- /table -->\n<!-- picture -->\n"
        "A [link](picture.md), $picture$ and ``a ` picture`` in an\n\n    indented picture\n\nimage.\n"
    )
    text = prose.of_markdown(page)
    assert "picture" not in text
    assert text.splitlines().index("image.") == page.splitlines().index("image.")
    assert "Say _." in text
    assert "A [link], _ and _ in an" in text


def test_prose_of_a_source_is_docstrings_and_sentences() -> None:
    source = (
        '"""About pictures.\n\nParameters\n----------\npicture : Picture\n    Of ``picture``.\n\n'
        'Examples\n--------\n>>> picture\npicture\n"""\n'
        'NAME = "picture"\nLABEL = "Picture"\n'
        "def told(picture: \"picture cell\") -> 'picture cell':\n"
        "    raise ValueError(f'the picture {picture} is' + ' not `picture` here')\n"
    )
    found = list(prose.of_python(source))
    assert [line for line, _ in found] == [1, 14, 16, 16]
    assert [text.count("icture") for _, text in found] == [1, 1, 1, 0]
    assert found[2][1] == "the picture … is"


def test_prose_of_a_template_is_its_text_and_what_its_tags_say() -> None:
    template = (
        '{# a picture #}<style>.picture { }</style>\n<p class="picture" title="Two\nwords">{{ picture }} is</p>\n'
    )
    text = prose.of_template(template)
    assert text.split() == ["Two", "words", "…", "is"]
    assert text.count("\n") == template.count("\n")
    script = 'const picture = "picture";\nsay("the picture", `of ${picture} rows`, "Picture");\n'
    assert list(prose.of_script(script)) == [(2, "the picture"), (2, "of … rows"), (2, "Picture")]


def test_every_part_of_the_repository_is_read() -> None:
    found = prose.parts()
    for part in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/index.md",
        "docs/how-to/index.md",
        "docs",
        "spectral_toolkit/cli",
    ):
        assert part in found
    package = {path for part, paths in found.items() if part.startswith("spectral_toolkit") for path in paths}
    assert package == {
        path for ending in ("py", "j2", "js") for path in (ROOT / "spectral_toolkit").rglob(f"*.{ending}")
    }
    assert {part for part in found if part.endswith(".ipynb")} == {
        path.relative_to(ROOT).as_posix() for path in prose.notebooks()
    }
