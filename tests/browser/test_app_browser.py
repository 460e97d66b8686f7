"""``spectral-toolkit explore`` for real: it starts, asks for its token, draws, and sends nothing to anywhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eigen_fixtures import activations
from playwright.sync_api import Browser
from real_jupyter import complaints
from watched_page import pixels

import spectral_toolkit as st

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running app, which shows a bundle; its token is part of it."""
    folder = tmp_path_factory.mktemp("app")
    st.save_bundle(folder / "small.zip", activations())
    home = folder / "home"
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "spectral_toolkit", "explore", "--bundle", "small.zip", "--no-browser"]
    with (folder / "errors.log").open("w") as errors:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Shells start background jobs with SIGINT ignored, and children inherit that: Ctrl-C would not arrive.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert server.stdout
            line = server.stdout.readline()
            address = re.fullmatch(r"The explorer is at (http://127\.0\.0\.1:\d+/\?token=\w{48}) \(.*\)\n", line)
            assert address, line + (folder / "errors.log").read_text()
            yield address[1]
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
    # The folder with the notebook and the token is gone.
    assert list(folder.glob("spectral-toolkit-*")) == []


def status(url: str) -> tuple[int, str]:
    """Code of an answer, and where one ends up."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.url
    except urllib.error.HTTPError as error:
        return error.code, error.url


def test_the_explorer_as_an_app(app: str, chromium: Browser) -> None:
    base, _ = app.split("/?token=")
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    messages: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(app, timeout=240_000)
    page.get_by_role("button", name="Save bundle").wait_for(timeout=120_000)
    figure = page.locator(".bk-Figure").first
    figure.wait_for(timeout=120_000)
    page.wait_for_timeout(1500)
    # Something is drawn: the eigenvector's colours and the picture's, and not one colour all over.
    assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 20
    assert page.get_by_text("Loading weights").count() == 0
    own = (base, "ws" + base.removeprefix("http"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert complaints(messages) == []


def test_nobody_comes_in_without_the_token(app: str) -> None:
    base, token = app.split("/?token=")
    for path in ("/", "/?token=wrong", "/voila/render/explorer.ipynb"):
        code, url = status(base + path)
        assert code in (403, 404) or "/login" in url, path
    for path in (
        f"/api/kernels/{'0' * 8}-0000-0000-0000-{'0' * 12}",
        "/voila/files/explorer.ipynb",
        "/voila/files/open.html",
    ):
        assert status(base + path)[0] in (403, 404), path
        assert status(f"{base}{path}?token={token}")[0] in (403, 404), path
