"""Overlays are asserted as HoloViews objects: dimensions, ranges, data; the browser test looks at the pixels."""

from __future__ import annotations

import base64
import re
from typing import Any

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from eigen_fixtures import activations, eigenvectors, pictures
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from panel.io.resources import CDN_DIST

import spectral_toolkit as st
from spectral_toolkit._render.composite import colour_field, colour_three, robust_limit
from spectral_toolkit._render.outline import boundary
from spectral_toolkit._render.principal import principal_colours
from spectral_toolkit._views.local_styles import with_local_styles
from spectral_toolkit.errors import SpectralToolkitError


def option(element, name: str):
    for group in ("style", "plot"):
        options = hv.Store.lookup_options("bokeh", element, group).kwargs
        if name in options:
            return options[name]
    raise KeyError(name)


def part(view: Any, group: str) -> Any:
    """The one element of that name in an overlay."""
    found = [element for element in view if element.group == group]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def eig() -> xr.Dataset:
    return eigenvectors(isolated=((0, 3, 7),))


def test_one_component_over_one_picture(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, image="picture-1", component=2, opacity=0.5)
    assert isinstance(view, hv.Overlay)
    field, picture = part(view, "Eigenvector"), part(view, "Picture")
    assert [dimension.name for dimension in field.dimensions()] == ["x", "y", "value", "row", "column"]
    expected = eig.eigenvector.sel(image="picture-1", component=2)
    assert (field.dimension_values("value", flat=False) == expected.values).all()
    assert np.allclose(field.dimension_values("y", expanded=False), expected.y)
    right_and_high = field.select(x=(0.9, 1), y=(0, 0.2)).dimension_values("value")
    assert right_and_high.tolist() == [expected.values[0, -1]]
    assert (field.dimension_values("row", flat=False)[:, 0] == [0, 1, 2, 3]).all()
    limit = float(np.abs(expected).max())
    assert option(field, "clim") == (-limit, limit)
    assert option(field, "alpha") == 0.5
    assert option(field, "colorbar")
    assert field.bounds.lbrt() == picture.bounds.lbrt() == (0, 0, 1, 1)
    assert picture.interface.shape(picture, gridded=True) == (40, 80)
    red = picture.dimension_values("R", flat=False)
    assert red[0, 0] == 220, "row 0 is the top of the picture"
    assert red[-1, 0] == 40


def test_the_frame_is_turned_round_once_and_keeps_the_shape(eig: xr.Dataset) -> None:
    figure = hv.render(st.overlay(activations(), eig, image=0, component=1, width=300), backend="bokeh")
    assert (figure.y_range.start, figure.y_range.end) == (1, 0)
    assert (figure.x_range.start, figure.x_range.end) == (0, 1)
    assert (figure.frame_width, figure.frame_height) == (300, 150)
    tooltips = [text for tool in figure.tools if type(tool).__name__ == "HoverTool" for text in tool.tooltips]
    assert ("value", "@image{0.0000}") in tooltips
    assert ("patch (row, column)", "@{row}, @{column}") in tooltips
    assert ("position (y, x)", "$y{0.00}, $x{0.00}") in tooltips


def test_a_picture_squashed_for_the_model_is_shown_in_its_own_shape() -> None:
    squashed = activations(height=64, width=64, original=(40, 80))
    figure = hv.render(st.overlay(squashed, eigenvectors(), image=0, component=1, width=300), backend="bokeh")
    assert (figure.frame_width, figure.frame_height) == (300, 150)


def test_only_the_analysed_part_of_an_original_is_shown() -> None:
    eig = eigenvectors()
    eig = eig.assign_coords(box_left=("image", [40, 40]), box_bottom=("image", [20, 20]))
    view = st.overlay(pictures(), eig, image=0, component=1)
    picture = part(view, "Picture")
    assert picture.interface.shape(picture, gridded=True) == (20, 40)
    assert (picture.dimension_values("G") == 200).all(), "the top right quarter is green"
    # The same part, of originals at half size.
    half = part(st.overlay(pictures(height=20, width=40), eig, image=0, component=1), "Picture")
    assert half.interface.shape(half, gridded=True) == (10, 20)
    assert (half.dimension_values("G") == 200).all()


