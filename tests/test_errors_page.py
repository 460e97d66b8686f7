"""The table of messages in docs/errors.md is that of the source, and says truly which of them tests raise."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from spectral_toolkit.errors import SpectralToolkitError, StudyError


@pytest.fixture
def make_errors(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repository / "docs"))
    return import_module("make_errors")


def test_the_table_is_current(make_errors: Any) -> None:
    """If not: ``python docs/make_errors.py``."""
    text = make_errors.PAGE.read_text(encoding="utf-8")
    assert make_errors.page(text) == text
    raised = json.loads(make_errors.RAISED.read_text(encoding="utf-8"))
    made = {one.key for one in make_errors.messages()}
    assert raised == sorted(set(raised) & made)


def test_messages_are_found_in_the_source(make_errors: Any) -> None:
    found = {one.text: one for one in make_errors.messages()}
    one = next(one for text, one in found.items() if text.startswith("out=… is not a name for a page: give one"))
    assert (one.kind, one.file) == ("StudyError", "studies/running.py")
    assert len(found) > 300


def test_what_is_wrong_and_what_to_do(make_errors: Any) -> None:
    for text, halves in (
        ("… is … here: give one.", ("… is … here", "give one.")),
        ("…: two things; choose.", ("…: two things", "choose.")),
        ("No way out.", ("No way out.", "")),
    ):
        assert make_errors._halves(text) == halves
    assert make_errors._code("a|b `c`") == "`` a\\|b `c` ``"


def test_a_run_writes_down_what_it_raises(make_errors: Any, tmp_path: Path) -> None:
    from error_recorder import write

    one = next(one for one in make_errors.messages() if one.kind == "StudyError")
    write({(str(make_errors.PACKAGE / one.file), one.lines[0]), ("elsewhere.py", 3)}, tmp_path / "run" / "1.json")
    assert json.loads((tmp_path / "run" / "1.json").read_text()) == [one.key]
    made = [other.key for other in make_errors.messages()]
    assert one.key in make_errors.raised_before(made, tmp_path / "run")
    assert make_errors.raised_before([], tmp_path / "run") == []


def test_the_recorder_notes_the_line_and_keeps_the_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import error_recorder

    registered: list[Any] = []
    monkeypatch.setattr(error_recorder.atexit, "register", lambda *arguments: registered.append(arguments))
    before = SpectralToolkitError.__init__
    try:
        error_recorder.record_errors(tmp_path)
        assert str(StudyError("what it says")) == "what it says"
        line = sys._getframe().f_lineno - 1
        assert (__file__, line) in registered[0][1]
    finally:
        SpectralToolkitError.__init__ = before  # type: ignore[method-assign]
