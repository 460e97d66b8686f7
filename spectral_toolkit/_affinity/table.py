"""The kinds, kernels, heads and scopes that exist, and which of them go together; errors and documentation read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._compute.arguments import choice
from ..errors import AffinityError
from .features import KINDS
from .kernel import KERNELS, STEPS, Kernel, Option, register
from .kernels import cosine, rbf, shifted_cosine, softmax

THRESHOLD = Option(
    "threshold",
    "similarities at or below it count as zero",
    "a number in [0, 1)",
    lambda value: 0 <= value < 1,
)
BANDWIDTH = Option(
    "bandwidth",
    "in units of the root mean square distance of a layer and head",
    "a number above 0",
    lambda value: value > 0,
)
WITHIN = Option(
    "within",
    "how many neighbours a patch has in its image, per layer and head",
    "a whole number of at least 1",
    lambda value: value >= 1 and value == int(value),
)
ACROSS = Option(
    "across",
    "how many neighbours a patch has in the other images, per layer and head",
    "a whole number of at least 0",
    lambda value: value >= 0 and value == int(value),
)

Softmax = register(
    Kernel(
        "softmax",
        "mean over heads of softmax(scale q k' + bias)",
        "softmax({}·{} / √d), the model's own attention",
        "softmax, as in the model",
        softmax.prepare,
        kinds=("qk",),
        attention=True,
        columns=softmax.columns,
    )
)
Cosine = register(
    Kernel(
        "cosine",
        "mean over heads of cos(l, r), zero where <= threshold",
        "cos({}, {})",
        "cosine, small values dropped",
        cosine.prepare,
        options=(THRESHOLD, STEPS),
    )
)
ShiftedCosine = register(
    Kernel(
        "shifted_cosine",
        "mean over heads of (1 + cos(l, r)) / 2",
        "(1 + cos({}, {})) / 2",
        "shifted cosine (1 + cos) / 2",
        shifted_cosine.prepare,
        shifted_cosine.factors,
        scopes=("image", "dataset"),
    )
)
NearestNeighbours = register(
    Kernel(
        "knn",
        "mean over heads of cos(l, r), where r is among the nearest in its image or in the others",
        "cos({}, {}) of nearest neighbours",
        "nearest neighbours by cosine",
        None,
        scopes=("dataset",),
        options=(WITHIN, ACROSS, THRESHOLD),
        searches=True,
    )
)
RBF = register(
    Kernel(
        "rbf",
        "mean over heads of exp(-|l - r|^2 / (2 (bandwidth s)^2))",
        "exp(-|{} - {}|² / 2σ²)",
        "rbf: exp(-distance²)",
        rbf.prepare,
        options=(BANDWIDTH, STEPS),
        positive=True,
    )
)
KERNELS.complete()

HEADS = ("mean", "each")
SCOPES = ("image", "dataset")
SEARCHES = ("exact", "faiss")


def default_kernel(kind: str, scope: str = "image") -> str:
    """Return the default kernel: softmax for query-key, cosine for other kinds; nearest neighbours for a dataset."""
    if scope == "dataset":
        return "knn"
    return "softmax" if kind == "qk" else "cosine"


def several_kinds(kinds: str | Sequence[str]) -> list[str]:
    """One kind of affinity or several, as a list; refuses none at all."""
    if not kinds:
        raise AffinityError(f"kinds={kinds!r} is empty: give one or more of {', '.join(KINDS)}.")
    return [kinds] if isinstance(kinds, str) else list(kinds)


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


def check_combination(kind: str, kernel: object, heads: str, scope: str, options: Mapping[str, object]) -> str:
    """Return the name of the kernel to use; raise an error of one sentence if the combination does not exist.

    Examples
    --------
    >>> check_combination("vv", None, "mean", "image", {})
    'cosine'
    """
    for name, value, known in (("kind", kind, KINDS), ("heads", heads, HEADS), ("scope", scope, SCOPES)):
        choice(name, value, known, error=AffinityError)
    line, _ = KERNELS.choose(default_kernel(kind, scope) if kernel is None else kernel)
    kernel = line.name
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
        if option not in line.option_names:
            raise AffinityError(
                f"{option}={options[option]!r} does not apply to kernel={kernel!r}, which takes "
                f"{', '.join(line.option_names)}: leave it out."
            )
    return kernel
