"""Several processes give what one gives, and a process that dies leaves a sentence and something to go on from."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from preloaded import PYTHON

from spectral_toolkit._affinity import dataset_shards
from spectral_toolkit._affinity.neighbours import Neighbours
from spectral_toolkit._compute.processes import rank, share_of, world_size
from spectral_toolkit.cli import main

PROBLEMS = (("vv", "knn"), ("qk", "knn"), ("qk", "shifted_cosine"))
WORKER = Path(__file__).with_name("distributed_worker.py")


def torchrun(
    n: int, commands: list[list[str]], *, itself: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the commands in several processes: torchrun itself, or what it does with processes that are forked."""
    arguments = [*PYTHON, str(WORKER), str(n)]
    if itself:
        arguments = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={n}"]
        # A rendezvous on port 0 of this machine takes whatever port is free.
        arguments += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(WORKER)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [*arguments, json.dumps(commands)], env=environment, capture_output=True, text=True, timeout=120
    )


def capture(out: Path) -> list[str]:
    arguments = ["capture", "--model", "scenes", "--images", "scenes:9", "--layers", "0,5", "--device", "cpu"]
    return [*arguments, "--quantities", "query,key,value", "--batch-size", "2", "--out", str(out)]


def solve(activations: Path, kind: str, kernel: str, out: Path) -> list[str]:
    arguments = ["solve", "--activations", str(activations), "--affinity", kind, "--kernel", kernel, "--out", str(out)]
    return [*arguments, "--scope", "dataset", "--n-eigenvectors", "4", "--tolerance", "1e-7", "--device", "cpu"]


