"""Interventions: every edit against a slow twin, what cannot be edited, sampling, and what effects are told."""

from __future__ import annotations

import importlib
import json
import sys
import types
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr
from edit_checks import QUANTITIES, check_same, nudged
from model_zoo import BY_NAME, pictures
from module_zoo import GRID, HEADS, SEEN, SIDE, Transformer, WrittenAttention, made
from torch import nn

import spectral_toolkit as st
from spectral_toolkit._models import attention
from spectral_toolkit._models.watching import unwatched
from spectral_toolkit.errors import ActivationsError, SpectralToolkitError, UnsupportedModelError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
LAYERS = ("blocks.0", "blocks.1")


def twin(model: Any, edit: Any, pixels: np.ndarray = PIXELS) -> np.ndarray:
    """The last block's patches, with attention written out here: ``edit`` gets (depth, quantity, all tokens)."""
    module = model.module
    values = model.processor.normalise(pixels, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        x = module.tokens(values)
        for depth, block in enumerate(module.blocks):
            y = block.norm1(x)
            qkv = block.attn.qkv(y).reshape(*y.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            q, k, v = (edit(depth, name, one) for name, one in zip(QUANTITIES, qkv, strict=True))
            weights = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(-1)
            x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(y.shape))
            x = x + block.mlp(block.norm2(x))
    return x[:, 1:].reshape(len(x), GRID, GRID, -1).numpy()


@pytest.fixture(scope="module")
def model() -> Any:
    return st.load_model(made(SEEN["written"]), device="cpu")


def intervened(model: Any, edits: Any, **settings: Any) -> xr.DataTree:
    return st.intervene(model, PIXELS, edits, progress=False, **settings)


def final(tree: xr.DataTree) -> np.ndarray:
    return tree["final_token"].to_numpy()


# --- edits against their twins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("depth", [0, 1])
def test_an_edit_of_one_quantity_of_one_layer(model: Any, quantity: str, depth: int) -> None:
    def edit(at: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if (at, name) != (depth, quantity):
            return tensor
        patches = nudged("", tensor[:, :, 1:].unflatten(2, (GRID, GRID)).flip(3)).flatten(2, 3)
        return torch.cat([tensor[:, :, :1], patches], 2)

    change = st.change(quantity, lambda layer, tensor: nudged(layer, tensor.flip(3)), layers=depth)
    np.testing.assert_allclose(final(intervened(model, change)), twin(model, edit), atol=1e-5)
    assert np.abs(final(intervened(model, ())) - twin(model, edit)).max() > 1e-3


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("mirrored", [True, False])
def test_an_exchange(model: Any, special: bool, mirrored: bool) -> None:
    order = [1, 2, 0]
    donors = st.capture(model, PIXELS[order], progress=False)

    def edit(depth: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "key":
            return tensor
        node = donors[LAYERS[depth]]
        patches = torch.from_numpy(node[name].to_numpy())
        patches = (patches.flip(3) if mirrored else patches).flatten(2, 3)
        first = torch.from_numpy(node[f"special_{name}"].to_numpy()) if special else tensor[:, :, :1]
        return torch.cat([first, patches], 2)

    wanted = twin(model, edit)
    for given in (donors, PIXELS[order]):
        exchange = st.exchange(["query", "value"], given, special_tokens=special, mirrored=mirrored)
        for batch_size in (8, 2):
            found = intervened(model, exchange, batch_size=batch_size)
            np.testing.assert_allclose(final(found), wanted, atol=1e-5)


def test_means_over_patches_and_over_images(model: Any) -> None:
    captured = st.capture(model, PIXELS, progress=False)

    def over_patches(depth: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        mean = tensor[:, :, 1:].mean(2, keepdim=True).expand(tensor[:, :, 1:].shape)
        return torch.cat([tensor[:, :, :1], mean], 2) if name == "value" else tensor

    def over_images(depth: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.from_numpy(captured[LAYERS[depth]][name].to_numpy().mean(0, keepdims=True)).flatten(2, 3)
        return torch.cat([tensor[:, :, :1], mean.expand(tensor[:, :, 1:].shape)], 2) if name == "key" else tensor

    np.testing.assert_allclose(final(intervened(model, st.average("value"))), twin(model, over_patches), atol=1e-5)
    for batch_size in (1, 8):  # the mean is of all images, however they are batched
        found = intervened(model, st.average("key", over="images"), batch_size=batch_size)
        np.testing.assert_allclose(final(found), twin(model, over_images), atol=1e-5)


def test_scale_and_several_edits_in_their_order(model: Any) -> None:
    def edit(depth: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name != "value" or depth != 1:
            return tensor
        return torch.cat([2 * tensor[:, :, :1], (2 * tensor[:, :, 1:]) ** 2], 2)

    edits = [st.scale("value", 2, layers=-1), st.change("value", lambda layer, one: one**2, layers="blocks.1")]
    found = intervened(model, edits)
    np.testing.assert_allclose(final(found), twin(model, edit), atol=1e-4)
    assert "scale(value, 2)" in found.attrs["edits"]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_removal_of_eigenvectors(model: Any, keep: bool, weighted: bool) -> None:
    captured = st.capture(model, PIXELS, progress=False)
    graph = st.affinity(captured, "qk", device="cpu")
    eig = st.solve(graph, n_eigenvectors=4)
    vectors = eig["eigenvector"].to_numpy().reshape(len(PIXELS), -1, 4)[..., [0, 2]]

    def edit(depth: int, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name != "query":
            return tensor
        out = tensor.double().clone()
        for image in range(len(PIXELS)):
            b = np.ones(GRID**2)
            if weighted:
                b = graph.to_dense(image)[graph.layers[depth]].sum(1)
            v = vectors[image] - (b @ vectors[image] / b.sum())
            for head in range(HEADS):
                m = out[image, head, 1:].numpy()
                within = v @ np.linalg.solve(v.T @ np.diag(b) @ v, v.T @ np.diag(b) @ m)
                out[image, head, 1:] = torch.from_numpy(b @ m / b.sum() + within if keep else m - within)
        return out.float()

    removal = st.remove(eig, [1, 3], "query", keep=keep, graph=graph if weighted else None)
    np.testing.assert_allclose(final(intervened(model, removal)), twin(model, edit), atol=1e-5)


def test_a_random_span_is_as_large_and_another(model: Any) -> None:
    eig = st.solve(st.affinity(st.capture(model, PIXELS, progress=False), "qk", device="cpu"), n_eigenvectors=3)
    given, drawn = (st.remove(eig, "all", "value", random_span=seed, layers=0) for seed in (None, 0))
    trees = [intervened(model, one)["blocks.0"]["value"].to_numpy() for one in ((), given, drawn)]
    for tree in trees[1:]:
        gone = (trees[0] - tree).reshape(3, HEADS, GRID**2, -1)
        assert set(np.linalg.matrix_rank(gone, tol=1e-4).ravel()) == {3}
        np.testing.assert_allclose(tree.mean((2, 3)), trees[0].mean((2, 3)), atol=1e-5)
    assert np.abs(trees[1] - trees[2]).max() > 1e-3


# --- ways in which attention is computed -----------------------------------------------------------------------------


class Capped(WrittenAttention):
    """Scores that are cut softly: their bias is not what is added to a product."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (2 * torch.tanh(q @ k.transpose(-2, -1) * self.scale / 2)).softmax(-1) @ v


class InPlace(WrittenAttention):
    """Writes into what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        return super().forward(x)


def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Stands for the library, of whose computation torch sees nothing."""
    with unwatched():
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", weights.softmax(-1), v)


flash_attn_func.__module__ = "flash_attn"


class Flash(WrittenAttention):
    """Attention by a function of another library."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        return flash_attn_func(q, k, v).transpose(1, 2)


class PerWindow(nn.Module):
    """Attention that is called window by window: an edit is of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.core = WrittenAttention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.core(rows) for rows in x.split(GRID, 1)], 1)


def by_heads(kind: type[WrittenAttention], edited: tuple[str, ...]) -> Any:
    """A module whose own code edits queries, keys or values."""

    class Edited(kind):  # type: ignore[misc, valid-type]
        def heads(self, x: torch.Tensor) -> Any:
            every = zip(QUANTITIES, super().heads(x), strict=True)
            return tuple(bent("", one) if name in edited else one for name, one in every)

    return Edited


def bent(layer: str, tensor: torch.Tensor) -> torch.Tensor:
    return 3 * tensor.tanh()


@pytest.mark.parametrize("edited", [QUANTITIES, ("value",)], ids=["all", "values"])
@pytest.mark.parametrize("kind", [Capped, InPlace, Flash])
def test_scores_are_computed_anew_by_the_models_own_code(
    kind: type[WrittenAttention], edited: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    plain = made(lambda: Transformer(lambda _: kind(), cls=False))
    other = Transformer(lambda _: by_heads(kind, edited)(), cls=False).eval()
    other.load_state_dict(plain.state_dict())
    found = st.intervene(st.load_model(plain, device="cpu"), PIXELS, st.change(edited, bent), progress=False)
    wanted = st.intervene(st.load_model(other, device="cpu"), PIXELS, progress=False)
    np.testing.assert_allclose(final(found), final(wanted), atol=1e-5)


def test_windows_that_are_called_one_by_one_are_edited_together() -> None:
    plain = made(lambda: Transformer(lambda _: PerWindow(), cls=False))
    model = st.load_model(plain, device="cpu")
    average = st.intervene(model, PIXELS, st.average("value", layers=0), progress=False)
    value = next(iter(average.children.values()))["value"].to_numpy()
    assert value.shape[2:4] == (GRID, GRID)
    assert np.ptp(value, (2, 3)).max() < 1e-6  # one mean over all windows
    check_same(st.capture(model, PIXELS, progress=False), st.intervene(model, PIXELS, progress=False))


def test_keys_and_values_of_grouped_heads_are_edited_head_by_head() -> None:
    module: Any = BY_NAME["vit"].make().layers[0].attention
    module.num_key_value_groups = 2
    query, key, value = torch.rand(2, 4, 5, 8), torch.rand(2, 2, 5, 8), torch.rand(2, 2, 5, 8)
    factors = torch.arange(1.0, 5).view(1, 4, 1, 1)
    for own in ("sdpa", "eager"):

        def listen(_: Any, q: Any, k: Any, v: Any, bias: Any, scale: float) -> Any:
            return q, k * factors, v * factors

        attention._calls[id(module)] = attention._Call(own, listen)
        try:
            result: Any = attention._attention(module, query, key, value, None, scaling=0.3)
            output, _ = result
        finally:
            attention._calls.pop(id(module))
        key_edited, value_edited = (one.repeat_interleave(2, dim=1) * factors for one in (key, value))
        weights = torch.softmax(query @ key_edited.transpose(-1, -2) * 0.3, dim=-1)
        assert torch.allclose((weights @ value_edited).transpose(1, 2), output, atol=1e-6)
    assert module.num_key_value_groups == 2


def test_what_a_classifier_gives_out() -> None:
    module = BY_NAME["vit_classifier"].make()
    model = st.load_model(module, device="cpu")
    plain = st.intervene(model, pictures(), progress=False)
    values = model.processor.normalise(plain["pixels"].to_numpy(), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        np.testing.assert_array_equal(plain["logits"].to_numpy(), module(values).logits.numpy())
    changed = st.intervene(model, pictures(), st.scale("value", 0), progress=False)
    assert np.abs((changed["logits"] - plain["logits"]).to_numpy()).max() > 1e-3


# --- what cannot be done ---------------------------------------------------------------------------------------------


def removal(acts: Any) -> Any:
    return st.remove(st.solve(st.affinity(acts, "qk", device="cpu"), n_eigenvectors=2), "all", "query")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (lambda acts: lambda layer, tensor: tensor[..., 1:], r"gave back shape .*; expected a tensor of shape \(3, 4"),
        (lambda acts: lambda layer, tensor: None, "gave back None"),
        (lambda acts: lambda layer, tensor: tensor / 0, "NaN or infinity"),
        (lambda acts: st.exchange("value", PIXELS[:2]), "donors is 2 and that of images 3"),
        (lambda acts: st.exchange("value", acts.isel(image=[0])), "donors is 1 and that of images 3"),
        (lambda acts: st.exchange("value", acts.isel(y=slice(2))), r"has patches of shape \(3, 4, 2, 4, 8\); expected"),
        (lambda acts: st.exchange("value", acts.drop_nodes("blocks.1")), "hold no value of layer 'blocks.1'"),
        (lambda acts: removal(acts.isel(image=[0, 1])), "is of 2 images and 3 are edited"),
        (lambda acts: removal(acts.isel(image=[1, 0, 2])), "in another order: solve for the images that are edited"),
        (lambda acts: st.scale("value", 2, layers="blocks.7"), "has no layer 'blocks.7'"),
        (lambda acts: st.scale("value", 2, layers=7), "there is no layer 7"),
        (lambda acts: st.scale("token", 2), "'token' cannot be edited: expected any of 'query', 'key', 'value'"),
        (lambda acts: st.scale("value", float("nan")), "factor=nan"),
        (lambda acts: st.average("value", over="heads"), "over='heads'"),
        (lambda acts: st.change("value", cast(Any, 3)), "cannot be called"),
        (lambda acts: 3, "edits=3 is not understood: expected st.exchange"),
        (lambda acts: [None], "edits holds None"),
    ],
)
def test_nonsense_is_told_and_leaves_nothing_behind(model: Any, edits: Any, message: str) -> None:
    acts = st.capture(model, PIXELS, progress=False)
    with pytest.raises(SpectralToolkitError, match=message):
        intervened(model, edits(acts))
    for part in model.module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    check_same(acts, intervened(model, ()))


@pytest.mark.parametrize("components", [0, 5, [], "some", [1, 9], True])
def test_components_that_do_not_exist(components: Any) -> None:
    eig = xr.Dataset(
        {"eigenvector": (("image", "y", "x", "component"), np.ones((1, 2, 2, 4)))}, {"component": range(1, 5)}
    )
    with pytest.raises(SpectralToolkitError, match="the eigenvectors hold 1 to 4"):
        st.remove(eig, components, "query")


# --- sampling --------------------------------------------------------------------------------------------------------


def test_sampling_with_the_bundled_model() -> None:
    pytest.importorskip("diffusers")
    model: Any = st.load_model("scenes-diffusion", device="cpu")
    settings: dict[str, Any] = {"n": 2, "steps": 2, "seed": 3}
    plain = st.generate(model, "a star", **settings)
    theirs = st.scenes.generate("a star", n=2, steps=2, seed=3)
    np.testing.assert_array_equal(plain["pixels"], theirs["pixels"])
    own = st.generate(model, "a star", edits=st.exchange(QUANTITIES, "a star"), **settings)
    np.testing.assert_array_equal(own["pixels"], plain["pixels"])
    other = st.generate(model, "a star", edits=st.exchange("value", "two rings"), **settings)
    assert np.abs(other["pixels"].astype(int) - plain["pixels"].astype(int)).max() > 0
    for edits, message in (
        (st.exchange("value", PIXELS), "needs images"),
        (st.average("value", over="images"), "needs images"),
        (st.exchange("value", ""), "give both a prompt"),
    ):
        with pytest.raises(SpectralToolkitError, match=message):
            st.generate(model, "a star", edits=edits, n=1, steps=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.tower.modules())
    with pytest.raises(UnsupportedModelError, match="generates no images"):
        st.generate("scenes")


def test_sampling_with_a_pipeline() -> None:
    pytest.importorskip("diffusers")
    from diffusion_checks import generate, load, state_of
    from diffusion_zoo import BY_NAME as PIPELINES

    case = PIPELINES["sd1"]
    pipeline = case.make()
    before, state, parts = generate(pipeline, case.asked), state_of(pipeline.unet), dict(vars(pipeline))
    model = load(pipeline)
    settings: dict[str, Any] = {"steps": 2, "n": 2}
    plain = st.generate(model, case.prompt, **settings)
    own = st.generate(model, case.prompt, edits=st.exchange(QUANTITIES, case.prompt), **settings)
    np.testing.assert_array_equal(own["pixels"], plain["pixels"])
    other = st.generate(model, case.prompt, edits=st.scale("value", 0), **settings)
    assert np.abs(other["pixels"].astype(int) - plain["pixels"].astype(int)).max() > 0
    assert (state_of(pipeline.unet), vars(pipeline)) == (state, parts)
    np.testing.assert_array_equal(generate(pipeline, case.asked), before)


def test_a_pipeline_that_needs_an_image_is_refused() -> None:
    pytest.importorskip("diffusers")
    from denoiser_pipelines import PIPELINES
    from diffusion_checks import load

    pipeline = PIPELINES["instructions"]()
    parts = dict(vars(pipeline))
    with pytest.raises(UnsupportedModelError, match=r"generates no images from a prompt alone \(`image` input"):
        st.generate(load(pipeline, size=16), "a cat", steps=1)
    assert vars(pipeline) == parts


# --- effects ---------------------------------------------------------------------------------------------------------


def tree(tokens: np.ndarray, **more: Any) -> xr.DataTree:
    pixels = np.zeros((len(tokens), *tokens.shape[1:3], 3), np.uint8)
    data = {"final_token": (("image", "final_y", "final_x", "final_feature"), tokens)}
    node = xr.Dataset({"value": (("image", "head", "y", "x", "channel"), tokens[:, None])})
    root = xr.Dataset(data | {"pixels": (("image", "y_px", "x_px", "rgb"), pixels)} | more)
    return xr.DataTree(root, children={"block": xr.DataTree(node)})


def told(labels: np.ndarray, places: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Tokens (image, 4, 4, 20) that say their category, and their place a little more softly."""
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1) if places is None else places
    number = grid[..., 0] * 4 + grid[..., 1]
    return np.concatenate([3 * np.eye(4)[labels], np.broadcast_to(np.eye(16)[number], (*labels.shape, 16))], -1)


def test_effects_of_tokens_that_say_all() -> None:
    rng = np.random.default_rng(0)
    own, donor, other = (rng.integers(0, 4, (n, 4, 4)) for n in (6, 6, 40))
    half = np.arange(4) < 2
    mixed = np.where(half[:, None], own, donor)  # the lower half has moved
    plain, donors, reference = (tree(told(one)) for one in (own, donor, other))
    labels = {"images": own, "donors": donor, "reference": other}
    found = st.effects(
        plain, {"mixed": tree(told(mixed)), "none": plain}, donors, reference=reference, labels=labels, k=1
    )
    differ = own != donor
    category = found["share"].sel(property="category")
    wanted = differ[:, :2].sum() / differ.sum()
    np.testing.assert_allclose(category.sel(edit="mixed", control="edited"), [wanted, 1 - wanted, 0], atol=1e-12)
    np.testing.assert_allclose(category.sel(edit="none", control="edited"), [1, 0, 0])
    np.testing.assert_allclose(category.sel(edit="mixed", control="before"), [1, 0, 0])
    assert float(category.sel(edit="mixed", control="donor shuffled", outcome="moved")) < 1 - wanted
    assert int(found["compared"].sel(edit="mixed", control="edited", property="category")) == differ.sum()
    low, high = (
        float(found[f"share_{end}"].sel(edit="mixed", control="edited", property="category", outcome="kept"))
        for end in ("low", "high")
    )
    assert low <= wanted <= high
    # Equal places say nothing of position.
    assert int(found["compared"].sel(property="position", control="edited").max()) == 0
    assert set(found.to_dataframe().reset_index().columns) >= {"edit", "control", "property", "outcome", "share"}
    assert st.effect_plot(found) is not None


def test_effects_on_position_with_mirrored_donors() -> None:
    labels = np.zeros((4, 4, 4), int)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1)
    plain, turned = tree(told(labels)), tree(told(labels, grid[:, ::-1]))
    for edited, wanted in ((plain, [1, 0, 0]), (turned, [0, 1, 0])):
        found = st.effects(plain, edited, plain, reference=plain, mirrored=True, k=4)
        for name in ("position", "nearer place"):
            np.testing.assert_allclose(found["share"].sel(control="edited", property=name)[0], wanted)
    # Only the outer columns are more than two patches from their mirror image.
    assert int(found["compared"].sel(control="edited", property="position")[0]) == 4 * 4 * 2


@pytest.mark.parametrize("circular", [False, True])
def test_effects_on_the_nearer_of_two_places(circular: bool) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((3, 4, 4), int)
    places = rng.integers(0, 4, (3, 4, 4, 2))
    plain, moved = tree(told(labels)), tree(told(labels, places))
    found = st.effects(plain, moved, plain, reference=plain, mirrored=True, circular=circular, k=1)
    counts = {"kept": 0, "moved": 0, "lost": 0}
    for image, y, x in np.ndindex(labels.shape):
        if x in (1, 2) or circular:  # near its mirror image
            continue
        squares = [
            sum((int(places[image, y, x, axis]) - at[axis]) ** 2 for axis in (0, 1)) for at in ((y, x), (y, 3 - x))
        ]
        counts["kept" if squares[0] < squares[1] else "moved" if squares[1] < squares[0] else "lost"] += 1
    shown = found.sel(control="edited", property="nearer place").isel(edit=0)
    assert int(shown["compared"]) == sum(counts.values())  # on a circle of four none is more than two patches away
    if not circular:
        assert min(counts["kept"], counts["moved"]) > 0
        wanted = [count / sum(counts.values()) for count in counts.values()]
        np.testing.assert_allclose(shown["share"], wanted)


def test_effects_on_classes_images_and_of_another_model() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (4, 4, 4))
    logits = {"logits": (("image", "class"), np.eye(3)[[0, 1, 2, 0]])}
    theirs = {"logits": (("image", "class"), np.eye(3)[[1, 1, 0, 2]])}
    after = {"logits": (("image", "class"), np.eye(3)[[1, 1, 2, 1]])}
    picture = ("image", "y_px", "x_px", "rgb")
    white, grey = ({"denoised": (picture, np.full((4, 4, 4, 3), value))} for value in (1.0, 0.5))
    plain, donors, edited = (tree(told(labels), **one) for one in (logits | white, theirs | grey, after | grey))
    found = st.effects(
        plain, edited, donors, reference=plain, k=1, controls={"untrained": (plain, plain, donors, plain)}
    )
    shares = found["share"].sel(property="class")[0]
    np.testing.assert_allclose(shares.sel(control="edited"), [1 / 3, 1 / 3, 1 / 3])  # of 3 that differ
    np.testing.assert_allclose(shares.sel(control="untrained"), [1, 0, 0])
    np.testing.assert_allclose(found["denoised_to_own"].sel(control="edited"), [0.5])
    np.testing.assert_allclose(found["denoised_to_donor"].sel(control="edited"), [0])


def test_effects_of_trees_that_do_not_belong_together() -> None:
    labels = np.zeros((2, 4, 4), int)
    plain = tree(told(labels))
    for arguments, message in (
        ({"edited": {}}, "edited is empty"),
        ({"donors": tree(told(labels[:1]))}, "donors is 1 and that of images 2"),
        ({"plain": xr.DataTree()}, "plain holds no 'final_token'"),
        ({"labels": {"images": labels}}, "label maps of 'images', 'donors' and 'reference'"),
        ({"reference": tree(told(labels)[:, :2])}, "2 x 4 final tokens"),
        ({"k": 0}, "k=0"),
    ):
        given: dict[str, Any] = {"plain": plain, "edited": plain, "donors": plain, "reference": plain, **arguments}
        with pytest.raises((SpectralToolkitError, ActivationsError), match=message):
            st.effects(given.pop("plain"), given.pop("edited"), given.pop("donors"), **given)


# --- what is published -----------------------------------------------------------------------------------------------


def test_the_page_has_the_published_numbers_of_the_bundled_models() -> None:
    """If not: ``python docs/interventions.py``."""
    interventions: Any = importlib.import_module("interventions")
    numbers = json.loads(interventions.NUMBERS.read_text())
    text = interventions.PAGE.read_text()
    assert interventions.page(text, numbers) == text
    claims: Any = importlib.import_module("make_claims_page")
    text = claims.PAGE.read_text()
    assert claims.page(text) == text, "python docs/make_claims_page.py"
    for name, found in numbers.items():
        assert st.load_model(name, device="cpu").weights_sha256() == found["weights_sha256"], (
            f"{name} has other weights"
        )
