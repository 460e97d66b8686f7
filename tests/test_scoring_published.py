"""Published scores are what the code gives: weights, pages, pictures, and a quick measurement made again."""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from model_zoo import BY_NAME
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._analysis.scores import score as scoring
from spectral_toolkit._analysis.scores.segments import partitions
from spectral_toolkit._models import loading

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
scores: Any = importlib.import_module("scores")
pages: Any = importlib.import_module("score_pages")
sys.path.pop(0)

PUBLISHED = json.loads((ROOT / "docs" / "scores.json").read_text()) if (ROOT / "docs" / "scores.json").exists() else {}
published = pytest.mark.parametrize("name", sorted(PUBLISHED))
CLAIM = re.compile(
    r"\b(mIoU|ARI|adjusted Rand|omega squared|(where|what) score|(QK|VV) (where|what))\b[^|\n]*?\b0\.\d",
    re.IGNORECASE,
)


def load(name: str) -> Any:
    """A bundled model; one that needs diffusers is left to where that is installed."""
    if (loading.WEIGHTS / name / "model_index.json").exists():
        pytest.importorskip("diffusers")
    return st.load_model(name, device="cpu")


def test_pages_are_rendered_from_the_numbers() -> None:
    written = ROOT / "docs" / "scores.md"
    assert written.exists() == bool(PUBLISHED)
    assert not PUBLISHED or written.read_text() == pages.page(PUBLISHED), "run: python docs/scores.py --render"


def test_no_other_number_claims_to_be_a_score() -> None:
    texts = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    texts.pop(ROOT / "docs" / "scores.md", None)
    for path, text in texts.items():
        claim = CLAIM.search(text)
        assert claim is None, f"{path.name} says {claim[0]!r} outside what docs/scores.py renders"


@published
def test_numbers_are_of_the_bundled_weights(name: str) -> None:
    entry, model = PUBLISHED[name], load(name)
    for part in ("full", "quick"):
        assert entry[part]["weights_sha256"] == model.weights_sha256(), "other weights: run python docs/scores.py"
    assert (entry["full"]["scenes"], entry["full"]["seed"]) == (scores.N_SCENES, scores.SEED)
    assert tuple(entry["full"]["scores"]) == scores.kinds_of(model)
    assert set(entry["full"]["roles"].values()) == {"layer", "joint", "control"}
    assert [row for row, role in entry["full"]["roles"].items() if role == "layer"] == list(model.layers)
    if "noise" in entry:
        assert (round(1000 * entry["noise"]["chosen"]),) == model.timesteps, "other noise: run python docs/scores.py"
        assert entry["noise"]["weights_sha256"] == model.weights_sha256()
        assert entry["noise"]["seed"] != entry["full"]["seed"]


@published
def test_heat_maps_are_of_these_numbers(name: str) -> None:
    numbers = pages.numbers_sha256(PUBLISHED[name])
    with Image.open(ROOT / "docs" / pages.picture_path(name)) as picture:
        assert picture.info["scores_sha256"] == numbers, "run: python docs/scores.py --render"


@published
@pytest.mark.slow(seconds=20)
def test_a_quick_measurement_comes_out_as_published(name: str) -> None:
    again = scores.measure_quickly(load(name), PUBLISHED[name]["quick"]["scenes"])
    assert scores.differences(again["scores"], PUBLISHED[name]["quick"]["scores"]) == []


# --- the machinery, on a model that nobody trained -------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "weights").mkdir()
    BY_NAME["dinov3"].make().save_pretrained(tmp_path / "weights" / "tiny")
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path / "weights")
    # What is tested here is when something is measured: two starts of k-means will do.
    monkeypatch.setattr(scoring, "partitions", lambda rows, n, starts, seed: partitions(rows, n, 2, seed))
    monkeypatch.setattr(pages, "draw", lambda entry, path: path.parent.mkdir(exist_ok=True) or _blank(entry, path))
    return scores.Places(tmp_path / "docs", tmp_path / "kept", trial=True)


