"""Python processes that begin with the heavy libraries loaded: imported once by a server, which forks for each process.

Importing torch and transformers takes some seconds, and the tests start about a hundred processes that need them:
kernels of notebooks, the ranks of several processes, programs that are killed. As ``python tests/preloaded.py -m
ipykernel_launcher ...`` this file stands in for ``python``: it hands over its arguments, environment, folder and
standard streams, passes signals on, and ends as the process ends. Nothing of spectral_toolkit is loaded beforehand, and
neither is IPython, by whose presence libraries know that they are in a notebook.

``FOLDER`` names the place of the server, which the first process starts and which ends with the run of pytest. Where
there is none, or the system cannot do it (only Linux can), an ordinary Python runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "SPECTRAL_TOOLKIT_PRELOADED"
TAKE_APART = "SPECTRAL_TOOLKIT_TAKE_APART"
"""Set for a process that shall end as thoroughly as Python ends."""
PYTHON = (sys.executable, "-S", __file__)
"""To be written where ``sys.executable`` would stand."""

LIBRARIES = (
    "torch.distributed.run",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "transformers.image_processing_base",
    "transformers.initialization",
    "xarray",
    "zarr",
    "scipy.sparse.linalg",
    "sklearn.cluster",
    "sklearn.metrics",
    "pydantic",
    "jupyter_client",
    "nbformat",
    "bokeh.plotting",
    "colorcet",
    "matplotlib.cm",
    "PIL.ImageDraw",
)
AFRESH = ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook")
"""They look for a notebook when they are imported, so that each process imports them for itself."""


class _Request(NamedTuple):
    """What to run, and how."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]


def set_up() -> str:
    """Prepare the folder of the server and a kernel that starts there; gives the folder, which the caller removes."""
    import tempfile

    folder = tempfile.mkdtemp(prefix="preloaded-")
    os.environ[FOLDER] = folder
    Path(folder, "pytest").write_text(str(os.getpid()))
    kernel = Path(folder, "kernels", "python3", "kernel.json")
    kernel.parent.mkdir(parents=True)
    argv = [*PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    os.environ["JUPYTER_PATH"] = folder
    return folder


def hand_over(arguments: list[str]) -> None:
    """Let the server run these arguments, and end as they end."""
    folder = os.environ.get(FOLDER, "")
    if not (folder and hasattr(os, "pidfd_open") and Path(folder).is_dir()):
        os.execv(sys.executable, [sys.executable, *arguments])
    connection = _connected(Path(folder))
    request = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "little")], [0, 1, 2])
    connection.sendall(request)
    answers = connection.makefile()
    pid = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(answers.readline() or -signal.SIGKILL)
    if code < 0:
        _die_of(-code)
    os._exit(code)


def _die_of(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _connected(folder: Path) -> socket.socket:
    """A connection to the server, which is started by the first who asks."""
    import fcntl
    import subprocess

    connection = socket.socket(socket.AF_UNIX)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "socket").exists():
            with (folder / "log").open("w") as log:
                server = [sys.executable, __file__, "--serve", str(folder)]
                streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
                started = subprocess.Popen(server, start_new_session=True, **streams)
                assert started.stdout is not None
                if not started.stdout.readline():
                    raise RuntimeError(f"The server of processes did not start:\n{(folder / 'log').read_text()}")
        connection.connect(str(folder / "socket"))
    return connection


class _Process(NamedTuple):
    """A process that was forked; both descriptors can be read when something has ended."""

    pid: int
    itself: int
    asker: socket.socket


def serve(folder: Path) -> _Request:
    """Fork for whoever connects, until pytest has ended; returns in the forked process, with what it shall run."""
    import gc
    import importlib

    for name in LIBRARIES:
        importlib.import_module(name)
    for name in AFRESH:
        sys.modules.pop(name, None)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    print("ready", flush=True)
    pytest = os.pidfd_open(int((folder / "pytest").read_text()))
    running: list[_Process] = []
    while True:
        ended = [end for one in running for end in (one.itself, one.asker.fileno())]
        ready, _, _ = select.select([listener.fileno(), pytest, *ended], [], [])
        if pytest in ready:
            for one in running:
                os.kill(one.pid, signal.SIGKILL)
            os._exit(0)
        for one in list(running):
            if one.itself in ready:
                running.remove(one)
                with one.asker as asker:
                    _tell(asker, os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]))
                os.close(one.itself)
            elif one.asker.fileno() in ready:  # it was killed
                os.kill(one.pid, signal.SIGKILL)
        if listener.fileno() in ready:
            asker, _ = listener.accept()
            request = _received(asker)
            pid = os.fork()
            if pid == 0:
                for descriptor in (pytest, *(one.itself for one in running)):
                    os.close(descriptor)
                for connection in (listener, asker, *(one.asker for one in running)):
                    connection.close()
                return request
            for descriptor in request.streams:
                os.close(descriptor)
            _tell(asker, pid)
            running.append(_Process(pid, os.pidfd_open(pid), asker))


def _received(asker: socket.socket) -> _Request:
    head, streams, _, _ = socket.recv_fds(asker, 8, 3)
    size, text = int.from_bytes(head, "little"), b""
    while len(text) < size:
        text += asker.recv(size - len(text))
    arguments, environment, folder = json.loads(text)
    return _Request(arguments, environment, folder, streams)


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked has gone
        connection.sendall(f"{number}\n".encode())


def become(request: _Request) -> None:
    """Take on the environment, the folder and the streams of whoever asked."""
    import random
    import warnings

    import numpy as np

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(request.streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    encoding = request.environment.get("PYTHONIOENCODING")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    for action in filter(None, os.environ.get("PYTHONWARNINGS", "").split(",")):
        warnings.simplefilter(action)  # pyright: ignore[reportArgumentType]
    random.seed()
    np.random.seed()
    own = str(Path(__file__).parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path = [*paths, *(path for path in sys.path if path != own)]


def run(arguments: list[str]) -> int:
    """Run the arguments as ``python`` would, in this process; gives its exit code."""
    import runpy
    import traceback
    import types

    kind, *rest = arguments
    main = types.ModuleType("__main__")
    try:
        if kind == "-m":
            sys.argv = rest
            sys.path.insert(0, os.getcwd())
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            return 0
        sys.modules["__main__"] = main
        sys.argv = ["-c", *rest[1:]] if kind == "-c" else arguments
        sys.path.insert(0, "" if kind == "-c" else str(Path(kind).parent))
        if kind != "-c":
            main.__file__ = kind
        source, name = (rest[0], "<string>") if kind == "-c" else (Path(kind).read_text(), kind)
        exec(compile(source, name, "exec"), main.__dict__)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        traceback.print_exc()
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(code: int) -> None:
    """End without taking the loaded libraries apart, which takes as long as many a test, unless that is asked for."""
    import atexit
    import threading

    if TAKE_APART in os.environ and code >= 0:
        sys.exit(code)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        _die_of(-code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asked = serve(Path(sys.argv[2]))
        become(asked)
        end(run(asked.arguments))
    else:
        hand_over(sys.argv[1:])
