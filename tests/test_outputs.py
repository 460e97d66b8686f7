"""Stores are replaced whole or not at all, whenever the replacing ends."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from spectral_toolkit._io.outputs import whole_store
from spectral_toolkit.errors import StoreError


def write(path: Path, text: str) -> None:
    with whole_store(path) as store:
        store.mkdir()
        (store / "content").write_text(text)


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that counts as ours."""
    monkeypatch.setattr("spectral_toolkit._io.outputs.is_ours", lambda path: True)
    write(tmp_path / "e.zarr", "earlier")
    return tmp_path / "e.zarr"


def test_a_store_is_replaced_and_nothing_is_left_beside_it(earlier: Path) -> None:
    write(earlier, "later")
    assert (earlier / "content").read_text() == "later"
    assert list(earlier.parent.iterdir()) == [earlier]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space")])
def test_the_earlier_store_is_put_back_when_the_new_one_cannot_take_its_place(
    error: BaseException | type[BaseException], earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "store":
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else StoreError):
        write(earlier, "later")
    assert (earlier / "content").read_text() == "earlier"
    assert list(earlier.parent.iterdir()) == [earlier]


def test_a_process_killed_while_it_removes_the_earlier_store_leaves_a_whole_one(
    earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        write(earlier, "later")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (earlier / "content").read_text() == "later"
