"""A Bokeh figure in a widget that stays up to date: changes go out as one message, and each new view starts fresh."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bokeh.document.events import ColumnDataChangedEvent, DocumentPatchedEvent, ModelChangedEvent
from bokeh.models import LayoutDOM
from bokeh.protocol import Protocol
from jupyter_bokeh import BokehModel


class LiveFigure(BokehModel):
    """`jupyter_bokeh.BokehModel`, which draws every new view from one bundle, kept up to date.

    Otherwise a reloaded page, or a second view, would show the figure as it was first made, and changes between the
    widget's display and its first view would be lost. BokehJS reports when a view has been drawn; the bundle is then
    made again if anything has changed since.
    """

    def __init__(self, model: LayoutDOM, **settings: object) -> None:
        self._waiting: list[DocumentPatchedEvent] | None = None
        self._outdated = False
        super().__init__(model, **settings)
        assert self._document is not None
        self._document.on_event("document_ready", self._on_ready)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all changes made inside as one message, so that a half-changed figure is never seen."""
        if self._waiting is not None:
            yield
            return
        self._waiting = []
        try:
            yield
        finally:
            events, self._waiting = self._waiting, None
            if events:
                self._send_patch(_newest(events))

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict[str, object]:
        """Give a front end that asks for everything the figure as it is now."""
        if key is None and self._outdated and self._document is not None:
            self._outdated = False
            with self.hold_trait_notifications():
                self._trait_values["render_bundle"] = self._model_to_traits(self._model)
        return super().get_state(key=key, drop_defaults=drop_defaults)

    def close(self) -> None:
        """Close the comm, and free the figure."""
        if sys.is_finalizing():
            return
        document = self._document
        super().close()
        if document is not None:
            for model in document.models:
                model._event_callbacks.clear()
            document.clear()

    def _document_patched(self, event: DocumentPatchedEvent) -> None:
        self._outdated = True
        if event.setter is self:
            return
        if self._waiting is not None:
            self._waiting.append(event)
        else:
            self._send_patch([event])

    def _send_patch(self, events: list[DocumentPatchedEvent]) -> None:
        message = Protocol().create("PATCH-DOC", events)
        for part in (message.header_json, message.metadata_json, message.content_json):
            self.send({"msg": "patch", "payload": part})
        for buffer in message.buffers:
            self.send({"msg": "patch", "payload": json.dumps(buffer.ref)})
            self.send({"msg": "patch"}, [buffer.to_bytes()])

    def renew(self) -> None:
        """Make the bundle again if the figure has changed since, before its first view or for a view that came late."""
        if self._outdated:
            self._outdated = False
            self.render_bundle = self._model_to_traits(self._model)

    def _on_ready(self, _event: object) -> None:
        self.renew()


def _newest(events: list[DocumentPatchedEvent]) -> list[DocumentPatchedEvent]:
    """Keep the last of several changes of one property."""
    kept: dict[object, DocumentPatchedEvent] = {}
    for event in events:
        key: object = id(event)
        if isinstance(event, ModelChangedEvent | ColumnDataChangedEvent):
            key = (event.model.id, event.attr)
        kept.pop(key, None)
        kept[key] = event
    return list(kept.values())
