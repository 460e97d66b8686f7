"""What holds for every test: shapes are checked, nothing is downloaded, hypothesis repeats its cases."""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import preloaded
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from explorer_fixtures import KeepingComm

    from spectral_toolkit._views.widget import Explorer

# Doctests are looked for in every module, and two that are called conftest cannot both be imported for that.
collect_ignore = ["conftest.py", "browser/conftest.py", "device/conftest.py"]

# Before anything imports them: annotated shapes and types of the numerical parts are checked at every call. The public
# functions are left out: what they say of a wrong type is theirs to test.
NUMERICAL = (
    "_affinity.approximate_neighbours",
    "_affinity.dataset_operators",
    "_affinity.dataset_pencil",
    "_affinity.dataset_shards",
    "_affinity.features",
    "_affinity.isolated",
    "_affinity.kernels",
    "_affinity.neighbours",
    "_affinity.operators",
    "_affinity.pencil",
    "_affinity.resampling",
    "_affinity.stored_edges",
    "_affinity.windows",
    "_analysis.comparison.angles",
    "_analysis.regions.adjacency",
    "_analysis.regions.cutting",
    "_analysis.regions.joint",
    "_analysis.regions.kmeans",
    "_analysis.regions.label_maps",
    "_analysis.regions.merging",
    "_analysis.regions.segments_by_cuts",
    "_analysis.scores.segments",
    "_analysis.scores.variance",
    "solvers.davidson",
    "solvers.dense",
    "solvers.exact",
    "solvers.spectrum",
)
PACKAGE = Path(__file__).resolve().parents[1] / "spectral_toolkit"
for name in NUMERICAL:  # the hook says nothing of a module that does not exist, and then nothing is checked
    path = PACKAGE / name.replace(".", "/")
    assert path.with_suffix(".py").exists() or path.is_dir(), f"tests/conftest.py: there is no module {name}"
install_import_hook([f"spectral_toolkit.{name}" for name in NUMERICAL], "beartype.beartype")

# A test that reaches for a hub fails at once, and the same way with and without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

if folder := os.environ.get("SPECTRAL_TOOLKIT_RECORD_ERRORS"):  # for docs/make_errors.py
    from error_recorder import record_errors

    record_errors(Path(folder).absolute())


def pytest_configure(config: pytest.Config) -> None:
    """Kernels of notebooks and other processes begin with the heavy libraries loaded; workers inherit the setting."""
    if not hasattr(config, "workerinput"):
        folder = preloaded.set_up()
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what is imported now out of every later search for garbage, which would take most of a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that workers, which get whole files, end at about the same time."""
    seconds: Counter[Path] = Counter()
    for item in items:
        for mark in item.iter_markers():
            if mark.name in ("browser", "slow"):
                seconds[item.path] += mark.kwargs.get("seconds", 10 if mark.name == "slow" else 3)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that is in order, as a zip."""
    from bundle_fixtures import good_bundle

    (tmp_path / "good.zip").write_bytes(good_bundle())
    return tmp_path / "good.zip"


@pytest.fixture
def comms() -> Iterator[type[KeepingComm]]:
    """Every widget made in the test talks to `KeepingComm`."""
    from explorer_fixtures import kept_comms

    with kept_comms() as kept:
        yield kept


@pytest.fixture(scope="module")
def shared_explorer() -> Iterator[Explorer]:
    """One explorer for all tests that can put it back: drawing its figures takes longer than they do."""
    from explorer_fixtures import capture_of, kept_comms

    from spectral_toolkit._views.widget import Explorer

    with kept_comms():
        tree = capture_of()
        tree.children["block.0"].dataset["token"].values[0, 2, 3] *= 40  # something to mask
        made = Explorer(tree, device="cpu")
        yield made
        made.close()


@pytest.fixture
def explorer(shared_explorer: Explorer) -> Explorer:
    """The shared explorer, as it began."""
    from spectral_toolkit._views.widget import State

    shared_explorer.state = State()
    return shared_explorer


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]
