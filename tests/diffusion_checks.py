"""What tests of diffusers' models have in common: what was captured, computed again, and what a module looks like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from model_zoo import pictures

import spectral_toolkit as st

EVERY = ("query", "key", "value", "token")


def load(source: Any, **settings: Any) -> Any:
    """A denoiser, which has more than every model has."""
    return st.load_model(source, **settings)


@contextmanager
def inputs_of_projections(tower: Any, layers: tuple[str, ...]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What each attention hands to the projections of its output: the heads' outputs side by side.

    Of joint attention, the text's projection comes first, if it has one; what projects nothing is itself the output.
    """
    found: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}
    handles = []
    for layer in layers:
        attention = tower.get_submodule(layer)
        attention = getattr(attention, "attn", attention)

        def project(module: Any, args: Any, layer: str = layer) -> None:
            found[layer].append(args[0].detach().clone())

        def attend(module: Any, args: Any, output: torch.Tensor, layer: str = layer) -> None:
            found[layer].append(output.detach().clone())

        text = getattr(attention, "to_add_out", None)
        if text is not None:
            handles.append(text.register_forward_pre_hook(project))
        if getattr(attention, "to_out", None) is not None:
            handles.append(attention.to_out[0].register_forward_pre_hook(project))
        else:
            handles.append(attention.register_forward_hook(attend))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def recomputed(node: Any, place: dict[str, int]) -> np.ndarray:
    """softmax(scale q k') v from the captured numbers, heads side by side: (image, token, channel)."""
    query, key, value = (tokens_of(node, name, place) for name in ("query", "key", "value"))
    scores = query @ key.swapaxes(-1, -2) * node.attrs["scale"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ value
    return out.swapaxes(1, 2).reshape(len(out), out.shape[2], -1)


def tokens_of(node: Any, name: str, place: dict[str, int]) -> np.ndarray:
    """A quantity of special tokens and then patches: (image, head, token, channel)."""
    patches = node[name].isel(place).to_numpy().astype(np.float64)
    patches = patches.reshape(*patches.shape[:2], -1, patches.shape[-1])
    if f"special_{name}" not in node.data_vars:
        return patches
    return np.concatenate([node[f"special_{name}"].isel(place).to_numpy().astype(np.float64), patches], 2)


def check_parity(
    model: Any, layers: tuple[str, ...], size: tuple[int, int], atol: float = 1e-5, edits: Any = None
) -> Any:
    with inputs_of_projections(model.tower, layers) as found:
        every: dict[str, Any] = {"quantities": EVERY, "size": size, "progress": False}
        images = pictures()[:2]
        acts = st.capture(model, images, **every) if edits is None else st.intervene(model, images, edits, **every)
    places = [(t, n) for t in range(len(model.timesteps)) for n in range(model.n_draws)]
    for layer in layers:
        parts = len(found[layer]) // len(places)
        assert len(found[layer]) == len(places) * parts > 0
        for number, (timestep, noise) in enumerate(places):
            ours = recomputed(acts[layer], {"timestep": timestep, "noise": noise})
            assert np.abs(ours).max() > 0.01
            own = found[layer][number * parts : number * parts + parts]
            # Projections of text and patches may run in either order; the last may have none for the text.
            own.sort(key=lambda part: part.shape[1] != len(model.special_tokens))
            theirs = torch.cat([part.reshape(len(ours), -1, ours.shape[-1]) for part in own], 1).float().numpy()
            np.testing.assert_allclose(theirs, ours[:, -theirs.shape[1] :], atol=atol, rtol=atol)
    return acts


def generate(pipeline: Any, asked: dict[str, Any]) -> np.ndarray:
    """Two steps of the pipeline itself, with guidance, as a user would."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline(**asked, num_inference_steps=2, generator=generator, output_type="np").images


def state_of(module: torch.nn.Module) -> list[Any]:
    """Everything a capture could leave behind in a module."""
    return [
        (name, dict(part._forward_hooks), part.__dict__.get("forward"), part.training, getattr(part, "processor", None))
        for name, part in module.named_modules()
    ]
