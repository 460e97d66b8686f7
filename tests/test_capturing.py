"""Captures: what is recorded is what the model computed, and the model never notices."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
import xarray as xr
from edit_checks import check_edited, check_unedited, nudged
from model_zoo import BY_NAME, CASES, Case, joined, pictures
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

import spectral_toolkit as st
from spectral_toolkit._models import Model, attention, load_model
from spectral_toolkit._models.model import evaluating
from spectral_toolkit.errors import SpectralToolkitError

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
QKV = ("query", "key", "value")


def inputs(tower: Any, pixels: np.ndarray, processor: Any) -> dict[str, Any]:
    """What a model is called with, written down without the code under test."""
    config, dtype = tower.config, next(tower.parameters()).dtype
    values = ((pixels * processor.rescale_factor - processor.mean) / processor.std).transpose(0, 3, 1, 2)
    size = values.shape[2:]
    given: dict[str, Any] = {"pixel_values": torch.tensor(values, dtype=dtype)}
    if type(tower).__name__ == "Siglip2VisionModel":
        rows, columns = size[0] // config.patch_size, size[1] // config.patch_size
        patches = np.stack([convert_image_to_patches(value, config.patch_size) for value in values])
        return {
            "pixel_values": torch.tensor(patches, dtype=dtype),
            "pixel_attention_mask": torch.ones(len(values), rows * columns, dtype=torch.long),
            "spatial_shapes": torch.tensor([[rows, columns]] * len(values)),
        }
    if type(tower).__name__ == "ViTMAEModel":
        n = size[0] // config.patch_size * (size[1] // config.patch_size)
        given["noise"] = torch.arange(n, dtype=torch.float32).repeat(len(values), 1)
    trained = config.image_size if isinstance(config.image_size, list) else [config.image_size] * 2
    named = inspect.signature(inspect.unwrap(type(tower).forward)).parameters
    if "interpolate_pos_encoding" in named and list(size) != trained and type(tower).__name__ != "BeitModel":
        given["interpolate_pos_encoding"] = True
    return given


@contextmanager
def hooked(module: torch.nn.Module, seen: list[torch.Tensor], what: str) -> Iterator[None]:
    def before(part: Any, args: Any) -> None:
        seen.append(args[0].detach().clone())

    def after(part: Any, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handle = module.register_forward_pre_hook(before) if what == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def block_outputs(case: Case, model: Model, layer: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a block's attention gave to its output projection, and what the block gave, by a plain eager run."""
    twin = copy.deepcopy(model.module)
    tower: Any = twin.get_submodule(tower_name(model)) if tower_name(model) else twin
    tower.set_attn_implementation("eager")
    tower.eval()
    if hasattr(tower.config, "mask_ratio"):
        tower.config.mask_ratio = 0.0
    block = twin.get_submodule(layer)
    projection = next(part for name, part in block.named_modules() if name.endswith(case.projection))
    attended: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    with torch.no_grad(), hooked(projection, attended, "input"), hooked(block, tokens, "output"):
        for picture in pixels:
            tower(**inputs(tower, picture[None], model.processor))
    return torch.cat(attended).numpy(), torch.cat(tokens).numpy()


def tower_name(model: Model) -> str:
    return next(name for name, part in model.module.named_modules() if part is model.tower)


def attend(node: Any) -> np.ndarray:
    """The block's attention output from what was captured, slowly and in double precision."""
    query, key, value = (joined(node, quantity).astype(np.float64) for quantity in QKV)
    scores = np.einsum("bhqc,bhkc->bhqk", query, key) * node.attrs["scale"]
    if "attention_bias" in node:
        scores = scores + node["attention_bias"].to_numpy()
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bhkc->bqhc", weights, value).reshape(len(query), query.shape[2], -1)


