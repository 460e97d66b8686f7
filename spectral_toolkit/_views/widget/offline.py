"""BokehJS for the page, from the installed package: the page asks for it, and the notebook never keeps it.

A figure's view fails if BokehJS is not in the page when the view is made, and by default BokehJS comes from a CDN. So
the explorer first shows a few lines of script inside an Output widget. They run in the page, look for BokehJS, and
press one of two hidden buttons. After ``need``, Python puts the script itself into the same Output widget; after
``ready``, Python shows the figures and removes the script again. A widget's outputs are not outputs of the notebook
cell, so the saved notebook holds nothing of this, and a page without a reader (nbconvert, papermill) is never sent it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files

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
  (() => { %(page)s })();
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
    """Makes sure that BokehJS is in the page, then calls ``on_ready``, in every page that opens the widget."""

    def __init__(self, name: str, on_ready: Callable[[], None]) -> None:
        page = files("spectral_toolkit._views.widget").joinpath("page.js").read_text(encoding="utf-8")
        self._words = {"name": name, "press": _PRESS, "whole": IS_WHOLE, "page": page.replace("NAME", name)}
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
        """Run a script in the open page, even if it is the same as before."""
        self._show("")
        self._show(f"<script>{script}</script>")

    def copy(self, text: str) -> None:
        """Put a text on the clipboard, if the browser allows it."""
        safe = json.dumps(text).replace("</", "<\\/")  # harmless inside a script element
        self.run(f"navigator.clipboard && navigator.clipboard.writeText({safe})")

    def _provide(self, _button: object) -> None:
        self._show(f"<script>{load_script(_TELL % self._words)}</script>")

    def _begin(self, _button: object) -> None:
        self._show("")
        self._on_ready()

    def _show(self, markup: str) -> None:
        self._output.outputs = _outputs(markup)


class _Asking(widgets.Output):
    """An Output that asks again in every page that opens it, whatever was shown in it meanwhile."""

    def __init__(self, question: str) -> None:
        self._question = _outputs(question)
        super().__init__(outputs=self._question)

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict[str, object]:
        state = super().get_state(key=key, drop_defaults=drop_defaults)
        return {**state, "outputs": self._question} if key is None else state


class Stage(widgets.VBox):
    """Holds the figures; a page that opens it receives them when it is ready for them."""

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict[str, object]:
        """Leave out the children where everything is asked for: only a page that has just been opened does so."""
        state = super().get_state(key=key, drop_defaults=drop_defaults)
        return {**state, "children": []} if key is None else state

    def fill(self, figures: Sequence[LiveFigure]) -> None:
        """Put the figures in, or send them again to a page that has not received them yet."""
        for figure in figures:
            if figure not in self.children:
                figure.renew()
        if self.children == tuple(figures):
            self.send_state("children")
        else:
            self.children = tuple(figures)


def _outputs(markup: str) -> tuple[dict[str, object], ...]:
    return ({"output_type": "display_data", "data": {"text/html": markup}, "metadata": {}},) if markup else ()
