"""A page in a browser that is watched, and the colours that it must show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image
from playwright.sync_api import Locator, Page

from spectral_toolkit._render import composite

HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><script>document.title='taken'</script>"


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


def pixels(locator: Locator) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def expected(eig: xr.Dataset, image: int, component: int) -> np.ndarray:
    field = eig.eigenvector.isel(image=image).sel(component=component).values
    return composite.colour_field(field, composite.symmetric_limit(field)).astype(int)
