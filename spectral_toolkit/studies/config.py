"""Defines a study: models x images x affinities x layers, and what a file may ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, cast

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, model_validator

from .._affinity.features import KINDS
from .._affinity.presets import PRESETS
from .._affinity.table import HEADS, KERNELS, SCOPES, check_combination
from ..datasets import LAYOUTS
from ..errors import AffinityError
from .fields import (
    NotNegative,
    Part,
    Text,
    YesNo,
    distinct,
    fault,
    finite,
    listed,
    named,
    not_negative,
    one_of,
    refusal,
    text,
    unknown_key,
    whole,
)

CATEGORIES = "categories"
"""The number of clusters that means as many as there are categories."""
EACH = "each"
"""The choice of layers that means every layer alone."""
MAX_SCENES = 100_000
MAX_LAYERS = 10_000
_DTYPES = ("float32", "float16", "bfloat16", "float64")


def portable(text: str) -> str:
    """A path as written if it is relative, otherwise its last part: the folders above it are specific to this machine.

    Examples
    --------
    >>> portable("photos/*.jpg"), portable("/home/ada/photos/*.jpg")
    ('photos/*.jpg', '.../*.jpg')
    """
    path = Path(text)
    return f".../{path.name}" if path.is_absolute() or text.startswith("~") else text


PathText = Annotated[Text, PlainSerializer(portable)]
Texts = Annotated[tuple[PathText, ...], BeforeValidator(listed)]
IgnoredLabels = Annotated[tuple[Annotated[int, whole(-(2**31), 2**31 - 1)], ...], BeforeValidator(listed)]
_NEEDED = Field(default=None, validate_default=True)
"""A key that must be there: without it, the message says what was expected."""
_UNNAMED = "?"
"""A label for what is going to be refused."""


def _clusters(value: object) -> tuple[int | str, ...]:
    """Numbers of clusters, or the word for as many as there are categories."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if one != CATEGORIES and (isinstance(one, bool) or not isinstance(one, int) or not 2 <= one <= 10_000):
            raise fault(f"{CATEGORIES}, or a whole number from 2 to 10000, or several of these")
    return tuple(dict.fromkeys(cast("list[int | str]", listed(value))))


def _categories(value: object) -> tuple[tuple[int, str], ...]:
    """Numbers and names, from a list of names or a mapping."""
    pairs: list[tuple[object, object]] = list(enumerate(listed(value)))
    if isinstance(value, dict):  # keys of a file are texts, whatever is written
        pairs = [(int(key) if isinstance(key, str) and key.isdecimal() else key, name) for key, name in value.items()]
    if not pairs or any(isinstance(number, bool) or not isinstance(number, int) for number, _ in pairs):
        raise fault("names in a list, or names by the numbers in the files")
    names = tuple((int(cast("int", number)), text(name)) for number, name in pairs)
    if len({name for _, name in names}) < len(names):
        raise fault("names that all differ")
    return names


class ModelChoice(Part):
    """One model.

    Attributes
    ----------
    label
        Its name in the results.
    source
        A bundled name, a hub name, or a folder as written in the file.
    dtype
        Precision of its weights; None takes the precision of the checkpoint.
    timesteps
        The timesteps at which a denoiser is shown the images; empty takes its own.
    revision
        The revision of a hub model.
    """

    WHAT: ClassVar[str] = "a model"

    label: Text
    source: PathText = _NEEDED
    dtype: Annotated[str, one_of(_DTYPES)] | None = None
    revision: Text | None = None
    timesteps: Annotated[tuple[Annotated[int, whole(0, 1_000_000)], ...], BeforeValidator(listed)] = Field(
        default=(), exclude_if=lambda timesteps: not timesteps
    )

    @classmethod
    def completed(cls, given: object) -> object:
        return {"source": given} if isinstance(given, str) else given

    @classmethod
    def filled(cls, given: dict[str, object]) -> dict[str, object]:
        source = given.get("source")
        return {"label": (isinstance(source, str) and portable(source)) or _UNNAMED, **given}


