"""What torch is set to, thread by thread and for the whole process, and what it is set to while we compute."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.backends import cuda, cudnn, mha, mkldnn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

ACCELERATORS = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that have an autocast of their own."""
REDUCED = ("tf32", "bf16")
"""What products and convolutions of float32 may be computed in."""
PRECISIONS = (
    ("generic", "all"), ("cuda", "all"), ("mkldnn", "all"),
    ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"),
)  # fmt: skip
"""Backends and operations that have a precision, general ones first: the others may inherit it."""


def settle_thread(stack: ExitStack, gradients: bool | None) -> None:
    """Set what belongs to this thread; ``stack`` puts it back."""
    if gradients is not None:
        # What is made in inference mode can never have a gradient, and some of it is kept for later calls.
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
    """The device that the caller has made the default of this thread, if it is not the CPU."""
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]
    return modes[-1].device if modes and modes[-1].device.type != "cpu" else None


def _flushes_denormals() -> bool:
    """Whether this thread's processor takes the smallest numbers for zero; torch can set that, and does not tell."""
    smallest = sys.float_info.min
    return smallest / 2 == 0.0


@dataclass(frozen=True)
class _Setting:
    """One of the whole process: how it is read and set, and what it is to be."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    own: Any

    def take(self) -> Any:
        """Set it; what it was, or None where nothing had to be done."""
        before = self.read()
        if before == self.own:
            return None
        self.write(self.own)
        return before

    def is_held(self) -> bool:
        """Whether it is still what we made it: else somebody has set it meanwhile, and means it."""
        return self.read() == self.own


class _Precision:
    """In what float32 is multiplied: a value for each backend and operation, and two older switches over some of them.

    The switches must agree with the values, or torch refuses to tell them.
    """

    def take(self) -> Any:
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
                # A general one goes first, so that what follows tells what each has of its own.
                torch._C._set_fp32_precision_setter(backend, operation, "none" if operation == "all" else "ieee")
        if matmul in ("high", "medium"):
            torch.set_float32_matmul_precision("highest")
        if convolution:
            cudnn.allow_tf32 = False
        return (matmul, convolution, before) if before else None

    def write(self, before: Any) -> None:
        matmul, convolution, values = before
        if matmul in ("high", "medium"):
            torch.set_float32_matmul_precision(matmul)
        if convolution:
            cudnn.allow_tf32 = True
        for (backend, operation), value in reversed(values):
            torch._C._set_fp32_precision_setter(backend, operation, value)

    def is_held(self) -> bool:
        return True


def _told(read: Callable[[], Any]) -> Any:
    """What an older switch says, or None where it contradicts the values, and torch will not tell."""
    try:
        return read()
    except RuntimeError:
        return None


class _Process:
    """Settings of the whole process, held from the first of our functions that begins to the last that ends."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running = 0
        self._before: list[tuple[_Setting | _Precision, Any]] = []

    @functools.cached_property
    def _settings(self) -> list[_Setting | _Precision]:
        def deterministic() -> tuple[bool, bool]:
            return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

        def set_deterministic(both: tuple[bool, bool]) -> None:
            torch.use_deterministic_algorithms(both[0], warn_only=both[1])

        def switch(module: Any, name: str, own: bool) -> _Setting:
            return _Setting(lambda: getattr(module, name), lambda value: setattr(module, name, value), own)

        return [
            _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
            # No operation of ours depends on the order of threads, so that nothing need be chosen or refused.
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
                if before is not None:  # also of a caller who has set it while another thread computes
                    self._before.append((setting, before))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                held = [(setting, before) for setting, before in self._before if setting.is_held()]
                self._before.clear()
                for setting, before in held:  # of several, the newest is what remains
                    setting.write(before)


PROCESS = _Process()
