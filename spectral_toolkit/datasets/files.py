"""Images and label maps in folders of the user's own, paired by the names of the files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .._compute.arguments import shown
from .._compute.settings import computing
from .._io.images import Images, load_images
from .._io.label_files import paired_files
from ..errors import DatasetError
from .labelled import LabelledFile, LabelledImages
from .reading import AsStored, Numbers, numbered

USUAL_VOID = 255
"""Means 'no label' wherever categories are named and this is not the id of one."""


@computing
def folder(
    images: object,
    labels: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    categories: Sequence[str] | Mapping[int, str] | None = None,
    *,
    ignore: int | Iterable[int] | None = None,
    instances: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> LabelledImages:
    """Images of your own with a label map for each: integers in a file of the same stem.

    Parameters
    ----------
    images
        Files, as :func:`spectral_toolkit.load_images` takes them: a pattern, a folder, or a list of paths.
    labels
        A folder, a pattern or several of the label maps: PNG with one channel or with a palette. Where images of one
        name are in several folders, so are their label maps.
    categories
        Names of the categories: a list, in which label 0 is the first; or a mapping from the numbers in the files to
        names, such as ``{11: "building", 23: "sky"}``, whose order becomes the order of the labels. None keeps the
        numbers as they are.
    ignore
        One or several numbers that mean 'no label'. With names, 255 does unless it is one of the numbers.
    instances
        The same as ``labels`` for maps with one number per object, 0 where there is none.

    Returns
    -------
    LabelledImages

    Raises
    ------
    DatasetError
        If an image has no label map or several, or names are not texts. Numbers without a name are refused when the
        file is read, and named with it.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> home = tempfile.mkdtemp()
    >>> Image.new("RGB", (4, 2)).save(f"{home}/leaf.jpg")
    >>> Image.fromarray(np.array([[1, 1, 0, 0], [1, 1, 255, 255]], np.uint8)).save(f"{home}/leaf.png")
    >>> data = folder(f"{home}/*.jpg", f"{home}/*.png", ["soil", "leaf"])
    >>> data.names, data.labels[0].tolist()
    (('leaf.jpg',), [[1, 1, 0, 0], [1, 1, -1, -1]])
    """
    pictures = load_images(images)
    if not all(pictures.paths):
        raise DatasetError(
            "Label maps are found by the names of the images' files, but an image is no file: give paths, or pass "
            "arrays of labels to st.prepare_labels."
        )
    void = _void(ignore)
    files = _files(labels, "labels", pictures)
    objects = None if instances is None else _files(instances, "instances", pictures)
    if categories is None:
        names, readers = (), [AsStored(path, void) for path in files]
    else:
        place, names = _categories(categories)
        void = void or ((USUAL_VOID,) if USUAL_VOID not in place else ())
        place = {number: at for number, at in place.items() if number not in void}
        ids = f"those of the {len(names)} named categories ({shown(sorted(place))})"
        readers = [Numbers(path, place, void, ids) for path in files]
    found = [
        LabelledFile(Path(path), reader, None if objects is None else AsStored(objects[at], (0,)))
        for at, (path, reader) in enumerate(zip(pictures.paths, readers, strict=True))
    ]
    return LabelledImages(found, names, title="a folder", images=pictures)


def _files(given: object, name: str, pictures: Images) -> list[Path]:
    patterns = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(patterns, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in patterns):
        raise DatasetError(f"{name}={shown(given)} is not understood: give a folder, a pattern, or a list of these.")
    what = {"labels": "label map", "instances": "instance map"}[name]
    texts = [os.fspath(one) for one in patterns]
    return paired_files(texts, pictures.names, pictures.paths, Path(), error=DatasetError, what=what)


def _void(ignore: int | Iterable[int] | None) -> tuple[int, ...]:
    if ignore is None:
        return ()
    values = list(ignore) if isinstance(ignore, Iterable) and not isinstance(ignore, str) else [ignore]
    if any(isinstance(value, bool) or not isinstance(value, int | np.integer) for value in values):
        raise DatasetError(f"ignore={shown(ignore)} is not understood: give a whole number, such as 255, or several.")
    return tuple(int(value) for value in values)


def _categories(given: object) -> tuple[dict[int, int], tuple[str, ...]]:
    numbers = list(given) if isinstance(given, Mapping) else None
    texts = list(given.values()) if isinstance(given, Mapping) else given
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        texts = []
    names = tuple(texts)
    fits = all(isinstance(name, str) and name.strip() for name in names) and len(set(names)) == len(names)
    if numbers is not None:
        fits = fits and all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in numbers)
    if not names or not fits:
        raise DatasetError(
            f"categories={shown(given)} is not understood: give different names in a list, or a mapping from the "
            "numbers in the files to names."
        )
    if numbers is None:
        return numbered(names), names
    return {int(number): place for place, number in enumerate(numbers)}, names
