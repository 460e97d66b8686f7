"""A study takes its outputs for itself: one run at a time, and written only over what is its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from preloaded import PYTHON

import spectral_toolkit as st
from spectral_toolkit._views.report import report_html
from spectral_toolkit.cli import main
from spectral_toolkit.errors import StoreError, StudyError
from spectral_toolkit.studies import check_study, run_study, running
from spectral_toolkit.studies.cache import Cache
from spectral_toolkit.studies.claim import locked
from spectral_toolkit.studies.numbers import dumped

TINY: dict[str, Any] = {
    "title": "Tiny",
    "models": "scenes",
    "pictures": {"made": {"scenes": {"n": 1, "seed": 1}}},
    "affinities": "vv",
    "layers": [0],
    "n_eigenvectors": 2,
    "device": "cpu",
    "scores": False,
    "threads": 1,
}
HOLDING = """
import sys, time
from pathlib import Path
from spectral_toolkit.studies.cache import Cache
from spectral_toolkit.studies.claim import locked
with locked(Cache(Path(sys.argv[1]))):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_study(TINY, folder / "study.html", progress=False)
    return folder


@pytest.fixture
def mine(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "mine"))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process at work in ``study.cache``."""
    command = [*PYTHON, "-c", HOLDING, str(tmp_path / "study.cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_of_two_runs_says_so_and_a_killed_one_leaves_no_lock(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "study.yaml"
    config.write_text(json.dumps(TINY))
    command = ["report", "--config", str(config), "--out", str(tmp_path / "study.html")]
    assert main(command) == 2
    assert "Another run is at work in" in capsys.readouterr().err
    assert not (tmp_path / "study.json").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert main(command) == 0


def test_two_runs_in_one_process_and_two_checks(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []
    real = running.compute_cell

    def again(*arguments: Any) -> Any:
        with pytest.raises(StudyError, match="Another run is at work in"):
            run_study(TINY, mine / "other.html", progress=False)
        inside.append("run")
        return real(*arguments)

    monkeypatch.setattr(running, "compute_cell", again)
    run_study(TINY, mine / "other.html", progress=False)
    assert inside
    with (
        locked(Cache(mine / "study.check")),
        pytest.raises(StudyError, match="Another run is at work in"),
    ):
        check_study(TINY, mine / "study.json", progress=False)
    assert (mine / "study.check").is_dir()


def test_a_lock_on_a_folder_that_was_removed_is_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a.cache")
    with locked(cache):
        shutil.rmtree(cache.folder)
        with locked(Cache(tmp_path / "a.cache")), pytest.raises(StudyError, match="Another run"), locked(cache):
            pass


def test_a_cache_that_another_run_makes_at_this_moment_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "a.cache"
    folder.mkdir()
    (folder / "CACHEDIR.TAG").touch()
    (folder / "lock").touch()
    Cache(folder)
    (folder / "CACHEDIR.TAG").write_text("of another program")
    (folder / "data").touch()
    with pytest.raises(StoreError, match="is not a cache of a study"):
        Cache(folder)


@pytest.mark.parametrize(
    ("change", "known_by"),
    [
        ({"title": "Other"}, "'Tiny', and not to this one, 'Other'"),
        ({"title": "A study"}, "'Tiny', and not to this one, 'A study'"),
    ],
)
@pytest.mark.parametrize("left", ["all", "numbers", "cache"])
def test_results_of_another_study_stay(mine: Path, change: dict[str, Any], known_by: str, left: str) -> None:
    """Also where only its numbers are left, or only the cells of a run that was interrupted."""
    for path in list(mine.iterdir()):
        if left != "all" and path.name != {"numbers": "study.json", "cache": "study.cache"}[left]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(mine)
    with pytest.raises(StudyError, match=re.escape(known_by)):
        run_study({**TINY, **change}, mine / "study.html", overwrite=True, progress=False)
    assert contents(mine) == before


def test_a_study_that_was_edited_is_the_same(mine: Path) -> None:
    edited = {**TINY, "seed": 3, "layers": [0, 1]}
    assert run_study(edited, mine / "study.html", overwrite=True, progress=False).from_cache == 0
    assert run_study({**edited, "show": 1}, mine / "study.html", overwrite=True, progress=False).from_cache == 2


def test_without_a_title_some_model_and_pictures_must_be_the_same(tmp_path: Path) -> None:
    plain = {name: value for name, value in TINY.items() if name != "title"}
    run_study(plain, tmp_path / "a.html", progress=False)
    more = {**plain, "pictures": {**plain["pictures"], "more": {"scenes": {"n": 1, "seed": 2}}}}
    assert run_study(more, tmp_path / "a.html", overwrite=True, progress=False).from_cache == 1
    for change in ({"models": "scenes-absolute"}, {"pictures": {"others": {"scenes": 1}}}):
        with pytest.raises(StudyError, match="belongs to another study, 'A study', and not to this one"):
            run_study({**plain, **change}, tmp_path / "a.html", overwrite=True, progress=False)


@pytest.mark.parametrize("name", ["study.html", "study.zarr"])
def test_what_another_command_wrote_stays(name: str, tmp_path: Path) -> None:
    acts = st.capture("scenes", st.scenes.sample(1, seed=1).pixels, layers=[0], progress=False)
    eig = st.solve(st.affinity(acts, "vv", device="cpu"), 2)
    if name == "study.zarr":
        eig.to_zarr(tmp_path / name)
    else:
        (tmp_path / name).write_text(report_html(acts, {"vv": eig}))
    before = contents(tmp_path)
    with pytest.raises(StudyError, match="but by an unknown study"):
        run_study(TINY, tmp_path / "study.html", overwrite=True, progress=False)
    assert contents(tmp_path) == before


def test_an_owner_that_cannot_be_read_is_a_sentence(mine: Path) -> None:
    for text in ("{", "[]", '{"study": 3}', '{"study": {"models": [1]}}'):
        (mine / "study.cache" / "study.json").write_text(text)
        with pytest.raises(StoreError, match=r"does not say to which study .* belong .*: remove 'study.cache'"):
            run_study(TINY, mine / "study.html", overwrite=True, progress=False)


OTHERS: tuple[dict[str, Any], ...] = (
    {"seed": 4},
    {"pictures": "scenes:1"},
    {"model": "scenes-absolute"},
    {"affinities": ["kk"]},
    {"n_eigenvectors": 2},
)
"""Parameters of another study."""


def test_the_notebook_with_other_parameters_writes_over_no_study(
    repository: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    def run(**parameters: Any) -> None:
        notebook = load_notebook_node(str(repository / "notebooks" / "study.ipynb"))
        cells = [cell.source for cell in parameterize_notebook(notebook, parameters).cells if cell.cell_type == "code"]
        names: dict[str, Any] = {}
        for source in cells[:3]:
            exec(source, names)

    monkeypatch.chdir(mine)
    before = contents(mine)
    small = {"layers": ["early"], "n_eigenvectors": 3, "affinities": ["vv"]}
    with pytest.raises(StudyError, match="belongs to another study, 'Tiny'"):
        run(**small)
    run(**small, out="own.html")
    own = contents(mine)
    for given in OTHERS:
        with pytest.raises(StudyError, match="belongs to another study, .scenes on scenes:2"):
            run(**{**small, **given}, out="own.html")
        assert contents(mine) == own, given
    assert {name: own[name] for name in before} == before


def test_numbers_that_lack_something_are_a_sentence_before_anything_is_computed(mine: Path) -> None:
    whole = json.loads((mine / "study.json").read_text())

    def spoilt(change: Any) -> bytes:
        record = json.loads(json.dumps(whole))
        change(record)
        return dumped(record)

    changes = [
        lambda record: record["cells"][0].pop("answers"),
        lambda record: record["cells"].append(3),
        lambda record: record["cells"][0]["answers"][0].update(eigenvalue=["x", "y"]),
        lambda record: record["cells"][0]["answers"][0].update(converged=[]),
        lambda record: record["cells"][0].update(group="../../elsewhere"),
        lambda record: record["cells"][0].update(scores={"values": 3}),
        lambda record: record["provenance"].update(versions=3),
        lambda record: record["models"].append("x"),
        lambda record: record.update(study=None),
    ]
    for change in changes:
        (mine / "study.json").write_bytes(spoilt(change))
        with pytest.raises(StudyError, match="numbers of a study"):
            check_study(TINY, mine / "study.json", progress=False)
        assert not (mine / "study.check").exists()


def test_what_moved_is_counted_among_what_was_compared(mine: Path) -> None:
    record = json.loads((mine / "study.json").read_text())
    answer = record["cells"][0]["answers"][0]
    n_before = check_study(TINY, mine / "study.json", progress=False).n_compared
    layer = next(iter(answer["layer_share"]))
    for name in ("layer_share", "layer_mass"):
        answer[name]["gone.0"] = answer[name]["gone.1"] = answer[name][layer]
    (mine / "study.json").write_bytes(dumped(record))
    found = check_study(TINY, mine / "study.json", progress=False)
    assert [one.what for one in found.moved[:2]] == ["layer gone.0", "layer gone.1"]
    assert len(found.moved) <= found.n_compared
    assert found.n_compared == n_before + 2
    assert found.lines()[-1] == f"{found.n_compared} numbers compared with tolerances: {len(found.moved)} of them moved"
    for name in ("eigenvalue", "eigengap", "converged", "degenerate_group"):
        answer[name].append(answer[name][-1])
    for by_layer in (answer["layer_share"], answer["layer_mass"]):
        for values in by_layer.values():
            values.append(values[-1])
    longer: Any = {**record, "cells": [*record["cells"], {**record["cells"][0], "model": "x"}]}
    (mine / "study.json").write_bytes(dumped(longer))
    found = check_study(TINY, mine / "study.json", progress=False)
    assert 0 < len(found.moved) <= found.n_compared
    assert found.lines()[-1].endswith("of them moved; 1 cells are missing")
