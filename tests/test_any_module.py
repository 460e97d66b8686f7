"""Any module with attention over patches: seen, proven, exact, and left as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from edit_checks import check_edited, check_unedited, nudged
from module_zoo import GRID, HEADS, PATCH, REFUSED, SEEN, SIDE, WIDTH, Clip, Transformer, WrittenAttention, made
from torch import nn

import spectral_toolkit as st
from spectral_toolkit._models import proven
from spectral_toolkit.errors import SpectralToolkitError, UnsupportedModelError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


def tokens(layer: Any, name: str) -> torch.Tensor:
    values = layer[name].to_numpy()
    values = values.reshape(*values.shape[:2], -1, values.shape[-1])
    if f"special_{name}" in layer:
        values = np.concatenate([layer[f"special_{name}"].to_numpy(), values], 2)
    return torch.from_numpy(values)


def attention(layer: Any) -> torch.Tensor:
    """The slow twin: softmax attention from what was captured (image, head, token, channel)."""
    scores = tokens(layer, "query") @ tokens(layer, "key").transpose(-1, -2) * layer.attrs["scale"]
    if "window" in layer:
        window, place = (layer[name].to_numpy().ravel() for name in ("window", "window_place"))
        if "special_window" in layer:
            window = np.concatenate([layer["special_window"].to_numpy(), window])
            place = np.concatenate([layer["special_place"].to_numpy(), place])
        window, place = torch.from_numpy(window), torch.from_numpy(place)
        if "attention_bias" in layer:
            bias = torch.from_numpy(layer["attention_bias"].to_numpy())
            scores = scores + bias[..., window[:, None], place[:, None], place[None]]
        scores = scores.masked_fill(window[:, None] != window[None], -torch.inf)
    elif "attention_bias" in layer:
        scores = scores + torch.from_numpy(layer["attention_bias"].to_numpy())
    return scores.softmax(-1) @ tokens(layer, "value")


def seen_outputs(module: Any) -> tuple[list[torch.Tensor], list[Any]]:
    """What every output projection of attention is given."""
    inputs: list[torch.Tensor] = []
    hooks = [
        part.proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
        for part in module.modules()
        if isinstance(part, WrittenAttention)
    ]
    return inputs, hooks


@pytest.mark.parametrize("name", SEEN)
def test_captured_and_exact(name: str) -> None:
    module = made(SEEN[name])
    model = st.load_model(module, device="cpu")
    every: dict[str, Any] = {"progress": False, "quantities": ("query", "key", "value", "token")}
    inputs, hooks = seen_outputs(module)
    activations = st.capture(model, PIXELS, **every)
    captured = inputs[:]
    edited = st.intervene(model, PIXELS, nudged, **every)
    for hook in hooks:
        hook.remove()
    assert len(activations.children) == 2
    assert all((node.sizes["y"], node.sizes["x"]) == (GRID, GRID) for node in activations.children.values())
    # One pass finds out what is to be rehearsed; then every edited layer is, before it runs.
    for tree, found in ((activations, captured), (edited, inputs[2 * len(captured) + 1 :: 2])):
        for (layer, node), seen in zip(tree.children.items(), found, strict=bool(found)):
            own = attention(node).transpose(1, 2).flatten(2)
            # As sets of tokens: a capture puts patches back into their places.
            theirs = seen.reshape(len(PIXELS), -1, seen.shape[-1])
            distance = torch.cdist(own.double(), theirs.double()).amin(2).amax()
            assert own.shape == theirs.shape
            assert float(distance) < 1e-5 * float(theirs.abs().max()), layer
    check_edited(activations, edited)
    check_unedited(model, PIXELS, activations, quantities=every["quantities"])
    for kind in ("qk", "vv"):
        result = st.solve(st.affinity(activations, kind, device="cpu"), n_eigenvectors=3)
        assert bool(np.isfinite(result["eigenvector"]).all())


@pytest.mark.parametrize("name", SEEN)
def test_a_module_is_left_as_it_was(name: str) -> None:
    module = made(SEEN[name])
    untouched = copy.deepcopy(module)
    st.capture(st.load_model(module, device="cpu"), PIXELS, progress=False)
    values = torch.randn(2, 3, SIDE, SIDE)
    run = (lambda one: one.encode_image(values)) if isinstance(module, Clip) else (lambda one: one(values))
    with torch.no_grad():
        assert torch.equal(run(module), run(untouched))
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


@pytest.mark.parametrize("name", SEEN)
def test_images_of_a_batch_do_not_matter_to_each_other(name: str) -> None:
    model = st.load_model(made(SEEN[name]), device="cpu")
    together = st.capture(model, PIXELS, progress=False)
    alone = st.capture(model, PIXELS[2:], progress=False)
    for layer in together.children:
        for quantity in ("query", "key", "value"):
            ours = together[layer][quantity].isel(image=[2]).to_numpy()
            np.testing.assert_allclose(ours, alone[layer][quantity].to_numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["written", "shuffled", "windows", "chunked"])
def test_each_patch_is_where_it_is_in_the_image(name: str) -> None:
    """Changing one patch changes the first layer's queries there and, as tokens have not met yet, nowhere else."""
    model = st.load_model(made(SEEN[name]), device="cpu")
    changed = PIXELS.copy()
    changed[:, 8:16, 16:24] = 255 - changed[:, 8:16, 16:24]
    before, after = (
        next(iter(st.capture(model, pixels, progress=False).children.values()))["query"] for pixels in (PIXELS, changed)
    )
    moved = np.abs((after - before).to_numpy()).max((0, 1, 4)) > 0
    assert np.argwhere(moved).tolist() == [[1, 2]]


