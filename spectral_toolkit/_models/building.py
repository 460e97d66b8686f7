"""Tries out a configuration: the model is built without numbers, within bounds, before memory is allocated for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_module_registration_hook

from .folder_settings import one_line, unreadable

MAX_MODULES = 20_000
"""The most modules that a model may have: the largest known models have a few thousand."""
_SPARE = 50_000_000
"""How many values a model may have beyond twice those in its files, such as tables that it computes itself."""

Shapes = dict[str, tuple[int, ...]]


class _TooManyModulesError(Exception):
    """Raised from the constructor of a model, where no library expects it."""


@contextmanager
def few_modules() -> Iterator[None]:
    """Stop the building of modules in this thread at `MAX_MODULES`."""
    n_modules, thread = 0, threading.get_ident()

    def count(module: object, name: str, part: object) -> None:
        nonlocal n_modules
        n_modules += threading.get_ident() == thread
        if n_modules > MAX_MODULES:
            raise _TooManyModulesError(f"it has more than {MAX_MODULES:,} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def try_out(source: str, make: Callable[[], torch.nn.Module], stored: Shapes | None, config: str) -> None:
    """Build a model on the device without numbers, and compare its weights with those in its files.

    Parameters
    ----------
    make
        A function that builds it.
    stored
        Shapes of the stored weights; None where they are not on this machine yet.
    config
        Name of the file from which it is built.

    Raises
    ------
    ModelNotFoundError
        If it cannot be built, or does not fit its weights.
    """
    from transformers.initialization import meta_device_safe_creation_ops

    try:
        with few_modules(), torch.device("meta"), meta_device_safe_creation_ops():
            made = make()
    except Exception as error:
        raise unreadable(source, f"cannot be built from its {config} ({one_line(error)})") from error
    if stored is None:
        return
    wanted = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    prefix = getattr(made, "base_model_prefix", "")
    for name, shape in wanted.items():
        found = stored.get(name, stored.get(f"{prefix}.{name}", stored.get(name.removeprefix(f"{prefix}."))))
        if found is not None and found != shape:
            raise unreadable(
                source,
                f"has a {config} that does not fit its weights ({name} has shape {found} there, and {shape} here)",
            )
    sizes = [sum(torch.Size(shape).numel() for shape in shapes.values()) for shapes in (wanted, stored)]
    sizes[0] += sum(buffer.numel() for buffer in made.buffers())
    if sizes[0] > 2 * sizes[1] + _SPARE:
        raise unreadable(
            source,
            f"has a {config} that does not fit its weights (it asks for {sizes[0]:,} values; they are {sizes[1]:,})",
        )


def stored_shapes(source: str, folder: Path, index: Mapping[str, object] | None = None) -> Shapes | None:
    """Shapes of the weights in the safetensors files of a folder, from their headers; None where there are none.

    Parameters
    ----------
    index
        The content of the index of several files, if there is one.

    Raises
    ------
    ModelNotFoundError
        If a file is damaged, or the index names a file that does not exist.
    """
    files = sorted(folder.glob("*.safetensors"))
    if index is not None:
        names = index.get("weight_map")
        if not isinstance(names, dict) or not all(
            isinstance(one, str) and Path(one).name == one for one in names.values()
        ):
            raise unreadable(source, "has an index of weights that is not readable (weight_map names no files)")
        files = [folder / name for name in sorted(set(names.values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise unreadable(
                source, f"lacks {len(missing)} files of weights that its index names, such as {missing[0]!r}"
            )
    shapes: Shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise unreadable(source, f"has damaged weights in {file.name} ({one_line(error)})") from error
    return shapes if files else None
