"""What our messages advise can be done: names exist, and code runs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import BeitConfig, BeitModel
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit.errors import ActivationsError

PACKAGE = Path(st.__file__).parent


def texts(tree: ast.AST) -> list[tuple[int, str]]:
    """Every text of a source file but docstrings, with {} where something is put in."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            found.append((node.lineno, node.value))
    return found


MESSAGES = [
    (f"{path.relative_to(PACKAGE)}:{line}", text)
    for path in sorted(PACKAGE.rglob("*.py"))
    for line, text in texts(ast.parse(path.read_text()))
]
PUBLIC = [
    (where, name) for where, text in MESSAGES for name in re.findall(r"\bst\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", text)
]
CALLS = [(where, *call) for where, text in MESSAGES for call in re.findall(r"\bst\.([A-Za-z_.]+)\(([^()]*)\)", text)]
METHODS = [
    (where, owner, name)
    for where, text in MESSAGES
    for owner, name in re.findall(r"(?<![\w.)\]])(activations|eig|graph|tree|labels|)\.([a-z_]+)\(", text)
    # Those left out write code and pages of their own.
    if where.split("/")[0] not in ("_views", "_explorer", "_render", "studies", "scenes")
]
OWNERS = {"activations": xr.DataTree, "tree": xr.DataTree, "eig": xr.Dataset, "labels": xr.DataArray}


def test_there_are_messages_to_look_at() -> None:
    assert len(PUBLIC) > 30
    assert CALLS
    assert {name for _, _, name in METHODS} >= {"sel", "isel", "map_over_datasets"}


@pytest.mark.parametrize(("where", "name"), sorted(set(PUBLIC)))
def test_public_names_in_messages_exist(where: str, name: str) -> None:
    found = st
    for part in name.split("."):
        assert hasattr(found, part), f"{where} names st.{name}"
        found = getattr(found, part)


@pytest.mark.parametrize(("where", "name", "given"), sorted(set(CALLS)))
def test_arguments_in_messages_exist(where: str, name: str, given: str) -> None:
    function = st
    for part in name.split("."):
        function = getattr(function, part)
    known = inspect.signature(function).parameters  # pyright: ignore[reportArgumentType]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    named = set(re.findall(r"(\w+)=", given))
    assert takes_any or named <= set(known), f"{where}: st.{name}({given})"


@pytest.mark.parametrize(("where", "owner", "name"), sorted(set(METHODS)))
def test_methods_in_messages_exist(where: str, owner: str, name: str) -> None:
    """Of what the message is about; where it does not say what, of everything that xarray may have given."""
    kinds = [OWNERS[owner]] if owner in OWNERS else [xr.DataTree, xr.DataArray, xr.Dataset]
    if where.startswith(("_io/activations", "_affinity", "_capture")):
        kinds = [xr.DataTree]
    assert any(hasattr(kind, name) for kind in kinds), f"{where} advises {owner}.{name}()"


# --- two captures joined ---------------------------------------------------------------------------------------------


def captures(*, bias: bool = False) -> list[xr.DataTree]:
    config = BeitConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=8,
        use_relative_position_bias=bias,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BeitModel(config)
        for name, parameter in model.named_parameters():
            if "relative_position" in name:
                torch.nn.init.normal_(parameter)
    pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    return [st.capture(model, pictures[part], progress=False) for part in (slice(0, 2), slice(2, 4))]


@pytest.mark.parametrize("made", ["captured", "by hand"])
def test_the_advice_for_equal_names_runs(made: str) -> None:
    both = captures() if made == "captured" else [make_tree([(3, 4), (2, 2)], images=2)] * 2
    acts = xr.concat(both, dim="image", data_vars="all")
    if made == "by hand":
        acts = acts.map_over_datasets(lambda node: node.assign_coords(image=["a", "b", "a", "b"]))
    with pytest.raises(ActivationsError) as raised:
        st.affinity(acts, "vv", device="cpu")
    advice = re.findall(r"`([^`]+)`", str(raised.value))
    assert len(advice) == 1
    given = {"activations": acts, "names": list("wxyz")}
    exec(advice[0], given)
    eig = st.solve(st.affinity(given["activations"], "vv", device="cpu"), 2)  # pyright: ignore[reportArgumentType]
    assert eig["image"].values.tolist() == list("wxyz")


def test_captures_with_the_same_bias_are_joined() -> None:
    both = captures(bias=True)
    acts = xr.concat(both, dim="image", data_vars="all").map_over_datasets(
        lambda node: node.assign_coords(image=list("wxyz"))
    )
    assert "image" in acts.children["layers.0"].dataset["attention_bias"].dims
    found = st.solve(st.affinity(acts, "qk", device="cpu"), 2)
    for place, alone in enumerate(both):
        expected = st.solve(st.affinity(alone, "qk", device="cpu"), 2)
        np.testing.assert_allclose(found.eigenvalue[2 * place : 2 * place + 2], expected.eigenvalue, atol=1e-6)


def test_each_image_may_have_a_bias_of_its_own() -> None:
    acts = xr.concat(captures(bias=True), dim="image", data_vars="all").map_over_datasets(
        lambda node: node.assign_coords(image=list("wxyz"))
    )
    node = acts.children["layers.0"]
    other = node.dataset["attention_bias"].copy(deep=True)
    other[2:] += np.arange(other.sizes["key_token"])
    node.dataset = node.to_dataset().assign(attention_bias=other)
    both = st.affinity(acts, "qk", device="cpu")
    for image in range(4):
        alone = acts.isel(image=[image])
        np.testing.assert_allclose(
            both.to_dense(image)["layers.0"], st.affinity(alone, "qk", device="cpu").to_dense()["layers.0"], atol=1e-7
        )
    node.dataset = node.to_dataset().assign(attention_bias=other.isel(image=0, head=0))
    with pytest.raises(ActivationsError, match=r"has dimensions \('query_token', 'key_token'\); expected"):
        st.solve(st.affinity(acts, "qk", device="cpu"), 2)
