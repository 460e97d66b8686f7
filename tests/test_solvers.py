"""The exact solver against scipy on the dense pencil, degenerate graphs, warm starts, and every refusal."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import reference
import scipy.linalg
import xarray as xr
from hypothesis import event, given, settings
from hypothesis import strategies as st_
from preloaded import PYTHON
from sklearn.manifold import spectral_embedding
from tree_factory import make_tree, tree_of, values_of

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.solvers.result import canonical_sign, degenerate_groups

TOLERANCE = 1e-8


def reference_pairs(graph, image=0):
    """Pairs of one image from the graph's own dense affinities, on all cells of the base grid."""
    grids = {member.name: member.grid for member in graph.members}
    base = max((grids[name] for name, w in graph.weights.items() if w > 0), key=lambda grid: grid[0] * grid[1])
    a, b, p, _ = reference.joint_pencil(graph.to_dense(image), grids, graph.weights, base)
    value, vector = reference.eigenpairs(a, b)
    return value, vector, a, b, p


def assert_same_answer(eig, graph, image=0):
    """Eigenvalues to 1e-5 relative, and subspaces, cut where the eigengap allows, to a cosine of 0.99999."""
    value, vector, _, b, p = reference_pairs(graph, image)
    k = eig.sizes["component"]
    found = eig.eigenvalue.values[image]
    np.testing.assert_allclose(found, value[:k], rtol=1e-5, atol=1e-9)
    shown = eig.eigenvector.values[image].reshape(-1, k)
    free = ~eig.isolated.values[image].ravel()
    np.testing.assert_allclose(shown, p @ shown[free], atol=1e-10)
    x = shown[free]
    np.testing.assert_allclose(x.T @ b @ x, np.eye(k), atol=1e-6)
    np.testing.assert_allclose(x.T @ b @ np.ones(len(b)), 0, atol=1e-6 * len(b) ** 0.5)
    # Relative to the eigenvalue, and wide enough that the tolerance decides the subspace at all.
    apart = np.diff(value) > np.maximum(1e-3 * value[1:], 1e3 * TOLERANCE)
    cuts = [0, *(i + 1 for i in range(k) if i >= len(apart) or apart[i])]
    for begin, end in pairwise(cuts):
        cosines = np.linalg.svd(vector[:, begin:end].T @ b @ x[:, begin:end], compute_uv=False)
        assert cosines.min() >= 0.99999
    share, mass = eig.layer_share.values[image], eig.layer_mass.values[image]
    np.testing.assert_allclose(share.sum(axis=1), found, atol=1e-14)
    np.testing.assert_allclose(mass.sum(axis=1), 1, atol=1e-14)
    assert (share[:, eig.layer_weight.values == 0] == 0).all()
    assert bool(eig.converged.all())


small_grids = st_.lists(st_.tuples(st_.integers(1, 6), st_.integers(1, 6)), min_size=1, max_size=4)
cases = {
    "kind_and_kernel": st_.sampled_from(
        [("qk", "softmax"), ("vv", "cosine"), ("qk", "cosine"), ("token", "shifted_cosine"), ("kk", "rbf")]
    ),
    "heads": st_.sampled_from(["mean", "each"]),
    "dtype": st_.sampled_from(["float64", "float32"]),
    "damage": st_.sampled_from(["none", "isolated", "pieces", "identical", "peaked"]),
    "special": st_.integers(0, 2),
    "weights": st_.lists(st_.sampled_from([0.0, 0.3, 1.0, 5.0]), min_size=4, max_size=4),
    "seed": st_.integers(0, 10_000),
}


