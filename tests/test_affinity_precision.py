"""Exponentials of large numbers: right where single precision would not do, refused where double would not."""

from __future__ import annotations

import math
from fractions import Fraction
from operator import mul
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity.features import read_features
from spectral_toolkit._affinity.kernels import rbf, softmax
from spectral_toolkit._affinity.kernels.precision import careful_images
from spectral_toolkit.errors import AffinityError


def attention_tree(query: np.ndarray, key: np.ndarray, scale: float = 1.0) -> xr.DataTree:
    """One image, one head, patches in a row."""
    dims = ("image", "head", "y", "x", "channel")
    node = xr.Dataset({"query": (dims, query[None, None, None]), "key": (dims, key[None, None, None])})
    return xr.DataTree.from_dict({"block.0": node.assign_attrs(scale=scale)})


def values_of(tree: xr.DataTree, name: str) -> np.ndarray:
    return tree.children["block.0"].dataset[name].values


def antipodal(size: float, dtype: str, seed: int = 0, n: int = 24, channels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys that nearly are plus or minus one vector: many logits of ``size`` are nearly equal."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=channels)
    direction *= size**0.5 / np.linalg.norm(direction)
    sides = [
        direction * rng.choice([-1.0, 1.0], size=(n, 1)) + rng.normal(size=(n, channels)) / size**0.5 for _ in range(2)
    ]
    return sides[0].astype(dtype), sides[1].astype(dtype)


def wide_softmax(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Attention in extended precision, made symmetric."""
    logits = (query.astype(np.longdouble)[:, None] * key.astype(np.longdouble)[None]).sum(-1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return ((weights + weights.T) / 2).astype(float)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [1e2, 7e3, 1e5, 2e7, 1e9])
def test_attention_of_large_tied_logits_is_right(size: float, dtype: str) -> None:
    query, key = antipodal(size, dtype)
    found = st.affinity(attention_tree(query, key), device="cpu").to_dense()["block.0"]
    np.testing.assert_allclose(found, wide_softmax(query, key), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bandwidth", [0.5, 0.06, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gaussians_of_outliers_are_right(bandwidth: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    tree = make_tree([(5, 8)], heads=2, dtype=dtype)
    value = values_of(tree, "value")
    value[0, :, 0, :4] *= 500  # outliers, which are far from the others and near each other
    value[0, :, 0, :4] += (rng.normal(size=(2, 4, 4)) * 1e-3).astype(dtype)
    value[0, :, 1, :4] = value[0, :, 0, :1]
    found = st.affinity(tree, "vv", kernel="rbf", bandwidth=bandwidth, device="cpu").to_dense()["block.0"]
    heads = value[0].reshape(2, 40, -1).astype(np.longdouble)
    square = ((heads[:, :, None] - heads[:, None]) ** 2).sum(-1)
    expected = np.exp(-square / (2 * bandwidth**2 * square.mean((1, 2), keepdims=True))).mean(0).astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_double_precision_cannot_tell_apart_is_refused() -> None:
    query, key = antipodal(1e14, "float64")
    graph = st.affinity(attention_tree(query, key), device="cpu")
    with pytest.raises(AffinityError, match="logits of layer 'block.0' reach 1e.14, where double precision rounds"):
        st.solve(graph, 2)
    # The advice of the message is good.
    st.solve(st.affinity(attention_tree(query / 1e7, key), device="cpu"), 2)
    st.solve(st.affinity(attention_tree(query, key), kernel="cosine", device="cpu"), 2)


def test_what_is_decided_is_answered_however_large() -> None:
    """Every patch attends to itself alone; one without a query, to all alike."""
    query = np.eye(6) * 1e20
    query[5] = 0
    found = st.affinity(attention_tree(query, np.eye(6)), device="cpu").to_dense()["block.0"]
    expected = np.eye(6)
    expected[5] = 1 / 6
    np.testing.assert_allclose(found, (expected + expected.T) / 2, atol=1e-7)


@pytest.mark.parametrize("module", [softmax, rbf])
def test_ordinary_activations_are_compared_in_their_own_precision(module, monkeypatch) -> None:
    """Double precision takes longer, and is for few."""
    monkeypatch.setattr(module, "doubled", lambda x: pytest.fail("not needed"))
    tree = make_tree([(6, 8)], dtype="float32", special=1)
    features = read_features(tree, "block.0", "qk", slice(0, 1), torch.device("cpu"), for_softmax=True)
    assert module.prepare(features)(0, 48).dtype == torch.float32


def test_an_image_is_as_it_would_be_alone() -> None:
    """One image of large logits does not change how the others of its batch are computed."""
    tree = make_tree([(4, 5)], images=3, dtype="float32")
    values_of(tree, "query")[1] *= 1e4
    values_of(tree, "value")[1, :, 0, 0] *= 1e5
    for graph_of in (
        lambda tree: st.affinity(tree, "qk", device="cpu"),
        lambda tree: st.affinity(tree, "vv", kernel="rbf", bandwidth=0.05, device="cpu"),
    ):
        together = graph_of(tree)
        for image in range(3):
            alone = graph_of(tree.isel(image=[image])).to_dense()["block.0"]
            np.testing.assert_array_equal(together.to_dense(image)["block.0"], alone)
        st.solve(together, 2)
    assert careful_images(torch.tensor([[float("inf"), float("nan"), 0.0]]), torch.float32) == [[0], [0], []]


def matrix_of(tree: xr.DataTree, **options: Any) -> np.ndarray:
    graph = st.affinity(tree, "qk", device="cpu", **options)
    return graph.operators(graph.members[0], slice(0, 1)).dense()[0].numpy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_cosine_at_the_threshold_counts_as_zero_however_it_is_summed(dtype: type) -> None:
    # Of whole numbers: 2 / (sqrt(25) * sqrt(16)) is a tenth, and a sum in another order may round it to either side.
    one, other = np.array([0, 1, 2, 2, -2, 2, 2, -2]), np.array([-1, 1, 0, 0, -1, -1, 0, 0])
    above = np.array([-1, 1, 0, 0, -1, -1, 0.01, 0])
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) == pytest.approx(0.1, abs=1e-15)
    rng = np.random.default_rng(0)
    for scale in 2.0 ** np.arange(-4, 5):
        order = rng.permutation(8)
        tree = attention_tree(
            (scale * np.stack([one, one])[:, order]).astype(dtype), np.stack([other, above])[:, order].astype(dtype)
        )
        found = matrix_of(tree, kernel="cosine")
        assert found[0, 0] == 0, "at the threshold"
        assert found[1, 1] > 0.1, "above it"


@pytest.mark.parametrize(("threshold", "other"), [(0.1, (0, 1, 3, 0)), (0.5, (1, 2, 2, 1)), (0.9, (3, 0, 1, 0))])
def test_a_result_says_where_cosines_are_at_the_threshold(threshold: float, other: tuple[int, ...]) -> None:
    # All lengths are the root of ten, in any scale: the cosine is the threshold itself.
    key = 2.0**-24 * np.array([other, (0, 0, 0, 3), (1, 1, 2, 2)])
    query = 2.0**-24 * np.array([(3, 1, 0, 0), (0, 0, 1, 3), (1, 1, 2, 2)])
    tree = attention_tree(query.astype(np.float16), key.astype(np.float16))
    assert matrix_of(tree, kernel="cosine", threshold=threshold)[0, 0] == 0
    for heads in ("mean", "each"):
        graph = st.affinity(tree, kernel="cosine", threshold=threshold, heads=heads, device="cpu")
        notes = st.solve(graph.reweight(None), 1).attrs["notes"]
        assert notes.count(f"layer 'block.0' equal the threshold {threshold:g} up to rounding") == 1
    moved = st.affinity(tree, kernel="cosine", threshold=threshold + 1e-9, device="cpu")
    assert "up to rounding" not in st.solve(moved, 1).attrs["notes"]


def test_which_cosines_are_above_the_threshold_is_decided_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 60, 24)).astype(np.float32)
    exact = query.astype(float) @ key.T.astype(float)
    exact /= np.linalg.norm(query.astype(float), axis=1)[:, None] * np.linalg.norm(key.astype(float), axis=1)
    # A threshold so close to a similarity that single precision cannot tell them apart.
    for value in np.sort(exact[exact > 0.05])[::40]:
        for threshold in (value - 1e-9, value + 1e-9):
            wanted = np.where(exact > threshold, exact, 0)
            found = matrix_of(attention_tree(query, key), kernel="cosine", threshold=float(threshold))
            np.testing.assert_allclose(found, (wanted + wanted.T) / 2, atol=1e-6)


def above(query: np.ndarray, key: np.ndarray, threshold: float) -> np.ndarray:
    """Which cosines, rounded to double precision, are above the threshold, by whole-number arithmetic."""
    limit = (Fraction(threshold) + Fraction(math.ulp(threshold)) / 2) ** 2

    def one(left: np.ndarray, right: np.ndarray) -> bool:
        a, b = (list(map(Fraction, side.tolist())) for side in (left, right))
        inner = sum(map(mul, a, b), Fraction())
        return inner > 0 and inner**2 > limit * sum(map(mul, a, a)) * sum(map(mul, b, b))

    return np.array([[one(left, right) for right in key] for left in query])


@pytest.mark.parametrize(("threshold", "scale"), [(0.1, 1e-170), (0.3, 1.0), (0.7, 1e150)])
def test_cosines_that_double_precision_rounds_to_either_side_are_decided_exactly(
    threshold: float, scale: float
) -> None:
    """Patches around a circle: all cosines of the same step are equal in theory, and differ in their last digits."""
    angle = 2 * np.pi * np.arange(18) / 18
    # Three steps of 18 have a cosine of 1/2; a third channel, the same in all patches, moves it to the threshold.
    sign = 1 if threshold >= 0.5 else -1
    level = np.full(18, (abs(threshold - 0.5) / (1 - sign * threshold)) ** 0.5)
    query = scale * np.stack([np.cos(angle), np.sin(angle), level], axis=1)
    key = query * [1, 1, sign]
    tree = attention_tree(query, key)
    wanted = above(query, key, threshold)
    assert 0 < wanted[np.arange(18), np.arange(3, 21) % 18].sum() < 18, "ties go to both sides"
    found = matrix_of(tree, kernel="cosine", threshold=threshold)
    np.testing.assert_array_equal(found > 0, wanted | wanted.T)
    permuted = attention_tree(query[:, ::-1].copy(), key[:, ::-1].copy())
    np.testing.assert_array_equal(matrix_of(permuted, kernel="cosine", threshold=threshold) > 0, found > 0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("far", [3.0, 12.0, 25.0])
def test_affinities_that_all_vanish_in_single_precision_are_kept(far: float, dtype: str) -> None:
    """Queries far from all keys: only how small an affinity is, compared with the others, has a meaning."""
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(12, 2)).astype(dtype) for _ in range(2))
    key += np.asarray(far, dtype)
    bandwidth = 0.05
    square = ((query.astype(np.longdouble)[:, None] - key.astype(np.longdouble)[None]) ** 2).sum(-1)
    exponent = -square / (2 * bandwidth**2 * square.mean())
    expected = np.exp(exponent) + np.exp(exponent).T
    found = matrix_of(attention_tree(query, key), kernel="rbf", bandwidth=bandwidth).astype(np.longdouble)
    largest = expected > 1e-11 * expected.max()
    np.testing.assert_allclose((found / found.sum())[largest], (expected / expected.sum())[largest], rtol=2e-4)
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum(), atol=1e-12)
    assert (
        int(st.solve(st.affinity(attention_tree(query, key), kernel="rbf", bandwidth=bandwidth), 2).isolated.sum())
        == (expected.sum(1) <= 1e-12 * expected.sum(1).mean()).sum()
    )


def test_affinities_that_vanish_in_double_precision_are_refused() -> None:
    query, key = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]]), np.array([[3.0, 3.0], [3.1, 3.0], [3.0, 3.1]])
    graph = st.affinity(attention_tree(query, key), kernel="rbf", bandwidth=0.0265, device="cpu")
    with pytest.raises(AffinityError, match="add up to .* where double precision loses most of them"):
        st.solve(graph, 1)


def test_a_walk_from_patches_whose_affinities_are_lost_is_refused() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 20, 2))
    query[3] *= 1e3  # its affinities are above 0, but below all numbers of double precision
    tree = attention_tree(query, key)
    options: dict[str, Any] = {"kernel": "rbf", "bandwidth": 0.1, "device": "cpu"}
    with pytest.raises(AffinityError, match="cannot leave 1 patches of layer 'block.0' in image '0'"):
        st.solve(st.affinity(tree, "qk", steps=2, **options), 2)
    # The advice of the message is good.
    mask = xr.DataArray(np.arange(20) == 3, dims="x").expand_dims(image=1, y=1)
    for advice in ({"steps": 1}, {"steps": 2, "bandwidth": 3.0}, {"steps": 2, "mask": {"block.0": mask}}):
        st.solve(st.affinity(tree, "qk", **{**options, **advice}), 2)


@pytest.mark.parametrize(("kernel", "options"), [("rbf", {"bandwidth": 0.1}), ("softmax", {})])
def test_a_walk_normalises_rows_that_vanish_in_single_precision(kernel: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    query, key = rng.normal(size=(6, 2)), 1e-6 * rng.normal(size=(6, 2))
    query[0] *= 2.2 / np.linalg.norm(query[0])
    tree = attention_tree(query.astype(np.float32), key.astype(np.float32))
    if kernel == "softmax":  # a special token takes nearly all of the first row
        special = 80 * query[:1][None, None].astype(np.float32)
        tree["block.0"]["special_key"] = (("image", "head", "special", "channel"), special)
    graph = st.affinity(tree, "qk", kernel=kernel, device="cpu", steps=2, **options)
    walk: Any = graph.operators(graph.members[0], slice(0, 1))
    np.testing.assert_allclose(walk.transition.sum(-1), 1, atol=1e-9)
