"""Transformers of diffusers: text beside patches, classes, rotary positions, guidance, and what pipelines tell them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusion_checks import check_parity, generate, state_of
from diffusion_transformers_zoo import CASES, dit, flux, flux_dev, pixart_sigma, sd3, sd35
from diffusion_zoo import Case, randomised, stable_diffusion, theirs
from model_zoo import pictures

import spectral_toolkit as st
from spectral_toolkit.errors import SpectralToolkitError, UnsupportedModelError

SMALL: dict[str, Any] = {"processor": {"size": {"height": 16, "width": 16}}}
BY_NAME = {case.name: case for case in CASES}


def load(source: Any, **settings: Any) -> Any:
    """A denoiser, which has more than every model has."""
    return st.load_model(source, **{**SMALL, **settings})


def calls_of(tower: Any, run: Any) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """What the denoiser is given, by name, and what it answers, whenever ``run`` calls it."""
    found: list[tuple[dict[str, Any], torch.Tensor]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        given = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        found.append((given, output[0].detach().clone()))

    handle = tower.register_forward_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    return found


# --- what the denoiser is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_denoiser_is_told_what_its_pipeline_tells_it(case: Case) -> None:
    """The same arguments, one by one, and the same answer, bit by bit, for the pipeline's own latents."""
    pipeline: Any = case.make()
    pipeline.set_progress_bar_config(disable=True)
    model = load(pipeline).at(prompt=case.prompt)
    asked = {**case.asked, "guidance_scale": 1.0, "num_inference_steps": 2, "output_type": "latent"}
    if case.family == "Flux":
        asked["max_sequence_length"] = len(model.special_tokens)
    if case.family == "DiT":
        asked["output_type"] = "np"
    (given, answer), _ = calls_of(pipeline.transformer, lambda: pipeline(**asked))
    latents, timestep = given["hidden_states"], float(given["timestep"].flatten()[0])
    if case.family == "Flux":
        latents = pipeline._unpack_latents(latents, 16, 16, pipeline.vae_scale_factor)
        timestep *= 1000
    with torch.no_grad():
        conditioning = model.conditioning((16, 16))
    ((ours, own),) = calls_of(model.tower, lambda: model.denoise(latents, int(timestep), conditioning))
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours[name], value.expand_as(ours[name]), rtol=0, atol=0, check_dtype=False)
        elif isinstance(value, dict):
            for inner, tensor in value.items():
                assert (tensor is None) == (ours[name][inner] is None)
                if tensor is not None:
                    torch.testing.assert_close(ours[name][inner], tensor, rtol=0, atol=0)
    assert {name for name, value in given.items() if isinstance(value, torch.Tensor)} == {
        name for name, value in ours.items() if isinstance(value, torch.Tensor)
    }
    torch.testing.assert_close(own, answer, rtol=0, atol=0)


def test_prompts_reach_the_attention() -> None:
    for make in (pixart_sigma, sd3, flux):
        model = load(make()).at(timesteps=20)
        layer = model.layers[-1]
        plain, told = (
            st.capture(which, pictures()[:1], quantities="query", progress=False)[layer]["query"].to_numpy()
            for which in (model, model.at(prompt="a dog"))
        )
        assert np.abs(plain - told).max() > 1e-3


