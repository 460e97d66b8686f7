"""The table of families in docs/supported.md is that of the survey's results, and each reason is for a family in it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_survey_page(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repository / "docs"))
    return import_module("make_survey_page")


def test_the_table_is_that_of_the_results(make_survey_page: Any) -> None:
    """If not: ``python docs/make_survey_page.py``."""
    text = make_survey_page.PAGE.read_text(encoding="utf-8")
    assert make_survey_page.page(text) == text


def test_every_reason_is_for_a_family_that_needs_one(make_survey_page: Any) -> None:
    families = json.loads(make_survey_page.KEPT.read_text(encoding="utf-8"))["families"]
    told = {name: make_survey_page.verdict(name, found) for name, found in families.items()}
    assert {*make_survey_page.APART, *make_survey_page.NOTHING, *make_survey_page.REMARKS} <= {*families}
    assert not [name for name in make_survey_page.REMARKS if told[name].startswith("works")]
    assert {*make_survey_page.UNFIT} <= {*families}
    assert not [name for name in make_survey_page.NOTHING if told[name] in ("works", "in part")]
    assert {*told.values()} <= {*make_survey_page.VERDICTS}


def test_verdicts(make_survey_page: Any) -> None:
    works = {"outcome": "works", "only_left_out": True, "classes": 1, "working": 1, "why": ""}
    partly = {**works, "outcome": "partly", "working": 0, "why": "DetrModel partly: 2 attention modules left out"}
    refused = {**works, "outcome": "refused", "only_left_out": False, "working": 0, "why": "refuses images"}
    for family, found, expected in (
        ("vit", works, "works"),
        ("detr", partly, "works, apart from"),
        ("vit", partly, "in part"),
        ("detr", {**partly, "only_left_out": False}, "in part"),
        ("perceiver", refused, "nothing to group"),
        ("vit", refused, "refused"),
        ("mllama", {**refused, "resized": works}, "works, resized"),
        ("sam2", {**refused, "resized": partly}, "works, resized"),
        ("mllama", {**refused, "resized": partly}, "in part"),
        ("udop", {**refused, "resized": refused}, "refused"),
        ("mllama", refused, "not tried"),
        ("dinat", {**refused, "outcome": "not built"}, "not tried"),
        ("cvt", {**refused, "outcome": "crash"}, "not tried"),
    ):
        assert make_survey_page.verdict(family, found) == expected, family
        assert family in make_survey_page.tables({"date": "", "versions": "", "families": {family: found}})


def test_a_reason_is_the_first_one_without_advice(make_survey_page: Any) -> None:
    why = "AModel refused: refuses 1 x 1. If you know how images enter it, say so; BModel partly: 2 left out"
    assert make_survey_page._short(why) == "refuses 1 x 1"
