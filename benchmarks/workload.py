"""What the solver benchmarks work on: 12 layers of 8 heads, four each on 32x32, 16x16 and 8x8 patches."""

from __future__ import annotations

import functools

import xarray as xr

import spectral_toolkit as st


@functools.cache
def mixed_resolution_activations() -> xr.DataTree:
    """Queries and keys of a DINOv3 with random weights (12 layers, 8 heads, width 256) for one scene at three sizes.

    Layers 0 to 3 come from the picture at 256 pixels, 4 to 7 from 128 and 8 to 11 from 64.
    """
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=12,
        num_attention_heads=8,
        patch_size=8,
        image_size=256,
    )
    model = st.load_model(DINOv3ViTModel(config), device="cpu")
    layers: dict[str, xr.DataTree] = {}
    for index, side in enumerate((256, 128, 64)):
        scene = st.scenes.sample(1, seed=0, size=side).pixels
        captured = st.capture(model, scene, quantities=("query", "key"), size=(side, side), progress=False)
        names = list(captured.children)[4 * index : 4 * index + 4]
        layers |= {name: captured.children[name] for name in names}
    return xr.DataTree(children=layers)