def _blank(entry: Any, path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("scores_sha256", pages.numbers_sha256(entry))
    Image.new("L", (4, 4)).save(path, pnginfo=about)


def test_publishing_resumes_and_notices_what_is_out_of_date(places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    pathways = st.pathways

    def counting(*arguments: Any, **options: Any) -> Any:
        measured.append(options["kinds"])
        if len(measured) == 5:
            raise KeyboardInterrupt
        return pathways(*arguments, **(options | {"n_eigenvectors": 2, "n_bootstrap": 3, "progress": False}))

    monkeypatch.setattr(st, "pathways", counting)
    small = {"n_scenes": 3, "n_quick": 2}
    with pytest.raises(KeyboardInterrupt):
        scores.publish(["tiny"], places, **small)
    assert measured == ["qk", "vv", "qk_unrotated", "qk", "vv"]  # quick, then in full until it was cut short
    found = scores.publish(["tiny"], places, **small)
    assert measured[5:] == ["vv", "qk_unrotated"]
    assert json.loads((places.docs / "scores.json").read_text()) == found
    assert (places.docs / "scores.md").read_text() == pages.page(found)
    assert "| `tiny` | QK before rotation | 0." in pages.page(found)
    rows = found["tiny"]["full"]["scores"]["vv"]
    assert list(rows) == ["model.layer.0", "model.layer.1", "joint", "raw pixels", "untrained model", "shuffled labels"]
    assert all(value is not None for scored in rows.values() for three in scored.values() for value in three)

    assert scores.publish(["tiny"], places, **small) == found
    assert len(measured) == 7  # nothing was measured again
    assert len(pages.dataset(found["tiny"])["where"].sel(kind="QK", layer="joint").shape) == 0

    module: Any = BY_NAME["dinov3"].make()
    module.model.layer[0].attention.v_proj.weight.data *= -2
    module.save_pretrained(loading.WEIGHTS / "tiny")
    other = scores.publish(["tiny"], places, **small)
    assert len(measured) == 13
    assert other["tiny"]["full"]["weights_sha256"] != found["tiny"]["full"]["weights_sha256"]
    with Image.open(places.docs / pages.picture_path("tiny")) as picture:
        assert picture.info["scores_sha256"] == pages.numbers_sha256(other["tiny"])


def test_other_numbers_are_noticed() -> None:
    wanted: Any = {"vv": {"joint": {"what": [0.3, 0.2, 0.4], "ari": [0.5, 0.4, 0.6]}}}
    assert scores.differences(wanted, wanted) == []
    for score, change in (("what", 0.006), ("ari", 0.2), ("ari", 0.1), ("what", None)):
        found = copy.deepcopy(wanted)
        found["vv"]["joint"][score][0] = None if change is None else found["vv"]["joint"][score][0] + change
        assert scores.differences(found, wanted), (score, change)
    assert scores.differences({"vv": {}}, wanted)
    assert scores.differences({}, wanted)


@pytest.mark.parametrize("text", ["The over-clustered mIoU is 0.61.", "ari: 0.5", "VV what of 0.31, all layers"])
def test_claims_are_seen(text: str) -> None:
    assert CLAIM.search(text)
    assert not CLAIM.search("similarities above 0.1 count; what remains is 0.2")


def test_noise_is_chosen_where_the_two_add_up_to_most(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    asked: list[tuple[float, int]] = []

    def measured(model: Any, n_scenes: int, *, seed: int, **options: Any) -> Any:
        asked.append((model.timesteps[0], seed))
        where, what = {100: (0.1, 0.2), 300: (0.3, 0.15), 500: (0.2, 0.2)}[model.timesteps[0]]
        row = {"where": [where, 0, 0], "what": [what, 0, 0]}
        return {"scores": {"qk": {"joint": row}, "vv": {"joint": row}}}

    monkeypatch.setattr(scores, "measure", measured)
    chosen = scores.choose_noise(st.load_model("scenes-diffusion", device="cpu"), timesteps=(100, 300, 500), n_scenes=2)
    assert (chosen["chosen"], chosen["scenes"]) == (0.3, 2)
    assert asked == [(level, scores.NOISE_SEED) for level in (100, 300, 500)]
    assert scores.NOISE_SEED != scores.SEED
    assert chosen["levels"]["0.5"]["vv"] == {"where": 0.2, "what": 0.2}
