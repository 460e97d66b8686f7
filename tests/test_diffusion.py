"""Denoisers of diffusers: what is captured is what the softmax saw, and nothing is left behind, family by family."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import diffusion_transformers_zoo as transformers
from diffusion_checks import EVERY, check_parity, generate, load, state_of
from diffusion_zoo import CASES as UNETS
from diffusion_zoo import Case, stable_diffusion, stable_diffusion_xl_refiner, theirs, unet, vae
from edit_checks import check_edited, check_unedited, nudged
from model_zoo import pictures
from PIL import Image

import spectral_toolkit as st
from spectral_toolkit._models.diffusion import families
from spectral_toolkit.errors import ModelNotFoundError, SpectralToolkitError, UnsupportedModelError

CASES = (*UNETS, *transformers.CASES)
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# --- per family ------------------------------------------------------------------------------------------------------


def test_every_line_of_the_table_is_tested() -> None:
    assert {case.family for case in CASES} == {family.label for family in families.FAMILIES}
    for family in families.FAMILIES:
        assert family.label in families.supported()


@by_case
def test_saved_and_loaded_back_every_attention_is_recomputed(case: Case, tmp_path: Path) -> None:
    pipeline = case.make()
    pipeline.save_pretrained(tmp_path / "tiny")
    model = load(tmp_path / "tiny", **case.settings).at(timesteps=[10, 200], n_draws=2, prompt=case.prompt)
    assert (model.family, model.layers, model.name) == (case.family, case.layers, "tiny")
    assert model.image_size() == case.size
    acts = check_parity(model, case.layers, case.other)
    stretch = [o / s for o, s in zip(case.other, case.size, strict=True)]
    for layer, grid in zip(case.layers, case.grids, strict=True):
        expected = tuple(round(side * by) for side, by in zip(grid, stretch, strict=True))
        assert (acts[layer].sizes["y"], acts[layer].sizes["x"]) == expected
        assert acts[layer]["query"].dims[:3] == ("image", "timestep", "noise")
        assert acts[layer]["token"].dims == ("image", "timestep", "noise", "y", "x", "feature")
    assert acts[case.layers[0]].coords["timestep"].values.tolist() == [10, 200]
    assert acts[case.layers[0]].coords["noise"].values.tolist() == [0, 1]
    assert acts.attrs["prompt"] == case.prompt
    assert json.loads(acts.attrs["timesteps"]) == [10, 200]
    live = load(pipeline, **case.settings).at(timesteps=[10, 200], n_draws=2, prompt=case.prompt)
    again = st.capture(live, pictures()[:2], quantities=EVERY, size=case.other, progress=False)
    for layer in case.layers:
        # Weights lie elsewhere in memory, and sums may then be taken in another order.
        np.testing.assert_allclose(acts[layer]["token"], again[layer]["token"], atol=1e-5, rtol=1e-5)


@by_case
def test_the_pipeline_is_as_it_was(case: Case) -> None:
    pipeline = case.make()
    tower = case.tower(pipeline)
    before, state = generate(pipeline, case.asked), state_of(tower)
    tower.train()
    st.capture(load(pipeline, **case.settings).at(timesteps=5), pictures()[:1], quantities=EVERY, progress=False)
    assert tower.training
    tower.eval()
    assert state_of(tower) == state
    np.testing.assert_array_equal(generate(pipeline, case.asked), before)


@by_case
def test_edits_reach_every_attention_and_none_changes_nothing(case: Case) -> None:
    pipeline = case.make()
    model = load(pipeline, **case.settings).at(timesteps=[10, 200], prompt=case.prompt)
    plain = st.capture(model, pictures()[:2], quantities=EVERY, size=case.other, progress=False)
    check_unedited(model, pictures()[:2], plain, quantities=EVERY, size=case.other)
    edited = check_parity(model, case.layers, case.other, edits=nudged)
    check_edited(plain, edited)
    assert edited["timestep"].values.tolist() == [10, 200]
    other = model.at(timesteps=[10, 100])
    with pytest.raises(SpectralToolkitError, match=r"with timestep \[10, 200\] and the images have \[10, 100\]"):
        st.intervene(other, pictures()[:2], st.exchange("value", plain), size=case.other, progress=False)
    assert edited["denoised"].dims == ("image", "timestep", "noise", "y_px", "x_px", "rgb")
    assert edited["denoised"].shape[3:] == (*case.other, 3)
    state = state_of(case.tower(pipeline))
    with pytest.raises(SpectralToolkitError, match="gave back shape"):
        st.intervene(model, pictures()[:1], lambda layer, tensor: tensor[..., :1], size=case.other, progress=False)
    assert state_of(case.tower(pipeline)) == state


@by_case
def test_the_residual_stream_is_what_the_block_returns(case: Case) -> None:
    model = load(case.make(), **case.settings).at(timesteps=7)
    layer, outputs = case.layers[1], []
    handle = model.block_of(layer).register_forward_hook(lambda module, args, output: outputs.append(output))
    acts = st.capture(model, pictures()[:1], quantities="token", progress=False)
    handle.remove()
    token = acts[layer]["token"].isel(timestep=0, noise=0).to_numpy()
    token = token.reshape(1, -1, token.shape[-1])
    own = model.token_of(layer, outputs[0]).numpy()
    if len(own[0]) > len(token[0]):
        special = acts[layer]["special_token"].isel(timestep=0, noise=0)
        token = np.concatenate([special.to_numpy(), token], 1)
    np.testing.assert_array_equal(token, own)


@by_case
def test_a_component_alone_is_told_zeros_and_says_so(case: Case, tmp_path: Path) -> None:
    pipeline = case.make()
    case.tower(pipeline).save_pretrained(tmp_path / "part")
    around = {"vae": pipeline.vae, "scheduler": pipeline.scheduler}
    if case.family == "DiT":  # a class needs no encoder
        model = load(tmp_path / "part", **around)
        check_parity(model.at(timesteps=3, prompt=1), case.layers, case.size)
        return
    with pytest.warns(UserWarning, match="gets zeros instead of a prompt"):
        model = load(tmp_path / "part", **around, **case.settings)
    assert not model.reads_prompts
    assert (model.family, model.layers) == (case.family, case.layers)
    acts = check_parity(model.at(timesteps=3), case.layers, case.size)
    assert acts.attrs["text_states"].startswith("zeros")
    with pytest.raises(SpectralToolkitError, match="cannot be read"):
        model.at(prompt="a cat")
    for missing, word in ((("vae",), "VAE"), (("scheduler",), "scheduler")):
        with pytest.raises(UnsupportedModelError, match=f"came without a {word}"):
            load(case.tower(pipeline), **{key: part for key, part in around.items() if key not in missing})


@by_case
def test_sizes_that_do_not_fit_are_refused_with_the_nearest(case: Case) -> None:
    model = load(case.make(), **case.settings)
    assert model.image_size(case.other) == case.other
    wrong, nearest = case.wrong
    with pytest.raises(SpectralToolkitError, match="the nearest is " + re.escape(str(nearest))):
        model.image_size(wrong)
    assert model.image_size(nearest) == nearest


@by_case
def test_an_untrained_twin_is_captured_alike(case: Case) -> None:
    model = load(case.make(), **case.settings).at(timesteps=[4], seed=2)
    fresh, _ = model.untrained(1)
    again, _ = model.untrained(1)
    assert fresh.weights_sha256() == again.weights_sha256() != model.weights_sha256()
    assert (fresh.layers, fresh.timesteps, fresh.noise_seed) == (model.layers, (4,), 2)
    assert set(st.capture(fresh, pictures()[:1], progress=False).children) == set(case.layers)


# --- timesteps, noise, prompts ---------------------------------------------------------------------------------------


def test_by_default_timesteps_are_drawn_from_the_first_quarter() -> None:
    model = load(stable_diffusion())
    assert len(model.timesteps) == len(set(model.timesteps)) == 4
    assert all(0 <= t <= 250 for t in model.timesteps)
    assert list(model.timesteps) == sorted(model.timesteps)
    assert model.timesteps == load(stable_diffusion()).timesteps != model.at(seed=1).timesteps
    seen = {t for seed in range(400) for t in model.at(seed=seed, n_timesteps=10).timesteps}
    assert {min(seen), max(seen)} == {0, 250}
    assert model.at(between=(600, 610), n_timesteps=11).timesteps == tuple(range(600, 611))
    assert model.at(timesteps=999).at(n_draws=3).timesteps == (999,)
    assert model.at(timesteps=999).at(n_timesteps=2).timesteps != (999,)
    assert len(model.timesteps) == 4  # the first model is as it was


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timesteps": 1000}, "from 0 to 999"),
        ({"timesteps": -1}, "from 0 to 999"),
        ({"timesteps": [3, 3]}, "different ones"),
        ({"timesteps": []}, "is not understood"),
        ({"timesteps": 2.5}, "is not understood"),
        ({"timesteps": "many"}, "is not understood"),
        ({"timesteps": 3, "n_timesteps": 2}, "cannot be both given and drawn"),
        ({"between": (5, 2)}, "cannot be drawn"),
        ({"between": (5, 7), "n_timesteps": 4}, "cannot be drawn"),
        ({"between": 5}, "is not a range"),
        ({"n_draws": 0}, "at least 1"),
        ({"n_draws": True}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"prompt": 3}, "is not a text"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpectralToolkitError, match=message):
        load(stable_diffusion()).at(**wrong)


def test_noise_follows_from_seed_and_picture_alone() -> None:
    model = load(stable_diffusion()).at(timesteps=[50, 100], n_draws=2)

    def queries(which: Any, shown: np.ndarray, **settings: Any) -> np.ndarray:
        acts = st.capture(which, shown, quantities="query", progress=False, **settings)
        return acts[model.layers[0]]["query"].to_numpy()

    whole = queries(model, pictures())
    np.testing.assert_allclose(whole[2:], queries(model, pictures()[2:], batch_size=1), atol=1e-4)
    np.testing.assert_array_equal(queries(model.at(timesteps=100), pictures())[:, 0], whole[:, 1])
    assert np.abs(queries(model.at(seed=1), pictures()) - whole).max() > 0.1
    assert np.abs(whole[:, :, 0] - whole[:, :, 1]).max() > 0.1


def test_noise_is_that_of_the_scheduler_however_it_is_set() -> None:
    """Latents (1 - a) as in DDPM, whatever walks back and whatever steps the user's own scheduler is set to."""
    from spectral_toolkit._models.diffusion.noising import noised

    latents, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    euler = theirs.EulerDiscreteScheduler(**betas)
    euler.set_timesteps(7)
    product = np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[:201] ** 2)
    expected = product**0.5 * latents + (1 - product) ** 0.5 * noise
    for scheduler in (euler, theirs.DDPMScheduler(**betas)):
        torch.testing.assert_close(noised(scheduler, latents, noise, 200), expected, atol=1e-5, rtol=1e-5)
    assert len(euler.timesteps) == 7
    flow = theirs.FlowMatchEulerDiscreteScheduler(shift=3.0)
    torch.testing.assert_close(noised(flow, latents, noise, 200), 0.8 * latents + 0.2 * noise)


