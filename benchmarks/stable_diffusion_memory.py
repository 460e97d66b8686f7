"""Memory of Stable Diffusion 1.x: the estimate beforehand, and what is really held.

The UNet and the VAE have the architecture of Stable Diffusion 1.4 and random weights, which take as much room and as
long as trained ones; the UNet comes without its text encoder (123 million parameters more), so that nothing has to be
fetched. All 16 self-attention layers are captured on one picture of 512 x 512 pixels and solved jointly. On its own:
``python -m benchmarks.stable_diffusion_memory``; it needs 6 GB, and is no part of ``make bench``.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from typing import Any

import diffusers
import numpy as np
import psutil
import torch

import spectral_toolkit as st
from spectral_toolkit._capture.plan import format_bytes

SIDE = 512
theirs: Any = diffusers


class Peak:
    """The largest resident size of this process while the context lasts, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, process.memory_info().rss)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def stable_diffusion() -> Any:
    """Denoiser, VAE and scheduler of Stable Diffusion 1.4, with random weights."""
    torch.manual_seed(0)
    unet = theirs.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = theirs.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=SIDE,
    )
    scheduler = theirs.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*told zeros instead of a prompt")
        return st.load_model(unet.eval(), vae=vae.eval(), scheduler=scheduler)


def main() -> int:
    """Print the estimate, the peak of capture and solve, and how far they are apart; 1 if it is more than 20 %."""
    model = stable_diffusion()
    millions = sum(parameter.numel() for part in model.parts for parameter in part.parameters()) / 1e6
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    estimate = st.estimate_memory(model, picture)
    print(f"{millions:.0f} million parameters, {len(model.layers)} layers, {len(model.timesteps)} timesteps")
    print(estimate, flush=True)
    times, began = {}, time.perf_counter()
    with Peak() as peak:
        activations = st.capture(model, picture, progress=False)
        times["capture"] = time.perf_counter() - began
        began = time.perf_counter()
        answer = st.solve(st.affinity(activations, "qk", device="cpu"), n_eigenvectors=10)
        times["solve"] = time.perf_counter() - began
    off = estimate.in_memory / peak.bytes - 1
    print(f"measured peak    {format_bytes(peak.bytes):>10}, estimate {off:+.0%}")
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items()), flush=True)
    print(f"all converged: {bool(answer['converged'].all())}; notes: {answer.attrs['notes'] or 'none'}")
    return 0 if abs(off) <= 0.2 and peak.bytes < 12e9 else 1


if __name__ == "__main__":
    sys.exit(main())
