"""Folders of models whose files say what cannot be: one sentence, before weights are read, soon, in little memory."""

from __future__ import annotations

import json
import math
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusion_zoo import stable_diffusion
from model_zoo import BY_NAME

import spectral_toolkit as st
from spectral_toolkit._models import building, loading
from spectral_toolkit.errors import ModelNotFoundError, SpectralToolkitError, UnsupportedModelError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for name in ("vit", "beit", "siglip"):
        BY_NAME[name].make().save_pretrained(place / name)
    shutil.copytree(loading.WEIGHTS / "scenes", place / "dinov3")
    stable_diffusion().save_pretrained(place / "pipeline")
    return place


@pytest.fixture
def spoil(folders: Path, tmp_path: Path) -> Callable[..., Path]:
    def spoilt(model: str, change: Any, file: str = "config.json") -> Path:
        """A folder in which a file has other settings, or other bytes."""
        folder = Path(shutil.copytree(folders / model, tmp_path / "mine"))
        path = folder / file
        if not isinstance(change, bytes | dict):
            path.write_bytes(change(path.read_bytes()))
        elif isinstance(change, bytes):
            path.write_bytes(change)
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        return folder

    return spoilt


def said(folder: Path, error: type[SpectralToolkitError] = ModelNotFoundError) -> str:
    with pytest.raises(error) as raised:
        st.load_model(str(folder), device="cpu")
    message = str(raised.value)
    assert "\n" not in message
    assert folder.name in message
    assert len(message) < 1500
    return message


@pytest.fixture
def no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(loading, "_fetch_weights", refused)


@pytest.mark.usefixtures("no_weights_are_read")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_attention_heads": 0}, "has num_attention_heads=0 in its config.json; expected a whole number from 1"),
        ({"num_attention_heads": "4"}, 'has num_attention_heads="4" in its config.json'),
        ({"num_attention_heads": 1.5}, "has num_attention_heads=1.5"),
        ({"num_attention_heads": True}, "has num_attention_heads=true"),
        ({"num_attention_heads": [4]}, "num_attention_heads"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 in its config.json; expected a width"),
        ({"hidden_size": 10**9}, "has hidden_size=1000000000"),
        ({"hidden_size": -8}, "has hidden_size=-8"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": math.nan}, "NaN is not a setting"),
        ({"intermediate_size": 10**18}, "intermediate_size is a number of 19 digits"),
        ({"num_hidden_layers": 10**7}, "has num_hidden_layers=10000000 in its config.json; expected a whole number"),
        ({"num_hidden_layers": -1}, "has num_hidden_layers=-1"),
        ({"num_labels": 10**9}, "has num_labels=1000000000"),
        ({"id2label": 3}, "has a config.json that transformers cannot use ("),
        ({"hidden_act": "foo"}, 'has hidden_act="foo" in its config.json; expected one of the activations'),
        ({"hidden_act": None}, "hidden_act"),
        ({"dtype": "float99"}, 'has dtype="float99" in its config.json; expected float32'),
        ({"dtype": "int64"}, 'has dtype="int64"'),
        ({"torch_dtype": 3}, "has torch_dtype=3"),
        ({"model_type": ["vit"]}, 'has model_type=["vit"]'),
        ({"image_size": 0}, "has image_size=0"),
        ({"image_size": "96"}, 'has image_size="96"'),
        ({"image_size": 10**9}, "has image_size=1000000000"),
        ({"patch_size": 1000}, "expected a patch no larger than the image"),
        ({"patch_size": 0}, "has patch_size=0"),
        ({"num_channels": -3}, "has num_channels=-3"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps"),
        ({"auto_map": 3}, "has a config.json that transformers cannot use ("),
        ({"to_dict": 1}, "('int' object is not callable)"),
        ({"attn_implementation": "flash_attention_2"}, "FlashAttention2 has been toggled on"),
        ({"a": {"b": [1] * 3, "c": {"d": 10**30}}}, "d is a number of 31 digits"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("model", ["vit", "dinov3"])
def test_settings_without_meaning(spoil: Callable[..., Path], model: str, settings: Any, says: str) -> None:
    assert says in said(spoil(model, settings))


@pytest.mark.usefixtures("no_weights_are_read")
@pytest.mark.parametrize("how", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "x"}, {}, 3])
def test_quantised_weights(spoil: Callable[..., Path], how: Any) -> None:
    message = said(spoil("vit", {"quantization_config": how}), UnsupportedModelError)
    assert "asks for quantised weights (quantization_config" in message


DAMAGED = {
    "list": (b"[]", "list, where an object is expected"),
    "null": (b"null", "null, where an object is expected"),
    "deep": (b"[" * 100_000, "nested too deep"),
    "nested": (b'{"a":' * 50 + b"1" + b"}" * 50, "more than 32 objects nested in each other"),
    "NaN": (b"NaN", "NaN is not a setting"),
    "cut": (b'{"model_type": "vi', "Unterminated string"),
    "empty": (b"", "Expecting value"),
    "mark": (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
    "utf-16": ("{}".encode("utf-16"), "can't decode byte"),
    "digits": (b'{"hidden_size": ' + b"9" * 6000 + b"}", "Exceeds the limit"),
    "large": (b'{"a": "' + b"x" * 20_000_000 + b'"}', "more than 20,000,000 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("vit", "config.json"),
        ("dinov3", "preprocessor_config.json"),
        ("pipeline", "model_index.json"),
        ("pipeline", "unet/config.json"),
        ("pipeline", "scheduler/scheduler_config.json"),
    ],
)
def test_files_that_are_no_settings(spoil: Callable[..., Path], model: str, file: str, damage: str) -> None:
    data, says = DAMAGED[damage]
    message = said(spoil(model, data, file))
    assert f"has a {file} that is not readable (" in message
    assert says in message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_mean": 10**400}, "image_mean is a number of 401 digits"),
        ({"rescale_factor": 1e400}, "expected a finite number above 0"),
        ({"size": {"height": math.inf, "width": 2}}, "expected whole numbers of pixels from 1 to 65536"),
        ({"size": {"height": -5, "width": 3}}, "expected whole numbers of pixels"),
        ({"size": 10**9}, "expected whole numbers of pixels"),
        ({"size": "x"}, "expected one number"),
        ({"size": 0}, "expected whole numbers of pixels"),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_picture_settings_without_meaning(spoil: Callable[..., Path], settings: Any, says: str) -> None:
    with pytest.raises(SpectralToolkitError, match=says):
        st.load_model(str(spoil("dinov3", settings, "preprocessor_config.json")), device="cpu")


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        found = json.loads(data[8 : 8 + size])
        text = json.dumps(change(found) or found).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return changed


def other_shape(found: dict[str, Any]) -> None:
    name = next(name for name in found if name != "__metadata__")
    found[name]["shape"] = [1, *found[name]["shape"]]


@pytest.mark.usefixtures("no_weights_are_read")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-100], "has damaged weights in"),
        (lambda data: data[:5], "header too small"),
        (lambda data: b"", "header too small"),
        (lambda data: struct.pack("<Q", 2**63) + data[8:], "header too large"),
        (lambda data: struct.pack("<Q", 10**8 - 1) + data[8:], "invalid header length"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "has damaged weights in"),
        (header(lambda found: {**found, "__metadata__": 3}), "has damaged weights in"),
        (header(other_shape), "does not fit its weights ("),
    ],
    ids=["cut", "cut in its header", "empty", "huge header", "long header", "git-lfs", "metadata", "shape"],
)
@pytest.mark.parametrize(
    ("model", "file"), [("vit", "model.safetensors"), ("pipeline", "unet/diffusion_pytorch_model.safetensors")]
)
def test_damaged_weights(spoil: Callable[..., Path], model: str, file: str, change: Any, says: str) -> None:
    assert says in said(spoil(model, change, file))


