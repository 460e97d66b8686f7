"""Two captures side by side, and timesteps of a denoiser: aligned, with their distance, one patch and one cursor."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import capture_of
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError


def two(grid: tuple[int, int] = (6, 8), layers: int = 5) -> tuple[xr.DataTree, xr.DataTree]:
    """Captures of the same images by two models, of which the second has other layers."""
    first = capture_of(images=2, layers=3)
    other = make_tree([grid] * layers, images=2, channels=8, seed=9)
    root = first.to_dataset()
    first.attrs["model"], root.attrs = "one", {**root.attrs, "model": "two"}
    names = {f"stage.{place}": node for place, node in enumerate(other.children.values())}
    return first, xr.DataTree(root, children=names)


FIRST, SECOND = two()


@pytest.fixture
def explorer():
    made = st.Explorer([FIRST, SECOND], synchronous=True, device="cpu")
    yield made
    made.close()


def solved(tree: xr.DataTree, kind: str = "qk", image: int = 0, n: int = 10) -> xr.Dataset:
    return st.solve(st.affinity(tree.isel(image=[image]), kind, device="cpu"), n)


def test_the_second_is_another_capture_aligned_to_the_first(explorer) -> None:
    state = explorer.state
    assert state.compare
    assert state.other_affinity == state.affinity == "qk"
    one, other = explorer._answer.sides
    wanted = st.align(solved(SECOND), solved(FIRST))
    np.testing.assert_allclose(one.eig.eigenvector, solved(FIRST).eigenvector, atol=1e-5)
    np.testing.assert_allclose(abs(other.eig.similarity), abs(wanted.similarity), atol=1e-3)
    assert (other.eig.similarity[:, :3] > -1e-9).all(), "turned towards the first"
    shown = explorer._pictures.figures[1].tiles[0].values
    assert np.array_equal(shown, other.eig.eigenvector.values[0, ..., 0])
    distance = st.subspace_distance(solved(FIRST), solved(SECOND))
    said = explorer._facing.value
    assert f"are {float(distance.geodesic[0]):.2f} apart" in said
    assert f"overlap by {float(distance.overlap[0]):.0%}" in said
    assert "one · QK" in explorer._heads.value
    assert "two · QK" in explorer._heads.value


def test_components_affinities_layers_and_images_follow(explorer) -> None:
    explorer.set(other_component=3)
    shown = explorer._pictures.figures[1].tiles[0].values
    assert np.array_equal(shown, explorer._answer.sides[1].eig.eigenvector.values[0, ..., 2])
    assert "eigenvector 1" in explorer._heads.value
    assert "eigenvector 3" in explorer._heads.value
    explorer.set(n_eigenvectors=2)
    assert explorer.state.other_component == 2
    explorer.set(affinity="vv")
    assert explorer.state.other_affinity == "vv"
    explorer.set(image=1, other_affinity="qk", weights={next(iter(FIRST.children)): 1.0})
    question = explorer._answer.sides[1].question
    assert question.affinity == "qk"
    assert [name for name, _ in question.weights] == ["stage.0", "stage.1"]
    assert explorer._answer.sides[1].eig.image.item() == "picture-1"
    explorer.set(other_layers="late")
    assert [name for name, _ in explorer._answer.sides[1].question.weights] == ["stage.3", "stage.4"]


def test_one_patch_cursor_and_zoom_for_both() -> None:
    first, second = two((3, 4))
    made = st.Explorer([first, second], synchronous=True, device="cpu")
    figures = made._pictures.figures
    assert figures[0].figure.x_range is figures[1].figure.x_range
    made.set(patch=(5, 7))
    assert made._answer is not None
    assert [side.patch for side in made._answer.sides] == [(5, 7), (2, 3)]
    _, rows = st.affinity_row(st.affinity(second.isel(image=[0]), "qk", device="cpu"), (2, 3))
    np.testing.assert_allclose(made._answer.sides[1].layer_rows["stage.0"], rows["stage.0"], rtol=1e-4)
    made.close()


def test_a_cut_of_the_second_is_that_of_its_turned_eigenvector(explorer) -> None:
    explorer.set(threshold=0.0)
    side = explorer._answer.sides[1]
    graph = st.affinity(SECOND.isel(image=[0]), "qk", device="cpu")
    wanted = st.cut_costs(side.eig, graph, 1).isel(image=0)
    np.testing.assert_allclose(side.costs["share"], wanted["share"], atol=1e-9)


@pytest.mark.parametrize("view", [name for name in st.views.VIEWS if name not in ("labels", "exchange")])
def test_every_view_shows_two_and_can_be_kept(explorer, view: str) -> None:
    explorer.set(view=view)
    assert explorer._session.kept(explorer.state) is not None
    explorer.set(scope="dataset", patch=(1, 1))
    assert len(explorer._answer.sides) == 2


def test_the_code_of_two_runs(explorer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    FIRST.to_zarr("activations.zarr", mode="w", consolidated=False)
    SECOND.to_zarr("other_activations.zarr", mode="w", consolidated=False)
    code, shown = explorer.code(), []
    names: dict[str, Any] = {}
    exec(code.replace("from IPython.display import display", ""), {"display": shown.append} | names, names)
    assert len(shown) == 2
    assert isinstance(shown[1], hv.Overlay)
    assert names["eig"].sizes == explorer._answer.sides[1].eig.sizes
    np.testing.assert_allclose(abs(names["eig"].similarity), abs(explorer._answer.sides[1].eig.similarity), atol=1e-3)


def renamed(tree: xr.DataTree, images: list[str]) -> xr.DataTree:
    """The same activations, as those of other images."""
    parts = {name: child.to_dataset(inherit=False) for name, child in tree.children.items()}
    parts = {name: part.assign_coords(image=images) if "image" in part.coords else part for name, part in parts.items()}
    root = tree.to_dataset().assign_coords(image=images)
    return xr.DataTree(root, children={name: xr.DataTree(part) for name, part in parts.items()})


def test_what_two_cannot_do_is_said(explorer, tmp_path) -> None:
    with pytest.raises(SpectralToolkitError, match="compares two captures"):
        explorer.save_bundle(tmp_path / "two.zip")
    with pytest.raises(SpectralToolkitError, match="compares two captures"):
        explorer.to_html()
    for wrong in ([FIRST], [FIRST, SECOND, FIRST]):
        with pytest.raises(SpectralToolkitError, match=f"{len(wrong)} sources were given"):
            st.Explorer(wrong)
    other = renamed(SECOND, ["a", "b"])
    with pytest.raises(SpectralToolkitError, match="are of different images"):
        st.Explorer([FIRST, other])
    with pytest.raises(SpectralToolkitError, match="timestep=0 has no meaning here"):
        explorer.set(timestep=0)


def test_timesteps_of_a_denoiser_have_a_slider() -> None:
    first = capture_of(images=1, layers=2)
    later = capture_of(images=1, layers=2, seed=4)
    children = {
        name: xr.DataTree(
            xr.concat([node.to_dataset(inherit=False), later.children[str(name)].to_dataset(inherit=False)], "timestep")
            .assign_coords(timestep=[100, 700])
            .assign_attrs(node.attrs)
        )
        for name, node in first.children.items()
    }
    tree = xr.DataTree(first.to_dataset(), children=children)
    made = st.Explorer(tree, synchronous=True, device="cpu")
    slider = made._controls.times["timestep"]
    assert [label for label, _ in slider.options] == ["all", "100", "700"]
    assert slider.layout.display is None
    whole = made.eigenvectors
    slider.value = 1
    assert made.state.timestep == 1
    wanted = solved(tree.isel(timestep=[1]))
    np.testing.assert_allclose(made.eigenvectors.eigenvalue, wanted.eigenvalue, rtol=1e-4)
    assert not np.allclose(whole.eigenvalue, wanted.eigenvalue, rtol=1e-3)
    made.set(other_affinity="qk", other_timestep=0)
    assert "t = 700 · QK" in made._heads.value
    assert "t = 100 · QK" in made._heads.value
    assert "subspaces of the first" in made._facing.value
    assert "isel(timestep=[1])" in made.code()
    assert "isel(timestep=[0])" in made.code()
    made.close()
