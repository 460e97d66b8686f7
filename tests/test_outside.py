"""What somebody else registers, from a module of theirs, is offered wherever ours is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import spectral_toolkit as st
from spectral_toolkit.cli import main
from spectral_toolkit.errors import AffinityError, SolverError

THEIRS = """
import torch
import spectral_toolkit as st


def prepare(features, *, sharpness=1.0):
    left, right = features.left.mean(1), features.right.mean(1)
    return lambda start, stop: torch.cdist(
        left[:, start:stop], right, compute_mode="donot_use_mm_for_euclid_dist"
    ).mul(-sharpness).exp()


def factors(features):
    left, right = (torch.nn.functional.relu(side.mean(1)) + 0.1 for side in (features.left, features.right))
    return left, left if features.is_symmetric else right


def through_factors(features):
    left, right = factors(features)
    return lambda start, stop: left[:, start:stop] @ right.transpose(-1, -2)


def careful(graph, images, n_eigenvectors, *, tolerance, factor=1.0, **settings):
    return st.solvers.exact.solve_images(graph, images, n_eigenvectors, tolerance=tolerance * factor, **settings)


SHARPNESS = st.kernels.Option("sharpness", "how fast it falls", "a number above 0", lambda value: value > 0)
Laplacian = st.kernels.register(
    st.kernels.Kernel(
        "laplacian", "exp(-sharpness |l - r|)", "exp(-|{} - {}|)", "Laplacian of theirs", prepare,
        options=(SHARPNESS, st.kernels.STEPS),
    )
)
st.kernels.register(
    st.kernels.Kernel(
        "product", "l' r of positive parts", "{}·{}", "products of theirs", through_factors, factors,
        scopes=("image", "dataset"),
    )
)
Careful = st.solvers.register(
    st.solvers.Solver("careful", "The exact solver, to a part of the tolerance.", careful, {"factor": (float, 0)})
)
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "third_party.py").write_text(THEIRS)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("third_party")
    finally:
        sys.path.remove(str(folder))
        for name in ("laplacian", "product"):
            st.kernels.unregister(name)
        st.solvers.unregister("careful")
        assert set(st.kernels.KERNELS) == {"softmax", "cosine", "shifted_cosine", "knn", "rbf"}
        assert set(st.solvers.SOLVERS) == {"exact", "gradient"}


@pytest.fixture(scope="module")
def activations() -> xr.DataTree:
    return st.capture("scenes", st.scenes.sample(2, seed=0).pixels, progress=False)


def test_solve_takes_them_by_name_and_as_objects(theirs: Any, activations: xr.DataTree) -> None:
    named = st.affinity(activations, "vv", kernel="laplacian", sharpness=2, device="cpu")
    given = st.affinity(activations, "vv", kernel=theirs.Laplacian(sharpness=2), device="cpu")
    first = st.solve(named, 3, method="careful", factor=0.1, tolerance=1e-8)
    second = st.solve(given, 3, method=theirs.Careful(factor=0.1, tolerance=1e-8))
    xr.testing.assert_identical(first["eigenvector"], second["eigenvector"])
    assert first.attrs["kernel"] == "laplacian"
    assert first.attrs["method"] == "careful"
    assert float(first["residual"].max()) < 1e-8
    # The twin, written out: one layer, one image.
    layer, matrix = next(iter(given.to_dense(0).items()))
    value = activations[layer]["value"].isel(image=0).mean("head").stack(n=("y", "x"))
    vectors = value.transpose("n", "channel").values
    wanted = np.exp(-2 * np.linalg.norm(vectors[:, None] - vectors[None], axis=-1))
    np.testing.assert_allclose(matrix, wanted, atol=1e-5)


