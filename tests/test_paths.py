"""Whatever is given as a path: URLs, links, names that no disk can hold, full disks, and what killed runs leave."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import xarray as xr
from preloaded import PYTHON
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._io.outputs import beside, remove_remains, write_store, write_whole
from spectral_toolkit._views.report import render_report
from spectral_toolkit._views.widget.save import free_path, save_png
from spectral_toolkit.cli import main
from spectral_toolkit.errors import SpectralToolkitError, StoreError, UnwritableError
from spectral_toolkit.studies import run_study
from spectral_toolkit.studies.cache import Cache

IMAGES = st.scenes.sample(3, seed=0).pixels
STUDY = {"models": "scenes", "pictures": {"made": {"scenes": 1}}, "affinities": "vv", "layers": [[0]],
         "n_eigenvectors": 1, "device": "cpu"}  # fmt: skip


def capture(store: Any, **options: Any) -> xr.DataTree:
    settings: dict[str, Any] = {"layers": [0], "quantities": "value", "batch_size": 1, "progress": False, **options}
    return st.capture("scenes", IMAGES, store=store, **settings)


@pytest.fixture(scope="module")
def made() -> SimpleNamespace:
    acts = st.capture("scenes", IMAGES, layers=[0], progress=False)
    eig = st.solve(st.affinity(acts, "vv", device="cpu"), 2)
    frozen = st.freeze(acts, kinds="vv", presets=["all"], n_eigenvectors=1, regions=False, row_bytes=0, device="cpu")
    return SimpleNamespace(acts=acts, eig=eig, frozen=frozen)


def knn(folder: Any) -> Any:
    graph = st.affinity(make_tree([(6, 6)], images=2), "vv", scope="dataset", kernel="knn", folder=folder, device="cpu")
    return st.solve(graph, 1)


def checkpointed(path: Any) -> Any:
    graph = st.affinity(make_tree([(3, 3)], images=1), "vv", device="cpu")
    options: dict[str, Any] = {"method": "gradient", "steps": 2, "checkpoint": path, "checkpoint_every": 1}
    return st.solve(graph, 1, **options)


WRITERS: dict[str, Callable[[SimpleNamespace, Any], Any]] = {
    "capture": lambda made, path: capture(path),
    "save_bundle": lambda made, path: st.save_bundle(path, made.acts),
    "save_bundle as zip": lambda made, path: st.save_bundle(f"{path}.zip", made.acts),
    "report": lambda made, path: st.report("scenes", IMAGES, f"{path}.html", n_eigenvectors=1, progress=False),
    "render_report": lambda made, path: render_report(made.acts, {"vv": made.eig}, f"{path}.html"),
    "frozen": lambda made, path: st.freeze(made.acts, path=f"{path}.html", kinds="vv", n_eigenvectors=1, device="cpu"),
    "Frozen.save": lambda made, path: made.frozen.save(f"{path}.html"),
    "study": lambda made, path: run_study(STUDY, f"{path}.html", progress=False),
    "store": lambda made, path: write_store(made.eig, Path(path)),
    "file": lambda made, path: write_whole(Path(path), b"x" * 4_000_000),
    "knn": lambda made, path: knn(path),
    "checkpoint": lambda made, path: checkpointed(path),
    "explorer": lambda made, path: save_png([], free_path(str(path), ".png")),
}
COMMANDS = {
    "capture": ["--model", "scenes", "--images", "scenes:1"],
    "demo": ["--n-images", "1"],
    "solve": ["--activations", "a.zarr"],
    "project": ["--activations", "a.zarr", "--eigenvectors", "e.zarr", "--fitted", "f.zarr"],
    "segment": ["--eigenvectors", "e.zarr"],
    "report": ["--model", "scenes", "--images", "scenes:1"],
}
URLS = ("s3://bucket/a", "gs://bucket/a", "hf://datasets/me/a", "https://host/a", "file:///tmp/a", "S3:/bucket/a",
        "simplecache::s3://bucket/a", "memory://a", "az://a/b", "abfs+ssl://a/b")  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_takes_a_url(name: str, made: SimpleNamespace, tmp_path: Path) -> None:
    for url in URLS if name == "file" else URLS[:2]:
        for path in (url, Path(url)):
            with pytest.raises(SpectralToolkitError, match="is a URL, and only files of this machine are read and wri"):
                WRITERS[name](made, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_a_url(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = "gs://bucket/a.html" if name == "report" else "gs://bucket/a"
    assert main([name, *COMMANDS[name], "--out", out]) == 2
    assert "gs:/bucket/a" in (told := capsys.readouterr().err)
    assert "is a URL" in told
    assert list(tmp_path.iterdir()) == []
    if name == "solve":
        assert main([name, "--activations", "s3://b/a.zarr", "--out", "e.zarr"]) == 2
        assert "--activations='s3:/b/a.zarr' is a URL" in capsys.readouterr().err


def test_no_reader_takes_a_url() -> None:
    for read in (st.load_images, st.load_bundle, st.load_model, run_study, st.Explorer.from_bundle):
        for url in ("s3://bucket/a*.png", "https://host/a", Path("hf://me/model")):
            with pytest.raises(SpectralToolkitError, match="is a URL"):
                read(url)  # pyright: ignore[reportArgumentType]


def test_what_only_looks_like_a_url_is_a_path(tmp_path: Path) -> None:
    for name in ("a:b", "12:30.txt", "c:/x", "results/s3:/a", str(tmp_path / "s3:" / "a")):
        write_whole(Path(name), b"")
        assert Path(name).is_file()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("path", ["a\0b", "n" * 256, "file/a", "file/b/a", "~nobody-of-this-name/a", "/proc/nowhere/a"])
def test_a_path_that_cannot_be_is_told_in_one_sentence(
    path: str, name: str, made: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpectralToolkitError) as told:
        WRITERS[name](made, path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_long_names_that_a_disk_can_hold_are_written(made: SimpleNamespace, tmp_path: Path) -> None:
    write_whole(tmp_path / ("ä" * 127), b"")
    capture(tmp_path / ("n" * 255))
    st.save_bundle(tmp_path / ("m" * 251 + ".zip"), made.acts)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_may_not_be_written_to_or_looked_into(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may do anything, the system's answer is made up."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("spectral_toolkit._io.outputs.tempfile.mkdtemp", refuse)
    for name in WRITERS:
        if name not in ("explorer", "study"):
            with pytest.raises(SpectralToolkitError, match="Permission denied"):
                WRITERS[name](made, tmp_path / "a")
    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(StoreError, match=r"cannot be used \(Permission denied\)"):
        write_whole(tmp_path / "a", b"")


def test_a_store_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "empty").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("disk") / "empty")
    found = capture(link)
    assert link.is_symlink()
    assert xr.open_datatree(tmp_path / "disk" / "empty", engine="zarr").identical(found)
    assert [one.name for one in (tmp_path / "disk").iterdir()] == ["empty"]
    xr.testing.assert_identical(capture(link).load(), found.load())  # which is there, and finished
    (tmp_path / "again").symlink_to(link)
    xr.testing.assert_identical(capture(tmp_path / "again").load(), found.load())


def test_links_that_lead_nowhere_or_to_something_else(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for name, leads_to in (("to-file", "file"), ("dangling", "nowhere"), ("circle", "circle")):
        (tmp_path / name).symlink_to(leads_to)
        with pytest.raises(StoreError) as told:
            capture(tmp_path / name)
        assert ("is a link that leads nowhere" if name != "to-file" else "is not a store") in str(told.value)
        for kind in (".html", ".zip", ".png", ""):
            if not (tmp_path / f"{name}{kind}").is_symlink():
                (tmp_path / f"{name}{kind}").symlink_to(leads_to)
        for writer in ("report", "render_report", "Frozen.save", "study", "save_bundle as zip", "save_bundle", "knn",
                       "checkpoint"):  # fmt: skip
            with pytest.raises(SpectralToolkitError):
                WRITERS[writer](made, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_results_are_written_where_a_link_leads(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write_store(made.eig, tmp_path / "disk" / "e.zarr")
    page = render_report(made.acts, {"vv": made.eig}, tmp_path / "disk" / "page.html")
    for name in ("e.zarr", "page.html"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    write_store(made.eig.isel(component=[0]), tmp_path / "e.zarr")
    assert render_report(made.acts, {"vv": made.eig}, tmp_path / "page.html", title="Later") == page
    assert (tmp_path / "e.zarr").is_symlink() and (tmp_path / "page.html").is_symlink()  # noqa: PT018
    assert xr.open_zarr(tmp_path / "disk" / "e.zarr").sizes["component"] == 1
    assert "Later" in page.read_text()


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, where this process may mount one; elsewhere the errors that are made up below must do."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


ROOM = {"capture": 900_000, "study": 260_000, "report": 16_384, "knn": 16_384}
"""Bytes that are free, so that something is begun; a page of memory where nothing else is said."""


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "explorer"])
def test_a_full_disk_is_told_and_nothing_half_is_left(name: str, made: SimpleNamespace, small_disk: Path) -> None:
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"x" * (free - ROOM.get(name, 4096)))
    options: dict[str, Any] = {"layers": "all", "quantities": ("query", "key", "value")} if name == "capture" else {}
    with pytest.raises(SpectralToolkitError, match=r"(?i)no space left|disk full|enforce fail") as told:
        capture(small_disk / "a", **options) if options else WRITERS[name](made, small_disk / "a")
    assert "\n" not in str(told.value)
    gc.collect()  # tables that are mapped
    assert [path for path in small_disk.rglob("*") if ".partial" in path.name or path.name.startswith(".")] == []
    if name == "capture":
        assert "run the same capture again" in str(told.value)


@pytest.mark.parametrize("at", [1, 3, 7])
def test_errors_of_the_disk_while_a_capture_writes(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import _local

    put = _local._put
    calls: list[Path] = []

    def failing(path: Path, *arguments: Any, **options: Any) -> int:
        if "a.zarr" in path.parts:
            calls.append(path)
            if len(calls) >= at:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".0123.partial").write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, *arguments, **options)

    monkeypatch.setattr(_local, "_put", failing)
    with pytest.raises(UnwritableError, match="No space left on device.*resumes where it stopped"):
        capture(tmp_path / "a.zarr")
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    xr.testing.assert_identical(capture(tmp_path / "a.zarr").load(), capture(None))


@pytest.mark.parametrize("what", ["store", "folder above"])
def test_a_store_that_is_deleted_meanwhile(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit._capture.stores import ZarrSink

    begin = ZarrSink.begin

    def deleting(self: ZarrSink, batch: slice, *arguments: Any) -> None:
        if batch.start == 1:
            shutil.rmtree(tmp_path / "x" / "a.zarr" if what == "store" else tmp_path / "x")
        begin(self, batch, *arguments)

    monkeypatch.setattr(ZarrSink, "begin", deleting)
    with pytest.raises(UnwritableError, match="was deleted or moved while the capture wrote to it"):
        capture(tmp_path / "x" / "a.zarr")


def test_a_study_does_not_begin_anew_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_toolkit.studies import running

    calls = []

    def full(*_: Any, store: Path, **__: Any) -> None:
        calls.append(store)
        store.mkdir()
        raise UnwritableError("No space left")

    monkeypatch.setattr(running, "capture", full)
    with pytest.raises(UnwritableError):
        run_study(STUDY, tmp_path / "s.html", progress=False)
    assert len(calls) == 1
    assert calls[0].is_dir()


def test_a_study_tells_of_a_full_disk(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "s.cache")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(UnwritableError, match="s.cache' cannot be written"):
        cache.put("0" * 64, made.eig, cast(Any, {}))
    assert list((tmp_path / "s.cache" / "cells").iterdir()) == []
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnwritableError, match="other' cannot be written"):
        Cache(tmp_path / "other")


# Killed processes


def killed(program: str, when: str, folder: Path) -> None:
    """Run a program that kills itself where ``when`` says."""
    source = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_paths as t
        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        folder = Path({str(folder)!r})
        {when}
        {program}
    """)
    assert subprocess.run([*PYTHON, "-c", source], cwd=folder, capture_output=True).returncode == -signal.SIGKILL


