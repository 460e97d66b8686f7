"""Comparing answers: angles equal SciPy's, alignment turns only what is free, what does not compare is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from hypothesis import given
from hypothesis import strategies as some

import spectral_toolkit as st
from spectral_toolkit._affinity.dataset_pencil import make_pencil
from spectral_toolkit._analysis.comparison.alignment import turn
from spectral_toolkit._analysis.comparison.angles import centred, orthonormal, principal_angles
from spectral_toolkit.errors import ComparisonError
from tests.tree_factory import make_tree

GRID = (5, 6)


def solved(
    kind: str = "vv", n: int = 4, *, grids=(GRID, GRID), images: int = 2, seed: int = 0, **options
) -> xr.Dataset:
    tree = make_tree(list(grids), images=images, seed=seed)
    return st.solve(st.affinity(tree, kind, device="cpu", **options), n)


def mass_matrix(graph, image: int = 0) -> np.ndarray:
    return make_pencil(graph, slice(image, image + 1)).dense()[1][0].numpy()


def turned(eig: xr.Dataset, Q: np.ndarray) -> xr.Dataset:
    """The same answer with its eigenvectors mixed by a matrix (component, component)."""
    vectors = eig.eigenvector.transpose("image", "y", "x", "component")
    return eig.assign(eigenvector=vectors.copy(data=vectors.values @ Q))


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@given(
    n=some.integers(5, 20),
    k=some.integers(1, 3),
    near=some.sampled_from([0.0, 1e-9, 1e-4, 1.0, 1e3]),
    seed=some.integers(0, 10**6),
)
def test_angles_equal_scipys_under_any_inner_product(n: int, k: int, near: float, seed: int) -> None:
    """The slow twin: whiten with a Cholesky factor, put the constant into both spans, let SciPy find the angles."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(n, n)) / np.sqrt(n) + np.eye(n)
    M = root @ root.T + 0.1 * np.eye(n)
    x = random.normal(size=(n, k))
    y = x @ rotation(k, seed) + near * random.normal(size=(n, k))
    bases = [orthonormal(centred(v, lambda z: M @ z), lambda z: M @ z) for v in (x, y)]
    assert bases[0] is not None
    assert bases[1] is not None
    angles = principal_angles(bases[0], bases[1], lambda z: M @ z)

    whiten = np.linalg.cholesky(M).T
    one = np.ones((n, 1))
    expected = scipy.linalg.subspace_angles(whiten @ np.hstack([one, x]), whiten @ np.hstack([one, y]))
    np.testing.assert_allclose(angles, np.sort(expected)[1:], atol=5e-8)


def test_vectors_that_depend_on_each_other_have_no_basis() -> None:
    x = np.random.default_rng(0).normal(size=(8, 2))
    assert orthonormal(np.hstack([x, x.sum(1, keepdims=True)]), lambda z: z) is None
    assert orthonormal(np.hstack([x, 0 * x[:, :1]]), lambda z: z) is None


@given(signs=some.lists(some.booleans(), min_size=4, max_size=4), seed=some.integers(0, 10**6))
def test_distance_is_blind_to_what_means_nothing(signs: list[bool], seed: int) -> None:
    eig = _EIG
    Q = rotation(4, seed) * np.where(signs, 1, -1)
    found = st.subspace_distance(turned(eig, Q), eig)
    np.testing.assert_allclose(found.principal_angle, 0, atol=1e-7)
    np.testing.assert_allclose(found.overlap, 1)
    assert dict(found.sizes) == {"image": 2, "rank": 4}


_EIG = solved()
_NO_GRAPH: Any = _EIG


def test_measures_are_those_of_the_angles_and_symmetric() -> None:
    qk, vv = solved("qk"), solved("vv")
    found, back = st.subspace_distance(qk, vv, 3), st.subspace_distance(vv, qk, 3)
    xr.testing.assert_allclose(found, back)
    for image in range(2):
        x, y = (e.eigenvector.values[image].reshape(-1, 4)[:, :3] for e in (qk, vv))
        expected = np.sort(scipy.linalg.subspace_angles(x - x.mean(0), y - y.mean(0)))
        one = found.isel(image=image)
        np.testing.assert_allclose(one.principal_angle, expected, atol=1e-7)
        assert float(one.geodesic) == pytest.approx(np.linalg.norm(expected))
        assert float(one.chordal) == pytest.approx(np.linalg.norm(np.sin(expected)))
        assert float(one.overlap) == pytest.approx(np.mean(np.cos(expected) ** 2))
        assert float(one.chance) == pytest.approx(3 / 29)
    assert found.attrs["inner"] == "cells"
    assert found.attrs["n_eigenvectors"] == 3


