"""Vision transformers as research code writes them, in the shape of well-known repositories, written anew and tiny."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, PATCH, SIDE = 32, 4, 8, 32
GRID = SIDE // PATCH


class Patches(nn.Module):
    """A convolution, as almost everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size = (SIDE, SIDE)
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class WrittenAttention(nn.Module):
    """Softmax between two products, as in DINO and MAE."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = (WIDTH // HEADS) ** -0.5
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.drop = nn.Dropout(0.1)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.drop(((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)) @ v

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(*self.heads(x)).transpose(1, 2).reshape(x.shape))


class FusedAttention(WrittenAttention):
    """torch's own, after normalisation of queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH // HEADS)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.norm(q), self.norm(k), v)


class EinsumAttention(WrittenAttention):
    """Heads behind tokens, and a bias between the products."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, GRID**2 + 1, GRID**2 + 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q * self.scale, k) + self.bias
        return torch.einsum("bhqk,bkhd->bqhd", torch.softmax(scores, -1), v).transpose(1, 2)


class FoldedAttention(WrittenAttention):
    """Heads within the batch, and `baddbmm`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[0]
        q, k, v = (one.flatten(0, 1) for one in (q, k, v))
        empty = q.new_zeros(n * HEADS, q.shape[1], k.shape[1])
        scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=self.scale)
        return torch.bmm(nn.functional.softmax(scores, dim=2), v).unflatten(0, (n, HEADS))


class TalkingHeads(WrittenAttention):
    """Weights that are mixed between heads: not the softmax of one head's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v


class ChannelAttention(WrittenAttention):
    """Cross-covariance attention: softmax over channels, not over patches."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (nn.functional.normalize(q, dim=-2).transpose(-2, -1) @ nn.functional.normalize(k, dim=-2)).softmax(
            dim=-1
        )
        return (weights @ v.transpose(-2, -1)).transpose(-2, -1)


class LinearAttention(WrittenAttention):
    """No softmax at all."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.relu() @ (k.relu().transpose(-2, -1) @ v) / math.prod(k.shape[-2:])


class WindowAttention(WrittenAttention):
    """Windows of 2 x 2 patches, shifted by one where ``shift`` says so, with the mask that this needs."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        n, half = len(x), GRID // 2
        grid = torch.roll(x.view(n, GRID, GRID, WIDTH), (-self.shift, -self.shift), (1, 2))
        windows = grid.view(n, half, 2, half, 2, WIDTH).transpose(2, 3).reshape(n * half * half, 4, WIDTH)
        q, k, v = self.heads(windows)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        if self.shift:
            place = torch.arange(GRID) >= GRID - self.shift
            region = (place[:, None] * 2 + place[None]).view(half, 2, half, 2).transpose(1, 2).reshape(-1, 4)
            mask = torch.zeros(len(region), 4, 4).masked_fill(region[:, :, None] != region[:, None], -100.0)
            scores = (scores.view(n, -1, *scores.shape[1:]) + mask[None, :, None]).view(scores.shape)
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(windows.shape)
        out = self.proj(out).view(n, half, half, 2, 2, WIDTH).transpose(2, 3).reshape(n, GRID, GRID, WIDTH)
        return torch.roll(out, (self.shift, self.shift), (1, 2)).view(x.shape)


class AcrossAttention(WrittenAttention):
    """Patches of each half of the image see those of the other half, as from image to image in a pair of them."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (q0, q1), (k0, k1), (v0, v1) = (one.chunk(2, -2) for one in (q, k, v))
        return torch.cat([super().attend(q0, k1, v1), super().attend(q1, k0, v0)], -2)


class LatentAttention(WrittenAttention):
    """Queries that are parameters, as in Perceiver."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(HEADS, GRID**2 + 1, WIDTH // HEADS))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.latents.expand(len(x), -1, -1, -1), *super().heads(x)[1:]


class PooledAttention(WrittenAttention):
    """Keys and values of 2 x 2 patches together, as in PVT and SegFormer."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.heads(x)[0]
        pooled = nn.functional.avg_pool2d(x.transpose(1, 2).unflatten(2, (GRID, GRID)), 2).flatten(2).transpose(1, 2)
        _, k, v = self.heads(pooled)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(x.shape))


class ConvolvedAttention(WrittenAttention):
    """Queries, keys and values that come from convolutions over the grid, as in CvT."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH) for _ in range(3))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grid = x.transpose(1, 2).unflatten(2, (GRID, GRID))
        q, k, v = (one(grid).flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3) for one in self.mix)
        return q, k, v


