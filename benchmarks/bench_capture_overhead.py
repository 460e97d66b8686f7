"""What watching a model costs: a capture of all layers against the plain forward pass of the same pictures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import ViTConfig, ViTModel

import spectral_toolkit as st

REPETITIONS = 15


def bench_capture_overhead() -> dict[str, Any]:
    """ViT-S/16 from its configuration, random weights, 8 pictures of 224 pixels, queries, keys and values.

    Both sides get the same prepared pictures: bytes of the model's own size for the capture, the normalised tensor
    for the plain pass, so no side reads or resizes a file. The capture's time holds everything else: normalising,
    switching the attention, copying 87 MB of queries, keys and values out, looking for NaN, hashing the pictures,
    checking that the weights are those hashed before, and building the tree. The first capture also hashes the
    weights; it is not among the repetitions, and its cost is in the note.
    """
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6)
    module = ViTModel(config).eval()
    model = st.load_model(module)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    values = model.processor.normalise(pixels, model.device, model.dtype)

    def plain() -> Any:
        with torch.no_grad():
            return module(values)

    def captured() -> Any:
        return st.capture(model, pixels, progress=False)

    plain()
    hashing = _seconds(model.weights_sha256)
    captured()
    pairs = [(_seconds(captured), _seconds(plain)) for _ in range(REPETITIONS)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "name": "capture of all layers / plain forward pass (ViT-S/16, 224 px, batch 8)",
        "ours": ours,
        "theirs": theirs,
        "ratio": ours / theirs,
        "target": "<= 1.15",
        "note": (
            f"medians of {REPETITIONS} interleaved runs; same prepared pictures on both sides, the capture includes "
            f"the copy; hashing the weights, once per model: {hashing:.2f} s"
        ),
    }


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
