"""A study headlines no artefact: controls beside every score, evaluations at the pixels, and both on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._analysis.scores.judging import judge
from spectral_toolkit._views.study_page import _score
from spectral_toolkit.errors import StudyError
from spectral_toolkit.studies import check_study, read_study, run_study
from spectral_toolkit.studies.published import PUBLISHED

SMALL: dict[str, Any] = {
    "models": "scenes",
    "pictures": {"made": {"scenes": {"n": 3, "seed": 1}}},
    "affinities": ["vv"],
    "layers": [[3]],
    "n_eigenvectors": 2,
    "device": "cpu",
    "threads": 1,
    "show": 1,
    "evaluate": {"regions": 3, "clusters": ["categories", 20]},
}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> st.studies.StudyResult:
    return run_study(SMALL, tmp_path_factory.mktemp("controlled") / "study.html", progress=False)


def test_controls_are_those_of_pathways(controlled: st.studies.StudyResult) -> None:
    (cell,) = controlled.record["cells"]
    scenes = st.scenes.sample(3, seed=1)
    model = st.load_model("scenes", device="cpu")
    acts = st.capture(model, scenes.pixels, layers=[3], quantities=("token", "value"), progress=False)
    found = st.pathways(
        acts, scenes.label, kinds="vv", n_eigenvectors=2, model=model, progress=False, device="cpu", seed=0
    )
    for name, score in cell["scores"]["values"].items():
        assert set(score["controls"]) == {"untrained model", "raw pixels", "shuffled labels"}
        for row, one in [("joint", score), *score["controls"].items()]:
            wanted = found.sel(kind="vv", layer=row)
            assert one["value"] == pytest.approx(float(wanted[name]), abs=2e-3), (name, row)
            if one["low"] is not None:
                assert one["low"] == pytest.approx(float(wanted[f"{name}_low"]), abs=0.02), (name, row)


def test_the_page_shows_controls_and_doubts(controlled: st.studies.StudyResult) -> None:
    (cell,) = controlled.record["cells"]
    page = controlled.html.read_text()
    for control in ("untrained model", "raw pixels", "shuffled labels"):
        assert len(re.findall(rf'<tr class="control"><th scope="row"><span[^>]*>.*?</span>{control}</th>', page)) == 1
    values: Any = cell["scores"]["values"]
    shown = ("where", "what", "matched_miou", "overclustered_miou")
    n_doubted = sum(values[name]["beats_controls"] is False for name in shown)
    scores = page[page.index('id="summary"') : page.index('id="evaluations"')]
    assert scores.count('class="artefact"') == 2 * n_doubted, "in the table, and in the figure"
    share = values["image_share"]["value"]
    assert scores.count(f"Image share {share:.3f}") == sum(share > values[name]["value"] for name in shown)
    assert values["image_share"]["beats_controls"] is None
    # Labels of other images are no control of where.
    assert "Controls were left out" not in page


def test_without_controls_the_page_says_so(tmp_path: Path) -> None:
    result = run_study({**SMALL, "controls": False, "evaluate": False}, tmp_path / "study.html", progress=False)
    (cell,) = result.record["cells"]
    assert "controls" not in cell["scores"]["values"]["what"]
    assert cell["scores"]["controlled"] is False
    assert "evaluation" not in cell
    assert "Controls were left out (controls: false)" in result.html.read_text()


def test_evaluations_are_those_of_evaluate(controlled: st.studies.StudyResult) -> None:
    (cell,) = controlled.record["cells"]
    scenes = st.scenes.sample(3, seed=1)
    acts = st.capture("scenes", scenes.pixels, layers=[3], quantities=("value",), progress=False)
    alone = st.solve(st.affinity(acts, "vv", device="cpu"), 2)
    joint = st.solve(st.affinity(acts, "vv", scope="dataset", device="cpu"), 2)
    evaluation = cell["evaluation"]
    wanted = st.evaluate(st.segment(alone, 3), scenes.label)
    assert evaluation["regions"]["n"] == 3
    assert evaluation["regions"]["oracle_miou"] == pytest.approx(float(wanted.oracle_miou), abs=0.01)
    assert evaluation["n_pixels"] == int((scenes.label.values >= 0).sum())
    cells = st.prepare_labels(acts, scenes.label).values
    first, second = evaluation["clusters"]
    assert first["n"] == len(np.unique(cells[cells >= 0]))
    assert second["n"] == 20
    wanted = st.evaluate(st.segment(joint, 20), scenes.label)
    for name in ("overclustered_miou", "matched_accuracy"):
        assert second[name] == pytest.approx(float(wanted[name]), abs=0.01)
    assert set(evaluation["controls"]) == {"untrained model", "raw pixels"}
    page = controlled.html.read_text()
    assert "3 regions in each image: oracle mIoU" in page
    assert "as many clusters as categories: mIoU, matched" in page
    assert "Published figures" not in page  # scenes are no published data set


def test_controls_lie_where_the_model_looks(tmp_path: Path) -> None:
    """Photographs are resized for the model, and label maps have the size of the photographs."""
    scenes = st.scenes.sample(2, seed=1)
    for part, values in (("photos", scenes.pixels.values), ("masks", scenes.label.values.clip(0, 3).astype(np.uint8))):
        (tmp_path / part).mkdir()
        for place in range(2):
            larger = values[place].repeat(2, axis=0).repeat(3, axis=1)
            Image.fromarray(larger).save(tmp_path / part / f"{place}.png")
    config = {
        **SMALL,
        "pictures": {"own": {"files": "photos", "labels": "masks", "categories": ["a", "b", "c", "d"]}},
        "evaluate": {"regions": 3},
    }
    result = run_study(read_study(config, folder=tmp_path), tmp_path / "study.html", progress=False)
    (cell,) = result.record["cells"]
    evaluation = cell["evaluation"]
    assert evaluation["notes"] == ""
    for one in (evaluation, *evaluation["controls"].values()):
        assert one["n_pixels"] == 2 * 96 * 96 * 6
        assert one["clusters"][0]["n"] == 4
    assert set(evaluation["controls"]) == {"untrained model", "raw pixels"}


def test_check_compares_controls_and_evaluations(controlled: st.studies.StudyResult, tmp_path: Path) -> None:
    record = json.loads(controlled.json.read_text())
    (cell,) = record["cells"]
    cell["scores"]["values"]["what"]["controls"]["untrained model"]["value"] += 0.5
    cell["evaluation"]["regions"]["oracle_miou"] -= 0.5
    (tmp_path / "study.json").write_text(json.dumps(record))
    found = check_study(SMALL, tmp_path / "study.json", progress=False)
    moved = [one.what for one in found.moved]
    assert moved == ["score what of the control 'untrained model'", "evaluation oracle_miou of 3 regions"]


def test_a_verdict_needs_the_interval_and_the_direction() -> None:
    what = st.scores.SCORES["what"]
    assert judge(what, (0.6, 0.5, 0.7), {"untrained model": (0.4, 0.3, 0.5), "raw pixels": (0.1, 0, 1)}).beats
    assert judge(what, (0.6, None, None), {"untrained model": (0.5, None, None)}).beats
    assert judge(what, (0.6, 0.4, 0.7), {"untrained model": (0.5, 0.3, 0.6)}).beats is False
    assert judge(what, (0.6, 0.4, 0.7), {"untrained model": (None, None, None)}).beats is None
    assert judge(what, (None, None, None), {"untrained model": (0.1, 0, 1)}).beats is None
    where = st.scores.SCORES["where"]
    assert judge(where, (0.6, 0.5, 0.7), {"shuffled labels": (0.6, 0.5, 0.7), "raw pixels": (0, 0, 0)}).beats
    assert judge(st.scores.SCORES["image_share"], (0.9, 0.8, 1), {"raw pixels": (0.95, 0.9, 1)}).beats is None
    error = st.scores.Score("error", "", "", "", segments=lambda table: 0.0, higher_is_better=False)
    assert judge(error, (0.1, 0.0, 0.2), {"raw pixels": (0.3, 0.2, 0.4)}).beats
    verdict = judge(error, (0.4, 0.3, 0.5), {"raw pixels": (0.3, 0.2, 0.4)})
    assert verdict.words == "Not below raw pixels (0.300)."


def test_image_share_is_shown_where_it_is_larger() -> None:
    values = {"what": {"value": 0.533, "low": None, "high": None}, "image_share": {"value": 0.948}}
    text = _score(values["what"], "what", values)
    assert text is not None
    assert text.words == ("Image share 0.948",)
    values["image_share"]["value"] = 0.5
    text = _score(values["what"], "what", values)
    assert text is not None
    assert text.words == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"controls": "no"}, "controls is 'no': expected true or false"),
        ({"evaluate": {"regions": 1}}, "evaluate.regions is 1: expected a whole number from 2"),
        ({"evaluate": {"clusters": "all"}}, "evaluate.clusters is 'all': expected categories, or a whole number"),
        ({"evaluate": {"cluster": 3}}, "'evaluate.cluster' is not a key of an evaluation: did you mean 'clusters'?"),
        ({"models": [{"source": "scenes", "timesteps": [-1]}]}, "models[0].timesteps"),
    ],
)
def test_what_is_asked_for_wrongly(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        read_study({**SMALL, **change})


def test_evaluate_needs_labels_and_timesteps_a_denoiser(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    with pytest.raises(StudyError, match="evaluate needs labels, but no set of images has any"):
        run_study({**SMALL, "pictures": {"a": str(tmp_path / "a.png")}}, tmp_path / "s.html", progress=False)
    models = [{"source": "scenes", "timesteps": 100}]
    with pytest.raises(StudyError, match="'scenes' is no denoiser, so it has no timesteps"):
        run_study({**SMALL, "models": models}, tmp_path / "other.html", progress=False)


def test_each_timestep_is_a_model_of_its_own(tmp_path: Path) -> None:
    models = [{"source": "scenes-diffusion", "label": f"t={step}", "timesteps": step} for step in (50, 800)]
    small = {"models": models, "controls": False, "scores": False, "layers": [[2]], "evaluate": {"regions": 3}}
    result = run_study({**SMALL, **small}, tmp_path / "study.html", progress=False)
    assert result.cells == ["t=50 · made · vv · 2", "t=800 · made · vv · 2"]
    first, second = (cell["evaluation"]["regions"]["oracle_accuracy"] for cell in result.record["cells"])
    assert first != second


def test_published_figures_are_of_layouts_that_exist() -> None:
    assert {one.layout for one in PUBLISHED} <= set(st.datasets.LAYOUTS)
    for one in PUBLISHED:
        assert one.source.startswith("https://")
        assert all(value is None or 0 < value < 1 for value in (one.miou, one.accuracy))
