"""Whatever processors, hooks and compilers are installed: attention is watched as it is, or refused, and put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusion_checks import EVERY, check_parity, generate, load, state_of
from diffusion_zoo import BY_NAME, stable_diffusion
from edit_checks import nudged
from model_zoo import pictures

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError, UnsupportedModelError


class Own:
    """Somebody's processor: attention by PyTorch's function, with an adapter on the queries."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states) * 1.5, attn.to_k(context), attn.to_v(context)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Grouped(Own):
    """Several heads of queries share one of keys and values."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        assert attn.heads > 1
        key, value = key[:, : attn.heads // 2], value[:, : attn.heads // 2]
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class ByHand(Own):
    """Somebody's processor without PyTorch's function: nobody can tell what it does."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        scores = (attn.to_q(hidden_states) @ attn.to_k(context).transpose(1, 2)).softmax(-1)
        return attn.to_out[0](scores @ attn.to_v(context))


class Twice(Own):
    """Attends to something else besides, as adapters of pictures do."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        first = super().__call__(attn, hidden_states, encoder_hidden_states)
        return first + super().__call__(attn, hidden_states, hidden_states[:, :2])


class Longer(Own):
    """Looks at tokens of another picture."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        return super().__call__(attn, hidden_states, torch.cat([context, context], 1))


