"""Several processes on one problem, started by torchrun: each holds the rows of its own images.

In one process every function here does nothing, and torch is not loaded. A process that dies takes the run with it:
the others learn of it from torchrun's signal or from a broken connection, ask who is still there, and one of them
says in one sentence who is missing and what to do.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from ..errors import LostProcessError, first_line

if TYPE_CHECKING:
    import torch

TIMEOUT = 1800.0
"""Seconds that one exchange may take before the run is given up."""
_BEAT = 1.0  # seconds between two checks of a process whether another one asks for it
_CENSUS = 3 * _BEAT  # seconds for which a process waits for the others to say that they are there
_GRACE = 5.0  # seconds that a process may take to end by itself once another has ended the run


def launched() -> bool:
    """Tell whether torchrun, or a program that sets the same variables, started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Return the number of this process, counted from 0; it is 0 where there is only one process.

    Examples
    --------
    >>> rank(), world_size()
    (0, 1)
    """
    return _distributed().get_rank() if _joined() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return _distributed().get_world_size() if _joined() else 1


def share_of(n: int, rank_: int | None = None) -> slice:
    """Return which of ``n`` images belong to this process (or to ``rank_``): a contiguous share, equal up to one image.

    Examples
    --------
    >>> share_of(10)
    slice(0, 10, None)
    """
    own, of = rank() if rank_ is None else rank_, world_size()
    return slice(n * own // of, n * (own + 1) // of)


def all_reduce(tensor: torch.Tensor, operation: Literal["sum", "max", "min"] = "sum") -> torch.Tensor:
    """Sum a tensor (or take the maximum or minimum) over all processes, in place; the bits are the same everywhere.

    Raises
    ------
    LostProcessError
        If another process has stopped.
    """
    if not _joined():
        return tensor
    distributed = _distributed()
    whole = tensor.contiguous()
    _exchange(lambda: distributed.all_reduce(whole, op=getattr(distributed.ReduceOp, operation.upper())))
    if whole is not tensor:
        tensor.copy_(whole)
    return tensor


def broadcast(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor of rank 0 in every process; the tensor that is given may be overwritten.

    Raises
    ------
    LostProcessError
        If another process has stopped.
    """
    if not _joined():
        return tensor
    whole = tensor.contiguous()
    _exchange(lambda: _distributed().broadcast(whole, src=0))
    return whole