def test_chance_is_what_random_spans_overlap() -> None:
    random = np.random.default_rng(0)
    overlaps = []
    for _ in range(200):
        a, b = (
            _EIG.assign(eigenvector=_EIG.eigenvector.copy(data=random.normal(size=_EIG.eigenvector.shape)))
            for _ in "ab"
        )
        overlaps.append(st.subspace_distance(a, b))
    mean = xr.concat(overlaps, "draw")
    assert float(mean.overlap.mean()) == pytest.approx(float(mean.chance.mean()), abs=0.01)


def test_a_graph_gives_the_inner_product_of_its_degrees() -> None:
    tree = make_tree([GRID, (3, 3)], images=2)  # two grids, so that B is no diagonal matrix
    graph = st.affinity(tree, "vv", device="cpu")
    eig, other = st.solve(graph, 3), st.solve(st.affinity(tree, "qk", device="cpu"), 3)
    found = st.subspace_distance(eig, other, inner=graph)
    for image in range(2):
        B = mass_matrix(graph, image)
        x, y = (e.eigenvector.values[image].reshape(-1, 3) for e in (eig, other))
        np.testing.assert_allclose(x.T @ B @ x, np.eye(3), atol=1e-9)
        whiten, one = np.linalg.cholesky(B).T, np.ones((len(B), 1))
        expected = scipy.linalg.subspace_angles(whiten @ np.hstack([one, x]), whiten @ np.hstack([one, y]))
        np.testing.assert_allclose(found.principal_angle[image], np.sort(expected)[1:], atol=5e-8)
    assert "degrees" in found.attrs["inner"]


def test_a_dataset_is_one_problem_whatever_the_inner_product() -> None:
    tree = make_tree([GRID], images=3)
    graphs = [st.affinity(tree, kind, scope="dataset", kernel="shifted_cosine", device="cpu") for kind in ("vv", "qk")]
    answers = [st.solve(graph, 3) for graph in graphs]
    flat = [eig.eigenvector.values.reshape(-1, 3) for eig in answers]
    found = st.subspace_distance(answers[0], answers[1])
    assert found.geodesic.dims == ()
    expected = scipy.linalg.subspace_angles(*(x - x.mean(0) for x in flat))
    np.testing.assert_allclose(found.principal_angle, np.sort(expected), atol=1e-7)
    B = np.sqrt(
        make_pencil(graphs[0], slice(None)).mass_matmul(make_pencil(graphs[0], slice(None)).constant())[0, 0].numpy()
    )
    one = np.ones((len(B), 1))
    expected = scipy.linalg.subspace_angles(*(B[:, None] * np.hstack([one, x]) for x in flat))
    found = st.subspace_distance(answers[0], answers[1], inner=graphs[0])
    np.testing.assert_allclose(found.principal_angle, np.sort(expected)[1:], atol=1e-7)
    aligned = st.align(turned(answers[0], np.diag([-1.0, 1, -1])), answers[0])
    np.testing.assert_allclose(aligned.eigenvector, answers[0].eigenvector, atol=1e-12)
    assert aligned.similarity.dims == ("component",)


def test_images_are_matched_by_name_and_one_may_be_chosen() -> None:
    qk, vv = solved("qk"), solved("vv")
    expected = st.subspace_distance(qk, vv)
    shuffled = st.subspace_distance(qk, vv.isel(image=[1, 0]))
    np.testing.assert_allclose(shuffled.geodesic, expected.geodesic)
    assert shuffled.image.values.tolist() == qk.image.values.tolist()
    one = st.subspace_distance(qk.isel(image=1), vv.isel(image=1))
    assert float(one.geodesic) == pytest.approx(float(expected.geodesic[1]))
    assert one.geodesic.dims == ()
    of_a_dataset = vv.isel(image=1).assign_attrs(scope="dataset")
    assert float(st.subspace_distance(qk.isel(image=1), of_a_dataset).geodesic) == pytest.approx(float(one.geodesic))
    aligned = st.align(vv.isel(image=1), qk.isel(image=1))
    np.testing.assert_allclose(aligned.eigenvector, st.align(vv, qk.isel(image=[1, 0])).eigenvector[1])


