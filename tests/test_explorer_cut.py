"""An eigenvector cut in two in the explorer: one side in colour, the line where it ends, and what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explorer_fixtures import GRID, KeepingComm, capture_of, press, seen
from tree_factory import values_of

import spectral_toolkit as st
from spectral_toolkit._render.colour import ISOLATED
from spectral_toolkit._render.outline import boundary
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit.errors import SpectralToolkitError


def test_a_cut_colours_one_side_and_says_what_it_costs(explorer: Explorer) -> None:
    explorer.set(affinity="vv", other_affinity="qk", component=2, threshold=0.2, opacity=1.0)
    graphs = [st.affinity(explorer.activations.isel(image=[0]), kind, device="cpu") for kind in ("vv", "qk")]
    answers = [st.solve(graph, 8) for graph in graphs]
    costs = [st.cut_costs(eig, graph, 2).isel(image=0) for eig, graph in zip(answers, graphs, strict=True)]
    for figure, eig, cost in zip(explorer._pictures.figures, answers, costs, strict=True):
        field = eig.eigenvector.values[0, :, :, 1]
        rgba = figure._colours.data["image"][0].view(np.uint8).reshape(*GRID, 4)
        above = field > 0.2 * abs(field).max()
        assert ((rgba[..., 3] == 255) == above).all()
        place = figure.places[0]
        ends = np.stack([figure._lines.data[name] for name in ("x0", "y0", "x1", "y1")], axis=1)
        np.testing.assert_allclose(ends / ([place.width, place.height] * 2), boundary(above), atol=1e-12)
        at = cost.sel(threshold=0.2)
        assert f"{float(at.share):.0%} of the patches, normalised cut {float(at.normalised_cut):.3f}" in (
            explorer._controls.cut_cost.value
        )
    press(explorer, "Lowest cut")
    assert explorer.state.threshold == float(costs[0].best)
    assert "st.cut_costs(eig, graph, 2)" in explorer.code()
    assert "Only the side above the threshold is coloured" in explorer._legend.value
    told = explorer._controls.cut_cost.value
    explorer.set(component=3)
    assert explorer._controls.cut_cost.value != told
    told = explorer._controls.cut_cost.value
    explorer.set(weights={"block.0": 1.0, "block.1": 0.3})
    assert explorer._controls.cut_cost.value != told
    explorer.set(view="grid")
    assert not len(explorer._pictures.figures[0]._lines.data["x0"])
    assert explorer._controls.cut.layout.display == explorer._controls.is_cut.layout.display == "none"
    assert "cut_costs" not in explorer.code()
    explorer.set(view="component", threshold=1.0)
    assert "0% of the patches: no cut" in explorer._controls.cut_cost.value
    with pytest.raises(SpectralToolkitError, match="threshold=2 is out of range"):
        explorer.set(threshold=2)


def test_a_threshold_that_is_dragged_computes_nothing(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer._controls.is_cut.value = True
    figures = [id(figure.figure) for figure in explorer._pictures.figures]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it is computed anew")

    monkeypatch.setattr(explorer._worker, "ask", never)
    seen_at = []
    for step in range(5):
        KeepingComm.everything.clear()
        explorer._controls.threshold.value = -0.4 + 0.2 * step
        pictures: Any = explorer._pictures.widget
        sent = [data for comm_id, _, data, _ in KeepingComm.everything if comm_id == pictures.comm.comm_id]
        assert len([data for data in sent if "msgtype" in str(data)]) == 1, "all that changes, in one message"
        seen_at.append((seen(explorer), explorer._controls.cut_cost.value))
    assert len(set(seen_at)) == len({told for _, told in seen_at}) == 5
    assert [id(figure.figure) for figure in explorer._pictures.figures] == figures


def test_what_no_affinity_reaches_stays_grey_on_both_sides_of_a_cut(comms: type[KeepingComm]) -> None:
    tree = capture_of(layers=2)
    for name in ("query", "key", "value", "token"):
        for layer in tree.children:
            values_of(tree, layer, name)[..., :2, :2, :] = 0.0
    explorer = Explorer(tree, device="cpu", state=State(affinity="vv", compare=False, threshold=-1.0, opacity=0.5))
    isolated = explorer.eigenvectors.isolated.values[0]
    assert isolated.any()
    for threshold in (-1.0, 1.0):
        explorer.set(threshold=threshold)
        rgba = explorer._pictures.figures[0]._colours.data["image"][0].view(np.uint8).reshape(*isolated.shape, 4)
        assert (rgba[isolated] == [*ISOLATED, 230]).all()
    explorer.close()


def test_a_picture_of_too_many_patches_is_cut_and_says_that_the_cost_is_not_known(
    comms: type[KeepingComm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectral_toolkit._explorer.session.MOST_DENSE", 10)
    explorer = Explorer(capture_of(images=1), device="cpu", state=State(threshold=0.1))
    assert "the cut value is not computed" in explorer._controls.cut_cost.value
    assert len(explorer._pictures.figures[0]._lines.data["x0"])
    assert explorer._controls.lowest.disabled
    press(explorer, "Lowest cut")
    assert explorer.state.threshold == 0.1
    assert "threshold=0.1" in explorer.code()
    assert "cut_costs" not in explorer.code(), "it would be refused there"
    explorer.close()
