"""Checks the JSON files of a model's folder before any library reads them.

The libraries build whatever a file asks for: ten million layers one after the other, tables of 10**18 positions,
divisions by zero heads. Here the file is read within bounds, and settings with a known meaning are checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers.activations import ACT2FN

from ..errors import ModelNotFoundError, UnsupportedModelError

MAX_BYTES = 20_000_000
MAX_DEPTH = 32
_MAX_VALUE = 10**15
_WHOLE = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "num_channels"), (1, 10**6)),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), (1, 10**4)),
    **dict.fromkeys(("num_single_layers", "num_register_tokens", "layers_per_block"), (0, 10**4)),
    **dict.fromkeys(("image_size", "patch_size", "sample_size"), (1, 2**16)),
    **dict.fromkeys(("num_labels", "num_train_timesteps"), (0, 10**6)),
}
"""Settings that are whole numbers, or lists of them, at any depth: the least and the most."""
_NAMES_ONLY = ("id2label", "label2id", "task_specific_params")
"""Settings whose keys are names of classes and tasks."""


def unreadable(source: str, what: str) -> ModelNotFoundError:
    """The error for a model whose files contradict themselves."""
    return ModelNotFoundError(f"The model {source!r} {what}: correct the file, or get the model again.")


def one_line(error: BaseException, limit: int = 300) -> str:
    """The whole message of a library's error, on one line, with its class where the message says little."""
    text = " ".join(str(error).split()).rstrip(".:")
    text = text if len(text) > 20 else f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def read_settings_file(source: str, path: Path, name: str = "") -> dict[str, object]:
    """The object in a JSON file.

    Raises
    ------
    ModelNotFoundError
        If the file is too large or too deep, is not JSON, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        found = json.loads(data.decode("utf-8"), parse_constant=_constant)
        if not isinstance(found, dict):
            raise ValueError(f"{'null' if found is None else type(found).__name__}, where an object is expected")
        for key, value, depth in _values(found):
            if depth > MAX_DEPTH:
                raise ValueError(f"more than {MAX_DEPTH} objects nested in each other")
            if isinstance(value, int) and abs(value) > _MAX_VALUE:
                raise ValueError(f"{key} is a number of {len(str(value))} digits")
    except RecursionError as error:
        raise unreadable(source, f"has a {name or path.name} that is not readable (nested too deep)") from error
    except (OSError, ValueError) as error:
        raise unreadable(source, f"has a {name or path.name} that is not readable ({one_line(error)})") from error
    return found


def check_settings(
    source: str, path: Path, towers: frozenset[str] = frozenset(), *, name: str = "", plain: bool = True
) -> dict[str, object]:
    """Read a file of settings, and check those with a known meaning.

    Parameters
    ----------
    towers
        Values of ``model_type`` whose width is divided among the heads.
    name
        The name of the file in messages; its own name by default.
    plain
        Whether quantised weights are refused.

    Raises
    ------
    ModelNotFoundError
        If a setting makes no sense.
    UnsupportedModelError
        If weights are quantised.
    """
    settings, file = read_settings_file(source, path, name), name or path.name
    if plain and settings.get("quantization_config") is not None:
        how = settings["quantization_config"]
        method = how.get("quant_method") if isinstance(how, Mapping) else how
        raise UnsupportedModelError(
            f"The model {source!r} asks for quantised weights (quantization_config, {str(method)[:40]!r} in "
            f"{file}), which cannot be captured: take it in float32 or float16, or remove that setting if its "
            "weights are plain."
        )
    for prefix, part in _objects(settings):
        for key, value in part.items():
            expected = _expected(key, value)
            if expected:
                raise unreadable(source, f"has {prefix}{key}={_shown(value)} in its {file}; expected {expected}")
        for larger, smaller in (("image_size", "patch_size"), ("sample_size", "patch_size")):
            sides, steps = (_numbers(part.get(key)) for key in (larger, smaller))
            if sides and steps and max(steps) > min(sides):
                values = f"{prefix}{smaller}={_shown(part[smaller])} and {larger}={_shown(part[larger])}"
                raise unreadable(source, f"has {values} in its {file}; expected a patch no larger than the image")
        width, heads = part.get("hidden_size"), part.get("num_attention_heads")
        is_tower = isinstance(part.get("model_type"), str) and part["model_type"] in towers
        if is_tower and "head_dim" not in part and isinstance(width, int) and isinstance(heads, int) and width % heads:
            values = f"{prefix}hidden_size={width} and num_attention_heads={heads}"
            raise unreadable(source, f"has {values} in its {file}; expected a width that the heads can share evenly")
    return settings


def _expected(name: str, value: object) -> str:
    """What a setting should be, where it is something else; otherwise empty."""
    if value is None:
        return ""
    if name in _WHOLE:
        least, most = _WHOLE[name]
        values = value if isinstance(value, list) else [value]
        if all(isinstance(one, int) and not isinstance(one, bool) and least <= one <= most for one in values):
            return ""
        return f"a whole number from {least} to {most:,}"
    if name in ("dtype", "torch_dtype"):
        found = getattr(torch, value, None) if isinstance(value, str) else None
        plain = isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1
        return "" if plain or value == "auto" else "float32, float16, bfloat16 or float64"
    if name == "hidden_act" and not (isinstance(value, str) and value in ACT2FN):
        return f"one of the activations of transformers, such as 'gelu' ({', '.join(sorted(ACT2FN)[:12])}, ...)"
    if name == "model_type" and not isinstance(value, str):
        return "a text"
    return ""


def _numbers(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    whole = [one for one in values if isinstance(one, int)]
    return whole if len(whole) == len(values) else []


def _objects(settings: dict[str, object], prefix: str = "") -> Iterator[tuple[str, dict[str, object]]]:
    """An object and those inside it, with the prefixes of their names."""
    yield prefix, settings
    for name, value in settings.items():
        if isinstance(value, dict) and name not in _NAMES_ONLY:
            yield from _objects(value, f"{prefix}{name}.")


def _values(found: object) -> Iterator[tuple[str, object, int]]:
    """Every value with its name and depth, without recursion."""
    waiting = [("", found, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        yield name, value, depth
        if depth <= MAX_DEPTH and isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else ((name, one) for one in value)
            waiting += [(key, one, depth + 1) for key, one in inner]


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is not a setting")
    return math.inf if text == "Infinity" else -math.inf


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
