"""What the tests of self-contained pages share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from watched_page import Watched


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """A page that must ask for nothing and complain of nothing."""
    from watched_page import Watched

    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    watched = Watched(context.new_page())
    yield watched
    watched.assert_quiet()
    context.close()
