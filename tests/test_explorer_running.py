"""The explorer while it computes, when a computation fails, and when it is closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from typing import Any

import pytest
from explorer_fixtures import KeepingComm, capture_of, press, say, seen
from ipywidgets.widgets.widget import _instances

import spectral_toolkit as st
from spectral_toolkit._views.widget import Explorer, State
from spectral_toolkit.errors import SpectralToolkitError


async def _settled(explorer: Explorer) -> None:
    for _ in range(500):
        await asyncio.sleep(0.01)
        if not explorer.is_busy:
            break


def test_while_it_computes_the_picture_is_dimmed_and_never_wrong(comms: type[KeepingComm]) -> None:
    async def play() -> None:
        explorer = Explorer(capture_of(), device="cpu")
        session = explorer._session
        go = threading.Event()
        real = session._solved

        def slow(question, check):
            while not go.is_set():
                check()
            return real(question, check)

        session._solved = slow  # pyright: ignore[reportAttributeAccessIssue]
        go.set()
        explorer.set(threshold=0.1)
        await _settled(explorer)
        assert not explorer._controls.lowest.disabled
        go.clear()
        before = seen(explorer)
        explorer.set(affinity="kk")
        assert explorer.is_busy
        for part in (explorer._stage, explorer._controls.cut_cost):
            assert "st-stale" in part._dom_classes
        assert explorer._controls.lowest.disabled
        press(explorer, "Lowest cut")
        assert explorer.state.threshold == 0.1, "the lowest of an answer that is gone"
        assert "st-on" in explorer._busy_row._dom_classes
        with pytest.raises(SpectralToolkitError, match="is not ready yet"):
            _ = explorer.eigenvectors
        explorer.set(opacity=0.4)  # how it looks needs no new answer, so the one that runs goes on
        running = explorer._worker._number
        explorer.set(opacity=0.5)
        assert explorer._worker._number == running
        explorer.set(affinity="qq")
        go.set()
        await _settled(explorer)
        assert explorer.eigenvectors.attrs["affinity"] == "qq"
        assert seen(explorer) != before
        assert "QQ" in explorer._heads.value
        for part in (explorer._stage, explorer._controls.cut_cost):
            assert "st-stale" not in part._dom_classes
        assert "<b>QQ</b>" in explorer._controls.cut_cost.value
        assert "st-on" not in explorer._busy_row._dom_classes
        go.clear()
        explorer.set(affinity="kk")
        press(explorer, "Stop")
        assert not explorer.is_busy
        assert "st-stale" in explorer._stage._dom_classes
        assert "Stopped" in explorer._message.value
        explorer.close()

    asyncio.run(play())


def test_a_dragged_weight_is_followed_by_the_picture(comms: type[KeepingComm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_toolkit._views.widget.explorer.PATIENCE", 30.0)

    async def play() -> None:
        explorer = Explorer(capture_of(), device="cpu")
        pictures = []
        for step in range(4):
            say(explorer, weights={explorer._session.facts.layers[0]: 0.9 - 0.2 * step})
            assert not explorer.is_busy
            assert "st-stale" not in explorer._stage._dom_classes
            pictures.append(seen(explorer))
        assert len(set(pictures)) == 4
        explorer.close()

    asyncio.run(play())


def test_an_error_of_a_computation_is_said_and_the_picture_stays_dimmed(explorer: Explorer) -> None:
    def fail(*_: object) -> None:
        raise SpectralToolkitError("It <b>cannot</b> be done.")

    real = explorer._session._solved
    explorer._session._solved = fail  # pyright: ignore[reportAttributeAccessIssue]
    explorer.set(affinity="kk", n_eigenvectors=9)
    explorer._session._solved = real  # pyright: ignore[reportAttributeAccessIssue]
    assert "It &lt;b&gt;cannot&lt;/b&gt; be done." in explorer._message.value
    assert "st-stale" in explorer._stage._dom_classes
    explorer.set(affinity="qk")
    assert explorer._message.value == ""
    assert "st-stale" not in explorer._stage._dom_classes


def test_closing_frees_widgets_comms_threads_and_memory(comms: type[KeepingComm]) -> None:
    before, open_before = set(_instances), set(comms.open_comms)

    async def play() -> list[Any]:
        explorer = Explorer(capture_of(), device="cpu")
        for view in ("grid", "spectrum", "layers", "norms", "component"):
            explorer.set(view=view, patch=(1, 2))
        explorer.set(affinity="kk")
        while explorer.is_busy:
            await asyncio.sleep(0.01)
        explorer._loader._buttons[1].click()
        session = explorer._session
        kept: list[Any] = [
            weakref.ref(one) for one in (explorer, session, session.activations, explorer._pictures.figures[0])
        ]
        kept.append(weakref.ref(explorer._pictures.widget._document))
        kept.append(weakref.ref(next(iter(session._graphs.values()))))
        explorer.close()
        explorer.close()
        return kept

    kept = asyncio.run(play())
    gc.collect()
    assert set(_instances) <= before
    assert comms.open_comms == open_before
    assert "spectral_toolkit explorer" not in [thread.name for thread in threading.enumerate()]
    assert [one() for one in kept] == [None] * len(kept)


def test_a_model_is_as_it_was(comms: type[KeepingComm]) -> None:
    model = st.load_model("scenes")
    hooks = model.user_hooks
    explorer = Explorer(model, st.scenes.sample(2, seed=0).pixels, progress=False)
    assert model.user_hooks == hooks
    assert explorer.state == replace(State(), weights=dict.fromkeys(model.layers, 1.0))
    reference = weakref.ref(model)
    del model
    explorer.close()
    gc.collect()
    assert reference() is None  # it was kept for the view that runs it again
