"""The page of a study: the report's cards for every model and set of images, and one table of all study cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import xarray as xr

from .._analysis.scores.judging import compare
from .._analysis.scores.table import SCORES
from .report_data import Caption, Card, Kind, Page, attribute_rows, backgrounds, build_page
from .study_figures import Dots, LayerFigure, layer_figure, score_dots
from .study_record import (
    CELL_NAMES,
    CellRecord,
    Estimate,
    EvaluationRecord,
    Measure,
    NumbersRecord,
    ScoreRecord,
    SettingsRecord,
    StudyRecord,
)
from .templating import render

IMAGE_SHARE = "image_share"
"""The score that says how far eigenvectors only tell images apart."""


@dataclass(frozen=True)
class ScoreText:
    """One score as text, and its interval.

    Attributes
    ----------
    doubted
        Whether it does not beat its controls.
    words
        What has to be read with it, a sentence each.
    """

    value: str
    interval: str
    doubted: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One study cell in the table."""

    label: str
    anchor: str
    kernel: str
    first: str
    gap_after: str
    residual: str
    converged: bool
    warnings: int
    scores: list[ScoreText | None]
    controls: list[tuple[str, list[ScoreText | None]]]
    recipe: str


@dataclass(frozen=True)
class ShownGroup:
    """One model on one set of images."""

    anchor: str
    model: str
    pictures: str
    words: str
    page: Page
    rows: list[Row]
    layers: LayerFigure


@dataclass(frozen=True)
class ShownCell:
    """What a study cell contributes to the page.

    Attributes
    ----------
    label
        The affinity and the choice of layers.
    numbers
        The numbers as in the JSON.
    caption
        Recipe and trust statements for its figures.
    recipe
        Python code that makes its numbers.
    """

    label: str
    eig: xr.Dataset
    numbers: NumbersRecord
    caption: Caption
    recipe: str


@dataclass(frozen=True)
class EvaluatedRow:
    """One row of the evaluations: a study cell, one of its controls, or a published figure."""

    label: str
    figures: list[ScoreText | None]
    is_control: bool = False
    source: str = ""


@dataclass(frozen=True)
class Evaluations:
    """The table of the evaluations of papers."""

    columns: list[str]
    rows: list[EvaluatedRow]
    published: list[EvaluatedRow]
    caption: str


@dataclass(frozen=True)
class StudyPage:
    """Everything that the template draws."""

    title: str
    question: str
    lede: str
    method: str
    facts: list[tuple[str, str]]
    groups: list[ShownGroup]
    rows: list[Row]
    scores: list[str]
    summary_caption: str
    figures: list[Dots]
    controls: str
    limits: list[str]
    evaluations: Evaluations | None
    again: str
    provenance: list[tuple[str, list[tuple[str, str]]]]
    record: dict[str, object] = field(repr=False)

    @property
    def components(self) -> list[int]:
        """Numbers of all components that any study cell has."""
        return sorted({number for group in self.groups for number in group.page.components})

    @property
    def cards(self) -> list[Card]:
        """All images of all groups."""
        return [card for group in self.groups for card in group.page.cards]

    @property
    def backgrounds(self) -> dict[str, list[int]]:
        """Every image once, although each model shows it again."""
        return backgrounds(self.cards)


def shown_group(
    model: str,
    pictures: str,
    cells: Sequence[ShownCell],
    images: object,
    *,
    number: int,
    first_card: int,
    first_row: int,
    scores: Sequence[str],
    show: int,
    max_side: int,
) -> ShownGroup:
    """Gather one model on one set of images; ``first_card`` and ``first_row`` count what precedes it on the page."""
    solved = {cell.label: cell.eig for cell in cells}
    captions = {cell.label: cell.caption for cell in cells}
    page = build_page(None, solved, images, "", max_side, captions=captions, only=show, first_card=first_card)
    n_images = cells[0].eig.sizes["image"]
    shown = f"{len(page.cards)} of {n_images} images shown" if len(page.cards) < n_images else f"{n_images} images"
    said = [str(cell.eig.attrs.get("notes", "")) for cell in cells]
    said += [str((cell.numbers.get("scores") or {}).get("notes", "")) for cell in cells]
    notes = [note for note in dict.fromkeys(said) if note]
    return ShownGroup(
        anchor=f"group-{number}",
        model=model,
        pictures=pictures,
        words=" ".join([f"{shown}, {len(cells)} {'cell' if len(cells) == 1 else 'cells'} each.", *notes]),
        page=page,
        rows=[_row(cell, model, pictures, first_row + place, scores) for place, cell in enumerate(cells)],
        layers=layer_figure([(cell.label, cell.eig) for cell in cells]),
    )


