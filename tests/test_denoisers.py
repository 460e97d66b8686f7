"""Denoisers of no known family: their attention is watched, proven to be over patches, exact, and left as it was."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from denoiser_pipelines import PIPELINES, SIDES, stable_diffusion_of
from denoiser_zoo import REFUSED, TINY, Tiny
from diffusion_checks import load, tokens_of
from diffusion_zoo import randomised, theirs, vae
from edit_checks import check_edited, check_unedited, nudged
from torch.overrides import TorchFunctionMode

import spectral_toolkit as st
from spectral_toolkit.errors import ActivationsError, UnsupportedModelError

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
PLACE = {"timestep": 0, "noise": 0}


class Outputs(TorchFunctionMode):
    """What every attention gives out, whoever watches: (token, head and channel) of each call with one image."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "softmax":
            self._weights.append(out)
        written = name in ("bmm", "matmul", "__matmul__") and any(args[0] is one for one in self._weights)
        linear = name in ("div", "__truediv__") and isinstance(out, torch.Tensor) and out.dim() == 4
        if func is torch.nn.functional.scaled_dot_product_attention or written or linear:
            found = out.transpose(-1, -2) if linear else out
            found = found[None] if found.dim() == 3 else found
            self.seen += [one.transpose(0, 1).flatten(1).double() for one in found]
        return out


def recomputed(node: Any) -> torch.Tensor:
    """Attention from what was captured: (token, head and channel); rows in which everything is hidden are left out."""
    query, key, value = (torch.from_numpy(tokens_of(node, name, PLACE)[0]) for name in ("query", "key", "value"))
    if node.attrs.get("attention") == "linear":
        weights = query @ key.mT
        return ((weights / (weights.sum(-1, keepdim=True) + 1e-15)) @ value).transpose(0, 1).flatten(1)
    scores = query @ key.mT * node.attrs["scale"]
    if "attention_bias" in node:
        bias = node["attention_bias"]
        index = {dim: 0 for dim in ("image", "timestep", "noise") if dim in bias.dims}
        scores = scores + torch.from_numpy(bias.isel(index).to_numpy()).double()
    out = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
    return out[(scores.amax(-1) > -1e30).all(0)]


def distance(ours: torch.Tensor, seen: list[torch.Tensor]) -> float:
    """How far the nearest call is, as sets of tokens: a capture puts special tokens first and patches by rows."""
    fits = [one for one in seen if one.shape[1] == ours.shape[1] and one.shape[0] >= ours.shape[0]]
    apart = ((torch.cdist(ours, one, p=torch.inf).amin(1).amax(), one.abs().max().clamp(min=1e-9)) for one in fits)
    return min(float(far / size) for far, size in apart)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [found for one in value.values() for found in tensors(one)]
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in tensors(one)]
    return []


