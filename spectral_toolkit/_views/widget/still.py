"""The explorer's view as a still image in the output of its notebook cell, shown where there is no kernel.

A front end that cannot make the widget says so in a few words, or shows its text. The still image is an output of its
own, before the widget; the widget's style hides it, so that it is seen only where there is no widget. It follows the
view: at once while a notebook cell runs, and a moment after the last change by hand.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

from PIL import Image

from ..bokeh_sent import current_run
from ..still_picture import small_png

_REST = 1.0  # seconds without a change before the still image follows
_WORDS = "A still image of the explorer. For the explorer itself, run the cells above this one, and then this cell."


class Still:
    """The still image of one explorer, in the notebook cell that displayed it last."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_shown = False
        self._waiting: asyncio.TimerHandle | None = None

    @property
    def hidden(self) -> str:
        """CSS that hides the still image, for pages that show the widget."""
        return f".{self._name}-still {{ display: none; }}"

    def show(self, draw: Callable[[], Image.Image]) -> None:
        """Display the still image in the running notebook cell."""
        self._is_shown = True
        self._publish(draw, update=False)

    def follow(self, draw: Callable[[], Image.Image]) -> None:
        """Let the still image follow a changed view, where it was displayed."""
        if not self._is_shown:
            return
        self.close()
        if current_run() is not None:
            self._publish(draw, update=True)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # without an event loop nobody can change anything
            return
        self._waiting = loop.call_later(_REST, lambda: self._publish(draw, update=True))

    def close(self) -> None:
        """Leave the still image as it is."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _publish(self, draw: Callable[[], Image.Image], update: bool) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import publish_display_data

        if get_ipython() is None:
            return
        png = base64.b64encode(small_png(draw())).decode("ascii")
        # A page that cannot find the widget says only that in its place, in words without any element.
        after = f".jp-OutputArea-child:has(.{self._name}-still) + .jp-OutputArea-child"
        place = f"{after} > .jp-OutputArea-output:not(:has(*))"
        html = (
            f'<style>{place} {{ display: none; }}</style><div class="{self._name}-still">'
            f'<img style="max-width:100%" alt="{_WORDS}" src="data:image/png;base64,{png}"><p>{_WORDS}</p></div>'
        )
        data = {"text/html": html, "image/png": png, "text/plain": _WORDS}
        publish_display_data(data, transient={"display_id": self._name}, update=update)
