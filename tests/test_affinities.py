"""Affinities against their slow twins, the table of what exists, and every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st_
from tree_factory import make_tree, values_of

import spectral_toolkit as st
from spectral_toolkit._affinity import KERNELS
from spectral_toolkit._affinity.operators import DenseOperator, LowRankOperator, TiledOperator, accumulate, symmetrise_
from spectral_toolkit._affinity.resampling import Resampling
from spectral_toolkit.errors import ActivationsError, AffinityError, StoreError

COMBINATIONS = [(kind, kernel) for kernel, line in KERNELS.items() if "image" in line.scopes for kind in line.kinds]


@pytest.mark.parametrize(("kind", "kernel"), COMBINATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("special", [0, 2])
def test_every_combination_equals_its_slow_twin(kind, kernel, dtype, special):
    tree = make_tree([(3, 5), (2, 2)], special=special, bias=special > 0, images=2, dtype=dtype)
    graph = st.affinity(tree, kind, kernel=kernel, device="cpu")
    for image in range(2):
        for name, matrix in graph.to_dense(image).items():
            expected = reference.affinity_matrix(tree.children[name], kind, kernel, image)
            np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12 if dtype == "float64" else 3e-6)
            assert (matrix >= 0).all()
            np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize(
    ("kind", "kernel", "options"),
    [
        ("vv", "cosine", {"threshold": 0.4}),
        ("kk", "rbf", {"bandwidth": 1.5}),
        ("qk", "softmax", {"steps": 3}),
        ("qq", "shifted_cosine", {"steps": 2}),
    ],
)
def test_options_equal_their_slow_twin(kind, kernel, options):
    tree = make_tree([(3, 4)])
    matrix = st.affinity(tree, kind, kernel=kernel, device="cpu", **options).to_dense()["block.0"]
    np.testing.assert_allclose(
        matrix, reference.affinity_matrix(tree.children["block.0"], kind, kernel, 0, **options), atol=1e-12
    )


def test_heads_each_is_one_layer_a_head_and_averages_to_the_mean():
    tree = make_tree([(3, 4)], heads=3, special=1)
    each = st.affinity(tree, "qk", heads="each", device="cpu")
    assert each.layers == ("block.0[0]", "block.0[1]", "block.0[2]")
    mean = st.affinity(tree, "qk", device="cpu").to_dense()["block.0"]
    np.testing.assert_allclose(np.mean(list(each.to_dense().values()), axis=0), mean, atol=1e-14)
    assert each.reweight({"block.0": 2.0}).weights == dict.fromkeys(each.layers, 2.0)


@settings(max_examples=40, deadline=None)
@given(
    n=st_.integers(1, 40),
    rank=st_.integers(1, 6),
    images=st_.integers(1, 3),
    columns=st_.integers(1, 4),
    symmetric=st_.booleans(),
    seed=st_.integers(0, 99),
)
def test_operators_agree_with_each_other(n, rank, images, columns, symmetric, seed):
    generator = torch.Generator().manual_seed(seed)
    left = torch.rand(images, n, rank, generator=generator, dtype=torch.float64)
    right = left if symmetric else torch.rand(images, n, rank, generator=generator, dtype=torch.float64)

    def rows(start, stop):
        return left[:, start:stop] @ right.transpose(-1, -2)

    dense = DenseOperator.from_rows(rows, n, images, symmetric=symmetric)
    low_rank = LowRankOperator(left, right)
    tiled = TiledOperator(rows, n, images, left, symmetric=symmetric)
    x = torch.rand(images, columns, n, generator=generator, dtype=torch.float64)
    for other in (low_rank, tiled):
        torch.testing.assert_close(other.matmul(x), dense.matmul(x))
        torch.testing.assert_close(other.degree, dense.degree)
        torch.testing.assert_close(other.dense(), dense.dense())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_products_are_added_tile_by_tile(monkeypatch, exact, symmetric):
    monkeypatch.setattr("spectral_toolkit._affinity.operators.FACTOR_ELEMENTS", 50)
    left, right = torch.rand(2, 2, 23, 3)
    operator = LowRankOperator(left, left if symmetric else right)
    x, total = torch.rand(2, 2, 4, 23, dtype=torch.float64)
    factor = torch.rand(2, 1, 1, dtype=torch.float64)
    expected = total + factor * (x @ operator.dense())
    accumulate(total, x, factor, operator, exact=exact)
    assert (total - expected).abs().max() < (1e-13 if exact else 1e-5)
    own = DenseOperator(operator.dense())  # which has no way of its own
    accumulate(total, x, -factor, own, exact=exact)
    assert (total - expected + factor * (x @ operator.dense())).abs().max() < (1e-13 if exact else 1e-5)


def test_single_precision_operators_multiply_exactly_when_asked(monkeypatch):
    monkeypatch.setattr("spectral_toolkit._affinity.operators.TILE_ELEMENTS", 50)
    monkeypatch.setattr("spectral_toolkit._affinity.operators.FACTOR_ELEMENTS", 50)
    left = torch.rand(1, 23, 3)
    matrix = left @ left.transpose(-1, -2)
    x = torch.rand(1, 2, 23, dtype=torch.float64)
    expected = x @ matrix.double()
    assert (DenseOperator(matrix).matmul(x) - expected).abs().max() < 1e-14
    factored = x @ left.double() @ left.double().transpose(-1, -2)
    assert (LowRankOperator(left, left).matmul(x) - factored).abs().max() < 1e-14


def test_symmetrising_by_blocks_is_symmetrising():
    matrix = torch.rand(2, 11, 11, dtype=torch.float64)
    expected = (matrix + matrix.transpose(-1, -2)) / 2
    torch.testing.assert_close(symmetrise_(matrix.clone(), block=4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["vv", "qk"])
def test_large_layers_are_recomputed_in_tiles_with_the_same_answer(kind, monkeypatch):
    monkeypatch.setattr("spectral_toolkit._affinity.operators.TILE_ELEMENTS", 100)
    tree = make_tree([(5, 6)], special=1)
    dense = st.affinity(tree, kind, device="cpu")
    tiled = st.affinity(tree, kind, device="cpu", dense_bytes=100)
    np.testing.assert_allclose(tiled.to_dense()["block.0"], dense.to_dense()["block.0"], atol=1e-15)
    a, b = st.solve(dense, 3), st.solve(tiled, 3)
    np.testing.assert_allclose(a.eigenvalue, b.eigenvalue, atol=1e-12)
    assert "recomputed in tiles" in b.attrs["notes"]
    assert "recomputed" not in a.attrs["notes"]


@settings(max_examples=60, deadline=None)
@given(
    base=st_.tuples(st_.integers(1, 9), st_.integers(1, 9)),
    layer=st_.tuples(st_.integers(1, 9), st_.integers(1, 9)),
)
def test_resampling_equals_its_slow_twin(base, layer):
    resampling = Resampling(base, layer)
    matrix = reference.resampling_matrix(base, layer)
    np.testing.assert_allclose(resampling.dense(), matrix, atol=1e-14)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-14)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, matrix.shape[1])), rng.normal(size=(2, 3, matrix.shape[0]))
    np.testing.assert_allclose(resampling(torch.as_tensor(x)), x @ matrix.T, atol=1e-13)
    np.testing.assert_allclose(resampling.transpose(torch.as_tensor(y)), y @ matrix, atol=1e-13)
    np.testing.assert_allclose(resampling.squared_transpose(torch.as_tensor(y)), y @ matrix**2, atol=1e-13)


def test_weights_by_mapping_sequence_and_none():
    graph = st.affinity(make_tree([(2, 2), (2, 2)]), "vv", weights={"block.1": 3}, device="cpu")
    assert graph.weights == {"block.0": 1.0, "block.1": 3.0}
    assert graph.reweight([0, 2]).weights == {"block.0": 0.0, "block.1": 2.0}
    assert graph.reweight(None).weights == {"block.0": 1.0, "block.1": 1.0}
    assert graph.weights == {"block.0": 1.0, "block.1": 3.0}


def test_reweighting_shares_what_was_built():
    graph = st.affinity(make_tree([(4, 4), (2, 2)]), "vv", device="cpu")
    st.solve(graph, 2)
    built = graph.cached_bytes
    assert built > 0
    other = graph.reweight([1, 2])
    st.solve(other, 2)
    assert other.cached_bytes == built


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "kv"}, "kind='kv' is not offered"),
        ({"kind": "vv", "kernel": "softmax"}, "works on qk only"),
        ({"kernel": "linear"}, "kernel='linear' is not offered"),
        ({"heads": "max"}, "heads='max' is not offered"),
        ({"scope": "planet"}, "scope='planet' is not offered"),
        ({"kind": "vv", "threshold": 2.0}, "threshold=2.0 is out of range"),
        ({"kind": "vv", "kernel": "rbf", "bandwidth": 0.0}, "bandwidth=0.0 is out of range"),
        ({"steps": 1.5}, "steps=1.5 is out of range"),
        ({"kind": "vv", "bandwidth": 1.0}, "does not apply to kernel='cosine'"),
        ({"weights": {"nowhere": 1}}, "weights names 'nowhere'"),
        ({"weights": [1, 2, 3]}, "3 entries but the graph has 1 layers"),
        ({"weights": [-1.0]}, "expected a finite number >= 0"),
        ({"weights": ["much"]}, "expected a finite number >= 0"),
        ({"layers": ["block.7"]}, "block.7"),
        ({"layers": "some"}, "layers='some' is not understood"),
        ({"device": "abacus"}, "not a device name"),
        ({"layers": None}, "layers=None is not understood"),
        ({"dense_bytes": "a"}, "dense_bytes='a' is out of range: expected a number of at least 0"),
        ({"steps": True}, "steps=True is out of range"),
    ],
)
def test_bad_requests_get_one_sentence(arguments, sentence):
    with pytest.raises(st.errors.SpectralToolkitError, match=sentence) as caught:
        st.affinity(make_tree([(2, 3)]), **{"kind": "qk", "device": "cpu", **arguments})
    assert str(caught.value).count(". ") == 0


def test_values_may_be_wider_than_queries_and_keys():
    tree = make_tree([(2, 3)])
    node = tree.children["block.0"]
    values = np.concatenate([values_of(tree, "block.0", "value")] * 2, axis=-1)
    dims = ("image", "head", "y", "x", "value_channel")
    node.dataset = node.to_dataset().assign(value=(dims, values))
    plain = st.affinity(make_tree([(2, 3)]), "vv", device="cpu").to_dense()["block.0"]
    np.testing.assert_allclose(st.affinity(tree, "vv", device="cpu").to_dense()["block.0"], plain, atol=1e-14)


def test_missing_quantities_and_layers_are_named():
    tree = make_tree([(2, 3)])
    tree.children["block.0"].dataset = tree.children["block.0"].to_dataset().drop_vars("value")
    with pytest.raises(ActivationsError, match=r"'vv' needs 'value' of layer 'block.0'"):
        st.affinity(tree, "vv")
    with pytest.raises(ActivationsError, match="has no layer"):
        st.affinity(tree.filter(lambda node: False), "vv")
    del tree["block.0"].attrs["scale"]
    with pytest.raises(ActivationsError, match="no attribute 'scale'"):
        st.affinity(tree, "qk", device="cpu").to_dense()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_activations_are_refused_by_name(bad):
    tree = make_tree([(2, 3)], images=2)
    values_of(tree, "block.0", "key")[1, 0, 0, 0, 0] = bad
    with pytest.raises(ActivationsError, match=r"'key' of layer 'block.0' holds NaN or infinity in image '1'"):
        st.solve(st.affinity(tree, "qk", device="cpu"), 2)


def test_a_list_of_weights_goes_by_the_order_in_which_layers_are_named():
    tree = make_tree([(3, 4), (3, 4), (2, 2)])
    graph = st.affinity(tree, "vv", layers=["block.2", "block.0"], weights=[1, 0], device="cpu")
    assert graph.weights == {"block.0": 0.0, "block.2": 1.0}
    with pytest.raises(AffinityError, match="not in the order of depth"):
        st.affinity(tree, "vv", layers=["block.2", "block.0"], weights=[1, 0, 1], device="cpu")


def two_layers(first, second):
    """A tree of two layers with so many images, or images of these names."""

    def layer(images):
        count = images if isinstance(images, int) else len(images)
        node = make_tree([(3, 4)], images=count).children["block.0"].to_dataset()
        return node if isinstance(images, int) else node.assign_coords(image=images)

    return xr.DataTree.from_dict({"a": layer(first), "b": layer(second)})


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (lambda: two_layers(2, 3), "has 3 images, the others 2"),
        (lambda: two_layers(3, 1), "has 1 images, the others 3"),
        (lambda: two_layers(["a", "b"], ["b", "a"]), "names other images, or in another order"),
        (lambda: two_layers(0, 0), "holds no images"),
        (lambda: two_layers(["a", "b", "a"], ["a", "b", "a"]), "several images of the name 'a'"),
        (lambda: two_layers(2, 2).isel(image=0), r"with \.isel\(image=\[0\]\)"),
        (lambda: two_layers(["a"], ["a"]).isel(image=0), r"with \.isel\(image=\[0\]\)"),
        (lambda: None, "expected an xarray.DataTree"),
    ],
)
def test_layers_of_different_images_are_never_mixed(tree, sentence):
    with pytest.raises(ActivationsError, match=sentence):
        st.affinity(tree(), "vv", device="cpu")


def test_layers_that_are_turned_or_cropped_are_refused():
    whole = make_tree([(4, 4)]).children["block.0"].to_dataset().assign_coords(y=(np.arange(4) + 0.5) / 4)
    for wrong in (whole.isel(y=slice(None, None, -1)), whole.isel(y=slice(0, 2))):
        with pytest.raises(ActivationsError, match="y coordinate of layer 'a' is not that of"):
            st.affinity(xr.DataTree.from_dict({"a": wrong}), "vv", device="cpu")
    assert st.affinity(xr.DataTree.from_dict({"a": whole}), "vv", device="cpu").layers == ("a",)


@pytest.mark.parametrize("kernel", ["cosine", "shifted_cosine", "rbf"])
@pytest.mark.parametrize("factor", [1e-30, 1e20])
def test_kernels_that_ignore_scale_do_so_in_single_precision(kernel, factor):
    tree = make_tree([(4, 5)], dtype="float32")
    expected = st.affinity(tree, "vv", kernel=kernel, device="cpu").to_dense()["block.0"]
    values_of(tree, "block.0", "value")[...] *= factor
    found = st.affinity(tree, "vv", kernel=kernel, device="cpu").to_dense()["block.0"]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_overflowing_attention_is_refused():
    tree = make_tree([(4, 5)], dtype="float64")
    for name in ("query", "key"):
        values_of(tree, "block.0", name)[...] *= 1e200
    with pytest.raises(AffinityError, match="layer 'block.0' in image '0' are not finite"):
        st.solve(st.affinity(tree, "qk", device="cpu"), 2)


def with_bias(tree, bias):
    node = tree.children["block.0"]
    node.dataset = node.to_dataset().assign(attention_bias=(("head", "query_token", "key_token"), bias))
    return tree


def test_a_bias_that_hides_tokens_may_be_infinite_or_the_lowest_number():
    bias = np.zeros((2, 12, 12))
    bias[:, :, 5] = -np.inf
    hidden = st.affinity(with_bias(make_tree([(3, 4)], dtype="float32"), bias), "qk", device="cpu").to_dense()
    bias[:, :, 5] = np.finfo("float64").min
    lowest = st.affinity(with_bias(make_tree([(3, 4)], dtype="float32"), bias), "qk", device="cpu").to_dense()
    np.testing.assert_array_equal(hidden["block.0"], lowest["block.0"])
    bias[:, 3, :] = -np.inf
    assert np.isfinite(
        st.affinity(with_bias(make_tree([(3, 4)]), bias), "qk", device="cpu").to_dense()["block.0"]
    ).all()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda node: node.assign_attrs(scale="abc"), "scale='abc'"),
        (lambda node: node.assign_attrs(scale=-1.0), "scale=-1.0"),
        (lambda node: node.assign_attrs(scale=np.nan), "scale=nan"),
        (lambda node: node.drop_vars("special_key"), "2 special tokens but no 'special_key'"),
        (lambda node: node.assign(attention_bias=node.attention_bias * np.nan), "holds NaN or"),
        (lambda node: node.isel(query_token=slice(3)), "has shape"),
    ],
)
def test_attention_that_would_not_be_the_models_is_refused(damage, sentence):
    tree = make_tree([(3, 4)], special=2, bias=True)
    damaged = xr.DataTree.from_dict({"block.0": damage(tree.children["block.0"].to_dataset())})
    with pytest.raises(ActivationsError, match=sentence):
        st.affinity(damaged, "qk", device="cpu").to_dense()


def test_numpy_numbers_are_numbers():
    numbers: dict[str, Any] = {"steps": np.int64(2), "threshold": np.float32(0.25)}
    graph = st.affinity(make_tree([(3, 4)]), "vv", device="cpu", **numbers)
    assert dict(graph.recipe.options) == {"steps": 2.0, "threshold": 0.25}


@pytest.mark.parametrize("kernel", ["cosine", "shifted_cosine"])
def test_walking_what_is_too_large_to_form_is_refused(kernel):
    graph = st.affinity(make_tree([(4, 4)]), "qk", kernel=kernel, steps=2, dense_bytes=10, device="cpu")
    with pytest.raises(AffinityError, match="raise dense_bytes"):
        graph.to_dense()


def test_to_dense_takes_names_and_numbers_and_refuses_others():
    tree = make_tree([(2, 3)], images=2)
    tree.dataset = xr.Dataset(coords={"image": ["cat", "dog"]})
    graph = st.affinity(tree, "vv", device="cpu")
    np.testing.assert_array_equal(graph.to_dense("dog")["block.0"], graph.to_dense(1)["block.0"])
    with pytest.raises(AffinityError, match="image='cow' is not among the 2 images"):
        graph.to_dense("cow")
    with pytest.raises(AffinityError, match="image=2"):
        graph.to_dense(2)


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_matrices_that_are_handed_out_are_copies(scope):
    """In float64 the graph itself holds what is asked for; to change that would change every later solve."""
    options: dict[str, Any] = {"scope": scope, "kernel": "knn"} if scope == "dataset" else {}
    graph = st.affinity(make_tree([(3, 4)], images=2), "vv", device="cpu", **options)
    before = graph.to_dense(0)["block.0"].copy()
    graph.to_dense(0)["block.0"][...] = 7.0
    np.testing.assert_array_equal(graph.to_dense(0)["block.0"], before)


@pytest.mark.parametrize(("centre", "spread"), [(1e4, 0.1), (1e4, 1e-3), (3e38, 1e37), (1e-42, 1e-43)])
def test_rbf_loses_no_digits_far_from_zero(centre, spread):
    tree = make_tree([(4, 5)], dtype="float32")
    values = values_of(tree, "block.0", "value")
    values[...] = np.clip(centre + spread * np.random.default_rng(0).normal(size=values.shape), -3.4e38, 3.4e38)
    found = st.affinity(tree, "vv", kernel="rbf", device="cpu").to_dense()["block.0"]
    expected, heads = 0.0, values[0].astype(np.float64)
    for head in heads:
        rows = head.reshape(20, -1)
        square = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        expected = expected + np.exp(-square / (2 * 0.5**2 * square.mean())) / len(heads)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_damaged_store_says_which_picture_cannot_be_read(tmp_path):
    make_tree([(4, 5)], images=2).to_zarr(
        tmp_path / "a.zarr", encoding={"/block.0": {"value": {"chunks": (1, 2, 4, 5, 4)}}}
    )
    chunk = next((tmp_path / "a.zarr" / "block.0" / "value" / "c" / "1").rglob("0"))
    while chunk.is_dir():
        chunk = next(chunk.iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    tree = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", consolidated=False)
    with pytest.raises(StoreError, match="'value' of layer 'block.0' in image '1' cannot be read"):
        st.solve(st.affinity(tree, "vv", device="cpu"), 2)
