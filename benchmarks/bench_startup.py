"""How long the console command and the import take, each in a fresh interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

ROUNDS = 7
WANTED = 2.0


def seconds(arguments: list[str]) -> float:
    """Median over fresh processes, the first left out: it reads the files from disk."""
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def bench_startup() -> Iterator[dict[str, Any]]:
    """The command's help and the bare import, against the two seconds that are allowed."""
    empty = seconds(["-c", "pass"])
    for name, arguments in (
        ("spectral-toolkit --help", ["-m", "spectral_toolkit", "--help"]),
        ("import spectral_toolkit", ["-c", "import spectral_toolkit"]),
    ):
        note = f"allowed; Python itself takes {empty:.3f}"
        yield {"name": name, "ours": seconds(arguments), "theirs": WANTED, "target": ">= 1", "note": note}
