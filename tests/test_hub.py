"""Models from a hub, by the lines of the documentation, from a local hub that is laid out as the real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion_zoo import stable_diffusion
from local_hub import TOKEN, Repository, served
from model_zoo import BY_NAME
from PIL import Image

CASES = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import spectral_toolkit as st

found = {}
def attempt(what, make):
    try:
        model = make()
        found[what] = [model.name, model.family, model.revision, len(model.layers), str(model.dtype)]
    except Exception as error:
        found[what] = f"{type(error).__name__}: {error}"

for name in %(names)r:
    attempt(name, lambda: st.load_model(name))
attempt("sharded again", lambda: st.load_model("facebook/dinov2-base"))
attempt("older", lambda: st.load_model("facebook/dinov2-base", revision="v1"))
attempt("half", lambda: st.load_model("someone/half"))
attempt("half in half", lambda: st.load_model("someone/half", dtype="float16"))
attempt("pickled", lambda: st.load_model("someone/pickled"))
attempt("misspelt", lambda: st.load_model("facebook/dinov2-bse"))
attempt("no revision", lambda: st.load_model("openai/clip-vit-large-patch14", revision="v9"))
del os.environ["HF_TOKEN"]
attempt("gated", lambda: st.load_model("someone/gated"))
json.dump(found, open("found.json", "w"))
"""


def lines_of_the_page(repository: Path) -> str:
    page = (repository / "docs" / "how-to" / "own-model.md").read_text()
    match = re.search(r"^<!-- not run: [^\n]*local hub[^\n]*-->\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert match is not None, "the page shows how models are loaded from the hub"
    return match[1]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    """What a process found that ran the lines of the page, as its reader does, and then the cases."""
    folder = tmp_path_factory.mktemp("hub")
    lines = lines_of_the_page(repository)
    names = re.findall(r'load_model\("([\w./-]+)"', lines)
    BY_NAME["dinov2"].make().save_pretrained(folder / "dinov2", max_shard_size="20KB")
    BY_NAME["dinov2"].make().save_pretrained(folder / "dinov2-v1")
    BY_NAME["clip_full"].make().save_pretrained(folder / "clip")
    BY_NAME["dinov3"].make().save_pretrained(folder / "dinov3")
    stable_diffusion().save_pretrained(folder / "diffusion")
    stable_diffusion().to(torch.float16).save_pretrained(folder / "diffusion", variant="fp16")
    stable_diffusion().to(torch.float16).save_pretrained(folder / "half", variant="fp16")
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text((folder / "dinov2" / "config.json").read_text())
    torch.save({}, folder / "pickled" / "pytorch_model.bin")
    repositories = {
        "facebook/dinov2-base": Repository({"main": folder / "dinov2", "v1": folder / "dinov2-v1"}),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": Repository({"main": folder / "dinov3"}, gated=True),
        "someone/gated": Repository({"main": folder / "dinov3"}, gated=True),
        "openai/clip-vit-large-patch14": Repository({"main": folder / "clip"}),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": Repository({"main": folder / "diffusion"}, library="diffusers"),
        "someone/half": Repository({"main": folder / "half"}, library="diffusers"),
        "someone/pickled": Repository({"main": folder / "pickled"}),
    }
    assert set(names) <= set(repositories)
    Image.new("RGB", (64, 48), "orange").save(folder / "photo.jpg")
    given = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    with served(repositories) as address:
        given |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        given |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        shown = f"import spectral_toolkit as st\n{lines}".replace("size=224", "size=16")
        program = f"{shown}\n{CASES % {'names': names}}"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=given, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "found.json").read_text())
    return {"names": names, "found": found, "repositories": repositories}


def test_every_model_of_the_page_loads(hub: dict[str, Any]) -> None:
    assert len(hub["names"]) == 4, "DINOv2, DINOv3, CLIP and Stable Diffusion"
    for name in hub["names"]:
        assert isinstance(hub["found"][name], list), hub["found"][name]
        assert hub["found"][name][2] == hub["repositories"][name].commit("main"), f"the commit of {name} is recorded"


def test_shards_and_revisions(hub: dict[str, Any]) -> None:
    asked = hub["repositories"]["facebook/dinov2-base"].asked
    assert "model.safetensors.index.json" in asked
    assert sum(bool(re.fullmatch(r"model-\d+-of-\d+\.safetensors", one)) for one in set(asked)) > 1
    assert len([one for one in asked if one.startswith("model-00001")]) == 1, "a second load comes from the cache"
    assert hub["found"]["older"][2] == hub["repositories"]["facebook/dinov2-base"].commit("v1")


def test_half_precision_alone_is_found(hub: dict[str, Any]) -> None:
    for what, dtype in {"half": "torch.float32", "half in half": "torch.float16"}.items():
        assert isinstance(hub["found"][what], list), hub["found"][what]
        assert hub["found"][what][4] == dtype
    asked = hub["repositories"]["stable-diffusion-v1-5/stable-diffusion-v1-5"].asked
    assert not [one for one in asked if ".fp16." in one], "where both are there, half precision is left alone"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("misspelt", "does not exist on the hub, or is private"),
        ("no revision", "has no revision 'v9'"),
        ("gated", "is gated"),
        ("pickled", "safetensors"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(what: str, message: str, hub: dict[str, Any]) -> None:
    assert message in hub["found"][what], hub["found"][what]
    assert hub["found"][what].startswith(("ModelNotFoundError", "UnsupportedModelError"))
