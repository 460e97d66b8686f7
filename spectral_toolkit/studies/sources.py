"""What a study runs on: models, pictures and labels, found from the folder of its file, and how Python names them."""

from __future__ import annotations

import glob as globbing
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._io.decoding import read_numbers
from .._io.images import Pictures, load_images
from ..errors import SpectralToolkitError, StudyError
from ..scenes import sample
from .config import ModelChoice, PictureChoice, Study, portable

if TYPE_CHECKING:
    from .._models import Model

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
    ignore
        Labels that mean 'no label', besides -1.
    """

    pictures: Pictures
    labels: list[np.ndarray] | None
    expression: str
    labels_expression: str | None
    ignore: tuple[int, ...] = ()

    @property
    def labels_sha256(self) -> str | None:
        """Hash over all label maps; None without labels."""
        if self.labels is None:
            return None
        digest = sha256()
        for one in self.labels:
            digest.update(f"{one.shape}".encode() + np.ascontiguousarray(one, dtype="<i8").tobytes())
        if self.ignore:
            digest.update(repr(sorted(self.ignore)).encode())
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
        expressions = f"{source}.pixels", f"{source}.label"
        return PictureSet(load_images(drawn["pixels"]), labels, *expressions, choice.ignore)
    found = [_found(pattern, folder) for pattern in choice.files]
    pictures = load_images(found[0] if len(found) == 1 else found)
    written = [portable(pattern) for pattern in choice.files]
    expression = repr(written[0]) if len(written) == 1 else repr(written)
    if not choice.labels:
        return PictureSet(pictures, None, expression, None)
    from_files = f"label_maps({[portable(pattern) for pattern in choice.labels]!r}, images)"
    return PictureSet(pictures, label_maps(choice.labels, pictures, folder), expression, from_files, choice.ignore)


def label_maps(
    patterns: list[str] | tuple[str, ...], pictures: Pictures | Sequence[str], folder: Path | str = "."
) -> list[np.ndarray]:
    """Read label maps, each from the file with the stem of its picture, and in the same folder where there are several.

    Folders are compared without what all pictures, or all label maps, have in common: ``photos/good/000.jpg`` belongs
    to ``labels/good/000.png``, and ``good/photos/000.jpg`` to ``good/labels/000.png``. Where the two sets have no
    folder of one name, the stem alone decides.

    Parameters
    ----------
    patterns
        Paths and patterns of files whose pixels are integers: PNG of one channel, or with a palette.
    pictures
        What ``load_images`` returned, or names or paths of the pictures, in order.
    folder
        What relative patterns start from.

    Raises
    ------
    StudyError
        If a picture has no map, or more than one, if two pictures would share one, or a file holds no integers.
    """
    found = [Path(path).absolute() for pattern in patterns for path in _matches(pattern, Path(folder))]
    files = list(dict.fromkeys(found))
    names = list(pictures.names if isinstance(pictures, Pictures) else pictures)
    paths = pictures.paths if isinstance(pictures, Pictures) else [""] * len(names)
    places = _folders([Path(path or name) for path, name in zip(paths, names, strict=True)])
    by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for place, path in zip(_folders(files), files, strict=True):
        by_stem.setdefault(path.stem, []).append((place, path))
    nested = set(places) & {place for entries in by_stem.values() for place, _ in entries}
    given = f"the {len(files)} files of {', '.join(map(repr, patterns))}"
    taken: dict[Path, tuple[tuple[str, ...], str]] = {}
    chosen = []
    for name, path, place in zip(names, paths, places, strict=True):
        entries = by_stem.get(Path(path or name).stem, [])
        fitting = [one for own, one in entries if not nested or own == place]
        if len(fitting) != 1:
            shown = fitting or [one for _, one in entries]
            which = f" ({', '.join(repr('/'.join(one.parts[-2:])) for one in shown[:3])})" if shown else ""
            which = f"{' in its folder' if nested and entries else ''}{which}"
            raise StudyError(
                f"The picture {name!r} has {len(fitting)} label maps among {given}{which}: give one file of the same "
                "stem for each picture, in folders named as the pictures' are where stems are not unique."
            )
        other = taken.setdefault(fitting[0], (place, name))
        if other[0] != place:
            raise StudyError(
                f"The label map {fitting[0].name!r} would belong to two pictures, {other[1]!r} and {name!r}: put the "
                "label maps into folders named as the pictures' are."
            )
        chosen.append(fitting[0])
    return [_label_map(path) for path in chosen]


def _folders(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """The folders that tell files apart: what lies above and below them in all of the paths is left out.

    Examples
    --------
    >>> _folders([Path("all/good/photos/1.png"), Path("all/bad/photos/1.png")])
    [('good',), ('bad',)]
    """
    parts = [path.parent.parts for path in paths]
    above = _n_common(parts)
    parts = [one[above:] for one in parts]
    below = _n_common([one[::-1] for one in parts])
    return [one[: len(one) - below] for one in parts]


def _n_common(parts: Sequence[tuple[str, ...]]) -> int:
    """How many parts all of them begin with."""
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False)))


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
    from .._models import load_model

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
