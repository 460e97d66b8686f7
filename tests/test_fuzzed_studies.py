"""Study files that nobody would write, 300 of them: each is a study, or is refused with one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.studies.config import Study
from spectral_toolkit.studies.reading import read_study

GOOD = """\
title: Two models, where and what
models: [scenes, {source: scenes, label: other, dtype: float16}]
pictures:
  made: {scenes: {n: 4, seed: 1}}
  files: {files: ["photos/*.jpg"], labels: ["labels/*.png"]}
affinities: [qk, vv, {kind: token, kernel: rbf, bandwidth: 2.0}]
layers: {all: all, late: [-1, -2]}
n_eigenvectors: 6
seed: 3
check: {eigenvalue: 1.0e-4}
"""
SCALARS = some.sampled_from(
    [
        "2020-13-45", "2020-01-01", "!!int abc", "!!float x", "!!binary =", "!!timestamp 7", "!!set {a, a}", "-1",
        "!!omap [a]", "!!python/object:os.system x", "9" * 5000, "1e400", ".nan", "-.inf", "0x1F", "1_0", "12:30:45",
        "''", '"\\ud800"', '"\\0"', "&a [1]", "*a", "<<", "? x", "@x", "%x", "`x`", "[", "}", "|", ">-", "..", "~",
        "/etc/passwd", "http://x", "{}", "[]", "[" * 200, "{a: " * 200, "scenes", "qk", "all", "yes",
    ]
) | some.text(max_size=6)  # fmt: skip
LINES = some.sampled_from(
    [
        "<<: *a", "<<: {seed: 1}", "&a x: [*a]", "seed: 1", "models: *b", "\tseed: 2", "---", "...", "%YAML 9.9", "- x",
        "? [a]", "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\ntitle: [*c, *c, *c]",
    ]
)  # fmt: skip


@some.composite
def files(draw: some.DrawFn) -> bytes:
    """A study in which words and lines are others, then written in one encoding or another, with bytes changed."""
    lines = [str(line) for line in GOOD.splitlines()]
    for _ in range(draw(some.integers(1, 3))):
        place = draw(some.integers(0, len(lines) - 1))
        deed = draw(some.sampled_from(("word", "word", "line", "gone", "indent")))
        if deed == "word":
            words = lines[place].split(" ")
            words[draw(some.integers(0, len(words) - 1))] = draw(SCALARS)
            lines[place] = " ".join(words)
        elif deed == "line":
            lines.insert(place, draw(LINES))
        elif deed == "gone":
            del lines[place]
        else:
            lines[place] = draw(some.sampled_from((" ", "    ", "\t", "\x00", "﻿"))) + lines[place]
    encoding = draw(some.sampled_from(["utf-8"] * 6 + ["utf-16", "latin-1"]))
    data = bytearray("\n".join(lines).encode(encoding, "replace"))
    for _ in range(draw(some.sampled_from((0, 0, 1, 3)))):
        data[draw(some.integers(0, len(data) - 1))] = draw(some.integers(0, 255))
    return bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@given(files())
@settings(max_examples=300)
def test_a_study_is_read_or_refused(place: Path, data: bytes) -> None:
    path = place / "study.yaml"
    path.write_bytes(data)
    try:
        study = read_study(path)
    except SpectralToolkitError as error:
        said = str(error)
        assert path.name in said and "\n" not in said and len(said) < 2000, said  # noqa: PT018
        said.encode("utf-8")
        return
    assert isinstance(study, Study)
    assert study.record()


def test_the_study_is_good_before_it_is_spoilt(place: Path) -> None:
    (place / "good.yaml").write_text(GOOD, encoding="utf-8")
    assert len(read_study(place / "good.yaml").models) == 2
