"""New pictures in the eigenvectors of others, against the rows of the whole matrix with the picture in it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as some
from reference import interpolation_matrix, resampling_matrix
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit.errors import ActivationsError, SolverError

KINDS = ("qk", "vv")


def named_tree(grids: list[tuple[int, int]], *, images: int, **options: Any) -> xr.DataTree:
    names = [f"picture {i}" for i in range(images)]
    return make_tree(grids, images=images, **options).map_over_datasets(
        lambda node: node.assign_coords(image=names) if "image" in node.dims else node
    )


def part(acts: xr.DataTree, *places: int) -> xr.DataTree:
    return acts.isel(image=list(places))


def of_dataset(acts: xr.DataTree, kind: str, kernel: str = "knn", **options: Any) -> Any:
    return st.affinity(acts, kind, kernel=kernel, scope="dataset", device="cpu", **options)


def slow_projection(acts: xr.DataTree, eig: xr.Dataset, graph: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors and tie of the last picture of ``acts``, all the others being fitted, from matrices written out."""
    fitted = graph.to_dense()
    together = of_dataset(acts, graph.recipe.kind, graph.recipe.kernel, **options).to_dense()
    base = max((m.grid for m in graph.members if graph.weights[m.name] > 0), key=lambda grid: grid[0] * grid[1])
    n, n_fitted = base[0] * base[1], len(graph.images)
    own, mass, known = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n_fitted * n))
    degree = np.zeros(n)
    total = sum(graph.weights.values())
    for member in graph.members:
        m = member.n_cells
        scale = graph.weights[member.name] / total * n / m / fitted[member.name].sum(axis=1).mean()
        rows = scale * together[member.name][-m:]
        inside = rows[:, -m:] if graph.recipe.kernel == "knn" else np.zeros((m, m))
        outside = rows[:, :-m]
        lift = resampling_matrix(base, member.grid)
        own += lift.T @ inside @ lift
        known += lift.T @ outside @ np.kron(np.eye(n_fitted), lift)
        row_sums = inside.sum(axis=1) + outside.sum(axis=1)
        mass += lift.T @ np.diag(row_sums) @ lift
        degree += row_sums if member.grid == base else 0
    fill = interpolation_matrix(degree > 1e-12, base)
    vectors = []
    for k, eigenvalue in enumerate(eig.eigenvalue.values):
        right = known @ eig.eigenvector.values[..., k].ravel()
        left = (1 - eigenvalue) * mass - own
        vectors.append(fill @ scipy.linalg.solve(fill.T @ left @ fill, fill.T @ right))
    return np.stack(vectors, axis=1).reshape(*base, -1), known.sum(axis=1).reshape(base)


