"""A strict stand-in for a GPU, in Python: a device of its own to torch that computes on the CPU.

It is torch's "private use" device, whose tensors are wrappers round tensors of the CPU; every operation passes through
`StandIn.__torch_dispatch__`, which refuses what CUDA (or MPS) would refuse, and counts. Strict means: tensors of two
devices in one operation, NumPy's view of a device's memory, a generator of the CPU, products of whole numbers and a
full memory are errors, and new memory holds NaN. As MPS, float64 and what torch has no kernel of there are errors, too.

What is counted: `launches`, operations that a GPU would start a kernel for (also copies); `waits`, moments at which the
host waits for the device or hands it memory of its own: copies between the two, values that Python reads, and
operations whose result the host must know (the number of nonzeros, whether a factorisation failed).
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from spectral_toolkit._compute.devices import DEVICE_KINDS, DeviceKind

NAME = "standin"
aten = torch.ops.aten

KNOWN_BY_HOST = {
    *("nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "unique_consecutive"),
    *("repeat_interleave", "bincount", "_linalg_eigh", "_linalg_svd", "linalg_eig", "_linalg_check_errors"),
}
"""Operations that make the host wait: for the size of what they return, or to see whether they failed."""
NOT_ON_MPS = {"_linalg_eigh", "frexp"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot"}
NO_LAUNCH = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "_local_scalar_dense",
}
TAKES_CPU_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Device:
    """The state of the one device: what it plays, its memory, its random generator and what was counted."""

    def __init__(self) -> None:
        self.is_on = False
        self.as_mps = False
        self.limit = math.inf
        self.used = 0
        self.generator = torch.Generator()
        self.operations: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return self.operations.total()

    @property
    def waits(self) -> int:
        return self.waiting.total()

    def reset(self) -> None:
        """Count from zero."""
        self.operations.clear()
        self.waiting.clear()

    def take(self, n_bytes: int) -> None:
        if self.used + n_bytes > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory (stand-in). Tried to allocate {n_bytes} bytes.")
        self.used += n_bytes

    def free(self, n_bytes: int) -> None:
        self.used -= n_bytes


DEVICE = Device()


class Block:
    """Memory of the device, freed when no tensor refers to it."""

    def __init__(self, n_bytes: int) -> None:
        DEVICE.take(n_bytes)
        weakref.finalize(self, DEVICE.free, n_bytes).atexit = False


class StandIn(torch.Tensor):
    """A tensor of the device: ``raw`` holds its numbers on the CPU, ``block`` its memory."""

    raw: torch.Tensor
    block: Block
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, raw: torch.Tensor, block: Block | None = None) -> StandIn:
        if DEVICE.as_mps and raw.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64 (stand-in)."
            )
        own = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        own.raw = raw
        own.block = Block(raw.untyped_storage().nbytes()) if block is None else block
        return own

    def __init__(self, *_: object) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first (stand-in).")
        return self.detach().cpu().numpy()

    def __array__(self, *_: object) -> Any:
        return self.numpy()

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"StandIn({tuple(self.shape)}, {self.dtype})"


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function.overloadpacket.__name__
    if torch.Tag.inplace_view in function.tags:
        raise NotImplementedError(f"stand-in: {function}, which changes a tensor's shape in place")
    _refuse(function, name, args, kwargs)
    if function.namespace == "aten":
        if name in ("copy_", "_to_copy"):
            return _copy(function, name, args, kwargs)
        _count(function, name, args, kwargs)
    if any(argument.name == "generator" for argument in function._schema.arguments):
        kwargs = {**kwargs, "generator": DEVICE.generator}
    raw_args, raw_kwargs = tree_map(_raw, (args, kwargs))
    out = function(*raw_args, **raw_kwargs)
    return _wrapped(function, args, kwargs, out)


def _raw(value: Any) -> Any:
    if isinstance(value, StandIn):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _wrapped(function: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """Results as tensors of the device: what was written to is returned itself, views share memory."""
    given = _tensors((args, kwargs))
    written = {id(tensor.raw): tensor for tensor in given}
    blocks = {tensor.raw.untyped_storage().data_ptr(): tensor.block for tensor in given}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in written:
            return written[id(value)]
        return StandIn(value, blocks.get(value.untyped_storage().data_ptr()))

    return tree_map(wrap, out)


def _tensors(values: Any) -> list[StandIn]:
    found: list[StandIn] = []
    tree_map(lambda value: found.append(value) if isinstance(value, StandIn) else None, values)
    return found


def _refuse(function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise what a GPU would raise for these arguments."""
    others: list[torch.Tensor] = []
    generators: list[torch.Generator] = []

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor) and not isinstance(value, StandIn):
            others.append(value)
        elif isinstance(value, torch.Generator):
            generators.append(value)

    tree_map(look, (args, kwargs))
    if generators:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' ({name}, stand-in).")
    if name in ("copy_", "_to_copy") or function.namespace == "c10d":
        return
    # A single number may live on the CPU where numbers are combined one by one, an index anywhere.
    one_by_one = torch.Tag.pointwise in function.tags or name in ("where", "fill_", "masked_fill", "masked_fill_")
    indices = [*args[1]] if name in TAKES_CPU_INDEX else []
    wrong = [
        tensor
        for tensor in others
        if not (tensor.dim() == 0 and (one_by_one or name in TAKES_CPU_INDEX))
        and not any(tensor is index for index in indices)
    ]
    if wrong:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
            f"({name}, stand-in)"
        )
    tensors = _tensors((args, kwargs))
    if name in PRODUCTS and tensors and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        raise RuntimeError(f"\"{name}\" not implemented for 'Long' (stand-in)")
    if DEVICE.as_mps and name in NOT_ON_MPS:
        raise NotImplementedError(f"The operator 'aten::{name}' is not implemented for the MPS device (stand-in).")


