"""An explorer on disk: opened again it shows the same, and neither captures nor solves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from explorer_fixtures import capture_of, press
from test_explorer_sources import renamed

import spectral_toolkit as st
from spectral_toolkit._explorer import session as session_module
from spectral_toolkit.errors import SpectralToolkitError, StoreError

TREE = capture_of(images=2, layers=3)


def never(*_args, **_settings):
    raise AssertionError("nothing is solved again")


@pytest.mark.parametrize("scope", ["image", "dataset"])
@pytest.mark.parametrize("stored", [True, False])
def test_it_shows_the_same_and_solves_nothing(scope, stored, tmp_path, monkeypatch) -> None:
    tree = TREE
    if stored:
        TREE.to_zarr(tmp_path / "activations.zarr", mode="w", consolidated=False)
        tree = xr.open_datatree(tmp_path / "activations.zarr", engine="zarr", consolidated=False)
    before = st.Explorer(tree, synchronous=True, device="cpu", scope=scope)
    before.set(image=1, component=3, compare=False, threshold=0.2, patch=(2, 3))
    path = before.save(tmp_path / "mine")
    assert (path / "activations").exists() != stored, "activations that are on disk stay where they are"
    state, eig, shown = before.state, before.eigenvectors, before._pictures.figures[0].tiles[0].values
    before.close()
    monkeypatch.setattr(session_module, "solve", never)
    after = st.Explorer.restore(path, synchronous=True, device="cpu")
    assert after.state == state
    xr.testing.assert_equal(after.eigenvectors.drop_attrs(), eig.drop_attrs())
    assert np.array_equal(after._pictures.figures[0].tiles[0].values, shown)
    after.set(opacity=0.3)
    assert after.save(path).name == "mine-2.zarr", "nothing is overwritten"
    after.close()


def test_activations_that_have_moved_are_asked_for(tmp_path) -> None:
    TREE.to_zarr(tmp_path / "activations.zarr", mode="w", consolidated=False)
    tree = xr.open_datatree(tmp_path / "activations.zarr", engine="zarr", consolidated=False)
    before = st.Explorer(tree, synchronous=True, device="cpu")
    path = before.save(tmp_path / "mine.zarr")
    before.close()
    (tmp_path / "activations.zarr").rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(StoreError, match=r"activations.zarr', which is not there: put them back"):
        st.Explorer.restore(path)
    for there in (tmp_path / "elsewhere.zarr", TREE):
        st.Explorer.restore(path, activations=there, synchronous=True, device="cpu").close()
    other = renamed(TREE, ["x", "y"])
    with pytest.raises(SpectralToolkitError, match="saved with other images"):
        st.Explorer.restore(path, activations=other)
    with pytest.raises(StoreError, match="holds no explorer"):
        st.Explorer.restore(tmp_path / "elsewhere.zarr")
    with pytest.raises(StoreError, match="cannot be opened as an explorer"):
        st.Explorer.restore(tmp_path / "nothing.zarr")


def test_a_part_of_a_store_is_not_taken_for_the_whole(tmp_path) -> None:
    TREE.to_zarr(tmp_path / "activations.zarr", mode="w", consolidated=False)
    tree = xr.open_datatree(tmp_path / "activations.zarr", engine="zarr", consolidated=False).isel(image=[1])
    before = st.Explorer(tree, synchronous=True, device="cpu")
    path = before.save(tmp_path / "mine.zarr")
    before.close()
    after = st.Explorer.restore(path, synchronous=True, device="cpu")
    assert after.activations.sizes["image"] == 1
    after.close()


def test_figures_say_what_was_solved_and_what_is_missing(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    from spectral_toolkit._views import save_figure as module
    from spectral_toolkit._views.widget.still_view import still_view

    explorer = st.Explorer(TREE, synchronous=True, device="cpu")
    explorer.set(other_component=2)
    assert explorer._answer is not None
    view = still_view(explorer._answer, explorer._session.facts.layers, "picture-0")
    titles = [one.opts.get().kwargs["title"] for one in view]
    assert "picture-0 · QK · softmax · eigenvector 1" in titles[0].replace("\n", " ")
    assert "eigenvector 2" in titles[1].replace("\n", " ")
    assert all("3 layers" in one.replace("\n", " ") and "this image alone" in one.replace("\n", " ") for one in titles)
    panels = module._panels(view)
    assert [len(one.parts.bars) for one in panels] == [1, 1]
    limit = float(np.abs(explorer._answer.sides[0].eig.eigenvector.values[..., 0]).max())
    assert panels[0].parts.bars[0].color_mapper.properties_with_values()["high"] == pytest.approx(limit, rel=0.3)
    for name, ending in (("segments", ".svg"), ("spectrum", ".svg"), ("layers", ".pdf"), ("heads", ".pdf")):
        explorer.set(view=name)
        assert Path(explorer.save_figure(tmp_path / f"{name}{ending}")).stat().st_size > 1000
    explorer._path.value = str(tmp_path / "by-button")
    press(explorer, "Save PDF")
    assert (tmp_path / "by-button.pdf").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    press(explorer, "Save SVG")
    assert "need matplotlib" in explorer._done.value
    assert not (tmp_path / "by-button.svg").exists()
    explorer.close()
