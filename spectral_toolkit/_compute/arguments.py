"""Checks of arguments: whole numbers, numbers, choices, yes or no, grids and types.

A value that does not fit is refused in one sentence that names the argument and the value and says what is expected.
``error`` is the class that is raised.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Callable, Iterable
from typing import TypeGuard, TypeVar

from ..errors import SpectralToolkitError

LARGEST = 2**53 - 1
"""The largest whole number up to which floats hold every one."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 4, 10, 10, 10, 78, 78

T = TypeVar("T")
Error = type[SpectralToolkitError]


def shown(value: object) -> str:
    """A value in a sentence: on one line, and short, however large it is.

    Examples
    --------
    >>> shown("two\\nlines"), shown(10**5000), len(shown("x" * 1000))
    ("'two\\\\nlines'", 'an int too long to write', 78)
    """
    try:
        text = " ".join(_REPR.repr(value).splitlines())
    except ValueError:  # Python does not write numbers of more than 4300 digits
        text = f"{type_of(value)} too long to write"
    return text if len(text) <= 80 else f"{text[:77]}..."


def type_of(value: object) -> str:
    """The type of a value, with its article."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def whole(
    name: str, value: object, least: int = 0, most: int = LARGEST, *, why: str = "", error: Error = SpectralToolkitError
) -> int:
    """A whole number from ``least`` to ``most``; ``why`` says where the bounds come from.

    Examples
    --------
    >>> whole("seed", 3.0)
    3
    >>> whole("n_segments", 0, 1)
    Traceback (most recent call last):
    spectral_toolkit.errors.SpectralToolkitError: n_segments=0 is out of range: expected a whole number of at least 1.
    """
    is_whole = _is_number(value) and (isinstance(value, numbers.Integral) or float(value).is_integer())
    if not _is_number(value) or not is_whole or not least <= int(value) <= most:
        is_technical = most >= 2**31 - 1 and not (_is_number(value) and value > most)
        bounds = f"of at least {least}" if is_technical else f"from {least} to {most}"
        raise error(f"{name}={shown(value)} is out of range: expected a whole number {bounds}{why}.")
    return int(value)


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
    fits: Callable[[float], bool] | None = None,
    expected: str = "",
    why: str = "",
    error: Error = SpectralToolkitError,
) -> float:
    """A number within bounds: ``least`` and ``most`` are allowed themselves, ``above`` and ``below`` are not.

    Other bounds are a function ``fits``, with the words ``expected``.

    Examples
    --------
    >>> number("opacity", 1, least=0, most=1)
    1.0
    >>> number("tolerance", 1, above=0, below=1, why=", such as 1e-6")
    Traceback (most recent call last):
    spectral_toolkit.errors.SpectralToolkitError: tolerance=1 is out of range: expected a number above 0 and below 1,
    such as 1e-6.
    """
    found = math.nan
    if _is_number(value):
        try:
            found = float(value)
        except OverflowError:  # a whole number with hundreds of digits
            found = math.inf if value > 0 else -math.inf
    if (
        found == found
        and not (finite and math.isinf(found))
        and (least is None or found >= least)
        and (most is None or found <= most)
        and (above is None or found > above)
        and (below is None or found < below)
        and (fits is None or fits(found))
    ):
        return found
    if not expected:
        limits = (("of at least", least), ("of at most", most), ("above", above), ("below", below))
        bounds = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        bounds = f"from {least:g} to {most:g}" if least is not None and most is not None else bounds
        expected = f"a {'finite ' if finite and math.isinf(found) else ''}number {bounds}".rstrip()
    raise error(f"{name}={shown(value)} is out of range: expected {expected}{why}.")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def choice(
    name: str, value: object, known: Iterable[str], *, also: str = "", error: Error = SpectralToolkitError
) -> str:
    """One of the names that exist; ``also`` says what else would do.

    Examples
    --------
    >>> choice("pairs", "some", ("same", "all"))
    Traceback (most recent call last):
    spectral_toolkit.errors.SpectralToolkitError: pairs='some' is not offered: use one of 'same', 'all'.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise error(f"{name}={shown(value)} is not offered: use one of {', '.join(map(repr, known))}{also}.")
    return value


def flag(name: str, value: object, *, also: str = "", error: Error = SpectralToolkitError) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise error(f"{name}={shown(value)} is not understood: use True or False{also}.")
    return value


def grid(name: str, value: object, *, error: Error = SpectralToolkitError) -> tuple[int, int]:
    """Rows and columns, each at least 1.

    Examples
    --------
    >>> grid("grid", [2, 3])
    (2, 3)
    """
    sides = tuple(value) if isinstance(value, tuple | list) else ()
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, numbers.Integral) or s < 1 for s in sides):
        raise error(f"{name}={shown(value)} is not understood: expected two whole numbers, rows and columns.")
    return int(sides[0]), int(sides[1])


def instance(
    name: str, value: object, kind: type[T], give: str, *, has: str = "", error: Error = SpectralToolkitError
) -> T:
    """A value of a type that has the variable ``has``; ``give`` says where one comes from.

    Examples
    --------
    >>> instance("graph", 3, str, "what st.affinity returned")
    Traceback (most recent call last):
    spectral_toolkit.errors.SpectralToolkitError: graph is an int: give what st.affinity returned.
    """
    if not isinstance(value, kind) or (has and has not in value):  # pyright: ignore[reportOperatorIssue]
        lacking = f" without {has!r}" if has else ""
        raise error(f"{name} is {type_of(value)}{lacking}: give {give}.")
    return value
