"""BokehJS for the page, from the installed package: asked for by the page, never kept in the notebook.

A figure's view fails if BokehJS is not there when it is made, and BokehJS comes from a CDN unless told otherwise. So
the explorer first shows a few lines of script inside an Output widget. They run in the page, look for BokehJS, and
press one of two hidden buttons: ``need``, on which Python puts the script itself into the same Output widget, or
``ready``, on which Python shows the figures and takes the script away again. Outputs of a widget are no outputs of the
cell, so the saved notebook holds nothing of this; and a page without a reader (nbconvert, papermill) is never sent it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from ..bokehjs import IS_WHOLE, load_script
from .live import LiveFigure

_PRESS = """
  const press = (which) => {
    const button = document.querySelector("." + name + "-" + which + ", ." + name + "-" + which + " button");
    if (!button) return false;
    button.click();
    return true;
  };
"""

_ASK = """<script>(() => {
  const name = "%(name)s";%(press)s
  let tries = 0;
  const ask = () => {
    const whole = %(whole)s;
    if (!press(whole(window.Bokeh) ? "ready" : "need") && tries++ < 600) setTimeout(ask, 50);
  };
  ask();
})();</script>"""

_TELL = """const name = "%(name)s";%(press)s
  press("ready");"""


class Loader(widgets.VBox):
    """Sees to it that BokehJS is in the page, then calls ``on_ready``; again for every page that opens the widget."""

    def __init__(self, name: str, on_ready: Callable[[], None]) -> None:
        self._words = {"name": name, "press": _PRESS, "whole": IS_WHOLE}
        self._on_ready = on_ready
        self._output = _Asking(_ASK % self._words)
        self._buttons = []
        for which, heard in (("need", self._provide), ("ready", self._begin)):
            button = widgets.Button(description=which, layout=widgets.Layout(display="none"))
            button.add_class(f"{name}-{which}")
            button.on_click(heard)
            self._buttons.append(button)
        super().__init__(
            [self._output, *self._buttons], layout=widgets.Layout(height="0px", overflow="hidden", margin="0")
        )

    def run(self, script: str) -> None:
        """Run a script in the page that is open; the same one a second time, too."""
        self._show("")
        self._show(f"<script>{script}</script>")

    def _provide(self, _button: object) -> None:
        self._show(f"<script>{load_script(_TELL % self._words)}</script>")

    def _begin(self, _button: object) -> None:
        self._show("")
        self._on_ready()

    def _show(self, markup: str) -> None:
        self._output.outputs = _outputs(markup)


class _Asking(widgets.Output):
    """An Output that asks anew in every page that opens it, whatever was shown in it meanwhile."""

    def __init__(self, question: str) -> None:
        self._question = _outputs(question)
        super().__init__(outputs=self._question)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        state = super().get_state(key=key, drop_defaults=drop_defaults)
        return {**state, "outputs": self._question} if key is None else state


class Stage(widgets.VBox):
    """Holds the figures; a page that opens it gets them when it is ready for them."""

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Without children where everything is asked for, which only a page does that has just been opened."""
        state = super().get_state(key=key, drop_defaults=drop_defaults)
        return {**state, "children": []} if key is None else state

    def fill(self, figures: Sequence[LiveFigure]) -> None:
        """Put the figures in, or send them again to a page that has not got them yet."""
        for figure in figures:
            if figure not in self.children:
                figure.renew()
        if self.children == tuple(figures):
            self.send_state("children")
        else:
            self.children = tuple(figures)


def _outputs(markup: str) -> tuple[dict[str, Any], ...]:
    return ({"output_type": "display_data", "data": {"text/html": markup}, "metadata": {}},) if markup else ()
