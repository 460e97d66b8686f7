"""What the explorer draws, and what it sends to the page for that."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import pytest
from bokeh.events import DocumentReady
from explorer_fixtures import GRID, KeepingComm, capture_of, spectrum

import spectral_toolkit as st
from spectral_toolkit._explorer.session import Session
from spectral_toolkit._render.tile import Tile
from spectral_toolkit._views.elements import _FRAME, rgb_element
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit._views.widget.tiles import TileFigure, TilePlace, image_columns


def test_pictures_lie_as_holoviews_lays_them() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    drawn: Any = hv.render(rgb_element(colours, "Picture").opts(backend="bokeh", **_FRAME), backend="bokeh")
    theirs = drawn.renderers[0].data_source.data
    ours = image_columns([(colours, TilePlace(0.0, 0.0, 1.0, 1.0, (3, 5)))])
    np.testing.assert_array_equal(ours["image"][0], theirs["image"][0])
    assert [ours[name][0] for name in ("x", "y", "dw", "dh")] == [theirs[name][0] for name in ("x", "y", "dw", "dh")]
    figure = TileFigure("test")
    figure.show([Tile(colours, np.zeros((3, 5)))], width=50, aspect=0.6)
    assert drawn.y_range.start > drawn.y_range.end
    axis: Any = figure.figure.y_range
    assert axis.start > axis.end


def test_what_is_drawn_is_the_eigenvector(explorer: Explorer) -> None:
    explorer.set(compare=False, affinity="vv", component=2, opacity=1.0)
    eig = st.solve(st.affinity(explorer.activations.isel(image=[0]), "vv", device="cpu"), 8)
    figure = explorer._pictures.figures[0]
    drawn = figure._colours.data["value"][0]
    np.testing.assert_allclose(drawn, eig.eigenvector[0, :, :, 1].values, atol=1e-6)
    rgba = figure._colours.data["image"][0].view(np.uint8).reshape(*GRID, 4)
    gold, blue = np.unravel_index(drawn.argmax(), GRID), np.unravel_index(drawn.argmin(), GRID)
    assert rgba[gold][0] > rgba[gold][2]
    assert rgba[blue][2] > rgba[blue][0]
    assert (rgba[..., 3] == 255).all()


def test_one_change_is_one_patch_and_figures_are_never_made_again(explorer: Explorer) -> None:
    figures = [id(figure.figure) for figure in explorer._pictures.figures]
    widget: Any = explorer._pictures.widget
    KeepingComm.everything.clear()
    explorer.set(component=3)
    mine = [entry for entry in KeepingComm.everything if entry[0] == widget.comm.comm_id]
    headers = [data for _, _, data, _ in mine if "msgtype" in str(data)]
    assert len(headers) == 1
    assert not any("render_bundle" in str(data.get("state", "")) for _, _, data, _ in mine)
    for view in ("grid", "rgb", "norms", "component"):
        explorer.set(view=view, image=1)
    assert [id(figure.figure) for figure in explorer._pictures.figures] == figures
    assert explorer._pictures.widget is widget


def test_a_new_view_gets_the_figure_as_it_is_now(explorer: Explorer) -> None:
    widget: Any = explorer._pictures.widget
    widget.renew()
    first = widget.render_bundle
    explorer.set(component=2)
    assert widget.render_bundle is first
    widget._document.callbacks.trigger_event(DocumentReady())
    assert widget.render_bundle is not first
    second = widget.render_bundle
    widget._document.callbacks.trigger_event(DocumentReady())
    assert widget.render_bundle is second
    explorer.set(component=3)
    assert widget.get_state()["render_bundle"] != second


def test_bokeh_is_sent_only_to_a_page_that_asks(explorer: Explorer) -> None:
    loader, stage = explorer._loader, explorer._stage
    stage.children = ()
    loader._output.outputs = loader._output._question
    need, ready = loader._buttons
    ask = str(loader._output.outputs)
    assert len(ask) < 20_000, "the script of the page, and no library"
    assert stage.children == ()
    need.click()
    assert len(str(loader._output.outputs)) > 1_000_000
    assert stage.children == ()
    ready.click()
    assert loader._output.outputs == ()
    assert explorer._stage.children[0] is explorer._pictures.widget
    # A page that is opened later, with this kernel, begins as the first one did.
    assert stage.get_state()["children"] == []
    assert str(loader._output.get_state()["outputs"]) == ask
    KeepingComm.everything.clear()
    ready.click()
    assert any("children" in data.get("state", {}) for _, _, data, _ in KeepingComm.everything)


def test_no_number_of_groups_is_read_from_a_row_of_equal_eigenvalues(comms: type[KeepingComm]) -> None:
    tree = capture_of(images=1)
    for node in tree.children.values():
        node.dataset["value"].values[...] = 1.0
    explorer = Explorer(tree, device="cpu", state=State(affinity="vv", compare=False, view="spectrum"))
    assert spectrum(explorer).chart._words.data["text"] == ["VV: no gap that suggests a number of segments"]
    explorer.set(affinity="qk")
    assert "segments" in spectrum(explorer).chart._words.data["text"][0]
    explorer.close()


def test_only_pictures_that_get_a_button_are_made_small(
    comms: type[KeepingComm], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    small = Session.small
    monkeypatch.setattr(Session, "small", lambda self, place, side=128: made.append(place) or small(self, place, side))
    many = Explorer(capture_of(images=61, layers=2, grid=(4, 4)), device="cpu")
    assert set(made) == {0}
    many.close()
