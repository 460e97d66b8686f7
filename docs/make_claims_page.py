"""The numbers in docs/explanation/claims.md, from the scores and interventions: ``python docs/make_claims_page.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "explanation" / "claims.md"
EXCHANGES = {"keys": "exchange|queries and keys|all", "values": "exchange|values|all"}


def claimed() -> dict[str, str]:
    """Every number of the page by its mark; where there are several, one for each bundled model in turn."""
    scores, interventions = (json.loads((DOCS / f"{name}.json").read_text()) for name in ("scores", "interventions"))

    def joint(model: str, kind: str, score: str) -> str:
        return f"{scores[model]['full']['scores'][kind]['joint'][score][0]:.2f}"

    def best(model: str, kind: str, score: str) -> str:
        rows, roles = (scores[model]["full"][name] for name in ("scores", "roles"))
        return f"{max(row[score][0] for name, row in rows[kind].items() if roles[name] == 'layer'):.2f}"

    def controls(score: str, names: tuple[str, ...]) -> str:
        found = [scores["scenes"]["full"]["scores"][kind][name][score][0] for kind in ("qk", "vv") for name in names]
        return f"{max(found):.2f}"

    def each(exchange: str, control: str, outcome: str) -> str:
        shares = [_row(one["rows"], EXCHANGES[exchange], control)[outcome][0] for one in interventions.values()]
        *first, last = [f"{share:.2f}" for share in shares]
        return f"{', '.join(first)} and {last}"

    unedited = [_row(one["rows"], EXCHANGES["keys"], "before") for one in interventions.values()]
    return {
        "where-qk": joint("scenes", "qk", "where"),
        "where-vv": joint("scenes", "vv", "where"),
        "what-qk": joint("scenes", "qk", "what"),
        "what-vv": joint("scenes", "vv", "what"),
        "best-qk": best("scenes", "qk", "where"),
        "best-vv": best("scenes", "vv", "what"),
        "control-where": controls("where", ("untrained model", "raw pixels")),
        "control-what": controls("what", ("untrained model", "raw pixels", "shuffled labels")),
        "absolute-best-qk": best("scenes-absolute", "qk", "where"),
        "absolute-best-vv": best("scenes-absolute", "vv", "where"),
        "absolute-qk": joint("scenes-absolute", "qk", "where"),
        "absolute-vv": joint("scenes-absolute", "vv", "where"),
        "absolute-what": joint("scenes-absolute", "vv", "what"),
        "values-moved": each("values", "edited", "category moved"),
        "values-chance": each("values", "donor shuffled", "category moved"),
        "position-before": f"{max(row['position kept'][0] for row in unedited):.2f}",
        "nearer-before": each("keys", "before", "nearer place kept"),
        "nearer-edited": each("keys", "edited", "nearer place kept"),
    }


def _row(rows: list[dict[str, Any]], edit: str, control: str) -> dict[str, Any]:
    return next(row for row in rows if (row["edit"], row["control"]) == (edit, control))


def page(text: str) -> str:
    """The page with its numbers."""
    for name, number in claimed().items():
        text, n_places = re.subn(rf"(?s)(<!-- {name} -->).*?(<!-- /{name} -->)", rf"\g<1>{number}\g<2>", text)
        assert n_places == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
