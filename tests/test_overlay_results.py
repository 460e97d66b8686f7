"""`st.overlay` draws whatever public functions return that lies over pictures, and refuses the rest in a sentence."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, pictures
from explorer_fixtures import capture_of

import spectral_toolkit as st
from spectral_toolkit._affinity.rows import affinity_row
from spectral_toolkit._analysis.regions import hierarchy, recut
from spectral_toolkit._analysis.trust import outlying_masks, token_norms
from spectral_toolkit._render.colour import ISOLATED, SEQUENTIAL, categorical
from spectral_toolkit._render.composite import label_colours
from spectral_toolkit._views.charts import layers_chart, spectrum_chart
from spectral_toolkit.errors import SpectralToolkitError


@pytest.fixture(scope="module")
def acts() -> xr.DataTree:
    return capture_of(images=2)


@pytest.fixture(scope="module")
def graph(acts: xr.DataTree) -> Any:
    return st.affinity(acts, "vv", device="cpu")


@pytest.fixture(scope="module")
def eig(graph: Any) -> xr.Dataset:
    return st.solve(graph, 4)


def drawn(view: Any) -> list[hv.Overlay]:
    """The overlays of a view, each of which can be rendered."""
    found = list(view) if isinstance(view, hv.Layout) else [view]
    for one in found:
        assert hv.render(one, backend="bokeh").renderers
    return found


def part(view: hv.Overlay, group: str) -> Any:
    (found,) = [element for element in view if element.group == group]
    return found


def read(view: hv.Overlay, group: str) -> np.ndarray:
    """What the cursor reads, row by row."""
    return part(view, group).dimension_values("value", flat=False)


def colours(view: hv.Overlay) -> np.ndarray:
    return np.stack([part(view, "Colours").dimension_values(name, flat=False) for name in "RGBA"], axis=-1)


def test_segments_of_every_kind(acts: xr.DataTree, eig: xr.Dataset, graph: Any) -> None:
    segments = st.segment(eig, 3)
    cuts = st.segment(eig, 4, method="cuts", graph=graph, threshold=2.0)
    fine = st.refine(segments, acts)
    for result in (segments, cuts, recut(cuts, 0.5), fine, segments.transpose("y", "image", "x")):
        ordered = result.transpose("image", ...)
        for view, labels in zip(drawn(st.overlay(acts, result, opacity=0.4)), ordered.values, strict=True):
            assert (read(view, "Labels") == labels).all()
            expected = categorical(labels.max() + 1)[labels]
            assert (colours(view)[..., :3] == expected).all()
            assert (colours(view)[..., 3] == 102).all()
    (alone,) = drawn(st.overlay(acts, segments.isel(image=1)))
    assert (read(alone, "Labels") == segments.values[1]).all()
    assert part(alone, "Labels").bounds.lbrt() == part(alone, "Picture").bounds.lbrt()
    title = hv.Store.lookup_options("bokeh", alone, "plot").kwargs["title"]
    assert "picture-1" in title
    assert "3 segments" in title


def test_masks_the_smaller_above_the_larger(acts: xr.DataTree, eig: xr.Dataset) -> None:
    masks = st.instances(eig)
    for result in (masks, st.refine(masks, acts)):
        for place, view in enumerate(drawn(st.overlay(acts, result))):
            own, sizes = result.values[place], result.values[place].sum(axis=(1, 2))
            seen = read(view, "Instances")
            assert ((seen == -1) == ~own.any(axis=0)).all()
            assert ((colours(view)[..., 3] == 0) == (seen == -1)).all()
            for row, column in np.argwhere(own.any(axis=0)):
                holders = np.flatnonzero(own[:, row, column])
                assert sizes[int(seen[row, column])] == sizes[holders].min()
    empty = masks.copy(data=np.zeros_like(masks.values))
    assert all((colours(view)[..., 3] == 0).all() for view in drawn(st.overlay(acts, empty)))
    one = drawn(st.overlay(acts, masks.isel(instance=0), image=0))[0]
    assert ((read(one, "Instances") == 0) == masks.values[0, 0]).all(), "it keeps its number"


def test_label_maps_patches_without_a_label_are_grey() -> None:
    tree = activations()
    labels = np.zeros((2, 40, 80), dtype=np.int64)
    labels[:, :20] = -1
    labels[1, 20:, 40:] = 300  # beyond the colours there are
    prepared = st.prepare_labels(tree, labels)
    for view, own in zip(drawn(st.overlay(tree, prepared)), prepared.values, strict=True):
        assert (read(view, "Labels") == own).all()
        assert (colours(view)[own == -1] == [*ISOLATED, 230]).all()
        assert (colours(view)[own == 0][:, :3] == categorical(1)[0]).all()
        assert (colours(view)[own == 300][:, :3] == categorical(2)[1]).all()
    (whole,) = drawn(st.overlay(pictures(1), xr.DataArray(labels[:1], dims=("image", "y_px", "x_px"))))
    assert (read(whole, "Labels") == labels[0]).all()


def test_a_label_map_shows_the_part_that_was_analysed() -> None:
    tree = activations()
    tree.dataset = tree.to_dataset().assign_coords(box_left=("image", [40, 40]), box_bottom=("image", [20, 20]))
    labels = np.zeros((2, 40, 80), dtype=np.int64)
    prepared = st.prepare_labels(tree, labels)
    picture = part(drawn(st.overlay(pictures(), prepared, image=0))[0], "Picture")
    assert picture.interface.shape(picture, gridded=True) == (20, 40)
    assert (picture.dimension_values("G") == 200).all(), "the top right quarter is green"
    with pytest.raises(SpectralToolkitError, match="which part of the images"):
        st.overlay(tree, xr.DataArray(labels, dims=("image", "y_px", "x_px")))


def test_eigenvectors_however_they_came(acts: xr.DataTree, eig: xr.Dataset) -> None:
    whole = st.affinity(acts, "vv", scope="dataset", kernel="shifted_cosine", device="cpu")
    fitted = st.solve(whole, 3)
    projected = st.project(acts, fitted, whole)
    for result in (st.align(eig, eig), projected, eig["eigenvector"]):
        found = drawn(st.overlay(acts, result, component=2))
        values = (result if isinstance(result, xr.DataArray) else result["eigenvector"]).sel(component=2).values
        assert all((read(view, "Eigenvector") == own).all() for view, own in zip(found, values, strict=True))
    for name, group in (("tie", "Map"), ("isolated", "Instances")):
        assert len(drawn(st.overlay(acts, projected[name]))) == 2, group
    both = drawn(st.overlay(acts, {"qk": eig, "segments": st.segment(eig, 2)}, image=0))[-1]
    assert "segments" in hv.Store.lookup_options("bokeh", both, "plot").kwargs["title"]


def test_rows_of_a_patch_and_norms_of_tokens(acts: xr.DataTree, graph: Any) -> None:
    joint, layers = affinity_row(graph, (2, 5), image=1)
    found = drawn(st.overlay(acts, {"all layers": joint, **layers}, opacity=1.0))
    rows = [joint, *layers.values()]
    for view, row in zip(found, rows, strict=True):
        assert (read(view, "Map") == row.values).all()
        framed = [element for element in view if element.group == "Marked"]
        assert len(framed) == (row.shape == joint.shape), "a coarser layer has no such patch"
    strongest = joint.values.copy()
    strongest[2, 5] = 0
    place = np.unravel_index(strongest.argmax(), strongest.shape)
    assert (colours(found[0])[place][:3] == SEQUENTIAL[-1]).all(), "white is the strongest tie to another patch"
    assert (colours(found[0])[2, 5][:3] == SEQUENTIAL[-1]).all()
    masks = outlying_masks(acts)
    masks["block.0"].values[1, 3, 4] = True
    found = drawn(st.overlay(acts, token_norms(acts), marked=masks))
    assert len(found) == 8
    marked = [part(view, "Marked").dframe().to_numpy() for view in found[1:2]]
    np.testing.assert_allclose(marked[0], [[4 / 8, 3 / 6, 5 / 8, 4 / 6]])
    signed = xr.DataArray(np.linspace(-1, 1, 48).reshape(1, 6, 8), dims=("image", "y", "x"))
    (view,) = drawn(st.overlay(pictures(1), signed, marked=[(0, 1)]))
    assert part(view, "Marked").dimension_values(0).tolist() == [1 / 8]


def test_charts_say_what_was_computed(eig: xr.Dataset, graph: Any) -> None:
    view: Any = spectrum_chart({"VV": eig, "again": eig}, component=2)
    assert view.Eigenvalues.I.dimension_values("y").tolist() == eig.eigenvalue.values[0].tolist() * 2
    bars: Any = layers_chart({"VV": eig}, 2)
    assert bars.Cost.I.dimension_values("name").tolist() == list(graph.layers)
    assert hv.render(view, backend="bokeh").renderers
    assert hv.render(bars, backend="bokeh").renderers
    chart: Any
    for chart in (spectrum_chart, layers_chart):
        with pytest.raises(SpectralToolkitError, match="component=9 was not computed"):
            chart({"VV": eig}, 9)
        with pytest.raises(SpectralToolkitError, match="give one to 8 results"):
            chart(eig)


def test_what_lies_over_no_picture_is_refused_in_one_sentence(acts: xr.DataTree, eig: xr.Dataset, graph: Any) -> None:
    cuts = st.segment(eig, 3, method="cuts", graph=graph)
    result: Any
    for result, name in (
        (hierarchy(cuts), "A Dataset of parent, cut, size, label"),
        (st.cut_costs(eig, graph), "A Dataset of share"),
        (acts.dataset["pixels"], "A DataArray of uint8 over image, y_px, x_px, rgb"),
        (np.zeros((2, 6, 8)), "An object of type ndarray"),
        ({"a": 3}, "An object of type int"),
        ({}, "eig is an empty mapping"),
    ):
        with pytest.raises(SpectralToolkitError, match=name) as caught:
            st.overlay(acts, result)
        assert "st.solve" in str(caught.value)
    segments = st.segment(eig, 2)
    wrong: Any
    for wrong in ({"component": 1}, {"layout": "rgb"}, {"smooth": True}, {"threshold": 0.0}, {"like": eig}):
        with pytest.raises(SpectralToolkitError, match=f"{next(iter(wrong))}= means nothing to a result without"):
            st.overlay(acts, segments, **wrong)
    with pytest.raises(SpectralToolkitError, match="image=7 is not one of the 2 images"):
        st.overlay(acts, segments, image=7)
    with pytest.raises(SpectralToolkitError, match="marked=3 is not understood"):
        st.overlay(acts, segments, marked=3)


def test_label_colours_of_no_patches_at_all() -> None:
    assert label_colours(np.full((2, 3), -1), 0.5, unlabelled=False)[..., 3].max() == 0
