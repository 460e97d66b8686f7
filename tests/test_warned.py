"""Every warning names the line that the user wrote."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

import spectral_toolkit as st

PACKAGE = Path(st.__file__).parent


def test_every_warning_asks_which_line_is_the_users() -> None:
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                level = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("stacklevel")
                assert level == "outside()", f"{path.name}:{node.lineno}"
                found += 1
    assert found >= 6


def test_warnings_about_images_name_the_users_line(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "dark.png")
    (tmp_path / "other.heic").write_bytes(b"")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        images = st.load_images(tmp_path)
        images[0]
    assert [Path(one.filename).name for one in told] == [Path(__file__).name] * 2