def all_gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all processes' tensors in the order of rank; the numbers of rows may differ.

    Raises
    ------
    LostProcessError
        If another process has stopped.
    """
    if not _joined():
        return tensor
    import torch

    counts = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    counts[rank()] = tensor.shape[0]
    rows = [int(count) for count in all_reduce(counts).tolist()]
    # gloo exchanges tensors of equal shape only: shorter ones are padded, and trimmed afterwards.
    padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    parts = [torch.empty_like(padded) for _ in rows]
    _exchange(lambda: _distributed().all_gather(parts, padded))
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def barrier(*, patient: bool = False) -> None:
    """Wait until every process is here; a patient process waits for as long as the others are still at work.

    Raises
    ------
    LostProcessError
        If another process has stopped.
    """
    if not _joined():
        return
    if patient and _run is not None:
        _run.meet()
    import torch

    all_reduce(torch.zeros(1))


@contextmanager
def join(timeout: float = TIMEOUT) -> Iterator[None]:
    """Take part in a run that torchrun started, and leave it at the end; with one process this does nothing.

    Tensors on the CPU travel through gloo, those on CUDA through nccl. Under torchrun ``device="auto"`` is the GPU of
    the local rank.

    Parameters
    ----------
    timeout
        Seconds that one exchange may take before the run is given up.

    Raises
    ------
    LostProcessError
        If another process stops meanwhile, or if some of them never arrive.

    Examples
    --------
    >>> with join():
    ...     world_size()
    1
    """
    global _run
    if not launched() or _joined():
        yield
        return
    import torch
    import torch.distributed as distributed

    if not distributed.is_available():
        raise LostProcessError(
            "This build of torch has no torch.distributed: install a build that has it, or use one process."
        )
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
        _run = _Run(timeout)
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(
            f"The {os.environ['WORLD_SIZE']} processes of this run did not find each other "
            f"({first_line(error)}): start all of them with torchrun, with the same rendezvous."
        ) from error
    # After an error, no process is waited for and nothing is cleaned up: one process still has to report it, and then
    # all of them end.
    yield
    barrier(patient=True)
    _run.close()
    _run = None
    distributed.destroy_process_group()


def say_once(message: str) -> None:
    """Print a sentence that ends the run on stderr, unless another process has said why it ends."""
    if _run is None:
        print(message, file=sys.stderr, flush=True)
    else:
        _run.say(message)


_run: _Run | None = None


class _Run:
    """What a process knows of the others apart from the exchanges: a shared table, and a thread that watches it."""

    number = 0

    def __init__(self, timeout: float):
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        # The table needs a connection of its own: that of the process group is busy while it waits.
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=min(timeout, 60)),
        )
        _Run.number += 1
        self._name = f"spectral_toolkit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_Run.number}"
        self._rank, self._size = rank(), world_size()
        self._speaking = threading.Lock()
        self._open = True
        self._meetings = 0
        self._signals, waker = socket.socketpair()
        waker.setblocking(False)
        self._waker = waker
        self._handler = None
        if threading.current_thread() is threading.main_thread():
            # Python runs signal handlers only between two of its own instructions, which may be half an hour away
            # while an
            # exchange waits for a process that is gone. The byte arrives at once, and the thread reads it.
            self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
            self._wakeup = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._open = False
        if self._handler is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGTERM, self._handler)

    def say(self, message: str) -> None:
        with self._speaking:
            try:
                first = self._store.add(f"{self._name}/said", 1) == 1
            except RuntimeError:  # the table was lost with the machine that held it
                first = int(os.environ.get("LOCAL_RANK", "0")) == 0
            if first:
                print(message, file=sys.stderr, flush=True)

    def meet(self) -> None:
        """Wait for all processes; if one of them dies, torchrun's signal ends the wait."""
        self._meetings += 1
        place = f"{self._name}/meeting/{self._meetings}"
        try:
            self._store.add(place, 1)
            while self._store.add(place, 0) < self._size:
                time.sleep(0.05)
        except RuntimeError as error:
            raise LostProcessError(self.lost()) from error

    def lost(self) -> str:
        """Ask which processes are still there, and say which are not."""
        again = "run the same command again, and it resumes from what is stored."
        if self._said():
            return f"Another process ended the run: {again}"
        try:
            self._answer()
            self._store.set(f"{self._name}/asked", "1")
            until = time.monotonic() + _CENSUS
            while missing := [i for i in range(self._size) if not self._store.check([f"{self._name}/here/{i}"])]:
                if time.monotonic() > until:
                    names = " and ".join(f"rank {i}" for i in missing)
                    return (
                        f"{names[0].upper()}{names[1:]} of {self._size} processes stopped, so the run was ended: look "
                        "above for its message (a process that was killed without one has most likely run out of "
                        f"memory), then {again}"
                    )
                time.sleep(0.05)
        except RuntimeError:
            return (
                f"The process on {os.environ['MASTER_ADDR']} that started this run stopped, so the run ended: {again}"
            )
        return f"The run was stopped from outside while all {self._size} processes were at work: {again}"

    def _answer(self) -> None:
        self._store.set(f"{self._name}/here/{self._rank}", "1")

    def _watch(self) -> None:
        ended = 0.0
        while self._open:
            signals = b""
            if select.select([self._signals], [], [], _BEAT)[0]:
                signals = self._signals.recv(64)
            if not self._open:
                return
            if signal.SIGTERM in signals:
                self._leave()
            try:
                if self._store.check([f"{self._name}/asked"]):
                    self._answer()
                if self._store.check([f"{self._name}/said"]):
                    ended = ended or time.monotonic()
            except RuntimeError:
                ended = ended or time.monotonic()
            if ended and time.monotonic() - ended > _GRACE:
                self._leave()

    def _leave(self) -> None:
        """End this process: the main thread may be waiting for a process that will never come."""
        message = "" if self._said() else self.lost()
        if message:
            self.say(message)
        with self._speaking:
            os._exit(1)

    def _said(self) -> bool:
        try:
            return self._store.check([f"{self._name}/said"])
        except RuntimeError:
            return False


def _exchange(talk: Callable[[], object]) -> None:
    try:
        talk()
    except RuntimeError as error:
        if _run is None:
            raise LostProcessError(
                f"Another process of this run stopped ({first_line(error)}): start all of them again."
            ) from error
        raise LostProcessError(_run.lost()) from error


def _joined() -> bool:
    if "torch" not in sys.modules:
        return False
    distributed = _distributed()
    return distributed.is_available() and distributed.is_initialized()


def _distributed():
    import torch.distributed

    return torch.distributed
