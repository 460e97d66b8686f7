"""The kinds, kernels, heads and scopes that exist, and which of them go together; errors and documentation read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from ..errors import AffinityError
from . import neighbours
from .features import KINDS
from .kernels import cosine, rbf, shifted_cosine, softmax


@dataclass(frozen=True)
class Kernel:
    """One line of the table: a kernel, what it works on, and its formula."""

    module: ModuleType
    kinds: tuple[str, ...]
    options: tuple[str, ...]
    formula: str
    low_rank: bool = False
    scopes: tuple[str, ...] = ("image",)


KERNELS: dict[str, Kernel] = {
    "softmax": Kernel(softmax, ("qk",), ("steps",), "mean over heads of softmax(scale q k' + bias)"),
    "cosine": Kernel(
        cosine, tuple(KINDS), ("threshold", "steps"), "mean over heads of cos(l, r), zero where <= threshold"
    ),
    "shifted_cosine": Kernel(
        shifted_cosine,
        tuple(KINDS),
        ("steps",),
        "mean over heads of (1 + cos(l, r)) / 2",
        low_rank=True,
        scopes=("image", "dataset"),
    ),
    "knn": Kernel(
        neighbours,
        tuple(KINDS),
        ("within", "across", "threshold", "search"),
        "mean over heads of cos(l, r), where r is among the nearest in its image or in the others",
        scopes=("dataset",),
    ),
    "rbf": Kernel(
        rbf, tuple(KINDS), ("bandwidth", "steps"), "mean over heads of exp(-|l - r|^2 / (2 (bandwidth s)^2))"
    ),
}
HEADS = ("mean", "each")
SCOPES = ("image", "dataset")
SEARCHES = ("exact", "faiss")


def default_kernel(kind: str, scope: str = "image") -> str:
    """Return the default kernel: softmax for query-key, cosine for other kinds; nearest neighbours for a dataset."""
    if scope == "dataset":
        return "knn"
    return "softmax" if kind == "qk" else "cosine"


def kernels_of(kernel: str | Mapping[str, str] | None, kinds: Sequence[str]) -> dict[str, str | None]:
    """Return the kernel of each kind, from one kernel for all or from a mapping; None is the default.

    Examples
    --------
    >>> kernels_of({"vv": "rbf"}, ("qk", "vv"))
    {'qk': None, 'vv': 'rbf'}
    """
    if not isinstance(kernel, Mapping):
        return dict.fromkeys(kinds, kernel)
    if unknown := [kind for kind in kernel if kind not in kinds]:
        raise AffinityError(
            f"kernel names {unknown[0]!r}, which is not one of the kinds asked for: use {', '.join(map(repr, kinds))}."
        )
    return {kind: kernel.get(kind) for kind in kinds}


def check_combination(kind: str, kernel: str | None, heads: str, scope: str, options: Mapping[str, object]) -> str:
    """Return the kernel to use; raise an error of one sentence if the combination does not exist.

    Examples
    --------
    >>> check_combination("vv", None, "mean", "image", {})
    'cosine'
    """
    for name, value, known in (("kind", kind, tuple(KINDS)), ("heads", heads, HEADS), ("scope", scope, SCOPES)):
        if value not in known:
            raise AffinityError(f"{name}={value!r} is not offered: use one of {', '.join(map(repr, known))}.")
    kernel = default_kernel(kind, scope) if kernel is None else kernel
    if kernel not in KERNELS:
        raise AffinityError(f"kernel={kernel!r} is not offered: use one of {', '.join(map(repr, KERNELS))}.")
    line = KERNELS[kernel]
    if kind not in line.kinds:
        fitting = [name for name, other in KERNELS.items() if kind in other.kinds]
        raise AffinityError(
            f"kernel={kernel!r} works on {', '.join(line.kinds)} only, not on {kind!r}: use one of "
            f"{', '.join(map(repr, fitting))}."
        )
    if scope not in line.scopes:
        fitting = [name for name, other in KERNELS.items() if kind in other.kinds and scope in other.scopes]
        raise AffinityError(
            f"kernel={kernel!r} is not offered with scope={scope!r}: use one of {', '.join(map(repr, fitting))}, or "
            f"scope={line.scopes[0]!r}."
        )
    if scope == "dataset" and "steps" in options:
        raise AffinityError(f"steps={options['steps']!r} is not offered with scope='dataset': leave it out.")
    for option in options:
        if option not in line.options:
            raise AffinityError(
                f"{option}={options[option]!r} does not apply to kernel={kernel!r}, which takes "
                f"{', '.join(line.options)}: leave it out."
            )
    return kernel
