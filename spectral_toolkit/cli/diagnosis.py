"""Reports what is installed, what fits together, and what to do, without asking a network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .._compute.settings import computing
from .._io.console import any_letters
from ..errors import first_line

Level = Literal["ok", "note", "problem"]

_OURS = "spectral-toolkit"
_PURPOSE = {
    "notebooks": "the widget and the notebooks",
    "app": "'spectral-toolkit explore', the widget as an app in the browser",
    "diffusers": "text-to-image models",
    "faiss": "search='faiss', neighbours in large datasets",
    "figures": "st.save_figure, figures for papers",
    "labs": "the teaching labs and their automatic checks",
}
"""The purpose of every extra for users; the extra for tests is not one of them."""

_FRONT_ENDS = {"jupyterlab": "JupyterLab", "notebook": "Notebook", "voila": "Voila"}
_LAB_EXTENSIONS = {
    "@jupyter-widgets/jupyterlab-manager": ("ipywidgets", "controls"),
    "@bokeh/jupyter_bokeh": ("jupyter_bokeh", "figures"),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    level
        ``"ok"``, ``"note"`` (works, but something is left out) or ``"problem"`` (something will fail).
    subject
        What was checked.
    text
        What was found.
    remedy
        What to do about it; empty where nothing needs to be done.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `doctor` found.

    Attributes
    ----------
    findings
        The findings, in the order in which they are printed.
    versions
        Installed version of every library that this package requires, by name.
    """

    findings: tuple[Finding, ...]
    versions: dict[str, str]

    @property
    def healthy(self) -> bool:
        """Whether no problem was found."""
        return not any(finding.level == "problem" for finding in self.findings)

    def __str__(self) -> str:
        marks = {"ok": "  ok     ", "note": "  note   ", "problem": "PROBLEM  "}
        lines = []
        for finding in self.findings:
            lines.append(f"{marks[finding.level]}{finding.subject}: {finding.text}")
            if finding.remedy:
                lines.append(f"           -> {finding.remedy}")
        n_problems = sum(finding.level == "problem" for finding in self.findings)
        found = (
            f"{n_problems} problem{'s' if n_problems > 1 else ''} found." if n_problems else "Everything fits together."
        )
        return "\n".join([*lines, "", found])

    def __repr__(self) -> str:
        return f"<Diagnosis: {'healthy' if self.healthy else 'problems'}, {len(self.findings)} findings>"


@computing
def doctor(*, quiet: bool = False) -> Diagnosis:
    """Check this installation: versions, device, what notebooks need, and combinations known to fail.

    Nothing is downloaded and nothing is changed.

    Parameters
    ----------
    quiet
        Whether to return the findings without printing them.

    Returns
    -------
    Diagnosis

    Examples
    --------
    >>> {finding.subject for finding in doctor(quiet=True).findings} >= {"Python", "Device"}
    True
    """
    installed = _installed()
    findings = [
        *check_versions(importlib.metadata.requires(_OURS) or [], installed, platform.python_version()),
        *check_combinations(installed, lambda name: importlib.metadata.requires(name) or []),
        _device(),
        _bokehjs(),
        _scenes(),
        *check_front_ends(installed, _share_folders(), os.environ),
        *_kernel(),
    ]
    wanted = {name for name, *_ in _requirements(importlib.metadata.requires(_OURS) or [])}
    versions = {name: installed[name] for name in sorted(wanted) if name in installed}
    diagnosis = Diagnosis(tuple(findings), versions)
    if not quiet:
        with any_letters():
            print(diagnosis)
    return diagnosis


def check_versions(requires: Iterable[str], installed: Mapping[str, str], python: str) -> list[Finding]:
    """Compare installed versions with the ranges that this package requires; missing extras are only a note."""
    findings = [Finding("ok", "Python", python)]
    if tuple(map(int, python.split(".")[:2])) < (3, 11):
        findings = [Finding("problem", "Python", f"{python}, but the oldest that works is 3.11", "use a newer Python")]
    wrong: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    complete: dict[str, bool] = {}
    for name, spec, extra in _requirements(requires):
        complete.setdefault(extra, True)
        if name not in installed:
            missing.setdefault(extra, []).append(name)
        elif not _within(spec, installed[name]):
            wrong.setdefault(extra, []).append(f"{name} {installed[name]}, wanted {spec}")
    for extra in complete:
        absent, off = missing.get(extra, []), wrong.get(extra, [])
        subject = f"Extra '{extra}'" if extra else "Libraries"
        package = f"'{_OURS}[{extra}]'" if extra else _OURS
        remedy = f"pip install --upgrade {package}"
        if off:
            findings.append(Finding("problem", subject, "outside their ranges: " + "; ".join(off), remedy))
        if absent and not extra:
            findings.append(Finding("problem", subject, f"missing: {', '.join(absent)}", remedy))
        elif absent:
            text = f"not installed: {', '.join(absent)} (for {_PURPOSE[extra]})"
            findings.append(Finding("note", subject, text, f"pip install {package}"))
        if not off and not absent:
            findings.append(Finding("ok", subject, "installed, with every version in its range"))
    return findings


