"""How the package hangs together: quick to import, imports one way, every public name where it should be."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import PYTHON

import spectral_toolkit

PACKAGE = Path(spectral_toolkit.__file__).parent

# Upper may not import lower.
ORDER = (
    "errors",
    "_table",
    "_compute",
    "_io",
    "datasets",
    "scenes",
    "_models",
    "_capture",
    "_affinity",
    "kernels",
    "solvers",
    "_analysis",
    "scores",
    "_render",
    "_explorer",
    "views",
    "_views",
    "studies",
    "cli",
    "__main__",
)
HEAVY = ("torch", "transformers", "diffusers", "xarray", "numpy", "scipy", "holoviews", "bokeh", "matplotlib", "PIL")
SOURCES = sorted(PACKAGE.rglob("*.py"))


def public_names() -> dict[str, str]:
    """Every public name, and the module below the package where it lives; read from the one list of them."""
    statements = ast.parse((PACKAGE / "__init__.pyi").read_text()).body
    found = [node for node in statements if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or alias.name for node in found for alias in node.names}


HOMES = public_names()


def module_of(path: Path) -> tuple[str, ...]:
    """Dotted parts below the package: ('views', 'overlay'), () for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(source: str, module: tuple[str, ...], is_package: bool) -> set[tuple[str, ...]]:
    """Absolute names of everything that a source file imports, wherever in the file."""
    found: set[tuple[str, ...]] = set()
    here = ("spectral_toolkit", *module)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = here if is_package else here[:-1]
                name = (*base[: len(base) - node.level + 1], *name)
            found |= {(*name, alias.name) for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    """Which of our own top-level modules a file imports; a public name counts as the module it lives in."""
    rooms = set()
    for name in imported(path.read_text(), module_of(path), path.name == "__init__.py"):
        if name[0] == "spectral_toolkit" and len(name) > 1 and not name[1].startswith("__version"):
            rooms.add(HOMES.get(name[1], name[1]).split(".")[0])
    return rooms


@pytest.mark.parametrize(
    "statement", ["import spectral_toolkit", "from spectral_toolkit.cli import main; main(['--help'])"]
)
def test_import_and_help_load_nothing_heavy(statement: str) -> None:
    """How long they take is measured by benchmarks/bench_startup.py."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stderr)) & set(HEAVY) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    module = module_of(path)
    if not module:  # __init__ names everything, and loads it on first use
        return
    assert module[0] in ORDER, f"{module[0]} has no place in the order of imports"
    own = ORDER.index(module[0])
    lower = {room for room in rooms_imported(path) if room not in ORDER or ORDER.index(room) > own}
    assert not lower, f"{'.'.join(module)} may not import {lower}"


def test_direction_check_notices_a_wrong_import() -> None:
    source = "def late():\n    from ..solvers import solve\n    import spectral_toolkit._views.report"
    assert imported(source, ("models", "families"), False) == {
        ("spectral_toolkit", "solvers", "solve"),
        ("spectral_toolkit", "_views", "report"),
    }
    assert imported("from . import a\nfrom .. import b", ("models",), True) == {
        ("spectral_toolkit", "models", "a"),
        ("spectral_toolkit", "b"),
    }


def test_views_import_no_torch_the_engine_no_widget_and_models_no_mathematics() -> None:
    for path in SOURCES:
        roots = {name[0] for name in imported(path.read_text(), module_of(path), path.name == "__init__.py")}
        if module_of(path)[:1] in {("_views",), ("_render",)}:
            assert not roots & {"torch", "transformers", "diffusers"}, path
        if module_of(path)[:1] in {("_explorer",), ("_render",)}:
            assert not roots & {"bokeh", "holoviews", "ipywidgets", "panel"}, path
        if module_of(path)[:1] == ("_models",):
            assert not rooms_imported(path) & {"_affinity", "solvers"}, path


def test_the_list_of_public_names_is_what_is_exported() -> None:
    assert set(spectral_toolkit.__all__) == set(HOMES)
    assert list(HOMES) == sorted(set(HOMES), key=list(HOMES).index), "a name stands twice in the list"


def test_every_public_name_resolves_after_its_module_was_imported() -> None:
    """A submodule imported early must not take the place of a public function.

    The order does not matter, as no submodule carries the name of one; see the next test.
    """
    code = (
        "import importlib, json, sys, spectral_toolkit as st\n"
        "homes = json.loads(sys.argv[1])\n"
        "for _, home in homes: importlib.import_module('spectral_toolkit.' + home)\n"
        "for name, home in homes:\n"
        "    if name == home: assert getattr(st, name).__name__ == 'spectral_toolkit.' + name\n"
        "    else: assert callable(getattr(st, name)), name\n"
        "assert set(st.__all__) <= set(dir(st))\n"
    )
    homes = json.dumps(list(HOMES.items())[::-1])
    done = subprocess.run([*PYTHON, "-c", code, homes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_submodule_carries_the_name_of_a_public_function() -> None:
    files = {path.stem if path.name != "__init__.py" else path.parent.name for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not (files | folders) & {name for name, home in HOMES.items() if name != home}


def test_no_class_name_is_used_twice() -> None:
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_what_users_read_imports_public_names_only() -> None:
    """Documentation, notebooks and generated code: what is imported from us is exported at the top."""
    root = PACKAGE.parent
    pages = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("notebooks/**/*.ipynb"), *SOURCES]
    modules = "|".join(name for name, home in HOMES.items() if name == home)
    private = re.compile(rf"(?:from|import) spectral_toolkit\.(?!{modules})\w[\w.]*")
    found = {
        (path.relative_to(root).as_posix(), match.group())
        for path in pages
        if "developing" not in path.parts
        for match in private.finditer(path.read_text())
    }
    assert found == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="solv"):
        _ = spectral_toolkit.solv  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_short_and_finished(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 600
    # Spelt apart, so that this file passes the test it makes.
    for word in ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "pragma: " + "no cover"):
        assert word not in text


def test_order_names_what_exists() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(ORDER) == files | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert len(set(ORDER)) == len(ORDER)
