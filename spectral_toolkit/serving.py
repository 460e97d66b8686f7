"""The explorer as an app in the browser: a notebook of one cell, shown by Voila behind Jupyter's token."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import SpectralToolkitError

ADDRESS = "127.0.0.1"
"""This machine only: nobody else in the network can knock."""

_SETTINGS: dict[str, Any] = {
    "Voila.ip": ADDRESS,
    "Voila.port_retries": 0,
    "VoilaConfiguration.allow_template_override": "NO",
    "VoilaConfiguration.allow_theme_override": "NO",
    # The notebook is all there is in its folder; nothing is to be had from it.
    "VoilaConfiguration.file_denylist": "['.*']",
    "VoilaConfiguration.show_tracebacks": False,
}


def explorer_code(arguments: str, folder: str, *, bundle: bool = False) -> str:
    """Python that shows an explorer; what is wrong with its arguments is said in one sentence.

    Parameters
    ----------
    arguments
        Of ``st.Explorer``, or of ``st.Explorer.from_bundle``, as Python.
    folder
        Where relative paths begin, and where files that the user saves go.

    Examples
    --------
    >>> print(explorer_code("'scenes', 'photos/*.jpg'", "/home/ada"))
    import os
    import spectral_toolkit as st
    os.chdir('/home/ada')
    try:
        shown = st.Explorer('scenes', 'photos/*.jpg')
    except st.errors.SpectralToolkitError as error:
        shown = print(error)
    shown
    """
    maker = "st.Explorer.from_bundle" if bundle else "st.Explorer"
    return (
        f"import os\nimport spectral_toolkit as st\nos.chdir({folder!r})\n"
        f"try:\n    shown = {maker}({arguments})\n"
        "except st.errors.SpectralToolkitError as error:\n    shown = print(error)\n"
        "shown"
    )


def serve(code: str, *, port: int | None = None, open_browser: bool = True, announce: Any = print) -> None:
    """Show what a cell displays as a page of its own, until interrupted.

    Parameters
    ----------
    code
        Of the only cell.
    port
        On this machine; None takes any that is free.
    open_browser
        Whether to open the page.
    announce
        Called with one line: the address, with its token.

    Raises
    ------
    SpectralToolkitError
        If Voila is not installed, or the port is taken.
    """
    try:
        import nbformat
        from voila.app import Voila
    except ImportError as error:
        raise SpectralToolkitError(
            f"The app needs the library {error.name!r}: pip install 'spectral-toolkit[app]', or open the explorer in a "
            "notebook, st.Explorer(model, images)."
        ) from error
    chosen = _free_port(port)
    token = secrets.token_hex(24)
    with tempfile.TemporaryDirectory(prefix="spectral-toolkit-") as folder:
        path = Path(folder) / "explorer.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["title"] = "Explorer"
        nbformat.write(notebook, path)
        settings = {
            **_SETTINGS,
            "Voila.port": chosen,
            "Voila.token": token,
            "Voila.open_browser": open_browser,
            "Voila.root_dir": folder,
            "Voila.log_level": 30,
        }
        announce(f"The explorer is at http://{ADDRESS}:{chosen}/?token={token} (Ctrl-C stops it)")
        before = os.getcwd()
        app = Voila()
        try:
            # In this process, where no list of processes shows the token.
            app.initialize([str(path), *(f"--{name}={value}" for name, value in settings.items())])
            app.start()
        finally:
            os.chdir(before)  # the folder goes away


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port or 0))
        except OSError as error:
            raise SpectralToolkitError(
                f"port={port} cannot be used ({error.strerror}): choose another, or leave it out."
            ) from error
        return probe.getsockname()[1]
