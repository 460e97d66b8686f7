"""What the parts of an explorer ask of the whole, which is `Explorer`, and what it is made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import ipywidgets as widgets
import xarray as xr

from ..._explorer.history import History
from ..._explorer.session import Session, ShownState
from ..._explorer.source import Source
from ..._explorer.state import State
from ..._explorer.worker import Worker
from .figures import ExplorerFigures
from .offline import Loader, Stage


class ExplorerSettings(TypedDict, total=False):
    """Keyword arguments of `Explorer` that restore and bundles take, too."""

    state: State | Mapping[str, object] | None
    scope: str | None
    labels: object
    categories: Sequence[str] | None
    seed: int
    device: str
    progress: bool
    synchronous: bool


class Held:
    """The session, its state and what is shown of it, for classes from which the explorer is put together."""

    _session: Session
    _state: State
    _answer: ShownState | None
    _pictures: ExplorerFigures
    _chosen_stage: Stage
    _loader: Loader
    _page_maker: Worker[Callable[[], str], str]
    _adder: Worker[Callable[[], Source], Source]
    _history: History
    _path: widgets.Text

    if TYPE_CHECKING:

        @property
        def activations(self) -> xr.DataTree: ...
        def set(self, **changes: object) -> None: ...
        def code(self) -> str: ...
        def save(self, path: str | os.PathLike[str]) -> Path: ...
        def _add_button(self) -> widgets.Button: ...
        def _tell(self, text: str, kind: str = "ok") -> None: ...
        def _go_to(self, state: State | None) -> None: ...
        def save_figure(self, path: str) -> str: ...
        def _start(self, session: Session, source: str | None, state: State, bundle: str | None = None) -> None: ...
        def _end(self) -> None: ...
        def _start_anew(
            self, session: Session, source: str | None, state: State, bundle: str | None = None
        ) -> None: ...
        def _on_change(self, **changes: object) -> None: ...
        def _require_current(self) -> None: ...
