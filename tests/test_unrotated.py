"""Queries and keys before rotary positions, of modules of which only the attention is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from module_zoo import GRID, HEADS, SIDE, WIDTH, Transformer, WrittenAttention, made
from torch import Tensor, nn

import spectral_toolkit as st
from spectral_toolkit._models.passes import Prober
from spectral_toolkit.errors import ActivationsError, SpectralToolkitError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
WANTED = ("query", "key", "query_unrotated", "key_unrotated")


def angles() -> Tensor:
    """Of every patch (token, channel / 2), by row and column."""
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    rates = torch.tensor([1.0, 0.3])
    return torch.cat([(one.flatten()[:, None] + 1) * rates for one in (y, x)], -1)


class Rotating(WrittenAttention):
    """Rotates pairs of channels, neighbours or half a head apart, of patches but not of the class token."""

    def __init__(self, pairs: str, normed: bool = False, separate: bool = False) -> None:
        super().__init__()
        self.pairs, self.separate = pairs, separate
        self.norm = nn.LayerNorm(WIDTH // HEADS) if normed else nn.Identity()
        self.each = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.unrotated: list[tuple[Tensor, Tensor]] = []

    def rotate(self, x: Tensor) -> Tensor:
        first, second = (x[..., ::2], x[..., 1::2]) if self.pairs == "neighbours" else x.chunk(2, -1)
        cos, sin = angles().cos(), angles().sin()
        turned = (first * cos - second * sin, first * sin + second * cos)
        return torch.stack(turned, -1).flatten(-2) if self.pairs == "neighbours" else torch.cat(turned, -1)

    def forward(self, x: Tensor) -> Tensor:
        if self.separate:
            q, k, v = (one(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in self.each)
        else:
            q, k, v = self.heads(x)
        q, k = self.norm(q), self.norm(k)
        self.unrotated.append((q, k))
        q, k = (torch.cat([one[:, :, :1], self.rotate(one[:, :, 1:])], 2) for one in (q, k))
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
@pytest.mark.parametrize(("normed", "separate"), [(False, False), (True, False), (False, True)])
def test_what_is_rotated_is_captured_before_it(pairs: str, normed: bool, separate: bool) -> None:
    module = made(lambda: Transformer(lambda _: Rotating(pairs, normed, separate)))
    model = st.load_model(module, device="cpu")
    attentions: list[Any] = [block.attn for block in module.blocks]
    for one in attentions:
        one.unrotated.clear()
    activations = st.capture(model, PIXELS, quantities=WANTED, progress=False)
    for node, one in zip(activations.children.values(), attentions, strict=True):
        for name, own in zip(("query", "key"), one.unrotated[-1], strict=True):
            patches = node[f"{name}_unrotated"].to_numpy().reshape(2, HEADS, GRID**2, -1)
            special = node[f"special_{name}_unrotated"].to_numpy()
            expected = own.detach().numpy()
            np.testing.assert_allclose(np.concatenate([special, patches], 2), expected, atol=1e-6)
            assert np.abs(node[name].to_numpy() - node[f"{name}_unrotated"].to_numpy()).max() > 0.1
    result = st.solve(st.affinity(activations, "qk_unrotated", kernel="rbf", device="cpu"), n_eigenvectors=3)
    assert bool(np.isfinite(result["eigenvector"]).all())


def test_rotations_are_looked_for_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading makes the passes of the proof and the two that find the size, none for what nobody may ever ask."""
    passes = {"proof": 0, "all": 0}
    look = Prober.look

    def counted(self: Prober, *args: Any, **kwargs: Any) -> Any:
        passes["proof"] += 1
        return look(self, *args, **kwargs)

    monkeypatch.setattr(Prober, "look", counted)
    module = made(lambda: Transformer(lambda _: Rotating("halves")))
    module.register_forward_pre_hook(lambda *_: passes.update(all=passes["all"] + 1))
    model = st.load_model(module, device="cpu")
    assert passes["all"] == passes["proof"] + 2
    for wanted, n in ((("query",), 1), (WANTED, 2), (WANTED, 1)):
        passes["all"] = 0
        st.capture(model, PIXELS, quantities=wanted, progress=False)
        assert passes["all"] == n, wanted


def test_what_is_not_rotated_has_no_form_before_it() -> None:
    """Normalised queries and keys are as long as each other, and still none is a rotation of another."""
    model = st.load_model(made(lambda: Transformer(lambda _: WrittenAttention())), device="cpu")
    with pytest.raises(SpectralToolkitError, match="query_unrotated"):
        st.capture(model, PIXELS, quantities=WANTED, progress=False)


def test_what_is_computed_in_another_way_later_is_refused() -> None:
    module = made(lambda: Transformer(lambda _: Rotating("halves")))
    model = st.load_model(module, device="cpu")
    assert model.has("query_unrotated")
    own = Rotating.heads

    def otherwise(self: Rotating, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return own(self, x * 2 / 2 + 1)

    Rotating.heads = otherwise  # type: ignore[method-assign]
    try:
        with pytest.raises(ActivationsError, match="before rotation is not computed as it was"):
            st.capture(model, PIXELS, quantities=WANTED, progress=False)
    finally:
        Rotating.heads = own  # type: ignore[method-assign]
