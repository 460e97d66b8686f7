"""What a page says: in order, each once, whatever comes late."""

from __future__ import annotations

import json
from typing import Any

from explorer_fixtures import press, say, told

from spectral_toolkit._views.widget import Explorer

ALL = dict.fromkeys(["block.0", "block.1", "block.2", "block.3"], 1.0)


def sent(explorer: Explorer, page: str, *said: tuple[int, dict[str, Any]]) -> None:
    explorer._controls.channel._said.value = json.dumps({"page": page, "said": said})


def test_a_weight_that_comes_after_a_preset_does_not_undo_it(explorer: Explorer) -> None:
    """The page sends its whole list again until it has been heard, so that what is late is still in its place."""
    sent(explorer, "late", (1, {"weights": {"block.0": 0.5}}))
    late = (2, {"weights": {"block.0": 0.25}})
    sent(explorer, "late", late, (3, {"preset": "all"}))
    assert explorer.state.weights == ALL
    sent(explorer, "late", late)
    sent(explorer, "late", late, (3, {"preset": "all"}), (4, {"weights": {"block.3": 0}}))
    assert explorer.state.weights == {"block.0": 1.0, "block.1": 1.0, "block.2": 1.0}
    assert told(explorer)["heard"]["late"] == 4


def test_every_open_page_is_heard(explorer: Explorer) -> None:
    sent(explorer, "one", (7, {"weights": {"block.0": 0.5}}))
    sent(explorer, "two", (1, {"weights": {"block.1": 0.5}}))
    assert explorer.state.weights == {**ALL, "block.0": 0.5, "block.1": 0.5}


def test_a_drag_sets_many_layers_at_once(explorer: Explorer) -> None:
    say(explorer, weights={"block.0": 0, "block.1": 0, "block.2": 0.25})
    assert explorer.state.weights == {"block.2": 0.25, "block.3": 1.0}


def test_a_preset_in_force_is_marked(explorer: Explorer) -> None:
    def marked() -> list[str]:
        return [name for name, one in explorer._controls.presets.items() if "mod-active" in one._dom_classes]

    assert marked() == ["all"]
    press(explorer, "late")
    assert marked() == ["late"]
    say(explorer, weights={"block.3": 0.5})
    assert marked() == []


def test_what_is_acknowledged_is_already_shown(explorer: Explorer) -> None:
    """Where a page waits for nothing of its own, it shows the weights that it is told: these must not be older."""
    seen: list[tuple[int, float]] = []
    explorer._controls.channel._board.observe(
        lambda _: seen.append((told(explorer)["heard"].get("quick", 0), told(explorer)["weights"]["block.0"])), "value"
    )
    sent(explorer, "quick", (1, {"weights": {"block.0": 0.5}}), (2, {"weights": {"block.0": 0.25}}))
    assert seen[-1] == (2, 0.25)
    assert all(weight == 0.25 for number, weight in seen if number == 2)
