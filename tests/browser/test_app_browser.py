"""``spectral-toolkit explore`` for real: it starts, asks for its token, draws, and sends nothing to anywhere."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from eigen_fixtures import activations
from playwright.sync_api import Browser, Page
from real_jupyter import complaints
from watched_page import pixels

import spectral_toolkit as st

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 120
"""Seconds; what is waited for takes some, and other tests run beside this one."""
SOON = """
import sys
from spectral_toolkit.cli import main
from spectral_toolkit.cli.server import pages, voila
voila.TIDY_SECONDS, pages._CLOSED_SECONDS = 0.5, 4.0
sys.exit(main(sys.argv[1:]))
"""
"""The command, but looking for closed pages more often: test_serving_pages.py has a clock of its own for the rest."""


@dataclass
class Running:
    """A running app, which shows a bundle and lets two pages be open at once; its token is part of its address."""

    address: str
    process: int

    @property
    def base(self) -> str:
        return self.address.split("/?token=")[0]

    @property
    def token(self) -> str:
        return self.address.split("/?token=")[1]

    def kernels(self) -> list[int]:
        """Processes of kernels."""
        found = []
        for one in psutil.Process(self.process).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                found += [one.pid] if "ipykernel_launcher" in " ".join(one.cmdline()) else []
        return found

    def wait_for_kernels(self, n: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while len(self.kernels()) != n and time.monotonic() < until:
            time.sleep(0.1)
        assert len(self.kernels()) == n


@pytest.fixture(scope="module")
def app(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
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
    command = [sys.executable, "-c", SOON, "explore", "--bundle", "small.zip", "--no-browser", "--max-pages", "2"]
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
            yield Running(address[1], server.pid)
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


def opened(page: Page, app: Running) -> Page:
    """A page that has come up, connected to its kernel."""
    page.goto(app.address, timeout=240_000)
    page.get_by_role("button", name="Save bundle").wait_for(timeout=240_000)
    return page


def test_the_explorer_as_an_app(app: Running, chromium: Browser) -> None:
    base = app.base
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    messages: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    opened(page, app)
    figure = page.locator(".bk-Figure").first
    figure.wait_for(timeout=120_000)
    # Something is drawn: the eigenvector's colours and the picture's, and not one colour all over.
    until = time.monotonic() + PATIENCE
    while len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) <= 20 and time.monotonic() < until:
        page.wait_for_timeout(200)
    assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 20
    assert page.get_by_text("Loading weights").count() == 0
    own = (base, "ws" + base.removeprefix("http"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert complaints(messages) == []
    page.close()
    app.wait_for_kernels(0, PATIENCE)


def test_the_address_holds_the_state(app: Running, chromium: Browser) -> None:
    page = opened(chromium.new_page(), app)
    page.get_by_role("button", name="Spectrum", exact=True).click()
    page.wait_for_function("location.hash.includes('spectrum')", timeout=120_000)
    link = page.url
    page.close()
    app.wait_for_kernels(0, PATIENCE)
    other = chromium.new_page()
    other.goto(link, timeout=240_000)
    other.locator(".st-explorer").wait_for(timeout=240_000)
    other.locator("button.mod-active", has_text="Spectrum").wait_for(timeout=120_000)
    assert other.url == link
    # A link that was cut off says so, and the explorer goes on as it began.
    cut = chromium.new_page()
    other.close()
    app.wait_for_kernels(0, PATIENCE)
    cut.goto(link[:-8], timeout=240_000)
    cut.get_by_text("which cannot be read").wait_for(timeout=240_000)
    cut.close()
    app.wait_for_kernels(0, PATIENCE)


def test_closed_and_reloaded_pages_leave_no_kernel(app: Running, chromium: Browser, chromium_path: str) -> None:
    first, second = (opened(chromium.new_page(), app) for _ in range(2))
    one_too_many = chromium.new_page()
    answer = one_too_many.goto(app.address)
    assert answer is not None
    assert answer.status == 503
    assert "2 pages of the explorer are open already" in one_too_many.locator("body").inner_text()
    before = set(app.kernels())
    assert len(before) == 2
    first.reload(timeout=240_000)  # at the bound: the page that goes makes room for the one that comes
    first.get_by_role("button", name="Save bundle").wait_for(timeout=240_000)
    app.wait_for_kernels(2, PATIENCE)
    assert len(before & set(app.kernels())) == 1
    first.close(run_before_unload=True)
    app.wait_for_kernels(1, PATIENCE)
    second.evaluate("location.href = 'about:blank'")
    app.wait_for_kernels(0, PATIENCE)
    # A browser that dies says no goodbye, nor does one that goes away while its page is made.
    others = {one.pid for one in psutil.Process().children(recursive=True)}
    doomed = chromium.browser_type.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu"])
    opened(doomed.new_page(), app)
    leaving = doomed.new_page()
    leaving.goto(app.address, wait_until="commit", timeout=240_000)
    app.wait_for_kernels(2, PATIENCE)
    for one in psutil.Process().children(recursive=True):
        if one.pid not in others and "chrom" in one.name():
            one.kill()
    app.wait_for_kernels(0, PATIENCE)


def test_a_page_whose_kernel_is_gone_says_so(app: Running, chromium: Browser) -> None:
    page = opened(chromium.new_page(), app)
    (kernel,) = map(psutil.Process, app.kernels())
    assert page.locator("#st-ended").count() == 0
    identity = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    assert '"ended": null' in page.evaluate(f"fetch('/voila/api/ended/{identity}').then((answer) => answer.text())")
    other = page.evaluate(
        "fetch('/voila/api/ended/00000000-0000-0000-0000-000000000000').then((answer) => answer.text())"
    )
    assert "reload the page" in other
    page.close()
    app.wait_for_kernels(0, PATIENCE)
    kernel.wait(PATIENCE)  # killed and without a command line, it still has its number until the server has seen it end


def test_other_pages_cannot_connect_to_a_kernel(app: Running, chromium: Browser) -> None:
    page = opened(chromium.new_page(), app)
    identity = page.evaluate("JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId")
    cookies = "; ".join(f"{one.get('name')}={one.get('value')}" for one in page.context.cookies())
    host = app.base.removeprefix("http://")
    path = f"/api/kernels/{identity}/channels"
    for origin, expected in ((app.base, 101), ("http://evil.example", 403), ("http://127.0.0.1:1", 403), ("null", 403)):
        for known in ({"Cookie": cookies}, {"Authorization": f"token {app.token}"}):
            assert handshake(host, path, {**known, "Origin": origin}) == expected, (origin, known)
        assert handshake(host, f"{path}?token={app.token}", {"Origin": origin}) == expected
    assert handshake(host, path, {"Origin": app.base}) == 403, "nor without the token"
    for origin in ({}, {"Origin": "http://evil.example"}):
        request = urllib.request.Request(
            f"{app.base}/voila/api/shutdown/{identity}", b"", {"Cookie": cookies, **origin}, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code in (403, 404)
    page.close()
    app.wait_for_kernels(0, PATIENCE)


def handshake(host: str, path: str, headers: dict[str, str]) -> int:
    """The code with which a server answers the beginning of a websocket."""
    name, port = host.split(":")
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += [f"{header}: {value}" for header, value in headers.items()]
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(1024).split()[1])


def test_nobody_comes_in_without_the_token(app: Running) -> None:
    base, token = app.base, app.token
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
