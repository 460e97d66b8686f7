"""The numbers of a study as its JSON holds them, and as its page, its tables and a check read them."""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

from .._analysis.trust import Level

CellName: TypeAlias = Literal["model", "pictures", "affinity", "layers"]
Measure: TypeAlias = Literal[
    "assigned_miou", "matched_accuracy", "matched_miou", "overclustered_miou", "overclustered_accuracy"
]
CELL_NAMES: tuple[CellName, ...] = ("model", "pictures", "affinity", "layers")
"""What tells study cells apart."""


class TrustRecord(TypedDict):
    """A statement on how far to believe a result."""

    level: Level
    text: str


class AnswerRecord(TypedDict):
    """One result: of an image, or of all images that were solved as one problem, whose name is None."""

    image: str | None
    eigenvalue: list[float | None]
    eigengap: list[float | None]
    residual: list[float | None]
    converged: list[bool]
    degenerate_group: list[int]
    layer_share: dict[str, list[float | None]]
    layer_mass: dict[str, list[float | None]]
    isolated_cells: int
    trust: list[TrustRecord]


class Estimate(TypedDict):
    """A score and the ends of its interval; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None


class ScoreRecord(Estimate):
    """One score, and the same of every control where there are labels."""

    controls: NotRequired[dict[str, Estimate]]
    beats_controls: NotRequired[bool | None]
    verdict: NotRequired[str]


class ScoresRecord(TypedDict):
    """Scores over all images of a set."""

    kernel: str
    n_bootstrap: int
    confidence: float
    labelled: bool
    controlled: NotRequired[bool]
    notes: str
    values: dict[str, ScoreRecord]


class RegionsRecord(TypedDict):
    """How well regions of each image alone fit the labels."""

    n: int
    oracle_miou: float | None
    oracle_accuracy: float | None


class ClustersRecord(TypedDict):
    """How well clusters over the whole set fit the labels; what was asked for may be as many as categories."""

    asked: int | str
    n: int
    assigned_miou: float | None
    matched_accuracy: float | None
    matched_miou: float | None
    overclustered_miou: float | None
    overclustered_accuracy: float | None


class EvaluationRecord(TypedDict):
    """An evaluation as papers do it, and those of the controls."""

    n_pixels: int
    regions: RegionsRecord
    clusters: list[ClustersRecord]
    controls: NotRequired[dict[str, EvaluationRecord]]
    notes: NotRequired[str]


class NumbersRecord(TypedDict):
    """What was computed of a study cell."""

    settings: dict[str, object]
    answers: list[AnswerRecord]
    scores: ScoresRecord | None
    evaluation: NotRequired[EvaluationRecord]


class CellRecord(NumbersRecord):
    """A study cell."""

    model: str
    pictures: str
    affinity: str
    layers: str
    group: str
    content_sha256: str


class PicturesRecord(TypedDict):
    """One set of images."""

    label: str
    n: int
    names: list[str]
    sizes: list[list[int]]
    sha256: str
    labels_sha256: str | None
    layout: NotRequired[str]
    categories: NotRequired[list[object]]


class ProvenanceRecord(TypedDict):
    """By which versions of what it was computed, and how sums were rounded."""

    versions: dict[str, str]
    code_sha256: str
    arithmetic: dict[str, object]


class StudyRecord(TypedDict):
    """The whole JSON; ``study`` is what was asked for, as plain data."""

    format: str
    schema: int
    study: SettingsRecord
    provenance: ProvenanceRecord
    models: list[dict[str, object]]
    pictures: list[PicturesRecord]
    cells: list[CellRecord]


class SettingsRecord(TypedDict):
    """What a page says of the settings of a study, of which there are more."""

    title: str
    question: str | None
    scope: str
    seed: int
    n_eigenvectors: int
    show: int
    scores: NotRequired[bool]
    layers: list[dict[str, object]]
    affinities: list[dict[str, object]]