def _row(cell: ShownCell, model: str, pictures: str, number: int, scores: Sequence[str]) -> Row:
    numbers = cell.numbers
    answers = numbers["answers"]
    firsts = [answer["eigenvalue"][0] for answer in answers]
    gaps = [_widest(answer["eigengap"]) for answer in answers]
    residuals = [value for answer in answers for value in answer["residual"] if value is not None]
    known = [gap for gap in gaps if gap]
    values = (numbers.get("scores") or {}).get("values", {})
    return Row(
        label=f"{model} · {pictures} · {cell.label}",
        anchor=f"cell-{number}",
        kernel=str(numbers["settings"]["kernel"]),
        first=_spread(firsts),
        gap_after=", ".join(map(str, sorted(set(known)))) or "–",
        residual=f"{max(residuals):.1e}" if residuals else "–",
        converged=all(all(answer["converged"]) for answer in answers),
        warnings=sum(statement["level"] == "warning" for answer in answers for statement in answer["trust"]),
        scores=[_score(values.get(name), name, values) for name in scores],
        controls=_controls(values, scores),
        recipe=cell.recipe,
    )


def _widest(gaps: Sequence[float | None]) -> int:
    """The component before the widest gap; 0 where no gap is known."""
    known = [(gap, place) for place, gap in enumerate(gaps, start=1) if gap is not None]
    return max(known)[1] if known else 0


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    return f"{low:.4g}" if len(known) == 1 else f"{low:.4g} to {high:.4g}"


def _score(
    found: ScoreRecord | Estimate | None, name: str = "", beside: Mapping[str, ScoreRecord] | None = None
) -> ScoreText | None:
    """One score, with the reason to doubt it, and with the image share where that is larger."""
    if found is None or found["value"] is None:
        return None
    low, high = found["low"], found["high"]
    words = [str(found.get("verdict"))] if found.get("verdict") else []
    images = (beside or {}).get(IMAGE_SHARE)
    share = None if images is None else images["value"]
    if name != IMAGE_SHARE and share is not None and share > found["value"]:
        words.append(f"Image share {share:.3f}")
    return ScoreText(
        f"{found['value']:.3f}",
        "" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        found.get("beats_controls") is False,
        tuple(words),
    )


def _controls(values: Mapping[str, ScoreRecord], scores: Sequence[str]) -> list[tuple[str, list[ScoreText | None]]]:
    """The controls of a study cell, each with its scores; a score is not compared with every control."""
    found = {name: values[name].get("controls", {}) if name in values else {} for name in scores}
    return [
        (
            control,
            [_score(found[name].get(control)) if control in SCORES[name].controls else None for name in scores],
        )
        for control in dict.fromkeys(control for own in found.values() for control in own)
    ]


def scores_shown(numbers: Sequence[NumbersRecord]) -> list[str]:
    """Names of the scores that the table shows; the plain score only if a study cell has no labels for a better one.

    Examples
    --------
    >>> labelled, unlabelled = {"where": 0.9, "where_plain": 0.8}, {"where_plain": 0.7}
    >>> [scores_shown([{"scores": {"values": one}} for one in cells]) for cells in ([labelled], [labelled, unlabelled])]
    [['where'], ['where', 'where_plain']]
    """
    scored = [values for one in numbers if (values := (one.get("scores") or {}).get("values"))]
    found = {name for values in scored for name in values}
    shown = [(name, score.stands_in_for) for name, score in SCORES.items() if name in found and score.shown]
    return [name for name, better in shown if not (better and all(better in values for values in scored))]