def test_grids_meet_at_the_coarser_one() -> None:
    coarse = solved(grids=[(4, 5)])
    fine = coarse.eigenvector.values.repeat(2, axis=1).repeat(3, axis=2)
    fine = xr.Dataset(
        {"eigenvector": (("image", "y", "x", "component"), fine)}, {"image": coarse.image.values}, {"scope": "image"}
    )
    found = st.subspace_distance(fine, coarse)
    np.testing.assert_allclose(found.geodesic, 0, atol=1e-7)
    assert found.attrs["grid"] == "4x5"
    aligned = st.align(turned(fine, np.diag([1.0, -1, -1, 1])), coarse)
    np.testing.assert_allclose(aligned.eigenvector, fine.eigenvector, atol=1e-12)
    np.testing.assert_allclose(aligned.similarity, 1)


def test_isolated_cells_do_not_count() -> None:
    isolated = _EIG.isolated.copy()
    isolated[:, 0, 0] = True
    spoilt = _EIG.eigenvector.copy()
    spoilt[:, 0, 0] = 7.0
    eig = _EIG.assign(eigenvector=spoilt, isolated=isolated)
    np.testing.assert_allclose(st.subspace_distance(eig, _EIG).geodesic, 0, atol=1e-7)
    np.testing.assert_allclose(st.align(eig, _EIG).similarity, 1)
    assert (st.subspace_distance(eig.drop_vars("isolated"), _EIG).geodesic > 0.1).all()


@given(
    n=some.integers(6, 15), sizes=some.lists(some.integers(1, 3), min_size=1, max_size=3), seed=some.integers(0, 10**6)
)
def test_a_turn_is_procrustes_within_each_group(n: int, sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    k = sum(sizes)
    if k >= n:
        return
    groups = np.repeat(np.arange(len(sizes)), sizes)
    weight = random.uniform(0.5, 2, size=n)
    x, target = random.normal(size=(2, n, k))
    Q = turn(x, target, groups, lambda z: weight[:, None] * z)
    np.testing.assert_allclose(Q.T @ Q, np.eye(k), atol=1e-9)
    assert np.all(Q[groups[:, None] != groups[None, :]] == 0)
    root = np.sqrt(weight)[:, None]
    for group in range(len(sizes)):
        at = groups == group
        a, b = (root * (v[:, at] - (weight @ v[:, at]) / weight.sum()) for v in (x, target))
        np.testing.assert_allclose(Q[np.ix_(at, at)], scipy.linalg.orthogonal_procrustes(a, b)[0], atol=1e-8)


def test_alignment_undoes_what_is_free_and_nothing_else() -> None:
    eig = _EIG.assign(degenerate_group=(("image", "component"), [[0, 1, 1, 2]] * 2))
    Q = np.zeros((4, 4))
    Q[0, 0], Q[3, 3] = -1, -1
    Q[1:3, 1:3] = rotation(2, 3)
    aligned = st.align(turned(eig, Q), eig)
    np.testing.assert_allclose(aligned.eigenvector, eig.eigenvector, atol=1e-12)
    np.testing.assert_allclose(aligned.similarity, 1)
    mean = eig.layer_share.sel(component=[2, 3]).mean("component")
    np.testing.assert_allclose(aligned.layer_share.sel(component=2), mean)
    np.testing.assert_allclose(aligned.layer_share.sel(component=[1, 4]), eig.layer_share.sel(component=[1, 4]))
    np.testing.assert_allclose(aligned.layer_mass.sum("layer"), 1)
    assert "2 groups of equal eigenvalues" in aligned.attrs["notes"]
    assert dict(aligned.sizes) == dict(eig.sizes)
    # Components that have swapped are not swapped back: their places say what they cost.
    swapped = st.align(turned(_EIG, np.eye(4)[[1, 0, 2, 3]]), _EIG)
    assert (swapped.similarity.sel(component=[1, 2]) < 0.9).all()
    np.testing.assert_allclose(swapped.similarity.sel(component=[3, 4]), 1)


def test_aligned_eigenvectors_still_solve_the_problem() -> None:
    graph = st.affinity(make_tree([GRID], images=1), "vv", device="cpu")
    eig = st.solve(graph, 4)
    aligned = st.align(eig, solved("qk", images=1))
    X, B = aligned.eigenvector.values.reshape(-1, 4), mass_matrix(graph)
    np.testing.assert_allclose(X.T @ B @ X, np.eye(4), atol=1e-9)
    assert (aligned.similarity >= 0).all()


def test_a_reference_may_hold_fewer_components() -> None:
    aligned = st.align(turned(_EIG, -np.eye(4)), _EIG.sel(component=[1, 3]))
    assert np.isnan(aligned.similarity.sel(component=[2, 4])).all()
    np.testing.assert_allclose(aligned.similarity.sel(component=[1, 3]), 1)
    np.testing.assert_allclose(aligned.eigenvector.sel(component=2), -_EIG.eigenvector.sel(component=2))


def test_an_aligned_answer_survives_zarr_and_can_be_shown(tmp_path) -> None:
    aligned = st.align(solved("vv"), solved("qk"))
    aligned.to_zarr(tmp_path / "aligned.zarr")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "aligned.zarr").load(), aligned)
    assert st.segment(aligned, 3).sizes["image"] == 2


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_layers_are_compared_one_by_one(scope: str) -> None:
    options: dict[str, Any] = {} if scope == "image" else {"scope": "dataset", "kernel": "shifted_cosine"}
    a, b = (st.affinity(make_tree([GRID] * 3, images=2, seed=s), "vv", device="cpu", **options) for s in (0, 1))
    same, every = st.layer_distances(a, b, 3), st.layer_distances(a, b, 3, pairs="all")
    for i, layer in enumerate(a.layers):
        for j, other in enumerate(b.layers):
            alone = [
                st.solve(g.reweight({n: float(n == name) for n in g.layers}), 3) for g, name in ((a, layer), (b, other))
            ]
            expected = st.subspace_distance(alone[0], alone[1])
            for measure in ("geodesic", "chordal", "overlap"):
                np.testing.assert_allclose(every[measure].sel(layer=layer, other_layer=other), expected[measure])
                if i == j:
                    np.testing.assert_allclose(same[measure].sel(layer=layer), expected[measure])
    assert ("image" in every.geodesic.dims) == (scope == "image")
    assert same.other_layer.values.tolist() == list(b.layers)
    assert a.weights == dict.fromkeys(a.layers, 1.0)


