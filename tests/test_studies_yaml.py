"""Study files: whatever they hold, a study or one sentence with a line and a column, soon and in little memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectral_toolkit.errors import StudyError
from spectral_toolkit.studies import read_study
from spectral_toolkit.studies.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml

PLAIN = b"models: scenes\npictures: {a: {scenes: 2}}\n"
ALIASES = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (new, new, *(old,) * 9)
    for old, new in zip(b"abcdefgh", b"bcdefghi", strict=True)
)
MERGES = b"m0: &m0 {k: 1}\n" + b"".join(
    b"m%d: &m%d {<<: [%s], k: 1}\n" % (n, n, b", ".join([b"*m%d" % (n - 1)] * 10)) for n in range(1, 9)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (b"seed: !!int abc\n" + PLAIN, (1, 7), "the tag '!!int'"),
        (b"title: !!timestamp x\n" + PLAIN, (1, 8), "the tag '!!timestamp'"),
        (b"title: !!python/object/apply:os.system ['true']\n", (1, 8), "the tag '!!python/object/apply:os.system'"),
        (b"title: ! x\n" + PLAIN, (1, 8), "the tag '!'"),
        (b"seed: " + b"9" * 5000 + b"\n" + PLAIN, (1, 7), "a number of 5,000 characters"),
        (b"seed: 0x" + b"f" * 6000 + b"\n" + PLAIN, (1, 7), "a number of 6,002 characters"),
        (b"tolerance: 1." + b"1" * 500 + b"\n" + PLAIN, (1, 12), "a number of 502 characters"),
        (ALIASES + PLAIN, (5, 11), "more than 20,000 values, with every alias expanded"),
        (MERGES + PLAIN, (5, 35), "more than 20,000 values, with every alias expanded"),
        (b"title: &a [*a]\n" + PLAIN, (1, 12), "*a refers to nothing that ends before it"),
        (b"models: *a\n", (1, 9), "*a refers to nothing that ends before it"),
        (b"models: {<<: 3}\n", (1, 10), "<< takes an alias of a mapping"),
        (PLAIN + b"title: [\n[" + b"[" * 5000 + b"]" * 5002 + b"\n", (4, 16), "more than 16 deep"),
        (b"- " * 5000, (1, 35), "more than 16 deep"),
        (b"? " * 5000, (1, 3), "a key must be a plain text"),
        (b"? [a, b]\n: c\n", (1, 3), "a key must be a plain text"),
        (b"? " + b"a" * 5000 + b"\n: 1\n", (1, 3), "a key of 5,000 characters"),
        (PLAIN + b'"models": other\n', (3, 1), "'models' occurs twice"),
        (b"models: scenes\npictures:\n  a: {scenes: 2, scenes: 3}\n", (3, 18), "'scenes' occurs twice"),
        (PLAIN + b"title: a\0b\n", (3, 9), "the character U+0000"),
        (PLAIN + b"title: caf\xe9\n", (3, 11), "not UTF-8"),
        (PLAIN.decode().encode("utf-16"), (1, 1), "not UTF-8"),
        (b'title: "\\UFFFFFFFF"\n' + PLAIN, (1, 11), "an escape that stands for no character"),
        (b"models:\n\t- scenes\n", (2, 1), r"found character '\t' that cannot start any token"),
        (PLAIN + b"---\n" + PLAIN, (3, 1), "a second document begins"),
        (b"%YAML 9.9\n---\n" + PLAIN, (1, 1), "found incompatible YAML document"),
        (b"a: b: c\n", (1, 5), "mapping values are not allowed here"),
        (b"- scenes\n" * 30_000, (20_000, 3), "more than 20,000 values"),
        (PLAIN + b'title: "\\uD800"\n', (3, 8), "title is '\\ud800': expected a text of at most 4096 characters"),
        (PLAIN + b'title: "\\0"\n', (3, 8), "title is '\\x00': expected a text of at most 4096 characters"),
        (PLAIN + b"title: 2020\n", (3, 8), "title is 2020: expected a text, in quotes"),
        (PLAIN + b"seed: 1:30\n", (3, 7), "seed is '1:30': expected a whole number"),
        (PLAIN + b"scores: yes\n", (3, 9), "scores is 'yes': expected true or false"),
        (PLAIN + b"tolerance: .NaN\n", (3, 12), "tolerance is nan: expected a number between 0 and 1"),
        (PLAIN + b"layers: [[" + b"0-9999, " * 5000 + b"1]]\n", (3, 10), "expected at most 10000 layers"),
        (PLAIN + b"sede: 1\n", (3, 7), "'sede' is not a key of a study: did you mean 'seed'?"),
        (b"models: [scenes, {label: x}]\npictures: x\n", (1, 18), "models[1].source is empty: expected a text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_sentence_with_line_and_column(path: Path, text: bytes, place: tuple[int, int], says: str) -> None:
    path.write_bytes(text)
    with pytest.raises(StudyError) as raised:
        read_study(path)
    message = str(raised.value)
    assert message.startswith(f"study.yaml, line {place[0]}, column {place[1]}: "), message
    assert says in message
    assert "\n" not in message
    assert len(message) < 600


def test_values_are_those_of_the_core_schema(path: Path) -> None:
    path.write_text(
        "\ufeffa: [010, 0o10, 0x10, 1e-6, .5, -.INF, +1, 1_000, 1:30, 2020-13-45, yes, On, ~, TRUE, 'null', \"1\"]\n"
        "1: &x {b: 2}\n'~': {<<: *x, c: 3}\nnull: {<<: [{b: 1, d: 1}, *x]}\n'<<': 4\n"
    )
    content, places = read_yaml(path)
    numbers = [10, 8, 16, 1e-6, 0.5, float("-inf"), 1, "1_000", "1:30", "2020-13-45", "yes", "On", None]
    assert content == {
        "a": [*numbers, True, "null", "1"],
        "1": {"b": 2},
        "~": {"b": 2, "c": 3},
        "null": {"b": 1, "d": 1},
        "<<": 4,
    }
    assert places["~.c"] == (3, 18)


def test_what_is_no_file_or_too_large(path: Path, tmp_path: Path) -> None:
    path.write_bytes(PLAIN + b"#" * MAX_BYTES)
    os.mkfifo(tmp_path / "pipe")
    for place, says in (
        (path, "more than 1,000,000 bytes"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path, "is not a file"),
        (path / "below", "There is no file"),
        (tmp_path / "a\0b", "cannot be used"),
        (tmp_path / ("x" * 300), "cannot be used"),
    ):
        with pytest.raises(StudyError, match=re.escape(says)):
            read_study(place)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 10**5000},
        {"layers": [10**5000]},
        {"tolerance": 10**400},
        {"title": "x" * 10**6},
        {"x" * 10**6: 1},
        {"models": ["x" * 5000] * 2},
        {"check": {1: 2}},
        {"kernel": {"vv": ["a"]}},
        {"scope": [1]},
        {"layers": ["a\0"]},
    ],
    ids=lambda change: next(iter(change))[:10],
)
def test_mappings_from_python_may_hold_anything(change: dict[str, Any]) -> None:
    with pytest.raises(StudyError) as raised:
        read_study({"models": "scenes", "pictures": "x.png", **change})
    assert len(str(raised.value)) < 500


TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "~",
        "<<",
        "*a",
        "&a x",
        "!!int 3",
        "0x1f",
        "1e9",
        ".nan",
        "- a",
        "? b",
        "|",
        ">-",
        "'",
        '"\\x0',
        "%TAG",
        "---",
        "\t",
    ]
)
DATA = st.recursive(
    TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(TEXTS, inner, max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=12,
)
LINES = st.tuples(st.sampled_from(["models", "pictures", "layers", "affinities", "seed", "check", "kernel"]), DATA)


def said_of(path: Path) -> str:
    """The sentence, or nothing where it is a study; whatever else is raised goes on."""
    try:
        read_study(path)
    except StudyError as error:
        return str(error)
    return ""


@settings(max_examples=300)
@given(st.lists(LINES, max_size=5).map(lambda lines: "\n".join(f"{key}: {text}" for key, text in lines)))
@example("a: &a [*a, {<<: *a}]")
def test_any_text_is_a_study_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert "\n" not in said_of(path)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_study_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(PLAIN + data)
    assert "\n" not in said_of(path)


def test_bounds_are_what_the_documentation_says() -> None:
    text = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()
    assert (MAX_BYTES, MAX_DEPTH) == (10**6, 16)
    assert f"at most 1 MB and, with every alias written out, {MAX_VALUES:,} values" in text
