"""Scenes by the thousand for training: pictures and their captions, rendered once and kept in one file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from spectral_toolkit.scenes.compose import CATEGORIES, render

# A thing of which fewer pixels than this are to be seen is not named in the caption.
SMALLEST_NAMED = 24


def count_categories(label: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """The caption of one scene: how many of each category are to be seen; sky and ground count once.

    This is all that training learns about categories: which are in the picture and how many, never where.

    Parameters
    ----------
    label, instance
        Ground truth of one scene, (height, width).

    Returns
    -------
    numpy.ndarray
        ``(category,)`` uint8.
    """
    counts = np.zeros(len(CATEGORIES), np.uint8)
    numbers, first, n_pixels = np.unique(instance, return_index=True, return_counts=True)
    for position in first[(n_pixels >= SMALLEST_NAMED) & (numbers >= 0)]:
        counts[label.ravel()[position]] += 1
    return counts


def render_series(seed: int, start: int, stop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(image, y_px, x_px, rgb)`` uint8 and captions ``(image, category)`` uint8 of a run of scenes."""
    pixels = np.empty((stop - start, size, size, 3), np.uint8)
    captions = np.empty((stop - start, len(CATEGORIES)), np.uint8)
    for row, index in enumerate(range(start, stop)):
        scene = render(seed, index, size, size)
        pixels[row] = scene.pixels
        captions[row] = count_categories(scene.label, scene.instance)
    return pixels, captions


def cached_series(folder: Path, seed: int, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `render_series` from 0 to ``n``, read back from ``folder`` if it was rendered before."""
    path = folder / f"scenes_seed{seed}_n{n}_size{size}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels, captions = render_series(seed, 0, n, size)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, pixels=pixels, captions=captions)
        os.replace(partial, path)
    with np.load(path) as stored:
        return stored["pixels"], stored["captions"]