@pytest.mark.parametrize("size", [SIDE, 2 * SIDE])
@pytest.mark.parametrize("strength", [1.0, 1e-4])
def test_patches_are_found_behind_convolutions_and_where_these_hide_them(size: int, strength: float) -> None:
    """Also of weights that let no change to the image through: then of a copy with others."""
    module = made(SEEN["hybrid"])
    module.pos_embed = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))  # any size
    for layer in module.patch_embed.layers:
        layer.weight.data.mul_(strength)
    model = st.load_model(module, device="cpu", size=(size, SIDE))
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, SIDE, 3), dtype=np.uint8)
    seen: list[torch.Tensor] = []
    hook = module.blocks[0].attn.qkv.register_forward_hook(lambda _m, _a, out: seen.append(out))
    found = next(iter(st.capture(model, pixels, progress=False, quantities="value").children.values()))["value"]
    hook.remove()
    assert (found.sizes["y"], found.sizes["x"]) == (size // PATCH, GRID)
    own = seen[0].unflatten(2, (3, HEADS, -1))[:, :, 2].transpose(1, 2).unflatten(2, (size // PATCH, GRID))
    assert np.array_equal(found.to_numpy(), own.numpy())


def test_special_tokens_have_names() -> None:
    model = st.load_model(made(SEEN["fused"]), device="cpu")
    assert model.special_tokens == ("cls", "register_0", "register_1", "register_2")
    assert st.load_model(made(SEEN["shuffled"]), device="cpu").special_tokens == ("cls",)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        st.load_model(made(make))
    assert "\n" not in str(caught.value)


def test_a_model_without_its_vision_part_is_said_to_have_none() -> None:
    module = nn.Linear(2, 2)
    module.config = SimpleNamespace(vision_config=None)  # type: ignore[assignment]
    with pytest.raises(UnsupportedModelError, match=r"its configuration has no vision part \(vision_config=None\)"):
        st.load_model(module)


@pytest.mark.parametrize(("name", "copies"), [("channels", 0), ("from half to half", 1)])
def test_attention_between_channels_is_not_looked_at_twice(
    name: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy with other numbers may show patches where these do not, but no channels that are patches."""
    made_copies: list[nn.Module] = []
    own = proven.stand_in
    monkeypatch.setattr(proven, "stand_in", lambda *args: made_copies.append(own(*args)) or made_copies[-1])
    attentions = iter([WrittenAttention(), REFUSED[name][0]().blocks[0].attn])
    st.load_model(made(lambda: Transformer(lambda _: next(attentions), cls=False)), device="cpu")
    assert len(made_copies) == copies


def test_a_traced_module_is_refused() -> None:
    module = torch.jit.trace(made(SEEN["written"]), torch.randn(1, 3, SIDE, SIDE))
    with pytest.raises(UnsupportedModelError):
        st.load_model(module)


def test_windows_are_said_and_kept_apart() -> None:
    activations = st.capture(st.load_model(made(SEEN["windows"]), device="cpu"), PIXELS[:1], progress=False)
    plain, shifted = (node["window"].to_numpy() for node in activations.children.values())
    assert plain.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert shifted[0, 0] == shifted[3, 3] == shifted[0, 3]  # put back in place after the shift
    graph = st.affinity(activations, "qk", device="cpu")
    for layer, window in zip(graph.layers, (plain, shifted), strict=True):
        matrix = graph.to_dense()[layer]
        apart = window.ravel()[:, None] != window.ravel()[None]
        assert not matrix[apart].any()
        own = attention(activations[layer])  # rows of a softmax: every degree is made of them
        assert own.shape[2] == GRID**2
        weights = matrix.sum(1)
        assert np.isfinite(weights).all()


def test_affinity_of_windows_is_that_of_the_masked_softmax() -> None:
    activations = st.capture(st.load_model(made(SEEN["windows"]), device="cpu"), PIXELS[:1], progress=False)
    for layer, matrix in st.affinity(activations, "qk", device="cpu").to_dense().items():
        node = activations[layer]
        window, place = (node[name].to_numpy().ravel() for name in ("window", "window_place"))
        scores = (tokens(node, "query") @ tokens(node, "key").transpose(-1, -2) * node.attrs["scale"])[0]
        if "attention_bias" in node:
            bias = torch.from_numpy(node["attention_bias"].to_numpy())
            scores = scores + bias[:, window[:, None], place[:, None], place[None]]
        apart = torch.from_numpy(window[:, None] != window[None])
        weights = scores.masked_fill(apart, -torch.inf).softmax(-1).mean(0)
        np.testing.assert_allclose(matrix, ((weights + weights.T) / 2).numpy(), atol=1e-6)


def test_pooled_keys_have_a_grid_of_their_own() -> None:
    activations = st.capture(st.load_model(made(SEEN["pooled"]), device="cpu"), PIXELS[:1], progress=False)
    node = next(iter(activations.children.values()))
    assert node["key"].sizes["key_y"] == node["value"].sizes["key_x"] == GRID // 2
    matrix = next(iter(st.affinity(activations, "qk", device="cpu").to_dense().values()))
    weights = (tokens(node, "query") @ tokens(node, "key").transpose(-1, -2) * node.attrs["scale"]).softmax(-1)[0]
    spread = np.kron(np.eye(GRID // 2), np.ones((1, 2)) / 2)
    weights = weights.mean(0).numpy() @ np.kron(spread, spread)
    np.testing.assert_allclose(matrix, (weights + weights.T) / 2, atol=1e-6)
    with pytest.raises(SpectralToolkitError, match="agree"):
        st.affinity(activations, "qk", kernel="cosine", device="cpu").to_dense()
    coarse = st.affinity(activations, "vv", device="cpu").to_dense()
    assert next(iter(coarse.values())).shape == (4, 4)


def test_a_bias_may_differ_from_image_to_image() -> None:
    activations = st.capture(st.load_model(made(SEEN["relative"]), device="cpu"), PIXELS[:2], progress=False)
    node = next(iter(activations.children.values()))
    assert node["attention_bias"].dims[0] == "image"
    graph = st.affinity(activations, "qk", device="cpu")
    scores = tokens(node, "query") @ tokens(node, "key").transpose(-1, -2) * node.attrs["scale"]
    weights = (scores + torch.from_numpy(node["attention_bias"].to_numpy())).softmax(-1).mean(1).numpy()
    for image in (0, 1):
        ours = next(iter(graph.to_dense(image).values()))
        np.testing.assert_allclose(ours, (weights[image] + weights[image].T) / 2, atol=1e-6)


def test_what_the_caller_tells() -> None:
    module = made(SEEN["written"])
    proven = st.capture(st.load_model(module, device="cpu"), PIXELS, progress=False)
    told = st.load_model(
        module,
        device="cpu",
        call=lambda one, values: one(values),
        size=SIDE,
        grid=(GRID, GRID),
        special_tokens=["summary"],
    )
    assert told.special_tokens == ("summary",)
    captured = st.capture(told, PIXELS, progress=False)
    assert "grid_told" in captured.attrs
    for layer in proven.children:
        assert np.array_equal(captured[layer]["query"], proven[layer]["query"])
    with pytest.raises(UnsupportedModelError, match="no attention has 10 tokens.*17"):
        st.load_model(module, grid=(3, 3), special_tokens=["cls"], size=SIDE)
    with pytest.raises(SpectralToolkitError, match="give as many names"):
        st.load_model(module, special_tokens=["a", "b"])
    with pytest.raises(SpectralToolkitError, match="did you mean 'visual'"):
        st.load_model(made(SEEN["clip"]), tower="visul")
    assert st.load_model(made(SEEN["clip"]), tower="visual").layers == ("visual.resblocks.0", "visual.resblocks.1")


@pytest.mark.parametrize("bad", [{"grid": (0, 4)}, {"size": "big"}, {"call": 3}, {"special_tokens": "cls"}])
def test_nonsense_is_told(bad: dict[str, Any]) -> None:
    with pytest.raises(SpectralToolkitError, match=next(iter(bad))):
        st.load_model(made(SEEN["written"]), **bad)


def test_a_size_that_a_module_refuses() -> None:
    with pytest.raises(SpectralToolkitError, match="use its own size"):
        st.capture(st.load_model(made(SEEN["written"]), device="cpu"), PIXELS, size=64, progress=False)


def test_a_size_that_only_attention_refuses_is_refused_when_a_model_is_loaded() -> None:
    module = made(SEEN["fused"])
    module.pos_embed = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))  # any size
    for block in module.blocks:
        block.attn.attend = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, torch.zeros(20, 20)
        )
    module.img_size = (SIDE, SIDE)
    assert st.load_model(module, device="cpu").own_size == (SIDE, SIDE)
    with pytest.raises(UnsupportedModelError, match="refuses images of 64 x 64 pixels"):
        st.load_model(module, device="cpu", size=2 * SIDE)


def test_untrained() -> None:
    model = st.load_model(made(SEEN["written"]), device="cpu")
    fresh, _ = model.untrained(3)
    again, _ = model.untrained(3)
    one, two = (st.capture(m, PIXELS, progress=False)["blocks.0"]["query"].to_numpy() for m in (fresh, again))
    assert np.array_equal(one, two)
    assert not np.allclose(one, st.capture(model, PIXELS, progress=False)["blocks.0"]["query"].to_numpy())


@pytest.mark.parametrize("is_ours", [False, True], ids=["another module", "the same module"])
def test_attention_of_another_thread_is_not_taken_for_ours(is_ours: bool) -> None:
    import threading

    module, stop = made(SEEN["written"]), threading.Event()
    other = module if is_ours else made(SEEN["written"])

    def run() -> None:
        with torch.no_grad():
            while not stop.is_set():
                other(torch.randn(1, 3, SIDE, SIDE))

    plain = st.capture(st.load_model(module, device="cpu"), PIXELS, progress=False)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        beside = st.capture(st.load_model(module, device="cpu"), PIXELS, progress=False)
    finally:
        stop.set()
        thread.join()
    for layer in plain.children:
        for quantity in ("query", "value"):
            assert np.array_equal(plain[layer][quantity], beside[layer][quantity])


def test_one_more_block_than_is_needed_changes_nothing() -> None:
    module = made(lambda: Transformer(lambda _: WrittenAttention()))
    model = st.load_model(module, device="cpu")
    some = st.capture(model, PIXELS, layers=-1, progress=False)
    every = st.capture(model, PIXELS, progress=False)
    assert np.array_equal(some["blocks.1"]["value"], every["blocks.1"]["value"])


@pytest.mark.parametrize("name", ["fused", "windows", "relative", "clip"])
def test_a_module_without_weights_is_known_and_captured_once_it_has_them(name: str) -> None:
    module = made(SEEN[name])
    empty = copy.deepcopy(module).to("meta")
    model, full = st.load_model(empty), st.load_model(module, device="cpu")
    assert (model.layers, model.special_tokens) == (full.layers, full.special_tokens)
    assert all(one.is_meta for one in empty.parameters())
    with pytest.raises(UnsupportedModelError, match="has no weights"):
        st.capture(model, PIXELS, progress=False)
    empty.load_state_dict(module.state_dict(), assign=True)
    assert st.capture(model, PIXELS, progress=False).identical(st.capture(full, PIXELS, progress=False))


def test_the_tower_of_a_qwen_puts_merged_patches_and_windows_back() -> None:
    import transformers as tf

    config: Any = tf.Qwen2_5_VLConfig().vision_config
    config.update({"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 40, "out_hidden_size": 16})
    config.update({"fullatt_block_indexes": [1], "window_size": 56})
    module = made(lambda: tf.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel(config))
    model = st.load_model(module, device="cpu", size=112)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    activations = st.capture(model, pixels, progress=False)
    first = next(iter(activations.children.values()))
    assert (first.sizes["y"], first.sizes["x"]) == (8, 8)
    windows = first["window"].to_numpy()
    assert windows[:4, :4].max() == windows[:4, :4].min() != windows[4, 4]
    changed = pixels.copy()
    changed[:, 42:56, 70:84] = 255 - changed[:, 42:56, 70:84]
    after = next(iter(st.capture(model, changed, progress=False).children.values()))["query"]
    moved = np.abs((after - first["query"]).to_numpy()).max((0, 1, 4)) > 0
    assert np.argwhere(moved).tolist() == [[3, 5]]
    assert bool(st.solve(st.affinity(activations, "qk", device="cpu"), n_eigenvectors=3).converged.all())


@pytest.mark.parametrize("name", ["written", "windows", "pooled", "relative"])
def test_a_store_and_a_bundle_hold_the_same(name: str, tmp_path: Path) -> None:
    model = st.load_model(made(SEEN[name]), device="cpu")
    kept = st.capture(model, PIXELS, progress=False)
    stored = st.capture(model, PIXELS, progress=False, store=tmp_path / "acts.zarr", batch_size=2)
    again = st.capture(model, PIXELS, progress=False, store=tmp_path / "acts.zarr", batch_size=2)
    st.save_bundle(tmp_path / "all.zip", kept, only="view", float16=False)
    bundled = st.load_bundle(tmp_path / "all.zip").activations
    whole = st.affinity(kept, "qk", device="cpu").to_dense(1)
    for other in (stored, again, bundled):
        for layer, matrix in st.affinity(other, "qk", device="cpu").to_dense(1).items():
            np.testing.assert_array_equal(matrix, whole[layer])


def test_windows_in_the_gradient_method_and_in_a_dataset() -> None:
    from spectral_toolkit._affinity.windows import whole_matrix, window_places
    from spectral_toolkit.solvers.gradient import head_affinities

    activations = st.capture(st.load_model(made(SEEN["windows"]), device="cpu"), PIXELS, progress=False)
    graph = st.affinity(activations, "qk", device="cpu")
    assert any("inside windows" in note for note in graph.notes)
    for member in graph.members:
        rows = head_affinities(graph, member, slice(1, 2))[0].mean(0).numpy()
        np.testing.assert_allclose((rows + rows.T) / 2, graph.to_dense(1)[member.name], atol=1e-6)
    places = window_places(activations.children["blocks.0"], torch.device("cpu"))
    ones = whole_matrix(torch.ones(4, 4, 4), places, GRID**2)[0]
    window = activations["blocks.0"]["window"].to_numpy().ravel()
    assert np.array_equal(ones.numpy() > 0, window[:, None] == window[None])
    each = st.affinity(activations, "qk", heads="each", device="cpu").to_dense(1)
    for layer, matrix in graph.to_dense(1).items():
        heads = [one for name, one in each.items() if name.startswith(layer + "[")]
        np.testing.assert_allclose(np.mean(heads, axis=0), matrix, atol=1e-6)
    dataset = st.affinity(activations, "vv", scope="dataset", device="cpu")
    assert any("whatever their windows" in note for note in dataset.notes)


def test_a_batch_that_does_not_fit_is_shown_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = st.load_model(made(SEEN["windows"]), device="cpu")
    expected = st.capture(model, PIXELS, progress=False)
    shown: list[int] = []
    own = Transformer.forward

    def small(self: Transformer, x: torch.Tensor) -> torch.Tensor:
        out = own(self, x)
        shown.append(len(x))
        if len(x) > 1:  # late, when layers have been recorded
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return out

    monkeypatch.setattr(Transformer, "forward", small)
    with pytest.warns(UserWarning, match="batch_size=1 spares the attempt"):
        found = st.capture(model, PIXELS, progress=False)
    assert shown == [3, 1, 1, 1]
    for layer in expected.children:
        np.testing.assert_allclose(found[layer]["key"].to_numpy(), expected[layer]["key"].to_numpy(), atol=1e-5)