def test_an_index_of_weights(spoil: Callable[..., Path], tmp_path: Path) -> None:
    folder = spoil("vit", {})
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    for content, says in (
        (
            {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "gone.safetensors"}},
            "lacks 1 files of weights",
        ),
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "weight_map names no files"),
        ({"weight_map": 3}, "weight_map names no files"),
        ([], "list, where an object is expected"),
    ):
        index.write_text(json.dumps(content))
        assert says in said(folder)


@pytest.mark.parametrize(
    ("settings", "file", "says"),
    [
        ({"num_attention_heads": 0}, "unet/config.json", "has num_attention_heads=0 in its unet/config.json"),
        ({"attention_head_dim": None}, "unet/config.json", "cannot be built from its unet/config.json ("),
        ({"sample_size": 10**9}, "unet/config.json", "has sample_size=1000000000 in its unet/config.json"),
        ({"block_out_channels": [10**9, 10**9]}, "unet/config.json", "unet/config.json"),
        ({"layers_per_block": 10**7}, "unet/config.json", "has layers_per_block=10000000 in its unet/config.json"),
        ({"latent_channels": -4}, "vae/config.json", "cannot be built from its vae/config.json ("),
        ({"quantization_config": {"quant_method": "gguf"}}, "unet/config.json", "asks for quantised weights"),
        ({"num_train_timesteps": 10**12}, "scheduler/scheduler_config.json", "has num_train_timesteps=1000000000000"),
        ({"beta_start": "x"}, "scheduler/scheduler_config.json", "cannot be loaded by diffusers ("),
        ({"unet": ["diffusers"]}, "model_index.json", "is not a supported model"),
        ({"unet": ["os", "system"]}, "model_index.json", "is not a supported model"),
        ({"_class_name": 3}, "model_index.json", "cannot be loaded by diffusers ("),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_settings_of_a_pipeline_without_meaning(
    spoil: Callable[..., Path], settings: Any, file: str, says: str
) -> None:
    assert says in said(spoil("pipeline", settings, file), SpectralToolkitError)


def test_files_of_a_tokenizer_are_left_to_it(spoil: Callable[..., Path]) -> None:
    """They hold a length of 10**30, which means none."""
    folder = spoil("pipeline", {"model_max_length": 10**30}, "tokenizer/tokenizer_config.json")
    assert st.load_model(str(folder), device="cpu").layers


def test_what_a_model_would_take_is_known_before_it_is_taken(spoil: Callable[..., Path]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = said(spoil("vit", {"intermediate_size": 10**6, "image_size": 32_768, "num_hidden_layers": 500}))
    assert "does not fit its weights (" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_modules_are_counted_while_they_are_built(monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., Path]) -> None:
    monkeypatch.setattr(building, "MAX_MODULES", 50)
    assert "it has more than 50 modules" in said(spoil("vit", {"num_hidden_layers": 100}))
    monkeypatch.undo()
    BY_NAME["vit"].make()  # counts no more


def test_what_only_decides_the_form_of_the_output_is_put_right(spoil: Callable[..., Path]) -> None:
    model = st.load_model(str(spoil("dinov3", {"return_dict": False})), device="cpu")
    assert st.capture(model, st.scenes.sample(1, seed=0).pixels, progress=False).children
