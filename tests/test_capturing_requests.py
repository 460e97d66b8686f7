"""Captures: what may be asked for, what it takes, what is refused, and what stands beside the numbers."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from model_zoo import BY_NAME, CASES, Case, joined, pictures
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._capture import estimate_bytes
from spectral_toolkit._models import attention, load_model
from spectral_toolkit.errors import ActivationsError, CaptureMemoryError, SpectralToolkitError, UnsupportedModelError

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
QKV = ("query", "key", "value")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1)),
        (0, (0,)),
        (-1, (1,)),
        ("layers.1", (1,)),
        (["layers.1", 0], (0, 1)),
        (slice(1, None), (1,)),
        ([slice(0, 1), -1], (0, 1)),
        (range(2), (0, 1)),
        (np.array([1]), (1,)),
    ],
    ids=str,
)
def test_choice_of_layers(layers: Any, expected: tuple[int, ...]) -> None:
    acts = st.capture(BY_NAME["vit"].make(), pictures(), layers=layers, quantities="value", progress=False)
    assert tuple(acts.children) == tuple(f"layers.{index}" for index in expected)
    assert [node.attrs["depth"] for node in acts.children.values()] == list(expected)
    assert all(set(node.data_vars) == {"value", "special_value"} for node in acts.children.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 2}, "there is no layer 2"),
        ({"layers": "layers.7"}, r"has no layer 'layers\.7' \(did you mean 'layers\.[01]'\?\)"),
        ({"layers": []}, "chooses no layer"),
        ({"layers": True}, "has no layer True"),
        ({"layers": None}, "use layers='all'"),
        ({"layers": slice("a", "b")}, "whole numbers"),
        ({"quantities": None}, "quantities=None is not understood"),
        ({"quantities": 5}, "quantities=5 is not understood"),
        ({"memory_limit": "2GB"}, "memory_limit='2GB' is not a number of bytes"),
        ({"size": "32"}, "size='32' is not a size in pixels"),
        ({"size": (32.9, 32.9)}, "is not a size in pixels"),
        ({"size": (float("inf"), 32)}, "is not a size in pixels"),
        ({"store": 5}, "store=5 is not a path"),
        ({"store": ""}, "store='' is not a path"),
        ({"store": b"ab"}, "store=b'ab' is not a path"),
        ({"store": "/proc/nope/x"}, "cannot be written"),
        ({"layers": slice(5, 9)}, "chooses no layer"),
        ({"quantities": "queries"}, "'queries' is not one of query, key"),
        ({"quantities": ()}, "is empty"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"seed": -1}, "seed=-1 is not an integer"),
        ({"size": 30}, r"multiples of its patch, 8 x 8 pixels; the nearest is \(32, 32\)"),
        ({"size": (0, 8)}, "positive multiples"),
        ({"size": "big"}, "size='big' is not a size in pixels"),
        ({"size": (8, 8, 8)}, "is not a size in pixels"),
    ],
    ids=str,
)
def test_bad_requests_are_refused_with_a_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        st.capture(BY_NAME["vit"].make(), pictures(), progress=False, **arguments)


def test_weights_that_are_not_there_or_quantised_are_refused() -> None:
    with torch.device("meta"):
        empty = BY_NAME["vit"].make()
    with pytest.raises(UnsupportedModelError, match="as it is on the device 'meta'"):
        st.capture(empty, pictures(), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(BY_NAME["vit"].make(), {torch.nn.Linear})
    with pytest.raises(UnsupportedModelError, match="has quantised weights"):
        st.capture(quantised, pictures(), progress=False)


def test_pixels_are_what_the_model_saw(tmp_path: Any) -> None:
    Image.fromarray(pictures()[0]).save(tmp_path / "wide.png")
    acts = st.capture(BY_NAME["vit"].make(), tmp_path / "wide.png", size=(24, 40), progress=False)
    resized = Image.fromarray(pictures()[0]).resize((40, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(acts["pixels"].to_numpy()[0], np.asarray(resized))
    assert acts["pixels"].dtype == np.uint8
    assert {str(name): int(array[0]) for name, array in acts.coords.items() if array.dtype.kind == "i"} == {
        "original_height": 40,
        "original_width": 56,
        "box_top": 0,
        "box_left": 0,
        "box_bottom": 40,
        "box_right": 56,
    }
    assert acts["image"].to_numpy().tolist() == ["wide.png"]
    np.testing.assert_allclose(acts["layers.0"]["y"], [1 / 6, 3 / 6, 5 / 6])


def test_pictures_of_many_sizes_share_one() -> None:
    mixed = [pictures()[0], pictures()[1][:17, :9], np.zeros((100, 30, 3), np.uint8)]
    acts = st.capture(BY_NAME["dinov2"].make(), mixed, progress=False)
    assert acts["pixels"].shape == (3, 32, 32, 3)
    assert acts["original_height"].to_numpy().tolist() == [40, 17, 100]
    assert acts["original_width"].to_numpy().tolist() == [56, 9, 30]


@pytest.mark.parametrize("name", ["vit", "mae", "pixtral", "siglip2", "beit"])
def test_batches_and_choices_do_not_change_what_is_recorded(name: str) -> None:
    module = BY_NAME[name].make()
    whole = st.capture(module, pictures(), quantities=(*QKV, "token"), batch_size=3, progress=False)
    single = st.capture(module, pictures(), layers=1, quantities="token", batch_size=1, progress=False)
    layer = BY_NAME[name].layers[1]
    np.testing.assert_allclose(whole[layer]["token"], single[layer]["token"], atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float16", "float16"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_precision_of_what_is_stored(dtype: str, stored: str) -> None:
    acts = st.capture(load_model(BY_NAME["beit"].make(), dtype=dtype), pictures(), progress=False)
    assert acts.attrs["dtype"] == dtype
    node = acts["layers.0"]
    assert {str(node[name].dtype) for name in (*QKV, "special_query", "attention_bias")} == {stored}


def test_provenance() -> None:
    module = BY_NAME["vit"].make()
    attrs = st.capture(module, pictures(), seed=7, progress=False).attrs
    assert all(isinstance(value, (str, int, float)) for value in attrs.values())
    assert (attrs["model"], attrs["family"], attrs["seed"], attrs["dtype"]) == ("ViTModel", "ViT", 7, "float32")
    assert json.loads(attrs["image_size"]) == [32, 32]
    assert json.loads(attrs["processor"])["source"] == "made from the model's configuration"
    assert json.loads(attrs["versions"])["torch"] == torch.__version__
    assert st.capture(module, pictures(), progress=False).attrs["weights_sha256"] == attrs["weights_sha256"]
    module.layers[0].attention.q_proj.weight.data[0, 0] += 1  # behind torch's back
    assert st.capture(module, pictures(), progress=False).attrs["weights_sha256"] != attrs["weights_sha256"]


# --- memory, numbers that are none, progress -------------------------------------------------------------------------


@by_case
def test_estimate_is_exact(case: Case) -> None:
    model = load_model(case.make())
    wanted = {"quantities": model.quantities, "size": case.other_size}
    acts = st.capture(model, pictures(), progress=False, **wanted)
    recorded = sum(array.nbytes for node in acts.subtree for array in node.to_dataset(inherit=False).data_vars.values())
    assert estimate_bytes(model, pictures(), **wanted) == recorded


def test_too_large_is_refused_before_anything_runs(tmp_path: Any) -> None:
    module = BY_NAME["vit"].make()
    calls: list[Any] = []
    module.register_forward_pre_hook(lambda *args: calls.append(args))
    n_bytes = estimate_bytes(module, pictures())
    with pytest.raises(CaptureMemoryError, match=f"{n_bytes:,} bytes.*store="):
        st.capture(module, pictures(), memory_limit=n_bytes - 1, progress=False)
    assert not calls
    st.capture(module, pictures(), memory_limit=n_bytes, progress=False)
    st.capture(module, pictures(), memory_limit=0, store=tmp_path / "a.zarr", progress=False)


def test_a_batch_is_no_larger_than_the_pictures(tmp_path: Any) -> None:
    acts = st.capture(BY_NAME["vit"].make(), pictures(), store=tmp_path / "a", batch_size=10**9, progress=False)
    assert acts.attrs["batch_size"] == 3


def test_a_batch_too_large_for_memory_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_toolkit._capture.available_memory", lambda: 100)
    with pytest.raises(CaptureMemoryError, match=r"One batch of 3 images .* lower batch_size=3"):
        st.capture(BY_NAME["vit"].make(), pictures(), store=tmp_path / "a", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["siglip", "vit", "clip", "dinov2", "aimv2"])
def test_a_size_that_is_no_multiple_of_the_patch_is_the_trained_grid(name: str) -> None:
    """As the plain model, which ignores the last pixels: SigLIP so400m takes 384 pixels in patches of 14."""
    kind, config = type(BY_NAME[name].make()), copy.copy(BY_NAME[name].make().config)
    config.image_size = 30
    module = kind(config).eval()
    model = load_model(module)
    acts = st.capture(model, pictures(), quantities="token", progress=False)
    assert acts["pixels"].shape == (3, 24, 24, 3)
    assert model.image_size() == (24, 24)
    pixels = np.zeros((3, 30, 30, 3), np.uint8)
    pixels[:, :24, :24] = acts["pixels"]
    values = model.processor.normalise(pixels, model.device, model.dtype)
    with torch.no_grad():
        seen = module(values, output_hidden_states=True).hidden_states[2]
    last = acts[model.layers[1]]
    np.testing.assert_array_equal(joined(last, "token"), seen)


def test_available_memory_is_the_default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral_toolkit._capture.available_memory", lambda: 10)
    with pytest.raises(CaptureMemoryError, match="10 bytes are available"):
        st.capture(BY_NAME["vit"].make(), pictures(), progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    module = BY_NAME["vit"].make()

    def spoil(part: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[1, 3, 2] = value
        return output

    module.layers[1].attention.k_proj.register_forward_hook(spoil)
    with pytest.raises(ActivationsError, match=r"key of layer 'layers\.1' holds NaN or infinity in image 'image_1'"):
        st.capture(module, pictures(), progress=False)


def test_large_finite_numbers_are_fine() -> None:
    """Their sum overflows, they do not."""
    module = BY_NAME["vit"].make()
    module.layers[0].attention.v_proj.bias.data.fill_(3e38)
    acts = st.capture(module, pictures(), layers=0, quantities="value", progress=False)
    assert np.isfinite(acts["layers.0"]["value"]).all()


def test_a_layer_that_is_never_called_is_noticed() -> None:
    module = BY_NAME["vit"].make()
    module.layers[1].attention.forward = lambda hidden, *args, **kwargs: (hidden, None)
    with pytest.raises(UnsupportedModelError, match=r"without using query of layer 'layers\.1'"):
        st.capture(module, pictures(), progress=False)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_mask_that_differs_from_picture_to_picture_is_refused(batch_size: int) -> None:
    module: Any = BY_NAME["vit"].make()

    def mask(part: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0]
        bias = torch.zeros(len(hidden), 1, hidden.shape[1], hidden.shape[1])
        for place, picture in enumerate(hidden):
            bias[place, ..., 1 + int(picture.abs().sum() * 1000) % 16] = -torch.inf
        return (hidden, bias), kwargs

    for block in module.layers:
        block.register_forward_pre_hook(mask, with_kwargs=True)
    with pytest.raises(UnsupportedModelError, match="the same attention bias to every image"):
        st.capture(module, pictures(), batch_size=batch_size, progress=False)
    alone = [st.capture(module, picture, progress=False) for picture in pictures()]
    hidden_keys = [int(acts["layers.0"]["attention_bias"].to_numpy()[0, 0].argmin()) for acts in alone]
    assert len(set(hidden_keys)) > 1


def test_projections_of_the_users_own_need_no_sizes() -> None:
    class Adapter(torch.nn.Module):
        def __init__(self, inside: torch.nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.inside(hidden)

    module: Any = BY_NAME["vit"].make()
    plain = st.capture(module, pictures(), progress=False)
    for block in module.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(block.attention, name, Adapter(getattr(block.attention, name)))
    adapted = st.capture(module, pictures(), progress=False)
    for layer in plain.children:
        xr.testing.assert_identical(adapted[layer].to_dataset(), plain[layer].to_dataset())


def test_a_block_in_two_places_is_refused_with_a_way_out() -> None:
    module: Any = BY_NAME["vit"].make()
    module.layers[1] = module.layers[0]
    with pytest.raises(UnsupportedModelError, match="twice in one pass.*copy.deepcopy"):
        st.capture(module, pictures(), progress=False)
    module.layers[1] = copy.deepcopy(module.layers[0])
    assert len(st.capture(module, pictures(), progress=False).children) == 2


def test_a_model_that_refuses_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = BY_NAME["vit"].make()
    monkeypatch.setattr(type(module), "set_attn_implementation", lambda self, name: None)
    with pytest.raises(UnsupportedModelError, match="does not let its attention be switched"):
        st.capture(module, pictures(), progress=False)
    assert not attention._calls
    assert not attention._switched


def test_progress_says_how_many_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    st.capture(BY_NAME["vit"].make(), pictures())
    said = capsys.readouterr()
    assert "capture 2 layers" in said.err
    assert "kB" in said.err
    assert not said.out
    st.capture(BY_NAME["vit"].make(), pictures(), progress=False)
    assert not capsys.readouterr().err


def test_model_may_be_anything_load_model_takes(tmp_path: Any) -> None:
    module = BY_NAME["vit"].make()
    module.save_pretrained(tmp_path)
    saved, live = st.capture(tmp_path, pictures(), progress=False), st.capture(module, pictures(), progress=False)
    xr.testing.assert_equal(saved, live)
    assert saved.attrs["weights_sha256"] == live.attrs["weights_sha256"]
