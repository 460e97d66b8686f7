"""From a YAML file to plain data within bounds: size, depth and number of values are checked before anything is built.

Values without quotes follow YAML 1.2's core schema: ``010`` is ten, ``1e-6`` is a number, and ``yes``, ``1:30`` and
``2020-01-02`` are texts. Keys are texts as written. PyYAML finds the events, and their meaning is decided here, because
its own constructors read YAML 1.1, accept many tags, and expand aliases without a limit.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import yaml

from ..errors import StudyError

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_VALUES = 20_000
"""The largest number of values, with every alias expanded: more paths than anybody lists by hand, read in seconds."""
MAX_DIGITS = 100
MAX_KEY = 256

Places = dict[str, tuple[int, int]]
"""Line and column of every value, both from 1, by its path, such as ``models[0].dtype``."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = {10: re.compile(r"[-+]?[0-9]+"), 8: re.compile(r"0o[0-7]+"), 16: re.compile(r"0x[0-9a-fA-F]+")}
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


def read_yaml(path: Path) -> tuple[object, Places]:
    """The content of a file of one document, and the places of its values.

    Raises
    ------
    StudyError
        If the file does not exist, is too large, or is not YAML of texts, numbers, lists and mappings.
    """
    text = _text(path)
    loader = yaml.SafeLoader(text)
    builder = _Builder(path.name, loader)
    try:
        return builder.document(), builder.places
    except StudyError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or loader.get_mark()
        raise _failed(path.name, mark.line, mark.column, error.problem or error.context or "unreadable") from error
    except (ValueError, OverflowError) as error:  # "\UFFFFFFFF": there is no such character, and PyYAML does not check
        mark = loader.get_mark()
        raise _failed(path.name, mark.line, mark.column, "an escape that stands for no character") from error


def _text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StudyError(f"{str(path)!r} is not a file: give the YAML file of a study.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StudyError(f"There is no file {str(path)!r}: give the YAML file of a study.") from error
    except StudyError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise StudyError(f"{str(path)!r} cannot be read ({error}): give the YAML file of a study.") from error
    if len(data) > MAX_BYTES:
        raise StudyError(
            f"{str(path)!r} has more than {MAX_BYTES:,} bytes, which no study needs: give the YAML file of a study."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n")
        column = len(before.rpartition(b"\n")[2].decode(errors="replace"))
        raise _failed(path.name, line, column, "it is not UTF-8, so save it as UTF-8") from error
    if (found := _UNPRINTABLE.search(text)) is not None:
        before = text[: found.start()]
        column = len(before.rpartition("\n")[2])
        raise _failed(path.name, before.count("\n"), column, f"the character U+{ord(found[0]):04X}, which is no text")
    return text


def _failed(name: str, line: int, column: int, problem: str) -> StudyError:
    return StudyError(
        f"{name}, line {line + 1}, column {column + 1}: not YAML that can be read here ({problem}): correct it there."
    )


class _Builder:
    """Builds plain data from events, and counts values meanwhile."""

    def __init__(self, name: str, loader: yaml.SafeLoader):
        self.places: Places = {}
        self._name, self._loader = name, loader
        self._anchors: dict[str, tuple[object, int]] = {}
        self._n_values = 0

    def document(self) -> object:
        self._loader.get_event()  # the stream begins
        if isinstance(self._loader.get_event(), yaml.StreamEndEvent):
            return None
        content = self._value(self._loader.get_event(), "", 0)
        self._loader.get_event()  # the document ends
        after = self._loader.get_event()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._fail(after, "a second document begins, but a study is a single document")
        return content

    def _fail(self, event: yaml.Event, problem: str) -> StudyError:
        return _failed(self._name, event.start_mark.line, event.start_mark.column, problem)

    def _count(self, event: yaml.Event, n_values: int) -> None:
        self._n_values += n_values
        if self._n_values > MAX_VALUES:
            raise self._fail(event, f"more than {MAX_VALUES:,} values, with every alias expanded")

    def _value(self, event: yaml.Event, path: str, depth: int) -> object:
        mark = event.start_mark
        self.places.setdefault(path, (mark.line + 1, mark.column + 1))
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._fail(event, f"*{event.anchor} refers to nothing that ends before it")
            content, n_values = self._anchors[event.anchor]
            self._count(event, n_values)
            return content
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        self._count(event, 1)
        before = self._n_values
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._fail(event, f"the tag {tag!r}, which a study does not need: put texts in quotes")
        if depth > MAX_DEPTH:
            raise self._fail(event, f"lists and mappings nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            content = items = list[object]()
            while not isinstance(inner := self._loader.get_event(), yaml.SequenceEndEvent):
                items.append(self._value(inner, f"{path}[{len(items)}]", depth + 1))
        elif isinstance(event, yaml.MappingStartEvent):
            content = self._mapping(path, depth)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            content = self._scalar(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = (content, 1 + self._n_values - before)
        return content

    def _mapping(self, path: str, depth: int) -> dict[str, object]:
        content: dict[str, object] = {}
        merged: list[dict[str, object]] = []
        seen: set[str] = set()
        while not isinstance(event := self._loader.get_event(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise self._fail(event, "a key must be a plain text")
            key = event.value
            if len(key) > MAX_KEY:
                raise self._fail(event, f"a key of {len(key):,} characters, where {MAX_KEY} are enough")
            if key in seen:
                raise self._fail(event, f"{key!r} occurs twice")
            seen.add(key)
            self._count(event, 1)
            value = self._value(self._loader.get_event(), f"{path}.{key}" if path else key, depth + 1)
            if key != "<<" or event.style is not None:
                content[key] = value
                continue
            given = value if isinstance(value, list) else [value]
            merged = [one for one in given if isinstance(one, dict)]
            if len(merged) < len(given):
                raise self._fail(event, "<< takes an alias of a mapping, or a list of these")
        for one in merged:
            for (
                key,
                value,
            ) in one.items():  # a key in the mapping itself takes precedence, and then the first of several
                content.setdefault(key, value)
        return content

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        text = event.value
        if event.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        base = next((base for base, form in _WHOLE.items() if form.fullmatch(text)), None)
        if base is None and not _NUMBER.fullmatch(text):
            return text
        if len(text) > MAX_DIGITS:
            raise self._fail(event, f"a number of {len(text):,} characters, where {MAX_DIGITS} are enough")
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if base is None else int(text, base)
