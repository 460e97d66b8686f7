"""The static parts of a page: images as data, and the places of a chart's marks. Templates only draw them."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .titles import statistic

if TYPE_CHECKING:
    import xarray as xr

_LOSSLESS_SIDE = 128  # pixels: below this a PNG is small, and the blur of a lossy format would be visible
_QUALITY = 86


def tile_uri(colours: np.ndarray) -> str:
    """A PNG of a few patches as a data URI: one pixel per patch, with a palette where that is shorter."""
    picture = Image.fromarray(colours)
    return _shortest(picture, picture.quantize(256, dither=Image.Dither.NONE) if _few_colours(colours) else None)


def picture_uri(pixels: np.ndarray) -> str:
    """An image as a data URI: PNG for small images, WebP for large ones."""
    picture = Image.fromarray(pixels)
    if max(picture.size) <= _LOSSLESS_SIDE:
        return _shortest(picture)
    return _uri(_encoded(picture, "WEBP", quality=_QUALITY, method=6), "webp")


def _few_colours(colours: np.ndarray) -> bool:
    # A palette of at most 256 entries then loses nothing.
    return len(np.unique(colours.reshape(-1, colours.shape[-1]), axis=0)) <= 256


def _shortest(*pictures: Image.Image | None) -> str:
    encoded = [_encoded(picture, "PNG", optimize=True) for picture in pictures if picture is not None]
    return _uri(min(encoded, key=len), "png")


def _encoded(picture: Image.Image, form: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _uri(data: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Point:
    """One eigenvalue in the chart."""

    component: int
    value: float
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class SpectrumMarks:
    """The places of the marks in the chart of eigenvalues, in the units of its view box.

    Attributes
    ----------
    points
        One per component.
    ticks
        Heights and labels of the grid lines.
    gap
        The widest eigengap: its x, and its upper and lower y; None where no gap is known.
    gap_after
        The component before it.
    groups
        Components that cannot be told apart: the first x, the last x, and the y of a bracket below each group, away
        from the words on the gap.
    description
        The chart in words, for readers who cannot see it.
    """

    points: tuple[Point, ...]
    ticks: tuple[tuple[float, str], ...]
    gap: tuple[float, float, float] | None
    gap_after: int | None
    groups: tuple[tuple[float, float, float], ...]
    description: str
    width: float = 360
    height: float = 174
    left: float = 46
    bottom: float = 152


def spectrum(eig: xr.Dataset, index: int) -> SpectrumMarks:
    """Arrange the eigenvalues of one image, or of all images where they were solved as one problem."""
    left, right, top, bottom = 46.0, 348.0, 32.0, 152.0
    numbers = [int(number) for number in eig.coords["component"].values]
    values = [float(statistic(eig, "eigenvalue", index, number)) for number in numbers]
    gaps = np.array([float(_or_nan(statistic(eig, "eigengap", index, number))) for number in numbers])
    known = bool(np.isfinite(gaps).any())
    widest = int(np.nanargmax(gaps)) if known else 0
    step, highest = _round_step(
        max([*values, *(value + gap for value, gap in zip(values, gaps, strict=True) if np.isfinite(gap))])
    )

    def height(value: float) -> float:
        return bottom - (bottom - top) * max(value, 0.0) / highest

    spacing = (right - left) / len(numbers)
    every = -(-len(numbers) // 15)
    points = tuple(
        Point(number, value, left + spacing * (place + 0.5), height(value), str(number) if place % every == 0 else "")
        for place, (number, value) in enumerate(zip(numbers, values, strict=True))
    )
    ticks = tuple((height(step * line), f"{step * line:.3g}") for line in range(round(highest / step) + 1))
    gap = None
    if known:
        here = points[widest]
        gap = (here.x + spacing / 2, height(here.value + gaps[widest]), here.y)
    return SpectrumMarks(
        points=points,
        ticks=ticks,
        gap=gap,
        gap_after=numbers[widest] if known else None,
        groups=_groups(eig, index, points, bottom),
        description="Eigenvalues: " + ", ".join(f"{p.component}: {p.value:.4g}" for p in points) + ".",
    )


def _groups(
    eig: xr.Dataset, index: int, points: tuple[Point, ...], bottom: float
) -> tuple[tuple[float, float, float], ...]:
    members: dict[int, list[Point]] = {}
    for point in points:
        group = statistic(eig, "degenerate_group", index, point.component)
        if group is not None:
            members.setdefault(int(group), []).append(point)
    return tuple(
        (group[0].x, group[-1].x, min(max(point.y for point in group) + 6, bottom - 6))
        for group in members.values()
        if len(group) > 1
    )


def _or_nan(value: np.ndarray | None) -> np.ndarray | float:
    return float("nan") if value is None else value


def _round_step(highest: float) -> tuple[float, float]:
    """The distance between grid lines, 1, 2, 2.5 or 5 times a power of ten, and the number of the last line."""
    if not highest > 0:
        return 1.0, 1.0
    power = 10.0 ** np.floor(np.log10(highest / 3))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * 4 >= highest)
    return float(step), float(step * np.ceil(highest / step - 1e-9))


@dataclass(frozen=True)
class LayerBar:
    """One layer's part in one component.

    Attributes
    ----------
    mass
        This layer's share of the component's degrees; the layers sum to 1.
    share
        The layer share of the eigenvalue; the layers sum to 1, or all are 0 where the eigenvalue is 0.
    cut
        ``share`` over ``mass`` times the eigenvalue, which is the cut value in this layer alone; None where ``mass`` is
        0.
    """

    name: str
    short: str
    mass: float
    share: float
    cut: float | None


def layer_bars(eig: xr.Dataset, index: int, component: int) -> list[LayerBar]:
    """The layers of one component in depth order; an empty list where the result has no layer shares."""
    shares, masses = (statistic(eig, name, index, component) for name in ("layer_share", "layer_mass"))
    if shares is None or masses is None:
        return []
    value = float(statistic(eig, "eigenvalue", index, component))
    names = [str(name) for name in eig.coords["layer"].values]
    return [
        LayerBar(
            name=name,
            short=short,
            mass=float(mass),
            share=float(share) / value if value > 0 else 0.0,
            cut=float(share / mass) if mass > 0 else None,
        )
        for name, short, share, mass in zip(names, short_names(names), shares, masses, strict=True)
    ]


def short_names(names: list[str]) -> list[str]:
    """Names of layers without the dotted parts that all share at either end, and without words that all contain.

    Examples
    --------
    >>> short_names(["encoder.layer.0.attention", "encoder.layer.1.attention"])
    ['0', '1']
    >>> short_names([
    ...     "down_blocks.1.attentions.0.attn1", "mid_block.attentions.0.attn1", "up_blocks.1.attentions.2.attn1",
    ... ])
    ['down.1.0', 'mid.0', 'up.1.2']
    >>> short_names(["only.one"])
    ['only.one']
    """
    if len(names) < 2:
        return list(names)
    parts = [name.split(".") for name in names]
    common = set.intersection(*map(set, parts))
    shorter = _without_ends([_without_words(own, common) for own in parts])
    return shorter if len(set(shorter)) == len(set(names)) else _without_ends(parts)


def _without_words(parts: list[str], words: set[str]) -> list[str]:
    """The dotted parts of a name without some words; numbers always stay."""
    kept = [part for part in parts if part.isdigit() or part not in words]
    return [re.sub(r"_?blocks?$", "", part) or part for part in kept] or parts


def _without_ends(parts: list[list[str]]) -> list[str]:
    shortest = min(map(len, parts)) - 1
    head = next((n for n in range(shortest) if len({part[n] for part in parts}) > 1), shortest)
    tail = next((n for n in range(shortest - head) if len({part[-1 - n] for part in parts}) > 1), shortest - head)
    return [".".join(part[head : len(part) - tail]) for part in parts]
