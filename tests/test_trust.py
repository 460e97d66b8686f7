"""What is said of an answer, and when."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from tree_factory import make_tree, tree_of, values_of

import spectral_toolkit as st
from spectral_toolkit._analysis.trust import outlying_tokens, trust_statements
from spectral_toolkit.errors import ActivationsError


def answer(tree, n_eigenvectors=2, kind="vv", **options):
    return st.solve(st.affinity(tree, kind, device="cpu", **options), n_eigenvectors).isel(image=0)


def texts(statements, level):
    return " ".join(statement.text for statement in statements if statement.level == level)


def test_a_sound_answer_says_so_and_warnings_come_first():
    statements = trust_statements(answer(make_tree([(6, 6)], smooth=3.0)))
    assert "All 2 eigenvectors converged" in texts(statements, "ok")
    order = ["warning", "note", "ok"]
    levels = [order.index(statement.level) for statement in statements]
    assert levels == sorted(levels)


def test_what_did_not_converge_is_not_to_be_read():
    eig = answer(make_tree([(6, 6)]))
    eig["converged"] = eig["converged"] & False
    assert "Eigenvectors 1, 2 did not converge" in texts(trust_statements(eig), "warning")


def test_pieces_weak_cuts_degenerate_groups_and_isolated_cells_are_named():
    tree = make_tree([(4, 4)])
    values = values_of(tree, "block.0", "value")
    values[..., :2, :, :2] = 0
    values[..., 2:, :, 2:] = 0
    assert "falls apart into 2 pieces" in texts(trust_statements(answer(tree)), "warning")

    values[...] = 1.0
    alike = trust_statements(answer(tree))
    assert "Weak cut" in texts(alike, "warning")
    assert "Eigenvectors 1, 2 have equal eigenvalues" in texts(alike, "note")

    tree = make_tree([(4, 4)])
    values_of(tree, "block.0", "value")[:, :, 1, 2] = 0
    assert "1 of 16 patches have hardly any affinity" in texts(trust_statements(answer(tree)), "warning")


@pytest.mark.parametrize("names", [None, ["cat", "dog"], [10, 20]])
def test_outlying_tokens_are_found_whatever_the_images_are_called(names):
    tree = make_tree([(5, 5)], images=2, channels=32)
    if names is not None:
        tree.dataset = xr.Dataset(coords={"image": names})
    values_of(tree, "block.0", "token")[0, 2, 3] *= 30
    eig = st.solve(st.affinity(tree, "vv", device="cpu"), 2)
    assert "1 token (4%) of layer block.0 has an outlying norm" in texts(
        trust_statements(eig.isel(image=0), tree), "warning"
    )
    assert "outlying" not in texts(trust_statements(eig.isel(image=1), tree), "warning")


def test_outlying_tokens_equal_their_slow_twin():
    values = np.random.default_rng(0).normal(size=(6, 7, 16))
    values[0, 0] *= 9
    norms = np.linalg.norm(values, axis=-1)
    spread = 1.4826 * np.median(np.abs(norms - np.median(norms)))
    found = outlying_tokens(xr.DataArray(values, dims=("y", "x", "feature")))
    np.testing.assert_array_equal(found, norms > np.median(norms) + 5 * spread)


def test_an_answer_for_many_images_is_refused():
    eig = st.solve(st.affinity(make_tree([(4, 4)], images=2), "vv", device="cpu"), 2)
    with pytest.raises(ActivationsError, match="holds 2 images"):
        trust_statements(eig)


def noise(layers: int = 1, heads: int = 4) -> xr.DataTree:
    rng = np.random.default_rng(0)
    return tree_of(**{f"{i}": rng.normal(size=(1, heads, 12, 12, 32)) for i in range(layers)})


@pytest.mark.parametrize(("layers", "heads"), [(1, 4), (6, 4), (1, 12)])
def test_patches_that_have_nothing_to_do_with_each_other_are_said_to(layers: int, heads: int) -> None:
    eig = st.solve(st.affinity(noise(layers, heads), "vv", device="cpu"), 8)
    statements = trust_statements(eig.isel(image=0))
    assert "Flat row" in texts(statements, "warning")
    assert "suggests" not in texts(statements, "note")
    assert "hardly differ" in st.segment(eig, 3).attrs["notes"]


@pytest.mark.parametrize("groups", [7, 9])
def test_many_groups_of_one_size_are_no_flat_row(groups: int) -> None:
    value = np.eye(groups)[np.arange(groups * 16) % groups] + 0.35
    tree = tree_of(a=value.reshape(1, 1, 16, groups, groups))
    eig = st.solve(st.affinity(tree, "vv", device="cpu"), groups - 1).isel(image=0)
    assert np.ptp(eig.eigenvalue.values) < 1e-6
    assert "Flat row" not in texts(trust_statements(eig), "warning")


def test_pictures_of_something_are_no_flat_row() -> None:
    acts = st.capture("scenes", st.scenes.sample(2, seed=5).pixels, progress=False)
    for kind in ("qk", "vv"):
        eig = st.solve(st.affinity(acts, kind, device="cpu"), 8)
        for image in (0, 1):
            assert "Flat row" not in texts(trust_statements(eig.isel(image=image)), "warning")
