"""One browser a module and one Jupyter a session: starting them takes longer than most tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, sync_playwright
from real_jupyter import Jupyter, launch, serving
from watched_page import Watched

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of an installed Chromium; without one the test is skipped, or fails where browser tests are required."""
    for name in _CHROMIUM_NAMES:
        if path := shutil.which(name):
            return path
    message = "no Chromium is installed: get one with 'apt-get install chromium' or your system's package manager"
    if os.environ.get("SPECTRAL_TOOLKIT_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    """A headless Playwright browser on the installed Chromium that reaches no network of its own accord.

    One a module, not one a session: while Playwright runs, no other event loop can run in this thread, and tests of
    other modules need one.
    """
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium_path)
        yield browser
        browser.close()


@pytest.fixture
def chromium(browser: Browser) -> Iterator[Browser]:
    """The browser of the module; pages and contexts that the test leaves open are closed."""
    before: list[BrowserContext] = list(browser.contexts)
    yield browser
    for context in browser.contexts:
        if context not in before:
            context.close()


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """A page that must ask for nothing and complain of nothing."""
    watched = Watched(chromium.new_context(viewport={"width": 1280, "height": 900}).new_page())
    yield watched
    watched.assert_quiet()


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A running JupyterLab, whose folder tests write notebooks of their own names to."""
    with serving(tmp_path_factory.mktemp("jupyter")) as served:
        yield served