def test_all_components_of_one_picture_are_a_slider_without_kernel(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, image=0)
    assert isinstance(view, hv.HoloMap)
    assert not isinstance(view, hv.DynamicMap)
    assert view.keys() == [1, 2, 3, 4]
    assert len({id(part(frame, "Picture").data) for frame in view}) == 1, "the picture is kept once"


def test_many_pictures_are_a_layout_each_in_its_shape(eig: xr.Dataset) -> None:
    sizes = [pictures(1, 40, 80)[0], pictures(1, 90, 30)[0]]
    plain = eig.drop_vars([name for name in eig.coords if str(name).startswith(("box", "original"))])
    view = st.overlay(sizes, plain, component=1, width=90)
    assert isinstance(view, hv.Layout)
    assert len(view) == 2
    heights = [hv.render(frame, backend="bokeh").frame_height for frame in view]
    assert heights == [45, 270]


def test_grid_holds_every_component_of_every_picture(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, layout="grid")
    assert isinstance(view, hv.Layout)
    assert len(view) == 8
    assert len(st.overlay(activations(), eig, layout="grid", components=(2, 4), image=1)) == 2


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_colours_are_shared_where_the_problem_was(scope: str) -> None:
    eig = eigenvectors(scope=scope)
    view = st.overlay(activations(), eig, component=1)
    limits = [option(part(frame, "Eigenvector"), "clim")[1] for frame in view]
    assert limits == ([2.0, 2.0] if scope == "dataset" else [1.0, 2.0])


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_colours_are_on_the_scale_of_another_answer(scope: str) -> None:
    eig, like = eigenvectors(scope=scope), eigenvectors(scope=scope)
    like["eigenvector"] = like.eigenvector * 3
    fields = like.eigenvector.sel(component=[1, 2, 3]).transpose("image", "y", "x", "component").values
    view = st.overlay(activations(), eig, component=1, like=like)
    assert [option(part(frame, "Eigenvector"), "clim")[1] for frame in view] == [abs(fields[..., 0]).max()] * 2
    three = part(st.overlay(activations(), eig, layout="rgb", image=1, like=like), "Three")
    colours = np.stack([three.dimension_values(channel, flat=False) for channel in "RGB"], axis=-1)
    own = eig.eigenvector.isel(image=1).sel(component=[1, 2, 3]).transpose("y", "x", "component").values
    assert (colours == colour_three(own, robust_limit(fields))).all()


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_three_components_as_red_green_and_blue(scope: str) -> None:
    eig = eigenvectors(scope=scope)
    view = st.overlay(activations(), eig, layout="rgb", components=(3, 1, 2), image=0)
    three = part(view, "Three")
    colours = np.stack([three.dimension_values(channel, flat=False) for channel in "RGB"], axis=-1)
    fields = eig.eigenvector.sel(component=[3, 1, 2]).transpose("image", "y", "x", "component").values
    limit = robust_limit(fields if scope == "dataset" else fields[0])
    assert (colours == colour_three(fields[0], limit)).all()
    names = [dimension.name for dimension in part(view, "Eigenvectors").vdims]
    assert names[:3] == ["component 3", "component 1", "component 2"]


@pytest.mark.parametrize("scope", ["image", "dataset"])
def test_principal_components_of_many_eigenvectors_as_colours(scope: str) -> None:
    eig = eigenvectors(scope=scope)  # whose fields are multiples of each other
    eig["eigenvector"] = eig.eigenvector.copy(data=np.random.default_rng(0).normal(size=eig.eigenvector.shape))
    fields = eig.eigenvector.transpose("image", "y", "x", "component").values
    for index, view in enumerate(st.overlay(activations(), eig, layout="pca")):
        three = part(view, "Three")
        colours = np.stack([three.dimension_values(channel, flat=False) for channel in "RGB"], axis=-1)
        expected, share = slow_principal(fields if scope == "dataset" else fields[[index]])
        assert np.abs(colours - 255 * expected[index if scope == "dataset" else 0]).max() <= 1
        assert f"PCA of 1 to 4 three hold {share:.0%} of the variance" in words(view)
    some = st.overlay(activations(), eig, layout="pca", components=(1, 2, 4), image=0, smooth=True)
    assert "PCA of 1, 2, 4 three hold 100%" in words(some)


