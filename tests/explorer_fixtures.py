"""A small capture to explore, comms that keep what is sent, and ways to look at what is shown."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comm
import ipywidgets as widgets
import numpy as np
import pytest
import xarray as xr
from bokeh.events import Tap
from comm.base_comm import BaseComm
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._views.widget import Explorer
from spectral_toolkit._views.widget.tiles import TileFigure

GRID = (6, 8)


class KeepingComm(BaseComm):
    """A comm without a front end that remembers its messages."""

    sent: list[tuple[str, str, dict[str, Any], int]]
    open_comms: set[str] = set()  # noqa: RUF012, one for all on purpose

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
    ) -> None:
        KeepingComm.everything.append((self.comm_id, msg_type, data or {}, len(buffers or [])))
        if msg_type == "comm_open":
            KeepingComm.open_comms.add(self.comm_id)
        if msg_type == "comm_close":
            KeepingComm.open_comms.discard(self.comm_id)

    everything: list[tuple[str, str, dict[str, Any], int]] = []  # noqa: RUF012


@contextmanager
def kept_comms() -> Iterator[type[KeepingComm]]:
    """Every widget made inside talks to `KeepingComm`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm, "create_comm", KeepingComm)
        yield KeepingComm


def capture_of(images: int = 3, layers: int = 4, grid: tuple[int, int] = GRID, seed: int = 0) -> xr.DataTree:
    """Activations with pictures, no two alike; the last layer is coarser."""
    coarse = (grid[0] // 2, grid[1] // 2)
    tree = make_tree([grid] * (layers - 1) + [coarse], images=images, channels=8, seed=seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (images, grid[0] * 4, grid[1] * 4, 3), dtype=np.uint8)
    names = [f"picture-{place}" for place in range(images)]
    root = xr.Dataset({"pixels": (("image", "y_px", "x_px", "rgb"), pixels)}, {"image": names})
    return xr.DataTree(root, children=dict(tree.children.items()))


def press(explorer: Explorer, name: str) -> None:
    """Click the one button of this name."""
    (button,) = [one for one in buttons(explorer) if name in (one.description, one.tooltip)]
    button.click()


def buttons(box: widgets.Box) -> list[widgets.Button]:
    """All buttons inside."""
    found = []
    for child in box.children:
        found += buttons(child) if isinstance(child, widgets.Box) else []
        found += [child] if isinstance(child, widgets.Button) else []
    return found


def say(explorer: Explorer, **what: Any) -> None:
    """Say something as the script of a page does, and show that it has been heard."""
    channel = explorer._controls.channel
    number = channel._last.get("test", 0) + 1
    channel._said.value = json.dumps({"page": "test", "said": [[number, what]]})
    assert told(explorer)["heard"]["test"] == number


def told(explorer: Explorer) -> dict[str, Any]:
    """What the script of a page was told last."""
    board = explorer._controls.channel._board.value
    return json.loads(html.unescape(board.split('data-told="')[1].split('"')[0]))


def spectrum(explorer: Explorer) -> Any:
    """The chart of eigenvalues, once it has been shown."""
    return explorer._pictures.charts[st.views.VIEWS["spectrum"]]


def tap(figure: TileFigure, tile: int, row: int, column: int) -> None:
    """Tap a patch of a tile."""
    place = figure.places[tile]
    x = place.left + (column + 0.5) / place.grid[1] * place.width
    y = place.top + (row + 0.5) / place.grid[0] * place.height
    figure.figure._trigger_event(Tap(figure.figure, x=x, y=y))


def seen(explorer: Explorer) -> str:
    """All that a page would show, as one text to compare."""
    words = (explorer._heads, explorer._scales, explorer._legend, explorer._facing)
    parts: list[Any] = [one.value for one in (*words, explorer._row_head, explorer._connected_head)]
    made = [one for one in (explorer._rows, explorer._connected) if one is not None]
    below = [one for one in made if one.widget.layout.display != "none"]
    for figure in [figure for one in (explorer._pictures, *below) for figure in one.figures]:
        if figure.figure.visible:
            parts += _source_of(figure)
    for chart in explorer._pictures.charts.values():
        if chart.widget.layout.display != "none":
            parts += [str(renderer.data_source.data) for renderer in _renderers(chart)]
    parts += [widget.layout.display for widget in explorer._stage.children]
    return json.dumps(parts)


def _renderers(chart: Any) -> list[Any]:
    return chart.figure.renderers


def _source_of(figure: TileFigure) -> list[str]:
    return [
        str([np.asarray(value).tolist() for column in dict(source.data).values() for value in column])
        for source in (figure._pictures, figure._colours, figure._frames, figure._captions)
    ]
