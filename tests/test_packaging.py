"""What gets installed: the wheel carries its data, and every file that names dependencies says the same."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Modules whose distribution carries another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "faiss": "faiss-cpu",
}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel of a copy of what a checkout holds (a build writes into its source)."""
    source = tmp_path_factory.mktemp("folder with a space") / "source"
    shutil.copytree(
        repository,
        source,
        ignore=shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__"),
    )
    # The sdist by the backend itself, the wheel from that sdist by pip: what is not in the sdist is missed at once.
    make = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    done = subprocess.run([sys.executable, "-c", make], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sdist,) = (source / "dist").glob("spectral_toolkit-*.tar.gz")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--wheel-dir", "dist", str(sdist)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source / "dist"


@pytest.fixture(scope="module")
def wheel_names(built: Path) -> set[str]:
    """Names of all files in the wheel."""
    (wheel,) = built.glob("spectral_toolkit-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow(seconds=20)
def test_installed_wheel_runs_the_demo_outside_the_repository(built: Path, tmp_path: Path) -> None:
    """Installed into a folder of its own, beside the dependencies that are there, and started from elsewhere."""
    (wheel,) = built.glob("spectral_toolkit-*.whl")
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*command, str(wheel)], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    script = target / "bin" / "spectral-toolkit"
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    where = "import spectral_toolkit; print(spectral_toolkit.__file__)"
    done = subprocess.run([sys.executable, "-c", where], cwd=elsewhere, capture_output=True, text=True, env=environment)
    assert Path(done.stdout.strip()).is_relative_to(target), done.stdout + done.stderr
    run = [sys.executable, str(script), "demo", "--n-images", "1", "--out", "result"]
    done = subprocess.run(run, cwd=elsewhere, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "result" / "report.html").stat().st_size > 10_000
    assert (elsewhere / "result" / "eigenvectors.zarr").is_dir()


def test_wheel_carries_every_file_of_the_package(repository: Path, wheel_names: set[str]) -> None:
    package = repository / "spectral_toolkit"
    wanted = {
        path.relative_to(repository).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert wanted <= wheel_names


def test_wheel_carries_weights_templates_and_licence(wheel_names: set[str]) -> None:
    for pattern in (
        r"spectral_toolkit/scenes/weights/scenes/model\.safetensors",
        r"spectral_toolkit/scenes/weights/scenes/config\.json",
        r"spectral_toolkit/_views/templates/.+",
        r"spectral_toolkit/py\.typed",
        r"spectral_toolkit-[^/]+\.dist-info/licenses/LICENSE",
    ):
        assert any(re.fullmatch(pattern, name) for name in wheel_names), pattern
    assert not any(name.startswith(("tests/", "benchmarks/", "notebooks/", "docs/")) for name in wheel_names)


def test_weights_are_small(repository: Path) -> None:
    weights = list((repository / "spectral_toolkit").rglob("*.safetensors"))
    assert weights
    assert all(path.stat().st_size < 8e6 for path in weights)


def test_constraints_pin_every_dependency_within_its_range(repository: Path, project: dict) -> None:
    pins: dict[str, str] = {}
    for line in (repository / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pins
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(entry for extra in extras.values() for entry in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


def test_environment_file_agrees_with_pyproject(repository: Path, project: dict) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    python, pip, from_pip = environment["dependencies"]
    assert project["requires-python"] == python.replace("python=", ">=")
    assert pip == "pip"
    # That of timm brings torchvision, which breaks beside a torch that it was not made for.
    extras = ",".join(sorted(set(project["optional-dependencies"]) - {"timm"}))
    assert from_pip == {"pip": ["--constraint constraints.txt", f"--editable .[{extras}]"]}


def test_every_dependency_says_why(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    entries = [line for line in block.splitlines() if line.startswith('    "')]
    assert len(entries) > 20
    assert all("  # " in line for line in entries)


def third_party(paths: list[Path]) -> set[str]:
    """Distributions that files import at any depth, under their names on the package index."""
    modules: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    local = {
        "spectral_toolkit",
        "benchmarks",
        "training",
        *(path.stem for path in paths),
        *(path.parent.name for path in paths),
    }
    foreign = modules - set(sys.stdlib_module_names) - local
    return {str(canonicalize_name(DISTRIBUTIONS.get(name, name))) for name in foreign}


def names_of(entries: list[str]) -> set[str]:
    return {str(canonicalize_name(Requirement(entry).name)) for entry in entries}


def test_imports_are_declared_and_declarations_are_imported(repository: Path, project: dict) -> None:
    core = names_of(project["dependencies"])
    extras = {name: names_of(entries) for name, entries in project["optional-dependencies"].items()}
    used = third_party(list((repository / "spectral_toolkit").rglob("*.py")))
    # What needs an extra says so where it is missing.
    optional = set().union(*(extras[name] for name in ("diffusers", "faiss", "figures", "notebooks", "app")))
    assert used - core - optional == set(), "imported by the package, not declared"
    assert core - used == set(), "declared, but the package never imports it"
    elsewhere = third_party(
        [path for folder in ("tests", "benchmarks", "docs", "training") for path in (repository / folder).rglob("*.py")]
    )
    assert elsewhere - core - set().union(*extras.values()) == set(), (
        "imported by tests, benchmarks or docs, not declared"
    )


def test_no_core_dependency_forbids_our_licence(project: dict) -> None:
    """Apache-2.0 code may not require code under the GPL or AGPL (the weaker LGPL may be imported)."""
    assert project["license"] == "Apache-2.0"
    for name in names_of(project["dependencies"]):
        about = importlib.metadata.metadata(name)
        said = [*(about.get_all("License-Expression") or []), *(about.get_all("Classifier") or [])]
        words = " ".join(line for line in said if not line.startswith("Classifier") or "License" in line)
        assert not re.search(r"(?<![L])(AGPL|GPL)|(?<!Lesser )General Public License", words), (name, words)


def test_citation_file_is_whole_and_agrees(repository: Path, project: dict) -> None:
    """The fields that version 1.2.0 of the Citation File Format requires, and those it shares with pyproject.toml."""
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["type"] == "software"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Yunis", "Maire"]
    assert paper["title"] in (repository / "README.md").read_text()


def test_changelog_has_a_place_for_this_version(repository: Path, project: dict) -> None:
    text = (repository / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    parts = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert parts[0] == "Unreleased" or parts[0] == project["version"]
    assert project["version"] in text
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])


def test_version_is_said_once(project: dict) -> None:
    import spectral_toolkit

    assert spectral_toolkit.__version__ == project["version"] == importlib.metadata.version("spectral-toolkit")


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_says_clearly_that_python_is_missing(repository: Path, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "a folder with a space"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, folder)
    environment = {**os.environ, "MAKEFLAGS": ""}
    command = ["make", target, "PYTHON=no-such-python"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "No Python 3.11 or newer" in done.stderr
    assert not (folder / ".venv").exists()
