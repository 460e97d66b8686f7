"""``make bench``: run every benchmark, print one table, write ``out/bench.json``.

A benchmark is a function ``bench_*()`` without arguments in a file ``bench_*.py`` beside this one. It measures both
sides in the same run and returns (or yields) one or more dicts::

    {"name": "re-solve after one weight changed",   # what is compared
     "ours": 0.021, "theirs": 0.37,                 # medians, in one and the same unit
     "unit": "s",                                   # optional, "s" by default
     "target": ">= 10",                             # optional: what the ratio has to meet, "<= 1.15" or ">= 500"
     "ratio": 17.6,                                 # optional: theirs / ours ("how many times less") by default
     "note": "cold: build and solve"}               # optional: what the other side is, anything a reader must know

Run some of them: ``python -m benchmarks capture solve`` takes the files whose names hold one of the words.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import operator
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def collect(words: Iterable[str] = ()) -> list[tuple[str, Callable[[], Any]]]:
    """Benchmarks in the order of files and lines, as (file.function, function)."""
    found = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if words and not any(word in path.stem for word in words):
            continue
        module = importlib.import_module(f"benchmarks.{path.stem}")
        functions = [
            value
            for name, value in vars(module).items()
            if name.startswith("bench_") and callable(value) and value.__module__ == module.__name__
        ]
        found += [(f"{path.stem}.{function.__name__}", function) for function in functions]
    return found


def rows(result: Any) -> Iterator[dict[str, Any]]:
    """The measurements of one benchmark, each with its ratio and whether the target is met."""
    for row in [result] if isinstance(result, dict) else result:
        ratio = float(row["ratio"]) if "ratio" in row else float(row["theirs"]) / float(row["ours"])
        complete = {"unit": "s", **row, "ours": float(row["ours"]), "theirs": float(row["theirs"]), "ratio": ratio}
        if "target" in row:
            complete["met"] = meets(ratio, row["target"])
        yield complete


def meets(ratio: float, target: str) -> bool:
    """Whether a ratio meets a target such as ``">= 500"``.

    >>> meets(812.0, ">= 500"), meets(1.2, "<= 1.15")
    (True, False)
    """
    match = re.fullmatch(r"(>=|<=|>|<)\s*([\d.]+)x?", target.strip())
    if match is None:
        raise ValueError(f"target {target!r} is not of the form '>= 10'.")
    return not math.isnan(ratio) and COMPARISONS[match[1]](ratio, float(match[2]))


def table(measured: list[dict[str, Any]]) -> str:
    """The measurements as aligned text."""
    head = ("name", "ours", "theirs", "ratio", "target", "met")
    body = [
        (
            row["name"],
            f"{row['ours']:.4g} {row['unit']}",
            f"{row['theirs']:.4g} {row['unit']}",
            f"{row['ratio']:.3g}",
            row.get("target", ""),
            {True: "yes", False: "NO", None: ""}[row.get("met")],
        )
        for row in measured
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *body]
    )


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def main() -> int:
    """Run, print, write; 1 when a target is missed or a benchmark fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("words", nargs="*", help="only files whose names hold one of these words")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    measured: list[dict[str, Any]] = []
    failed: list[str] = []
    for name, function in collect(arguments.words):
        started = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            result = [{"benchmark": name, **row} for row in rows(function())]
        except Exception as error:  # one broken benchmark must not cost the numbers of the others
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        measured += result
        print(f"{table(result)}\n  ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine(), "rows": measured, "failed": failed}, indent=2) + "\n")
    print(table(measured))
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    print(f"-> {arguments.out.resolve()}")
    return 1 if failed or any(row.get("met") is False for row in measured) else 0


if __name__ == "__main__":
    raise SystemExit(main())
