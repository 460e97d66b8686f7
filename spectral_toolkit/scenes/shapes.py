"""The objects of the scenes: each category has a shape and a texture of its own.

A category is one function of local coordinates ``u`` (right) and ``v`` (down), in units of the object's radius. It
returns

- ``distance``: how far outside the outline a point lies, in the same units, negative inside;
- ``mix``: 0 where the main colour shows, 1 where the accent does (the texture);
- ``light``: a factor on the colour (the relief).

``radius`` is in pixels: textures have a period in pixels, not in radii, so that a patch of 8 pixels shows enough of
them whatever the size of the object.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Field = np.ndarray
Drawing = tuple[Field, Field, Field]


def _step(x: Field, width: float) -> Field:
    """0 below ``-width``, 1 above ``width``, linear in between."""
    return np.clip(0.5 + 0.5 * x / width, 0.0, 1.0)


def _box(u: Field, v: Field, half_width: float | Field, half_height: float, rounding: float = 0.0) -> Field:
    across = np.abs(u) - half_width + rounding
    along = np.abs(v) - half_height + rounding
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0) - rounding


def _dome(u: Field, v: Field) -> Field:
    return 1.12 - 0.22 * (u * u + v * v) - 0.16 * v - 0.08 * u


def ring(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A swimming ring with slanted bands."""
    rho = np.hypot(u, v)
    width = rng.uniform(0.27, 0.32)
    across = (rho - (1 - width)) / width
    n_bands = max(6, round(2 * np.pi * 0.7 * radius / 8.5))
    wave = np.sin(n_bands * np.arctan2(v, u) + rng.choice((-1, 1)) * 1.6 * across)
    return (np.abs(across) - 1) * width, _step(wave, 0.45), 1.1 - 0.26 * across**2 - 0.12 * v


