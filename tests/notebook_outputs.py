"""What outputs of an executed notebook would fetch from elsewhere when they are shown."""

from __future__ import annotations

import re
from typing import Any

_RESOURCE = re.compile(r"https?:(?://|\\/\\/)[^\s\"'<>]+?\.(?:css|m?js|woff2?|png|jpg|svg)\b")
_LIBRARY = ("application/javascript", "application/vnd.holoviews_load.v0+json")
"""BokehJS itself, which names servers in code that only other figures than ours run."""


def remote_resources(notebook: Any) -> set[str]:
    """Addresses of style sheets, scripts and pictures on servers, in any output but BokehJS."""
    return {
        address
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind, content in output.get("data", {}).items()
        if kind not in _LIBRARY
        for address in _RESOURCE.findall(str(content))
    }
