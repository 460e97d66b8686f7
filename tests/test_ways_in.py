"""Models of transformers that take clips, packed patches, places or text beside images: each patch is in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_any_module import attention

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}

UDOP = {"image_size": 32, "patch_size": 8, "vocab_size": 20, "num_layers": 2, "num_heads": 4}
UDOP |= {"d_model": 32, "d_kv": 8, "d_ff": 40}


def made(name: str, **settings: Any) -> Any:
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    module = cls(cls.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.15)
    return module


def of_clips(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: made(name, image_size=32, patch_size=8, **SMALL, **settings)


WAYS: dict[str, tuple[Callable[[], Any], int]] = {
    "clips of two steps (VideoMAE)": (of_clips("VideoMAEModel", num_frames=4, tubelet_size=2), 2),
    "space and time apart (TimeSformer)": (of_clips("TimesformerModel", num_frames=3), 3),
    "tubelets (ViViT)": (of_clips("VivitModel", num_frames=4, tubelet_size=[2, 8, 8]), 2),
    "frames as a batch (X-CLIP)": (of_clips("XCLIPVisionModel", num_frames=2, mit_hidden_size=16), 2),
    "places of patches (Gemma 4)": (
        lambda: made(
            "Gemma4VisionModel", patch_size=8, head_dim=8, num_key_value_heads=4, pooling_kernel_size=2, **SMALL
        ),
        1,
    ),
    "sizes of merging (VideoLLaMA 3)": (lambda: made("VideoLlama3VisionModel", patch_size=8, **SMALL), 1),
    "beside text (ViLT)": (lambda: made("ViltModel", image_size=32, patch_size=8, vocab_size=20, **SMALL), 1),
    "text on the first patch (UDOP)": (
        lambda: made("UdopEncoderModel", **UDOP),
        1,
    ),
    "places in a text (NeoMME)": (
        lambda: made("NeoMMEModel", patch_size=32, vocab_size=20, num_key_value_heads=2, head_dim=16, **SMALL),
        1,
    ),
    "below a prompt (SegGPT)": (
        lambda: made(
            "SegGptModel",
            image_size=(64, 32),
            pretrain_image_size=32,
            patch_size=8,
            merge_index=0,
            intermediate_hidden_state_indices=[1],
            **SMALL,
        ),
        2,
    ),
}
"""What makes each, and how many steps of time it is shown."""


@pytest.fixture(scope="module", params=WAYS, ids=lambda name: name.split(" (")[0])
def shown(request: pytest.FixtureRequest) -> tuple[Any, Any, int]:
    """A module, the model that is made of it, and its steps of time."""
    make, steps = WAYS[request.param]
    module = make()
    return module, st.load_model(module, device="cpu"), steps


def test_attention_is_recomputed_from_what_is_captured(shown: tuple[Any, Any, int]) -> None:
    """What went into the output projection, or the part before it, whatever its name: one got just these tokens."""
    module, model, _ = shown
    seen: dict[tuple[torch.nn.Module, int], list[torch.Tensor]] = {}

    def note(part: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point() and args[0].ndim > 1:
            given = args[0].detach().double()
            for tokens in (given, given.flatten(-2))[: 1 + (given.ndim == 4)]:  # heads may still be apart
                seen.setdefault((part, tokens.shape[-1]), []).append(tokens.flatten(0, -2))

    hooks = [part.register_forward_pre_hook(note) for part in module.modules()]
    activations = st.capture(model, PIXELS, progress=False)
    for hook in hooks:
        hook.remove()
    assert len(activations.children) >= 2
    for layer, node in activations.children.items():
        own = attention(node).transpose(1, 2).flatten(0, 1).flatten(1).double()
        likely = [torch.cat(found) for (_, width), found in seen.items() if width == own.shape[-1]]
        least = min(float(torch.cdist(own, one).amin(1).amax() / one.abs().max()) for one in likely)
        assert least < 1e-5, layer


def test_each_patch_is_where_it_is_in_the_image(shown: tuple[Any, Any, int]) -> None:
    """A still image is shown at every step of time, one below the other."""
    _, model, steps = shown
    height, width = model.own
    pixels = PIXELS.repeat(height // steps // 32, 1).repeat(width // 32, 2)[:1]
    grid = next(iter(st.capture(model, pixels, progress=False).children.values())).sizes
    rows, columns = grid["y"] // steps, grid["x"]
    y, x = height // steps // rows, width // columns
    changed = pixels.copy()
    changed[:, y : 2 * y, 2 * x : 3 * x] = 255 - changed[:, y : 2 * y, 2 * x : 3 * x]
    before, after = (
        next(iter(st.capture(model, one, progress=False).children.values()))["query"].to_numpy()[0]
        for one in (pixels, changed)
    )
    moved = np.abs(after - before).max((0, 3)) > 1e-6 * np.abs(before).max()
    expected = np.zeros((steps, rows, columns), dtype=bool)
    expected[:, 1, 2] = True
    np.testing.assert_array_equal(moved, expected.reshape(moved.shape))


def test_a_strip_of_film_is_shown_as_it_is() -> None:
    model: Any = st.load_model(WAYS["clips of two steps (VideoMAE)"][0](), device="cpu")
    still, strip = PIXELS[:1], np.concatenate([PIXELS[0], PIXELS[1]])[None]
    assert model.own == (64, 32)
    captured = [st.capture(model, one, progress=False)["pixels"].to_numpy()[0] for one in (still, strip)]
    np.testing.assert_array_equal(captured[0], np.concatenate([PIXELS[0]] * 2))
    np.testing.assert_array_equal(captured[1], strip[0])


def test_a_label_map_is_that_of_every_step_of_time(tmp_path: Path) -> None:
    model = st.load_model(WAYS["clips of two steps (VideoMAE)"][0](), device="cpu")
    activations = st.capture(model, PIXELS, progress=False, store=tmp_path / "clips")
    labels = np.zeros((2, 32, 32), dtype=int)
    labels[:, :16] = 1
    prepared = st.prepare_labels(activations, labels)
    np.testing.assert_array_equal(prepared[0].to_numpy(), np.tile([[1] * 4, [1] * 4, [0] * 4, [0] * 4], (2, 1)))
    graph = st.affinity(activations, "vv", device="cpu")
    segments = st.segment(st.solve(graph, n_eigenvectors=3), n_segments=2)
    perfect = segments.copy(data=prepared.to_numpy())
    assert float(st.evaluate(perfect, labels)["matched_miou"]) == 1.0


def test_a_model_keeps_no_setting_that_a_pass_changes() -> None:
    """A Swin that sees a small image makes its windows smaller, for ever."""
    module = made("SwinModel", image_size=32, patch_size=2, window_size=8, depths=[1, 1], num_heads=[2, 4], embed_dim=8)
    before = {name: dict(part.__dict__) for name, part in module.named_modules()}
    model = st.load_model(module, device="cpu")
    with pytest.raises(SpectralToolkitError, match=r"size=\(16, 16\) does not fit SwinModel"):
        st.capture(model, PIXELS, progress=False, size=(16, 16))
    st.capture(model, PIXELS, progress=False)
    for name, part in module.named_modules():
        changed = {
            key
            for key, value in before[name].items()
            if isinstance(value, (int, tuple)) and part.__dict__[key] != value
        }
        assert not changed, name


def test_weights_under_the_name_of_a_part_are_found(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 8, "head_dim": 8, "model_type": "qwen3"}
    vision = {**SMALL, "image_size": 32, "patch_size": 8, "head_dim": 8, "model_type": "pixtral"}
    cls: Any = transformers.LightOnOcrForConditionalGeneration
    settings = cls.config_class(text_config=text, vision_config=vision, image_token_id=7)
    cls(settings).save_pretrained(tmp_path)
    model = st.load_model(str(tmp_path), device="cpu")
    assert len(model.layers) == SMALL["num_hidden_layers"]


def test_weights_that_are_saved_once_for_several_parts_are_found(tmp_path: Path) -> None:
    made("UdopForConditionalGeneration", **UDOP).save_pretrained(tmp_path)
    assert len(st.load_model(str(tmp_path), device="cpu").layers) == UDOP["num_layers"]


def test_the_tower_for_images_comes_before_that_for_clips() -> None:
    module = torch.nn.Module()
    for name in ("video_tower", "image_tower"):
        module.add_module(name, made("CLIPVisionModel", image_size=32, patch_size=8, **SMALL))
    assert st.load_model(module, device="cpu").tower is module.image_tower
    assert st.load_model(module, device="cpu", tower="video_tower").tower is module.video_tower
