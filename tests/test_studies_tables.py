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
    own = frame[frame["control"] == ""].set_index(["layers", "score"])["value"]
    for cell in cells:
        for name, score in cell["scores"]["values"].items():
            assert own[cell["layers"], name] == score["value"]
    assert set(frame["control"]) == {"", "untrained model", "raw pixels", "shuffled labels"}
    assert not frame.duplicated(["layers", "score", "control"]).any()


def test_eigenvalues_are_tidy(result: StudyResult) -> None:
    frame = result.to_dataframe("eigenvalues")
    assert len(frame) == 2 * 2 * 2
    stored = result.eigenvectors(1)["eigenvalue"]
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