def star(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A star of five or six points, folded like paper."""
    n_points = int(rng.choice((5, 6)))
    inner = rng.uniform(0.46, 0.54)
    sector = np.pi / n_points
    turn = np.arctan2(u, -v)
    folded = np.abs((turn + sector) % (2 * sector) - sector)
    x, y = np.hypot(u, v) * np.sin(folded), np.hypot(u, v) * np.cos(folded)
    # One edge of the folded star runs from the tip (0, 1) to the notch.
    edge = np.array([inner * np.sin(sector), inner * np.cos(sector) - 1])
    normal = np.array([-edge[1], edge[0]]) / np.hypot(*edge)
    facet = np.sign(np.sin(turn * n_points))
    return x * normal[0] + (y - 1) * normal[1], _step(facet, 0.6) * 0.75, 1.02 + 0.1 * facet


def mushroom(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A dotted cap on a plain stem."""
    rim = 0.12
    cap = np.maximum((np.hypot(u / 1.0, (v - rim) / 1.08) - 1) * 0.9, v - rim)
    stem = _box(u, v - 0.5, 0.24 + 0.1 * (v - 0.5) ** 2, 0.5, 0.12)
    period = 8.0 / radius
    row = np.floor(v / (period * 0.87))
    column = (u / period + 0.5 * (row % 2) + rng.random()) % 1 - 0.5
    dots = 0.34 - np.hypot(column, (v / (period * 0.87)) % 1 - 0.5)
    on_cap = v < rim
    mix = np.where(on_cap, _step(dots, 0.08), 0.85)
    return np.minimum(cap, stem), mix, np.where(on_cap, _dome(u, v), 1.02 - 0.25 * u)


def kite(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A checkered kite."""
    slimness = rng.uniform(0.68, 0.8)
    distance = (np.abs(u) / slimness + np.abs(v) - 1) * slimness / np.hypot(1, slimness)
    frequency = np.pi * radius / 5.2
    checks = np.sin(frequency * (u + v)) * np.sin(frequency * (u - v))
    return distance, _step(checks, 0.2), 1.04 - 0.1 * np.sign(u) * (np.abs(u) > 0) - 0.06 * v


def house(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """Brick walls, one window, a plain roof."""
    wall = _box(u, v - 0.42, 0.72, 0.56)
    roof = np.maximum((np.abs(u) * 0.85 - (v + 0.98)) / np.hypot(0.85, 1), v + 0.1)
    row_height, length = 4.6 / radius, 8.5 / radius
    row = np.floor(v / row_height)
    joints = np.abs((u / length + 0.5 * (row % 2)) % 1 - 0.5) * length
    beds = np.abs((v / row_height) % 1 - 0.5) * row_height
    mortar = np.maximum(_step(joints - length / 2 + 1.1 / radius, 0.4 / radius), 0)
    mortar = np.maximum(mortar, _step(beds - row_height / 2 + 0.8 / radius, 0.4 / radius))
    on_roof = v < -0.1
    mix = np.where(on_roof, 0.12, mortar * 0.9)
    side = rng.choice((-1, 1))
    window = _box(u - 0.3 * side, v - 0.38, 0.17, 0.2)
    mix = np.where(window < 0, 1.0, mix)
    return np.minimum(wall, roof), mix, np.where(on_roof, 0.78, 1.06 - 0.06 * u)


def tree(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A mottled crown on a trunk."""
    crown = np.hypot(u, v + 0.3) - 0.5
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1] + rng.random():
        reach, size = rng.uniform(0.34, 0.44), rng.uniform(0.27, 0.35)
        crown = np.minimum(crown, np.hypot(u - reach * np.cos(angle), v + 0.3 - reach * np.sin(angle)) - size)
    trunk = _box(u, v - 0.6, 0.13, 0.4, 0.04)
    leaves = np.zeros_like(u)
    for _ in range(5):
        angle, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        frequency = 2 * np.pi * radius / rng.uniform(4.6, 7.0)
        leaves += np.sin(frequency * (np.cos(angle) * u + np.sin(angle) * v) + phase)
    on_trunk = (trunk < 0) & (crown > 0)
    return (
        np.minimum(crown, trunk),
        np.where(on_trunk, 1.0, _step(leaves - 0.5, 0.9)),
        np.where(on_trunk, 0.8, _dome(u, v + 0.3)),
    )


def fish(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """A fish with bars across its body, and an eye."""
    body = (np.hypot(u - 0.18, v / 0.62) - 0.78) * 0.75
    tail = np.maximum((np.abs(v) * 0.9 + u + 0.38) / np.hypot(0.9, 1), -u - 0.98)
    bars = np.sin(2 * np.pi * radius / 7.5 * (u + 0.28 * v * v) + rng.uniform(0, 2 * np.pi))
    eye = np.hypot(u - 0.62, v + 0.12)
    mix = np.where(eye < 0.13, 1.0, _step(bars, 0.35) * (u < 0.5))
    light = np.where(eye < 0.07, 0.15, 1.1 - 0.2 * (v / 0.6) ** 2 - 0.12 * v)
    return np.minimum(body, tail), mix, light


def flower(u: Field, v: Field, radius: float, rng: np.random.Generator) -> Drawing:
    """Petals with dark gaps around a bright centre."""
    n_petals = int(rng.choice((6, 7, 8)))
    rho, turn = np.hypot(u, v), np.arctan2(v, u)
    petal = np.abs(np.cos(0.5 * n_petals * turn))
    distance = (rho - (0.62 + 0.38 * np.sqrt(petal))) * 0.8
    veins = _step(0.38 - petal, 0.16)
    centre = rho < 0.34
    seeds = _step(np.sin(2 * np.pi * radius / 4.0 * u) * np.sin(2 * np.pi * radius / 4.0 * v), 0.5)
    mix = np.where(centre, 0.75 + 0.25 * seeds, 0.55 * (1 - rho) * (1 - veins))
    return distance, mix, np.where(centre, 1.05 - 0.25 * seeds, 1.12 - 0.5 * veins - 0.06 * v)


# The categories that an image can contain, in the order of the labels 2, 3, ... (0 is sky, 1 is ground).
THINGS: dict[str, Callable[[Field, Field, float, np.random.Generator], Drawing]] = {
    "ring": ring,
    "star": star,
    "mushroom": mushroom,
    "kite": kite,
    "house": house,
    "tree": tree,
    "fish": fish,
    "flower": flower,
}

# These categories stand on the ground and stay upright; the others float anywhere and turn freely.
STANDING = frozenset({"mushroom", "house", "tree"})
