"""Style sheets of HoloViews' figures from the installed package: no figure in a notebook asks the network for one.

HoloViews shows a figure in a notebook through Panel, which links to four style sheets on its own server even where
BokehJS is inlined. Without a network the figure appears, but every one of them is an error on the page's console; with
one, somebody learns that the notebook was opened. The sheets are part of the installed package, so they are written
into the output where the links were.
"""

from __future__ import annotations

import base64
import re
from functools import cache
from pathlib import Path
from typing import Any

import holoviews as hv


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


def use_local_styles() -> None:
    """Let HoloViews' Bokeh renderer write style sheets into what it shows in a notebook; once is enough."""
    renderer = hv.Store.renderers["bokeh"]
    kind = type(renderer)
    if getattr(kind, "has_local_styles", False):
        return

    class LocalStyles(kind):
        has_local_styles = True

        def components(self, *arguments: Any, **options: Any) -> Any:
            data, metadata = super().components(*arguments, **options)
            shown: dict[str, Any] = dict(data or {})
            for mime, content in shown.items():
                if isinstance(content, str):
                    shown[mime] = with_local_styles(content)
            return shown, metadata

    LocalStyles.__name__ = kind.__name__
    settings = {name: value for name, value in renderer.param.values().items() if name != "name"}
    hv.Store.renderers["bokeh"] = LocalStyles.instance(**settings)