def solves(activations: Path, folder: Path) -> list[list[str]]:
    return [solve(activations, kind, kernel, folder / f"{kind}-{kernel}.zarr") for kind, kernel in PROBLEMS]


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def assert_same_bytes(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    assert filecmp.cmpfiles(one, other, [str(path) for path in files(one)], shallow=False)[1:] == ([], [])


def smallest_cosine(one: Path, other: Path) -> float:
    """Of the angles between the spaces that two answers span."""
    bases = []
    for path in (one, other):
        vectors = xr.open_zarr(path, consolidated=False)["eigenvector"].transpose(..., "component").values
        bases.append(np.linalg.qr(vectors.reshape(-1, vectors.shape[-1]).astype(np.float64))[0])
    return float(np.linalg.svd(bases[0].T @ bases[1])[1].min())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gives."""
    folder = tmp_path_factory.mktemp("alone")
    for command in (capture(folder / "activations.zarr"), *solves(folder / "activations.zarr", folder)):
        assert main(command) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_processes_together_give_the_answer_of_one(n: int, alone: Path, tmp_path: Path) -> None:
    activations = tmp_path / "activations.zarr"
    done = torchrun(n, [capture(activations), *solves(activations, tmp_path)], itself=n == 2)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(PROBLEMS)  # every command speaks once
    assert_same_bytes(alone / "activations.zarr", activations)
    for kind, kernel in PROBLEMS:
        name = f"{kind}-{kernel}.zarr"
        assert smallest_cosine(alone / name, tmp_path / name) >= 0.9999
        values = [xr.open_zarr(path / name, consolidated=False)["eigenvalue"].values for path in (alone, tmp_path)]
        np.testing.assert_allclose(values[1], values[0], atol=1e-6)
    assert not list(tmp_path.glob(".*"))  # neighbours that were kept for a next run are gone


@pytest.mark.slow
def test_processes_that_round_differently_give_the_answer_of_one(alone: Path, tmp_path: Path) -> None:
    done = torchrun(2, solves(alone / "activations.zarr", tmp_path), ROUNDS="1")
    assert done.returncode == 0, done.stderr
    for kind, kernel in PROBLEMS:
        name = f"{kind}-{kernel}.zarr"
        one, many = (xr.open_zarr(folder / name, consolidated=False) for folder in (alone, tmp_path))
        assert bool(many["converged"].all())
        assert many.attrs["solver"] == one.attrs["solver"]  # it has not lost its way and been rescued
        np.testing.assert_allclose(many["eigenvalue"], one["eigenvalue"], atol=1e-6)
        assert smallest_cosine(alone / name, tmp_path / name) >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_gradient_descent_together_is_that_of_one(n: int, alone: Path, tmp_path: Path) -> None:
    # Hardly more features than are read off: of many more, the leading ones would be a matter of rounding.
    options = ["--method", "gradient", "--epochs", "3", "--n-features", "6", "--checkpoint-every", "2"]
    one, many = (
        [*solve(alone / "activations.zarr", "vv", "knn", tmp_path / f"{name}.zarr"), *options]
        for name in ("one", "many")
    )
    assert main(one) == 0
    done = torchrun(n, [[*many, "--checkpoint", str(tmp_path / "half.pt")]])
    assert done.returncode == 0, done.stderr
    assert smallest_cosine(tmp_path / "one.zarr", tmp_path / "many.zarr") >= 0.9999
    assert (tmp_path / "half.pt").is_file()


@pytest.mark.slow
def test_a_checkpoint_that_only_one_process_sees_is_refused(alone: Path, tmp_path: Path) -> None:
    command = [*solve(alone / "activations.zarr", "vv", "knn", tmp_path / "out.zarr"), "--method", "gradient"]
    command += ["--n-features", "6", "--checkpoint", "half.pt", "--checkpoint-every", "1", "--epochs"]
    first = torchrun(2, [[*command, "1"]], APART=str(tmp_path))
    assert first.returncode == 0, first.stderr
    again = torchrun(2, [[*command, "2", "--overwrite"]], APART=str(tmp_path))
    assert again.returncode != 0
    assert again.stderr.count("'half.pt' holds 1 epochs for rank 0 and nothing for rank 1: give a file in a") == 1


@pytest.mark.slow
def test_a_capture_goes_on_after_a_process_died(alone: Path, tmp_path: Path) -> None:
    store = tmp_path / "activations.zarr"
    began = time.monotonic()
    died = torchrun(2, [capture(store)], DIES="1:commit:1")
    assert died.returncode != 0
    assert died.stderr.count("Rank 1 of 2 processes stopped") == 1
    assert "run the same command again" in died.stderr
    assert time.monotonic() - began < 60
    stored = {path: path.stat().st_mtime_ns for path in (store / "pixels" / "c").rglob("*") if path.is_file()}
    assert 0 < len(stored) < 9
    assert main(capture(store)) == 0  # any number of processes goes on
    assert_same_bytes(alone / "activations.zarr", store)
    assert sum(path.stat().st_mtime_ns == before for path, before in stored.items()) > 0


@pytest.mark.slow
def test_a_solve_goes_on_after_a_process_died(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.zarr"
    command = solve(alone / "activations.zarr", "vv", "knn", out)
    died = torchrun(2, [command], DIES="1:_search:3")
    assert died.returncode != 0
    assert died.stderr.count("Rank 1 of 2 processes stopped") == 1
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".again.zarr.neighbours/*/about.json")}
    assert len(kept) >= 3
    assert not out.exists()
    again = torchrun(2, [command])
    assert again.returncode == 0, again.stderr
    assert smallest_cosine(alone / "vv-knn.zarr", out) >= 0.9999


def test_what_an_operator_holds_is_that_of_the_largest_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or some processes would keep it and others not, and only the latter would take part in making it again."""

    def reduced(tensor: torch.Tensor, operation: str = "sum") -> torch.Tensor:
        return torch.full_like(tensor, 10_000) if operation == "max" else tensor

    monkeypatch.setattr(dataset_shards, "all_reduce", reduced)
    factors = torch.ones(6, 2)
    assert dataset_shards.ShardedFactorOperator(factors, factors, slice(0, 6), 6).n_bytes == 10_000
    edges = Neighbours(torch.tensor([[1], [0]]), torch.ones(2, 1), 1)
    operator = dataset_shards.ShardedSparseOperator([edges], slice(0, 2), 2, torch.device("cpu"))
    assert operator.n_bytes == 10_000


@pytest.mark.slow
def test_one_process_interrupted_alone_ends_the_run(alone: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    command = solve(alone / "activations.zarr", "vv", "knn", tmp_path / "out.zarr")
    done = torchrun(2, [command], DIES="1:_search:1:SIGINT")
    assert done.returncode != 0
    assert done.stderr.count("Interrupted: ") == 1
    assert time.monotonic() - began < 60
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.slow
def test_an_error_of_all_is_said_once(tmp_path: Path) -> None:
    done = torchrun(2, [solve(tmp_path / "nothing.zarr", "vv", "knn", tmp_path / "out.zarr")])
    assert done.returncode != 0
    assert done.stderr.count("is not a folder") == 1
    assert "processes stopped" not in done.stderr


def test_one_process_needs_no_others() -> None:
    assert (rank(), world_size(), share_of(7)) == (0, 1, slice(0, 7))
