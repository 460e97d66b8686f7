"""Stores are replaced whole or not at all, whenever the replacing ends."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from spectral_toolkit._io.outputs import placed, whole_store
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


def test_what_is_written_appears_when_it_is_complete(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        path = tmp_path / name
        for text in ("first", "second"):
            with placed(path) as new:
                if name == "folder":
                    new.mkdir()
                    (new / text).write_text(text)
                else:
                    new.write_text(text)
                assert path.exists() == (text == "second")
    assert [place.name for place in (tmp_path / "folder").iterdir()] == ["second"]
    assert (tmp_path / "file").read_text() == "second"
    with suppress(ZeroDivisionError), placed(tmp_path / "file") as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "second"
    assert {place.name for place in tmp_path.iterdir()} == {"file", "folder"}


def test_what_another_process_has_finished_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "table"
    with placed(path, keep=True) as new:
        new.mkdir()
        path.mkdir()
        (path / "theirs").touch()
    assert [place.name for place in path.iterdir()] == ["theirs"]