@settings(max_examples=25)
@given(
    kind=some.sampled_from(KINDS),
    kernel=some.sampled_from(["knn", "shifted_cosine"]),
    grids=some.sampled_from([[(4, 5)], [(4, 5), (4, 5)], [(6, 4), (3, 2), (5, 6)]]),
    images=some.integers(3, 6),
    neighbours=some.tuples(some.integers(1, 30), some.integers(1, 40)),
    heads=some.sampled_from(["mean", "each"]),
    hole=some.booleans(),
    seed=some.integers(0, 99),
)
def test_a_picture_gets_what_its_rows_of_the_whole_matrix_ask_for(
    kind, kernel, grids, images, neighbours, heads, hole, seed
) -> None:
    acts = named_tree(grids, images=images, channels=5, seed=seed)
    options: dict[str, Any] = {"heads": heads}
    if kernel == "knn":
        options |= {"within": neighbours[0], "across": neighbours[1]}
        if hole:  # nothing is like a zero vector
            for layer in acts.children:
                values_of(acts, layer, "value")[-1, :, :2, :2] = 0.0
                values_of(acts, layer, "query")[-1, :, :2, :2] = 0.0
                values_of(acts, layer, "key")[-1, :, :2, :2] = 0.0
    graph = of_dataset(part(acts, *range(images - 1)), kind, kernel, weights=None, **options)
    eig = st.solve(graph, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not determined
        found = st.project(part(acts, images - 1), eig, graph)
    vectors, tie = slow_projection(acts, eig, graph, **options)
    certain = found.determined.values[0]
    scale = abs(vectors).max()
    np.testing.assert_allclose(found.eigenvector.values[0][..., certain], vectors[..., certain], atol=2e-4 * scale)
    np.testing.assert_allclose(found.tie.values[0], tie, atol=1e-5)
    if hole and kernel == "knn":
        assert found.isolated.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grids", [[(4, 5)], [(6, 4), (3, 2)]])
def test_by_shifted_cosine_a_fitted_picture_gets_its_own_eigenvectors(kind: str, grids: list[tuple[int, int]]) -> None:
    acts = named_tree(grids, images=4)
    graph = of_dataset(acts, kind, "shifted_cosine", weights=[1.0, *[0.5] * (len(grids) - 1)])
    eig = st.solve(graph, 3, tolerance=1e-9)
    again = st.project(part(acts, 2), eig, graph)
    np.testing.assert_allclose(again.eigenvector[0], eig.eigenvector[2], atol=1e-5)
    assert again.tie.mean() == pytest.approx(1.0, abs=0.3)
    xr.testing.assert_identical(again.eigenvalue, eig.eigenvalue)


def test_pictures_of_one_kind_are_laid_where_a_joint_solve_puts_them() -> None:
    scenes = st.scenes.sample(16, seed=3)
    # The middle layers hold positions most clearly, so that new images say something about every eigenvector.
    acts = st.capture("scenes", scenes.pixels, layers=slice(2, 5), quantities=("query", "key"), progress=False)
    graph = of_dataset(part(acts, *range(12)), "qk")
    eig = st.solve(graph, 4)
    found = st.project(part(acts, *range(12, 16)), eig, graph)
    whole = st.solve(of_dataset(acts, "qk"), 4).eigenvector.values
    space, other = (values.reshape(-1, 4) for values in (eig.eigenvector.values, whole[:12]))
    turn = scipy.linalg.orthogonal_procrustes(other, space)[0]
    truth, mine = whole[12:].reshape(-1, 4) @ turn, found.eigenvector.values.reshape(-1, 4)
    cosine = (truth * mine).sum(axis=0) / np.linalg.norm(truth, axis=0) / np.linalg.norm(mine, axis=0)
    assert (cosine > 0.99).all()
    assert found.determined.all()


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_others_beside_it_change_nothing(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = named_tree([(4, 5), (2, 3)], images=7)
    options = {"within": 2} if kernel == "knn" else {}
    graph = of_dataset(part(acts, 0, 1, 2, 3), "vv", kernel, **options)
    eig = st.solve(graph, 2)
    together = st.project(part(acts, 4, 5, 6), eig, graph)
    monkeypatch.setattr("spectral_toolkit.solvers.extension.ENTRIES_AT_ONCE", 1)
    monkeypatch.setattr("spectral_toolkit.solvers.extension.knn.BLOCK_ELEMENTS", 64)
    alone = st.project(part(acts, 6, 4), eig, graph)
    np.testing.assert_allclose(alone.eigenvector[0], together.eigenvector[2], atol=1e-9)
    np.testing.assert_allclose(alone.eigenvector[1], together.eigenvector[0], atol=1e-9)
    assert list(alone.image.values) == ["picture 6", "picture 4"]


@pytest.mark.parametrize("heads", ["mean", "each"])
@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_the_graph_is_made_again_from_stores(kernel: str, heads: str, tmp_path: Path) -> None:
    acts = named_tree([(4, 5), (6, 6), (2, 3)], images=6)
    options: dict[str, Any] = {"within": 3, "across": 4, "threshold": 0.2} if kernel == "knn" else {}
    graph = of_dataset(part(acts, 0, 1, 2, 3), "vv", kernel, heads=heads, layers=["block.2", "block.0"], **options)
    graph = graph.reweight({"block.2": 0.25})
    st.solve(graph, 2).to_zarr(tmp_path / "eig.zarr", consolidated=False)
    part(acts, 0, 1, 2, 3).to_zarr(tmp_path / "acts.zarr", consolidated=False)
    eig = xr.open_dataset(tmp_path / "eig.zarr", engine="zarr", consolidated=False)
    stored = xr.open_datatree(tmp_path / "acts.zarr", engine="zarr", consolidated=False)
    again = st.project(part(acts, 4, 5), eig, stored, folder=tmp_path / "tables", device="cpu")
    xr.testing.assert_allclose(again, st.project(part(acts, 4, 5), eig, graph))
    assert (tmp_path / "tables").exists() == (kernel == "knn")


def test_pictures_of_another_size() -> None:
    graph = of_dataset(named_tree([(4, 5), (2, 3)], images=5, smooth=3.0), "vv", "shifted_cosine")
    eig = st.solve(graph, 2)
    found = st.project(named_tree([(8, 6), (4, 3)], images=2, smooth=3.0), eig, graph)
    assert dict(found.eigenvector.sizes) == {"image": 2, "y": 8, "x": 6, "component": 2}
    assert found.y.values[0] == pytest.approx(1 / 16)
    assert found.tie.mean() == pytest.approx(1.0, abs=0.3)


def test_a_picture_that_holds_together_by_itself_is_told() -> None:
    """Its patches are like each other and hardly like any fitted one."""
    rng = np.random.default_rng(0)
    acts = named_tree([(4, 4)], images=5, heads=1, channels=6, smooth=0.0)
    values_of(acts, "block.0", "value")[:] = rng.normal(size=(5, 1, 4, 4, 6)) * [1, 1, 1, 1, 0.5, 0.0]
    values_of(acts, "block.0", "value")[-1] = rng.normal(size=(1, 4, 4, 6)) * 0.02 + [0, 0, 0, 0, 0.3, 1.0]
    graph = of_dataset(part(acts, 0, 1, 2, 3), "vv", within=16, across=4)
    eig = st.solve(graph, 3)
    with pytest.warns(UserWarning, match=r"In 1 of 1 images \('picture 4'\) the patches"):
        found = st.project(part(acts, 4), eig, graph)
    assert not found.determined.all()
    assert "Projected into the eigenvectors of 4 other images" in found.attrs["notes"]
    assert "little about these eigenvectors" in found.attrs["notes"]
    nothing = part(acts, 4).map_over_datasets(xr.zeros_like)
    with pytest.warns(UserWarning, match="1 of 1 images .* have no affinity"):
        lost = st.project(nothing, eig, graph)
    assert lost.isolated.all()
    assert not lost.eigenvector.any()


def test_the_answer_is_read_like_any_other(tmp_path: Path) -> None:
    scenes = st.scenes.sample(6, seed=1)
    acts = st.capture("scenes", scenes.pixels, quantities=("value",), layers=["model.layer.4"], progress=False)
    graph = of_dataset(part(acts, 0, 1, 2, 3), "vv")
    eig = st.solve(graph, 3)
    found = st.project(part(acts, 4, 5), eig, graph)
    found.to_zarr(tmp_path / "found.zarr", consolidated=False)
    assert found.attrs["fitted_images"] == 4
    assert found.attrs["activations_pictures_sha256"] == acts.attrs["pictures_sha256"]
    both = st.segment(xr.concat([eig, found.drop_vars(["tie", "determined"])], "image", data_vars="minimal"), 4)
    assert both.sizes["image"] == 6
    view: Any = st.overlay(scenes.pixels.isel(image=slice(4, 6)), found, image=0, component=1, like=eig)
    limit = float(abs(eig.eigenvector.sel(component=1)).max())
    assert hv.Store.lookup_options("bokeh", view.Eigenvector.I, "plot").kwargs["clim"] == (-limit, limit)


def changed(eig: xr.Dataset, **attrs: Any) -> xr.Dataset:
    return eig.assign_attrs(attrs)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    acts = named_tree([(4, 5), (2, 3)], images=5)
    old, new = part(acts, 0, 1, 2, 3), part(acts, 4)
    graph = of_dataset(old, "vv")
    eig = st.solve(graph, 2)
    single = st.affinity(old, "vv", device="cpu")
    for answer, fitted, message in (
        ("no answer", graph, "without 'eigenvector'"),
        (eig, single, "fitted is of scope 'image'"),
        (eig, 3, "fitted is a int"),
        (eig, of_dataset(old, "kk"), "affinity='vv', but the graph has 'kk'"),
        (eig, graph.reweight({"block.0": 2.0}), "solved with weights="),
        (eig, of_dataset(part(acts, 0, 1, 2, 4), "vv"), "eig has other images"),
        (eig.isel(image=slice(0, 3)), graph, "eig has other images"),
        (eig.assign(eigenvector=eig.eigenvector * np.nan), graph, "NaN"),
        (st.solve(single, 2), old, "fitted is of scope 'image'"),
        (eig.drop_attrs(), old, "does not say how it was solved"),
    ):
        with pytest.raises(SolverError, match=message):
            st.project(new, answer, fitted)  # pyright: ignore[reportArgumentType]
    other = part(acts, 0, 1, 2, 3)
    other.attrs["pictures_sha256"] = "c"
    with pytest.raises(SolverError, match="activations_pictures_sha256=None, but the graph has 'c'"):
        st.project(new, eig, other)
    other_model, mine = part(acts, 4), part(acts, 0, 1, 2, 3)
    other_model.attrs.update(weights_sha256="b", model="other")
    mine.attrs.update(weights_sha256="a", model="mine")
    of_a_model = of_dataset(mine, "vv")
    for tree, fitted, message in (
        (xr.DataTree.from_dict({"block.0": new.children["block.0"].dataset}), graph, "lack layer 'block.1'"),
        (named_tree([(4, 5), (2, 3)], images=1, channels=3), graph, "other heads or channels"),
        (named_tree([(4, 5), (2, 3)], images=1, heads=1), graph, "other heads or channels"),
        (other_model, of_a_model, "model 'other', whose weights differ from those of 'mine'"),
    ):
        with pytest.raises(ActivationsError, match=message):
            st.project(tree, st.solve(fitted, 2), fitted)
