"""Captions of scenes as the generative model reads them: no learned text encoder, one token per category of object."""

from __future__ import annotations

import re

import numpy as np

from ..errors import SpectralToolkitError
from .compose import CATEGORIES

COUNTS = ("one", "two", "three or more")
# A token holds the noun, the number, and whether it stands for the empty caption; two entries are unused.
WIDTH = 16
TOKENS = 10
_NULL = len(CATEGORIES) + len(COUNTS)
_NUMBERS = {
    "a": 1,
    "an": 1,
    "the": 1,
    "one": 1,
    "two": 2,
    **dict.fromkeys(("three", "four", "five", "six", "some", "many", "several"), 3),
}
_IGNORED = {"and", "on", "in", "with", "under", "over", "at", "of", "scene", "picture"}
_NOUNS = {
    form: index
    for index, name in enumerate(CATEGORIES)
    for form in (name, name + "s", name + "es", re.sub("y$", "ies", name))
}


def parse_caption(caption: object) -> np.ndarray:
    """Count the objects that a caption names.

    Parameters
    ----------
    caption
        A text such as ``"two rings and a star on the ground"``: nouns are the categories of scenes, numbers are words
        or digits; small words between them are ignored, and so is the position of the objects. An empty text means no
        caption.

    Returns
    -------
    numpy.ndarray
        ``(category,)`` uint8; all zero without a caption.

    Raises
    ------
    SpectralToolkitError
        If a word is not in the vocabulary, or a number has no noun.

    Examples
    --------
    >>> parse_caption("two rings and a star on the ground").tolist()
    [0, 1, 2, 1, 0, 0, 0, 0, 0, 0]
    """
    if not isinstance(caption, str):
        raise SpectralToolkitError(f"caption={caption!r} is not text: expected words such as 'two rings and a star'.")
    counts = np.zeros(len(CATEGORIES), np.uint8)
    number: int | None = None
    for word in re.findall(r"[^\W_]+", caption.lower()):
        if word in _NUMBERS or word.isdecimal():
            number = _NUMBERS[word] if word in _NUMBERS else int(word)
            if not 1 <= number <= 255:
                raise SpectralToolkitError(f"caption={caption!r}: {word} is not a number of objects from 1 to 255.")
        elif word in _NOUNS:
            index = _NOUNS[word]
            # A plural without a number means several.
            several = 1 if word == CATEGORIES[index] or index < 2 else 3
            counts[index] = min(255, int(counts[index]) + (several if number is None else number))
            number = None
        elif word not in _IGNORED:
            raise SpectralToolkitError(
                f"caption={caption!r}: {word!r} is not a word this model knows; it knows {', '.join(CATEGORIES)}, "
                "their plurals, and numbers."
            )
    if number is not None:
        raise SpectralToolkitError(
            f"caption={caption!r} ends with a number: add the noun that it counts, for example 'two rings'."
        )
    return counts


def encode_captions(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode captions as tokens, and sum these.

    Parameters
    ----------
    counts
        ``(image, category)``; a row of zeros is the empty caption.

    Returns
    -------
    tokens : numpy.ndarray
        ``(image, 10, 16)`` float32: noun one-hot (10), number one-hot (1, 2, 3 and more), a mark for the empty caption;
        one row per category that is named, and zero in the other rows.
    pooled : numpy.ndarray
        ``(image, 16)`` float32, the sum of the tokens.
    """
    counts = np.asarray(counts)
    tokens = np.zeros((len(counts), TOKENS, WIDTH), np.float32)
    for row, named in enumerate(counts):
        for place, category in enumerate(np.flatnonzero(named)):
            tokens[row, place, category] = 1
            tokens[row, place, len(CATEGORIES) + min(int(named[category]), 3) - 1] = 1
        if not named.any():
            tokens[row, 0, _NULL] = 1
    return tokens, tokens.sum(1)