@contextmanager
def kept_outputs(tower: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    found: list[torch.Tensor] = []
    handle = tower.register_forward_hook(lambda _, args, output: found.extend(tensors(output)))
    yield found
    handle.remove()


def one_pass(model: Any) -> list[torch.Tensor]:
    with torch.no_grad(), kept_outputs(model.tower) as found:
        model.forward(PIXELS)
    return found


def made(tiny: Tiny) -> tuple[Any, dict[str, Any]]:
    """The denoiser, and what it needs besides."""
    flow = "Transformer" in tiny.name
    around: dict[str, Any] = {"scheduler": theirs.FlowMatchEulerDiscreteScheduler() if flow else theirs.DDIMScheduler()}
    torch.manual_seed(0)
    if tiny.channels:
        around["vae"] = vae(tiny.channels)
    found = getattr(theirs, tiny.name.partition(":")[0], None) or getattr(theirs.models, tiny.name.partition(":")[0])
    tower = randomised(found(**tiny.settings))
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.mul_(0.7)  # logits of a hundred would leave few digits to what is recomputed
    return tower, around


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_captured_exact_and_left_as_it_was(tiny: Tiny) -> None:
    tower, around = made(tiny)
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    model = load(tower, size=SIDE, **around).at(timesteps=200)
    assert not model.left_out
    assert len(model.layers) == tiny.layers
    outputs = one_pass(model)
    assert outputs
    with Outputs() as outer:
        activations = st.capture(model, PIXELS, progress=False)
    for layer, node in activations.children.items():
        ours = recomputed(node)
        assert len(ours) >= node.sizes["y"] * node.sizes["x"]
        assert distance(ours, outer.seen) < 1e-5, layer
    assert all(torch.equal(one, two) for one, two in zip(outputs, one_pass(model), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())
    check_unedited(model, PIXELS, activations)
    with Outputs() as outer:
        edited = st.intervene(model, PIXELS, nudged, progress=False)
    check_edited(activations, edited)
    for layer, node in edited.children.items():
        assert distance(recomputed(node), outer.seen) < 1e-5, f"{layer}, edited"
    assert all(torch.equal(one, two) for one, two in zip(outputs, one_pass(model), strict=True))
    for part in tower.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_has_no_patches_is_refused_for_that_reason(name: str, reason: str) -> None:
    from spectral_toolkit._models.diffusion.refused import refuse_class

    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        refuse_class(name, "mine")
    assert "\n" not in str(caught.value)


def test_linear_attention_has_no_softmax() -> None:
    tower, around = made(next(tiny for tiny in TINY if tiny.name == "SanaTransformer2DModel"))
    with pytest.warns(UserWarning, match="zeros instead of a prompt"):
        model = load(tower, size=SIDE, **around).at(timesteps=200)
    activations = st.capture(model, PIXELS, progress=False)
    with pytest.raises(ActivationsError, match="attends linearly"):
        st.affinity(activations, "qk")
    for kind, kernel in (("vv", None), ("qk", "cosine")):
        graph = st.affinity(activations, kind, kernel=kernel)
        assert np.isfinite(st.solve(graph, n_eigenvectors=2)["eigenvector"]).all()


def test_a_patch_is_where_it_is_in_the_image() -> None:
    """Noise of another patch changes the first layer's queries there and nowhere else."""
    tower, around = made(next(tiny for tiny in TINY if tiny.name == "QwenImageTransformer2DModel"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(tower, size=SIDE, **around).at(timesteps=200)
    own = type(model).latents
    captured = []
    for shift in (0.0, 5.0):

        def latents(self: Any, pixels: Any, shift: float = shift) -> torch.Tensor:
            found = own(self, pixels)
            found[:, :, 2:4, 4:6] += shift
            return found

        type(model).latents = latents  # type: ignore[method-assign]
        captured.append(next(iter(st.capture(model, PIXELS, progress=False).children.values()))["query"])
    type(model).latents = own  # type: ignore[method-assign]
    moved = np.abs((captured[1] - captured[0]).to_numpy()).max((0, 1, 2, 3, 6)) > 0
    assert np.argwhere(moved).tolist() == [[1, 2]]


def test_a_call_that_the_caller_tells() -> None:
    tower, around = made(next(tiny for tiny in TINY if tiny.name == "UNet2DConditionModel:class"))

    def call(denoiser: Any, latents: torch.Tensor, timestep: int) -> Any:
        text = torch.ones(len(latents), 3, 12)
        return denoiser(latents, timestep, encoder_hidden_states=text, class_labels=torch.tensor([2]))

    model = load(tower, size=SIDE, call=call, **around).at(timesteps=200)
    assert model.text == "as given by the caller"
    assert len(st.capture(model, PIXELS, progress=False).children) == 4


# --- pipelines -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_calls_its_own_denoiser(name: str) -> None:
    pipeline = PIPELINES[name]()
    parts = dict(vars(pipeline))
    asked = "a cat" if "prompt" in type(pipeline).__call__.__code__.co_varnames else None
    model = load(pipeline, size=SIDES.get(name, SIDE)).at(timesteps=3 if name == "consistency" else 200, prompt=asked)
    assert not model.left_out
    with Outputs() as outer:
        activations = st.capture(model, PIXELS, progress=False)
    assert len(activations.children)
    for layer, node in activations.children.items():
        assert distance(recomputed(node), outer.seen) < 1e-5, layer
    assert vars(pipeline) == parts  # the same objects: nothing was replaced


def test_the_prompt_and_the_image_are_seen() -> None:
    model = load(PIPELINES["chroma"](), size=SIDE).at(timesteps=200, prompt="a cat")
    first = model.layers[-1]

    def keys(one: Any, pixels: Any = PIXELS) -> np.ndarray:
        return st.capture(one, pixels, progress=False)[first]["key"].to_numpy()

    assert not np.array_equal(keys(model), keys(model.at(prompt="a dog")))
    assert np.array_equal(keys(model), keys(model.at(prompt="a cat")))
    assert not np.array_equal(keys(model), keys(model, 255 - PIXELS))


def test_a_pipeline_from_a_folder(tmp_path: Path) -> None:
    pipeline = stable_diffusion_of(theirs.StableDiffusionInpaintPipeline, in_channels=9)
    pipeline.save_pretrained(tmp_path)
    live = load(pipeline, size=SIDE).at(timesteps=200, prompt="a cat")
    stored = load(tmp_path, size=SIDE).at(timesteps=200, prompt="a cat")
    assert stored.layers == live.layers
    one, two = (st.capture(model, PIXELS, progress=False) for model in (live, stored))
    for layer in live.layers:
        np.testing.assert_array_equal(one[layer]["query"].to_numpy(), two[layer]["query"].to_numpy())


def test_the_documentation_lists_what_is_tested(repository: Path) -> None:
    page = (repository / "docs" / "diffusion.md").read_text()
    table = page[page.index("| kind | classes of diffusers") : page.index("**Further images.**")]
    listed = {name for row in table.splitlines() if "refused" not in row for name in re.findall(r"`(\w+)`", row)}
    assert listed == {tiny.name.partition(":")[0] for tiny in TINY}
