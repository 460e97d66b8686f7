"""Explorers that were closed leave nothing behind: objects are counted, as bytes are never quite the same."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from explorer_fixtures import KeepingComm, capture_of
from jupyter_client.manager import KernelManager
from preloaded import PYTHON, TAKE_APART

from spectral_toolkit._views.widget import Explorer

KINDS = ("spectral_toolkit", "bokeh", "holoviews", "ipywidgets", "param", "pandas", "xarray", "comm.")


@pytest.fixture(autouse=True)
def _only_what_is_new() -> None:
    """Of the millions of objects that are there, none is looked at."""
    gc.collect()
    gc.freeze()


def counted() -> Counter[str]:
    for _ in range(3):  # what a finalizer lets go of is found by the next round
        gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    # Of some classes the module is no text, but a descriptor.
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith(KINDS))


@pytest.mark.slow(seconds=20)
def test_many_explorers_opened_and_closed_leave_nothing(comms: type[KeepingComm]) -> None:
    tree = capture_of(images=1, layers=2)

    def play(times: int) -> None:
        for _ in range(times):
            explorer = Explorer(tree, device="cpu", synchronous=True)
            for view in ("grid", "spectrum", "layers", "norms"):
                explorer.set(view=view, patch=(1, 2))
            explorer.close()
            comms.everything.clear()

    n = 3
    play(n)  # what is made once for all is there then
    counts = [counted()]
    for _ in range(2):
        play(n)
        counts.append(counted())
    first, second, third = counts
    # What grows by one an explorer grows both times; what the last one has left until the next one comes does not.
    grown = {
        kind: (first[kind], second[kind], third[kind])
        for kind in third
        if second[kind] >= first[kind] + n and third[kind] >= second[kind] + n
    }
    assert not grown, f"how many after {n}, {2 * n} and {3 * n} explorers"


LEFT_OPEN = """
import sys
sys.path.insert(0, sys.argv[1])
from explorer_fixtures import capture_of
import spectral_toolkit as st
explorer = st.Explorer(capture_of(images=1, layers=2), device="cpu")
explorer.set(compare=True, patch=(1, 1))
"""


def test_explorers_that_are_open_when_python_ends_end_in_silence() -> None:
    done = subprocess.run(
        [*PYTHON, "-c", LEFT_OPEN, str(Path(__file__).parent)],
        env={**os.environ, TAKE_APART: "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow(seconds=15)
def test_explorers_that_are_open_when_a_kernel_ends_end_in_silence(tmp_path: Path) -> None:
    manager = KernelManager(kernel_name="python3")
    with (tmp_path / "said").open("wb") as said:
        manager.start_kernel(stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            client = manager.client()
            client.start_channels()
            client.wait_for_ready(timeout=120)
            code = LEFT_OPEN.replace("sys.argv[1]", repr(str(Path(__file__).parent))) + "\nexplorer"
            done = client.execute_interactive(code, timeout=120, output_hook=lambda message: None)
            client.stop_channels()
        finally:
            manager.shutdown_kernel()
    assert done["content"]["status"] == "ok", done["content"]
    assert "Traceback" not in (text := (tmp_path / "said").read_text()), text
