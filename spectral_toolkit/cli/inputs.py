"""Reads and checks the input of commands: layers, numbers by name, images, models, stores.

Libraries are imported inside the functions, so that ``--help`` appears at once.
"""

from __future__ import annotations

import math
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .._compute.processes import launched
from .._io.outputs import local_path, refuse_foreign
from ..errors import SpectralToolkitError, StoreError, StudyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from .._models import Model

MAX_SCENES = 100_000  # 6 GB of pixels and labels; a larger number is a typing error
MAX_LAYERS = 1000  # in one range of --layers; the deepest vision transformers have fewer than a hundred


IMPORTED: list[str] = []
"""Modules that the present command imported, for processes that it starts."""


def import_modules(names: Sequence[str]) -> None:
    """Import modules that are installed, or in this folder."""
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            import_module(name)
        except (ImportError, ValueError) as error:  # ValueError: an empty name
            raise SpectralToolkitError(
                f"--with {name!r} cannot be imported ({error}): give the name of a module that is installed, or of a "
                "file in this folder, without .py."
            ) from error
    IMPORTED[:] = names


def say_loading() -> None:
    """Tell a person at a terminal why nothing happens for 5 to 11 s, once nothing that is wrong can be told at once."""
    if sys.stderr.isatty() and not launched():
        print("Loading torch and its libraries, which takes a few seconds.", file=sys.stderr, flush=True)


def refuse_before_study(config: Path, check: Path | None, out: Path | None, *, overwrite: bool) -> None:
    """Say what is missing, or in the way, before anything is loaded; the rest is said when the study is read."""
    for option, path in (("--config", config), ("--check", check)):
        if path is not None and not local_path(path, option).is_file():
            what = "the YAML file of a study, such as docs/study.yaml" if option == "--config" else "a study's JSON"
            raise StudyError(f"{option} {str(path)!r} is not a file: give {what}.")
    page = out or Path(f"{config.stem}.html")
    if check is None and not overwrite and page.exists() and page.with_suffix(".json").exists():
        refuse_foreign(page, overwrite=False)


def parse_layers(text: str) -> str | list[int | str]:
    """Read ``--layers``: ``all``, or numbers, ranges (both ends included) and names separated by commas.

    Examples
    --------
    >>> parse_layers("all")
    'all'
    >>> parse_layers("0, 4-6, -1, encoder.layer.3")
    [0, 4, 5, 6, -1, 'encoder.layer.3']
    """
    if text.strip() == "all":
        return "all"
    layers: list[int | str] = []
    for part in split(text):
        if match := re.fullmatch(r"(\d+)-(\d+)", part):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise SpectralToolkitError(f"--layers {part!r} is in descending order: write the smaller number first.")
            if last - first >= MAX_LAYERS:
                raise SpectralToolkitError(
                    f"--layers {part!r} spans more than {MAX_LAYERS} layers: give numbers of layers that the model "
                    "has, or 'all'."
                )
            layers.extend(range(first, last + 1))
        else:
            layers.append(int(part) if re.fullmatch(r"-?\d+", part) else part)
    if not layers:
        raise SpectralToolkitError(f"--layers {text!r} names no layer: give 'all', or numbers such as 0,2,5-8.")
    return layers


def check_layers(text: str, wanted: str | list[int | str], depth: int) -> None:
    """Refuse the first number beyond the model's layers, without repeating the whole range."""
    for item in wanted if isinstance(wanted, list) else []:
        if isinstance(item, int) and not -depth <= item < depth:
            raise SpectralToolkitError(
                f"--layers {text!r}: the model has {depth} layers, numbered 0 to {depth - 1}; there is no layer {item}."
            )


def stored_layers(text: str, names: Sequence[str]) -> str | list[str]:
    """The names that ``--layers`` stands for, among the layers of a store; ``all`` stays as it is."""
    wanted = parse_layers(text)
    if isinstance(wanted, str):
        return wanted
    check_layers(text, wanted, len(names))
    return list(dict.fromkeys(names[item] if isinstance(item, int) else item for item in wanted))