class Weighted(torch.nn.Module):
    """A processor that is a module with weights, as IP-Adapter's are."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None):
        return Own()(attn, hidden_states * self.factor, encoder_hidden_states)


def install(pipeline: Any, how: str) -> None:
    from diffusers.models import attention_processor as processors

    if how == "AttnProcessor":
        pipeline.unet.set_attn_processor(processors.AttnProcessor())
    elif how == "fused":
        pipeline.fuse_qkv_projections(vae=False)
    elif how == "sliced":
        pipeline.enable_attention_slicing(1)
    elif how == "xformers":
        pipeline.unet.set_attn_processor(processors.XFormersAttnProcessor())
    elif how == "module":
        pipeline.unet.set_attn_processor({name: Weighted() for name in pipeline.unet.attn_processors})
    else:
        pipeline.unet.set_attn_processor(
            {"own": Own, "grouped": Grouped, "by hand": ByHand, "twice": Twice, "longer": Longer}[how]()
        )


class _Xformers:
    """Stands for the library where it is not installed."""

    class ops:  # noqa: N801 - theirs
        @staticmethod
        def memory_efficient_attention(query: Any, key: Any, value: Any, scale: float, **kwargs: Any) -> Any:
            return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


@pytest.mark.parametrize("how", ["AttnProcessor", "fused", "sliced", "xformers", "own", "grouped", "module"])
def test_processors_of_the_users(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models import attention_processor as processors

    monkeypatch.setattr(processors, "xformers", _Xformers)
    pipeline = stable_diffusion()
    install(pipeline, how)
    before, state = generate(pipeline, BY_NAME["sd1"].asked), state_of(pipeline.unet)
    weights = list(pipeline.unet.state_dict())
    model = load(pipeline).at(timesteps=20)
    check_parity(model, model.layers, (16, 24))
    check_parity(model, model.layers, (16, 24), edits=nudged)
    assert state_of(pipeline.unet) == state
    assert list(pipeline.unet.state_dict()) == weights
    np.testing.assert_array_equal(generate(pipeline, BY_NAME["sd1"].asked), before)


@pytest.mark.parametrize(
    ("how", "message"),
    [("by hand", "ByHand .* by code of its own"), ("twice", "attends 2 times"), ("longer", "attend to 128")],
)
def test_processors_that_cannot_be_watched(how: str, message: str) -> None:
    pipeline = stable_diffusion()
    install(pipeline, how)
    state = state_of(pipeline.unet)
    with pytest.raises(UnsupportedModelError, match=message):
        st.capture(load(pipeline).at(timesteps=20), pictures()[:1], progress=False)
    assert state_of(pipeline.unet) == state


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_all_is_put_back_whatever_happens(error: type[BaseException]) -> None:
    pipeline = stable_diffusion()
    state = state_of(pipeline.unet)

    def fail(*args: Any) -> None:
        raise error("in the middle")

    handle = pipeline.unet.up_blocks[2].register_forward_pre_hook(fail)
    before = state_of(pipeline.unet)
    with pytest.raises(error, match="in the middle"):
        st.capture(load(pipeline), pictures()[:1], quantities=EVERY, progress=False)
    assert state_of(pipeline.unet) == before
    handle.remove()
    assert state_of(pipeline.unet) == state
    st.capture(load(pipeline).at(timesteps=1), pictures()[:1], progress=False)


@pytest.mark.parametrize("where", ["around", "in place", "blocks"])
def test_compiled_modules_run_uncompiled_meanwhile(where: str) -> None:
    pipeline = stable_diffusion()
    plain = st.capture(load(pipeline).at(timesteps=1), pictures()[:1], progress=False)
    if where == "around":
        pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    elif where == "in place":
        pipeline.unet.compile(backend="eager")
    else:
        for block in pipeline.unet.down_blocks:
            block.compile(backend="eager")
    model = load(pipeline).at(timesteps=1)
    compiled = st.capture(model, pictures()[:1], progress=False)
    for layer in model.layers:
        np.testing.assert_array_equal(plain[layer]["key"], compiled[layer]["key"])
    assert compiled.attrs["weights_sha256"] == plain.attrs["weights_sha256"]


def test_offloaded_and_nested_captures_are_refused() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    pipeline = stable_diffusion()
    model = load(pipeline).at(timesteps=1)
    add_hook_to_module(pipeline.unet, AlignDevicesHook())
    with pytest.raises(UnsupportedModelError, match="is offloaded"):
        st.capture(model, pictures()[:1], progress=False)
    remove_hook_from_module(pipeline.unet)

    def again(*args: Any) -> None:
        st.capture(model, pictures()[:1], progress=False)

    handle = pipeline.unet.mid_block.register_forward_hook(again)
    with pytest.raises(SpectralToolkitError, match="is already being captured"):
        st.capture(model, pictures()[:1], progress=False)
    handle.remove()


def test_half_precision_is_captured_as_it_is() -> None:
    pipeline = BY_NAME["sdxl"].make()
    model = load(pipeline, dtype="bfloat16").at(timesteps=1)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    check_parity(model, model.layers, (16, 16), atol=0.02)


def _group_offload(tower: Any) -> None:
    tower.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


def _cast_layerwise(tower: Any) -> None:
    tower.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float32)


@pytest.mark.parametrize("move", [_group_offload, _cast_layerwise])
def test_weights_that_are_elsewhere_meanwhile_are_refused(move: Any) -> None:
    pipeline = stable_diffusion()
    move(pipeline.unet)
    with pytest.raises(UnsupportedModelError, match="is offloaded, cast layer by layer or cached"):
        st.capture(load(pipeline).at(timesteps=1), pictures()[:1], progress=False)


def test_an_ip_adapter_is_refused_with_the_call_that_unloads_it() -> None:
    pipeline = stable_diffusion()
    width, cross = 16, pipeline.unet.config.cross_attention_dim
    weights: dict[str, Any] = {
        "image_proj": {
            "proj.weight": torch.zeros(4 * cross, width),
            "proj.bias": torch.zeros(4 * cross),
            "norm.weight": torch.ones(cross),
            "norm.bias": torch.zeros(cross),
        },
        "ip_adapter": {},
    }
    own = [name for name in pipeline.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(own):
        hidden = pipeline.unet.get_submodule(name.rpartition(".")[0]).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            weights["ip_adapter"][f"{2 * number + 1}.{part}.weight"] = torch.zeros(hidden, cross)
    pipeline.unet._load_ip_adapter_weights([weights])
    with pytest.raises(UnsupportedModelError, match=r"unload_ip_adapter\(\)"):
        load(pipeline)