class ScenesChoice(Part):
    """Generated scenes, which come with labels."""

    WHAT: ClassVar[str] = "a series of scenes"
    PLURAL: ClassVar[str] = "scenes"

    n: Annotated[int, whole(1, MAX_SCENES)] = _NEEDED
    seed: Annotated[int, whole(0)] = 0
    size: Annotated[int, whole(8, 8192)] = 96

    @classmethod
    def completed(cls, given: object) -> object:
        return {"n": given} if isinstance(given, int) else given

    @model_validator(mode="after")
    def _in_patches(self) -> ScenesChoice:
        if self.size % 8:
            raise fault("a multiple of 8", "size")
        return self


class DatasetChoice(Part):
    """A published data set on the user's disk, which comes with labels.

    Attributes
    ----------
    layout
        How it lies there: a name of ``st.datasets.LAYOUTS``.
    root
        Its folder, as written in the file.
    split
        Which part of it; None takes that of the layout.
    n, seed
        How many of its images are drawn, and the seed; None takes all.
    """

    WHAT: ClassVar[str] = "a data set"
    PLURAL: ClassVar[str] = "data sets"

    layout: Annotated[str, one_of(LAYOUTS)] = _NEEDED
    root: PathText = _NEEDED
    split: Text | None = None
    n: Annotated[int, whole(1)] | None = None
    seed: Annotated[int, whole(0)] = 0


class PictureChoice(Part):
    """One set of images: files (paths, folders and patterns as written), generated scenes, or a published data set.

    Attributes
    ----------
    labels
        Patterns of label maps, one file per image with the same stem; scenes and data sets have labels of their own.
    categories
        Names of the categories of such maps, in a list or by the numbers in the files.
    ignore
        Labels that mean 'no label', besides -1.
    """

    WHAT: ClassVar[str] = "a set of images"
    OWN: ClassVar[tuple[str, ...]] = ("label",)

    label: Text
    files: Texts = ()
    labels: Texts = ()
    scenes: ScenesChoice | None = None
    dataset: DatasetChoice | None = Field(default=None, exclude_if=lambda dataset: dataset is None)
    categories: Annotated[tuple[tuple[int, str], ...], BeforeValidator(_categories)] = Field(
        default=(), exclude_if=lambda categories: not categories
    )
    ignore: IgnoredLabels = Field(default=(), exclude_if=lambda ignore: not ignore)

    @classmethod
    def completed(cls, given: object) -> object:
        label, content = cast("tuple[str, object]", given)
        if not isinstance(content, dict):
            content = {"files": content}
        elif "label" in content:
            raise unknown_key("label", cls.keys(), cls.WHAT)
        return {**content, "label": label}

    @classmethod
    def filled(cls, given: dict[str, object]) -> dict[str, object]:
        sources = [name for name in ("files", "scenes", "dataset") if name in given]
        if len(sources) != 1:
            raise fault("either files, scenes or a dataset")
        own = {"scenes": ScenesChoice, "dataset": DatasetChoice}.get(sources[0])
        if own is not None and given[sources[0]] is None:
            raise fault(f"{own.WHAT} with any of the keys {', '.join(own.keys())}", sources[0])
        if own is not None and "labels" in given:
            raise fault(f"no labels for {own.PLURAL}, which come with their own", "labels")
        if "categories" in given and "labels" not in given:
            raise fault("labels beside it, whose categories are named", "categories")
        if "ignore" in given and "labels" not in given and "scenes" not in given:
            raise fault("labels beside it, some of which are ignored", "ignore")
        return given

    def named_categories(self) -> list[str] | dict[int, str]:
        """The names as `spectral_toolkit.datasets.folder` takes them."""
        if all(number == place for place, (number, _) in enumerate(self.categories)):
            return [name for _, name in self.categories]
        return dict(self.categories)


def _named_sets(value: object) -> list[tuple[str, object]]:
    """Sets of images with their names: those of a mapping, or all paths of a list as one set."""
    if isinstance(value, dict):
        if not value:
            raise fault("at least one set")
        return [(text(name), item) for name, item in value.items()]
    items = listed(value)
    if not all(isinstance(item, str) for item in items):
        raise fault("sets by name, such as {cats: 'cats/*.jpg'}, or paths")
    return [(portable(str(items[0])) if len(items) == 1 else "pictures", items)]


