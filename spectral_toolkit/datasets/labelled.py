"""Images with label maps: read when they are asked for, checked against the size of their image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from .._compute.arguments import whole
from .._compute.settings import computing
from .._io.images import Images, load_images
from .._io.pairing import first_names
from ..errors import DatasetError

Reader = Callable[[], np.ndarray]
NONE = -1
"""The label of pixels without one, and the instance of pixels that belong to none."""


@dataclass(frozen=True)
class LabelledFile:
    """One image and how its maps are read.

    Attributes
    ----------
    image
        The file of the image.
    labels
        A function that returns integers (height, width): places in the categories, -1 where there is no label.
    instances
        The same for instances: a number for each, whatever it is, and -1 where there is none.
    """

    image: Path
    labels: Reader
    instances: Reader | None = None


class LabelMaps(Sequence[np.ndarray]):
    """Label maps, int64 (height, width), each read when it is asked for.

    A map that has not the size of its image is refused, with the image's EXIF orientation applied, as `load_images`
    does. Without an owner there is nothing to compare it with.
    """

    def __init__(self, owner: LabelledImages | None, readers: Sequence[Reader]):
        self._owner, self._readers = owner, tuple(readers)

    def __len__(self) -> int:
        return len(self._readers)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> LabelMaps: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | LabelMaps:
        if isinstance(index, slice):
            return LabelMaps(self._owner and self._owner[index], self._readers[index])
        found = self._readers[index]()
        if self._owner is not None and found.shape != (size := self._owner.images.sizes[index]):
            raise DatasetError(
                f"The label map of image {self._owner.names[index]!r} has {found.shape[0]}x{found.shape[1]} pixels, "
                f"but the image has {size[0]}x{size[1]} with its EXIF orientation applied: give the map of this "
                "image, turned like it."
            )
        return found

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<LabelMaps of {len(self)} images>"


class LabelledImages(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Images with a label for every pixel, read from the disk when they are asked for.

    Each item is a pair of pixels and labels; a slice is a part of the same kind.

    Attributes
    ----------
    images
        The images, as :func:`spectral_toolkit.load_images` returns them.
    labels
        A label map for each, int64 (height, width): places in ``categories``, -1 for pixels without a label. They are
        taken as they are by :func:`spectral_toolkit.prepare_labels` and :func:`spectral_toolkit.evaluate`.
    instances
        A map of the instances of each, -1 where a pixel belongs to none; None where the layout has no instances.
    categories
        Names of the categories; empty where they are not known.
    title
        The name of the layout in words.
    """

    def __init__(
        self,
        files: Iterable[LabelledFile],
        categories: Sequence[str] = (),
        *,
        title: str = "labelled images",
        images: Images | None = None,
    ):
        self.files = tuple(files)
        self.categories = tuple(categories)
        self.title = title
        if not self.files:
            raise DatasetError(f"There is no image in {title}: give at least one.")
        if images is not None:
            self.__dict__["images"] = images

    @cached_property
    def images(self) -> Images:
        return load_images([one.image for one in self.files])

    @property
    def names(self) -> tuple[str, ...]:
        """A unique name for each image, that of its file with as many folders as it needs."""
        return self.images.names

    @property
    def labels(self) -> LabelMaps:
        return LabelMaps(self, [one.labels for one in self.files])

    @property
    def instances(self) -> LabelMaps | None:
        readers = [one.instances for one in self.files]
        return None if any(one is None for one in readers) else LabelMaps(self, [one for one in readers if one])

    @computing
    def sample(self, n: int, *, seed: int = 0) -> LabelledImages:
        """Choose ``n`` images at random, in their order, or all of them if ``n`` is larger."""
        n = whole("n", n, 1, error=DatasetError)
        seed = whole("seed", seed, 0, 2**32 - 1, error=DatasetError)
        if n >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False))
        return self._part([self.files[index] for index in chosen])

    def _part(self, files: Sequence[LabelledFile]) -> LabelledImages:
        return LabelledImages(files, self.categories, title=self.title)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...

    @overload
    def __getitem__(self, index: slice) -> LabelledImages: ...

    def __getitem__(self, index: int | slice) -> tuple[np.ndarray, np.ndarray] | LabelledImages:
        if isinstance(index, slice):
            return self._part(self.files[index])
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        names = first_names([one.image.name for one in self.files])
        return f"<LabelledImages: {len(self)} of {self.title}, {len(self.categories)} categories, {names}>"
