"""A page in a browser that is watched, and the colours that it must show."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image
from playwright.sync_api import Error, Locator, Page

from spectral_toolkit._render import composite

HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>"

STANDARDS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")


class Watched:
    """A page with everything that it asked for or complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def assert_quiet(self) -> None:
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert [text for text in self.complaints if "GL Driver" not in text] == []


def shot(locator: Locator, seconds: float = 60.0) -> bytes:
    """A picture of an element, as PNG.

    Figures are drawn anew when what they show or the width of their cell changes. Playwright gives up a picture when
    its element is replaced or moved meanwhile, so that it is then taken of what stands there now.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return locator.screenshot(timeout=10_000)
        except Error:
            if time.monotonic() > until:
                raise
            locator.page.wait_for_timeout(200)


def pixels(locator: Locator) -> np.ndarray:
    """Colours of an element as it looks now, of shape (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(shot(locator))).convert("RGB")).astype(int)


def barriers(page: Page, rules: tuple[str, ...] = STANDARDS, within: str | None = None) -> list[tuple[str, list[str]]]:
    """What keeps anybody from reading or reaching a page, by axe: rules, and where they are broken."""
    from axe_playwright_python.sync_playwright import Axe

    # Otherwise axe describes every node that is in order as well, which takes most of its time.
    found = Axe().run(page, context=within, options={"runOnly": list(rules), "resultTypes": ["violations"]})
    return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found.response["violations"]]


def expected(eig: xr.Dataset, image: int, component: int) -> np.ndarray:
    field = eig.eigenvector.isel(image=image).sel(component=component).values
    return composite.colour_field(field, composite.symmetric_limit(field)).astype(int)
