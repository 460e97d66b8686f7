"""The app: what its one cell says, and what is told before it starts. The browser test starts it for real."""

from __future__ import annotations

import builtins
import socket
from pathlib import Path
from typing import Any

import pytest
from eigen_fixtures import activations

import spectral_toolkit as st
from spectral_toolkit.cli import main, server
from spectral_toolkit.errors import SpectralToolkitError

HOSTILE = "x'); import os; os.system('echo taken') #"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(server, "serve", lambda code, **options: calls.append((code, options)))
    return calls


def run(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """What a cell shows, with an explorer that only remembers what it was made of."""

    class Explorer:
        def __init__(self, *given: Any, **options: Any) -> None:
            self.given = (given, options)
            if given[0] == "missing":
                raise SpectralToolkitError("There is no such model.")

        @classmethod
        def from_bundle(cls, path: str) -> Explorer:
            return cls("bundle", path)

    monkeypatch.setattr(st, "Explorer", Explorer, raising=False)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["shown"], capsys.readouterr().out


def test_the_cell_shows_the_explorer_in_the_users_own_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code = server.explorer_code(f"{HOSTILE!r}, ['a.png'], seed=3", str(tmp_path))
    shown, out = run(code, monkeypatch, capsys)
    assert shown.given == ((HOSTILE, ["a.png"]), {"seed": 3})
    assert "taken" not in out
    shown, out = run(server.explorer_code("'missing', []", str(tmp_path)), monkeypatch, capsys)
    assert shown is None
    assert "There is no such model." in out


def test_the_command_hands_on_what_it_was_given(
    served: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", "--images", "scenes:2", "--seed", "4", "--no-browser", "--port", "8123"]) == 0
    code, options = served[0]
    assert (options["port"], options["open_browser"]) == (8123, False)
    shown, _ = run(code, monkeypatch, capsys)
    (model, images), others = shown.given
    assert model == "scenes"
    assert others == {"device": "auto", "seed": 4}
    assert images.identical(st.scenes.sample(2, seed=4)["pixels"])


def test_a_bundle_and_pictures_whose_names_look_like_code(
    served: list[tuple[str, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from PIL import Image

    path = st.save_bundle(tmp_path / "it's 'fine'.zip", activations())
    assert main(["explore", "--bundle", str(path)]) == 0
    assert run(served[0][0], monkeypatch, capsys)[0].given == (("bundle", str(path)), {})
    picture = tmp_path / "a'); print('taken.png"
    Image.new("RGB", (8, 8)).save(picture)
    assert main(["explore", "--images", str(picture)]) == 0
    shown, out = run(served[1][0], monkeypatch, capsys)
    assert shown.given[0] == ("scenes", str(picture))
    assert "taken" not in out


def test_what_is_wrong_is_told_before_a_page_opens(
    served: list[tuple[str, dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--images", str(tmp_path / "none.png")], "none.png"),
        (["--bundle", str(tmp_path / "none.zip")], "is neither a file nor a folder"),
        (["--model", str(tmp_path / "none")], "none"),
    ):
        assert main(["explore", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert served == []


def test_a_port_that_is_taken_and_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SpectralToolkitError, match=r"port=\d+ cannot be used"):
            server.serve("1", port=taken.getsockname()[1])
    real = builtins.__import__

    def without_voila(name: str, *rest: Any) -> Any:
        if name.startswith("voila"):
            raise ImportError("No module named 'voila'", name="voila")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_voila)
    with pytest.raises(SpectralToolkitError, match=r"needs the library 'voila': pip install 'spectral-toolkit\[app\]'"):
        server.serve("1")