def stored_weights(texts: Sequence[str] | None, names: Sequence[str]) -> dict[str, float]:
    """The weights that ``--weight`` gives to the layers of a store, by their names or numbers."""
    return {
        names[int(name)] if name not in names and name.isdecimal() and int(name) < len(names) else name: value
        for name, value in numbers_by_name(texts, "--weight").items()
    }


def numbers_by_name(texts: Sequence[str] | None, option: str) -> dict[str, float]:
    """Read options such as ``--weight blocks.3=0.5``, each of which may be repeated.

    Examples
    --------
    >>> numbers_by_name(["blocks.3=0.5", "blocks.4 = 2"], "--weight")
    {'blocks.3': 0.5, 'blocks.4': 2.0}
    """
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or math.isnan(value):
            raise SpectralToolkitError(f"{option} {text!r} is not understood: write a name, '=' and a number.")
        if name in found:
            raise SpectralToolkitError(f"{option} names {name!r} twice: give it one number.")
        found[name] = value
    return found


def split(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def load_model(source: str, device: str) -> Model:
    """Call ``st.load_model`` without the progress bar for reading weights; downloads keep theirs."""
    import spectral_toolkit as st

    quiet_libraries()
    return st.load_model(source, device=device)


def quiet_libraries() -> None:
    """Silence the progress bars and advice of transformers, which are not part of our output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def read_pictures(sources: list[str], seed: int) -> str | list[str] | xr.DataArray:
    """The images that ``--images`` stands for: generated scenes, or files, globs and folders that can be read."""
    import spectral_toolkit as st

    for source in sources:
        # A file or pattern of that name takes precedence, however unlikely it is.
        if not source.startswith("scenes:") or local_path(source, "--images").exists():
            continue
        count = int(match[1]) if (match := re.fullmatch(r"scenes:(\d{1,9})", source)) else 0
        if len(sources) > 1 or not 1 <= count <= MAX_SCENES:
            raise SpectralToolkitError(
                f"--images {source!r} is not understood: write scenes:N alone, with N a whole number from 1 to "
                f"{MAX_SCENES:,}, such as scenes:8."
            )
        return st.scenes.sample(count, seed=seed)["pixels"]
    source = sources[0] if len(sources) == 1 else sources
    st.load_images(source)  # a wrong path is reported before a model is loaded
    return source  # the source is kept, because the report says where its images came from


def open_activations(path: Path, option: str = "--activations") -> xr.DataTree:
    """Open and check what ``capture`` wrote; values are read when they are needed."""
    import xarray as xr

    from .._capture.stores import check_opened, is_unfinished

    refuse_missing(option, path, "capture")
    if is_unfinished(path):
        raise StoreError(
            f"{option} {str(path)!r} holds a capture that was interrupted: run the same 'capture' again, which "
            "resumes where it stopped."
        )
    try:
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    except Exception as error:  # zarr, xarray and numcodecs each raise errors of their own
        raise StoreError(f"{str(path)!r} cannot be read as a zarr store ({type(error).__name__}: {error}).") from error
    check_opened(path, tree)
    return tree


def refuse_missing(option: str, path: Path, command: str) -> None:
    """Refuse a store that does not exist, before loading anything that takes seconds."""
    if not local_path(path, option).is_dir():
        raise StoreError(f"{option} {str(path)!r} is not a folder: give the zarr folder that '{command}' wrote.")


def open_eigenvectors(path: Path) -> xr.Dataset:
    """Read what ``solve`` wrote."""
    import xarray as xr

    refuse_missing("--eigenvectors", path, "solve")
    try:
        return xr.open_dataset(path, engine="zarr", consolidated=False).load()
    except Exception as error:  # zarr, xarray and numcodecs each raise errors of their own
        raise StoreError(f"{str(path)!r} cannot be read as a zarr store ({type(error).__name__}: {error}).") from error
