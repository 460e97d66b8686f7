"""The inputs of a study: models, images and labels, relative to the folder of its file, as objects and as Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import datasets
from .._compute.settings import computing
from .._io.images import Images, load_images
from .._io.label_files import from_folder, paired_files, read_label_map
from ..datasets import LabelMaps
from ..errors import StudyError
from ..scenes import sample
from .config import DatasetChoice, ModelChoice, PictureChoice, Study, portable

if TYPE_CHECKING:
    from .._models import Model


@dataclass(frozen=True)
class PictureSet:
    """Images with their labels, if there are any.

    Attributes
    ----------
    labels
        One integer map (height, width) per image, read when it is asked for; None where there are no labels.
    expression, labels_expression
        Python expressions for the same, to be run in the folder of the study's file.
    ignore
        Labels that mean 'no label', besides -1.
    labels_sha256
        Hash over all label maps; None without labels.
    categories
        Names of the categories, where they are known.
    layout
        The name of the layout of a published data set.
    """

    pictures: Images
    labels: Sequence[np.ndarray] | None
    expression: str
    labels_expression: str | None
    ignore: tuple[int, ...] = ()
    labels_sha256: str | None = None
    categories: tuple[str, ...] = ()
    layout: str = ""


def load_pictures(choice: PictureChoice, folder: Path) -> PictureSet:
    """Open a set of images.

    Raises
    ------
    StudyError
        If labels and images do not correspond one to one.
    SpectralToolkitError
        If there is no such image, or a label map cannot be read.
    """
    found = _opened(choice, folder)
    if found.labels is None:
        return found
    digest = sha256()
    for one in found.labels:
        digest.update(f"{one.shape}".encode() + np.ascontiguousarray(one, dtype="<i8").tobytes())
    if found.ignore:
        digest.update(repr(sorted(found.ignore)).encode())
    return replace(found, labels_sha256=digest.hexdigest())


def _opened(choice: PictureChoice, folder: Path) -> PictureSet:
    if choice.scenes is not None:
        asked = choice.scenes
        drawn = sample(asked.n, seed=asked.seed, size=asked.size)
        source = f"st.scenes.sample({asked.n}, seed={asked.seed}, size={asked.size})"
        labels = list(drawn["label"].to_numpy())
        expressions = f"{source}.pixels", f"{source}.label"
        return PictureSet(load_images(drawn["pixels"]), labels, *expressions, choice.ignore)
    if choice.dataset is not None:
        return _published(choice.dataset, folder)
    patterns = [from_folder(pattern, folder) for pattern in choice.files]
    source = patterns[0] if len(patterns) == 1 else patterns
    written = [portable(pattern) for pattern in choice.files]
    expression = repr(written[0]) if len(written) == 1 else repr(written)
    maps = [portable(pattern) for pattern in choice.labels]
    if not choice.labels:
        return PictureSet(load_images(source), None, expression, None)
    if choice.categories:
        names = choice.named_categories()
        places = [from_folder(one, folder) for one in choice.labels]
        data = datasets.folder(source, places, names, ignore=choice.ignore or None)
        told = f", ignore={choice.ignore!r}" if choice.ignore else ""
        from_files = f"st.datasets.folder(images, {maps!r}, {names!r}{told}).labels"
        return PictureSet(data.images, data.labels, expression, from_files, categories=data.categories)
    pictures = load_images(source)
    from_files = f"st.studies.label_maps({maps!r}, images)"
    return PictureSet(pictures, label_maps(choice.labels, pictures, folder), expression, from_files, choice.ignore)


def _published(asked: DatasetChoice, folder: Path) -> PictureSet:
    data = datasets.load(asked.layout, from_folder(asked.root, folder), asked.split)
    split = f", {asked.split!r}" if asked.split is not None else ""
    source = f"st.datasets.load({asked.layout!r}, {portable(asked.root)!r}{split})"
    if asked.n is not None:
        data = data.sample(asked.n, seed=asked.seed)
        source += f".sample({asked.n}, seed={asked.seed})"
    expressions = f"{source}.images", f"{source}.labels"
    return PictureSet(data.images, data.labels, *expressions, categories=data.categories, layout=asked.layout)


@computing
def label_maps(
    patterns: list[str] | tuple[str, ...], pictures: Images | Sequence[str], folder: Path | str = "."
) -> LabelMaps:
    """Find label maps, each in the file with the stem of its image, and in the same folder where there are several.

    Folders are compared without what all images, or all label maps, have in common: ``photos/good/000.jpg`` belongs
    to ``labels/good/000.png``, and ``good/photos/000.jpg`` to ``good/labels/000.png``. Where the two sets have no
    folder of the same name, the stem alone decides.

    Parameters
    ----------
    patterns
        Paths and patterns of files whose pixels are integers: PNG with one channel or with a palette.
    pictures
        The result of ``load_images``, or names or paths of the images, in order.
    folder
        The folder from which relative patterns start.

    Raises
    ------
    StudyError
        If an image has no map or more than one, if two images would share one, or if a file holds no integers.
    """
    names = list(pictures.names if isinstance(pictures, Images) else pictures)
    paths = pictures.paths if isinstance(pictures, Images) else [""] * len(names)
    files = paired_files(patterns, names, paths, Path(folder), error=StudyError)
    return LabelMaps(None, [partial(read_label_map, path, error=StudyError) for path in files])


def load_study_model(choice: ModelChoice, study: Study) -> Model:
    """Load a model by name, or from a folder beside the study's file."""
    from .._models import load_model

    model = load_model(
        model_source(choice, study.folder), device=study.device, dtype=choice.dtype, revision=choice.revision
    )
    if not choice.timesteps:
        return model
    at = getattr(model, "at", None)
    if at is None:
        raise StudyError(
            f"The model {choice.label!r} is no denoiser, so it has no timesteps {list(choice.timesteps)}: leave "
            "timesteps out."
        )
    return at(timesteps=list(choice.timesteps))


def model_source(choice: ModelChoice, folder: Path) -> str:
    """The folder of that name, if it exists, otherwise the name itself."""
    beside = folder / Path(choice.source).expanduser()
    return str(beside) if beside.is_dir() else choice.source