def test_the_refiner_reads_prompts_with_the_one_encoder_it_has() -> None:
    pipeline = stable_diffusion_xl_refiner()
    model = load(pipeline).at(timesteps=20, prompt="a cat")
    assert model.text == "the pipeline's text encoders"
    seen: list[Any] = []
    handle = pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["encoder_hidden_states"], kwargs["added_cond_kwargs"])),
        with_kwargs=True,
    )
    ours = check_parity(model, model.layers, (16, 16))
    generate(
        pipeline, {"prompt": "a cat", "image": [Image.new("RGB", (16, 16))], "guidance_scale": 1.0, "strength": 1.0}
    )
    handle.remove()
    assert ours.attrs["prompt"] == "a cat"
    (states, told), (their_states, theirs_told) = seen[0], seen[-1]
    torch.testing.assert_close(states[:1], their_states)
    for key in ("text_embeds", "time_ids"):
        torch.testing.assert_close(told[key][:1], theirs_told[key])


def test_the_denoiser_is_shown_what_its_pipeline_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = stable_diffusion()
    model = load(pipeline).at(timesteps=30, prompt="dog")
    told: list[Any] = []
    monkeypatch.setattr(
        type(model), "denoise", lambda self, latents, t, conditioning: told.append((latents, t, conditioning))
    )
    pixels = pictures()[:2, :16, :16]
    with torch.no_grad():
        model.forward(pixels)
        latents, timestep, conditioning = told[0]
        clean = pipeline.vae.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
        states = pipeline.encode_prompt("dog", "cpu", 1, False)[0]
    assert timestep == 30
    clean = clean * pipeline.vae.config.scaling_factor
    level = pipeline.scheduler.alphas_cumprod[30]
    noise = (latents - level**0.5 * clean) / (1 - level) ** 0.5
    assert abs(float(noise.std()) - 1) < 0.1
    torch.testing.assert_close(conditioning["encoder_hidden_states"], states.expand(2, -1, -1))


