"""Colours that go together, drawn in OKLCH (Ottosson 2020), where equal steps look equally large.

One hue is drawn for a scene and the others are derived from it, so the images are harmonious; an object's colour is
drawn without regard to its category, so colour never tells what an object is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = np.ndarray  # (3,) sRGB in 0..1


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """Convert OKLCH (lightness 0..1, chroma about 0..0.3, hue in turns) to sRGB in 0..1, clipped to the gamut."""
    a = chroma * np.cos(2 * np.pi * hue)
    b = chroma * np.sin(2 * np.pi * hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.array(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    ).clip(0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Palette:
    """The colours of one scene: sky from top to horizon, ground from horizon to front, and pairs for the objects."""

    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    things: tuple[tuple[Colour, Colour], ...]
    night: bool


# Lightness at the top and at the horizon, and chroma, of a sky: day, haze, dusk, night.
_SKIES = ((0.76, 0.91, 0.085), (0.86, 0.94, 0.04), (0.62, 0.84, 0.10), (0.27, 0.44, 0.07))
# Lightness at the horizon and in front, and chroma, of a ground: meadow, sand or snow, earth, dark moss.
_GROUNDS = ((0.78, 0.64, 0.10), (0.94, 0.84, 0.045), (0.66, 0.50, 0.075), (0.48, 0.36, 0.06))


def draw_palette(rng: np.random.Generator, n_things: int) -> Palette:
    """Draw the colours of one scene.

    Parameters
    ----------
    rng
        Source of randomness.
    n_things
        The number of pairs of main and accent colour to draw.
    """
    base = rng.random()
    mood = rng.choice(4, p=(0.4, 0.2, 0.22, 0.18))
    top, horizon, chroma = _SKIES[mood]
    sky_hue = base + rng.normal(0, 0.03)
    sky = (oklch(top, chroma, sky_hue), oklch(horizon, chroma * 0.7, sky_hue + rng.uniform(-0.16, 0.16)))

    night = bool(mood == 3)
    far, near, chroma = _GROUNDS[rng.choice(4, p=(0.1, 0.1, 0.35, 0.45) if night else (0.35, 0.3, 0.25, 0.1))]
    ground_hue = base + rng.choice((0.08, -0.12, 0.33, 0.5, 0.62)) + rng.normal(0, 0.02)
    ground = (oklch(far, chroma, ground_hue), oklch(near, chroma * 1.1, ground_hue + rng.uniform(-0.05, 0.05)))

    # Objects are richer in colour than their background, and their accent differs much in lightness from the main
    # colour.
    hues = base + np.array((0.5, 0.42, 0.58, 0.33, 0.67, 0.08, 0.92))
    pairs = []
    for hue in rng.choice(hues, size=n_things):
        lightness = rng.uniform(0.48, 0.76)
        accent = lightness + (0.26 if lightness < 0.62 else -0.28) + rng.normal(0, 0.03)
        main = oklch(lightness, rng.uniform(0.11, 0.18), hue + rng.normal(0, 0.02))
        pairs.append((main, oklch(accent, rng.uniform(0.04, 0.12), hue + rng.choice((0.0, 0.08, -0.08, 0.45)))))
    return Palette(sky, ground, tuple(pairs), night)
