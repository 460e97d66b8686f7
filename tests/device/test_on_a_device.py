"""What the package computes on a device is what it computes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from preloaded import PYTHON
from standin import NAME
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._compute.devices import resolve_device
from spectral_toolkit._explorer.session import Session
from spectral_toolkit._explorer.state import State, checked
from spectral_toolkit.errors import SpectralToolkitError

DENSE, ITERATED = [(6, 5), (12, 10)], [(24, 24), (12, 12)]
PLACES = ("cpu", NAME)


def differences(device, a: xr.Dataset, b: xr.Dataset) -> None:
    """Compare results of the CPU and of the device: eigenvalues, and what the eigenvectors of a gap span."""
    assert (a.attrs["device"], b.attrs["device"].split(":")[0]) == PLACES
    near = 1e-5 if device.as_mps else 1e-7
    np.testing.assert_allclose(b.eigenvalue, a.eigenvalue, atol=near)
    assert bool(b.converged.all())
    names = [str(name) for name in a.data_vars if name not in ("eigenvector", "residual", "degenerate_group")]
    for name in names:
        np.testing.assert_allclose(b[name], a[name], atol=300 * near, err_msg=name)


def both(
    device, kind: str, k: int = 4, *, grids=DENSE, images: int = 2, method="exact", tree=None, solving=None, **chosen
):
    tree = make_tree(grids, heads=2, channels=8, images=images, special=1, dtype="float32") if tree is None else tree
    graphs = [st.affinity(tree, kind, device=place, **chosen) for place in PLACES]
    solved = [st.solve(graph, k, progress=False, **(solving or {})) for graph in graphs]
    differences(device, *solved)
    return graphs, solved


def test_auto_is_the_device(device):
    assert resolve_device("auto").type == NAME
    with pytest.raises(SpectralToolkitError, match="not available"):
        resolve_device(f"{NAME}:1")


def test_capture(device):
    pixels = st.scenes.sample(2, seed=0).pixels
    of_cpu, own = (st.capture(st.load_model("scenes", device=place), pixels, progress=False) for place in PLACES)
    for layer in of_cpu.children:
        for name in ("query", "key", "value"):
            a, b = (tree.children[layer].dataset[name].values for tree in (of_cpu, own))
            np.testing.assert_allclose(b, a, atol=1e-4 * np.abs(a).max(), err_msg=f"{layer} {name}")


def test_capture_of_a_denoiser(device):
    if device.as_mps:
        pytest.skip("diffusers looks at the name mps, which this device has not")
    pixels = st.scenes.sample(1, seed=0).pixels
    found = []
    for place in PLACES:
        model = st.load_model("scenes-diffusion", device=place)
        tree = st.capture(model, pixels, layers=[2], quantities=("value",), progress=False)
        found.append(next(iter(tree.children.values())).dataset["value"].values)
    expected, values = found
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max())
    st.load_model("scenes-diffusion", device=NAME).untrained(0)


@pytest.mark.parametrize("grids", [DENSE, ITERATED], ids=["dense", "davidson"])
@pytest.mark.parametrize(
    ("kind", "kernel"), [("qk", "softmax"), ("vv", "cosine"), ("qk", "shifted_cosine"), ("token", "rbf")]
)
def test_affinity_and_solve(device, kind, kernel, grids):
    graphs, (_, own) = both(device, kind, kernel=kernel, grids=grids)
    assert own.attrs["solver"] == ("dense" if grids is DENSE else "davidson")
    rows = [st.affinity_row(graph, (1, 2))[0].values for graph in graphs]
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)


def test_masks_windows_of_memory_and_walks(device):
    tree = make_tree(ITERATED, heads=2, channels=8, images=2, dtype="float32")
    lost = np.zeros((2, 24, 24), bool)
    lost[0, 2:5, 3] = True
    mask = {"block.0": xr.DataArray(lost, dims=("image", "y", "x"))}
    both(device, "vv", tree=tree, mask=mask)
    both(device, "vv", tree=tree, kernel="cosine", steps=2)


def test_a_warm_start_from_the_other_device(device):
    tree = make_tree(ITERATED, heads=2, channels=8, dtype="float32")
    start = st.solve(st.affinity(tree, "vv", device="cpu"), 4)
    graph = st.affinity(tree, "vv", device=NAME)
    own = st.solve(graph, 4, start=start)
    differences(device, start, own)
    again = st.solve(graph.reweight({"block.1": 0.5}), 4, start=own)
    assert again.attrs["start"] == "the subspace of start"


def test_a_tolerance_below_single_precision(device):
    if device.as_mps:
        tree = make_tree(ITERATED, heads=2, channels=8)
        assert not bool(st.solve(st.affinity(tree, "vv", device=NAME), 4, tolerance=1e-12).converged.any())
    else:
        both(device, "vv", tree=make_tree(ITERATED, heads=2, channels=8), solving={"tolerance": 1e-10})


@pytest.mark.filterwarnings("ignore:In 1 of 1 images")  # random patches have no edges to others
@pytest.mark.parametrize(("kind", "kernel"), [("vv", "knn"), ("qk", "shifted_cosine")])
def test_a_dataset_and_new_images(device, kind, kernel):
    graphs, solved = both(device, kind, scope="dataset", kernel=kernel, grids=[(12, 10), (6, 5)], images=5)
    new = make_tree([(12, 10), (6, 5)], heads=2, channels=8, images=1, special=1, dtype="float32", seed=9)
    laid = [st.project(new, eig, graph).eigenvector.values for eig, graph in zip(solved, graphs, strict=True)]
    assert np.isfinite(laid[1]).all()
    np.testing.assert_allclose(np.abs(laid[1]), np.abs(laid[0]), atol=5e-2 * np.abs(laid[0]).max())


@pytest.mark.parametrize("chosen", [{}, {"scope": "dataset", "kernel": "knn"}], ids=["image", "dataset"])
def test_the_gradient_method(device, chosen):
    steps: dict[str, Any] = {"epochs": 2} if chosen else {"steps": 5}
    tree = make_tree([(6, 5)], heads=2, channels=8, images=3, dtype="float32")
    for place in PLACES:
        eig = st.solve(st.affinity(tree, "vv", device=place, **chosen), 2, method="gradient", progress=False, **steps)
        assert np.isfinite(eig.eigenvalue).all()
        assert eig.attrs["device"].startswith(place)


def test_regions_and_cuts(device):
    graphs, solved = both(device, "vv", grids=[(12, 10)])
    of_cpu, own = (st.cut_costs(eig, graph, 1) for eig, graph in zip(solved, graphs, strict=True))
    for name in of_cpu.data_vars:
        if of_cpu[name].dtype.kind == "f":
            np.testing.assert_allclose(own[name], of_cpu[name], atol=1e-3, err_msg=str(name))
    segments = [st.segment(eig, 3, method="cuts", graph=graph) for eig, graph in zip(solved, graphs, strict=True)]
    assert bool((segments[0] == segments[1]).all())


def test_scores(device):
    scenes = st.scenes.sample(4, seed=0)
    model = st.load_model("scenes", device=NAME)
    tree = st.capture(model, scenes.pixels, layers=[0, 5], progress=False)
    chosen = {"kinds": "vv", "n_eigenvectors": 2, "n_bootstrap": 2, "controls": False, "progress": False}
    of_cpu, own = (st.pathways(tree, scenes.label, device=place, **chosen) for place in PLACES)
    for name in ("where", "what", "r2_position"):
        np.testing.assert_allclose(own[name], of_cpu[name], atol=1e-3, err_msg=name)


def test_the_engine_of_the_explorer(device):
    tree = st.capture(st.load_model("scenes", device=NAME), st.scenes.sample(1, seed=0).pixels, progress=False)
    of_cpu, own = (Session(tree, place) for place in PLACES)
    for state in (State(affinity="qk", patch=(2, 3)), State(affinity="vv", n_segments=3)):
        shown = [session.answer(checked(state, session.facts), lambda *_: None) for session in (of_cpu, own)]
        values = [view.sides[0].eig.eigenvalue.values for view in shown]
        np.testing.assert_allclose(values[1], values[0], atol=1e-5)


def test_a_full_device_is_one_sentence(device):
    tree = make_tree(ITERATED, heads=2, channels=8, images=2, dtype="float32")
    graph = st.affinity(tree, "vv", device=NAME)
    device.limit = device.used + 2**20
    with pytest.raises(st.errors.DeviceMemoryError, match="does not fit"):
        st.solve(graph, 4)
    device.limit = np.inf
    assert bool(st.solve(graph, 4).converged.all())


WORKER = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
from standin import stand_in
from spectral_toolkit.cli import main
with stand_in(as_mps=sys.argv[2] == "mps"):
    code = main(json.loads(sys.argv[3]))
sys.exit(code)
"""


def test_two_processes(device, tmp_path):
    """What torchrun starts, here by the variables that it sets: two processes share one dataset on the device."""
    import socket

    tree = make_tree([(6, 5)], heads=2, channels=8, images=5, dtype="float32")
    tree.to_zarr(tmp_path / "tree.zarr")
    solve = ["solve", "--activations", f"{tmp_path}/tree.zarr", "--affinity", "vv", "--kernel", "knn"]
    solve += ["--scope", "dataset", "--n-eigenvectors", "3", "--device", NAME, "--out", f"{tmp_path}/eig.zarr"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = Path(__file__).parent
    given = json.dumps([str(here), str(here.parents[1])]), "mps" if device.as_mps else "cuda", json.dumps(solve)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [*PYTHON, "-c", WORKER, *given],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [run.communicate(timeout=240)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    own = xr.open_zarr(tmp_path / "eig.zarr", consolidated=False).load()
    alone = st.solve(st.affinity(tree, "vv", scope="dataset", kernel="knn", device="cpu"), 3)
    np.testing.assert_allclose(own.eigenvalue, alone.eigenvalue, atol=1e-5)
    assert torch.device(own.attrs["device"]).type == NAME
