"""The paper's single-image method, as a baseline: gradient descent on features from a small generator.

Zhang, Yunis & Maire (arXiv 2312.06716), section 3, in the wording of our design: features z on the base grid from a
generator of three 3x3 convolutions (128 channels, batch norm, K outputs, softmax over channels); per layer and head
z is average-pooled to the layer's grid, columns normalised, e = diag(z' A z) with A the attention among patches, rows
renormalised; loss 2 mean|e - 1| + 2 mean(offdiag(z'z)^2); Adam at 2e-3, 2,000 steps, then a singular value
decomposition.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

N_STEPS = 2000


def attention_among_patches(query: Tensor, key: Tensor, special_key: Tensor, scale: float) -> Tensor:
    """Softmax attention (heads, n, n) among patches: special tokens dropped, rows renormalised."""
    keys = torch.cat([special_key, key], dim=1)
    weights = torch.softmax(query @ keys.transpose(-1, -2) * scale, dim=-1)[..., special_key.shape[1] :]
    return weights / weights.sum(dim=-1, keepdim=True)


class Generator(nn.Module):
    """Features from fixed noise, as a deep image prior."""

    def __init__(self, grid: tuple[int, int], n_features: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(1, 128, *grid))
        self.layers = nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, n_features, 3, padding=1),
            nn.Softmax(dim=1),
        )

    def forward(self) -> Tensor:
        return self.layers(self.noise)


def objective(affinities: list[Tensor], features: Tensor) -> Tensor:
    """The loss: how far z' A z is from one on its diagonal, and how far z'z is from diagonal."""
    alignment, overlap = [], []
    for affinity in affinities:
        n = affinity.shape[-1]
        rows = round(n**0.5)
        pooled = functional.adaptive_avg_pool2d(features, (rows, n // rows))
        z = functional.normalize(pooled.flatten(2)[0].T, dim=0)
        energy = torch.einsum("nk,hnk->hk", z, affinity @ z)
        gram = z.T @ z
        alignment.append((energy - 1).abs().mean())
        overlap.append((gram - torch.diag(gram.diagonal())).square().mean())
    return 2 * torch.stack(alignment).mean() + 2 * torch.stack(overlap).mean()


def descend(affinities: list[Tensor], grid: tuple[int, int], n_features: int, n_steps: int) -> tuple[Tensor, float]:
    """Left singular vectors (n, K) of the features after ``n_steps``, and seconds a step."""
    torch.manual_seed(0)
    generator = Generator(grid, n_features)
    optimiser = torch.optim.Adam(generator.parameters(), lr=2e-3)
    began = time.perf_counter()
    for _ in range(n_steps):
        optimiser.zero_grad()
        objective(affinities, generator()).backward()
        optimiser.step()
    seconds = (time.perf_counter() - began) / n_steps
    with torch.no_grad():
        z = generator().flatten(2)[0].T.double()
    return torch.linalg.svd(z, full_matrices=False)[0], seconds
