"""The page of a study: the report's cards for every model and set of images, and one table of all study cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from .._analysis.scores.table import SCORES
from .._render.colour import DIVERGING, css_gradient
from .report_data import Caption, Card, Kind, Page, attribute_rows, backgrounds, build_page
from .templating import render


@dataclass(frozen=True)
class ScoreText:
    """One score as text, and its interval."""

    value: str
    interval: str


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
    numbers: Mapping[str, Any]
    caption: Caption
    recipe: str


@dataclass(frozen=True)
class StudyPage:
    """Everything that the template draws."""

    title: str
    lede: str
    facts: list[tuple[str, str]]
    groups: list[ShownGroup]
    rows: list[Row]
    scores: list[str]
    summary_caption: str
    again: str
    provenance: list[tuple[str, list[tuple[str, str]]]]
    record: dict[str, Any] = field(repr=False)

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
    images: Any,
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
        scores=[_score(values.get(name)) for name in scores],
        recipe=cell.recipe,
    )


def _widest(gaps: Sequence[float | None]) -> int:
    """The component before the widest gap; 0 where no gap is known."""
    known = [(gap, place) for place, gap in enumerate(gaps, start=1) if gap is not None]
    return max(known)[1] if known else 0


def _spread(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if len(values) == 1 else f"{low:.4g} to {high:.4g}"


def _score(found: Mapping[str, float | None] | None) -> ScoreText | None:
    if found is None or found["value"] is None:
        return None
    low, high = found["low"], found["high"]
    return ScoreText(f"{found['value']:.3f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}")


def scores_shown(numbers: Sequence[Mapping[str, Any]]) -> list[str]:
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
    record: Mapping[str, Any], groups: Sequence[ShownGroup], scores: Sequence[str], *, command: str, opacity: float
) -> str:
    """The page as text; ``record`` is the content of the JSON, which the page keeps except for the study cells."""
    study, rows = record["study"], [row for group in groups for row in group.rows]
    scope = "each image alone" if study["scope"] == "image" else "all images of a set as one problem"
    kinds: dict[str, Kind] = {}
    for group in groups:
        for answer in group.page.answers:
            kinds.setdefault(answer.kind.name, answer.kind)
    page = StudyPage(
        title=study["title"],
        lede=f"{_counted(record['models'], 'model')} on {_counted(record['pictures'], 'set')} of images, "
        f"{_counted(study['affinities'], 'affinity', 'affinities')}: {_counted(rows, 'cell')}, solved {scope}.",
        facts=[
            ("Models", ", ".join(model["label"] for model in record["models"])),
            ("Images", ", ".join(f"{one['label']} ({one['n']})" for one in record["pictures"])),
            ("Layers", "; ".join(choice["label"] for choice in study["layers"])),
            ("Seed", str(study["seed"])),
        ],
        groups=list(groups),
        rows=rows,
        scores=[SCORES[name].title for name in scores],
        summary_caption=_caption(study, scores),
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
        script="report",
        page=page,
        recipe=command,
        opacity=opacity,
        gradient=css_gradient(DIVERGING),
        kinds=kinds,
    )


def _counted(items: Sequence[Any], one: str, many: str = "") -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"


def _caption(study: Mapping[str, Any], scores: Sequence[str]) -> str:
    text = "The first eigenvalue and the widest gap are over all images of the set."
    if not scores:
        return text
    where = "Scores are for the same layers and affinity, solved over all images of the set as one problem"
    intervals = "with the 95 % interval of the bootstrap over images"
    alone = ", by nearest neighbours" if study["scope"] == "image" else ""
    return f"{text} {where}{alone}, {intervals}."
