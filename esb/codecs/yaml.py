"""YAML 1.2 (https://yaml.org/spec/1.2.2/), the part of it that is plain data, read strictly.

The core schema decides types (section 10.3), so `on` and `no` are words; numbers are as exact as
in JSON. Refused: aliases and anchors (a few bytes that stand for gigabytes), tags, duplicate keys,
keys that are no words, several documents. What is read comes as parse events, so that depth and
size are bounded whatever the text holds.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import yaml

from esb.codecs._format import Format, NoOptions
from esb.codecs.json import NUMBERS
from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure, TooLarge

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 60
MAX_VALUES: Final = 100_000
"""Of one body: each takes a few microseconds, in which nobody else runs."""

_INT = re.compile(r"[-+]?[0-9]+\Z")
_HEX_OCT = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CONSTANTS: dict[str, Any] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BRACKET = re.compile(r"[\[\]{}]")
_WORD = re.compile(r"[A-Za-z_](?:[\w ./+()@-]*[\w/+()@])?\Z", re.ASCII)

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def events(text: str) -> Iterator[Any]:
    """The parse events of a text. Raises yaml.YAMLError."""
    loader = _SafeLoader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def bracketed(text: str) -> tuple[int, int] | None:
    """Where one line opens far too many brackets, as line and column: the C scanner takes seconds
    for such a line."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count("[") + line.count("{") > 4 * MAX_DEPTH:
            depth = 0
            for found in _BRACKET.finditer(line):
                depth += 1 if found[0] in "[{" else -1
                if depth > 4 * MAX_DEPTH:
                    return number, found.start() + 1
    return None


def plain_scalar(text: str, number: Callable[[str], Any] = float) -> Any:
    """The value of an unquoted scalar in the YAML 1.2 core schema (section 10.3.2). number: what
    makes a value of one that is no integer."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.match(text):
        return int(text) if len(text) < 4000 else text
    if _HEX_OCT.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return number(text)
    return text


class YamlCodec:
    """YAML to plain data and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        """The data. Raises BadMessage with line and column, TooLarge over `MAX_BYTES`, `MAX_DEPTH`
        or `MAX_VALUES`."""
        if len(raw) > MAX_BYTES:
            raise TooLarge(f"the YAML is larger than {MAX_BYTES // 1024**2} MB")
        try:
            text = raw.decode(content_type.charset).removeprefix("\ufeff")
        except (UnicodeError, LookupError) as e:
            raise BadMessage(f"the body is not valid {content_type.charset}") from e
        if at := bracketed(text):
            raise _too_deep(at)
        try:
            return _Reader(events(text)).document()
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise BadMessage(f"the body is not valid YAML{where}: {e.problem}") from e
        except yaml.YAMLError as e:
            raise BadMessage("the body is not valid YAML: it has a character that is none") from e

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write data, in block style. Raises RouteFailure for what YAML has no form for."""
        try:
            text = yaml.dump(
                data,
                Dumper=_Dumper,
                allow_unicode=True,
                default_flow_style=False,
                sort_keys=False,
                width=2**30,
            )
            raw: bytes = text.encode(content_type.charset)
        except yaml.YAMLError as e:
            what = str(e.args[-1] if e.args else "") or "it"
            raise RouteFailure(f"the body cannot be written as YAML: {what}") from e
        except (UnicodeEncodeError, LookupError) as e:
            raise RouteFailure(f"the YAML cannot be written in {content_type.charset}") from e
        except RecursionError as e:
            raise RouteFailure("the body cannot be written as YAML: it is nested too deep") from e
        return raw


def _too_deep(at: tuple[int, int]) -> TooLarge:
    return TooLarge(
        f"the YAML is nested deeper than {MAX_DEPTH} levels at line {at[0]}, column {at[1]}"
    )


class _Reader:
    """Builds plain data from parse events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._values = 0

    def document(self) -> Any:
        data, seen = None, False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise _refused(event, "a body is one document")
                seen = True
                data = self._value(next(self._events), 0)
        return data

    def _value(self, event: Any, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise TooLarge(f"the YAML has more than {MAX_VALUES} values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused(event, "aliases and anchors are not allowed")
        if event.tag not in (None, "!"):
            raise _refused(event, "tags are not allowed")
        if depth > MAX_DEPTH:
            raise _too_deep((event.start_mark.line + 1, event.start_mark.column + 1))
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, depth + 1))
            return items
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        if event.implicit and event.implicit[0]:
            return self._plain(event)
        return event.value

    def _plain(self, event: Any) -> Any:
        try:
            # As in JSON: no number that is gigantic once somebody writes it out.
            value = plain_scalar(event.value, NUMBERS.create_decimal)
        except ArithmeticError as e:
            raise _refused(event, "the number is out of range") from e
        if isinstance(value, str) and _INT.match(value):
            raise _refused(event, "the number is out of range")
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "a key is a plain word")
            key = event.value
            if key in result:
                raise _refused(event, f"the key {key[:60]!r} stands twice in one object")
            if event.anchor or event.tag not in (None, "!"):
                raise _refused(event, "a key has no anchor and no tag")
            result[key] = self._value(next(self._events), depth + 1)
        return result


def _refused(event: Any, message: str) -> BadMessage:
    mark = event.start_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return BadMessage(f"the body is not plain YAML at {where}: {message}")


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """Writes what the reader above reads back as it was: a text that looks like something else, or
    that has more than words in it, is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """The same list twice is written twice."""
        return True


def _text(dumper: Any, text: str) -> Any:
    word = _WORD.match(text) and isinstance(plain_scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if word else '"')


def _decimal(dumper: Any, number: Decimal | float) -> Any:
    exact = number if isinstance(number, Decimal) else Decimal(repr(number))
    if not exact.is_finite():
        raise yaml.YAMLError("a NaN or an Infinity")
    digits, e, exponent = str(exact).partition("E")
    # Without a point it would come back as an integer, and older readers would take it for text.
    text = (digits if "." in digits else f"{digits}.") + e + exponent
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _bytes(dumper: Any, value: bytes) -> Any:
    return _text(dumper, b64encode(value).decode())


def _mapping(dumper: Any, data: dict[Any, Any]) -> Any:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items())


def _refuse(dumper: Any, data: Any) -> Any:
    raise yaml.YAMLError(f"a value of type {type(data).__name__}")


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(float, _decimal)
_Dumper.add_representer(Decimal, _decimal)
_Dumper.add_representer(datetime, lambda dumper, value: _text(dumper, value.isoformat()))
_Dumper.add_representer(date, lambda dumper, value: _text(dumper, value.isoformat()))
_Dumper.add_representer(bytes, _bytes)
_Dumper.add_representer(set, _refuse)
_Dumper.add_multi_representer(object, _refuse)

format = Format(
    lambda options: YamlCodec(),
    lambda options: "application/yaml",
    NoOptions,
    types=("application/yaml", "application/x-yaml", "text/yaml", "+yaml"),
)
