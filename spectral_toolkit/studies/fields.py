"""What may stand in a study file: each kind of value, and mappings whose keys are checked.

A fault is raised as `fault`, which says what was expected; ``reading.py`` makes one sentence of it, with the place.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, ClassVar, Protocol, SupportsFloat, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from .._compute.arguments import shown

_LONGEST_TEXT = 4096
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except line breaks and tabs, and surrogates, which no file can hold."""


def fault(expected: str, key: str = "") -> PydanticCustomError:
    """The value, or what is below its key ``key``, is another than what is expected."""
    return PydanticCustomError("expected", "see the context", {"expected": expected, "inside": key})


def refusal(before: str, after: str, key: str = "", *, quoted: bool = False) -> PydanticCustomError:
    """A sentence that has the path of the value, or of its key ``key``, between two parts."""
    context = {"before": before, "after": after, "inside": key}
    return PydanticCustomError("quoted" if quoted else "sentence", "see the context", context)


def closest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    if not isinstance(name, str) or len(name) >= 80:
        return None
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def text(value: object) -> str:
    """A text that a file can hold."""
    if not isinstance(value, str) or not value.strip():
        raise fault("a text" + (", in quotes" if isinstance(value, bool | int | float) else ""))
    if len(value) > _LONGEST_TEXT or _NO_TEXT.search(value):
        raise fault(f"a text of at most {_LONGEST_TEXT} characters, none of them a control character")
    return value


def _yes(value: object) -> bool:
    if not isinstance(value, bool):
        raise fault("true or false")
    return value


Text = Annotated[str, PlainValidator(text)]
YesNo = Annotated[bool, PlainValidator(_yes)]


def whole(least: int, most: int = 2**32 - 1) -> PlainValidator:
    """A whole number."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise fault(f"a whole number from {least} to {most}")
        return value

    return PlainValidator(check)


def finite(value: object, fits: Callable[[float], bool], expected: str, key: str = "") -> float:
    """A finite number, also in quotes."""
    try:
        found = math.nan if isinstance(value, bool) else float(cast("SupportsFloat | str", value))
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found) or not fits(found):
        raise fault(expected, key)
    return found


def not_negative(value: object, key: str = "") -> float:
    """A number of at least 0."""
    return finite(value, lambda found: found >= 0, "a number of at least 0", key)


NotNegative = Annotated[float, PlainValidator(lambda value: not_negative(value))]


def named(value: object, known: Iterable[str], key: str = "") -> str:
    """One of the names that exist when the file is read."""
    if not isinstance(value, str) or value not in known:
        hint = f" (did you mean {close!r}?)" if (close := closest(value, known)) else ""
        raise fault(f"one of {', '.join(known)}{hint}", key)
    return value


def one_of(known: Iterable[str]) -> PlainValidator:
    """One of the names that exist when the file is read."""
    return PlainValidator(lambda value: named(value, known))


def listed(value: object) -> list[object]:
    """Several items, or one without a list."""
    items = value if isinstance(value, list | tuple) else [value]
    if not items or value is None:
        raise fault("at least one item")
    return list(items)


class _HasLabel(Protocol):
    @property
    def label(self) -> str: ...


L = TypeVar("L", bound=_HasLabel)


def _distinct(items: tuple[L, ...]) -> tuple[L, ...]:
    for label, n_items in Counter(item.label for item in items).items():
        if n_items > 1:
            raise refusal("two items of ", f" have the label {shown(label)}: give one of them another label.")
    return items


distinct = AfterValidator(_distinct)
"""No two items have the same label."""


class Part(BaseModel):
    """A mapping of a study file, whose keys are checked; ``WHAT`` is its name in messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    WHAT: ClassVar[str] = ""
    OWN: ClassVar[tuple[str, ...]] = ()
    """Fields that a file has in another place."""

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that a file may have."""
        return tuple(name for name in cls.model_fields if name not in cls.OWN)

    @classmethod
    def completed(cls, given: object) -> object:
        """A short form written out; other values stay as they are."""
        return given

    @classmethod
    def filled(cls, given: dict[str, object]) -> dict[str, object]:
        """The content of a mapping of known keys, with what follows from it."""
        return given

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        given, known = cls.completed(given), cls.keys()
        if not isinstance(given, Mapping):
            raise fault(f"{cls.WHAT} with any of the keys {', '.join(known)}")
        for name in given:
            if name not in (*known, *cls.OWN):
                raise unknown_key(name, known, cls.WHAT)
        return cls.filled(dict(given))


def unknown_key(name: object, known: Iterable[str], what: str) -> PydanticCustomError:
    """The refusal of a key that is not known."""
    hint = f"did you mean {close!r}? " if (close := closest(name, known, cutoff=0.5)) else ""
    after = f" is not a key of {what}: {hint}The keys are {', '.join(sorted(known))}."
    return refusal("", after, str(name), quoted=True)