def _count(function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if not function.is_view and name not in NO_LAUNCH and function is not aten.detach.default:
        DEVICE.operations[name] += 1
    if name in KNOWN_BY_HOST or name == "_local_scalar_dense":
        DEVICE.waiting[name] += 1
    if name in TAKES_CPU_INDEX:
        for index in args[1]:
            if isinstance(index, torch.Tensor) and (index.dtype == torch.bool or not isinstance(index, StandIn)):
                DEVICE.waiting[f"{name} by {'mask' if index.dtype == torch.bool else 'an index of the host'}"] += 1


def _copy(function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copies, the only operations that may see two devices."""
    if name == "copy_":
        to, source = args[0], args[1]
        _count_copy(source, isinstance(to, StandIn))
        _raw(to).copy_(_raw(source))
        return to
    source, device = args[0], kwargs.get("device")
    here = isinstance(source, StandIn) if device is None else torch.device(device).type == NAME
    _count_copy(source, here)
    kept = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "non_blocking")}
    out = function(_raw(source), **kept)
    return StandIn(out) if here else out


def _count_copy(source: torch.Tensor, to_here: bool) -> None:
    from_here = isinstance(source, StandIn)
    DEVICE.operations["copy"] += 1
    if from_here != to_here:
        DEVICE.waiting["device to host" if from_here else "host to device"] += 1


class _Module:
    """What torch asks of ``torch.standin``, as of ``torch.cuda``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return DEVICE.is_on

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(DEVICE.is_on)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        DEVICE.generator.manual_seed(seed)

    manual_seed = manual_seed_all

    def get_rng_state(self, *_: object) -> torch.Tensor:
        return DEVICE.generator.get_state()

    def set_rng_state(self, state: torch.Tensor, *_: object) -> None:
        DEVICE.generator.set_state(state)

    def memory_allocated(self, *_: object) -> int:
        return DEVICE.used

    def synchronize(self, *_: object) -> None:
        DEVICE.waiting["synchronize"] += 1

    def empty_cache(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: object) -> StandIn:
    where = memory_format or torch.contiguous_format
    return _poisoned(torch.empty(size, dtype=dtype or torch.get_default_dtype(), memory_format=where))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: object) -> StandIn:
    return _poisoned(torch.empty_strided(size, stride, dtype=dtype or torch.get_default_dtype()))


def _made_by(make: Any) -> Any:
    def made(*args: Any, **kwargs: Any) -> StandIn:
        DEVICE.operations[make.overloadpacket.__name__] += 1
        return StandIn(make(*args, **{key: value for key, value in kwargs.items() if key in ("dtype", "layout")}))

    return made


def _copy_from(source: Any, to: Any, non_blocking: bool = False) -> Any:
    """Copies that torch makes for itself, of indices given as lists."""
    return _copy(None, "copy_", (to, source), {})


def _poisoned(raw: torch.Tensor) -> StandIn:
    """New memory, in which anything may stand."""
    if raw.is_floating_point() or raw.is_complex():
        raw.fill_(math.nan)
    return StandIn(raw)


def _register() -> Any:
    """Tell torch of the device; this cannot be undone, so it is asked of `DEVICE.is_on` whether it is there."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    # Torch would make these by changing the shape of an empty tensor.
    for make in (aten.arange.default, aten.arange.start, aten.arange.start_step, aten.eye.default, aten.eye.m):
        library.impl(make.name().removeprefix("aten::"), _made_by(make), "PrivateUse1")
    return library


_LIBRARY = _register()


@contextmanager
def stand_in(*, as_mps: bool = False) -> Iterator[Device]:
    """Have the device, which spectral_toolkit takes for CUDA or, without float64, for MPS."""
    DEVICE.is_on, DEVICE.as_mps = True, as_mps
    others = dict(DEVICE_KINDS)
    DEVICE_KINDS.clear()  # "auto" takes the first
    DEVICE_KINDS[NAME] = DeviceKind(lambda: 1, has_double=not as_mps, sums_segments=not as_mps, has_eigh=not as_mps)
    DEVICE_KINDS.update(others)
    DEVICE.reset()
    try:
        yield DEVICE
    finally:
        del DEVICE_KINDS[NAME]
        DEVICE.is_on, DEVICE.as_mps, DEVICE.limit = False, False, math.inf