def words(view: Any) -> str:
    return " ".join(option(view, "title").split())


def slow_principal(fields: np.ndarray) -> tuple[np.ndarray, float]:
    """By singular vectors of the centred rows."""
    rows = fields.reshape(-1, fields.shape[-1])
    rows = rows - rows.mean(0)
    u, s, v = np.linalg.svd(rows, full_matrices=False)
    colours = []
    for n in range(3):
        scores = u[:, n] * (1 if v[n][np.abs(v[n]).argmax()] > 0 else -1)
        low, high = np.percentile(scores, [2, 98])
        colours.append(np.clip((scores - low) / (high - low), 0, 1))
    return np.stack(colours, -1).reshape(*fields.shape[:-1], 3), float((s[:3] ** 2).sum() / (s**2).sum())


@pytest.mark.parametrize("fields", [np.zeros((1, 2, 3, 4)), np.full((1, 2, 3, 4), np.nan)])
def test_principal_components_of_nothing_are_grey(fields: np.ndarray) -> None:
    colours, share = principal_colours(fields)
    assert share == 0
    assert np.array_equal(np.isnan(colours), np.isnan(fields[..., :3]))
    assert (np.nan_to_num(colours, nan=0.5) == 0.5).all()


def test_smooth_colours_keep_the_values_under_the_cursor(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, image=0, component=1, smooth=True, opacity=0.6)
    field, smooth = part(view, "Eigenvector"), part(view, "Colours")
    assert field.interface.shape(field, gridded=True) == (4, 8)
    assert smooth.interface.shape(smooth, gridded=True) == (128, 256)
    assert (option(field, "alpha"), option(smooth, "alpha")) == (0.0, 0.6)
    assert part(st.overlay(activations(), eig, image=0, layout="rgb", smooth=True), "Three") is not None


@pytest.mark.parametrize("smooth", [False, True])
def test_only_the_side_above_a_threshold_is_coloured(eig: xr.Dataset, smooth: bool) -> None:
    view = st.overlay(activations(), eig, component=2, image=0, threshold=0.25, smooth=smooth)
    field = eig.eigenvector.isel(image=0).sel(component=2).values
    limit = abs(field).max()
    colours = part(view, "Colours")
    alpha = colours.dimension_values("A", flat=False)
    above = field > 0.25 * limit
    assert 0 < above.sum() < above.size
    if smooth:
        assert alpha.shape[0] > field.shape[0]
        assert set(np.unique(alpha)) == {0, 255}
    else:
        assert ((alpha == 255) == above).all()
        shown = np.stack([colours.dimension_values(channel, flat=False) for channel in "RGB"], axis=-1)
        assert (shown == colour_field(field, limit)).all()
    assert (part(view, "Eigenvector").dimension_values("value", flat=False) == field).all()
    assert option(part(view, "Eigenvector"), "alpha") == 0
    lines = [part(view, name) for name in ("Casing", "Cut")]
    for line in lines:
        ends = np.stack([line.dimension_values(place) for place in range(4)], axis=1)
        assert (ends == boundary(alpha == 255)).all()
    assert option(lines[0], "line_width") > option(lines[1], "line_width")
    assert hv.render(view, backend="bokeh").renderers
    assert len(st.overlay(activations(), eig, image=0, threshold=0.25)) == 4


def test_a_threshold_that_leaves_one_side_draws_no_line(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, component=2, image=0, threshold=1)
    assert len(part(view, "Cut")) == 0
    assert hv.render(view, backend="bokeh").renderers


