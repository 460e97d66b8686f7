"""The view of every layer and head, without a browser."""

from __future__ import annotations

import numpy as np
import pytest
from bokeh.events import Tap
from explorer_fixtures import capture_of

import spectral_toolkit as st
from spectral_toolkit._render.head_matrix import head_matrix
from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.views import VIEWS

TREE = capture_of(images=2, layers=3)


@pytest.fixture
def explorer():
    made = st.Explorer(TREE, synchronous=True)
    yield made
    made.close()


def test_maps_are_one_image_aligned_by_layer() -> None:
    maps = st.head_maps(TREE, (3, 2), device="cpu")
    matrix = head_matrix(maps)
    assert matrix.colours.dtype == np.uint8
    assert len(matrix.cells) == maps.affinity[..., 0, 0].size
    assert [list(matrix.columns), list(matrix.blocks)] == [list(TREE.children), ["qk", "vv"]]
    by_layer = {one.key: one for one in matrix.cells}
    for (kind, layer, head), one in by_layer.items():
        assert one.left == by_layer["qk", layer, 0].left
        assert (one.right - one.left, one.bottom - one.top) == (8, 6)
        own = maps.affinity.sel(kind=kind, layer=layer, head=head).values
        assert one.entropy == maps.entropy.sel(kind=kind, layer=layer, head=head)
        shown = matrix.colours[one.top : one.bottom, one.left : one.right, :3].astype(int).sum(2)
        order = np.argsort(own.ravel(), kind="stable")
        assert (np.diff(shown.ravel()[order]) >= -60).all(), "brighter is stronger"
    first, second = (by_layer["qk", next(iter(TREE.children)), head] for head in (0, 1))
    assert second.top - first.bottom == 1
    assert not matrix.colours[first.bottom, first.left, 3]


def test_heads_are_sorted_by_entropy_within_their_layer() -> None:
    maps = st.head_maps(TREE, (3, 2), device="cpu")
    matrix = head_matrix(maps, "entropy")
    for kind in ("qk", "vv"):
        for layer in TREE.children:
            column = [one for one in matrix.cells if one.kind == kind and one.layer == layer]
            assert sorted(column, key=lambda one: one.top) == sorted(column, key=lambda one: one.entropy)
    with pytest.raises(SpectralToolkitError, match="sort='size' is not offered"):
        st.heads_chart(maps, sort="size")
    with pytest.raises(SpectralToolkitError, match="give what st.head_maps returned"):
        st.heads_chart(maps.affinity)


def test_the_view_is_computed_only_when_it_is_open_and_not_again_for_weights(explorer, monkeypatch) -> None:
    from spectral_toolkit._explorer import head_view

    asked, plain = [], head_view.head_maps
    monkeypatch.setattr(head_view, "head_maps", lambda *a, **k: asked.append(a[1]) or plain(*a, **k))
    explorer.set(patch=(1, 2))
    assert not asked
    explorer.set(view="heads")
    assert asked == [(1, 2)]
    explorer.set(weights={next(iter(TREE.children)): 1.0})
    explorer.set(affinity="vv")
    assert asked == [(1, 2)]
    explorer.set(patch=(0, 0))
    assert asked == [(1, 2), (0, 0)]


def test_a_tap_keeps_a_map_and_one_in_the_large_map_chooses_a_patch(explorer) -> None:
    explorer.set(view="heads")
    chart = explorer._pictures.charts[VIEWS["heads"]]
    assert chart._cells.data["kept"][0] == 1
    assert sum(chart._cells.data["kept"]) == 1
    cell = chart._matrix.cells[3]
    chart._on_tap(Tap(None, x=cell.left + 1, y=cell.top + 1))
    assert explorer.state.head_map == cell.key
    assert explorer.state == type(explorer.state).from_dict(explorer.state.to_dict())
    assert chart._cells.data["kept"].index(1) == 3
    assert (chart._large.x_range.start, chart._large.y_range.end) == (cell.left, cell.top)
    chart._on_large_tap(Tap(None, x=cell.left + 4.5, y=cell.top + 2.5))
    assert explorer.state.patch == (2, 4)
    assert chart._frames.data["left"] == [cell.left + 4]
    assert chart._frames.data["top"] == [cell.top + 2]
    assert "head" in explorer.code()
    assert "st.head_maps(one, (2, 4), kinds=['qk', 'vv'])" in explorer.code()
    explorer.set(options={"by_entropy": 1})
    assert "sort='entropy'" in explorer.code()
    with pytest.raises(SpectralToolkitError, match="head_map layer='x' is not offered"):
        explorer.set(head_map=("qk", "x", 0))


def test_the_figure_can_be_saved(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    view = st.heads_chart(st.head_maps(TREE, (3, 2), device="cpu"))
    path = st.save_figure(view, tmp_path / "heads.svg")
    assert path.read_text().count("<image") == 1
    tree = TREE.copy()
    for name in tree.children:
        tree[name].attrs["attention"] = "linear"
    matrix = head_matrix(st.head_maps(tree, (3, 2), device="cpu"))
    assert "attends linearly" in matrix.words[0][2].replace("\n", " ")
