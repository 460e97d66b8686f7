"""What the processes of ``test_distributed.py`` run: commands one after another, and on request a death in the middle.

Arguments: a JSON list of argument lists, where torchrun starts each process; after a number, so many processes are
started here, watched as torchrun watches them, but forked, so that none imports anything for itself.
``DIES="rank:method:calls"`` kills that rank by SIGKILL when it has called ``ZarrSink.commit`` or
``DatasetGraph._search`` so many times; with ``rank:method:calls:SIGINT`` it is interrupted instead, as by Ctrl-C.
``ROUNDS="rank"`` makes that rank round differently, as other processors do: it has two threads, and its eigenvectors
other signs. ``APART="folder"`` puts every rank into a folder of its own below that one, as on machines that share
nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def die(where: str) -> None:
    import spectral_toolkit._affinity.dataset_graph as graphs
    import spectral_toolkit._capture.stores as stores

    rank, method, calls, *how = where.split(":")
    if os.environ["RANK"] != rank:
        return
    owner = {"commit": stores.ZarrSink, "_search": graphs.DatasetGraph}[method]
    original, done = getattr(owner, method), []

    def counted(*arguments):
        result = original(*arguments)
        done.append(1)
        if len(done) == int(calls):
            os.kill(os.getpid(), signal.Signals[how[0] if how else "SIGKILL"])
        return result

    setattr(owner, method, counted)


def round_differently() -> None:
    import torch

    torch.set_num_threads(2)
    eigh = torch.linalg.eigh

    def other(matrix):
        values, vectors = eigh(matrix * (1 + 1e-15 * torch.randn_like(matrix)))
        return values, vectors * torch.randn_like(values).sign()[..., None, :]

    torch.linalg.eigh = other


def run(commands: list[list[str]]) -> int:
    from spectral_toolkit._compute.processes import join
    from spectral_toolkit.cli import main

    if "DIES" in os.environ:
        die(os.environ["DIES"])
    if len(commands) == 1:
        return main(commands[0])
    with join():  # once for all of them: what joins again inside does nothing
        code = next((code for command in commands if (code := main(command))), 0)
        if code:
            os._exit(code)
    return 0


def work(commands: list[list[str]]) -> None:
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, handler)  # not those of whoever watches, which a fork takes along
    if "APART" in os.environ:
        own = os.path.join(os.environ["APART"], os.environ["RANK"])
        os.makedirs(own, exist_ok=True)
        os.chdir(own)
    if os.environ.get("ROUNDS") == os.environ["RANK"]:
        round_differently()
    sys.exit(run(commands))


def start(n: int, commands: list[list[str]]) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # whatever port is free
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, work)(commands)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        start(int(sys.argv[1]), json.loads(sys.argv[2]))
    else:
        work(json.loads(sys.argv[1]))
