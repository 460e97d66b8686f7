"""Affinities of one patch in every head: the numbers of the matrices of all heads, for every sort of layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from module_zoo import GRID, SEEN, made
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit.errors import ActivationsError, AffinityError

PATCH = (3, 2)
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 8 * GRID, 8 * GRID, 3), dtype=np.uint8)


def slow(tree, kind: str, layer: str, patch, image=0, **settings) -> np.ndarray:
    """The rows (head, y, x) of the matrices of all heads, on the layer's own grid."""
    graph = st.affinity(tree, kind, heads="each", device="cpu", **settings)
    _, rows = st.affinity_row(graph, patch, image)
    return np.stack([row.values for name, row in rows.items() if name.startswith(f"{layer}[")])


def agree(tree, kinds, patch=PATCH, image=0, **settings) -> None:
    maps = st.head_maps(tree, patch, image, kinds=kinds, device="cpu", **settings)
    for kind in kinds:
        for layer in maps.layer.values:
            wanted = slow(tree, kind, layer, patch, image, **settings)
            own = maps.sel(kind=kind, layer=layer)
            size = int(own.grid_y), int(own.grid_x)
            assert wanted.shape[1:] == size
            rows, columns = (
                (2 * np.arange(m) + 1) * n // (2 * m) for m, n in zip(own.affinity.shape[1:], size, strict=True)
            )
            found = own.affinity.values[: len(wanted)]
            np.testing.assert_allclose(found, wanted[:, rows[:, None], columns], rtol=2e-4, atol=1e-7)
            share = wanted.reshape(len(wanted), -1) / wanted.sum((1, 2))[:, None]
            terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0)
            np.testing.assert_allclose(own.entropy[: len(wanted)], -terms.sum(1) / np.log(share.shape[1]), rtol=1e-3)


@pytest.mark.parametrize("kernel", [None, "cosine", "shifted_cosine", "rbf"])
def test_heads_agree_with_their_matrices(kernel) -> None:
    tree = make_tree([(6, 8), (6, 8), (3, 4)], heads=3, images=2, special=2, bias=True, dtype="float32")
    agree(tree, ("qk", "vv", "kk"), image=1, kernel=kernel)


def test_a_grid_that_does_not_divide_takes_several_patches() -> None:
    agree(make_tree([(6, 8), (4, 5)], heads=2), ("qk", "vv"), (3, 4))


def test_masked_tokens_have_none() -> None:
    tree = make_tree([(6, 8)], heads=2)
    layer = next(iter(tree.children))
    mask: Any = {layer: tree.children[layer].dataset["value"].isel(head=0, channel=0) > 1.0}
    assert mask[layer].any()
    agree(tree, ("qk", "vv"), mask=mask)
    row, column = map(int, np.argwhere(mask[layer].values[0])[0])
    assert not st.head_maps(tree, (row, column), mask=mask, device="cpu").affinity.values.any()


@pytest.mark.parametrize("name", ["windows", "relative", "pooled"])
def test_windowed_biased_and_pooled_layers(name) -> None:
    tree = st.capture(st.load_model(made(SEEN[name]), device="cpu"), PIXELS, progress=False)
    agree(tree, ("qk",), (2, 1))
    agree(tree, ("vv",), (1, 1))


def test_noise_samples_are_averaged_like_heads() -> None:
    tree = make_tree([(4, 5)], heads=3)
    layer = next(iter(tree.children))
    two = tree[layer].to_dataset()
    both = xr.concat([two, two * 0.5], "timestep")
    tree[layer] = xr.DataTree(both.assign_attrs(two.attrs))
    agree(tree, ("qk", "vv"))


def test_what_a_model_cannot_give_is_said_by_its_own_reason() -> None:
    tree = make_tree([(4, 5), (4, 5)], heads=2)
    first, second = tree.children
    tree[second].attrs["attention"] = "linear"
    maps = st.head_maps(tree, (1, 1), device="cpu")
    assert np.isnan(maps.affinity.sel(kind="qk", layer=second)).all()
    assert np.isfinite(maps.affinity.sel(kind="vv")).all()
    assert [f"{second!r} attends linearly" in one for one in maps.attrs["left_out"]] == [True]
    tree[first].attrs["attention"] = "linear"
    with pytest.raises(ActivationsError, match="attends linearly"):
        st.head_maps(tree, (1, 1), kinds="qk", device="cpu")
    assert st.head_maps(tree, (1, 1), kinds=("qk", "vv"), device="cpu").sizes["kind"] == 2
    with pytest.raises(AffinityError, match=r"patch=\(4, 0\) is not on the grid"):
        st.head_maps(tree, (4, 0), kinds="vv", device="cpu")
    with pytest.raises(AffinityError, match=r"kinds=\(\) is empty"):
        st.head_maps(tree, (1, 1), kinds=())
    with pytest.raises(AffinityError, match="names nothing"):
        st.head_maps(tree, (1, 1), layers=[])


def test_no_matrix_of_a_head_is_held() -> None:
    """Products of one tile at a time, and of every pair of patches only once: never n x n for every head."""
    sizes: list[tuple[int, int]] = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if getattr(func, "__name__", "") in ("matmul", "__matmul__", "bmm", "mm"):
                sizes.append((out.numel(), out.numel() * args[0].shape[-1]))
            return out

    with Counting():
        st.head_maps(make_tree([(32, 32)], heads=4, channels=8, dtype="float32"), (3, 3), kinds="qk", device="cpu")
    assert max(size for size, _ in sizes) <= 2**20
    assert 4 * 1024 * 1024 * 8 <= sum(work for _, work in sizes) <= 1.01 * 4 * 1024 * 1024 * 8
