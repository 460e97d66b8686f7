"""What a study runs on: models, pictures and labels, found from the folder of its file, and how Python names them."""

from __future__ import annotations

import glob as globbing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decoding import read_numbers
from ..errors import SpectralToolkitError, StudyError
from ..images import Pictures, load_images
from ..scenes import sample
from .config import ModelChoice, PictureChoice, Study, portable

if TYPE_CHECKING:
    from ..models import Model

_WILD = "*?["


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their labels, if there are any.

    Attributes
    ----------
    labels
        One integer map (height, width) per picture; None where nobody labelled them.
    expression, labels_expression
        Python that yields the same, run in the folder of the study's file.
    """

    pictures: Pictures
    labels: list[np.ndarray] | None
    expression: str
    labels_expression: str | None

    @property
    def labels_sha256(self) -> str | None:
        """Hash over all label maps; None without labels."""
        if self.labels is None:
            return None
        digest = sha256()
        for one in self.labels:
            digest.update(f"{one.shape}".encode() + np.ascontiguousarray(one, dtype="<i8").tobytes())
        return digest.hexdigest()


def load_pictures(choice: PictureChoice, folder: Path) -> PictureSet:
    """Open a set of pictures.

    Raises
    ------
    StudyError
        If labels do not belong to the pictures, one to one.
    SpectralToolkitError
        If there is no such picture.
    """
    if choice.scenes is not None:
        asked = choice.scenes
        drawn = sample(asked.n, seed=asked.seed, size=asked.size)
        source = f"st.scenes.sample({asked.n}, seed={asked.seed}, size={asked.size})"
        labels = list(drawn["label"].to_numpy())
        return PictureSet(load_images(drawn["pixels"]), labels, f"{source}.pixels", f"{source}.label")
    found = [_found(pattern, folder) for pattern in choice.files]
    pictures = load_images(found[0] if len(found) == 1 else found)
    written = [portable(pattern) for pattern in choice.files]
    expression = repr(written[0]) if len(written) == 1 else repr(written)
    if not choice.labels:
        return PictureSet(pictures, None, expression, None)
    from_files = f"label_maps({[portable(pattern) for pattern in choice.labels]!r}, images.names)"
    return PictureSet(pictures, label_maps(choice.labels, pictures.names, folder), expression, from_files)


def label_maps(patterns: list[str] | tuple[str, ...], names: Any, folder: Path | str = ".") -> list[np.ndarray]:
    """Read label maps, each from the file with the stem of its picture.

    Parameters
    ----------
    patterns
        Paths and patterns of files whose pixels are integers: PNG of one channel, or with a palette.
    names
        Names of the pictures, in order.
    folder
        What relative patterns start from.

    Raises
    ------
    StudyError
        If a picture has no map, or more than one, or a file holds no integers.
    """
    paths = [Path(path) for pattern in patterns for path in _matches(pattern, Path(folder))]
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)
    maps = []
    for name in names:
        found = by_stem.get(Path(str(name)).stem, [])
        if len(found) != 1:
            raise StudyError(
                f"The picture {str(name)!r} has {len(found)} label maps among the {len(paths)} files of "
                f"{', '.join(map(repr, patterns))}: give one file of the same stem for each picture."
            )
        maps.append(_label_map(found[0]))
    return maps


def _label_map(path: Path) -> np.ndarray:
    try:
        pixels = read_numbers(path)
    except SpectralToolkitError as error:
        raise StudyError(f"The label map {path.name!r} cannot be read as a picture: save it as PNG.") from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "iub":
        raise StudyError(
            f"The label map {path.name!r} has shape {pixels.shape} and type {pixels.dtype}: expected one integer a "
            "pixel, as a PNG of one channel or with a palette holds."
        )
    return pixels.astype(np.int64)


def load_study_model(choice: ModelChoice, study: Study) -> Model:
    """Load a model by name, or from a folder beside the study's file."""
    from ..models import load_model

    return load_model(
        model_source(choice, study.folder), device=study.device, dtype=choice.dtype, revision=choice.revision
    )


def model_source(choice: ModelChoice, folder: Path) -> str:
    """The folder meant, if there is one there, else the name itself."""
    beside = folder / Path(choice.source).expanduser()
    return str(beside) if beside.is_dir() else choice.source


def _found(pattern: str, folder: Path) -> str:
    """A path or pattern as seen from anywhere; brackets and stars in the folder's own name mean themselves."""
    expanded = Path(pattern).expanduser()
    if expanded.is_absolute():
        return str(expanded)
    is_pattern = any(sign in pattern for sign in _WILD) and not (folder / pattern).exists()
    return str(Path(globbing.escape(str(folder)) if is_pattern else folder) / pattern)


def _matches(pattern: str, folder: Path) -> list[str]:
    found = _found(pattern, folder)
    return [found] if Path(found).is_file() else sorted(globbing.glob(found, recursive=True))