def test_classes_by_name_and_number() -> None:
    pipeline = dit()
    model = load(pipeline)
    assert model.text == "the null class"
    for prompt, number in (("", 1000), ("tabby cat", 2), ("Tinca tinca", 0), ("7", 7), (999, 999)):
        other = model.at(prompt=prompt)
        assert other.conditioning((16, 16))["class_labels"].tolist() == [number]
        assert other.prompt == str(prompt)
    with pytest.raises(SpectralToolkitError, match=r"'tabby dog' is not a class .* from 0 to 999 .*\(tabby cat"):
        model.at(prompt="tabby dog")
    for wrong in (1000, -1, True, 2.5):
        with pytest.raises(SpectralToolkitError, match="is not a class"):
            model.at(prompt=wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = load(pipeline.transformer, vae=pipeline.vae, scheduler=pipeline.scheduler)
    with pytest.raises(SpectralToolkitError, match="expected a number from 0 to 999, or an empty text"):
        alone.at(prompt="tabby cat")


def test_guidance_is_told_to_those_who_know_of_it() -> None:
    model = load(flux_dev())
    assert model.provenance["guidance"] == "told 1, as it is distilled"
    other = model.at(guidance=3.5, timesteps=3)
    assert (other.guidance, other.timesteps, model.guidance) == (3.5, (3,), 1.0)
    assert other.config_sha256() != model.at(timesteps=3).config_sha256()
    (given, _), *_ = calls_of(model.tower, lambda: other.forward(pictures()[:2, :16, :16]))
    assert given["guidance"].tolist() == [3.5, 3.5]
    for wrong in (-1, True, "much", float("inf")):
        with pytest.raises(SpectralToolkitError, match="is not a number of at least 0"):
            model.at(guidance=wrong)
    plain = load(flux())
    assert plain.provenance["guidance"] == "off"
    with pytest.raises(SpectralToolkitError, match="takes no guidance"):
        plain.at(guidance=2)


@pytest.mark.parametrize("missing", [(3,), (1,), (2,), (1, 3), (2, 3), (1, 2)], ids=str)
def test_zeros_stand_for_the_encoders_that_are_not_there(missing: tuple[int, ...]) -> None:
    whole = load(sd3()).at(prompt="a cat")
    pipeline = sd3()
    names = [f"text_encoder{'' if number == 1 else f'_{number}'}" for number in missing]
    for name in names:
        setattr(pipeline, name, None)
    with pytest.warns(UserWarning, match=f"came without {' and '.join(names)}: zeros stand"):
        model = load(pipeline).at(prompt="a cat")
    assert all(f"zeros for {name}" in model.provenance["text_states"] for name in names)
    with torch.no_grad():
        told, full = (one.conditioning((16, 16)) for one in (model, whole))
    # CLIP's two side by side, 8 and 12 wide, for 77 tokens; T5's after them, as wide as the model takes.
    states, pooled = (full[name].clone() for name in ("encoder_hidden_states", "pooled_projections"))
    places = {1: (slice(0, 77), slice(0, 8)), 2: (slice(0, 77), slice(8, 20)), 3: (slice(77, None), slice(None))}
    for number in missing:
        states[0][places[number]] = 0
        if number < 3:
            pooled[0, places[number][1]] = 0
    torch.testing.assert_close(told["encoder_hidden_states"], states, rtol=0, atol=1e-6)
    torch.testing.assert_close(told["pooled_projections"], pooled, rtol=0, atol=1e-6)


# --- text beside patches ---------------------------------------------------------------------------------------------


def test_text_comes_first_whatever_the_order_of_the_model() -> None:
    """Stable Diffusion 3 puts the patches first: keys of text and patches, from the projections themselves."""
    model = load(sd3()).at(timesteps=20, prompt="a cat")
    attention = model.tower.transformer_blocks[1].attn
    found: dict[str, torch.Tensor] = {}
    handles = [
        getattr(attention, name).register_forward_hook(lambda module, args, out, name=name: found.update({name: out}))
        for name in ("to_k", "add_k_proj")
    ]
    acts = st.capture(model, pictures()[:1], quantities=("key", "token"), progress=False)
    for handle in handles:
        handle.remove()
    node: Any = acts["transformer_blocks.1.attn"].isel(timestep=0, noise=0)
    assert node.coords["special"].values.tolist()[:2] == ["text_0", "text_1"]
    assert node.sizes["special"] == 77 + 256
    patches = node["key"].transpose("image", "y", "x", "head", "channel").to_numpy().reshape(1, 16, 16)
    text = node["special_key"].transpose("image", "special", "head", "channel").to_numpy().reshape(1, -1, 16)
    np.testing.assert_allclose(patches, found["to_k"], atol=1e-6)
    np.testing.assert_allclose(text, found["add_k_proj"], atol=1e-6)
    # The last block keeps no text.
    assert "special_token" not in node.data_vars
    assert "special_token" in acts["transformer_blocks.0.attn"].data_vars


def test_layers_with_and_without_text_in_one_solve(tmp_path: Path) -> None:
    model = load(sd35()).at(timesteps=[20, 90])
    settings: dict[str, Any] = {"quantities": ("query", "key", "value", "token"), "progress": False}
    acts = st.capture(model, pictures()[:2], size=(16, 24), **settings)
    alone: Any = acts["transformer_blocks.0.attn2"]
    assert "special" not in alone.dims
    assert "special" in acts["transformer_blocks.0.attn"].dims
    stored = st.capture(model, pictures()[:2], size=(16, 24), store=tmp_path / "a.zarr", **settings)
    assert stored.equals(acts)
    graph = st.affinity(acts, "qk")
    matrices = graph.to_dense(0)
    assert list(matrices) == list(model.layers)
    # Softmax over text and patches, text then dropped; averaged over timesteps.
    for layer in ("transformer_blocks.0.attn", "transformer_blocks.0.attn2"):
        node, by_hand = acts[layer], []
        for timestep in range(2):
            place: dict[Any, Any] = {"image": 0, "timestep": timestep, "noise": 0}
            query, key = (node[name].isel(place).to_numpy().reshape(2, 24, 8) for name in ("query", "key"))
            text = node["special_key"].isel(place).to_numpy() if "special_key" in node else key[:, :0]
            scores = query @ np.concatenate([text, key], 1).swapaxes(1, 2) * node.attrs["scale"]
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            by_hand.append((weights / weights.sum(-1, keepdims=True))[..., len(text[0]) :].mean(0))
        mean = np.mean(by_hand, 0)
        np.testing.assert_allclose(matrices[layer], (mean + mean.T) / 2, atol=1e-5)
    assert bool(st.solve(graph, n_eigenvectors=3)["converged"].all())
    st.save_bundle(tmp_path / "a.zip", acts)


def test_only_the_text_free_layer_has_no_special_coordinate() -> None:
    model = load(sd3()).at(timesteps=3)
    acts = st.capture(model, pictures()[:1], quantities="token", progress=False)
    assert "special" not in acts["transformer_blocks.1.attn"].coords
    assert acts["transformer_blocks.0.attn"].sizes["special"] == 333


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_memory_is_known_beforehand(case: Case) -> None:
    model = load(case.make()).at(timesteps=[3, 4])
    acts = st.capture(model, pictures()[:2], progress=False)
    held = sum(array.nbytes for node in acts.subtree for array in node.data_vars.values())
    assert st.estimate_memory(model, pictures()[:2]).activations == held


# --- rotary ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_queries_and_keys_before_rotary_positions_turn_them(fused: bool) -> None:
    pipeline = flux()
    if fused:
        pipeline.transformer.fuse_qkv_projections()
    model = load(pipeline).at(timesteps=20, prompt="a cat")
    found: dict[Any, torch.Tensor] = {}
    handles = []
    for layer in model.layers:
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            if norm := getattr(model.attention_of(layer), name, None):
                handles.append(
                    norm.register_forward_hook(
                        lambda module, args, out, place=(layer, name): found.update({place: out.detach()})
                    )
                )
    wanted = ("query", "key", "query_unrotated", "key_unrotated")
    acts = st.capture(model, pictures()[:2], quantities=wanted, size=(16, 24), progress=False)
    for handle in handles:
        handle.remove()
    for layer in model.layers:
        node: Any = acts[layer].isel(timestep=0, noise=0)
        for which, norm in (("query", "q"), ("key", "k")):
            own = found[layer, f"norm_{norm}"]
            if (layer, f"norm_added_{norm}") in found:
                own = torch.cat([found[layer, f"norm_added_{norm}"], own], 1)
            plain, turned = (
                np.concatenate([node[f"special_{name}"].to_numpy(), node[name].to_numpy().reshape(2, 2, -1, 8)], axis=2)
                for name in (f"{which}_unrotated", which)
            )
            np.testing.assert_allclose(plain, own.transpose(1, 2).numpy(), atol=1e-5)
            # Text is at the origin and not turned; patches are, all but the first.
            np.testing.assert_allclose(plain[:, :, :256], turned[:, :, :256], atol=1e-6)
            assert np.abs(plain - turned)[:, :, 257:].max() > 0.1
    st.solve(st.affinity(acts, "qk_unrotated"), n_eigenvectors=2)


def test_nothing_to_turn_back_where_positions_are_added() -> None:
    with pytest.raises(SpectralToolkitError, match="query_unrotated"):
        st.capture(load(sd3()), pictures()[:1], quantities="query_unrotated", progress=False)


# --- processors ------------------------------------------------------------------------------------------------------


class Scaled:
    """Somebody's processor around diffusers' own, with an adapter on what goes in."""

    def __init__(self, own: Any):
        self.own = own

    def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return self.own(attn, hidden_states * 1.5, *args, **kwargs)


@pytest.mark.parametrize(
    ("name", "how"),
    # Fused projections of Stable Diffusion 3.5 fail in diffusers itself.
    [("sd3", "fused"), ("sd35", "own"), ("flux dev", "fused"), ("flux schnell", "own"), ("pixart sigma", "fused")],
)
def test_processors_of_the_users(name: str, how: str) -> None:
    case = BY_NAME[name]
    pipeline = case.make()
    tower = case.tower(pipeline)
    if how == "fused":
        tower.fuse_qkv_projections()
    else:
        for layer in load(pipeline).layers:
            attention = load(pipeline).attention_of(layer)
            attention.processor = Scaled(attention.processor)
    before, state = generate(pipeline, case.asked), state_of(tower)
    check_parity(load(pipeline).at(timesteps=20, prompt="a cat"), case.layers, (16, 24))
    assert state_of(tower) == state
    np.testing.assert_array_equal(generate(pipeline, case.asked), before)


def test_pictures_that_are_prompts_are_refused() -> None:
    """An IP-Adapter attends twice."""
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    pipeline = flux()
    for block in pipeline.transformer.transformer_blocks:
        block.attn.processor = randomised(FluxIPAdapterAttnProcessor(16, 16))

    def without(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "ip_hidden_states": [torch.zeros(1, 4, 16)]}

    handles = [
        block.attn.register_forward_pre_hook(without, with_kwargs=True)
        for block in pipeline.transformer.transformer_blocks
    ]
    with pytest.raises(UnsupportedModelError, match="attends 2 times"):
        st.capture(load(pipeline).at(timesteps=1), pictures()[:1], progress=False)
    for handle in handles:
        handle.remove()


def test_compiled_and_in_half_precision() -> None:
    pipeline = flux()
    pipeline.transformer.compile(backend="eager")
    model = load(pipeline, dtype="bfloat16").at(timesteps=20)
    check_parity(model, model.layers, (16, 16), atol=0.03)


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "family"), [(dit, "DiT"), (pixart_sigma, "PixArt-alpha and -sigma")])
def test_the_older_name_of_the_class(make: Any, family: str, tmp_path: Path) -> None:
    """Checkpoints on the hub are of before the class had two names."""
    make().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    stored = json.loads(index.read_text())
    stored["transformer"][1] = "Transformer2DModel"
    index.write_text(json.dumps(stored))
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "Transformer2DModel"}))
    model = load(tmp_path)
    assert (model.family, model.layers) == (family, BY_NAME["pixart sigma"].layers)
    pipeline = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = load(tmp_path / "transformer", vae=pipeline.vae, scheduler=pipeline.scheduler)
    assert part.family == family


