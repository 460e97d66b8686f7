"""Undo, redo and the keys of the explorer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from explorer_fixtures import capture_of, press, say, seen

from spectral_toolkit._explorer.history import MOST, History
from spectral_toolkit._explorer.state import State
from spectral_toolkit._views.widget import Explorer


@pytest.fixture
def fresh(comms) -> Explorer:
    explorer = Explorer(capture_of(), device="cpu")
    ticks = iter(np.arange(0, 10_000, 10.0))
    explorer._history = History(clock=lambda: float(next(ticks)))
    return explorer


def test_everything_is_undone_and_redone(fresh: Explorer) -> None:
    states, pictures = [fresh.state], [seen(fresh)]
    assert fresh._undo.disabled
    for change in (
        {"affinity": "vv"},
        {"weights": {"block.0": 1.0}},
        {"view": "segments", "n_segments": 4},
        {"scope": "dataset"},
        {"patch": (1, 2)},
        {"image": 2},
    ):
        fresh.set(**change)
        states.append(fresh.state)
        pictures.append(seen(fresh))
    for place in range(len(states) - 2, -1, -1):
        press(fresh, "Undo")
        assert (fresh.state, seen(fresh)) == (states[place], pictures[place])
    assert fresh._undo.disabled
    fresh.undo()
    for state, picture in zip(states[1:], pictures[1:], strict=True):
        fresh.redo()
        assert (fresh.state, seen(fresh)) == (state, picture)
    assert fresh._redo.disabled
    say(fresh, go="back")
    fresh.set(component=3)
    fresh.redo()
    assert fresh.state.component == 3, "what was undone is gone after another change"
    fresh.close()


def test_a_drag_is_one_change() -> None:
    now = 0.0
    history, states = History(clock=lambda: now), [State(opacity=step / 10) for step in range(6)]
    for old, new in pairwise(states):
        now += 0.1
        history.add(old, new)
    assert history.back(states[-1]) == states[0]
    now += 5
    history.add(states[0], states[1])
    history.add(states[1], State(component=2))
    assert len(history.before) == 2
    history.add(State(), State())
    assert len(history.before) == 2, "nothing has changed"
    for step in range(2 * MOST):
        now += 5
        history.add(State(component=step + 1), State(component=step + 2))
    assert len(history.before) == MOST


def test_keys_change_the_component_the_image_and_the_view(fresh: Explorer) -> None:
    for said, name, expected in (
        ({"step": ["component", 1]}, "component", 2),
        ({"step": ["component", -1]}, "component", 1),
        ({"step": ["component", -1]}, "component", 1),
        ({"step": ["image", -1]}, "image", 2),
        ({"step": ["image", 1]}, "image", 0),
        ({"view_number": 2}, "view", "grid"),
        ({"view_number": 99}, "view", "grid"),
    ):
        say(fresh, **said)
        assert getattr(fresh.state, name) == expected
    fresh.set(component=fresh.state.n_eigenvectors)
    say(fresh, step=["component", 1])
    assert fresh.state.component == fresh.state.n_eigenvectors
    fresh.close()
