"""What HoloViews' figures need in a notebook, from the installed package: no figure asks the network for anything.

HoloViews shows a figure in a notebook through Panel, which links to four style sheets on its own server even where
BokehJS is inlined. Without a network the figure appears, but every one of them is an error on the page's console; with
one, somebody learns that the notebook was opened. The sheets are part of the installed package, so they are written
into the output where the links were.

A figure sees to it that its page has BokehJS (`bokeh_sent`). Where it has not come all the same, as in a page that was
opened again and in which no cell has been run yet, the figure says so, where it would stay empty.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import holoviews as hv
from holoviews.core import Dimensioned

from .bokeh_sent import send_where_missing
from .bokehjs import IS_WHOLE
from .fitting import fitting_script, is_fitting

_MISSING = (
    "BokehJS is not in this page: run this cell again. If that is not enough, run "
    "import spectral_toolkit; spectral_toolkit.extension() in a cell, and then this cell again."
)
_PATIENCE = 6000  # milliseconds: HoloViews gives up after five seconds


@cache
def _sheet(below: str) -> str:
    """A style sheet of the installed Panel as a data address; empty if this version has none of that name."""
    import panel

    path = Path(panel.__file__).parent / "dist" / below
    content = path.read_bytes() if path.is_file() else b""
    return "data:text/css;base64," + base64.b64encode(content).decode()


def with_local_styles(text: str) -> str:
    """Put the installed style sheets in place of links to those on Panel's server."""
    from panel.io.resources import CDN_DIST

    links = re.compile(re.escape(CDN_DIST) + r"([\w/.-]+\.css)(\?v=[\w.]+)?")
    return links.sub(lambda link: _sheet(link[1]), text)


def with_word_on_bokeh(text: str) -> str:
    """Let a figure's place say what to do where BokehJS has not come after the seconds that HoloViews waits for it."""
    root = re.search(r'<div id="([\w-]+)" data-root-id', text)
    if root is None:
        return text
    script = f"""
setTimeout(() => {{
  const place = document.getElementById({json.dumps(root[1])});
  const there = [window.Bokeh, ...(window.Bokeh?.versions?.values() ?? [])].some({IS_WHOLE});
  if (place && !there) place.textContent = {json.dumps(_MISSING)};
}}, {_PATIENCE});
"""
    return _with_script(text, script)


def with_fitting(text: str) -> str:
    """Let a figure that fits its cell do so, see `fitting`."""
    root = re.search(r'data-root-id="([\w-]+)"', text)
    return text if root is None else _with_script(text, fitting_script(root[1]))


def _with_script(text: str, script: str) -> str:
    before, end, after = text.rpartition("</script>")
    return before + script + end + after if end else text


def use_local_styles() -> None:
    """Let HoloViews' Bokeh renderer write all that into what it shows in a notebook; once is enough."""
    renderer = hv.Store.renderers["bokeh"]
    kind = type(renderer)
    if getattr(kind, "has_local_styles", False):
        return

    class LocalStyles(kind):
        has_local_styles = True

        def components(self, view: Any, *arguments: Any, **options: Any) -> Any:
            send_where_missing()
            # Beside a figure that fills its cell there is no room for sliders.
            fitting = isinstance(view, Dimensioned) and is_fitting(view)
            drawing = self.instance(widget_location="top_left") if fitting and not self.widget_location else self
            data, metadata = kind.components(drawing, view, *arguments, **options)
            shown: dict[str, Any] = dict(data or {})
            for mime, content in shown.items():
                if isinstance(content, str):
                    text = with_word_on_bokeh(with_local_styles(content))
                    shown[mime] = with_fitting(text) if fitting else text
            return shown, metadata

    LocalStyles.__name__ = kind.__name__
    settings = {name: value for name, value in renderer.param.values().items() if name != "name"}
    hv.Store.renderers["bokeh"] = LocalStyles.instance(**settings)
