"""Memory is known beforehand: every part of the estimate against what is really held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_zoo import BY_NAME, pictures

import spectral_toolkit as st
from spectral_toolkit._analysis.memory.tracing import peak_bytes
from spectral_toolkit.errors import AffinityError, UnsupportedModelError


class Counting(torch.nn.Module):
    """Two products, a convolution and attention, whose tensors can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)
        return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_what_a_pass_holds_is_counted() -> None:
    module, shown = Counting(), torch.zeros(2, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def prepare(convert: Any) -> Any:
        copied = convert(module)
        assert copied is not module
        return lambda: copied(shown)

    # Input and output of the second convolution, or queries and what attention returns; no matrix of pairs.
    assert peak_bytes(prepare) == 2 * 4 * (2 * 8 * 16 * 16)
    assert all(
        type(tensor) is torch.Tensor and torch.equal(tensor, before[name])
        for name, tensor in module.state_dict().items()
    )


@pytest.mark.parametrize("name", ["vit", "dinov3", "beit"])
def test_encoders(name: str) -> None:
    module = BY_NAME[name].make()
    estimate = st.estimate_memory(module, pictures(), batch_size=2)
    acts = st.capture(module, pictures(), progress=False)
    held = sum(array.nbytes for node in acts.subtree for array in node.data_vars.values())
    assert held <= estimate.activations <= held + 10_000
    assert estimate.weights >= sum(parameter.nbytes for parameter in module.parameters())
    assert estimate.forward > 2 * 16 * 32 * 4
    assert estimate.on_device == 0
    assert estimate.in_memory > estimate.weights + estimate.activations + estimate.program
    assert "peak in memory" in str(estimate)


def test_denoisers_are_left_as_they_are() -> None:
    pytest.importorskip("diffusers")
    from diffusion_zoo import BY_NAME as DENOISERS

    model: Any = st.load_model(DENOISERS["sdxl"].make())
    one = st.estimate_memory(model.at(timesteps=3), pictures(), batch_size=1)
    half = st.load_model(model, dtype="float16")
    assert st.estimate_memory(half, pictures(), batch_size=1).forward > 0.9 * one.forward  # this VAE overflows
    st.load_model(model, dtype="float32")
    assert {type(p) for part in model.parts for p in part.parameters()} == {torch.nn.Parameter}
    acts = st.capture(model.at(timesteps=3), pictures()[:1], progress=False)
    assert np.isfinite(acts[model.layers[0]]["query"].to_numpy()).all()


def test_a_store_keeps_one_batch() -> None:
    module = BY_NAME["vit"].make()
    whole = st.estimate_memory(module, pictures(), batch_size=1)
    streamed = st.estimate_memory(module, pictures(), batch_size=1, store="a.zarr")
    assert streamed.activations * 3 == whole.activations


def test_the_matrices_of_a_solve() -> None:
    module = BY_NAME["vit"].make()
    images = np.concatenate([pictures()] * 10)
    estimate = st.estimate_memory(module, images)
    acts = st.capture(module, images, progress=False)
    graph = st.affinity(acts, "qk")
    st.solve(graph, n_eigenvectors=2)
    assert graph.cached_bytes <= estimate.solve
    with pytest.raises(AffinityError, match="is not offered"):
        st.estimate_memory(module, images, kernel="sharp")


def test_a_pass_that_needs_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = st.load_model(BY_NAME["vit"].make())
    monkeypatch.setattr(type(model), "forward", lambda self, pixels: float(next(self.tower.parameters()).sum()))
    with pytest.raises(UnsupportedModelError, match="cannot be traced without numbers"):
        st.estimate_memory(model, pictures())