class RelativeAttention(WrittenAttention):
    """A bias that depends on the queries, as in SAM: it differs from image to image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(GRID, GRID, WIDTH // HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = torch.einsum("bhyxc,ykc->bhyxk", q.unflatten(2, (GRID, GRID)), self.rows)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores.view(*q.shape[:2], GRID, GRID, GRID, GRID) + rows[..., None]
        return scores.view(*q.shape[:2], GRID**2, GRID**2).softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), attn
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """DINO's shape: class token, registers, positions, blocks."""

    def __init__(self, attention: Callable[[int], nn.Module], registers: int = 0, cls: bool = True) -> None:
        super().__init__()
        self.patch_embed = Patches()
        n = GRID**2 + cls
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH)) if cls else None
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, WIDTH)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, n, WIDTH))
        self.blocks = nn.ModuleList(Block(attention(depth)) for depth in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Chunked(Transformer):
    """DINOv2's shape for sharding: lists of blocks in lists, with gaps that do nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _: FusedAttention(), registers=2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([*(nn.Identity() for _ in range(depth)), block]) for depth, block in enumerate(self.blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for chunk in self.blocks:
            for block in chunk:  # type: ignore[union-attr]
                x = block(x)
        return self.norm(x)


class Shuffled(Transformer):
    """Patches column by column, and special tokens behind them."""

    def tokens(self, x: Tensor) -> Tensor:
        x = super().tokens(x)
        patches = x[:, 1:].unflatten(1, (GRID, GRID)).transpose(1, 2).flatten(1, 2)
        return torch.cat([patches, x[:, :1]], 1)


class Convolutions(nn.Module):
    """A deep convolutional network in place of the patch embedding, whose cells see far beyond their patches."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 24, 24, WIDTH, WIDTH)
        self.layers = nn.ModuleList(
            nn.Conv2d(into, out, 3, 2 if depth % 2 else 1, 1) for depth, (into, out) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.2)
        return x.flatten(2).transpose(1, 2)


class Hybrid(Transformer):
    """A transformer on top of a convolutional network, as in DETR."""

    def __init__(self) -> None:
        super().__init__(lambda _: FusedAttention(), cls=False)
        self.img_size, self.patch_embed = (SIDE, SIDE), Convolutions()


class ClipBlock(nn.Module):
    """OpenAI's: `nn.MultiheadAttention`, tokens before images."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ln_1 = nn.MultiheadAttention(WIDTH, HEADS), nn.LayerNorm(WIDTH)
        self.mlp, self.ln_2 = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipVision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_resolution = SIDE
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(GRID**2 + 1, WIDTH))
        self.resblocks = nn.ModuleList(ClipBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x)
        return x.transpose(0, 1)[:, 0]


class Clip(nn.Module):
    """A pair of towers; `forward` needs a text, and the method of the paper is `encode_image`."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = ClipVision()
        self.token_embedding = nn.Embedding(16, WIDTH)

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.encode_image(image) @ self.token_embedding(text).mean(1).T


def made(make: Callable[[], Any]) -> Any:
    """The module with weights that let attention differ from a mean."""
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module


SEEN: dict[str, Callable[[], Any]] = {
    "written": lambda: Transformer(lambda _: WrittenAttention()),
    "fused": lambda: Transformer(lambda _: FusedAttention(), registers=3),
    "einsum": lambda: Transformer(lambda _: EinsumAttention()),
    "folded": lambda: Transformer(lambda _: FoldedAttention(), cls=False),
    "chunked": Chunked,
    "shuffled": lambda: Shuffled(lambda _: WrittenAttention()),
    "clip": Clip,
    "windows": lambda: Transformer(WindowAttention, cls=False),
    "pooled": lambda: Transformer(lambda _: PooledAttention(), cls=False),
    "convolved": lambda: Transformer(lambda _: ConvolvedAttention(), cls=False),
    "hybrid": Hybrid,
    "relative": lambda: Transformer(lambda _: RelativeAttention(), cls=False),
}
"""Modules whose attention is seen and proven."""

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "talking heads": (lambda: Transformer(lambda _: TalkingHeads()), "no attention was seen"),
    "linear": (lambda: Transformer(lambda _: LinearAttention()), "no attention was seen"),
    "channels": (lambda: Transformer(lambda _: ChannelAttention()), "could be shown to be over patches"),
    "convolutions": (lambda: nn.Conv2d(3, 4, 3), "no attention was seen"),
    "latents": (lambda: Transformer(lambda _: LatentAttention()), "its queries do not depend on the image"),
    "from half to half": (lambda: Transformer(lambda _: AcrossAttention(), cls=False), "keys of other windows"),
}
"""Modules that are refused, and what is said of them."""