@settings(max_examples=60)
@given(
    side=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6)),
)
def test_the_line_runs_between_the_sides_and_nowhere_else(side: np.ndarray) -> None:
    """Against every pair of neighbours looked at one by one."""
    height, width = side.shape
    expected = {((x + 1, y), (x + 1, y + 1)) for y, x in np.ndindex(height, width - 1) if side[y, x] != side[y, x + 1]}
    expected |= {((x, y + 1), (x + 1, y + 1)) for y, x in np.ndindex(height - 1, width) if side[y, x] != side[y + 1, x]}
    lines = np.rint(boundary(side) * [width, height, width, height]).astype(int)
    pieces = []
    for x0, y0, x1, y1 in lines.tolist():
        assert (x0 == x1) != (y0 == y1)
        down, right = int(x0 == x1), int(y0 == y1)
        pieces += [
            ((x0 + n * right, y0 + n * down), (x0 + (n + 1) * right, y0 + (n + 1) * down))
            for n in range(x1 - x0 + y1 - y0)
        ]
    assert len(pieces) == len(set(pieces))
    assert set(pieces) == expected
    joined = {(x1, y1, x0 == x1) for x0, y0, x1, y1 in lines.tolist()}
    assert not joined & {(x0, y0, x0 == x1) for x0, y0, x1, y1 in lines.tolist()}, "lines are as long as they can be"


def test_isolated_cells_are_covered_and_only_they(eig: xr.Dataset) -> None:
    first, second = st.overlay(activations(), eig, component=1)
    cells = part(first, "Isolated").dframe().to_numpy()
    assert np.allclose(cells, [[7 / 8, 3 / 4, 1, 1]])
    assert part(second, "Isolated") is None


def test_title_says_what_to_believe(eig: xr.Dataset) -> None:
    eig["converged"][0, 3] = False
    title = option(st.overlay(activations(), eig, image=0, component=4), "title").replace("\n", " ")
    for words in ("picture-0", "QK component 4", "λ = 0.1836", "residual 3e-09", "not converged", "apart from 3"):
        assert words in title
    assert "1 isolated patch" in title
    three = option(st.overlay(activations(), eig, image=0, layout="rgb", components=(4, 1, 2)), "title")
    for words in (
        "QK components R 4, G 1, B 2",
        "λ = 0.184, 0.0125, 0.0644",
        "residual up to 3e-09",
        "4 not converged",
    ):
        assert words in three.replace("\n", " ")
    calm = option(st.overlay(activations(), eig, image=1, component=1), "title")
    assert "converged" not in calm


def test_pictures_are_found_by_name_or_else_by_position(eig: xr.Dataset) -> None:
    dark, light = np.zeros((2, 4, 8, 3), np.uint8), np.full((2, 4, 8, 3), 255, np.uint8)
    named = xr.DataArray(
        np.concatenate([light[:1], dark[:1], dark[:1]]),
        dims=("image", "y_px", "x_px", "rgb"),
        coords={"image": ["picture-1", "picture-0", "other"]},
    )
    bare = eig.drop_vars([name for name in eig.coords if str(name).startswith(("box", "original"))])
    by_name = part(st.overlay(named, bare, image="picture-1", component=1), "Picture")
    assert (by_name.dimension_values("R") == 255).all()
    by_position = part(st.overlay(named[:2].values[::-1], bare, image="picture-1", component=1), "Picture")
    assert (by_position.dimension_values("R") == 255).all()
    with pytest.raises(SpectralToolkitError, match="2 images were given .* images with the same names"):
        st.overlay(named[:2].assign_coords(image=["a", "b"]), bare)
    with pytest.raises(SpectralToolkitError, match="1 images were given"):
        st.overlay(dark[:1], eig)


