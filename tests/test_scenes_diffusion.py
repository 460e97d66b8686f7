"""The bundled generative model of scenes: captions, training that can be resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spectral_toolkit.errors import SpectralToolkitError
from spectral_toolkit.scenes.captions import TOKENS, WIDTH, encode_captions, parse_caption
from spectral_toolkit.scenes.compose import CATEGORIES

pytest.importorskip("diffusers")

from spectral_toolkit.scenes import flow
from training import diffusion, shared

TINY = diffusion.Recipe(n_scenes=3, size=32, batch=2, steps=4, width=32, layers=3, heads=2, warmup=1)


def test_captions_are_counted() -> None:
    counts = dict(zip(CATEGORIES, parse_caption("two rings and a star on the ground"), strict=True))
    assert {name: int(n) for name, n in counts.items() if n} == {"ring": 2, "star": 1, "ground": 1}
    assert parse_caption("").sum() == 0
    assert parse_caption("fishes, 2 houses")[[CATEGORIES.index("fish"), CATEGORIES.index("house")]].tolist() == [3, 2]


@pytest.mark.parametrize("caption", ["two unicorns", "two", 3, "0 rings"])
def test_captions_that_are_not_understood(caption: object) -> None:
    with pytest.raises(SpectralToolkitError):
        parse_caption(caption)  # type: ignore[arg-type]


def test_tokens_name_kinds_and_numbers_and_no_order() -> None:
    counts = np.array([[0] * 10, [1, 0, 2, 0, 0, 0, 0, 0, 0, 7]])
    tokens, pooled = encode_captions(counts)
    assert tokens.shape == (2, TOKENS, WIDTH)
    assert np.flatnonzero(pooled[0]).tolist() == [13]
    assert np.flatnonzero(tokens[1, 1]).tolist() == [2, 11]
    assert np.flatnonzero(tokens[1, 2]).tolist() == [9, 12]
    np.testing.assert_array_equal(pooled, tokens.sum(1))


def test_cutting_and_putting_together() -> None:
    pixels = torch.rand(2, 3, 16, 24)
    tokens = flow.to_tokens(pixels)
    torch.testing.assert_close(tokens[0, 4].reshape(3, 8, 8), pixels[0, :, 8:, 8:16])
    torch.testing.assert_close(flow.to_pixels(tokens, (2, 3)), pixels)


def test_every_pair_of_channels_turns_along_a_direction_of_its_own() -> None:
    model = flow.build(1, 4, 128)
    ids = flow.place_ids((3, 4), model).numpy()
    assert tuple(model.config["axes_dims_rope"]) == (4, *[2] * 14)
    assert ids.shape == (12, 15)
    for row, (y, x) in enumerate(np.ndindex(3, 4)):
        assert ids[row, 0] == 0  # what does not turn at all
        for pair in range(14):
            period = 5 * (24 / 5) ** (pair / 13)
            along = np.pi * ((pair * (5**0.5 - 1) / 2) % 1)
            expected = 2 * np.pi * (x * np.cos(along) + y * np.sin(along)) / period
            assert ids[row, 1 + pair] == pytest.approx(expected, abs=1e-5)
    # No two agree on which places are alike, so that no head can attend to whole rows with more than one of them.
    directions = np.pi * (flow.GOLDEN * np.arange(14) % 1)
    apart = np.abs(np.sin(directions[:, None] - directions))[np.triu_indices(14, 1)]
    assert apart.min() > 0.1


def _series() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8), rng.integers(0, 3, (3, 10)).astype(np.uint8)


def test_a_resumed_run_gives_the_same_weights(tmp_path) -> None:
    whole, broken = shared.start(diffusion.TASK, TINY), shared.start(diffusion.TASK, TINY)
    for _ in range(2):
        shared.train_step(diffusion.TASK, whole, *_series())
    shared.train_step(diffusion.TASK, broken, *_series())
    shared.save_checkpoint(broken, tmp_path / "checkpoint.safetensors")
    resumed = shared.load_checkpoint(diffusion.TASK, tmp_path / "checkpoint.safetensors")
    shared.train_step(diffusion.TASK, resumed, *_series())
    assert resumed.step == whole.step == 2
    for name, value in whole.parameters().items():
        assert torch.equal(value, resumed.parameters()[name]), name
    for name, value in whole.averaged.items():
        assert torch.equal(value, resumed.averaged[name]), name


def test_export_holds_the_averaged_weights(tmp_path) -> None:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    run = shared.start(diffusion.TASK, TINY)
    shared.train_step(diffusion.TASK, run, *_series())
    shared.export(diffusion.TASK, run, tmp_path)
    stored = FluxTransformer2DModel.from_pretrained(tmp_path / "transformer")
    for name, value in stored.named_parameters():
        torch.testing.assert_close(value, run.averaged[name], rtol=1e-3, atol=1e-6)


def test_capture_sees_what_the_softmax_sees_and_leaves_no_trace() -> None:
    import spectral_toolkit as st

    model: Any = st.load_model("scenes-diffusion", device="cpu")
    before = [block.attn.processor for block in model.module.transformer_blocks]
    pictures = st.scenes.sample(2, seed=5).pixels.values
    outputs: list[torch.Tensor] = []
    attention = model.module.transformer_blocks[1].attn
    handle = attention.to_out[0].register_forward_pre_hook(lambda module, args: outputs.append(args[0]))
    try:
        acts = st.capture(model, pictures, progress=False, batch_size=2)
    finally:
        handle.remove()
    assert [block.attn.processor for block in model.module.transformer_blocks] == before
    node: Any = acts["transformer_blocks.1"]
    assert node["query"].dims == ("image", "timestep", "noise", "head", "y", "x", "channel")
    assert node["query"].shape[:3] == (2, 1, 1)
    query, key, value = (
        np.concatenate(
            [node[f"special_{name}"].values.reshape(2, 4, TOKENS, 32), node[name].values.reshape(2, 4, 144, 32)],
            axis=2,
            dtype=np.float64,
        )
        for name in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(-1, -2) * node.attrs["scale"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    own = (weights / weights.sum(-1, keepdims=True)) @ value
    own = own.transpose(0, 2, 1, 3).reshape(2, -1, 128)[:, TOKENS:]
    np.testing.assert_allclose(outputs[0].numpy(), own, atol=1e-5)
    again = st.capture(model, pictures, progress=False, batch_size=1)  # the noise is each picture's own
    np.testing.assert_allclose(again["transformer_blocks.3"]["value"], acts["transformer_blocks.3"]["value"], atol=1e-4)


def test_many_timesteps_draws_and_a_caption() -> None:
    import spectral_toolkit as st

    model: Any = st.load_model("scenes-diffusion", device="cpu")
    pictures = st.scenes.sample(2, seed=5)
    (own,) = model.timesteps
    several = st.capture(
        model.at(timesteps=[100, own], n_draws=2, prompt="two rings and a star"), pictures, progress=False
    )
    node: Any = several["transformer_blocks.2"]
    assert node["query"].shape == (2, 2, 2, 4, 12, 12, 32)
    assert node["timestep"].values.tolist() == [100, own]
    assert several.attrs["prompt"] == "two rings and a star"
    told = st.capture(model.at(prompt="two rings and a star"), pictures, progress=False)["transformer_blocks.2"]
    np.testing.assert_allclose(node["query"].sel(timestep=[own])[:, :, :1], told["query"], atol=1e-5)
    plain = st.capture(model, pictures, progress=False)["transformer_blocks.2"]
    assert np.abs(np.asarray(told["query"]) - np.asarray(plain["query"])).max() > 0.01
    assert np.abs(np.asarray(node["query"][:, 1, 0]) - np.asarray(node["query"][:, 1, 1])).max() > 0.1
    for wrong in ({"timesteps": 1000}, {"prompt": "a unicorn"}, {"prompt": 3}, {"n_draws": 0}):
        with pytest.raises(SpectralToolkitError):
            model.at(**wrong)


def test_unrotated_queries_and_keys_turn_into_those_the_softmax_sees(tmp_path) -> None:
    import spectral_toolkit as st

    model: Any = st.load_model("scenes-diffusion", device="cpu")
    pictures = st.scenes.sample(2, seed=5).pixels.values
    wanted = ("query", "key", "query_unrotated", "key_unrotated")
    acts = st.capture(model, pictures, quantities=wanted, store=tmp_path / "a.zarr", progress=False)
    assert st.capture(model, pictures, quantities=wanted, store=tmp_path / "a.zarr", progress=False).equals(acts)
    assert not any("forward" in block.attn.__dict__ for block in model.module.transformer_blocks)
    places = flow.place_ids((12, 12), model.module)
    ids = torch.cat([torch.zeros(TOKENS, places.shape[1]), places])
    cos, sin = (table.numpy() for table in model.module.pos_embed(ids))
    for layer in model.layers:
        node: Any = acts[layer]
        for name in ("query", "key"):
            plain, turned = (
                np.concatenate(
                    [
                        node[f"special_{which}"].values.reshape(2, 4, TOKENS, 32),
                        node[which].values.reshape(2, 4, 144, 32),
                    ],
                    axis=2,
                )
                for which in (f"{name}_unrotated", name)
            )
            halves = np.stack([-plain[..., 1::2], plain[..., ::2]], axis=-1).reshape(plain.shape)
            np.testing.assert_allclose(turned, plain * cos + halves * sin, atol=1e-6)
            np.testing.assert_array_equal(turned[:, :, :TOKENS], plain[:, :, :TOKENS])
            assert np.abs(turned - plain).max() > 0.1


def test_the_untrained_twin_is_captured_alike() -> None:
    import spectral_toolkit as st

    model: Any = st.load_model("scenes-diffusion", device="cpu")
    fresh, kept = model.untrained(3)
    again, _ = model.untrained(3)
    assert kept == ()
    built, trained = (
        {k: list(v) if isinstance(v, tuple) else v for k, v in m.tower.config.items()} for m in (fresh, model)
    )
    assert all(trained[key] == value for key, value in built.items() if not key.startswith("_"))
    assert (fresh.timesteps, fresh.layers, fresh.quantities) == (model.timesteps, model.layers, model.quantities)
    assert fresh.weights_sha256() == again.weights_sha256() != model.weights_sha256()
    acts = st.capture(fresh, st.scenes.sample(1, seed=5), quantities=("query_unrotated", "value"), progress=False)
    assert set(acts["transformer_blocks.0"].data_vars) >= {"query_unrotated", "special_query_unrotated", "value"}
