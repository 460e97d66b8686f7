"""From the cells of a study to its page: the recipe of each figure, and how many images fit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial

import xarray as xr

from .._analysis.trust import Statement
from .._explorer.recipe import call, capture_lines, figure_recipe, noise_lines, solve_lines
from .._views.downloads import addresses
from .._views.report_data import Caption, provenance
from .._views.study_page import ShownCell, ShownGroup, scores_shown, shown_group, study_html
from .._views.study_record import CellRecord, EvaluationRecord, ScoresRecord, StudyRecord
from ..datasets import LAYOUTS
from .config import Study, portable
from .plan import Cell, Group, StudyPlan
from .published import published_for
from .tables import files

PAGE_LIMIT = 20_000_000
"""The largest size of a page in bytes, for mail and browsers. Larger studies show fewer images, with all numbers."""
MAX_SIDE = 384
"""Longer side of the images on the page, in pixels."""
_OPACITY = 0.7
_HEADING = ("# Run this in the folder of the study's file.",)


def study_page(
    plan: StudyPlan,
    record: StudyRecord,
    answers: Mapping[str, xr.Dataset],
    *,
    command: str,
    name: str = "study",
    limit: int = PAGE_LIMIT,
) -> tuple[str, int]:
    """The page of a study, of at most ``limit`` bytes, and how many images of each set it shows.

    Parameters
    ----------
    record
        As `spectral_toolkit.studies.numbers.study_record` made it.
    answers
        Eigenvectors of every cell, by its name in the zarr store.
    name
        That of the tables that the page offers.
    """
    show = plan.study.show
    while True:
        html = _page(plan, record, answers, command, name, show)
        if len(html.encode()) <= limit or show == 1:
            return html, show
        show = max(1, show // 2)


def _page(
    plan: StudyPlan,
    record: StudyRecord,
    answers: Mapping[str, xr.Dataset],
    command: str,
    name: str,
    show: int,
) -> str:
    scores = scores_shown(record["cells"])
    groups: list[ShownGroup] = []
    cards = done = 0
    for number, group in enumerate(plan.groups, start=1):
        rows = record["cells"][done : done + len(group.cells)]
        cells = [
            _shown_cell(cell, group, plan.study, answers[row["group"]], row)
            for cell, row in zip(group.cells, rows, strict=True)
        ]
        groups.append(
            shown_group(
                group.model.label,
                group.pictures.label,
                cells,
                group.opened.pictures,
                number=number,
                first_card=cards,
                first_row=done,
                scores=scores,
                show=show,
                max_side=MAX_SIDE,
            )
        )
        cards += len(groups[-1].page.cards)
        done += len(cells)
    layouts = {one["layout"] for one in record["pictures"] if "layout" in one}
    others = [
        (f"{LAYOUTS[one.layout].title}: {one.method}", one.miou, one.accuracy, one.source)
        for one in published_for(layouts)
    ]
    return study_html(
        record,
        groups,
        scores,
        command=command,
        opacity=_OPACITY,
        published=others,
        downloads=addresses(files(record, name)),
    )


def _shown_cell(cell: Cell, group: Group, study: Study, eig: xr.Dataset, row: CellRecord) -> ShownCell:
    label = f"{cell.affinity.label} · {cell.choice}"
    attrs = provenance(None, eig)
    name = cell.affinity.kind
    loading = loading_of(group, study)
    expression = group.opened.expression
    figure = partial(figure_recipe, name, eig, attrs, pictures=expression, loading=loading, heading=_HEADING)
    kernel, many = row["settings"]["kernel"], len(cell.layers) != 1
    return ShownCell(
        label=label,
        eig=eig,
        numbers=row,
        caption=Caption(
            title=label,
            detail=f"{cell.choice}: {len(cell.layers)} {'layers' if many else 'layer'}, {kernel} kernel"
            + (f", {cell.affinity.label}" if cell.affinity.label != cell.affinity.kind else ""),
            recipe=figure,
            trust=[[Statement(**statement) for statement in answer["trust"]] for answer in row["answers"]],
        ),
        recipe=cell_recipe(cell, group, study, eig, row),
    )


def loading_of(group: Group, study: Study) -> dict[str, object]:
    """How a recipe loads the model, besides what the activations record."""
    return {
        "source": portable(group.model.source),
        "dtype": group.model.dtype,
        "device": None if study.device == "auto" else study.device,
    }


def cell_recipe(cell: Cell, group: Group, study: Study, eig: xr.Dataset, row: CellRecord) -> str:
    """Python code that makes the numbers of one cell, including its scores."""
    attrs, name = provenance(None, eig), cell.affinity.kind
    lines = [*_HEADING, "import spectral_toolkit as st", ""]
    lines += [*capture_lines(attrs, group.opened.expression, loading_of(group, study)), "", *solve_lines(eig, name)]
    names = ("eigenvalue", "eigengap", "residual")
    lines += [f"print({name}[{list(names)!r}].to_dataframe())"]
    if evaluation := row.get("evaluation"):
        lines += ["", *_evaluation_lines(cell, group, study, evaluation)]
    if scores := row.get("scores"):
        lines += ["", *_score_lines(cell, group, study, attrs, name, scores)]
    return "\n".join(lines) + "\n"


def _score_lines(
    cell: Cell, group: Group, study: Study, attrs: Mapping[str, object], name: str, scores: ScoresRecord
) -> list[str]:
    lines: list[str] = []
    joint = name
    if study.scope == "image":
        joint = f"{name}_joint"
        settings = {"heads": cell.affinity.heads, "scope": "dataset", "layers": list(cell.layers)}
        lines += [f"graph = {call('st.affinity', ['activations', repr(cell.affinity.kind)], settings)}"]
        how = {"n_eigenvectors": study.n_eigenvectors, "tolerance": study.tolerance, "seed": study.seed}
        lines += [f"{joint} = {call('st.solve', ['graph'], how)}"]
    labels = "None"
    if scores["labelled"]:
        source = group.opened.labels_expression or ""
        lines += [f"grid = ({joint}.sizes['y'], {joint}.sizes['x'])"]
        ignored = f", ignore={group.opened.ignore!r}" if group.opened.ignore else ""
        lines += [f"labels = st.prepare_labels(activations, {source}, grid=grid{ignored})"]
        labels = "labels"
    lines += [f"print(st.eigenvector_scores({joint}, {labels}, seed={study.seed}))"]
    return [*lines, *_control_lines(cell, study, attrs, joint)] if scores.get("controlled") else lines


def _evaluation_lines(cell: Cell, group: Group, study: Study, found: EvaluationRecord) -> list[str]:
    """Lines that evaluate segments as papers do, of each image alone and of the whole set."""
    ignored = f", ignore={group.opened.ignore!r}" if group.opened.ignore else ""
    lines = [f"maps = {group.opened.labels_expression}"]
    how = {"n_eigenvectors": study.n_eigenvectors, "tolerance": study.tolerance, "seed": study.seed}
    for scope, parts in (("image", [found["regions"]]), ("dataset", found["clusters"])):
        own = scope == study.scope
        options = {"kernel": cell.affinity.kernel, **dict(cell.affinity.options)} if own else {}
        graph = {"heads": cell.affinity.heads, "scope": scope, "layers": list(cell.layers), **options}
        lines += [
            f"graph = {call('st.affinity', ['activations', repr(cell.affinity.kind)], graph)}",
            f"vectors = {call('st.solve', ['graph'], how)}",
        ]
        lines += [f"print(st.evaluate(st.segment(vectors, {part['n']}), maps{ignored}))" for part in parts]
    return lines


def _control_lines(cell: Cell, study: Study, attrs: Mapping[str, object], joint: str) -> list[str]:
    """Lines that make the controls beside the scores."""
    own = study.scope == "dataset"
    options = {"kernel": cell.affinity.kernel, **dict(cell.affinity.options)} if own else {}
    graph = {"heads": cell.affinity.heads, "scope": "dataset", "layers": list(cell.layers), **options}
    how = {"n_eigenvectors": study.n_eigenvectors, "tolerance": study.tolerance, "seed": study.seed}
    capture = {"layers": list(cell.layers), "seed": study.seed}
    captured = call("st.capture", ["fresh", "activations"], capture, {"size": "size"})
    return [
        "",
        "# The controls: the untrained model, raw pixels, labels of other images.",
        f"fresh, _ = model.untrained({study.seed})",
        *noise_lines(attrs, "fresh"),
        "size = activations.sizes['y_px'], activations.sizes['x_px']",
        f"untrained = {captured}",
        f"graph = {call('st.affinity', ['untrained', repr(cell.affinity.kind)], graph)}",
        f"print(st.eigenvector_scores({call('st.solve', ['graph'], how)}, labels.values, seed={study.seed}))",
        "graph = st.affinity(st.pixel_tree(activations, grid), 'token', scope='dataset')",
        f"print(st.eigenvector_scores({call('st.solve', ['graph'], how)}, labels.values, seed={study.seed}))",
        f"print(st.eigenvector_scores({joint}, st.shuffle_labels(labels, seed={study.seed}), seed={study.seed}))",
    ]


def command_line(config: str, out: str) -> str:
    """The command that makes the study again."""
    return f"spectral-toolkit report --config {shlex.quote(config)} --out {shlex.quote(out)}\n"
