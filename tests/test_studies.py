"""Studies: read with care, computed once, resumed anywhere, the same bytes again, checked against an earlier run."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._views.study_page import scores_shown
from spectral_toolkit.cli import main
from spectral_toolkit.errors import SpectralToolkitError, StoreError, StudyError
from spectral_toolkit.studies import check_study, plan, read_study, run_study, running
from spectral_toolkit.studies.check import compare, sine_between
from spectral_toolkit.studies.config import Tolerances
from spectral_toolkit.studies.numbers import dumped

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
SMALL: dict[str, Any] = {
    "models": "scenes",
    "pictures": {"made": {"scenes": {"n": 2, "seed": 1}}},
    "affinities": ["qk", "vv"],
    "layers": [[0, 1], "late"],
    "n_eigenvectors": 3,
    "device": "cpu",
    "scores": False,
    "threads": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran to its end; copied by those who change it."""
    folder = tmp_path_factory.mktemp("finished")
    run_study(SMALL, folder / "study.html", progress=False)
    return folder


@pytest.fixture
def mine(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "mine"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": "scenes"}, "'modles' is not a key of a study: did you mean 'models'?"),
        ({"models": []}, "models is []: expected at least one item"),
        ({"models": [{"source": "scenes", "dtype": "float23"}]}, "models[0].dtype is 'float23'"),
        ({"models": [{"sorce": "scenes"}]}, "'models[0].sorce' is not a key of a model: did you mean 'source'?"),
        ({"models": ["scenes", "scenes"]}, "two items of models have the label 'scenes'"),
        ({"pictures": {"a": {"scenes": {"n": 0}}}}, "pictures.a.scenes.n is 0: expected a whole number from 1"),
        ({"pictures": {"a": {"scenes": {"n": 2, "size": 50}}}}, "expected a multiple of 8"),
        ({"pictures": {"a": {"scenes": 2, "files": "*.jpg"}}}, "expected either files, scenes or a dataset"),
        ({"pictures": {"a": {"scenes": 2, "labels": "*.png"}}}, "no labels for scenes"),
        ({"pictures": {"a": {"scenes": 2, "ignore": "255"}}}, "pictures.a.ignore is '255': expected a whole number"),
        ({"pictures": {"a": {"files": "*.jpg", "ignore": 255}}}, "pictures.a.ignore is 255: expected labels beside it"),
        ({"pictures": 3}, "expected sets by name"),
        ({"affinities": ["qv"]}, "affinities[0] is 'qv': expected one of qk, vv"),
        ({"affinities": [{"kind": "vv", "kernel": "softmax"}]}, "kernel='softmax' works on qk only"),
        ({"affinities": [{"kind": "vv", "bandwidth": 1}]}, "bandwidth=1.0 does not apply to kernel='cosine'"),
        ({"affinities": ["vv", {"kind": "vv"}]}, "two items of affinities have the label 'vv'"),
        ({"kernel": "cosin"}, "kernel is 'cosin': expected one of"),
        ({"kernel": {"vw": "rbf"}}, "'kernel.vw' is not a key of kernels by affinity"),
        ({"layers": [1.5]}, "layers[0] is 1.5: expected all, early, middle, late, each"),
        ({"layers": ["5-2"]}, "expected a range whose smaller number comes first"),
        ({"layers": {"alone": "each"}}, "means many"),
        ({"scope": "world"}, "scope is 'world': expected one of image, dataset"),
        ({"n_eigenvectors": "ten"}, "n_eigenvectors is 'ten': expected a whole number from 1"),
        ({"n_eigenvectors": True}, "n_eigenvectors is True"),
        ({"tolerance": 2}, "tolerance is 2: expected a number between 0 and 1"),
        ({"seed": -1}, "seed is -1"),
        ({"scores": "yes"}, "scores is 'yes': expected true or false"),
        ({"check": {"eigenvalues": 1}}, "did you mean 'eigenvalue'?"),
        ({"check": {"score": "much"}}, "check.score is 'much': expected a number of at least 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_study_that_asks_for_the_impossible_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as raised:
        read_study({**SMALL, **change})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_missing_and_what_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text, message in (
        ("pictures: {a: {scenes: 2}}", "'models' is missing"),
        ("models: [scenes", "study.yaml, line 1, column 16: not YAML that can be read"),
        ("models: scenes\nmodels: other", "'models' occurs twice"),
        ("!!python/object/apply:os.system ['true']", "not YAML that can be read"),
        ("- scenes", "expected a study with any of the keys"),
        ("", "expected a study with any of the keys"),
    ):
        path.write_text(text)
        with pytest.raises(StudyError, match=re.escape(message)):
            read_study(path)
    with pytest.raises(StudyError, match="There is no file"):
        read_study(tmp_path / "other.yaml")


def test_numbers_of_yaml_and_ranges_of_layers(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "models: scenes\npictures: '*.png'\ntolerance: 1e-7\nlayers: [0-2, [4, -1], early]\nkernel: {vv: rbf}"
    )
    study = read_study(path)
    assert study.tolerance == 1e-7
    assert [choice.layers for choice in study.layers] == [(0, 1, 2), (4, -1), "early"]
    assert [choice.kernel for choice in study.affinities] == [None, "rbf"]
    assert study.folder == tmp_path


def test_two_folders_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    other = run_study(SMALL, tmp_path / "a longer name" / "study.html", progress=False)
    for name in ("study.json", "study.html"):
        assert (other.html.parent / name).read_bytes() == (finished / name).read_bytes()
    text = other.json.read_text()
    assert str(tmp_path) not in text
    assert "seconds" not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text)
    assert "/" not in str(other.record["models"][0]["name"])


def test_numbers_are_those_of_the_plain_functions(finished: Path) -> None:
    record = json.loads((finished / "study.json").read_text())
    acts = st.capture("scenes", st.scenes.sample(2, seed=1).pixels, layers=[0, 1, 4, 5], progress=False)
    for cell in record["cells"]:
        graph = st.affinity(acts, cell["affinity"], layers=cell["settings"]["layers"], device="cpu")
        eig = st.solve(graph, 3)
        stored = xr.open_dataset(finished / "study.zarr" / cell["group"], engine="zarr", consolidated=False)
        assert "seconds" not in stored.attrs
        for place, answer in enumerate(cell["answers"]):
            np.testing.assert_allclose(answer["eigenvalue"], eig["eigenvalue"][place], atol=1e-5)
            pair = [one["eigenvector"][place].values.reshape(-1, 3) for one in (eig, stored)]
            assert sine_between(*pair) < 1e-3
            assert answer["trust"]


class Killed(BaseException):
    """What no error handling catches."""


def test_killed_at_any_cell_it_goes_on_there(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = running.compute_cell, 0

    def dying(cell, *arguments):
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return real(cell, *arguments)

    monkeypatch.setattr(running, "compute_cell", dying)
    for left in (0, 1, 1, 1):  # before the first of four cells, and then after one more each time
        with pytest.raises(Killed):
            run_study(SMALL, tmp_path / "study.html", progress=False)
        assert left == 0
        assert [path.name for path in tmp_path.iterdir()] == ["study.cache"]
    monkeypatch.setattr(running, "compute_cell", real)
    result = run_study(SMALL, tmp_path / "study.html", progress=False)
    assert result.from_cache == 3
    for name in ("study.json", "study.html"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert not (tmp_path / "study.cache" / "activations").exists()


def test_what_is_unchanged_comes_from_the_cache(mine: Path) -> None:
    out = mine / "study.html"
    with pytest.raises(StoreError, match="exists already"):
        run_study(SMALL, out, progress=False)
    said: list[str] = []
    more = {**SMALL, "show": 1, "affinities": ["vv", "qk", "kk"], "layers": ["late"]}
    assert run_study(more, out, overwrite=True, progress=False, tell=said.append).from_cache == 2
    assert said[0] == "3 cells: 2 from the cache, 1 to compute"
    # A damaged cell is no cell.
    cell = next((mine / "study.cache" / "cells").iterdir())
    (cell / "numbers.json").write_text("{")
    assert run_study(more, out, overwrite=True, progress=False).from_cache == 2


def test_every_ingredient_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "one.png")
    small = {**SMALL, "layers": [0], "affinities": "vv", "pictures": "photos/*.png"}

    def content(**change: Any) -> str:
        return plan.plan_study(read_study({**small, **change}, folder=tmp_path)).cells[0].content_sha256

    first = content()
    assert content() == first
    assert content(title="x", show=1, check={"score": 1}, keep_activations=True) == first
    changes = [
        {"seed": 1},
        {"n_eigenvectors": 4},
        {"tolerance": 1e-5},
        {"kernel": "rbf"},
        {"affinities": "kk"},
        {"affinities": {"kind": "vv", "threshold": 0.3}},
        {"affinities": {"kind": "vv", "heads": "each"}},
        {"layers": [1]},
        {"scope": "dataset"},
        {"size": 64},
        {"threads": 2},
        {"scores": True},
        {"models": {"source": "scenes", "dtype": "float64"}},
        {"models": "scenes-absolute"},
        {"pictures": {"a": {"scenes": 1}}},
    ]
    found = {json.dumps(change): content(**change) for change in changes}
    assert len({first, *found.values()}) == 1 + len(changes)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(photos / "one.png")
    assert content() != first
    Image.fromarray(pixels ^ 1).save(photos / "one.png")
    changed = content()
    monkeypatch.setattr(plan, "versions", lambda: {"torch": "9"})
    assert content() != changed


def test_check_is_silent_on_the_same_and_finds_what_moved(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = mine / "study.yaml"
    config.write_text(json.dumps(SMALL))  # JSON is YAML
    old = mine / "study.json"
    before = sorted(path.name for path in mine.iterdir())
    assert main(["report", "--config", str(config), "--check", str(old)]) == 0
    assert "none moved" in capsys.readouterr().out.splitlines()[-1]
    assert sorted(path.name for path in mine.iterdir()) == before
    record = json.loads(old.read_text())
    record["cells"][1]["answers"][0]["eigenvalue"][1] += 0.25
    record["provenance"]["versions"]["torch"] = "1.0"
    del record["cells"][3]
    old.write_bytes(dumped(record))
    shutil.rmtree(mine / "study.zarr")
    assert main(["report", "--config", str(config), "--check", str(old)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (moved,) = [line for line in lines if "moved 0.25" in line]
    assert re.match(r"scenes · made · vv · 0, 1 · scene_0000: eigenvalue 2 was [\d.]+, is [\d.]+ \(moved", moved)
    assert "tolerance 0.0001" in moved
    assert any(line.startswith("likely cause: torch 1.0 -> ") for line in lines)
    assert any("new, so it was not compared" in line for line in lines)
    assert any("there is no zarr store" in line for line in lines)


def answer(values: list[float], groups: list[int]) -> dict[str, Any]:
    size = len(values)
    gaps = [*np.diff(values), 0.2]
    share = {"a": [value / 2 for value in values], "b": [value / 2 for value in values]}
    mass = {"a": [0.5] * size, "b": [0.5] * size}
    return {
        "image": "one",
        "eigenvalue": values,
        "eigengap": gaps,
        "converged": [True] * size,
        "degenerate_group": groups,
        "layer_share": share,
        "layer_mass": mass,
    }


def record(answers: dict[str, Any], score: float = 0.5) -> Any:
    cell = dict.fromkeys(("model", "pictures", "affinity", "layers", "group"), "x")
    found = {**cell, "answers": [answers], "scores": {"values": {"where": {"value": score}}}}
    provenance = {"versions": {}, "code_sha256": "", "arithmetic": {}}
    return {"cells": [found], "provenance": provenance, "models": [], "pictures": [], "study": {}}


def space(vectors: np.ndarray) -> xr.Dataset:
    return xr.Dataset(
        {"eigenvector": (("image", "y", "x", "component"), vectors[None, :, None])}, coords={"image": ["one"]}
    )


def test_equal_eigenvalues_are_compared_as_spaces() -> None:
    old = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 3)))[0]
    turned = old.copy()
    turned[:, 1:] = old[:, 1:] @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    for groups, n_moved in (([0, 1, 1], 0), ([0, 1, 2], 2)):
        both = record(answer([0.1, 0.3, 0.3 if n_moved == 0 else 0.4], groups))
        read = (lambda group: space(old), lambda group: space(-turned))
        assert len(compare(both, both, Tolerances(), eigenvectors=read).moved) == n_moved
    scored = compare(record(answer([0.1], [0])), record(answer([0.1], [0]), 0.52), Tolerances())
    assert [one.what for one in scored.moved] == ["score where"]
    assert compare(record(answer([0.1], [0])), record(answer([0.1], [0]), 0.52), Tolerances(score=0.03)).passed
    open_end = answer([0.1, 0.3], [0, 1])
    open_end["eigengap"][-1] = 1e-6
    both = record(open_end)
    read = (lambda group: space(old[:, :2]), lambda group: space(old[:, [0, 2]]))
    check = compare(both, both, Tolerances(), eigenvectors=read)
    assert (check.passed, check.n_unsettled) == (True, 1)


class Tags(HTMLParser):
    """Start tags with attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_page_loads_nothing_and_every_figure_has_its_recipe(finished: Path) -> None:
    html = (finished / "study.html").read_text()
    for tag, attrs in Tags(html).tags:
        assert tag not in ("iframe", "object", "embed", "audio", "video", "base")
        for name in ("src", "href", "srcset", "data", "poster"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), (tag, attrs)
    assert "default-src 'none'" in html
    targets = {attrs["id"] for _, attrs in Tags(html).tags if attrs.get("id")}
    links = [attrs.get("href") or "" for tag, attrs in Tags(html).tags if tag == "a"]
    # The other links are the tables that the page holds.
    assert {link[1:] for link in links if not link.startswith("data:text/")} <= targets
    # Four cells over two pictures, each with a picture and a spectrum; four rows.
    assert html.count('class="how"') == 4 * 2 * 2 + 4
    assert "spectral-toolkit report --config study.yaml --out study.html" in html


def test_a_recipe_makes_the_numbers_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from html import unescape

    monkeypatch.chdir(tmp_path)
    html = (finished / "study.html").read_text()
    part = html[html.index('id="cell-3"') :]
    names: dict[str, Any] = {}
    program = unescape(part[part.index("<code>") + 6 : part.index("</code>")])
    exec(compile(program, "recipe", "exec"), names)
    cell = json.loads((finished / "study.json").read_text())["cells"][3]
    assert (cell["affinity"], cell["layers"]) == ("vv", "late")
    np.testing.assert_allclose(names["vv"]["eigenvalue"][0], cell["answers"][0]["eigenvalue"], atol=1e-5)


def test_labels_scope_scores_and_hostile_names(tmp_path: Path) -> None:
    """Files with labels as one problem, under names that would be code if they were not escaped."""
    drawn = st.scenes.sample(2, seed=3)
    for place in range(2):
        Image.fromarray(drawn["pixels"].values[place]).save(tmp_path / f"p{place}.png")
        Image.fromarray(drawn["label"].values[place].astype(np.uint8)).save(tmp_path / f"p{place}.tif")
    config = {
        **SMALL,
        "models": [{"source": "scenes", "label": HOSTILE}],
        "pictures": {HOSTILE + "2": {"files": str(tmp_path / "*.png"), "labels": "*.tif"}},
        "affinities": [{"kind": "vv", "label": HOSTILE}],
        "layers": {HOSTILE: [0]},
        "title": HOSTILE,
        "scope": "dataset",
        "scores": True,
        "controls": False,
        "show": 1,
    }
    result = run_study(read_study(config, folder=tmp_path), tmp_path / "out" / "study.html", progress=False)
    (cell,) = result.record["cells"]
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cell["group"])
    assert result.eigenvectors()["eigenvector"].sizes["image"] == 2
    assert cell["answers"][0]["image"] is None
    assert cell["scores"]["labelled"]
    assert set(cell["scores"]["values"]["what"]) == {"value", "low", "high"}
    assert str(tmp_path) not in result.json.read_text()
    html = result.html.read_text()
    assert str(tmp_path) not in html
    assert "1 of 2 images shown" in html
    assert html.count("<script") == 2
    assert not [attrs for _, attrs in Tags(html).tags if any(name.startswith("on") for name in attrs)]
    (tmp_path / "p1.tif").unlink()
    with pytest.raises(StudyError, match=re.escape("'p1.png' has 0 label maps")):
        run_study(read_study(config, folder=tmp_path), tmp_path / "other.html", progress=False)


def test_a_set_without_labels_keeps_its_scores_beside_one_with_labels() -> None:
    both: Any = [{"scores": {"values": dict.fromkeys(names)}} for names in (("where", "where_plain"), ("where_plain",))]
    labelled, unlabelled = both
    assert scores_shown([labelled, unlabelled]) == ["where", "where_plain"]
    others: Any = [labelled, {"scores": None}, {"scores": {"values": {}}}]
    assert scores_shown(others) == ["where"]
    assert scores_shown([unlabelled]) == ["where_plain"]


def test_what_does_not_go_together_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "study.yaml"
    config.write_text(json.dumps(SMALL))
    other = tmp_path / "other.json"
    other.write_text("{}")
    for arguments, message in (
        (["--check", "old.json"], "give its file with --config"),
        (["--config", str(config), "--seed", "1"], "--seed cannot be given with --config"),
        (["--config", str(config), "--check", str(other), "--out", "x.html"], "--out means nothing to --check"),
        (["--config", str(config), "--check", str(other)], "holds no numbers of a study"),
        (["--config", str(config), "--out", "x.txt"], "ends in .html"),
        (["--config", str(tmp_path / "no.yaml")], "is not a file: give the YAML file of a study"),
        (["--images", "scenes:1"], "Missing option '--model'"),
        ([], "Missing option '--model'"),
    ):
        assert main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_results_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"my": "data"}')
    with pytest.raises(StoreError, match="was not written by"):
        run_study(SMALL, tmp_path / "study.html", overwrite=True, progress=False)
    (tmp_path / "mine.cache").mkdir()
    (tmp_path / "mine.cache" / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match="is not a cache of a study"):
        run_study(SMALL, tmp_path / "mine.html", progress=False)


def test_a_layer_that_is_not_there_names_the_model() -> None:
    with pytest.raises(SpectralToolkitError, match="layers '99' of the model 'scenes'"):
        plan.plan_study(read_study({**SMALL, "layers": [99]}))


def test_check_from_python(finished: Path) -> None:
    assert check_study(
        {**SMALL, "layers": [[0, 1]], "affinities": "qk"}, finished / "study.json", progress=False
    ).missing


def test_the_notebook_takes_other_parameters(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Papermill puts them in; the cells run here, as test_notebooks.py has a kernel run them already."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    monkeypatch.chdir(tmp_path)
    given = {"pictures": "scenes:1", "affinities": ["kk"], "layers": ["early"], "n_eigenvectors": 2, "seed": 4}
    notebook = load_notebook_node(str(repository / "notebooks" / "study.ipynb"))
    notebook = parameterize_notebook(notebook, {**given, "out": "mine.html"})
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names: dict[str, Any] = {}
    for source in sources:
        exec(source, names)
    record = json.loads((tmp_path / "mine.json").read_text())
    assert [(cell["affinity"], cell["layers"]) for cell in record["cells"]] == [("kk", "early")]
    assert record["pictures"][0]["n"] == 1
    assert len(record["cells"][0]["answers"][0]["eigenvalue"]) == 2
    assert names["kinds"] == ["kk"]
    last = sources[-1].splitlines()[-1]
    assert last.startswith("st.freeze(")
    assert "<iframe" in eval(last, names)._repr_html_()


def test_what_a_study_sets_itself_and_what_is_empty() -> None:
    for change, key in (
        ({"folder": "/tmp"}, "'folder' is not a key of a study"),
        ({"pictures": {"a": {"files": "*.png", "label": "b"}}}, "'pictures.a.label' is not a key of a set of images"),
        ({"pictures": ["a.png", "\0"]}, "pictures[1] is"),
        ({"affinities": [{"label": "x"}]}, "affinities[0].kind is empty: expected one of qk"),
    ):
        with pytest.raises(StudyError, match=re.escape(f"the study: {key}")):
            read_study({**SMALL, **change})
    [choice] = read_study({**SMALL, "affinities": [{"kind": "vv", "kernel": None}], "kernel": "rbf"}).affinities
    assert (choice.label, choice.kernel) == ("vv", "rbf")
