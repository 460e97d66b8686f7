"""The runner of ``make bench``; the measurements themselves are no tests."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import collect, meets, rows, table


def test_ratio_says_how_many_times_less() -> None:
    (row,) = rows({"name": "solve", "ours": 2.0, "theirs": 6.0, "target": ">= 3"})
    assert (row["ratio"], row["met"], row["unit"]) == (3.0, True, "s")


def test_a_ratio_of_its_own_and_a_missed_target() -> None:
    first, second = rows(
        [
            {"name": "capture", "ours": 1.2, "theirs": 1.0, "ratio": 1.2, "target": "<= 1.15"},
            {"name": "memory", "ours": 1.5, "theirs": 2.0, "unit": "GB"},
        ]
    )
    assert first["met"] is False
    assert "met" not in second
    text = table([first, second])
    assert "NO" in text
    assert "1.5 GB" in text


def test_nan_meets_nothing_and_nonsense_is_refused() -> None:
    assert not meets(float("nan"), ">= 1")
    with pytest.raises(ValueError, match="not of the form"):
        meets(1.0, "about ten")


def test_every_benchmark_file_offers_one() -> None:
    assert all(callable(function) for _, function in collect())
    assert collect(["no such file"]) == []
