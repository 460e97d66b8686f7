"""The settings of torch, by thread and for the whole process, and the values that they have while we compute."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch.backends import cuda, cudnn, mha, mkldnn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

ACCELERATORS = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that have autocast of their own."""
REDUCED = ("tf32", "bf16")
"""The precisions in which float32 products and convolutions may be computed."""
_BACKENDS = tuple(module.__name__.rpartition(".")[2] for module in (cuda, mkldnn))
PRECISIONS = (
    *((backend, "all") for backend in ("generic", *_BACKENDS)),
    *((backend, operation) for backend in _BACKENDS for operation in ("matmul", "conv", "rnn")),
)
"""Backends and operations that have a precision, general ones first, from which the others may inherit it."""


def settle_thread(stack: ExitStack, gradients: bool | None) -> None:
    """Change the settings of this thread; ``stack`` restores them."""
    if gradients is not None:
        # A tensor made in inference mode can never have a gradient, and some tensors are kept for later calls.
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
    for kind in ACCELERATORS:
        if torch.is_autocast_enabled(kind):
            stack.callback(torch.set_autocast_enabled, kind, True)
            torch.set_autocast_enabled(kind, False)
    if _default_device() is not None:
        stack.enter_context(torch.device("cpu"))
    if _flushes_denormals():
        stack.callback(torch.set_flush_denormal, True)
        torch.set_flush_denormal(False)


def _default_device() -> torch.device | None:
    """Return the device that the caller has made the default of this thread, if it is not the CPU."""
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]
    return modes[-1].device if modes and modes[-1].device.type != "cpu" else None


def _flushes_denormals() -> bool:
    """Tell whether this thread's processor flushes denormal numbers to zero; torch can set this but not read it."""
    smallest = sys.float_info.min
    return smallest / 2 == 0.0


class _Held(Protocol):
    """Something of the process that is set to our value, and set back afterwards."""

    def take(self) -> Any: ...

    def write(self, before: Any, /) -> object: ...

    def is_held(self) -> bool: ...


T = TypeVar("T")
_Before: TypeAlias = tuple[str | None, bool | None, list[tuple[tuple[str, str], str]]]
"""The older switches of products and of convolutions, and the values by backend and operation."""


@dataclass(frozen=True)
class _Setting(Generic[T]):
    """One setting of the whole process: how it is read and set, and the value that we want."""

    read: Callable[[], T]
    write: Callable[[T], object]
    own: T

    def take(self) -> T | None:
        """Set our value; return the earlier one, or None where nothing had to be done."""
        before = self.read()
        if before == self.own:
            return None
        self.write(self.own)
        return before

    def is_held(self) -> bool:
        """Tell whether our value is still set: if not, somebody has changed it meanwhile, on purpose."""
        return self.read() == self.own


class _Precision:
    """The precision of float32 products: one value for each backend and operation, and two older switches for some.

    The switches must agree with the values, or torch refuses to read them.
    """

    def take(self) -> _Before | None:
        matmul, convolution = _told(torch.get_float32_matmul_precision), _told(lambda: cudnn.allow_tf32)
        before = []
        for backend, operation in PRECISIONS:
            value = torch._C._get_fp32_precision_getter(backend, operation)
            is_switched = (convolution and operation in ("conv", "rnn")) or (
                matmul in ("high", "medium") and operation == "matmul"
            )
            if value in REDUCED or is_switched:
                before.append(((backend, operation), value))
            if value in REDUCED:
                # A general value is set first, so that what is read next is each operation's own value.
                torch._C._set_fp32_precision_setter(backend, operation, "none" if operation == "all" else "ieee")
        if matmul in ("high", "medium"):
            torch.set_float32_matmul_precision("highest")
        if convolution:
            cudnn.allow_tf32 = False
        return (matmul, convolution, before) if before else None

    def write(self, before: _Before) -> None:
        matmul, convolution, values = before
        if matmul in ("high", "medium"):
            torch.set_float32_matmul_precision(matmul)
        if convolution:
            cudnn.allow_tf32 = True
        for (backend, operation), value in reversed(values):
            torch._C._set_fp32_precision_setter(backend, operation, value)

    def is_held(self) -> bool:
        return True


def _told(read: Callable[[], T]) -> T | None:
    """Read an older switch; return None where it contradicts the values and torch refuses to read it."""
    try:
        return read()
    except RuntimeError:
        return None


class _Process:
    """Settings of the whole process, held from the moment our first function begins until the last one ends."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running = 0
        self._before: list[tuple[_Held, Any]] = []

    @functools.cached_property
    def _settings(self) -> list[_Held]:
        def deterministic() -> tuple[bool, bool]:
            return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

        def set_deterministic(both: tuple[bool, bool]) -> None:
            torch.use_deterministic_algorithms(both[0], warn_only=both[1])

        def switch(module: object, name: str, own: bool) -> _Setting[bool]:
            return _Setting(lambda: getattr(module, name), lambda value: setattr(module, name, value), own)

        return [
            _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
            # None of our operations depends on the order of threads, so nothing need be chosen or refused.
            _Setting(deterministic, set_deterministic, (False, False)),
            _Precision(),
            switch(cuda.matmul, "allow_fp16_accumulation", False),
            switch(cudnn, "benchmark", False),
            switch(cudnn, "deterministic", True),
            switch(mkldnn, "enabled", True),
            switch(mkldnn, "deterministic", False),
            _Setting(cuda.flash_sdp_enabled, cuda.enable_flash_sdp, True),
            _Setting(cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, True),
            _Setting(cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
            _Setting(cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, True),
            _Setting(
                cuda.fp16_bf16_reduction_math_sdp_allowed, cuda.allow_fp16_bf16_reduction_math_sdp, False
            ),
            _Setting(mha.get_fastpath_enabled, mha.set_fastpath_enabled, True),
        ]  # fmt: skip

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            for setting in self._settings:
                before = setting.take()
                if before is not None:  # this includes a caller who set it while another thread computes
                    self._before.append((setting, before))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                held = [(setting, before) for setting, before in self._before if setting.is_held()]
                self._before.clear()
                for setting, before in held:  # if there are several, the newest remains
                    setting.write(before)


PROCESS = _Process()
