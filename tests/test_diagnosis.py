"""``st.doctor``: what it says of installations that are whole, half, or known to fail."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import spectral_toolkit as st
from spectral_toolkit.cli import diagnosis, main
from spectral_toolkit.cli.diagnosis import check_combinations, check_front_ends, check_versions

REQUIRES = [
    "torch<3,>=2.6",
    "bokeh<3.10,>=3.6",
    "sometimes; sys_platform == 'none'",
    'jupyterlab<5,>=4.4; extra == "notebooks"',
    'jupyter_bokeh<5,>=4.0; extra == "notebooks"',
    'voila<0.6,>=0.5.13; extra == "app"',
    'diffusers>=0.35; extra == "diffusers"',
    'pytest>=8; extra == "test"',
]
WHOLE = {
    "torch": "2.13.0+cpu", "bokeh": "3.9.2", "jupyterlab": "4.6.6", "jupyter-bokeh": "4.1.0", "voila": "0.5.13",
    "diffusers": "0.42.1",
}  # fmt: skip


def said(installed: dict[str, str], python: str = "3.11.7") -> dict[str, tuple[str, str, str]]:
    findings = check_versions(REQUIRES, installed, python)
    return {finding.subject: (finding.level, finding.text, finding.remedy) for finding in findings}


def test_a_whole_installation_is_sound() -> None:
    found = said(WHOLE)
    assert list(found) == ["Python", "Libraries", "Extra 'notebooks'", "Extra 'app'", "Extra 'diffusers'"]
    assert {level for level, *_ in found.values()} == {"ok"}


def test_what_is_missing_of_an_extra_is_a_note_and_of_the_core_a_problem() -> None:
    found = said({name: version for name, version in WHOLE.items() if name not in ("voila", "bokeh")})
    assert found["Extra 'app'"] == (
        "note",
        "not installed: voila (for 'spectral-toolkit explore', the widget as an app in the browser)",
        "pip install 'spectral-toolkit[app]'",
    )
    assert found["Libraries"] == ("problem", "missing: bokeh", "pip install --upgrade spectral-toolkit")


def test_a_version_outside_its_range_is_a_problem() -> None:
    found = said({**WHOLE, "bokeh": "3.10.0", "jupyterlab": "3.6.1"})
    assert found["Libraries"][:2] == ("problem", "outside their ranges: bokeh 3.10.0, wanted <3.10,>=3.6")
    assert found["Extra 'notebooks'"][0] == "problem"
    assert found["Extra 'notebooks'"][2] == "pip install --upgrade 'spectral-toolkit[notebooks]'"
    assert said({**WHOLE, "torch": "a build of mine"})["Libraries"][0] == "ok"
    assert said(WHOLE, python="3.10.2")["Python"][0] == "problem"


@pytest.mark.parametrize(
    ("torch", "torchvision", "wanted", "level"),
    [
        ("2.13.0+cpu", "0.28.0", "torch==2.13.0", "problem"),
        ("2.13.0", "0.28.0", "torch==2.13.0", None),
        ("2.12.0", "0.28.0", "torch==2.13.0", "problem"),
        ("2.13.0+cpu", "", "", None),
    ],
)
def test_torchvision_beside_a_torch_it_does_not_fit(
    torch: str, torchvision: str, wanted: str, level: str | None
) -> None:
    installed = {"torch": torch, **({"torchvision": torchvision} if torchvision else {})}
    found = check_combinations(installed, lambda name: ["numpy", wanted] if name == "torchvision" else [])
    assert [finding.level for finding in found] == ([level] if level else [])
    if found:
        assert found[0].remedy.startswith("pip uninstall torchvision")
        assert f"{torchvision} beside torch {torch}" in found[0].text


def test_front_ends_and_their_halves_in_the_browser(tmp_path: Path) -> None:
    installed = {"jupyterlab": "4.6.6", "notebook": "7.5.0", "ipywidgets": "8.1.9", "jupyter_bokeh": "4.1.0"}
    (controls := tmp_path / "labextensions" / "@jupyter-widgets" / "jupyterlab-manager").mkdir(parents=True)
    (controls / "package.json").write_text("{}")
    found = check_front_ends(installed, [tmp_path / "elsewhere", tmp_path], {"VSCODE_PID": "1", "HOME": "/"})
    assert found[0].text == "JupyterLab 4.6.6, Notebook 7.5.0, VS Code (running)"
    assert [(finding.level, finding.remedy) for finding in found[1:]] == [
        ("problem", "pip install --force-reinstall --no-deps jupyter_bokeh")
    ]
    assert "figures stay empty" in found[1].text
    none = check_front_ends({"torch": "2"}, [], {})
    assert (none[0].level, none[0].remedy) == ("note", "pip install 'spectral-toolkit[notebooks]'")
    assert check_front_ends({}, [], {"COLAB_RELEASE_TAG": "x"})[0].text == "Colab (running)"


def test_the_doctor_reads_metadata_and_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = st.doctor()
    printed = capsys.readouterr().out
    assert printed == f"{found}\n"
    assert found.versions["torch"] == importlib.metadata.version("torch")
    assert repr(found).startswith("<Diagnosis: ")
    assert {"Python", "Libraries", "Device", "BokehJS", "Bundled model"} <= {one.subject for one in found.findings}
    assert st.doctor(quiet=True).findings == found.findings
    assert capsys.readouterr().out == ""


def test_a_problem_is_counted_and_gives_the_command_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "_installed", lambda: {**WHOLE, "torchvision": "0.28.0"})
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES if name == "spectral-toolkit" else [])
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM  torchvision: 0.28.0 beside torch 2.13.0+cpu" in out
    assert "1 problem found." in out
    monkeypatch.setattr(diagnosis, "_installed", lambda: WHOLE)
    monkeypatch.setattr(diagnosis, "check_front_ends", lambda *_: [])
    assert main(["doctor"]) == 0
    assert "Everything fits together." in capsys.readouterr().out


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnosis._device()
    assert (found.level, found.remedy) == ("problem", "reinstall torch")


def test_a_kernel_of_another_python_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec: dict[str, Any] = {"display_name": "x", "language": "python"}
    from jupyter_client import kernelspec

    monkeypatch.setattr(kernelspec, "jupyter_path", lambda *_: [str(tmp_path / "kernels")])
    for command, level in (("/opt/other/bin/python", "note"), (sys.executable, "ok"), ("python", "ok")):
        (folder / "kernel.json").write_text(json.dumps({**spec, "argv": [command, "-m", "ipykernel_launcher"]}))
        assert [finding.level for finding in diagnosis._kernel()] == [level]
