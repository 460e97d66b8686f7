"""The numbers of a study as tables: tidy frames, CSV and LaTeX, also from the page itself."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.studies import StudyResult, run_study

CONFIG: dict[str, Any] = {
    "models": [{"source": "scenes", "label": "a_model"}],
    "pictures": {"made": {"scenes": 2}},
    "affinities": ["vv"],
    "layers": [[0], "all"],
    "n_eigenvectors": 2,
    "scores": True,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study(CONFIG, tmp_path_factory.mktemp("tables") / "mine.html", progress=False)


def test_scores_are_tidy(result: StudyResult) -> None:
    frame = result.to_dataframe()
    cells = result.record["cells"]
    assert list(frame.columns[:4]) == ["model", "images", "affinity", "layers"]
    own: Any = frame[frame["control"] == ""].set_index(["layers", "score"])["value"]
    for cell in cells:
        for name, score in cell["scores"]["values"].items():
            assert own[cell["layers"], name] == score["value"]
    assert set(frame["control"]) == {"", "untrained model", "raw pixels", "shuffled labels"}
    assert not frame.duplicated(["layers", "score", "control"]).any()


def test_eigenvalues_are_tidy(result: StudyResult) -> None:
    frame = result.to_dataframe("eigenvalues")
    assert len(frame) == 2 * 2 * 2
    stored = result.eigenvectors(1)["eigenvalue"]
    pd.testing.assert_frame_equal(st.to_dataframe(result, "eigenvalues"), frame)
    pd.testing.assert_frame_equal(st.to_dataframe(result), result.to_dataframe())
    joint = frame[frame["layers"] == "all"]
    np.testing.assert_allclose(joint["eigenvalue"], stored.to_numpy().ravel(), rtol=1e-8)
    assert list(joint["component"]) == [1, 2, 1, 2]
    with pytest.raises(SpectralToolkitError, match="'everything'"):
        result.to_dataframe("everything")


def test_the_page_holds_them(result: StudyResult) -> None:
    page = Path(result.html).read_text(encoding="utf-8")
    found = dict(re.findall(r'<a download="([^"]+)" href="data:[^,"]+;base64,([^"]+)">', page))
    assert list(found) == ["mine-scores.csv", "mine-eigenvalues.csv", "mine.tex"]
    texts = {name: base64.b64decode(held).decode() for name, held in found.items()}
    for of in ("scores", "eigenvalues"):
        read = pd.read_csv(io.StringIO(texts[f"mine-{of}.csv"]), keep_default_na=False, na_values=[""])
        expected = result.to_dataframe(of)
        for column in expected.select_dtypes("number").columns:
            np.testing.assert_array_equal(read[column], expected[column])
    assert texts["mine.tex"] == result.to_latex()


def test_the_same_tables_lie_beside_the_numbers(result: StudyResult) -> None:
    assert [one.name for one in result.tables] == ["mine-scores.csv", "mine-eigenvalues.csv", "mine.tex"]
    page = Path(result.html).read_text(encoding="utf-8")
    for table in result.tables:
        assert base64.b64encode(table.read_bytes()).decode() in page, table.name


def test_a_question_is_on_the_page_and_changes_no_number(result: StudyResult) -> None:
    asked = run_study({**CONFIG, "question": "Does it <group>?"}, result.html, overwrite=True, progress=False)
    page = asked.html.read_text(encoding="utf-8")
    assert "Does it &lt;group&gt;?" in page
    assert asked.from_cache == len(asked.cells)
    assert asked.record["cells"] == result.record["cells"]
    for heading in (
        "The method.",
        "All study cells in one table",
        "The scores as a figure",
        "Layer by layer",
        "limits",
    ):
        assert heading in page
    assert "question" not in result.record["study"], "a study without a question has the bytes that it had"


def test_tables_of_another_program_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.tex").write_text("\\documentclass{article}")
    with pytest.raises(SpectralToolkitError, match=r"mine\.tex' exists and was not written by"):
        run_study(CONFIG, tmp_path / "mine.html", overwrite=True, progress=False)


def test_latex_is_escaped_and_doubts_are_grey(result: StudyResult) -> None:
    text = result.to_latex()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    n_columns = len(rows[0].split(" & "))
    assert len(rows) == 3
    assert all(len(row.split(" & ")) == n_columns for row in rows)
    assert r"matched\_miou" in rows[0]
    doubted = [
        name
        for name, score in result.record["cells"][0]["scores"]["values"].items()
        if score["beats_controls"] is False
    ]
    assert rows[1].count(r"\textcolor{gray}") == len(doubted) > 0