# --- the proof, for every family -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "size"),
    [(case, size) for case in CASES for size in dict.fromkeys((None, case.other_size))],
    ids=lambda value: value.name if isinstance(value, Case) else "own" if value is None else "x".join(map(str, value)),
)
def test_attention_output_follows_from_what_was_captured(case: Case, size: tuple[int, int] | None) -> None:
    model = load_model(case.make())
    acts = st.capture(model, pictures(), quantities=(*QKV, "token"), size=size, batch_size=2, progress=False)
    assert tuple(acts.children) == model.layers == case.layers
    height, width = size or case.own_size
    assert dict(acts.sizes) == {"image": 3, "y_px": height, "x_px": width, "rgb": 3}
    for depth, layer in enumerate(case.layers):
        node = acts[layer]
        assert node.attrs["depth"] == depth
        assert dict(node["query"].sizes) == {"image": 3, "head": 4, "y": height // 8, "x": width // 8, "channel": 8}
        assert ("attention_bias" in node) == case.biased
        assert tuple(node["special"].to_numpy() if case.special else ()) == case.special
        attended, tokens = block_outputs(case, model, layer, acts["pixels"].to_numpy())
        attended, tokens = attended.reshape(3, -1, 32), tokens.reshape(3, -1, 32)
        assert np.abs(attend(node) - attended).max() < 1e-5
        assert np.abs(joined(node, "token") - tokens).max() < 1e-5
        # The proof means something: another scale, or patches in another order, would not have passed.
        worse = node.to_dataset().assign_attrs(scale=node.attrs["scale"] * 1.5)
        assert np.abs(attend(worse) - attended).max() > 1e-4
        assert np.abs(attend(node.to_dataset().isel(x=slice(None, None, -1))) - attended).max() > 1e-4


@by_case
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_output_follows_from_what_was_edited(case: Case, implementation: str) -> None:
    module = case.make()
    module.set_attn_implementation(implementation)
    model = load_model(module)
    unsettle(module)
    found = state(module)
    plain = st.capture(model, pictures(), batch_size=2, progress=False)
    attended: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        for layer in case.layers:
            block = module.get_submodule(layer)
            projection = next(part for name, part in block.named_modules() if name.endswith(case.projection))
            stack.enter_context(hooked(projection, attended, "input"))
        edited = st.intervene(model, pictures(), nudged, batch_size=2, progress=False)
    for depth, layer in enumerate(case.layers):
        theirs = torch.cat([one.reshape(-1, *one.shape[-2:]) for one in attended[depth :: len(case.layers)]]).numpy()
        assert np.abs(attend(edited[layer]) - theirs).max() < 1e-5
    check_edited(plain, edited)
    check_unedited(model, pictures(), plain, batch_size=2)
    assert edited["final_token"].dims == ("image", "final_y", "final_x", "final_feature")
    with pytest.raises(SpectralToolkitError, match="gave back shape"):
        st.intervene(model, pictures(), lambda layer, tensor: tensor[:, :1], progress=False)
    assert state(module) == found


@by_case
def test_a_change_in_one_patch_shows_in_its_cell_only(case: Case) -> None:
    size = case.other_size or case.own_size
    pixels = np.full((2, *size, 3), 90, dtype=np.uint8)
    row, column = 2, 1
    pixels[1, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = [200, 30, 60]
    first = st.capture(case.make(), pixels, size=size, layers=0, progress=False)[case.layers[0]]
    change = np.abs(first["value"].to_numpy()[1] - first["value"].to_numpy()[0]).max(axis=(0, -1))
    assert np.argwhere(change > 1e-6).tolist() == [[row, column]]


# --- the model never notices -----------------------------------------------------------------------------------------


def state(module: Any) -> dict[str, Any]:
    """Everything a capture could leave behind on a model."""
    configs: dict[int, Any] = {}
    waiting = [part.config for part in module.modules() if hasattr(part, "config")]
    while waiting:
        config = waiting.pop()
        configs.setdefault(id(config), config)
        waiting += [getattr(config, name) for name in getattr(config, "sub_configs", {}) if hasattr(config, name)]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    return {
        "configs": {key: (json.dumps(c.to_dict(), default=str), c._attn_implementation) for key, c in configs.items()},
        "training": [part.training for part in module.modules()],
        "hooks": [[list(getattr(part, name).items()) for name in hooks] for part in module.modules()],
        "forward": [part.__dict__.get("forward") for part in module.modules()],
        "weights": {
            n: (p.data_ptr(), p._version, p.dtype, p.device, p.requires_grad) for n, p in module.named_parameters()
        },
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "registered": (dict(attention._calls), dict(attention._switched)),
    }


def unsettle(module: Any) -> None:
    """A model in the middle of something: partly training, partly frozen, with hooks of the user's own."""
    parts = list(module.modules())
    module.train()
    parts[len(parts) // 2].eval()
    next(module.parameters()).requires_grad_(False)
    parts[-1].register_forward_hook(lambda part, args, output: None)


def outputs(module: Any, model: Model) -> list[torch.Tensor]:
    flags = [part.training for part in module.modules()]
    module.eval()
    tower = model.tower
    values = inputs(tower, np.full((2, *model.image_size(), 3), 100, np.uint8), model.processor)
    with torch.no_grad():
        given = tower(**values, return_dict=True)
    for part, training in zip(module.modules(), flags, strict=True):
        part.training = training
    return [value for value in given.values() if isinstance(value, torch.Tensor)]


@by_case
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_model_is_as_found_and_its_outputs_bit_identical(case: Case, implementation: str) -> None:
    module = case.make()
    module.set_attn_implementation(implementation)
    model = load_model(module)
    unsettle(module)
    before, found = outputs(module, model), state(module)
    seen: list[torch.Tensor] = []
    plain = last_block(case, model)
    handle = module.get_submodule(case.layers[-1]).register_forward_hook(
        lambda part, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    st.capture(model, np.full((2, *model.image_size(), 3), 100, np.uint8), quantities=model.quantities, progress=False)
    handle.remove()
    assert state(module) == found
    for old, new in zip(before, outputs(module, model), strict=True):
        assert torch.equal(old, new)
    # And while it was watched, the model gave what it always gives.
    assert torch.equal(torch.cat(seen), plain)


def last_block(case: Case, model: Any) -> torch.Tensor:
    """What the last block gives for the grey pictures in a plain run of a copy, with the copy's own attention."""
    twin = copy.deepcopy(model.module).eval()
    tower = twin.get_submodule(tower_name(model)) if tower_name(model) else twin
    if hasattr(tower.config, "mask_ratio"):
        tower.config.mask_ratio = 0.0
    seen: list[torch.Tensor] = []
    grey = np.full((2, *model.image_size(), 3), 100, np.uint8)
    with torch.no_grad(), hooked(twin.get_submodule(case.layers[-1]), seen, "output"):
        for batch in [grey[:1], grey[1:]] if model.images_at_once == 1 else [grey]:
            tower(**model.inputs(batch))
    return torch.cat(seen)


@by_case
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["exception", "ctrl-c"])
def test_model_is_as_found_after_an_interruption(case: Case, error: type[BaseException]) -> None:
    module = case.make()
    model = load_model(module)
    unsettle(module)
    calls = 0

    def interrupt(part: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error("in the middle")

    module.get_submodule(case.layers[1]).register_forward_pre_hook(interrupt)
    found = state(module)
    with pytest.raises(error, match="in the middle"):
        st.capture(model, pictures(), quantities=model.quantities, batch_size=1, progress=False)
    assert calls == 2
    assert state(module) == found


def test_nested_configurations_keep_their_own_setting() -> None:
    module = BY_NAME["llava"].make()
    module.set_attn_implementation({"": "sdpa", "vision_config": "eager", "text_config": "sdpa"})
    found = state(module)
    acts = st.capture(module, pictures(), progress=False)
    assert acts.attrs["attention"] == "eager"
    assert state(module) == found
    assert module.config.vision_config._attn_implementation == "eager"


def copied_block() -> Any:
    module: Any = BY_NAME["vit"].make()
    module.layers[1] = copy.deepcopy(module.layers[1])
    return module


def inside_an_encoder_and_decoder() -> Any:
    text: Any = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    decoder = tf.BertLMHeadModel(tf.BertConfig(**text, is_decoder=True, add_cross_attention=True))
    return tf.VisionEncoderDecoderModel(encoder=BY_NAME["vit"].make(), decoder=decoder).eval()


@pytest.mark.parametrize("make", [copied_block, inside_an_encoder_and_decoder])
def test_blocks_may_have_a_configuration_of_their_own(make: Any) -> None:
    module = make()
    towers = [part.config for part in module.modules() if isinstance(part, tf.ViTModel)]
    blocks = [part.config for part in module.modules() if type(part).__name__ == "ViTAttention"]
    assert {id(config) for config in blocks} - {id(config) for config in towers}
    for config in blocks:
        config._attn_implementation = "eager"
    plain, found = st.capture(BY_NAME["vit"].make(), pictures(), progress=False), state(module)
    acts = st.capture(module, pictures(), progress=False)
    assert "eager" in acts.attrs["attention"]
    assert state(module) == found
    assert {config._attn_implementation for config in blocks} == {"eager"}
    for mine, theirs in zip(acts.children.values(), plain.children.values(), strict=True):
        np.testing.assert_allclose(mine["key"], theirs["key"], atol=1e-6)


def test_autocast_of_the_caller_changes_nothing() -> None:
    module = BY_NAME["vit"].make()
    plain = st.capture(module, pictures(), progress=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        xr.testing.assert_identical(st.capture(module, pictures(), progress=False), plain)


def test_inference_mode_of_the_caller_changes_nothing() -> None:
    outside: Any = BY_NAME["dinov3"].make()
    plain = st.capture(outside, pictures(), progress=False)
    with torch.inference_mode():
        inside: Any = BY_NAME["dinov3"].make()
        inside.load_state_dict(outside.state_dict())
        for module in (inside, outside):
            xr.testing.assert_identical(st.capture(module, pictures(), progress=False), plain)
    xr.testing.assert_identical(st.capture(inside, pictures(), progress=False), plain)
    outside(torch.rand(1, 3, 32, 32)).last_hidden_state.sum().backward()


def test_compiled_layers_are_named_as_the_plain_ones() -> None:
    module: Any = BY_NAME["vit"].make()
    plain = st.capture(module, pictures(), quantities=("query", "token"), progress=False)
    for index in range(2):
        module.layers[index] = torch.compile(module.layers[index], backend="eager")
    xr.testing.assert_identical(st.capture(module, pictures(), quantities=("query", "token"), progress=False), plain)


@pytest.mark.parametrize("where", ["in place", "blocks", "forward"])
def test_compiled_modules_run_uncompiled_meanwhile(where: str) -> None:
    module: Any = BY_NAME["vit"].make()
    plain = st.capture(module, pictures(), quantities=("query", "token"), progress=False)
    # In one graph or not at all: the compiler must not get to see what a capture does.
    if where == "in place":
        module.compile(backend="eager", fullgraph=True)
    elif where == "blocks":
        for block in module.layers:
            block.compile(backend="eager", fullgraph=True)
    else:
        module.forward = torch.compile(module.forward, backend="eager", fullgraph=True)
    xr.testing.assert_identical(st.capture(module, pictures(), quantities=("query", "token"), progress=False), plain)


def test_modules_run_compiled_again_after_captures_that_overlap() -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    begun, ended = threading.Event(), threading.Event()

    def first() -> None:
        with evaluating([], seed=0):
            begun.set()
            ended.wait(60)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(first)
        begun.wait(60)
        with evaluating([], seed=0):  # begins later than the other, and ends later too
            ended.set()
            run.result()
    torch.compile(torch.nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    assert compiled


def test_training_goes_on_after_a_capture() -> None:
    """Tables that a model keeps from a capture (rotary positions) must be fit for gradients."""
    module = BY_NAME["dinov3"].make()
    st.capture(module, pictures(), size=(16, 72), progress=False)
    module.train()
    module(torch.rand(1, 3, 16, 72)).last_hidden_state.sum().backward()


def test_one_model_cannot_be_captured_twice_at_once() -> None:
    module = BY_NAME["vit"].make()

    def again(part: Any, args: Any) -> None:
        st.capture(module, pictures(), progress=False)

    handle = module.layers[0].register_forward_pre_hook(again)
    with pytest.raises(SpectralToolkitError, match="is already being captured"):
        st.capture(module, pictures(), progress=False)
    handle.remove()
    assert module.config._attn_implementation == "sdpa"


def test_two_models_can_be_captured_at_once() -> None:
    outer, inner = BY_NAME["vit"].make(), BY_NAME["clip"].make()
    alone = st.capture(inner, pictures(), progress=False)
    trees = []

    def other(part: Any, args: Any) -> None:
        trees.append(st.capture(inner, pictures(), progress=False))

    outer.layers[0].register_forward_pre_hook(other)
    st.capture(outer, pictures(), progress=False)
    xr.testing.assert_identical(trees[0], alone)


def test_two_models_may_share_a_configuration() -> None:
    outer: Any = BY_NAME["vit"].make()
    inner: Any = type(outer)(outer.config).eval()
    assert inner.config is outer.config
    values = torch.rand(1, 3, 32, 32)
    alone, plain = st.capture(inner, pictures(), progress=False), inner(values).last_hidden_state
    trees, outputs = [], []

    def other(part: Any, args: Any) -> None:
        trees.append(st.capture(inner, pictures(), progress=False))
        outputs.append(inner(values).last_hidden_state)

    outer.layers[0].register_forward_pre_hook(other)
    st.capture(outer, pictures(), progress=False)
    xr.testing.assert_identical(trees[0], alone)
    torch.testing.assert_close(outputs[0], plain, rtol=0, atol=0)
    assert outer.config._attn_implementation == "sdpa"
    assert not attention._switched


def test_threads_may_capture_models_that_share_a_configuration() -> None:
    first: Any = BY_NAME["vit"].make()
    second: Any = type(first)(first.config).eval()
    with ThreadPoolExecutor(2) as pool:
        # Each thread keeps to its own model: one model captured twice at once is refused, as it should be.
        runs = pool.map(lambda m: [st.capture(m, pictures(), progress=False) for _ in range(5)], [first, second])
        trees = [tree for run in runs for tree in run]
    assert {tree.attrs["attention"] for tree in trees} == {"sdpa"}
    assert first.config._attn_implementation == "sdpa"


def test_flash_attention_is_computed_by_its_stand_in() -> None:
    assert attention.delegate("flash_attention_2") == attention.delegate("flex_attention") == "sdpa"
    assert attention.delegate("sdpa") == "sdpa"
    assert attention.delegate("kernels-community/other") == "kernels-community/other"
    assert attention.delegate(None) == "eager"


def test_grouped_queries_are_repeated_and_masks_become_biases() -> None:
    """The attention function alone: no supported family groups queries, but larger ones will."""
    module: Any = BY_NAME["vit"].make().layers[0].attention
    module.num_key_value_groups = 2
    query, key, value = torch.rand(2, 4, 5, 8), torch.rand(2, 2, 5, 8), torch.rand(2, 2, 5, 8)
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    seen: Any = []
    attention._calls[id(module)] = attention._Call("sdpa", lambda *args: seen.append(args[1:]))
    try:
        result: Any = attention._attention(module, query, key, value, mask, scaling=0.3)
        output, _ = result
    finally:
        attention._calls.pop(id(module))
    ((_, key_seen, value_seen, bias, scale),) = seen
    assert torch.equal(key_seen, key.repeat_interleave(2, dim=1))
    weights = torch.softmax(query @ key_seen.transpose(-1, -2) * scale + bias, dim=-1)
    assert torch.allclose((weights @ value_seen).transpose(1, 2), output, atol=1e-6)


# --- what can be asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dinov3", "pixtral"])
def test_queries_before_the_rotation(name: str) -> None:
    case = BY_NAME[name]
    module = case.make()
    tower = module
    wanted = ("query", "key", "query_unrotated", "key_unrotated")
    acts = st.capture(module, pictures(), quantities=wanted, size=case.other_size, progress=False)
    rotations: list[Any] = []
    attention_module: Any = next(p for n, p in module.get_submodule(case.layers[0]).named_modules() if n == "attention")
    handle = attention_module.register_forward_pre_hook(
        lambda part, args, kwargs: rotations.append(kwargs["position_embeddings"]), with_kwargs=True
    )
    with torch.no_grad():
        tower(**inputs(tower, acts["pixels"].to_numpy()[:1], load_model(module).processor))
    handle.remove()
    cos, sin = (table.numpy() for table in rotations[0])
    n_special = len(case.special)
    for layer in case.layers:
        for quantity in ("query", "key"):
            plain, rotated = joined(acts[layer], f"{quantity}_unrotated"), joined(acts[layer], quantity)
            halves = np.concatenate([-plain[..., 4:], plain[..., :4]], axis=-1)
            expected = plain.copy()
            expected[:, :, n_special:] = (plain[:, :, n_special:] * cos) + (halves[:, :, n_special:] * sin)
            np.testing.assert_allclose(rotated, expected, atol=1e-6)
            assert np.abs(rotated - plain).max() > 0.01


def test_unrotated_is_refused_where_nothing_is_rotated() -> None:
    with pytest.raises(SpectralToolkitError, match="has no rotary positions that are known"):
        st.capture(BY_NAME["vit"].make(), pictures(), quantities="query_unrotated", progress=False)
