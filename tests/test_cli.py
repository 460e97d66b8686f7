"""The command line, run as a user runs it: through ``main``, with tiny models on disk."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import eigenvectors
from PIL import Image
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit.cli import main
from spectral_toolkit.cli.inputs import parse_layers
from spectral_toolkit.errors import SpectralToolkitError


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a ViT of two layers, its weights and its processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("models") / "tiny vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two small photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def stored(tiny_model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Activations of both photographs, captured by the command line."""
    out = tmp_path / "activations.zarr"
    assert main(["capture", "--model", tiny_model, "--images", str(photos), "--out", str(out)]) == 0
    capsys.readouterr()
    return out


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr: exactly one line, and nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err.strip()


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "spectral_toolkit", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"spectral-toolkit {st.__version__}\n", "")


@pytest.mark.parametrize("command", ["demo", "capture", "solve", "report"])
def test_every_command_has_help_device_and_seed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--device" in text
    assert "--seed" in text


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_told(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    """Whoever sets the variable is obeyed."""
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == expected


@pytest.mark.parametrize(
    ("arguments", "terminal", "world_size", "said"),
    [
        (["capture", "--model", "no/such/folder", "--images", "nosuch.jpg", "--out", "a"], True, "1", True),
        (["capture", "--model", "no/such/folder", "--images", "nosuch.jpg", "--out", "a"], False, "1", False),
        (["capture", "--model", "no/such/folder", "--images", "nosuch.jpg", "--out", "a"], True, "2", False),
        (["segment"], True, "1", False),
        (["report", "--config", "nosuch.yaml"], True, "1", False),
        (["segment", "--help"], True, "1", False),
        (["--version"], True, "1", False),
    ],
)
def test_on_a_terminal_a_word_comes_before_the_libraries(
    arguments: list[str],
    terminal: bool,
    world_size: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("spectral_toolkit.cli.join", contextlib.nullcontext)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", world_size)
    main(arguments)
    assert ("Loading torch" in capsys.readouterr().err) == said


def test_nothing_given_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["paint"], "paint"),
        (["solve", "--activations", "x"], "--out"),
        (["solve", "--nonsense"], "--nonsense"),
        (["demo", "--n-images", "many"], "--n-images"),
        (["demo", "--n-images", "0"], "--n-images"),
        (["solve", "--activations", "nowhere.zarr", "--out", "e.zarr"], "nowhere.zarr"),
        (["capture", "--model", "scenes", "--images", "no/such/*.jpg", "--out", "a.zarr"], "no/such/*.jpg"),
        (["capture", "--model", "./no-such-folder", "--images", "scenes:1", "--out", "a.zarr"], "no-such-folder"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a.zarr", "--layers", "99"], "99"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a.zarr", "--layers", "5-2"], "5-2"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a.zarr", "--quantities", "q"], "'q'"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a.zarr", "--device", "toaster"], "toaster"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a", "--layers", "0-99999"], "spans more"),
        (["capture", "--model", "scenes", "--images", "scenes:1", "--out", "a", "--layers", "0-900"], "'0-900': the"),
        (["report", "--model", "scenes", "--images", "scenes:0"], "0"),
        (["report", "--model", "scenes", "--images", "scenes:x"], "scenes:N"),
        (["report", "--model", "scenes", "--images", "scenes:99999999"], "100,000"),
        (["report", "--model", "scenes", "--images", "scenes:2", "--images", "scenes:3"], "scenes:N alone"),
        (["report", "--model", "scenes", "--images", "scenes:1", "--n-eigenvectors", "0"], "--n-eigenvectors"),
        (["report", "--model", "scenes", "--images", "scenes:1", "--seed", "-1"], "--seed"),
        (["demo", "--n-images", "99999999"], "--n-images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = sentence(capsys)
    assert expected in message
    assert len(message) < 500
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


def test_capture_then_solve(tiny_model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    activations, eigenvectors = tmp_path / "new folder" / "activations.zarr", tmp_path / "eigenvectors.zarr"
    capture = ["capture", "--model", tiny_model, "--images", str(photos / "*.png"), "--layers", "0-1"]
    assert main([*capture, "--quantities", "query, key", "--out", str(activations), "--device", "cpu"]) == 0
    assert "2 images, 2 layers" in capsys.readouterr().out
    tree = xr.open_datatree(activations, engine="zarr")
    assert len(tree.children) == 2
    assert all(set(node.data_vars) >= {"query", "key"} and "value" not in node for node in tree.children.values())

    solve = ["solve", "--activations", str(activations), "--out", str(eigenvectors), "--n-eigenvectors", "3"]
    assert main([*solve, "--affinity", "qk", "--kernel", "softmax", "--scope", "image"]) == 0
    assert "6 of 6 eigenvectors converged (3 of each image)" in capsys.readouterr().out
    stored = xr.open_dataset(eigenvectors, engine="zarr").load()
    expected = st.solve(st.affinity(tree, "qk", kernel="softmax"), 3)
    np.testing.assert_allclose(stored["eigenvalue"], expected["eigenvalue"], rtol=1e-6)
    assert stored.attrs["affinity"] == "qk"
    assert list(stored.coords["image"].values) == list(tree.coords["image"].values)


def test_segment(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    eig = eigenvectors(isolated=((0, 0, 0),))
    store, out = tmp_path / "eigenvectors.zarr", tmp_path / "segments.zarr"
    eig.to_zarr(store)
    command = ["segment", "--eigenvectors", str(store), "--out", str(out), "--n-segments"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*command, "3", "--seed", "2"]) == 0
    told, word = capsys.readouterr()
    assert "Dividing 2 images into segments." in word
    monkeypatch.undo()
    assert "3 segments in each of 2 images" in told
    assert "Patches with hardly any affinity: 1" in told
    found = xr.open_dataset(out, engine="zarr")["segment"].load()
    assert found.identical(st.segment(eig, 3, seed=2))
    assert main([*command, "auto"]) == 2
    assert "--overwrite" in sentence(capsys)
    assert main([*command, "eigengap", "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["segment", "--eigenvectors", str(store), "--out", str(store), "--overwrite"]) == 2
    assert "holds the eigenvectors: give another folder for the segments" in sentence(capsys)
    assert "eigenvector" in xr.open_dataset(store, engine="zarr"), "and they are still there"
    for wrong in ("many", "0", "-3", "2.5"):
        assert main([*command, wrong, "--overwrite"]) == 2
        assert "n_segments" in capsys.readouterr().err
    assert main(["segment", "--eigenvectors", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    assert "is not a folder: give the zarr folder that 'solve' wrote" in sentence(capsys)
    assert main(["segment", "--eigenvectors", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "cannot be read as a zarr store" in sentence(capsys)
    assert main(["segment", "--eigenvectors", str(out), "--out", str(tmp_path / "x")]) == 2
    assert "A Dataset was given as eigenvectors" in sentence(capsys)


def test_solve_takes_layers_weights_and_options_of_the_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acts = make_tree([(4, 5)] * 4, images=2)
    acts.to_zarr(tmp_path / "acts.zarr", consolidated=False)
    solve = ["solve", "--activations", str(tmp_path / "acts.zarr"), "--n-eigenvectors", "3", "--affinity", "vv"]
    chosen = ["--layers", "-1,block.0,1-2", "--weight", "block.2=0.5", "--weight", "3=0.25"]
    kernel = ["--kernel-option", "threshold=0.3", "--kernel-option", "steps=2"]
    assert main([*solve, *chosen, *kernel, "--device", "cpu", "--out", str(tmp_path / "eig.zarr")]) == 0
    weights = {"block.2": 0.5, "block.3": 0.25}
    graph = st.affinity(acts, "vv", weights=weights, threshold=0.3, steps=2, device="cpu")
    found = xr.open_dataset(tmp_path / "eig.zarr", engine="zarr", consolidated=False).load()
    xr.testing.assert_allclose(found.eigenvector, st.solve(graph, 3).eigenvector)
    assert found.attrs["weights"] == "[1.0, 1.0, 0.5, 0.25]"
    assert main([*solve, "--layers", "0,2", "--out", str(tmp_path / "two.zarr")]) == 0
    two = xr.open_dataset(tmp_path / "two.zarr", engine="zarr", consolidated=False)
    assert two.attrs["layers"] == '["block.0", "block.2"]'
    capsys.readouterr()
    for arguments, message in (
        (["--layers", "0-9"], "the model has 4 layers, numbered 0 to 3; there is no layer 4"),
        (["--layers", "deep"], "'deep'"),
        (["--weight", "block.2"], "--weight 'block.2' is not understood: write a name, '=' and a number"),
        (["--weight", "9=1"], "'9', which is not a layer"),
        (["--weight", "0=1", "--weight", "0=2"], "names '0' twice"),
        (["--kernel-option", "threshold=high"], "is not understood"),
        (["--kernel-option", "bandwidth=2"], "bandwidth=2.0 does not apply to kernel='cosine'"),
    ):
        assert main([*solve, *arguments, "--out", str(tmp_path / "x.zarr")]) == 2
        assert message in sentence(capsys)


def test_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acts = make_tree([(4, 5), (2, 3)], images=6)
    acts.isel(image=slice(0, 4)).to_zarr(tmp_path / "old.zarr", consolidated=False)
    acts.isel(image=slice(4, 6)).to_zarr(tmp_path / "new.zarr", consolidated=False)
    eig, out = tmp_path / "eig.zarr", tmp_path / "laid.zarr"
    solve = ["solve", "--activations", str(tmp_path / "old.zarr"), "--out", str(eig), "--n-eigenvectors", "2"]
    assert main([*solve, "--affinity", "vv", "--scope", "dataset", "--kernel", "shifted_cosine"]) == 0
    command = ["project", "--activations", str(tmp_path / "new.zarr"), "--eigenvectors", str(eig), "--fitted"]
    capsys.readouterr()
    assert main([*command, str(tmp_path / "old.zarr"), "--out", str(out), "--device", "cpu"]) == 0
    assert "2 images in 2 eigenvectors of 4 others" in capsys.readouterr().out
    graph = st.affinity(acts.isel(image=slice(0, 4)), "vv", kernel="shifted_cosine", scope="dataset", device="cpu")
    expected = st.project(acts.isel(image=slice(4, 6)), st.solve(graph, 2), graph)
    found = xr.open_dataset(out, engine="zarr", consolidated=False).load()
    xr.testing.assert_allclose(found.eigenvector, expected.eigenvector)
    assert main([*command, str(tmp_path / "none"), "--out", str(out), "--overwrite"]) == 2
    assert "--fitted" in sentence(capsys)
    assert main([*command, str(tmp_path / "old.zarr"), "--out", str(eig), "--overwrite"]) == 2
    assert "is also an input" in sentence(capsys)
    assert main([*command, str(tmp_path / "new.zarr"), "--out", str(out), "--overwrite"]) == 2
    assert "has other images" in sentence(capsys)


def test_globs_that_the_shell_expanded_are_taken_too(
    tiny_model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(str(path) for path in photos.iterdir())
    out = tmp_path / "activations.zarr"
    assert main(["capture", "--model", tiny_model, "--images", *files, "--out", str(out)]) == 0
    assert "2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"), [("--affinity", "qv"), ("--kernel", "tea"), ("--scope", "galaxy"), ("--n-eigenvectors", "0")]
)
def test_solve_names_what_it_does_not_know(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    out = tmp_path / "e.zarr"
    assert main(["solve", "--activations", str(stored), "--out", str(out), option, value]) == 2
    assert value in sentence(capsys)
    assert not out.exists()


def test_gradient_takes_its_options_and_goes_on_from_its_checkpoint(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectral_toolkit.solvers import gradient

    out, file = tmp_path / "eigenvectors.zarr", tmp_path / "half.pt"
    solve = ["solve", "--activations", str(stored), "--out", str(out), "--n-eigenvectors", "2", "--method", "gradient"]
    options = ["--n-features", "4", "--learning-rate", "0.01", "--patience", "0", "--checkpoint-every", "2"]
    command = [*solve, *options, "--steps", "5", "--checkpoint", str(file)]
    assert main(command) == 0
    found = xr.open_zarr(out)
    assert [found.attrs[name] for name in ("steps_run", "n_features", "learning_rate")] == ["[5, 5]", 4, 0.01]
    assert file.is_file()
    monkeypatch.setattr(gradient, "Generator", lambda *a: pytest.fail("began anew"))
    assert main([*command, "--overwrite"]) == 0
    xr.testing.assert_equal(xr.open_zarr(out), found)
    capsys.readouterr()
    assert main([*solve, "--overwrite", "--epochs", "5"]) == 2
    assert "use steps" in sentence(capsys)
    exact = ["exact" if word == "gradient" else word for word in solve]
    assert main([*exact, "--overwrite", "--steps", "5"]) == 2
    assert "does not apply to method='exact'" in sentence(capsys)


def test_solve_never_overwrites_what_is_not_its_own(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "results"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    solve = ["solve", "--activations", str(stored), "--n-eigenvectors", "2"]
    for out in (foreign, stored):  # a folder of somebody else, and our activations, which are no eigenvectors
        assert main([*solve, "--out", str(out), "--overwrite"]) == 2
        assert "was not written by" in sentence(capsys)
    assert (foreign / "thesis.txt").read_text() == "years of work"

    out = tmp_path / "e.zarr"
    beside = tmp_path / "e.zarr.partial"
    beside.mkdir()
    (beside / "thesis.txt").write_text("years of work")
    before = {path.name for path in tmp_path.iterdir()}
    assert main([*solve, "--out", str(out)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == before | {"e.zarr"}
    assert (beside / "thesis.txt").read_text() == "years of work"
    capsys.readouterr()
    assert main([*solve, "--out", str(out)]) == 2
    assert "--overwrite" in sentence(capsys)
    assert main([*solve, "--out", str(out), "--overwrite", "--affinity", "vv"]) == 0
    assert xr.open_dataset(out, engine="zarr").attrs["affinity"] == "vv"


def test_solve_refuses_a_capture_that_was_interrupted(
    tiny_model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = st.load_model(tiny_model, device="cpu")
    calls = []

    def stop_at_the_second(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    forward = model.module.forward
    model.module.forward = lambda *args, **inputs: [stop_at_the_second(), forward(*args, **inputs)][1]
    store = tmp_path / "begun.zarr"
    with pytest.raises(KeyboardInterrupt):
        st.capture(model, str(photos), store=store, batch_size=1, progress=False)
    capsys.readouterr()
    solve = ["solve", "--activations", str(store), "--n-eigenvectors", "2", "--out", str(tmp_path / "e.zarr")]
    assert main(solve) == 2
    assert "was interrupted" in sentence(capsys)

    capture = ["capture", "--model", tiny_model, "--images", str(photos), "--batch-size", "1", "--device", "cpu"]
    assert main([*capture, "--out", str(store)]) == 0
    assert main(solve) == 0


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a layer is missing": (lambda store: shutil.rmtree(store / "layers.1"), "lacks 1 of the layers"),
    "no names": (lambda store: shutil.rmtree(store / "image" / "c"), "its root has no image of its own"),
    "no widths": (lambda store: shutil.rmtree(store / "original_width" / "c"), "has no original_width of its own"),
    "no places": (lambda store: shutil.rmtree(store / "layers.0" / "y" / "c"), "is not that of 4 equal patches"),
    "widths cut short": (
        lambda store: (store / "original_width" / "c" / "0").write_bytes(b"1"),
        "original_width cannot be read",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_solve_refuses_a_store_that_is_not_whole(
    what: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGE[what]
    damage(stored)
    solve = ["solve", "--activations", str(stored), "--n-eigenvectors", "2", "--out", str(tmp_path / "e.zarr")]
    assert main(solve) == 2
    assert message in sentence(capsys)
    assert not (tmp_path / "e.zarr").exists()


def test_a_store_that_is_not_there_is_told_before_torch_is_loaded() -> None:
    code = (
        "import sys; from spectral_toolkit.cli import main\n"
        "assert main(['solve', '--activations', 'nosuch.zarr', '--out', 'e.zarr']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not a folder" in done.stderr


@pytest.mark.parametrize(
    "command", [["report", "--model", "scenes", "--images", "scenes:1"], ["solve", "--activations", "."]], ids=str
)
def test_a_place_where_nothing_can_be_written_is_told_before_the_work(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(st, "load_model", reached)
    assert main([*command, "--out", "/proc/nowhere/r.html"]) == 2  # nobody can write there, root neither
    assert "'/proc/nowhere/r.html' cannot be written" in sentence(capsys)


def test_a_page_needs_the_ending_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--model", "scenes", "--images", "scenes:1", "--out", "x.pdf"]) == 2
    assert "--out 'x.pdf' is not a name for a page: give one that ends in .html" in sentence(capsys)
    assert not list(tmp_path.iterdir())


def test_report(tiny_model: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "report.html"
    command = ["report", "--model", tiny_model, "--images", str(photos), "--out", str(out)]
    assert main(command) == 0
    assert str(out.resolve()) in capsys.readouterr().out
    assert out.read_text().lstrip().lower().startswith("<!doctype html>")
    assert main(command) == 2
    assert "--overwrite" in sentence(capsys)
    assert main([*command, "--overwrite"]) == 0

    other = tmp_path / "index.html"
    other.write_text("<html>my home page</html>")
    capsys.readouterr()
    assert main([*command[:-1], str(other), "--overwrite"]) == 2
    assert "was not written by" in sentence(capsys)
    assert other.read_text() == "<html>my home page</html>"


def test_demo_writes_both_results_and_says_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, text = [], ""
    for _ in range(2):  # the second run replaces the first, with the same numbers
        assert main(["demo", "--out", str(tmp_path / "out"), "--n-images", "2", "--device", "cpu"]) == 0
        text = capsys.readouterr().out
        tree = xr.open_datatree(tmp_path / "out" / "eigenvectors.zarr", engine="zarr").load()
        answers.append({kind: tree[kind].to_dataset() for kind in ("qk", "vv")})
        tree.close()
    for word in ("2 scenes", "layers", "capture", "query-key", "value-value", "largest residual", "eigengap"):
        assert word in text
    assert str((tmp_path / "out" / "report.html").resolve()) in text
    assert (tmp_path / "out" / "report.html").stat().st_size < 5e6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["eigenvectors.zarr", "report.html"]
    for kind in ("qk", "vv"):
        first, second = (answer[kind] for answer in answers)
        assert first.attrs["affinity"] == kind
        assert bool(first["converged"].all())
        for name in first.data_vars:
            np.testing.assert_array_equal(first[name], second[name])


def test_demo_leaves_foreign_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "report.html" in sentence(capsys)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_file_where_a_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert (
        main(["report", "--model", "scenes", "--images", "scenes:1", "--out", str(tmp_path / "taken" / "r.html")]) == 2
    )
    assert "taken" in sentence(capsys)


@pytest.mark.parametrize("command", [["demo"], ["solve", "--activations", "nowhere.zarr"]], ids=lambda value: value[0])
def test_results_below_a_file_are_refused_before_anything_is_computed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(st, "load_model", reached)
    (tmp_path / "p.png").write_text("a picture")
    for out in (tmp_path / "p.png" / "deeper", tmp_path / "p.png"):
        assert main([*command, "--out", str(out)]) == 2
        assert "p.png" in sentence(capsys)
    assert (tmp_path / "p.png").read_text() == "a picture"


def test_memory_that_runs_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 2 TiB")

    monkeypatch.setattr(st, "load_model", fill)
    assert main(["report", "--model", "scenes", "--images", "scenes:1"]) == 2
    assert "Memory ran out (Unable to allocate 2 TiB)" in sentence(capsys)


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(st, "load_model", interrupted)
    assert main(["report", "--model", "scenes", "--images", "scenes:1"]) == 130
    assert re.fullmatch(r"Interrupted: run the same command again: a study .* resumes .*\n", capsys.readouterr().err)


def test_what_a_study_lacks_is_told_before_anything_loads(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("models: scenes")
    for name in ("there.html", "there.json"):
        (tmp_path / name).write_text('name="generator" content="spectral_toolkit')
    code = (
        "import sys; from spectral_toolkit.cli import main\n"
        "assert main(['report', '--config', 'nosuch.yaml']) == 2\n"
        "assert main(['report', '--config', 'there.yaml', '--check', 'nosuch.json']) == 2\n"
        "assert main(['report', '--config', 'there.yaml']) == 2\n"
        "assert not {'torch', 'xarray', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sentences = done.stderr.splitlines()
    assert "--config 'nosuch.yaml' is not a file" in sentences[0]
    assert "--check 'nosuch.json' is not a file" in sentences[1]
    assert "'there.html' exists already: add --overwrite" in sentences[2]


def test_the_shell_completes_commands() -> None:
    given = {"_SPECTRAL_TOOLKIT_COMPLETE": "complete_bash", "COMP_WORDS": "spectral-toolkit s", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "spectral_toolkit"], capture_output=True, text=True, env={**os.environ, **given}
    )
    assert done.stdout.split() == ["solve", "segment", "scores"]


def test_scores_bundle_and_freeze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, store, zipped, page = (tmp_path / name for name in ("scores.csv", "acts.zarr", "acts.zip", "page.html"))
    scenes = ["--model", "scenes", "--images", "scenes:2"]
    assert main(["scores", *scenes, "--affinities", "vv", "--n-eigenvectors", "2", "--out", str(table)]) == 0
    lines = table.read_text().splitlines()
    assert lines[0] == "kind,layer,role,measure,value,low,high"
    assert any(re.match(r"vv,joint,\w+,what,", line) for line in lines)
    capsys.readouterr()
    assert main(["scores", *scenes, "--out", str(table)]) == 2
    assert "exists already" in sentence(capsys)
    assert main(["capture", *scenes, "--layers", "0", "--out", str(store)]) == 0
    assert main(["bundle", "--activations", str(store), "--out", str(zipped)]) == 0
    assert list(st.load_bundle(zipped).activations.children) == ["model.layer.0"]
    few = ["--no-regions", "--n-eigenvectors", "2", "--affinities", "vv"]
    assert main(["freeze", "--bundle", str(zipped), "--out", str(page), *few]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert main(["freeze", "--bundle", str(zipped), *scenes, "--out", str(page)]) == 2
    capsys.readouterr()


def test_our_warnings_are_one_line_and_those_of_libraries_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(*_: object, **__: object) -> None:
        warnings.warn_explicit("ours:\n look", UserWarning, str(Path(st.__file__).parent / "solvers" / "exact.py"), 1)
        warnings.warn_explicit("theirs", UserWarning, "/elsewhere/library.py", 1)
        raise SpectralToolkitError("stop here.")

    monkeypatch.setattr(st, "load_model", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["report", "--model", "scenes", "--images", "scenes:1"]) == 2
    assert capsys.readouterr().err == "Warning: ours: look\nstop here.\n"


def test_parse_layers() -> None:
    assert parse_layers("all") == "all"
    assert parse_layers("3") == [3]
    assert parse_layers("0,2-4,-1,blocks.7") == [0, 2, 3, 4, -1, "blocks.7"]
    with pytest.raises(SpectralToolkitError, match="is in descending order"):
        parse_layers("4-2")
    with pytest.raises(SpectralToolkitError, match="names no layer"):
        parse_layers(" , ")