def test_a_figure_in_a_notebook_asks_the_network_for_no_style_sheet(eig: xr.Dataset) -> None:
    view = st.overlay(activations(), eig, image="picture-1")
    hv.extension("bokeh", inline=True)  # as notebooks call it, before or after
    for figure in (view, view.last, hv.Curve([1, 2])):
        shown: Any = hv.renderer("bokeh").components(figure)[0]
        assert "holoviews_exec" in str(list(shown))
        assert "cdn." not in str(shown)
        sheets = re.findall(r"data:text/css;base64,([\w+/=]*)", str(shown))
        assert len(sheets) >= 4
        assert all("{" in base64.b64decode(sheet).decode() for sheet in sheets)


def test_what_is_no_style_sheet_of_panel_stays_as_it_is() -> None:
    text = f'{CDN_DIST}css/loading.css?v=1 {CDN_DIST}panel.min.js https://example.org/a.css "{CDN_DIST}css/none.css"'
    kept = with_local_styles(text)
    assert kept.endswith(f' {CDN_DIST}panel.min.js https://example.org/a.css "data:text/css;base64,"')
    assert kept.startswith("data:text/css;base64,")
    assert "?v=1" not in kept


def test_a_single_cell_and_a_single_column() -> None:
    for grid in ((1, 1), (3, 1), (1, 3)):
        eig = eigenvectors(grid=grid, n_images=1)
        field = part(st.overlay(activations(1), eig, image=0, component=1), "Eigenvector")
        assert field.interface.shape(field, gridded=True) == grid
        assert field.bounds.lbrt() == (0, 0, 1, 1)


def test_max_side_limits_the_picture(eig: xr.Dataset) -> None:
    picture = part(st.overlay(activations(), eig, image=0, component=1, max_side=20), "Picture")
    assert picture.interface.shape(picture, gridded=True) == (10, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "heat"}, "layout=.heat. is not a layout"),
        ({"component": 0}, "component=0 was not computed"),
        ({"component": 5}, "components 1 to 4"),
        ({"image": 7}, "image=7 is not one of the 2 images"),
        ({"image": "cat"}, "image='cat' is not one"),
        ({"image": []}, r"image=\[\] is empty"),
        ({"image": 1.5}, "image=1.5 is not one of the 2 images"),
        ({"opacity": 2}, "opacity=2 is out of range"),
        ({"opacity": "half"}, "opacity='half' is out of range"),
        ({"layout": "rgb", "component": 2}, "component= means nothing to layout='rgb': use components="),
        ({"layout": "grid", "component": 2}, "component= means nothing to layout='grid'"),
        ({"components": (1, 2)}, "components= means nothing to layout='component'"),
        ({"layout": "rgb", "components": (1, 2)}, "cannot be red, green and blue"),
        ({"layout": "pca", "components": (1, 2)}, r"components=\(1, 2\) have no three principal components"),
        ({"layout": "pca", "like": eigenvectors()}, "like= means nothing to layout='pca'"),
        ({"threshold": 1.5}, "threshold=1.5 is out of range"),
        ({"threshold": True}, "threshold=True is out of range"),
        ({"threshold": float("nan")}, "threshold=nan is out of range"),
        ({"threshold": 0.5, "layout": "grid"}, "threshold= means nothing to layout='grid'"),
        ({"like": "other"}, "like is a str without 'eigenvector'"),
        ({"like": eigenvectors().isel(component=[0]), "component": 2}, "component=2 was not computed"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(eig: xr.Dataset, arguments: dict, message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        st.overlay(activations(), eig, **arguments)


def test_wrong_arguments_are_named() -> None:
    for alone in (eigenvectors().isel(image=0), eigenvectors().sel(component=2)):
        with pytest.raises(SpectralToolkitError, match="choose one as a list"):
            st.overlay(activations(), alone)
    with pytest.raises(SpectralToolkitError, match="expected the Dataset"):
        st.overlay(activations(), xr.Dataset())
    tree = activations()
    del tree["pixels"]
    with pytest.raises(SpectralToolkitError, match="pixels"):
        st.overlay(tree, eigenvectors())
