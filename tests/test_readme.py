"""What the README and the page on architecture say is what the code does."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from module_zoo import SEEN, made

import spectral_toolkit as st


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_title_a_sentence_a_figure_two_commands_six_lines_of_python(readme: str) -> None:
    """That the commands exist and the Python runs is for tests/test_documentation.py."""
    title, sentence, figure = readme.split("\n\n")[:3]
    assert title == "# spectral_toolkit"
    assert sentence.count(".") == 1
    assert re.match(r"!\[.+\]\(docs/images/.+\)$", figure)
    (commands,), (python,) = blocks(readme, "sh"), blocks(readme, "python")
    assert [line.split("#")[0].strip() for line in commands.splitlines()] == ["make demo", "make test"]
    assert len(python.splitlines()) == 6
    assert readme.index(commands) < readme.index(python)


def test_it_is_short_and_leaves_details_to_the_documentation(readme: str) -> None:
    assert len(readme.splitlines()) <= 110
    assert "<!--" not in readme, "tables that scripts make belong to the documentation"
    assert not re.search(r"^    \S", re.sub(r"```.*?```", "", readme, flags=re.DOTALL), re.MULTILINE), "a tree of files"


def test_tables_are_those_of_the_code(repository: Path) -> None:
    tables = load(repository / "docs" / "make_tables.py")
    page = (repository / "docs" / "supported.md").read_text()
    assert page == tables.with_tables(page), "run: python docs/make_tables.py"
    for name in tables.TABLES:
        assert tables.TABLES[name]().strip()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(repository: Path, name: str) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", (repository / name).read_text())
    assert targets
    for target in targets:
        assert target.startswith(("https://", "#")) or (repository / target).exists(), target


def test_the_map_of_the_package_is_whole_and_in_the_order_of_imports(repository: Path) -> None:
    from test_imports import ORDER

    page = (repository / "docs" / "developing" / "architecture.md").read_text()
    rows = re.findall(
        r"^\| `([^`]+)` \|", page.split("<!-- modules -->")[1].split("<!-- /modules -->")[0], re.MULTILINE
    )
    package = repository / "spectral_toolkit"
    assert [name.removesuffix(".py").rstrip("/") for name in rows] == list(ORDER)
    for name in rows:
        assert (package / name).is_dir() if name.endswith("/") else (package / name).is_file(), name


def test_images_are_small(repository: Path) -> None:
    images = list((repository / "docs" / "images").glob("*.png"))
    assert images
    assert all(path.stat().st_size < 400_000 for path in images)


def test_every_own_error_is_explained(repository: Path) -> None:
    """docs/errors.md has a part for every error class."""
    text = (repository / "docs" / "errors.md").read_text()
    classes = [name for name, value in vars(st.errors).items() if isinstance(value, type) and "Error" in name]
    assert classes
    for name in classes:
        assert f"`{name}`" in text


def test_explained_messages_are_those_of_the_code(repository: Path) -> None:
    """The first column of docs/errors.md quotes the fixed parts of messages."""
    spoken = []
    for path in (repository / "spectral_toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                spoken.append(node.value)
    text = (repository / "docs" / "errors.md").read_text().split("## Problems without")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(quoted) > 10
    for message in quoted:
        assert any(message in sentence for sentence in spoken), message


def hub_module() -> Any:
    """A module in the shape of those that ``torch.hub`` gives of DINO and DINOv2."""
    return made(SEEN["chunked"])


def qwen_tower() -> Any:
    import transformers as tf

    config: Any = tf.Qwen2_5_VLConfig().vision_config
    config.update({"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 40, "out_hidden_size": 16})
    return made(lambda: tf.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel(config))


@pytest.mark.parametrize("make", [hub_module, qwen_tower])
def test_its_lines_run_on_ones_own_model(readme: str, make: Callable[[], Any]) -> None:
    """As they stand, with a model in place of the name of one; for a model of timm see tests/test_timm.py."""
    (python,) = blocks(readme, "python")
    assert python.count('"scenes"') == 1
    names: dict[str, Any] = {"model": make()}
    exec(python.replace('"scenes"', "model"), names)
    for result in (names["where"], names["what"]):
        assert bool(result["converged"].all())
        assert result["eigenvector"].sizes["image"] == 2


def test_what_interventions_are_said_to_show(repository: Path) -> None:
    """The paragraph of the README, in numbers: new weights must not make it false."""
    found = json.loads((repository / "docs" / "interventions.json").read_text(encoding="utf-8"))
    costs = 0
    for model, record in found.items():
        rows = {(row["edit"], row["control"]): row for row in record["rows"]}

        def share(edit: str, control: str, outcome: str, rows: Any = rows) -> list[float]:
            return rows[edit, control][outcome]

        values, keys, span = "exchange|values|all", "exchange|queries and keys|all", "removal|queries and keys|all"
        moved = "category moved"
        ordinary = model in ("scenes", "scenes-absolute")
        chance = share(values, "donor shuffled", moved)[0]
        assert share(values, "edited", moved)[0] > (2 if ordinary else 1.5) * chance, model
        # "Not in scenes, and a little in scenes-absolute".
        chance, low, high = share(keys, "donor shuffled", moved)
        is_little = high < share(keys, "edited", moved)[0] < 1.5 * chance
        assert is_little if model == "scenes-absolute" else low < share(keys, "edited", moved)[0] < high, model
        costs += share(span, "edited", "category kept")[2] < share(span, "random span", "category kept")[1]
        assert max(row["position kept"][0] for row in rows.values()) < 0.2, model
    assert (len(found), costs) == (3, 3)
