"""A real Jupyter, JupyterLab or Notebook 7, in a folder of its own and without a network."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Playwright

ROOT = Path(__file__).resolve().parents[2]
BENIGN = (
    # Jupyter's and Chromium's own remarks, none of which is about a page of ours.
    r"Failed to load resource.*(404|400)",  # workspaces, custom.css and settings that were never saved
    r"GL Driver|WebGL|GPU stall",
    r"Could not import language server|lsp|LSP",
    r"Password field is not contained in a form",
    r"document idle at",
    r"Content Security Policy.*frame-ancestors",
    r"\[bokeh",
    r"Blocklist|blocklist",
    r"Download the React DevTools",
    r"apputils-extension:notification|@jupyterlab/extensionmanager|news",
    r"Canvas2D: Multiple readback",
    r"reading 'schema'",  # Notebook 7 without settings of its own, also with an empty notebook
)
"""Patterns of what the console may hold."""


def notebook(*cells: str) -> nbformat.NotebookNode:
    """A notebook that names its kernel: without that, Jupyter opens a dialog and runs nothing."""
    made = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


@dataclass(frozen=True)
class Jupyter:
    """A running Jupyter: where it is, its token, and the folder that it shows."""

    base: str
    token: str
    folder: Path

    def address(self, name: str, app: str = "lab") -> str:
        """Where a notebook of the folder is opened: alone in JupyterLab, or in Notebook 7 (``"notebook"``)."""
        # In a workspace of its own: others would bring the notebooks that were open in them.
        place = f"lab/workspaces/{Path(name).stem}/tree" if app == "lab" else "notebooks"
        return f"{self.base}/{place}/{name}?token={self.token}"


def launch(playwright: Playwright, chromium_path: str) -> Browser:
    """A headless browser that reaches no network of its own accord."""
    return playwright.chromium.launch(
        executable_path=chromium_path,
        args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
    )


@contextmanager
def serving(folder: Path, app: str = "lab") -> Iterator[Jupyter]:
    """Start Jupyter on a free port of this machine, settings kept apart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    home = folder / ".home"
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
    }
    overrides = home / "settings" / "@jupyterlab" / "apputils-extension"
    overrides.mkdir(parents=True, exist_ok=True)
    (overrides / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    log = (folder / "jupyter.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyter",
            app,
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}",
            f"--ServerApp.root_dir={folder}",
            # What a click on a menu does can then be asked for by name, in the page.
            f"--{'LabApp' if app == 'lab' else 'JupyterNotebookApp'}.expose_app_in_browser=True",
        ],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, folder / "jupyter.log")
        yield Jupyter(f"http://127.0.0.1:{port}", token, folder)
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def complaints(messages: list[str]) -> list[str]:
    """Errors of the console but for those known to be harmless."""
    return [text for text in messages if not any(re.search(pattern, text) for pattern in BENIGN)]


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"Jupyter did not start:\n{log.read_text()[-2000:]}")