def test_transformers_of_other_kinds_are_refused() -> None:
    pipeline = flux()
    around: dict[str, Any] = {"vae": pipeline.vae, "scheduler": pipeline.scheduler}
    settings = {"num_layers": 1, "num_single_layers": 0, "attention_head_dim": 8, "num_attention_heads": 2}
    fill = theirs.FluxTransformer2DModel(in_channels=96, out_channels=16, axes_dims_rope=(2, 2, 4), **settings)
    with pytest.raises(UnsupportedModelError, match="takes 96 channels, and its VAE gives 4"):
        load(fill, **around)
    with pytest.raises(UnsupportedModelError, match="takes 4 channels, and the VAE gives 8"):
        load(sd3().transformer, vae=stable_diffusion_vae(8), scheduler=pipeline.scheduler)


def stable_diffusion_vae(channels: int) -> Any:
    from diffusion_zoo import vae

    return vae(channels)


def test_sizes_of_their_own() -> None:
    assert st.load_model(flux()).image_size() == (256, 256)  # 128 latent cells of 2 pixels
    with pytest.warns(UserWarning, match="gets zeros"):
        alone = st.load_model(flux().transformer, vae=stable_diffusion().vae, scheduler=flux().scheduler)
    assert alone.image_size() == (256, 256)
    model = st.load_model(sd3())
    with pytest.raises(
        SpectralToolkitError, match=r"positions for 8 patches in each direction; the nearest is \(32, 16\)"
    ):
        model.image_size((64, 16))
    with pytest.raises(SpectralToolkitError, match=r"takes square images only; the nearest is \(20, 20\)"):
        st.load_model(dit()).image_size((24, 16))
