"""Where computations run: ``device="auto"`` means CUDA, else MPS, else the CPU."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..errors import SpectralToolkitError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a torch device that exists here.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a ``torch.device``.

    Raises
    ------
    SpectralToolkitError
        If the name is unknown or the device is not present on this machine.

    Examples
    --------
    >>> resolve_device("cpu").type
    'cpu'
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise SpectralToolkitError(
            f"device={device!r} is not a device name: use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from error
    present = {
        "cpu": lambda: True,
        "cuda": lambda: (resolved.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available,
    }.get(resolved.type)
    if present is None or not present():
        raise SpectralToolkitError(
            f"device={str(device)!r} is not available on this machine: use device='auto' or 'cpu'."
        )
    return resolved


def working_dtype(device: torch.device) -> torch.dtype:
    """Precision of spectral solves: float64, or float32 on MPS, which has no float64."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


SERIAL_CELLS = 576
"""Problems of up to this many patches run on one CPU thread."""


def threads_for(device: torch.device, n_cells: int) -> AbstractContextManager[None]:
    """Use one CPU thread for small problems and torch's own number for large ones; restore the number afterwards.

    Many tiny parallel steps gain little on an idle machine, and where another program keeps a core busy, the threads
    spin while they wait for each other: 8 images of 144 patches then take 15 s instead of 0.1 s.

    Examples
    --------
    >>> import torch
    >>> with threads_for(torch.device("cpu"), 144):
    ...     torch.get_num_threads()
    1
    """
    return one_thread() if device.type == "cpu" and n_cells <= SERIAL_CELLS else nullcontext()


def one_thread() -> AbstractContextManager[None]:
    """Use one CPU thread for torch's operations, also in threads started meanwhile; restore the number afterwards."""
    return some_threads(1)


@contextmanager
def some_threads(n: int) -> Generator[None, None, None]:
    """Use ``n`` CPU threads for torch's operations; restore the number afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
