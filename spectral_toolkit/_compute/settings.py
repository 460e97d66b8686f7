"""Our own settings: what torch and NumPy are set to while one of our functions runs, whatever the caller has set.

Both libraries keep state that decides numbers. Torch has autocast, gradients, a default dtype and device, the precision
of products, and the choice of algorithms; NumPy has its reaction to a division by zero. Every public function computes
under the settings that the two start with, with float32 products in full precision, and restores the caller's settings
when it returns or raises: `computing` sees to it, and nothing else does.

Some settings belong to the thread that makes them, others to the whole process. The latter are held for as long as any
of our functions runs in any thread, so other threads see them meanwhile. Two settings remain the caller's: the number
of threads, which is a resource (`devices.threads_for`), and the random generators, which we never draw from.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

from ..errors import DeviceMemoryError, first_line

P = ParamSpec("P")
R = TypeVar("R")


def computing(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under `own_settings`, without gradients. Every public function is decorated with this.

    Examples
    --------
    >>> import torch
    >>> @computing
    ... def precision():
    ...     return torch.get_default_dtype()
    >>> torch.set_default_dtype(torch.float64)
    >>> precision(), torch.get_default_dtype()
    (torch.float32, torch.float64)
    >>> torch.set_default_dtype(torch.float32)
    """
    return _under_own_settings(function, gradients=False)


def differentiable(function: Callable[P, R]) -> Callable[P, R]:
    """Do the same for a function through which the caller may differentiate."""
    return _under_own_settings(function, gradients=None)


def _under_own_settings(function: Callable[P, R], *, gradients: bool | None) -> Callable[P, R]:
    @functools.wraps(function)
    def under_own_settings(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with own_settings(gradients=gradients):
                return function(*args, **kwargs)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"{function.__name__} does not fit into the memory of its device ({first_line(error)}): use fewer or "
                "smaller images at a time (batch_size=, size=), keep activations on disk (store=), or compute on "
                "device='cpu'."
            ) from error

    vars(under_own_settings)["is_computing"] = True
    return under_own_settings


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has no memory left; torch has a class of its own for this, but not on MPS."""
    return type(error).__name__ == "OutOfMemoryError" or str(error).startswith("MPS backend out of memory")


@contextmanager
def own_settings(*, gradients: bool | None = False) -> Generator[None, None, None]:
    """Use the settings that torch and NumPy start with and products in full precision, then restore the caller's.

    Parameters
    ----------
    gradients
        Whether gradients are recorded; None leaves this to the caller.

    Examples
    --------
    >>> import torch
    >>> with torch.autocast("cpu", torch.bfloat16), own_settings():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    with ExitStack() as stack:
        if "numpy" in sys.modules:
            import numpy as np

            stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        # A caller who has not loaded torch has set nothing in it, and need not wait for it to load.
        if "torch" in sys.modules:
            from .torch_state import PROCESS, settle_thread

            settle_thread(stack, gradients)
            stack.enter_context(PROCESS)
        yield
