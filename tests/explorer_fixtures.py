"""A small capture to explore, comms that keep what is sent, and ways to look at what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comm
import ipywidgets as widgets
import numpy as np
import pytest
import xarray as xr
from comm.base_comm import BaseComm
from tree_factory import make_tree

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


def seen(explorer: Explorer) -> str:
    """All that a page would show, as one text to compare."""
    parts: list[Any] = [explorer._legend.value, explorer._trust.value, explorer._row_legend.value]
    for figure in explorer._pictures.figures:
        if figure.root.visible:
            parts += [figure.title.text, *(_source_of(figure))]
    if explorer._rows is not None and explorer._rows.widget.layout.display != "none":
        parts += _source_of(explorer._rows.figure)
    for chart in explorer._pictures.charts.values():
        if chart.widget.layout.display != "none":
            parts += [str(renderer.data_source.data) for renderer in _renderers(chart)]
    parts += [widget.layout.display for widget in explorer._stage.children]
    return json.dumps(parts)


def _renderers(chart: Any) -> list[Any]:
    return chart.figure.renderers


def _source_of(figure: TileFigure) -> list[str]:
    return [
        str([np.asarray(value).tolist() for column in source.data.values() for value in column])
        for source in (figure._pictures, figure._colours, figure._frames, figure._captions)
    ]