def test_models_of_different_depth_need_all_pairs() -> None:
    a, b = (st.affinity(make_tree([GRID] * n), "vv", device="cpu") for n in (1, 2))
    with pytest.raises(ComparisonError, match="use pairs='all'"):
        st.layer_distances(a, b, 2)
    assert st.layer_distances(a, b, 2, pairs="all").overlap.shape == (1, 1, 2)


def test_a_span_that_ends_inside_a_group_says_so() -> None:
    eig = _EIG.assign(eigengap=_EIG.eigengap.where(_EIG.component != 2, 0.0))
    assert "first 2 eigenvectors of b end inside" in st.subspace_distance(_EIG, eig, 2).attrs["notes"]
    assert st.subspace_distance(_EIG, eig, 3).attrs["notes"] == ""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: st.subspace_distance(_EIG.eigenvector, _EIG), "a is a DataArray without 'eigenvector'"),
        (lambda: st.align(_EIG, _EIG.drop_vars("eigenvector")), "reference is a Dataset without"),
        (lambda: st.align(_EIG, _EIG.isel(y=0)), "expected image, y, x and component"),
        (lambda: st.align(_EIG.where(_EIG.y > 0.5), _EIG), "eig holds NaN"),
        (lambda: st.align(_EIG, _EIG.isel(image=[0])), "of different images"),
        (lambda: st.align(_EIG, _EIG.assign_coords(image=["x", "y"])), "of different images"),
        (lambda: st.align(_EIG.sel(component=[1]), _EIG.sel(component=[2])), "common ones"),
        (lambda: st.subspace_distance(_EIG, _EIG.assign_attrs(scope="dataset")), "solve both in the same way"),
        (lambda: st.subspace_distance(_EIG, _EIG, 5), "expected a whole number from 1 to 4"),
        (lambda: st.subspace_distance(_EIG, _EIG, 0), "expected a whole number from 1 to 4"),
        (lambda: st.subspace_distance(_EIG, _EIG, True), "expected a whole number from 1 to 4"),
        (lambda: st.subspace_distance(_EIG, _EIG, inner="mass"), "inner='mass' is not offered"),
        (lambda: st.subspace_distance(_EIG, _EIG.isel(y=[0, 2], x=[0, 3])), "on the common grid of 2x2"),
        (lambda: st.layer_distances(_NO_GRAPH, _NO_GRAPH), "a is a Dataset: give a graph"),
    ],
)
def test_what_cannot_be_compared_gets_one_sentence(call, sentence: str) -> None:
    with pytest.raises(ComparisonError, match=sentence):
        call()


def test_a_graph_of_other_pictures_or_an_unknown_pairing_is_refused() -> None:
    graph = st.affinity(make_tree([GRID], images=1), "vv", device="cpu")
    with pytest.raises(ComparisonError, match="inner='cells'"):
        st.subspace_distance(_EIG, _EIG, inner=graph)
    with pytest.raises(ComparisonError, match="pairs='depth' is not offered"):
        st.layer_distances(graph, graph, 2, pairs="depth")
