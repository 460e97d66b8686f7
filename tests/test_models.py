"""Loading models: what is supported is found wherever it hides, and everything else gets one clear sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.errors as hub
import numpy as np
import pytest
import torch
import transformers as tf
from model_zoo import BY_NAME, CASES, Case, pictures
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._models import SUPPORTED, bundled_models, families, load_model, loading
from spectral_toolkit._models.processing import Processing
from spectral_toolkit.errors import ModelNotFoundError, SpectralToolkitError, UnsupportedModelError

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
THREE_WAYS_OUT = r"three remedies: give a local folder .*bundled model .*log in with `hf auth login`"


# --- what is supported -----------------------------------------------------------------------------------------------


def test_every_line_of_the_table_is_tested() -> None:
    assert {case.family for case in CASES} == {family.label for family in families.FAMILIES}
    assert len({family.label for family in families.FAMILIES}) == len(families.FAMILIES)
    assert len(SUPPORTED) == len(families.FAMILIES) + len(families.denoisers.FAMILIES)
    for family in families.FAMILIES:
        assert family.label in families.supported()
        assert any(line.startswith(f"{family.label} (`{family.tower}`)") for line in SUPPORTED)


@by_case
def test_live_object(case: Case) -> None:
    module = case.make()
    model = load_model(module)
    assert model.module is module
    assert (model.family, model.layers, model.special_tokens) == (case.family, case.layers, case.special)
    assert model.name == type(module).__name__
    assert model.image_size() == case.own_size
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    for layer in model.layers:
        module.get_submodule(layer)
    assert ("query_unrotated" in model.quantities) == case.rotary
    assert load_model(model) is model


@by_case
def test_local_folder(case: Case, tmp_path: Path) -> None:
    module = case.make()
    module.save_pretrained(tmp_path / "saved")
    model = load_model(str(tmp_path / "saved"))
    assert (model.family, model.special_tokens, len(model.layers)) == (case.family, case.special, 2)
    assert model.name == "saved"
    live, loaded = (st.capture(source, pictures()[:1], progress=False) for source in (module, model))
    for left, right in zip(live.children.values(), loaded.children.values(), strict=True):
        np.testing.assert_array_equal(left["query"], right["query"])


@by_case
def test_sizes_a_model_takes(case: Case) -> None:
    model = load_model(case.make())
    if case.other_size is None:
        with pytest.raises(SpectralToolkitError, match=r"take images of \(32, 32\) pixels only"):
            model.image_size((24, 40))
    else:
        assert model.image_size(case.other_size) == case.other_size
    assert model.image_size(32) == model.image_size((32, 32)) == (32, 32)


def test_position_embeddings_on_an_oblong_grid_are_not_interpolated() -> None:
    model = load_model(tf.ViTModel(tf.ViTConfig(**TINY, image_size=[16, 32])))  # type: ignore[arg-type]
    assert model.image_size() == (16, 32)
    with pytest.raises(SpectralToolkitError, match="not on a square grid"):
        model.image_size((32, 32))


TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 8,
}

WITHOUT_PATCHES: dict[str, tuple[Any, str]] = {
    "ConvNextModel": (
        lambda: tf.ConvNextModel(tf.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])),
        "no attention was seen",
    ),
    "BertModel": (
        lambda: tf.BertModel(
            tf.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        ),
        "no part of it takes images",
    ),
    "Linear": (lambda: torch.nn.Linear(2, 2), "refuses images"),
}


@pytest.mark.parametrize("name", WITHOUT_PATCHES)
def test_what_cannot_be_captured_is_refused_for_its_own_reason(name: str) -> None:
    make, reason = WITHOUT_PATCHES[name]
    with pytest.raises(UnsupportedModelError, match=f"{name} cannot be captured.*{reason}") as caught:
        load_model(make())
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_text_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    WITHOUT_PATCHES["BertModel"][0]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="BertModel.*sees no images"):
        load_model(tmp_path)


@pytest.mark.parametrize("source", [3, None, ["vit"]], ids=str)
def test_what_is_no_model_at_all(source: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="A model cannot be made from"):
        load_model(source)


def test_a_subclass_of_a_supported_model_is_supported() -> None:
    class MyViT(tf.ViTModel):
        pass

    config = tf.ViTConfig(**TINY, image_size=32)
    assert load_model(MyViT(config)).family == "ViT"
    assert load_model(torch.nn.Sequential(MyViT(config))).layers == ("0.layers.0",)


class ViTModel(torch.nn.Module):
    """Somebody's own, of a name that transformers uses too."""


def test_a_namesake_is_not_supported() -> None:
    with pytest.raises(UnsupportedModelError, match="ViTModel cannot be captured"):
        load_model(ViTModel())