def check_combinations(installed: Mapping[str, str], requires_of: Callable[[str], Iterable[str]]) -> list[Finding]:
    """Find libraries that are known not to work together."""
    findings = []
    torch, torchvision = installed.get("torch", ""), installed.get("torchvision", "")
    if torchvision and torch:
        wanted = next((spec for name, spec, _ in _requirements(requires_of("torchvision")) if name == "torch"), "")
        cpu_build = torch.startswith("2.13") and torch.endswith("+cpu")
        if cpu_build or not _within(wanted, torch):
            why = (
                f"made for torch {wanted.lstrip('=')}"
                if wanted and not cpu_build
                else "made for another build of torch"
            )
            findings.append(
                Finding(
                    "problem",
                    "torchvision",
                    f"{torchvision} beside torch {torch}: it is {why}, and breaks the import of transformers' models",
                    "pip uninstall torchvision (nothing here needs it)",
                )
            )
    return findings


def check_front_ends(
    installed: Mapping[str, str], share: Iterable[Path], environment: Mapping[str, str]
) -> list[Finding]:
    """Find where notebooks can be opened, and whether the browser's part of the widgets is installed."""
    found = [f"{label} {installed[name]}" for name, label in _FRONT_ENDS.items() if name in installed]
    if "COLAB_RELEASE_TAG" in environment:
        found.append("Colab (running)")
    if any(name.startswith("VSCODE_") for name in environment):
        found.append("VS Code (running)")
    if not found:
        return [
            Finding("note", "Front ends", "none: reports and frozen pages open in any browser, but notebooks do not",
                    f"pip install '{_OURS}[notebooks]'")
        ]  # fmt: skip
    findings = [Finding("ok", "Front ends", ", ".join(found))]
    if any(name in installed for name in _FRONT_ENDS):
        folders = [folder / "labextensions" for folder in share]
        for extension, (package, purpose) in _LAB_EXTENSIONS.items():
            if package in installed and not any((folder / extension / "package.json").is_file() for folder in folders):
                findings.append(
                    Finding(
                        "problem",
                        "Front ends",
                        f"{package} is installed without its part for the browser ({extension}): {purpose} stay empty",
                        f"pip install --force-reinstall --no-deps {package}",
                    )
                )
    return findings


def _installed() -> dict[str, str]:
    """Versions of all packages that this Python can import, by canonical name."""
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # the remains of an interrupted installation have no name
            found.setdefault(canonicalize_name(name), distribution.version)
    # Everybody writes 'jupyter_bokeh'.
    return found | {name.replace("-", "_"): version for name, version in found.items()}


def _requirements(requires: Iterable[str]) -> list[tuple[str, str, str]]:
    """Name, range and extra of each requirement that applies here, except those of tests."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = []
    for text in requires:
        requirement = Requirement(text)
        name, spec, marker = canonicalize_name(requirement.name), str(requirement.specifier), requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            found.append((name, spec, ""))
            continue
        found += [(name, spec, extra) for extra in _PURPOSE if marker.evaluate({"extra": extra})]
    return found


def _within(spec: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(spec).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # a local build, which no range covers


def _device() -> Finding:
    try:
        import torch
    except Exception as error:  # a broken installation may raise any error
        return Finding("problem", "Device", f"torch cannot be imported ({first_line(error)})", "reinstall torch")
    if torch.cuda.is_available():
        return Finding("ok", "Device", f"'auto' is cuda ({torch.cuda.get_device_name()}), torch {torch.__version__}")
    if torch.backends.mps.is_available():
        return Finding("ok", "Device", f"'auto' is mps, torch {torch.__version__}; eigenproblems in single precision")
    return Finding(
        "ok", "Device", f"'auto' is the CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _bokehjs() -> Finding:
    spec = importlib.util.find_spec("bokeh")
    script = Path(spec.origin or "").parent / "server" / "static" / "js" / "bokeh.min.js" if spec else Path()
    if script.is_file():
        return Finding("ok", "BokehJS", "taken from the installed package, so that figures need no network")
    return Finding(
        "problem",
        "BokehJS",
        "bokeh's script is not in its package: figures would need a network, and stay empty without one",
        "pip install --force-reinstall --no-deps bokeh",
    )


def _scenes() -> Finding:
    weights = Path(__file__).parent.parent / "scenes" / "weights" / "scenes" / "model.safetensors"
    if weights.is_file():
        return Finding("ok", "Bundled model", "'scenes' is installed and needs no network")
    return Finding("problem", "Bundled model", "the weights of 'scenes' are missing", f"reinstall {_OURS}")


def _share_folders() -> list[Path]:
    """The folders in which Jupyter looks for its extensions."""
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        return [Path(sys.prefix) / "share" / "jupyter"]
    return [Path(folder) for folder in jupyter_path()]


def _kernel() -> list[Finding]:
    """Check whether notebooks run in this Python."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return []
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv
    except (NoSuchKernel, OSError, json.JSONDecodeError):
        return [
            Finding(
                "note", "Kernel", "there is no kernel called python3: notebooks cannot run", "pip install ipykernel"
            )
        ]
    # A bare name stands for the Python in which Jupyter itself runs.
    bare = command and os.path.basename(command[0]) == command[0]
    if not bare and command and os.path.realpath(command[0]) != os.path.realpath(sys.executable):
        return [
            Finding(
                "note",
                "Kernel",
                f"python3 runs {command[0]}, not this Python: packages that are installed here may be missing there",
                "python -m ipykernel install --sys-prefix",
            )
        ]
    return [Finding("ok", "Kernel", "notebooks run in this Python")]
