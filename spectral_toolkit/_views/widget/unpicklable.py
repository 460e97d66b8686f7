"""What belongs to the page that shows it cannot be pickled or copied, and says so."""

from __future__ import annotations

from typing import NoReturn

from ...errors import SpectralToolkitError


class Unpicklable:
    """The part of `Explorer` that refuses to be pickled and copied."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise SpectralToolkitError(
            "An explorer belongs to the page that shows it and cannot be pickled or copied: keep its state and "
            "activations, and make another with Explorer(activations, state=state)."
        )

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(4)

    def __deepcopy__(self, memo: dict[int, object]) -> NoReturn:
        self.__reduce_ex__(4)
