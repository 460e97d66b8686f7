"""Gives HoloViews' figures all they need in a notebook from the installed package, without a network.

HoloViews shows a figure in a notebook through Panel, which links to four style sheets on its own server even where
BokehJS is inlined. Without a network the figure appears, but each link is an error on the page's console; with one,
the server learns that the notebook was opened. The sheets are part of the installed package, so they are written into
the output in place of the links.

A figure makes sure that its page has BokehJS (`bokeh_sent`). Where BokehJS is missing all the same, as in a page that
was reopened and in which no notebook cell has been run yet, the figure says so instead of staying empty.

Our own figures have a still image beside them, which scripts hide: it is seen where no scripts run, as in a notebook
that somebody else made and that is not trusted yet, on a site that shows notebooks, or in print.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from pathlib import Path

import holoviews as hv
from holoviews.core import Dimensioned
from holoviews.plotting.util import initialize_dynamic

from .bokeh_sent import send_where_missing
from .bokehjs import IS_WHOLE
from .fitting import fitting_script, is_fitting
from .still_picture import noting_figures, still_png

_MISSING = (
    "BokehJS is not in this page: run this notebook cell again. If that is not enough, run "
    "import spectral_toolkit; spectral_toolkit.extension() in a notebook cell, and then run the cell again."
)
_STILL = "A still image of the figure. For the figure itself, run the cells above this one, and then this cell."
_PATIENCE = 6000  # milliseconds: HoloViews gives up after five seconds


@cache
def _sheet(below: str) -> str:
    """A style sheet of the installed Panel as a data URI; empty if this version has no sheet of that name."""
    import panel

    path = Path(panel.__file__).parent / "dist" / below
    content = path.read_bytes() if path.is_file() else b""
    return "data:text/css;base64," + base64.b64encode(content).decode()


def with_local_styles(text: str) -> str:
    """Put the installed style sheets in place of links to those on Panel's server."""
    from panel.io.resources import CDN_DIST

    links = re.compile(re.escape(CDN_DIST) + r"([\w/.-]+\.css)(\?v=[\w.]+)?")
    return links.sub(lambda link: _sheet(link[1]), text)


def with_still(text: str, png: str) -> str:
    """Put a still image, as base64, before a figure, for pages that run no scripts or in which BokehJS is missing."""
    root = _root(text)
    if root is None:
        return text
    picture = f'<img style="max-width:100%" alt="{_STILL}" src="data:image/png;base64,{png}">'
    hide = f"(() => {{ const still = {_still_of(root)}; if (still) still.style.display = 'none'; }})();"
    return _with_script(f'<div id="{root}-still">{picture}<p>{_STILL}</p></div>{text}', hide)


def _root(text: str) -> str | None:
    """The id of the element that holds a figure."""
    found = re.search(r'<div id="([\w-]+)" data-root-id', text)
    return found and found[1]


def _still_of(root: str) -> str:
    return f"document.getElementById({json.dumps(root + '-still')})"


def with_word_on_bokeh(text: str) -> str:
    """Let a figure's element say what to do if BokehJS is still missing when HoloViews stops waiting for it."""
    root = _root(text)
    if root is None:
        return text
    script = f"""
setTimeout(() => {{
  const place = document.getElementById({json.dumps(root)}), still = {_still_of(root)};
  const there = [window.Bokeh, ...(window.Bokeh?.versions?.values() ?? [])].some({IS_WHOLE});
  if (place && !there) place.textContent = {json.dumps(_MISSING)};
  if (still && !there) still.style.display = "";
}}, {_PATIENCE});
"""
    return _with_script(text, script)


def with_fitting(text: str) -> str:
    """Let a figure fit its notebook cell; see `fitting`."""
    root = re.search(r'data-root-id="([\w-]+)"', text)
    return text if root is None else _with_script(text, fitting_script(root[1]))


def _with_script(text: str, script: str) -> str:
    before, end, after = text.rpartition("</script>")
    return before + script + end + after if end else text


def use_local_styles() -> None:
    """Let HoloViews' Bokeh renderer write all this into what it shows in a notebook; once is enough."""
    renderer = hv.Store.renderers["bokeh"]
    kind = type(renderer)
    if getattr(kind, "has_local_styles", False):
        return

    class LocalStyles(kind):
        has_local_styles = True

        def components(
            self, obj: object, fmt: str | None = None, comm: bool = True, **options: object
        ) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
            send_where_missing()
            # Beside a figure that fills its notebook cell there is no room for sliders.
            if isinstance(obj, Dimensioned):
                initialize_dynamic(obj)  # what it will draw is not known in advance
            fitting = isinstance(obj, Dimensioned) and is_fitting(obj)
            drawing = self.instance(widget_location="top_left") if fitting and not self.widget_location else self
            with noting_figures() as figures:
                data, metadata = kind.components(drawing, obj, fmt, comm, **options)
            shown: dict[str, str] = dict(data or {})
            still = still_png(figures, getattr(obj, "_max_cols", 1))
            for mime, content in shown.items():
                if isinstance(content, str):
                    text = with_word_on_bokeh(with_local_styles(content))
                    text = with_fitting(text) if fitting else text
                    shown[mime] = with_still(text, still) if still and mime == "text/html" else text
            if still:
                shown["image/png"] = still
            return shown, metadata

    LocalStyles.__name__ = kind.__name__
    settings = {name: value for name, value in renderer.param.values().items() if name != "name"}
    hv.Store.renderers["bokeh"] = LocalStyles.instance(**settings)