def test_vaes_scale_and_shift_as_they_say() -> None:
    from spectral_toolkit._models.diffusion.encoding import encode
    from spectral_toolkit._models.processing import HALF, Processing

    pixels, shown = pictures()[:1, :16, :16], Processing(HALF, HALF)
    with torch.no_grad():
        plain = vae(scaling_factor=1.0)
        mean = encode(plain, shown, pixels)
        changes: list[dict[str, Any]] = [
            {"scaling_factor": 0.5, "shift_factor": 0.25},
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [2.0] * 4},
        ]
        centre = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        for change, expected in zip(changes, [(mean - 0.25) * 0.5, (mean - centre) * 0.25], strict=True):
            scaled = vae(**change)
            scaled.load_state_dict(plain.state_dict())
            torch.testing.assert_close(encode(scaled, shown, pixels), expected)
        half = vae(force_upcast=True, scaling_factor=1.0)
        half.load_state_dict(plain.state_dict())
        half.half()
        bits = {name: tensor.clone() for name, tensor in half.state_dict().items()}
        torch.testing.assert_close(encode(half, shown, pixels), mean, atol=0.02, rtol=0.02)
    assert all(torch.equal(tensor, bits[name]) for name, tensor in half.state_dict().items())


# --- loading ---------------------------------------------------------------------------------------------------------