class AffinityChoice(Part):
    """One affinity: its kind, its kernel, and the kernel's options."""

    WHAT: ClassVar[str] = "an affinity"

    label: Text
    kind: Annotated[str, one_of(KINDS)] = _NEEDED
    kernel: Annotated[str, one_of(KERNELS)] | None = None
    heads: Annotated[str, one_of(HEADS)] = "mean"
    options: tuple[tuple[str, float], ...] = ()

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        names = (name for kernel in KERNELS.values() for name in kernel.option_names if name != "search")
        return "kind", "label", "kernel", "heads", *dict.fromkeys(names)

    @classmethod
    def completed(cls, given: object) -> object:
        return {"kind": given} if isinstance(given, str) else given

    @classmethod
    def filled(cls, given: dict[str, object]) -> dict[str, object]:
        numbers: dict[str, float] = {}
        for name in sorted(given.keys() - cls.model_fields.keys()):
            numbers[name] = not_negative(given.pop(name), name)
        written = [given.get("kind"), given.get("kernel"), "each head" if given.get("heads") == "each" else None]
        parts = [str(one) for one in written if one is not None]
        label = " ".join([*parts, *(f"{name} {value:g}" for name, value in numbers.items())])[:80] or _UNNAMED
        return {"label": label, **given, "options": tuple(numbers.items())}