def damaged(tree, damage, seed):
    """Make trouble: dead cells, a graph in two pieces, cells that are all alike, or very peaked attention."""
    rng = np.random.default_rng(seed)
    for node in tree.children.values():
        for name in ("query", "key", "value", "token"):
            values = node.dataset[name].values
            if damage == "isolated":
                axis = 1 if name == "token" else 2
                values[np.broadcast_to(rng.random(values.shape[axis : axis + 2])[..., None], values.shape) < 0.3] = 0
            elif damage == "pieces":
                rows = values.shape[-3] // 2
                values[..., :rows, :, : values.shape[-1] // 2] = 0
                values[..., rows:, :, values.shape[-1] // 2 :] = 0
            elif damage == "identical":
                values[...] = 1.0
            elif damage == "peaked":
                values *= 6
    return tree


def compare_or_be_refused(graph, n_eigenvectors):
    try:
        eig = st.solve(graph, n_eigenvectors, tolerance=TOLERANCE)
    except SpectralToolkitError as error:
        refusal = str(error)
    else:
        event(f"compared, {eig.attrs['solver']}")
        assert_same_answer(eig, graph)
        return
    event("refused")
    assert re.search("is too many|All layer weights are 0|total degree is 0", refusal)


@settings(max_examples=200)
@given(grids=small_grids, n_eigenvectors=st_.integers(1, 6), **cases)
def test_small_problems_equal_scipy_on_the_dense_pencil(
    grids, n_eigenvectors, kind_and_kernel, heads, dtype, damage, special, weights, seed
):
    tree = damaged(make_tree(grids, special=special, dtype=dtype, seed=seed), damage, seed)
    layer_weights = {f"block.{i}": w for i, w in enumerate(weights[: len(grids)])}
    graph = st.affinity(tree, kind_and_kernel[0], kernel=kind_and_kernel[1], heads=heads, device="cpu")
    graph = graph.reweight(layer_weights)
    compare_or_be_refused(graph, n_eigenvectors)


@settings(max_examples=40)
@given(
    fine=st_.tuples(st_.integers(9, 14), st_.integers(9, 14)),
    coarse=st_.lists(st_.tuples(st_.integers(2, 9), st_.integers(2, 9)), max_size=2),
    n_eigenvectors=st_.integers(1, 2),
    **cases,
)
def test_the_iteration_equals_scipy_on_the_dense_pencil(
    fine, coarse, n_eigenvectors, kind_and_kernel, heads, dtype, damage, special, weights, seed
):
    tree = damaged(make_tree([fine, *coarse], special=special, dtype=dtype, seed=seed), damage, seed)
    layer_weights = {f"block.{i}": w for i, w in enumerate([1.0, *weights][: 1 + len(coarse)])}
    graph = st.affinity(tree, kind_and_kernel[0], kernel=kind_and_kernel[1], heads=heads, device="cpu")
    graph = graph.reweight(layer_weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectral_toolkit.solvers.exact.DENSE_CELLS", 0)
        compare_or_be_refused(graph, n_eigenvectors)


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
@pytest.mark.parametrize("grid", [(7, 9), (24, 25)])
def test_one_layer_is_the_spectral_embedding_of_scikit_learn(kernel, grid, monkeypatch):
    """With the diagonal zeroed in both, as scikit-learn zeroes it."""
    tree = make_tree([grid], smooth=2.0)
    graph = st.affinity(tree, "vv", kernel=kernel, device="cpu")
    matrix = graph.to_dense()["block.0"]
    np.fill_diagonal(matrix, 0.0)
    embedding = spectral_embedding(matrix, n_components=4, eigen_solver="arpack", drop_first=True, random_state=0)

    import torch

    from spectral_toolkit._affinity.operators import DenseOperator

    operator = DenseOperator(torch.as_tensor(matrix)[None])
    monkeypatch.setattr(type(graph), "all_operators", lambda self, members, images: {members[0].name: operator})
    eig = st.solve(graph, 4, tolerance=TOLERANCE)
    assert eig.attrs["solver"] == ("dense" if grid == (7, 9) else "davidson")
    ours = eig.eigenvector.values[0].reshape(-1, 4)
    for component in range(4):
        a, b = ours[:, component], embedding[:, component]
        assert abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.99999


def test_batches_give_what_single_images_give(monkeypatch):
    tree = make_tree([(12, 12), (6, 6)], images=3)
    monkeypatch.setattr("spectral_toolkit.solvers.exact.DENSE_CELLS", 0)
    graph = st.affinity(tree, "vv", device="cpu")
    together = st.solve(graph, 2, tolerance=TOLERANCE)
    assert together.attrs["solver"] == "davidson"
    monkeypatch.setattr("spectral_toolkit.solvers.BATCH_ELEMENTS", {"cpu": 1})
    alone = st.solve(st.affinity(tree, "vv", device="cpu"), 2, tolerance=TOLERANCE)
    xr.testing.assert_allclose(together[["eigenvector", "eigenvalue"]], alone[["eigenvector", "eigenvalue"]], atol=1e-6)
    for image in range(3):
        assert_same_answer(together, graph, image)


@pytest.mark.parametrize("remembered", [True, False])
def test_warm_starts_give_the_cold_answer_in_fewer_steps(remembered):
    tree = make_tree([(26, 26), (13, 13), (26, 26)], smooth=1.5)
    graph = st.affinity(tree, "qk", device="cpu")
    first = st.solve(graph, 4)
    if not remembered:
        graph.subspaces.clear()
    changed = graph.reweight({"block.2": 1.2})
    warm = st.solve(changed, 4, start=first, tolerance=TOLERANCE)
    cold = st.solve(changed, 4, tolerance=TOLERANCE)
    assert warm.attrs["solver"] == "davidson"
    assert warm.attrs["iterations"] < cold.attrs["iterations"]
    np.testing.assert_allclose(warm.eigenvalue, cold.eigenvalue, rtol=1e-6)
    assert_same_answer(warm, changed)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_warm_start_finds_every_copy_of_an_eigenvalue(noise):
    """Rows, then columns, of a picture: eigenvectors of the one are some of the other, but not the lowest."""
    side, rng = 30, np.random.default_rng(0)
    index = np.arange(side * side)
    values = [np.eye(side)[index // side], np.eye(side)[index % side]]
    rows, columns = ((v + noise * rng.normal(size=v.shape)).reshape(1, 1, side, side, side) for v in values)
    tree = tree_of(a=rows, b=columns)
    graph = st.affinity(tree, "vv", device="cpu")
    start = st.solve(graph.reweight({"a": 1, "b": 0}), 15)
    warm = st.solve(graph.reweight({"a": 0, "b": 1}), 15, start=start)
    np.testing.assert_allclose(warm.eigenvalue, 0.0, atol=1e-6)
    assert warm.attrs["start"] == "nothing"


def test_affinity_below_what_the_tolerance_tells_apart_is_said():
    rng = np.random.default_rng(0)
    value = 3 * rng.normal(size=(1, 2, 1, 1, 64)) + rng.normal(size=(1, 2, 24, 24, 64))
    tree = tree_of(a=value)
    graph = st.affinity(tree, "vv", kernel="shifted_cosine", steps=2, device="cpu")
    assert "1 - eigenvalue is below 100 times the tolerance" in st.solve(graph, 3).attrs["notes"]
    assert not st.solve(graph, 3, tolerance=1e-9).attrs["notes"]


def test_the_module_of_a_method_is_there_without_being_imported():
    code = "import spectral_toolkit as st; print(st.solvers.gradient.objective.__name__)"
    assert subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout == "objective\n"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = st.solvers.nothing


def test_a_warm_start_from_eigenvectors_that_are_not_the_lowest_is_not_believed(monkeypatch):
    """The trap: exact eigenvectors, tiny residuals, but not the ones asked for."""
    monkeypatch.setattr("spectral_toolkit.solvers.exact.DENSE_CELLS", 0)
    graph = st.affinity(make_tree([(14, 14)], smooth=2.0), "vv", device="cpu")
    six = st.solve(graph, 6, tolerance=1e-10)
    graph.subspaces.clear()
    wrong = six.isel(component=slice(3, 6))
    with pytest.raises(SpectralToolkitError, match=r"start holds components \[4, 5, 6\]: give the first components"):
        st.solve(graph, 2, start=wrong, tolerance=TOLERANCE)
    eig = st.solve(graph, 2, start=wrong.drop_vars("component"), tolerance=TOLERANCE)  # of which nobody can tell
    assert eig.attrs["solver"] == "davidson"
    assert_same_answer(eig, graph)


def test_a_warm_start_may_come_from_another_grid():
    graph = st.affinity(make_tree([(26, 26), (13, 13)]), "vv", device="cpu")
    coarse = st.solve(graph.reweight([0, 1]), 3)
    assert coarse.sizes["y"] == 13
    warm = st.solve(graph, 3, start=coarse, tolerance=TOLERANCE)
    assert_same_answer(warm, graph)


def test_all_fine_layers_weighted_zero_solves_on_the_coarser_grid():
    graph = st.affinity(make_tree([(8, 8), (4, 4)]), "vv", weights=[0, 1], device="cpu")
    eig = st.solve(graph, 3)
    assert (eig.sizes["y"], eig.sizes["x"]) == (4, 4)
    assert_same_answer(eig, graph)


def test_a_finer_grid_is_lifted_and_says_so():
    graph = st.affinity(make_tree([(8, 8), (4, 4)]), "vv", weights=[0, 1], device="cpu")
    lifted, plain = st.solve(graph, 3, grid=(8, 8)), st.solve(graph, 3)
    assert (lifted.sizes["y"], lifted.sizes["x"]) == (8, 8)
    assert "interpolated bilinearly to 8x8" in lifted.attrs["notes"]
    np.testing.assert_allclose(lifted.eigenvalue, plain.eigenvalue)
    assert "interpolated bilinearly" not in plain.attrs["notes"]


def test_a_coarser_grid_is_solved_there():
    graph = st.affinity(make_tree([(8, 8), (4, 4)]), "vv", device="cpu")
    eig = st.solve(graph, 3, grid=(4, 4))
    grids = {"block.0": (8, 8), "block.1": (4, 4)}
    a, b, _, _ = reference.joint_pencil(graph.to_dense(), grids, graph.weights, (4, 4))
    np.testing.assert_allclose(eig.eigenvalue.values[0], reference.eigenpairs(a, b)[0][:3], rtol=1e-8)


def test_isolated_cells_are_left_out_interpolated_and_reported():
    tree = make_tree([(4, 4)])
    values_of(tree, "block.0", "value")[0, :, 1, 2] = 0
    eig = st.solve(st.affinity(tree, "vv", device="cpu"), 2)
    assert eig.isolated.values.sum() == 1
    assert bool(eig.isolated[0, 1, 2])
    field = eig.eigenvector.values[0]
    np.testing.assert_allclose(field[1, 2], (field[0, 2] + field[2, 2] + field[1, 1] + field[1, 3]) / 4, atol=1e-12)
    assert "with hardly any affinity: 1." in eig.attrs["notes"]


def test_pieces_give_zero_eigenvalues_and_the_constant_is_not_among_them():
    tree = damaged(make_tree([(6, 6)], smooth=0.0), "pieces", 0)
    graph = st.affinity(tree, "vv", device="cpu")
    eig = st.solve(graph, 3)
    assert eig.eigenvalue.values[0, 0] == pytest.approx(0, abs=1e-12)
    assert eig.eigenvalue.values[0, 1] > 1e-3
    pieces = eig.eigenvector.values[0, :, :, 0]
    assert np.ptp(pieces[:3]) < 1e-9
    assert np.ptp(pieces[3:]) < 1e-9
    assert pieces[0, 0] * pieces[5, 5] < 0


def test_n_eigenvectors_up_to_the_last_one_and_no_further():
    graph = st.affinity(make_tree([(3, 4)]), "vv", kernel="rbf", device="cpu")
    eig = st.solve(graph, 11)
    assert_same_answer(eig, graph)
    assert np.isnan(eig.eigengap.values[0, -1])
    with pytest.raises(SpectralToolkitError, match=r"n_eigenvectors=12 is too many: image '0' has 12 patches"):
        st.solve(graph, 12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_eigenvectors": 0}, "n_eigenvectors=0 is out of range"),
        ({"n_eigenvectors": 2.5}, "n_eigenvectors=2.5 is out of range"),
        ({"method": "magic"}, "method='magic' is not offered"),
        ({"tolerance": 0.0}, "tolerance=0.0 is out of range"),
        ({"grid": (0, 3)}, r"grid=\(0, 3\) is not understood"),
        ({"grid": 4}, "grid=4 is not understood"),
        ({"grid": (None, 2)}, "is not understood"),
        ({"n_eigenvectors": None}, "n_eigenvectors=None is out of range"),
        ({"n_eigenvectors": "abc"}, "n_eigenvectors='abc' is out of range"),
        ({"n_eigenvectors": np.nan}, "n_eigenvectors=nan is out of range"),
        ({"tolerance": "1e-6"}, "tolerance='1e-6' is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": None}, "seed=None is out of range"),
        ({"start": 3}, "start is an int without 'eigenvector'"),
    ],
)
def test_bad_requests_get_one_sentence(arguments, sentence):
    graph = st.affinity(make_tree([(3, 4)]), "vv", device="cpu")
    with pytest.raises(SpectralToolkitError, match=sentence):
        st.solve(graph, **arguments)


def test_what_is_no_graph_is_refused():
    with pytest.raises(SpectralToolkitError, match="graph is a DataTree"):
        st.solve(make_tree([(3, 4)]))  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [(1, 576), (12, 48), (22, 30)])
def test_a_grid_finer_along_one_axis_is_solved_on_the_layers_own_and_lifted(layer):
    graph = st.affinity(make_tree([layer], smooth=2.0), "vv", device="cpu")
    eig = st.solve(graph, 2, grid=(24, 24))
    assert (eig.sizes["y"], eig.sizes["x"]) == (24, 24)
    assert "interpolated bilinearly to 24x24" in eig.attrs["notes"]
    np.testing.assert_allclose(eig.eigenvalue, st.solve(graph, 2).eigenvalue, rtol=1e-6)


@pytest.mark.parametrize("weight", [1e-310, 1e-165, 1e160, 1e308])
@pytest.mark.parametrize("grid", [(3, 4), (26, 26)])
def test_the_absolute_size_of_weights_does_not_matter(weight, grid):
    graph = st.affinity(make_tree([grid, (3, 4)]), "vv", device="cpu")
    plain = st.solve(graph.reweight([1, 0.5]), 2, tolerance=1e-10)
    extreme = st.solve(graph.reweight([weight, weight / 2]), 2, tolerance=1e-10)
    np.testing.assert_allclose(extreme.eigenvalue, plain.eigenvalue, rtol=1e-6)
    np.testing.assert_allclose(extreme.eigenvector * weight**0.5, plain.eigenvector, rtol=1e-4, atol=1e-6)


def test_the_eigengap_of_an_image_does_not_depend_on_the_others():
    tree = make_tree([(3, 3)], images=2)
    alone = st.solve(st.affinity(make_tree([(3, 3)], images=2), "vv", device="cpu"), 2)
    values_of(tree, "block.0", "value")[1, :, :2] = 0
    both = st.solve(st.affinity(tree, "vv", device="cpu"), 2)
    np.testing.assert_allclose(both.eigengap[0], alone.eigengap[0])
    assert np.isnan(both.eigengap.values[1, 1])


def test_no_eigenvalue_or_share_is_negative_in_single_precision():
    tree = damaged(make_tree([(26, 26)], dtype="float32", smooth=0.0), "pieces", 0)
    eig = st.solve(st.affinity(tree, "vv", device="cpu"), 4)
    assert eig.attrs["solver"] == "davidson"
    assert (eig.layer_share.values >= 0).all()
    assert 0 <= eig.eigenvalue.values[0, 0] < 1e-7


def test_what_a_solve_began_from_is_recorded():
    graph = st.affinity(make_tree([(26, 26)]), "vv", device="cpu")
    first = st.solve(graph, 3)
    assert first.attrs["start"] == "nothing"
    assert st.solve(graph, 3, start=first).attrs["start"] == "the subspace of start"
    other = first.assign(eigenvector=first.eigenvector[..., ::-1] * 1e200)
    restarted = st.solve(graph, 3, start=other)
    assert restarted.attrs["start"] == "start"
    np.testing.assert_allclose(restarted.eigenvalue, first.eigenvalue, rtol=1e-6)


def test_zero_weights_tiny_weights_and_dead_layers_are_refused():
    tree = make_tree([(3, 4), (3, 4)])
    graph = st.affinity(tree, "vv", device="cpu")
    with pytest.raises(SpectralToolkitError, match="All layer weights are 0"):
        st.solve(graph.reweight([0, 0]), 1)
    with pytest.raises(SpectralToolkitError, match="rounding errors would decide"):
        st.solve(graph.reweight([1e-9, 1]), 1)
    values_of(tree, "block.1", "value")[...] = 0
    with pytest.raises(SpectralToolkitError, match=r"Layer 'block.1' has no affinity above 0 in image '0'"):
        st.solve(st.affinity(tree, "vv", device="cpu"), 1)


def test_a_start_of_other_images_is_refused():
    graph = st.affinity(make_tree([(3, 4)], images=2), "vv", device="cpu")
    eig = st.solve(graph, 2)
    with pytest.raises(SpectralToolkitError, match="other images"):
        st.solve(st.affinity(make_tree([(3, 4)]), "vv", device="cpu"), 2, start=eig)
    eig.eigenvector.values[0, 0, 0, 0] = np.nan
    with pytest.raises(SpectralToolkitError, match="start holds NaN"):
        st.solve(graph, 2, start=eig)


def test_what_does_not_converge_is_flagged_or_solved_densely_with_a_note(monkeypatch):
    graph = st.affinity(make_tree([(26, 26)], dtype="float64"), "vv", device="cpu")

    def too_short(*args, **kwargs):
        from spectral_toolkit.solvers.davidson import block_davidson

        return block_davidson(*args, **{**kwargs, "max_iterations": 1})

    monkeypatch.setattr("spectral_toolkit.solvers.exact.block_davidson", too_short)
    rescued = st.solve(graph, 3, tolerance=TOLERANCE)
    assert rescued.attrs["solver"] == "dense"
    assert "solved densely instead" in rescued.attrs["notes"]
    assert_same_answer(rescued, graph)
    monkeypatch.setattr("spectral_toolkit.solvers.exact.FALLBACK_CELLS", 10)
    flagged = st.solve(graph, 3, tolerance=TOLERANCE)
    assert not bool(flagged.converged.all())


def test_two_runs_give_the_same_bytes_and_the_seed_is_recorded():
    graph = st.affinity(make_tree([(26, 26)]), "vv", device="cpu")
    a, b = st.solve(graph, 3, seed=7), st.solve(graph, 3, seed=7)
    assert a.eigenvector.values.tobytes() == b.eigenvector.values.tobytes()
    assert a.attrs["seed"] == 7


def test_the_answer_survives_zarr_and_carries_where_it_came_from(tmp_path):
    tree = make_tree([(4, 5)], images=2)
    tree.dataset = xr.Dataset(
        coords={"image": ["a", "b"], "original_height": ("image", [10, 20])}, attrs={"model": "tiny", "seed": 3}
    )
    eig = st.solve(st.affinity(tree, "qk", device="cpu", weights={"block.0": 2}), 2)
    assert eig.attrs["activations_model"] == "tiny"
    assert eig.original_height.values.tolist() == [10, 20]
    np.testing.assert_allclose(eig.y, [0.125, 0.375, 0.625, 0.875])
    eig.to_zarr(tmp_path / "eig.zarr")
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "eig.zarr").load(), eig)