def test_things_close_to_a_model_get_a_hint() -> None:
    class Pipeline:
        model = BY_NAME["vit"].make()

    for source, hint in (
        (Pipeline(), r"pass its model, as in pipe\.model"),
        (tf.ViTConfig(), "make a model from it first"),
        (tf.ViTImageProcessorPil(), r"goes into processor="),
    ):
        with pytest.raises(UnsupportedModelError, match=hint):
            load_model(source)


@pytest.mark.parametrize("device", [None, [], 0])
def test_devices_that_are_none(device: Any) -> None:
    with pytest.raises(SpectralToolkitError, match="is not a device"):
        load_model(BY_NAME["vit"].make(), device=device)


def test_pictures_have_three_channels() -> None:
    with pytest.raises(UnsupportedModelError, match="takes images of 4 channels; expected 3"):
        load_model(tf.ViTModel(tf.ViTConfig(**TINY, num_channels=4)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dinov2", "internvl"])
def test_an_oblong_grid_where_transformers_needs_a_square_one(kind: str) -> None:
    module: Any = BY_NAME[kind].make()
    module.config.image_size = [16, 32]
    with pytest.raises(SpectralToolkitError, match="from a square grid only"):
        load_model(module).image_size()


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("vit", 64, "that does not fit its weights .*has shape"),
        ("siglip", [32, 64], "cannot be built from its config.json"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights(name: str, size: Any, says: str, tmp_path: Path) -> None:
    BY_NAME[name].make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_size": size}))
    with pytest.raises(ModelNotFoundError, match=says):
        load_model(tmp_path)


def test_an_unexpected_inside_is_noticed() -> None:
    module: Any = BY_NAME["vit"].make()
    module.layers = torch.nn.ModuleList()
    with pytest.raises(UnsupportedModelError, match="has no module of class ViTAttention"):
        load_model(module)


# --- weights, precision, device --------------------------------------------------------------------------------------


def test_live_object_stays_where_and_what_it_is() -> None:
    module = BY_NAME["vit"].make().to(torch.float64).train()
    model = load_model(module)
    assert model.dtype == torch.float64
    assert module.training
    assert load_model(module, dtype="float32").dtype == torch.float32
    assert load_model(module, device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["float", "float8_e4m3fn", "int32", "large", torch.int64], ids=str)
def test_precisions_that_are_none(dtype: Any) -> None:
    if dtype == "float":  # torch's own second name of float32
        assert load_model(BY_NAME["vit"].make(), dtype=dtype).dtype == torch.float32
        return
    with pytest.raises(SpectralToolkitError, match="is not a precision"):
        load_model(BY_NAME["vit"].make(), dtype=dtype)


def test_a_live_model_is_moved_and_converted_whole() -> None:
    module = BY_NAME["clip_full"].make()
    assert load_model(module, dtype="float64", device="cpu").dtype == torch.float64
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}


def test_another_processor_makes_another_model() -> None:
    model = load_model(BY_NAME["dinov3"].make())
    other = load_model(model, processor={"image_mean": [0.1, 0.2, 0.3]})
    assert other.processor.mean == (0.1, 0.2, 0.3) != model.processor.mean
    assert (other.module, other.layers, other.quantities) == (model.module, model.layers, model.quantities)
    usual = {"do_resize": True, "size": {"shortest_edge": 36}, "crop_size": 32, "do_center_crop": True}
    assert load_model(model, processor=usual).processor.size == (32, 32)


def test_checkpoint_keeps_its_precision(tmp_path: Path) -> None:
    BY_NAME["vit"].make().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype="float32").dtype == torch.float32


def test_hash_depends_on_the_weights_and_on_nothing_else(tmp_path: Path) -> None:
    module = BY_NAME["vit"].make()
    classifier: Any = BY_NAME["vit_classifier"].make()
    classifier.save_pretrained(tmp_path)
    # The checkpoint of a classifier has no pooler: AutoModel draws one at random, and it must not count.
    first, second = load_model(tmp_path), load_model(tmp_path)
    assert first.weights_sha256() == second.weights_sha256()
    model = load_model(module)
    before = model.weights_sha256()
    assert before == model.weights_sha256() == load_model(BY_NAME["vit"].make()).weights_sha256()
    with torch.no_grad():
        module.layers[0].mlp.fc1.bias[0] += 1
    assert model.weights_sha256() != before


def test_pickled_weights_are_refused_unless_asked_for(tmp_path: Path) -> None:
    module = BY_NAME["vit"].make()
    module.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no safetensors weights.*safetensors_only=False"):
        load_model(tmp_path)
    assert load_model(tmp_path, safetensors_only=False).family == "ViT"


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    BY_NAME["vit"].make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("pooler.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_model(tmp_path).family == "ViT"
    lacking = {name: tensor for name, tensor in weights.items() if "layer.1." not in name and "layers.1." not in name}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"lacks .* weights that its layers need"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ModelNotFoundError, match=r"damaged weights|cannot be loaded"):
        load_model(tmp_path)


def test_own_code_runs_only_when_asked_for(tmp_path: Path) -> None:
    BY_NAME["vit"].make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "surprise", "auto_map": {"AutoConfig": "surprise.SurpriseConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "surprise.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UnsupportedModelError, match=r"runs code of its own.*trust_remote_code=True"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "no_such_type"}', "[]", "{}"])
def test_configurations_that_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((UnsupportedModelError, ModelNotFoundError)):
        load_model(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


def test_folders_and_files_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"folder without config.json; {THREE_WAYS_OUT}"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=f"is a file; .*{THREE_WAYS_OUT}"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["./no/such/folder", "a/b/c", "two words", "", "-x"])
def test_names_the_hub_could_not_have(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=THREE_WAYS_OUT):
        load_model(name)


def _response(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid"))


def _hub_error(kind: type) -> Exception:
    return kind("refused", response=_response(404))


HUB: dict[str, tuple[Any, str]] = {
    "misspelt": (lambda: _hub_error(hub.RepositoryNotFoundError), "does not exist on the hub, or is private"),
    "gated": (lambda: _hub_error(hub.GatedRepoError), "is gated"),
    "revision": (lambda: _hub_error(hub.RevisionNotFoundError), "has no revision 'v9' on the hub"),
    "offline": (lambda: httpx.ConnectError("Name or service not known"), "the hub cannot be reached"),
    "switched off": (lambda: hub.OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
    "timeout": (lambda: TimeoutError("slow"), "the hub cannot be reached"),
    "server": (lambda: _hub_error(hub.HfHubHTTPError), "the hub cannot be reached"),
}


@pytest.mark.parametrize("what", HUB)
def test_hub_failures_give_three_ways_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HUB[what]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise make()

    monkeypatch.setattr(loading.HfApi, "model_info", fail)
    with pytest.raises(ModelNotFoundError, match=f"'someone/model' .*{message}.*{THREE_WAYS_OUT}"):
        load_model("someone/model", revision="v9")


def test_files_can_be_gated_where_the_page_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("You are trying to access a gated repo.") from _hub_error(hub.GatedRepoError)

    monkeypatch.setattr(loading.HfApi, "model_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", fail)
    with pytest.raises(ModelNotFoundError, match=f"is gated.*{THREE_WAYS_OUT}"):
        load_model("someone/model")


def test_what_is_in_the_cache_is_used_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    BY_NAME["vit"].make().save_pretrained(tmp_path)
    asked: list[Any] = []
    fetch = loading.AutoConfig.from_pretrained

    def local(name: str, **options: Any) -> Any:
        asked.append((name, options["local_files_only"]))
        return fetch(tmp_path)

    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *args, **kwargs: "config.json")
    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", local)
    monkeypatch.setattr(
        tf.ViTModel,
        "from_pretrained",
        lambda name, **options: (BY_NAME["vit"].make(), {"missing_keys": set()}),
    )
    model = load_model("someone/model")
    assert asked == [("someone/model", True)]
    assert model.name == "someone/model"


def test_bundled_names_are_looked_up_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    BY_NAME["dinov3"].make().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path)
    assert bundled_models() == ("tiny",)
    (tmp_path / "of-diffusers").mkdir()
    (tmp_path / "of-diffusers" / "model_index.json").touch()
    assert bundled_models() == ("of-diffusers", "tiny")
    shutil.rmtree(tmp_path / "of-diffusers")
    model = load_model("tiny")
    assert (model.name, model.family) == ("tiny", "DINOv3 ViT")
    with pytest.raises(ModelNotFoundError, match=r"a bundled model \('tiny'\)"):
        load_model(tmp_path)


# --- picture settings ------------------------------------------------------------------------------------------------

DEFAULTS = Processing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resample="bilinear")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}, {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}),
        ({"image_mean": 0.4}, {"mean": (0.4, 0.4, 0.4), "std": (0.5, 0.5, 0.5)}),
        ({"do_normalize": False, "image_mean": [1, 1, 1]}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        ({"do_rescale": False}, {"rescale_factor": 1.0}),
        ({"rescale_factor": 1 / 127.5}, {"rescale_factor": 1 / 127.5}),
        ({"resample": 3}, {"resample": "bicubic"}),
        ({"resample": None}, {"resample": "bilinear"}),
        ({"resample": "nearest"}, {"resample": "nearest"}),
        ({"resample": Image.Resampling.LANCZOS}, {"resample": "lanczos"}),
        ({"image_mean": np.array([0.5, 0.25, 1])}, {"mean": (0.5, 0.25, 1.0)}),
        ({"image_std": torch.tensor([0.5, 0.25, 1])}, {"std": (0.5, 0.25, 1.0)}),
        ({"size": {"height": 16, "width": 24}}, {"size": (16, 24)}),
        ({"size": 24}, {"size": (24, 24)}),
        ({"size": {"shortest_edge": 40}}, {"size": None}),
        (
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            {"size": (32, 32)},
        ),
        ({}, {"mean": (0.5, 0.5, 0.5), "rescale_factor": 1 / 255, "size": None}),
    ],
    ids=str,
)
def test_settings_of_processors(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    processing = Processing.from_settings(settings, DEFAULTS, "test")
    assert {name: getattr(processing, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({}, "is not an image processor"),
        ({"mean": [0.1, 0.2, 0.3]}, "setting 'mean', which means nothing here: use image_mean"),
        ({"image_mean": 0.1, "image_sd": 0.1}, "setting 'image_sd', which .*did you mean 'image_std'"),
        ({"size": {"shortest_edge": 16}}, "size=.* cannot be used: expected one number"),
        (tf.ViTConfig(), "is not an image processor"),
        ("folder", "is not an image processor"),
        ({"image_std": [0, 0, 0]}, "image_std=.* cannot be used"),
        ({"image_std": [1, float("nan"), 1]}, "image_std=.* cannot be used"),
        ({"image_mean": [None] * 3}, "image_mean=.* cannot be used"),
        ({"image_mean": "abc"}, "image_mean='abc' cannot be used"),
        ({"rescale_factor": "a"}, "rescale_factor='a' cannot be used"),
        ({"resample": "sharp"}, "resample='sharp' cannot be used: expected one of nearest"),
        ({"size": {"height": 16, "width": "x"}}, "size=.* cannot be used"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_processors_that_cannot_be_used(processor: Any, message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        load_model(BY_NAME["vit"].make(), processor=processor)


def test_settings_that_are_not_json_are_refused(tmp_path: Path) -> None:
    BY_NAME["vit"].make().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{bad")
    with pytest.raises(SpectralToolkitError, match=r"has a preprocessor_config\.json that is not readable"):
        load_model(tmp_path)


def test_wrapped_models_keep_what_lies_beside_their_weights(tmp_path: Path) -> None:
    BY_NAME["vit"].make().save_pretrained(tmp_path)
    tf.ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    module = tf.ViTModel.from_pretrained(tmp_path)
    wrapped = torch.nn.Module()
    wrapped.backbone = module
    for source in (module, wrapped, torch.nn.DataParallel(module)):
        model = load_model(source)
        assert (model.processor.mean, model.name) == ((0.1, 0.2, 0.3), str(tmp_path))


def test_processors_of_all_kinds(tmp_path: Path) -> None:
    live = tf.ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3], size={"height": 16, "width": 16})

    class Whole:
        image_processor = live

    module = BY_NAME["vit"].make()
    for processor in (live, Whole(), live.to_dict()):
        model = load_model(module, processor=processor)
        assert model.processor.mean == (0.1, 0.2, 0.3)
        assert model.image_size() == (16, 16)
        assert model.processor.source == "given by the caller"
    module.save_pretrained(tmp_path)
    live.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.processor.mean == (0.1, 0.2, 0.3)
    assert model.processor.source == "kept beside the model"
    # A live object that came from a folder finds its settings there.
    assert load_model(tf.ViTModel.from_pretrained(tmp_path)).processor.mean == (0.1, 0.2, 0.3)
    assert load_model(BY_NAME["clip"].make()).processor.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    with pytest.raises(SpectralToolkitError, match="is not an image processor"):
        load_model(module, processor=5)
    with pytest.raises(SpectralToolkitError, match="normalises 1 channels"):
        load_model(module, processor={"image_mean": [0.5]})


def test_a_size_only_the_processor_wants_is_left_to_models_that_take_it() -> None:
    wish = {"size": {"height": 16, "width": 16}}
    assert load_model(BY_NAME["dinov2"].make(), processor=wish).image_size() == (16, 16)
    assert load_model(BY_NAME["aimv2"].make(), processor=wish).image_size() == (32, 32)
    assert load_model(BY_NAME["dinov2"].make(), processor={"size": {"height": 20, "width": 20}}).image_size() == (
        32,
        32,
    )


def test_numbers_the_model_sees_are_those_of_its_processor() -> None:
    processor = tf.ViTImageProcessorPil(image_mean=[0.1, 0.2, 0.3], size={"height": 24, "width": 40}, resample=3)
    model = load_model(BY_NAME["vit"].make(), processor=processor)
    theirs = processor(Image.fromarray(pictures()[0]), return_tensors="np")["pixel_values"]
    resized = model.processor.resize(pictures()[0], model.image_size())
    ours = model.processor.normalise(resized[None], torch.device("cpu"), torch.float32)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