def _kernels(value: object) -> dict[str, str]:
    """The kernel of every kind, from one for all or from a mapping."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        return dict.fromkeys(KINDS, named(value, KERNELS))
    for kind, kernel in value.items():
        if kind not in KINDS:
            raise unknown_key(kind, KINDS, "kernels by affinity")
        named(kernel, KERNELS, kind)
    return value


class LayerChoice(Part):
    """Layers solved jointly: the name of a preset, or names and numbers (negative numbers count from the end)."""

    label: Text
    layers: str | tuple[int | str, ...]

    @classmethod
    def completed(cls, given: object) -> object:
        label, item = cast("tuple[str | None, object]", given)
        if isinstance(item, str) and item in (*PRESETS, EACH):
            if label is not None and item == EACH:
                raise fault(f"one choice; {EACH!r} means many, so write it in a list without a name")
            return {"label": label or item, "layers": item}
        numbers = item if isinstance(item, list) else [item]
        if not numbers or not all(isinstance(one, int | str) and not isinstance(one, bool) for one in numbers):
            raise fault(f"{', '.join((*PRESETS, EACH))}, the name or number of a layer, or a list of these")
        expanded: list[int | str] = []
        for one in numbers:
            expanded += _expanded(cast("int | str", one))
            if len(expanded) > MAX_LAYERS:
                raise fault(f"at most {MAX_LAYERS} layers")
        return {"label": label or ", ".join(map(str, numbers)), "layers": tuple(expanded)}


def _expanded(item: int | str) -> list[int | str]:
    """Replace ranges such as 2-5 by numbers, both ends included."""
    if isinstance(item, int):
        if not -MAX_LAYERS <= item <= MAX_LAYERS:
            raise fault(f"a whole number from {-MAX_LAYERS} to {MAX_LAYERS}")
        return [item]
    match = re.fullmatch(r"(\d{1,4})-(\d{1,4})", text(item))
    if match is None:
        return [item]
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise fault("a range whose smaller number comes first")
    return list(range(first, last + 1))


def _named_layers(value: object) -> list[tuple[str | None, object]]:
    """Choices of layers with their names: each item of a list is one choice, and a mapping gives names to several."""
    if not isinstance(value, dict):
        return [(None, item) for item in listed(value)]
    if not value:
        raise fault("at least one choice")
    return [(text(name), item) for name, item in value.items()]


class EvaluationChoice(Part):
    """How segments are evaluated at the pixels of the labels, as papers do.

    Attributes
    ----------
    regions
        How many segments every image is divided into; each takes the category most frequent in it.
    clusters
        How many segments the whole set is divided into, one number or several; ``categories`` is as many as there are
        categories.
    """

    WHAT: ClassVar[str] = "an evaluation"

    regions: Annotated[int, whole(2, 1000)] = 6
    clusters: Annotated[tuple[int | str, ...], BeforeValidator(_clusters)] = (CATEGORIES,)

    @classmethod
    def completed(cls, given: object) -> object:
        return {} if given is True else given


class Tolerances(Part):
    """How far a number may move before ``--check`` reports it.

    Attributes
    ----------
    eigenvalue
        For eigenvalues and eigengaps, which lie in [0, 2]: absolute.
    share
        For a layer's part of a component's eigenvalue or degrees, which sum to 1 over the layers: absolute.
    score
        For scores, which lie in [0, 1] ([-1, 1] for the adjusted Rand index): absolute.
    subspace
        For components that cannot be told apart: the sine of the largest angle between their old and their new space.
    """

    WHAT: ClassVar[str] = "the tolerances"

    eigenvalue: NotNegative = 1e-4
    share: NotNegative = 0.01
    score: NotNegative = 0.01
    subspace: NotNegative = 0.05


def _tolerance(value: object) -> float:
    return finite(value, lambda found: 0 < found < 1, "a number between 0 and 1")


class Study(Part):
    """A whole study: every model runs on every set of images, and every affinity is solved for every choice of layers.

    Attributes
    ----------
    folder
        The folder of the file, from which relative paths start.
    question
        What the study asks, in a sentence that its page shows.
    scope
        ``"image"``: every image alone; ``"dataset"``: all images of a set as one problem.
    tolerance
        Tolerance of the solver: the largest residual that counts as converged.
    threads
        Number of torch's threads, so that sums are rounded alike on machines with different numbers of cores; None
        leaves torch's own.
    scores
        Whether to score the affinities over sets of two or more images.
    controls
        Whether to score the controls, too, where there are labels.
    evaluate
        How segments are evaluated at the pixels of the labels; None leaves that out.
    show
        How many images of every set the page shows; the numbers are over all images.
    keep_activations
        Whether activations stay in the cache after the last cell that needs them.
    check
        How far numbers may move.
    """

    WHAT: ClassVar[str] = "a study"
    OWN: ClassVar[tuple[str, ...]] = ("folder",)

    models: Annotated[tuple[ModelChoice, ...], BeforeValidator(listed), distinct]
    pictures: Annotated[tuple[PictureChoice, ...], BeforeValidator(_named_sets)]
    affinities: Annotated[tuple[AffinityChoice, ...], BeforeValidator(listed), distinct] = Field(
        default=("qk", "vv"), validate_default=True
    )
    layers: Annotated[tuple[LayerChoice, ...], BeforeValidator(_named_layers), distinct] = Field(
        default=("all",), validate_default=True
    )
    title: Text = "A study"
    question: Text | None = Field(default=None, exclude_if=lambda question: question is None)
    scope: Annotated[str, one_of(SCOPES)] = "image"
    n_eigenvectors: Annotated[int, whole(1, 10_000)] = 10
    tolerance: Annotated[float, PlainValidator(_tolerance)] = 1e-6
    seed: Annotated[int, whole(0)] = 0
    device: Text = "auto"
    size: Annotated[int, whole(1, 100_000)] | None = None
    batch_size: Annotated[int, whole(1)] = 8
    threads: Annotated[int, whole(1, 1024)] | None = None
    scores: YesNo = True
    controls: YesNo = True
    evaluate: Annotated[EvaluationChoice | None, BeforeValidator(lambda given: None if given is False else given)] = (
        Field(default=None, exclude_if=lambda evaluate: evaluate is None)
    )
    show: Annotated[int, whole(1, 1000)] = 4
    keep_activations: YesNo = False
    check: Tolerances = Tolerances()
    kernel: Annotated[dict[str, str], PlainValidator(_kernels)] = Field(default={}, exclude=True)
    folder: Path = Field(default=Path("."), exclude=True)

    @classmethod
    def filled(cls, given: dict[str, object]) -> dict[str, object]:
        if "folder" in given:
            raise unknown_key("folder", cls.keys(), cls.WHAT)
        for needed in ("models", "pictures"):
            if needed not in given:
                raise refusal(f"{needed!r} is missing: a study needs `models` and `pictures`.", "")
        return given

    @model_validator(mode="after")
    def _combined(self) -> Study:
        """Every affinity with the kernel of its kind, where it names none."""
        chosen = []
        for place, one in enumerate(self.affinities):
            one = one.model_copy(update={"kernel": one.kernel or self.kernel.get(one.kind)})
            try:
                check_combination(one.kind, one.kernel, one.heads, self.scope, dict(one.options))
            except AffinityError as error:
                raise refusal("", f": {error}", f"affinities[{place}]") from error
            chosen.append(one)
        return self.model_copy(update={"affinities": tuple(chosen)})

    def record(self) -> dict[str, object]:
        """The study as plain data without paths of this machine: absolute paths keep their last part only."""
        return self.model_dump(mode="json")
