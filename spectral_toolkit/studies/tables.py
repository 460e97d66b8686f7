"""The numbers of a study as tables for other programs: tidy data frames, CSV, and LaTeX for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .._compute.arguments import choice
from .._io.outputs import LATEX_BEGINS
from .._views.study_record import CellName, CellRecord, Estimate, ScoreRecord, StudyRecord

if TYPE_CHECKING:
    import pandas as pd

_CELL: dict[CellName, str] = {"model": "model", "pictures": "images", "affinity": "affinity", "layers": "layers"}
"""What tells study cells apart, in the JSON and in a table."""


def table(record: StudyRecord, of: str = "scores") -> pd.DataFrame:
    """One row for each number: of each score and each of its controls, or of each eigenvector of each image.

    Parameters
    ----------
    record
        The content of a study's JSON.
    of
        ``"scores"``: the columns are model, images, affinity, layers, score, control (empty for the score itself),
        value, low and high (the ends of its interval), and beats_controls. ``"eigenvalues"``: model, images, affinity,
        layers, image (empty where images were solved as one), component, eigenvalue, eigengap, residual, converged.

    Raises
    ------
    SpectralToolkitError
        If ``of`` is neither.
    """
    import pandas as pd

    columns, rows = TABLES[choice("of", of, tuple(TABLES))]
    return pd.DataFrame(
        [{**_named(cell), **row} for cell in record["cells"] for row in rows(cell)], columns=[*_CELL.values(), *columns]
    )


def _named(cell: CellRecord) -> dict[str, object]:
    return {column: cell[key] for key, column in _CELL.items()}


def _values(cell: CellRecord) -> dict[str, ScoreRecord]:
    scores = cell.get("scores")
    return scores["values"] if scores else {}


def _score_rows(cell: CellRecord) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, score in _values(cell).items():
        estimates: dict[str, Estimate] = {"": score, **score.get("controls", {})}
        for control, one in estimates.items():
            numbers = {column: one.get(column) for column in ("value", "low", "high")}
            beats = None if control else score.get("beats_controls")
            rows.append({"score": name, "control": control, **numbers, "beats_controls": beats})
    return rows


_SOLVED: tuple[Literal["eigenvalue", "eigengap", "residual", "converged"], ...] = (
    "eigenvalue",
    "eigengap",
    "residual",
    "converged",
)


def _eigenvalue_rows(cell: CellRecord) -> list[dict[str, object]]:
    return [
        {
            "image": answer["image"] or "",
            "component": component,
            **{name: answer[name][component - 1] for name in _SOLVED},
        }
        for answer in cell["answers"]
        for component in range(1, len(answer["eigenvalue"]) + 1)
    ]


TABLES = {
    "scores": (("score", "control", "value", "low", "high", "beats_controls"), _score_rows),
    "eigenvalues": (("image", "component", "eigenvalue", "eigengap", "residual", "converged"), _eigenvalue_rows),
}
"""What a table is of, its columns after those that name the study cell, and its rows of one cell."""


def csv(record: StudyRecord, of: str = "scores") -> str:
    """`table` as CSV."""
    return table(record, of).to_csv(index=False, lineterminator="\n")


def files(record: StudyRecord, name: str) -> dict[str, tuple[str, str]]:
    """By file name: the type and the content of the tables of a study that is called ``name``."""
    has_scores = any(_values(cell) for cell in record["cells"])
    found = {f"{name}-{of}.csv": ("text/csv", csv(record, of)) for of in TABLES if of != "scores" or has_scores}
    return {**found, f"{name}.tex": ("text/x-tex", latex(record))}


def paths(page: Path) -> list[Path]:
    """Where the tables of a study may be written: beside its page."""
    return [page.with_name(name) for name in (*(f"{page.stem}-{of}.csv" for of in TABLES), f"{page.stem}.tex")]


def latex(record: StudyRecord) -> str:
    r"""The main table for a paper, with ``\usepackage{booktabs}``: one row for each study cell, one column a score.

    Scores that do not beat their controls are grey (``\usepackage{xcolor}``). Without scores, the columns are the first
    eigenvalue and the largest residual, as means over images.
    """
    rows = []
    for cell in record["cells"]:
        numbers = {_escaped(name): _interval(score) for name, score in _values(cell).items()}
        rows.append({column: _escaped(str(text)) for column, text in _named(cell).items()} | (numbers or _solved(cell)))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        LATEX_BEGINS,
        rf"\begin{{tabular}}{{{'l' * len(_CELL)}{'r' * (len(columns) - len(_CELL))}}}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        r"\midrule",
        *(" & ".join(row.get(name, "--") for name in columns) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _solved(cell: CellRecord) -> dict[str, str]:
    first = [answer["eigenvalue"][0] or 0.0 for answer in cell["answers"]]
    largest = max(value or 0.0 for answer in cell["answers"] for value in answer["residual"])
    return {"first eigenvalue": f"{sum(first) / len(first):.3f}", "largest residual": f"{largest:.1e}"}


def _interval(score: ScoreRecord) -> str:
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "--"
    text = f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f}--{high:.3f})"
    return rf"\textcolor{{gray}}{{{text}}}" if score.get("beats_controls") is False else text


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {one: rf"\{one}" for one in "&%$#_{}"}
    return "".join(special.get(one, one) for one in text)