def test_unets_of_other_kinds_are_refused() -> None:
    around: dict[str, Any] = {"vae": vae(), "scheduler": stable_diffusion().scheduler}
    for module, message in (
        (unet(in_channels=11), "takes 11 channels, and its VAE gives 4: what the further ones hold is not known"),
        (
            unet(
                down_block_types=("DownBlock2D",) * 3,
                up_block_types=("UpBlock2D",) * 3,
                mid_block_type="UNetMidBlock2D",
            ),
            "has no self-attention",
        ),
        (vae(), "AutoencoderKL is not a supported model.*Stable Diffusion UNet"),
        (
            theirs.UNet2DModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4),
            "takes 3 channels, and the VAE gives 4, so it is not the one that belongs to it",
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(UnsupportedModelError, match=message):
                load(module, **around)


def test_vae_and_scheduler_belong_to_denoisers() -> None:
    pipeline = stable_diffusion()
    with pytest.raises(SpectralToolkitError, match="belongs to a denoiser"):
        load("scenes", vae=pipeline.vae)
    with pytest.raises(SpectralToolkitError, match="not a live object of diffusers"):
        load(pipeline.unet, vae="some/vae", scheduler=pipeline.scheduler)
    other = vae(scaling_factor=2.0)
    assert load(pipeline, vae=other).vae is other


def test_a_scheduler_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="ScoreSdeVeScheduler adds noise in a way that is not known"):
        load(stable_diffusion(), scheduler=theirs.ScoreSdeVeScheduler())


def test_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "whole")
    pickled = tmp_path / "pickled"
    stable_diffusion().save_pretrained(pickled, safe_serialization=False)
    with pytest.raises(ModelNotFoundError, match=r"has no safetensors weights.*safetensors_only=False"):
        load(pickled)
    weights = tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    with pytest.raises(ModelNotFoundError, match="has damaged weights in diffusion_pytorch_model.safetensors"):
        load(tmp_path / "whole")
    index = tmp_path / "whole" / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DConditionModel", "UNetOfSomebody"))
    with pytest.raises(UnsupportedModelError, match="is not a supported model.*Stable Diffusion UNet"):
        load(tmp_path / "whole")


def test_half_precision_files_are_found(tmp_path: Path) -> None:
    stable_diffusion().to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    model = load(tmp_path)
    assert model.dtype == torch.float32
    assert load(tmp_path, dtype="float16").dtype == torch.float16


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub says that a repository is of diffusers; diffusers fetches it."""
    from spectral_toolkit._models import loading

    stable_diffusion().save_pretrained(tmp_path / "snapshots" / "abc")

    class Info:
        library_name = "diffusers"
        siblings = ()

    config = json.loads((tmp_path / "snapshots" / "abc" / "model_index.json").read_text())
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["use_safetensors"], options["safety_checker"], options["revision"]))
        return str(tmp_path / "snapshots" / "abc")

    monkeypatch.setattr(loading.HfApi, "model_info", lambda *args, **kwargs: Info())
    monkeypatch.setattr(theirs.DiffusionPipeline, "load_config", classmethod(lambda cls, *a, **k: config))
    monkeypatch.setattr(theirs.DiffusionPipeline, "download", staticmethod(download))
    model = load("someone/model")
    assert (model.name, model.revision, model.family) == ("someone/model", "abc", "Stable Diffusion UNet")
    assert asked == [("someone/model", True, None, None)], "and not once more for files of half precision"