def die_half_way(calls: int) -> None:
    """Let this process kill itself in the middle of the so-manieth write into a store."""
    from zarr.storage import _local

    put, made = _local._put, iter(range(calls))

    def failing(path: Path, *arguments: Any, **options: Any) -> int:
        if "a.zarr" in path.parts and next(made, None) is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".ab.partial").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return put(path, *arguments, **options)

    _local._put = failing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_nothing_is_left_of_a_capture_that_was_killed(tmp_path: Path) -> None:
    killed("t.capture(folder / 'a.zarr')", "t.die_half_way(9)", tmp_path)
    assert list(tmp_path.rglob("*.partial"))
    found = capture(tmp_path / "a.zarr")
    assert [one.name for one in tmp_path.iterdir()] == ["a.zarr"]
    assert not list(tmp_path.rglob("*.partial"))
    # Also where a finished store holds one, of an earlier version.
    (tmp_path / "a.zarr" / "pixels" / "0.ab.partial").write_bytes(b"half")
    xr.testing.assert_identical(capture(tmp_path / "a.zarr").load(), found.load())
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_nothing_is_left_of_tables_bundles_and_stores_that_were_killed(tmp_path: Path) -> None:
    killed("t.knn(folder / 'knn')", "import numpy; numpy.save = die", tmp_path)
    assert len(list((tmp_path / "knn").iterdir())) == 1
    knn(tmp_path / "knn")
    assert all(re.fullmatch("[0-9a-f]{64}", one.name) for one in (tmp_path / "knn").iterdir())
    for program, when in (
        ("t.write_whole(folder / 'page.html', b'')", "Path.replace = die"),
        ("t.checkpointed(folder / 'c.pt')", "os.replace = die"),
    ):
        killed(program, when, tmp_path)
    assert len([one for one in tmp_path.iterdir() if one.name.startswith(".")]) == 1  # the second removed the first's
    write_whole(tmp_path / "page.html", b"")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["knn", "page.html"]


def test_what_a_running_process_makes_is_left_alone(tmp_path: Path) -> None:
    with beside(tmp_path / "a") as making:
        (making / "half").write_text("")
        remove_remains(tmp_path)
        write_whole(tmp_path / "b", b"")
        assert (making / "half").is_file()
    for name in (".a.somebody-1-x", ".hidden", "a.zarr.partial"):
        (tmp_path / name).mkdir()
    remove_remains(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
