"""The explorer as an app in the browser: a notebook of one notebook cell, shown by Voila behind Jupyter's token."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from ..._compute.arguments import number, whole
from ...errors import SpectralToolkitError
from .pages import IDLE_MINUTES, MOST_PAGES

ADDRESS = "127.0.0.1"
"""Only this machine can connect, and no other in the network."""

_SETTINGS: dict[str, object] = {
    "Voila.ip": ADDRESS,
    "Voila.port_retries": 0,
    "Voila.log_level": "ERROR",
    "VoilaConfiguration.multi_kernel_manager_class": "spectral_toolkit.cli.server.voila.Kernels",
    "VoilaConfiguration.allow_template_override": "NO",
    "VoilaConfiguration.allow_theme_override": "NO",
    # The folder contains only the notebook, and serves no files.
    "VoilaConfiguration.file_denylist": [".*"],
    # Only the extensions that draw controls and figures: Voila is built for older versions of what others need.
    "VoilaConfiguration.extension_allowlist": [
        "@voila-dashboards/widgets-manager8",
        "@jupyter-widgets/jupyterlab-manager",
        "@bokeh/jupyter_bokeh",
    ],
}

_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; base-uri 'self'; "
    "form-action 'self'"
)
"""Everything a page asks for comes from this server or not at all, so that no request leaves the machine."""


def explorer_code(arguments: str, folder: str, *, bundle: bool = False, modules: Sequence[str] = ()) -> str:
    """Python code that shows an explorer; errors in its arguments are reported in one sentence.

    Parameters
    ----------
    arguments
        Arguments of ``st.Explorer``, or of ``st.Explorer.from_bundle``, as Python code.
    folder
        The folder where relative paths begin, and to which the user's files are saved.
    modules
        Modules to import first, from this folder or installed.

    Examples
    --------
    >>> print(explorer_code("'scenes', 'photos/*.jpg'", "/home/ada"))
    import os
    import sys
    import spectral_toolkit as st
    from IPython.display import clear_output
    os.chdir('/home/ada')
    try:
        shown = st.Explorer('scenes', 'photos/*.jpg')
        clear_output()
    except st.errors.SpectralToolkitError as error:
        shown = print(error)
    shown
    """
    maker = "st.Explorer.from_bundle" if bundle else "st.Explorer"
    return (
        "import os\nimport sys\nimport spectral_toolkit as st\nfrom IPython.display import clear_output\n"
        f"os.chdir({folder!r})\n"
        + (f"sys.path.append({folder!r})\nimport {', '.join(modules)}\n" if modules else "")
        + f"try:\n    shown = {maker}({arguments})\n"
        "    clear_output()\n"
        "except st.errors.SpectralToolkitError as error:\n    shown = print(error)\n"
        "shown"
    )


def serve(
    code: str,
    *,
    port: int | None = None,
    open_browser: bool = True,
    max_pages: int = MOST_PAGES,
    idle_minutes: float = IDLE_MINUTES,
    announce: Callable[[str], object] = print,
) -> None:
    """Show what a notebook cell displays as a page of its own, until interrupted.

    Parameters
    ----------
    code
        The code of the only notebook cell.
    port
        Port on this machine; None takes any free port.
    open_browser
        Whether to open the page.
    max_pages
        How many pages may be open at once; each has a kernel of its own. A further page only shows a sentence about
        this limit.
    idle_minutes
        After how many minutes the kernel of an unused page ends. The kernel of a closed page ends within a minute.
    announce
        A function that is called with one line: the address with its token.

    Raises
    ------
    SpectralToolkitError
        If Voila is not installed, or the port is taken.
    """
    try:
        import nbformat
        import voila  # noqa: F401, asked for by name, as our module of it may be loaded already

        from .voila import App
    except ImportError as error:
        raise SpectralToolkitError(
            f"The app needs the library {error.name!r}: pip install 'spectral-toolkit[app]', or open the explorer in a "
            "notebook, st.Explorer(model, images)."
        ) from error
    max_pages, idle_minutes = whole("max_pages", max_pages, 1), number("idle_minutes", idle_minutes, above=0)
    chosen = _free_port(port)
    app = App()
    app.most_pages, app.idle_minutes = max_pages, idle_minutes
    token = secrets.token_hex(24)
    address = f"http://{ADDRESS}:{chosen}/?token={token}"
    before = os.getcwd()
    # Only this user can read the folder and the files in it.
    with tempfile.TemporaryDirectory(prefix="spectral-toolkit-") as folder:
        path = Path(folder) / "explorer.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["title"] = "Explorer"
        nbformat.write(notebook, path)
        door = Path(folder) / "open.html"
        door.write_text(f'<meta http-equiv="refresh" content="0;url={address}">', encoding="utf-8")
        settings = {
            **_SETTINGS,
            "Voila.port": chosen,
            "Voila.token": token,
            "Voila.open_browser": False,
            "Voila.root_dir": folder,
        }
        # Set in this process, so that no list of processes shows the token.
        app.initialize([str(path), *_arguments(settings)])
        app.tornado_settings = {"headers": {"Content-Security-Policy": _POLICY}}
        announce(f"The explorer is at {address} (Ctrl-C stops it)")
        if open_browser:
            # The browser first opens a file, so that no list of processes shows the token here either.
            threading.Timer(1.0, webbrowser.open, [door.as_uri()]).start()
        try:
            app.start()
        finally:
            os.chdir(before)  # the folder is removed


def _arguments(settings: dict[str, object]) -> list[str]:
    return [
        f"--{name}={part}"
        for name, value in settings.items()
        for part in (value if isinstance(value, list) else [value])
    ]


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port or 0))
        except OSError as error:
            raise SpectralToolkitError(
                f"port={port} cannot be used ({error.strerror}): choose another port, or leave it out."
            ) from error
        return probe.getsockname()[1]
