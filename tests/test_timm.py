"""Models of timm by name and by folder. timm itself is only needed where it is installed; see `timm_folder`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spectral_toolkit as st
from spectral_toolkit._models import loading
from spectral_toolkit.errors import UnsupportedModelError

README = Path(__file__).resolve().parents[1] / "README.md"
SITE = README.parent / ".venv" / "timm"
"""Where `make test` puts timm and torchvision, apart from all else: torchvision breaks beside torch for CPUs."""


def test_a_name_of_timm_without_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnsupportedModelError, match=r"spectral-toolkit\[timm\]"):
        st.load_model("timm/vit_base_patch16_224.augreg_in21k")
    config = {"architecture": "vit_base_patch16_224", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"spectral-toolkit\[timm\]"):
        st.load_model(tmp_path)

    class Told:  # what the hub says of a repository whose name says nothing
        siblings, library_name = (), "timm"

    monkeypatch.setattr(loading.HfApi, "model_info", lambda *args, **kwargs: Told())
    with pytest.raises(UnsupportedModelError, match=r"spectral-toolkit\[timm\]"):
        st.load_model("somebody/my-swin")


SCRIPT = """
import sys, torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):  # torchvision registers fakes for operators of its compiled part, which is not loaded
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import json, numpy as np, spectral_toolkit as st, timm
from pathlib import Path
from safetensors.torch import save_file
torch.set_num_threads(1)
small = {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64}
names = {
    "vit_tiny_patch16_224": small, "deit3_small_patch16_224": small, "beitv2_base_patch16_224": small,
    "vit_relpos_small_patch16_224": small, "vit_base_patch16_siglip_224": small,
    "vit_small_patch14_reg4_dinov2": {**small, "img_size": 56}, "eva02_tiny_patch14_224": {**small, "img_size": 56},
    "deit_tiny_distilled_patch16_224": {**small, "img_size": 224}, "samvit_base_patch16": {**small, "img_size": 96},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)},
    "hiera_tiny_224": {"img_size": 64, "stages": (1, 1, 1, 1), "embed_dim": 24},
}
pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
for name, settings in names.items():
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, **settings).eval()
    values = torch.randn(1, 3, settings["img_size"], settings["img_size"])
    with torch.no_grad():
        before = module(values)
    model = st.load_model(module)
    activations = st.capture(model, pixels, progress=False)
    result = st.solve(st.affinity(activations, "qk"), n_eigenvectors=3)
    with torch.no_grad():
        assert torch.equal(before, module(values)), name
    assert not model.left_out, (name, model.left_out)
    print(name, len(model.layers), np.isfinite(result.eigenvector.to_numpy()).all(), flush=True)
folder = Path(sys.argv[1])
module = timm.create_model("vit_tiny_patch16_224", pretrained=False)
save_file(module.state_dict(), folder / "model.safetensors")
config = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "num_features": 192,
          "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5],
                             "interpolation": "bicubic", "num_classes": 1000, "classifier": "head",
                             "first_conv": "patch_embed.proj"}}
(folder / "config.json").write_text(json.dumps(config))
model = st.load_model(folder)
assert len(model.layers) == 12 and model.processor.mean == (0.1, 0.2, 0.3), model.processor
live = st.capture(module.eval(), pixels[:1], layers=0, progress=False)["blocks.0"]["query"]
assert np.array_equal(st.capture(model, pixels[:1], layers=0, progress=False)["blocks.0"]["query"].shape, live.shape)
import re
(lines,) = re.findall(r"^```python\\n(.*?)^```", Path(sys.argv[2]).read_text(), re.DOTALL | re.MULTILINE)
exec(lines.replace('"scenes"', "model"))  # the README's, with this model in place of the name of one
print("folder", flush=True)
"""


@pytest.mark.skipif(not SITE.is_dir(), reason="timm is in a folder of its own that `make test` makes")
def test_models_of_timm(tmp_path: Path) -> None:
    """One process, as torchvision must be declared before the first import of transformers."""
    environment = {**os.environ, "PYTHONPATH": str(SITE), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(README)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 12, lines
    assert all("True" in line for line in lines[:-1]), lines
