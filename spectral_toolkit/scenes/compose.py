"""Composes one scene of sky, ground, objects in the order of depth, and light, together with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .palette import Palette, draw_palette
from .shapes import STANDING, THINGS

CATEGORIES = ("sky", "ground", *THINGS)
SKY, GROUND, FIRST_THING = 0, 1, 2
# Everything is painted at a resolution this many times finer and then averaged: edges are smooth, labels by majority.
OVERSAMPLING = 3

# Objects that are often seen together; a third of all objects is drawn regardless of this.
_THEMES = (
    ("house", "tree", "kite", "flower"),
    ("fish", "ring", "star"),
    ("mushroom", "flower", "tree"),
    ("kite", "star", "ring", "house"),
    ("flower", "fish", "mushroom"),
)


@dataclass(frozen=True)
class Scene:
    """One image with its ground truth; all arrays are (height, width) in pixels."""

    pixels: np.ndarray  # (height, width, 3) uint8
    label: np.ndarray  # int16, index into CATEGORIES
    instance: np.ndarray  # int16, 0 sky, 1 ground, 2, 3, ... objects from back to front


@dataclass(frozen=True)
class _Thing:
    category: str
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool


def _smooth_noise(rng: np.random.Generator, height: int, width: int, rows: float, columns: float) -> np.ndarray:
    """Make noise of unit variance at its knots, interpolated bilinearly in a grid of about rows x columns knots."""

    def weights(n: int, n_knots: int) -> np.ndarray:
        position = (np.arange(n) + 0.5) / n * (n_knots - 1)
        return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n_knots)))

    n_rows, n_columns = max(2, round(rows)), max(2, round(columns))
    knots = rng.standard_normal((n_rows, n_columns))
    return weights(height, n_rows) @ knots @ weights(width, n_columns).T


def _draw_horizon(rng: np.random.Generator, height: int, x: np.ndarray) -> np.ndarray:
    """Draw the skyline, in pixels from the top for each column; outside the image if there is no skyline."""
    kind = rng.random()
    if kind < 0.16:  # up in the air
        return np.full_like(x, 2.0 * height)
    if kind < 0.32:  # looking down
        return np.full_like(x, -float(height))
    level = rng.uniform(0.28, 0.78) * height
    swing = rng.uniform(0.5, 4.5)
    phases = rng.uniform(0, 2 * np.pi, 2)
    return level + swing * (np.sin(x / rng.uniform(14, 30) + phases[0]) + 0.5 * np.sin(x / 9 + phases[1]))


def _draw_things(rng: np.random.Generator, height: int, width: int, horizon: np.ndarray) -> list[_Thing]:
    """Choose categories and places, from back to front."""
    area = height * width / 96**2
    n_things = max(1, round(rng.integers(2, 7) * area))
    theme = _THEMES[rng.integers(len(_THEMES))]
    names = tuple(THINGS)
    things: list[_Thing] = []
    level = float(horizon.mean())
    for _ in range(n_things):
        category = str(rng.choice(theme if rng.random() < 0.6 else names))
        radius = rng.uniform(13.0, 25.0)
        standing = category in STANDING and level < height
        best, best_room = (0.0, 0.0), -np.inf
        for _ in range(7):  # the least crowded of a few places, so that objects overlap but seldom hide each other
            # Mostly inside; in the middle where an image is smaller than the objects.
            margin_x, margin_y = min(0.3 * radius, 0.5 * width), min(0.35 * radius, 0.5 * height)
            x = rng.uniform(margin_x, width - margin_x)
            y = rng.uniform(margin_y, height - margin_y)
            if standing:
                y = rng.uniform(max(level, 0.0), height + 0.3 * radius) - 0.85 * radius
            room = min((np.hypot(x - t.x, y - t.y) / (radius + t.radius) for t in things), default=1.0)
            if room > best_room:
                best, best_room = (x, y), room
            if room > 0.8:
                break
        upright = category in STANDING
        angle = rng.normal(0, 0.07) if upright else rng.normal(0, 0.4) if category == "fish" else rng.uniform(0, 7)
        things.append(_Thing(category, *best, radius, angle, bool(rng.random() < 0.5)))
    return sorted(things, key=lambda thing: thing.y + 0.85 * thing.radius)


def _paint_background(
    rng: np.random.Generator, palette: Palette, height: int, width: int, horizon: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paint the sky and the ground, each over the whole image and at the final resolution: they hold no sharp edge."""
    y = np.arange(height)[:, None] + 0.5
    skyline = horizon[OVERSAMPLING // 2 :: OVERSAMPLING]
    level = float(np.clip(horizon.mean(), 0, height))

    descent = np.clip(y / max(level, 1.0), 0, 1)
    clouds = _smooth_noise(rng, height, width, height / 9, width / 26)
    clouds += 0.5 * _smooth_noise(rng, height, width, height / 5, width / 11)
    cover = np.clip(clouds - rng.uniform(0.4, 1.6), 0, 1.2) * (0.055 if palette.night else 0.275)
    sky = palette.sky[0] + (palette.sky[1] - palette.sky[0]) * descent[..., None]
    sky = sky + (1 - sky) * cover[..., None]
    if palette.night:
        n_stars = rng.integers(6, 16)
        rows, columns = rng.integers(0, height, n_stars), rng.integers(0, width, n_stars)
        sky[rows, columns] += rng.uniform(0.15, 0.4, n_stars)[:, None]

    depth = np.clip((y - np.maximum(skyline, 0)) / max(height - level, 1.0), 0, 1)
    tufts = _smooth_noise(rng, height, width, height / 2.2, width / 4.5)
    tufts += _smooth_noise(rng, height, width, height / 1.4, width / 2)
    patches = _smooth_noise(rng, height, width, height / 7, width / 16)
    ground = palette.ground[0] + (palette.ground[1] - palette.ground[0]) * depth[..., None]
    ground = ground * (1 + rng.uniform(0.035, 0.065) * tufts + 0.045 * patches)[..., None]
    return sky, ground


def _enlarge(picture: np.ndarray) -> np.ndarray:
    return picture.repeat(OVERSAMPLING, axis=0).repeat(OVERSAMPLING, axis=1)


def render(seed: int, index: int, height: int, width: int) -> Scene:
    """Render scene number ``index`` of series ``seed``; it depends on nothing else, so scenes can be made in any order.

    All of it is computed in double precision: in single precision, the last digit of a sine, in which processors
    differ, changes a byte of every tenth image, and with it the noise that is drawn from an image's bytes.
    """
    rng = np.random.default_rng((seed, index))
    fine = OVERSAMPLING
    y = (np.arange(height * fine) + 0.5) / fine
    x = (np.arange(width * fine) + 0.5) / fine
    horizon = _draw_horizon(rng, height, x)
    things = _draw_things(rng, height, width, horizon)
    palette = draw_palette(rng, len(things))
    sky, ground = _paint_background(rng, palette, height, width, horizon)
    below = y[:, None] > horizon
    canvas = np.where(below[..., None], _enlarge(ground), _enlarge(sky))
    instance = below.astype(np.int16)

    for number, (thing, (main, accent)) in enumerate(zip(things, palette.things, strict=True), start=FIRST_THING):
        _cast_shadow(canvas, below, thing, y, x)
        _paint_thing(canvas, instance, thing, number, main, accent, rng, y, x)

    # Uneven light over the whole image, then the grain of a camera.
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.12) * (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)[:, None])
    small = sum(canvas[row::fine, column::fine] for row in range(fine) for column in range(fine)) / fine**2
    middle = fine // 2
    small *= (1 + slope[middle::fine, middle::fine])[..., None]
    small += rng.normal(0, rng.uniform(0.004, 0.016), small.shape)
    pixels = (small.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    instance = _majority(instance, len(things) + FIRST_THING)
    kinds = [SKY, GROUND, *(CATEGORIES.index(thing.category) for thing in things)]
    return Scene(pixels, np.array(kinds, np.int16)[instance], instance)


def _window(thing: _Thing, y: np.ndarray, x: np.ndarray, reach: float) -> tuple[slice, slice]:
    rows = np.searchsorted(y, (thing.y - reach * thing.radius, thing.y + reach * thing.radius))
    columns = np.searchsorted(x, (thing.x - reach * thing.radius, thing.x + reach * thing.radius))
    return slice(*rows.tolist()), slice(*columns.tolist())


def _cast_shadow(canvas: np.ndarray, below: np.ndarray, thing: _Thing, y: np.ndarray, x: np.ndarray) -> None:
    """Cast a soft dark ellipse on the ground: under a standing object, slightly away from a floating one."""
    rows, columns = _window(thing, y, x, 1.6)
    standing = thing.category in STANDING
    drop = 0.92 if standing else 0.25
    across = (x[columns] - thing.x - 0.18 * thing.radius) / thing.radius
    along = (y[rows] - thing.y - drop * thing.radius)[:, None] / (thing.radius * (0.24 if standing else 1.0))
    darkness = 0.42 * np.exp(-1.6 * (across**2 + along**2) ** 1.5) * below[rows, columns]
    canvas[rows, columns] *= (1 - darkness)[..., None]


def _paint_thing(
    canvas: np.ndarray,
    instance: np.ndarray,
    thing: _Thing,
    number: int,
    main: np.ndarray,
    accent: np.ndarray,
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
) -> None:
    rows, columns = _window(thing, y, x, 1.15)
    across = (x[columns] - thing.x)[None, :] / thing.radius
    along = (y[rows] - thing.y)[:, None] / thing.radius
    cosine, sine = np.cos(thing.angle), np.sin(thing.angle)
    u = (cosine * across + sine * along) * (-1 if thing.mirrored else 1)
    v = -sine * across + cosine * along
    distance, mix, light = THINGS[thing.category](u, v, thing.radius, rng)
    inside = distance < 0
    # A thin darker rim separates objects from their background without the black line of a cartoon.
    rim = 1 - 0.34 * np.clip(1 + distance * thing.radius / 1.3, 0, 1)
    paint = (main + (accent - main) * mix[..., None]) * (light * rim)[..., None]
    canvas[rows, columns] = np.where(inside[..., None], paint, canvas[rows, columns])
    instance[rows, columns][inside] = number


def _majority(instance: np.ndarray, n_instances: int) -> np.ndarray:
    """Return the instance that covers most of each pixel; if several do, the one further back."""
    height, width = instance.shape[0] // OVERSAMPLING, instance.shape[1] // OVERSAMPLING
    winner, most = np.zeros((height, width), np.int16), np.zeros((height, width), np.int8)
    steps = range(OVERSAMPLING)
    for number in range(n_instances):
        here = (instance == number).view(np.int8)
        count = sum(here[row::OVERSAMPLING, column::OVERSAMPLING] for row in steps for column in steps)
        winner = np.where(count > most, np.int16(number), winner)
        most = np.maximum(most, count)
    return winner
