"""Where computations run: ``device="auto"`` means CUDA, else MPS, else the CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..errors import SpectralToolkitError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch


@dataclass(frozen=True)
class DeviceKind:
    """What a kind of device has, and what we must do without on it.

    Attributes
    ----------
    count
        How many of them are here.
    has_double
        Whether it computes in float64.
    sums_segments
        Whether torch sums segments of rows on it.
    has_eigh
        Whether torch solves symmetric eigenproblems on it.
    started_longer
        Up to this many patches, to start the operations of a step of a solve takes it longer than to compute them.
    """

    count: Callable[[], int]
    has_double: bool = True
    sums_segments: bool = True
    has_eigh: bool = True
    started_longer: int = 8192


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _mps_devices() -> int:
    import torch

    return int(torch.backends.mps.is_available())


DEVICE_KINDS = {
    "cuda": DeviceKind(_cuda_devices),
    "mps": DeviceKind(_mps_devices, has_double=False, sums_segments=False, has_eigh=False),
    "cpu": DeviceKind(lambda: 1, started_longer=1024),
}
"""Every kind of device that we compute on, by its name in torch; "auto" takes the first that is here."""


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
        return torch.device(next(name for name, kind in DEVICE_KINDS.items() if kind.count()))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise SpectralToolkitError(
            f"device={device!r} is not a device name: use 'auto', 'cpu', 'cuda', 'cuda:0' or 'mps'."
        ) from error
    kind = DEVICE_KINDS.get(resolved.type)
    if kind is None or (resolved.index or 0) >= kind.count():
        raise SpectralToolkitError(
            f"device={str(device)!r} is not available on this machine: use device='auto' or 'cpu'."
        )
    return resolved


def has_double(device: torch.device) -> bool:
    """Whether the device computes in float64, which MPS does not.

    Examples
    --------
    >>> import torch
    >>> has_double(torch.device("cpu")), has_double(torch.device("mps"))
    (True, False)
    """
    return DEVICE_KINDS[device.type].has_double


def working_dtype(device: torch.device) -> torch.dtype:
    """Precision of spectral solves: float64, or float32 where the device has no float64."""
    import torch

    return torch.float64 if has_double(device) else torch.float32


ON_HOST = 512
"""Symmetric eigenproblems up to this size are solved by the CPU: a GPU takes longer for them, and stalls meanwhile."""


def _eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    values, vectors = torch.linalg.eigh(matrix)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("torch.Tensor", values), cast("torch.Tensor", vectors)


def eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices, as ``torch.linalg.eigh``, wherever it is done.

    Examples
    --------
    >>> import torch
    >>> eigh(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))[0].tolist()
    [1.0, 3.0]
    """
    import torch

    device = matrix.device
    if device.type == "cpu" or (DEVICE_KINDS[device.type].has_eigh and matrix.shape[-1] > ON_HOST):
        return _eigh(matrix)
    values, vectors = _eigh(matrix.cpu().double())
    # One transfer instead of two.
    both = torch.cat([values[..., None, :], vectors], dim=-2).to(device=device, dtype=matrix.dtype)
    return both[..., 0, :], both[..., 1:, :]


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