def study_html(
    record: StudyRecord,
    groups: Sequence[ShownGroup],
    scores: Sequence[str],
    *,
    command: str,
    opacity: float,
    published: Sequence[tuple[str, float | None, float | None, str]] = (),
    downloads: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text; ``record`` is the content of the JSON, which the page keeps except for the study cells.

    ``published`` are figures to stand beside the evaluations: method, mIoU, accuracy, source. ``downloads`` are names
    of files and addresses that hold them.
    """
    study, rows = record["study"], [row for group in groups for row in group.rows]
    scope = "each image alone" if study["scope"] == "image" else "all images of a set as one problem"
    kinds: dict[str, Kind] = {}
    for group in groups:
        for answer in group.page.answers:
            kinds.setdefault(answer.kind.name, answer.kind)
    page = StudyPage(
        title=study["title"],
        question=study.get("question") or "",
        method=_method(study),
        lede=f"{_counted(record['models'], 'model')} on {_counted(record['pictures'], 'set')} of images, "
        f"{_counted(study['affinities'], 'affinity', 'affinities')}: {_counted(rows, 'cell')}, solved {scope}.",
        facts=[
            ("Models", ", ".join(str(model["label"]) for model in record["models"])),
            ("Images", ", ".join(f"{one['label']} ({one['n']})" for one in record["pictures"])),
            ("Layers", "; ".join(str(choice["label"]) for choice in study["layers"])),
            ("Seed", str(study["seed"])),
            *((f"{', '.join(labels)} trained", told) for told, labels in _trainings(record["models"]).items()),
        ],
        groups=list(groups),
        rows=rows,
        scores=[SCORES[name].title for name in scores],
        summary_caption=_caption(study, scores),
        figures=score_dots(record["cells"], scores),
        controls=_controls_in_words(scores, record["cells"]),
        limits=_limits(record, scores),
        evaluations=_evaluations(record["cells"], published),
        again="Run this in the folder of the study's file, in a Python environment with the versions below. Recipes "
        "of figures start from that folder, too. The numbers are in the JSON file beside this page, and the "
        "eigenvectors are in the zarr folder.",
        provenance=[
            ("The study", attribute_rows(study)),
            ("Versions and rounding", attribute_rows(record["provenance"])),
            *((f"Model {model['label']}", attribute_rows(model)) for model in record["models"]),
            *((f"Images {one['label']}", attribute_rows(one)) for one in record["pictures"]),
        ],
        record={name: value for name, value in record.items() if name != "cells"},
    )
    return render(
        "study",
        styles=("report", "study"),
        scripts=("report",),
        title=page.title,
        page=page,
        recipe=command,
        opacity=opacity,
        kinds=list(kinds.values()),
        downloads=downloads,
    )


def _counted(items: Sequence[object], one: str, many: str = "") -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"


_MEASURES: dict[Measure, str] = {
    "assigned_miou": "mIoU, matched",
    "matched_accuracy": "accuracy, matched",
    "overclustered_miou": "mIoU, many to one",
    "overclustered_accuracy": "accuracy, many to one",
}
"""What is shown of clusters over the whole set; the JSON has more."""


def _evaluations(
    cells: Sequence[CellRecord], published: Sequence[tuple[str, float | None, float | None, str]]
) -> Evaluations | None:
    evaluated = [(cell, found) for cell in cells if (found := cell.get("evaluation"))]
    if not evaluated:
        return None
    first = max((found for _, found in evaluated), key=lambda found: len(found["clusters"]))
    columns = [f"{first['regions']['n']} regions in each image: {what}" for what in ("oracle mIoU", "oracle accuracy")]
    for one in first["clusters"]:
        number = "as many clusters as categories" if isinstance(one["asked"], str) else f"{one['n']} clusters"
        columns += [f"{number}: {what}" for what in _MEASURES.values()]
    rows = []
    for cell, found in evaluated:
        controls = {name: _figures(one) for name, one in found.get("controls", {}).items()}
        label = " · ".join(str(cell[name]) for name in CELL_NAMES)
        own = _figures(found)
        beside = [
            {name: (one[at], None, None) for name, one in controls.items() if at < len(one)} for at in range(len(own))
        ]
        judged = [compare((value, None, None), others) for value, others in zip(own, beside, strict=True)]
        texts = [
            None
            if value is None
            else ScoreText(f"{value:.3f}", "", verdict.beats is False, (verdict.words,) * bool(verdict.words))
            for value, verdict in zip(own, judged, strict=True)
        ]
        rows.append(EvaluatedRow(label, _filled(texts, len(columns))))
        for name, figures in controls.items():
            rows.append(
                EvaluatedRow(name, _filled([_figure(value) for value in figures], len(columns)), is_control=True)
            )
    others = [
        EvaluatedRow(method, [_figure(miou), _figure(accuracy)], source=source)
        for method, miou, accuracy, source in published
    ]
    caption = (
        "Segments are compared with the labels at the pixels of the label maps. In each image alone, every region "
        "takes the category most frequent in it (oracle). Over the whole set, clusters are paired with categories one "
        "to one (matched), or each takes its most frequent category (many to one). Intersections and unions are summed "
        "over all images, and the mean IoU is over the categories that occur."
    )
    without = any("controls" not in found for _, found in evaluated)
    caption += " Controls were left out (controls: false)." if without else ""
    said = dict.fromkeys(notes for _, found in evaluated if (notes := found.get("notes")))
    return Evaluations(columns, rows, others, " ".join([caption, *said]))


def _figures(found: EvaluationRecord) -> list[float | None]:
    """The numbers of one evaluation, in the order of the columns."""
    own = [found["regions"]["oracle_miou"], found["regions"]["oracle_accuracy"]]
    return own + [one[name] for one in found["clusters"] for name in _MEASURES]


def _figure(value: float | None) -> ScoreText | None:
    return None if value is None else ScoreText(f"{value:.3f}", "")


def _filled(texts: Sequence[ScoreText | None], n: int) -> list[ScoreText | None]:
    return [*texts, *[None] * (n - len(texts))]


def _trainings(models: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """How bundled models were trained, and which of the models were trained so."""
    told: dict[str, list[str]] = {}
    for model in models:
        if "training" in model:
            told.setdefault(str(model["training"]), []).append(str(model["label"]))
    return told


def _method(study: SettingsRecord) -> str:
    """What was done, in two sentences."""
    scope = "each image alone" if study["scope"] == "image" else "all images of a set as one problem"
    kinds = ", ".join(dict.fromkeys(str(one["kind"]).upper().replace("_", " ") for one in study["affinities"]))
    scored = (
        " and scored by how much of their variance position and category explain" if study.get("scores", True) else ""
    )
    return (
        f"What all chosen layers computed for every patch was captured and turned into affinities between patches "
        f"({kinds}), one graph a layer. The first {study['n_eigenvectors']} eigenvectors of the joint normalised-cut "
        f"problem of these graphs were solved for {scope}{scored}."
    )


def _limits(record: StudyRecord, scores: Sequence[str]) -> list[str]:
    """What these numbers do not say, a sentence each; only what is true of this study."""
    sets = ", ".join(f"{one['label']} ({_images(one['n'])})" for one in record["pictures"])
    limits = [
        f"The numbers are of these images, {sets}, and these weights; other images and other training runs were not "
        "looked at.",
        "An eigenvector shows what patches have in common in the graph. Whether the model uses it was not tested: that "
        "takes an intervention.",
    ]
    if scores:
        limits.append(
            "Intervals are over images alone: the eigenvectors were not solved again for each resample, so the "
            "intervals do not include how these would vary."
        )
    if any(one["n"] < 10 for one in record["pictures"]) and scores:
        limits.append("Intervals from fewer than ten images are too narrow.")
    answers = [answer for cell in record["cells"] for answer in cell["answers"]]
    failed = sum(not all(answer["converged"]) for answer in answers)
    if failed:
        limits.append(f"{failed} of {len(answers)} results have eigenvectors that did not converge.")
    return limits


def _images(n: int) -> str:
    return f"{n} {'image' if n == 1 else 'images'}"


def _caption(study: SettingsRecord, scores: Sequence[str]) -> str:
    text = "The first eigenvalue and the widest gap are over all images of the set."
    if not scores:
        return text
    where = "Scores are for the same layers and affinity, solved over all images of the set as one problem"
    intervals = "with the 95 % interval of the bootstrap over images"
    alone = ", by nearest neighbours" if study["scope"] == "image" else ""
    return f"{text} {where}{alone}, {intervals}."


def _controls_in_words(scores: Sequence[str], cells: Sequence[CellRecord]) -> str:
    """Which controls stand beside the scores, and what they would show."""
    labelled = [scored for cell in cells if (scored := cell.get("scores")) and scored["labelled"]]
    if any(one.get("controlled") for one in labelled):
        return (
            "Below each study cell of the table are its controls: the same scores of the untrained model, of raw "
            "pixels, and by the labels of other images. A score that is not above all of them is grey, and says which. "
            "The image share, which image a patch is in, is shown where it is larger than the score: those "
            "eigenvectors mostly tell images apart."
        )
    if labelled:
        return (
            "Controls were left out (controls: false), so nothing here tells a score of the model from one "
            "that an untrained model, raw pixels or shuffled labels would have."
        )
    if scores:
        return "There are no labels, so there are no controls: nothing here says how high a score would be by chance."
    return "Nothing was scored, so there is nothing to compare with controls."