def test_a_kernel_with_factors_solves_a_whole_dataset_and_takes_new_images(activations: xr.DataTree) -> None:
    pytest.importorskip("third_party")
    eig = st.solve(st.affinity(activations, "vv", kernel="product", scope="dataset", device="cpu"), 3)
    extended = st.project(activations, eig, fitted=activations)
    overlap = np.abs((extended["eigenvector"] * eig["eigenvector"]).sum(("image", "y", "x")))
    norm = (eig["eigenvector"] ** 2).sum(("image", "y", "x"))
    assert float((overlap / norm).min()) > 0.95


def test_the_explorer_offers_a_kernel_and_says_its_formula(theirs: Any, activations: xr.DataTree) -> None:
    explorer = st.Explorer(activations, synchronous=True, device="cpu")
    try:
        explorer.set(affinity="vv", kernel="laplacian")
        assert explorer.eigenvectors.attrs["kernel"] == "laplacian"
        assert "Laplacian of theirs" in dict(explorer._controls.kernel.options)
        assert "laplacian" in explorer.code()
        page = st.freeze(activations, kinds="vv", kernel="laplacian", presets=["all"], n_eigenvectors=2, device="cpu")
        assert "laplacian" in page.html
    finally:
        explorer.close()


def test_reports_and_tables_name_them(theirs: Any, activations: xr.DataTree, tmp_path: Path) -> None:
    eig = st.solve(st.affinity(activations, "vv", kernel="laplacian", device="cpu"), 2, method="careful", factor=1.0)
    page = st.render_report(activations, {"vv": eig}, tmp_path / "a.html").read_text()
    assert "exp(-sharpness |l - r|)" in page
    tables = importlib.import_module("make_tables")
    assert "| `laplacian` |" in tables.kernel_table()
    assert "| `careful` |" in tables.solver_table()


def test_the_command_line_takes_them(theirs: Any, activations: xr.DataTree, tmp_path: Path) -> None:
    store, out = tmp_path / "activations.zarr", tmp_path / "eig.zarr"
    activations.to_zarr(store)
    words = [
        "solve",
        "--activations",
        str(store),
        "--out",
        str(out),
        "--affinity",
        "vv",
        "--kernel",
        "laplacian",
        "--method",
        "careful",
    ]
    assert main([*words, "--kernel-option", "sharpness=2"]) == 0
    assert out.exists()


def test_what_is_no_kernel_and_what_was_not_registered(theirs: Any, activations: xr.DataTree) -> None:
    with pytest.raises(AffinityError, match="kernel=3 is not offered: use one of .*, or an object of st.kernels"):
        st.affinity(activations, "vv", kernel=3)  # pyright: ignore[reportArgumentType]
    stranger = st.kernels.Kernel("stranger", "?", "{}{}", "?", theirs.prepare)
    with pytest.raises(AffinityError, match=r"'stranger' has not been registered: call st\.kernels\.register"):
        st.affinity(activations, "vv", kernel=stranger)
    with pytest.raises(AffinityError, match="'rbf' is built in"):
        st.kernels.register(st.kernels.Kernel("rbf", "?", "{}{}", "?", theirs.prepare))
    with pytest.raises(AffinityError, match="needs factors="):
        st.kernels.register(st.kernels.Kernel("x", "?", "{}{}", "?", theirs.prepare, scopes=("dataset",)))
    with pytest.raises(AffinityError, match="sharpness=-1 is out of range: expected a number above 0"):
        st.affinity(activations, "vv", kernel="laplacian", sharpness=-1)
    with pytest.raises(AffinityError, match="sharpness is given twice"):
        st.affinity(activations, "vv", kernel=theirs.Laplacian(sharpness=1), sharpness=2)
    with pytest.raises(SolverError, match="'exact' is built in"):
        st.solvers.register(st.solvers.Solver("exact", "?", theirs.careful))
    graph = st.affinity(activations, "vv", device="cpu")
    with pytest.raises(SolverError, match="factor=0 is out of range"):
        st.solve(graph, 2, method="careful", factor=0)
    with pytest.raises(SolverError, match="'other' has not been registered"):
        st.solve(graph, 2, method=st.solvers.Solver("other", "?", theirs.careful))
