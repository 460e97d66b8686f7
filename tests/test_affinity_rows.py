"""What the explorer asks of the layers below it: a patch's row, masked tokens, a solve that can be stopped."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import xarray as xr
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._affinity.rows import affinity_row
from spectral_toolkit._analysis.trust import outlying_masks
from spectral_toolkit.errors import AffinityError


@pytest.mark.parametrize("kind", ["qk", "vv"])
def test_a_row_equals_its_slow_twin_over_layers_of_any_resolution(kind):
    tree = make_tree([(4, 6), (2, 3)], images=2, special=1)
    weights = {"block.0": 1.0, "block.1": 0.5}
    graph = st.affinity(tree, kind, weights=weights, device="cpu")
    joint, layers = affinity_row(graph, (2, 5), 1)
    cell = np.zeros(24)
    cell[2 * 6 + 5] = 1
    expected = np.zeros(24)
    for name, matrix in graph.to_dense(1).items():
        lift = reference.resampling_matrix((4, 6), (layers[name].sizes["y"], layers[name].sizes["x"]))
        coarse = lift @ cell
        np.testing.assert_allclose(layers[name].values.ravel(), matrix @ coarse / coarse.sum(), atol=1e-6)
        expected += weights[name] * 24 / matrix.sum() * lift.T @ matrix @ coarse
    np.testing.assert_allclose(joint.values.ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("cell", [(4, 0), (0, 6), (-1, 0), (0.5, 1), (1,), None])
def test_a_cell_off_the_grid_is_refused(cell):
    graph = st.affinity(make_tree([(4, 6)]), "vv", device="cpu")
    with pytest.raises(AffinityError, match="is not on the grid: expected a row below 4 and a column below 6"):
        affinity_row(graph, cell)


@pytest.mark.parametrize(
    ("kind", "kernel", "options"),
    [
        ("qk", "softmax", {}),
        ("vv", "cosine", {}),
        ("kk", "shifted_cosine", {}),
        ("qq", "rbf", {}),
        ("vv", "cosine", {"steps": 2}),
    ],
)
@pytest.mark.parametrize("dense_bytes", [2**30, 0])
def test_masked_tokens_have_no_affinity_in_their_layer(kind, kernel, options, dense_bytes):
    dense_bytes = dense_bytes or 2**30 * len(options)  # walks need the matrix
    # The low-rank operator is used above twice its rank.
    tree = make_tree([(7, 7), (7, 7)], heads=1, channels=2)
    hidden = xr.DataArray(np.zeros((1, 7, 7), dtype=bool), dims=("image", "y", "x"))
    hidden[0, 2, 3] = True
    masked = st.affinity(
        tree, kind, kernel=kernel, mask={"block.0": hidden}, dense_bytes=dense_bytes, device="cpu", **options
    )
    plain = st.affinity(tree, kind, kernel=kernel, device="cpu", **options).to_dense()
    got = masked.to_dense()
    assert got["block.0"][17].max() == 0
    assert got["block.0"][:, 17].max() == 0
    others = np.delete(np.arange(49), 17)
    if not options:
        np.testing.assert_allclose(
            got["block.0"][np.ix_(others, others)], plain["block.0"][np.ix_(others, others)], atol=1e-12
        )
    np.testing.assert_allclose(got["block.1"], plain["block.1"], atol=1e-12)
    if not options:
        assert "Masked tokens, which have no affinity in their layer: 1 of block.0." in st.solve(masked, 2).notes


def test_a_cell_masked_everywhere_is_isolated():
    tree = make_tree([(5, 5), (5, 5)], channels=32)
    for layer in ("block.0", "block.1"):
        values_of(tree, layer, "token")[0, 2, 3] *= 30
    masks = outlying_masks(tree)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"block.0": 1, "block.1": 1}
    eig = st.solve(st.affinity(tree, "vv", mask=masks, device="cpu"), 2)
    assert bool(eig.isolated[0, 2, 3])
    assert int(eig.isolated.sum()) == 1


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([1], "give a mapping"),
        ({"nowhere": None}, "which is not a layer"),
        ({"block.0": np.zeros((1, 4, 4), bool)}, "expected booleans of sizes"),
        ({"block.0": xr.DataArray(np.zeros((1, 4, 4)), dims=("image", "y", "x"))}, "expected booleans of sizes"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(AffinityError, match=message):
        st.affinity(make_tree([(4, 4)]), "vv", mask=mask, device="cpu")


def test_a_mask_is_refused_over_a_dataset():
    hidden = xr.DataArray(np.zeros((1, 4, 4), dtype=bool), dims=("image", "y", "x"))
    with pytest.raises(AffinityError, match="mask is not offered with scope='dataset'"):
        st.affinity(make_tree([(4, 4)]), "vv", scope="dataset", mask={"block.0": hidden}, device="cpu")


@pytest.mark.parametrize("side", [4, 24])
def test_the_exact_solver_reports_every_step_and_can_be_stopped(side):
    graph = st.affinity(make_tree([(side, side)]), "vv", device="cpu")
    steps = []
    whole = st.solve(graph, 2, progress=lambda *step: steps.append(step))
    assert len(steps) == 1 if side == 4 else len(steps) >= whole.iterations > 1

    class StopError(Exception):
        pass

    def stop(*step):
        if step[0] == (0 if side == 4 else 2):
            raise StopError

    with pytest.raises(StopError):
        st.solve(graph, 2, progress=stop)
    xr.testing.assert_allclose(st.solve(graph, 2).eigenvalue, whole.eigenvalue)


@pytest.mark.parametrize("kernel", ["knn", "shifted_cosine"])
def test_a_row_of_a_dataset_reaches_every_image(kernel):
    tree = make_tree([(4, 6), (2, 3)], images=3, special=1)
    weights = {"block.0": 1.0, "block.1": 0.5}
    graph = st.affinity(tree, "vv", kernel=kernel, scope="dataset", weights=weights, device="cpu")
    joint, layers = affinity_row(graph, (2, 5), 1)
    assert (joint.dims, joint.attrs["image"]) == (("image", "y", "x"), graph.images[1])
    cell = np.zeros(3 * 24)
    cell[24 + 2 * 6 + 5] = 1
    expected = np.zeros(3 * 24)
    for name, matrix in graph.to_dense().items():
        one = reference.resampling_matrix((4, 6), (layers[name].sizes["y"], layers[name].sizes["x"]))
        lift = np.kron(np.eye(3), one)
        coarse = lift @ cell
        np.testing.assert_allclose(layers[name].values.ravel(), matrix @ coarse / coarse.sum(), atol=1e-6)
        expected += weights[name] * 3 * 24 / matrix.sum() * lift.T @ matrix @ coarse
    np.testing.assert_allclose(joint.values.ravel(), expected, atol=1e-6)
    off = graph.reweight({"block.1": 0.0})
    assert list(affinity_row(off, (0, 0))[1]) == ["block.0"], "a layer of weight 0 would have to be searched"