@settings(max_examples=50)
@given(values=st_.lists(st_.floats(-5, 5).map(lambda v: round(v, 2)), min_size=2, max_size=9))
def test_signs_do_not_depend_on_the_sign_they_come_with(values):
    import torch

    x = torch.tensor(values, dtype=torch.float64)[None, None]
    one, other = canonical_sign(x), canonical_sign(-x)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (one**3).sum() >= -1e-4 * (one.abs() ** 3).sum()


def test_degenerate_groups_by_relative_gap():
    assert degenerate_groups(np.array([[0.0, 0.0, 0.5, 0.5004, 0.51]])).tolist() == [[0, 0, 1, 1, 2]]


def test_eigenvalues_are_normalised_cuts():
    """Two blocks weakly tied: the first eigenvector is the cut, its value Shi and Malik's up to relaxation."""
    tree = make_tree([(1, 6)], heads=1, channels=6, smooth=0.0)
    rng = np.random.default_rng(0)
    blocks = np.kron(np.array([[1, 0.2], [0.2, 1]]), np.ones((3, 3))) + 0.01 * rng.random((6, 6))
    vectors = np.real(np.asarray(scipy.linalg.sqrtm(blocks @ blocks.T)))
    values_of(tree, "block.0", "value")[0, 0, 0] = vectors
    eig = st.solve(st.affinity(tree, "vv", device="cpu", threshold=0.0), 1)
    cut = eig.eigenvector.values[0, 0, :, 0]
    assert (np.sign(cut[:3]) == np.sign(cut[0])).all()
    assert (np.sign(cut[3:]) == -np.sign(cut[0])).all()
