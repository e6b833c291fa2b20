"""JSON (RFC 8259), exact: what was read is what would be written, or it is refused.

Integers stay integers of any size (up to 4,300 digits); every other number is a Decimal that
keeps its digits (1.10 stays 1.10), within the exponents of IEEE 754 decimal128. Refused, because
two readers would understand two things: duplicate keys, NaN and Infinity, unpaired surrogates,
anything but UTF-8 (section 8.1; one byte order mark is ignored). Written beside the plain types:
dates and times as ISO 8601, bytes as base64, UUIDs and enums as text or number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Clamped, Context, Decimal, Inexact, InvalidOperation, Overflow, Subnormal
from math import isfinite
from typing import Any

import msgspec

from esb.codecs._format import Format, NoOptions, Stream
from esb.codecs._json_items import ItemsOptions, read_items
from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure, TooLarge

MAX_DEPTH = 200
"""How deep arrays and objects may nest, read or written."""

MAX_VALUES = 400_000
"""Values and members of one text: each takes up to a hundred bytes of memory, and a fraction of a
microsecond in which nobody else runs."""

# A signal instead of a rounded or gigantic number: 1e400000000 is eleven bytes on the wire and
# 400 MB once somebody writes it out.
NUMBERS = Context(
    prec=4300,
    Emin=-6143,
    Emax=6144,
    traps=[InvalidOperation, Overflow, Inexact, Subnormal, Clamped],
)
_decode = msgspec.json.Decoder(float_hook=NUMBERS.create_decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_pack = msgspec.msgpack.Encoder().encode

_NAN_OR_INFINITY = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_BYTE_OFFSET = re.compile(r"(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?\Z", re.DOTALL)
_FOREIGN = (
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x00", "UTF-16 or UTF-32"),
)
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\"[\s\]}]*\Z")
_DIGITS = bytes.maketrans(b"123456789.", b"0" * 10)
_MANY_DIGITS = b"0" * 500
_ZEROS = re.compile(rb"0*")
_BEFORE_A_NUMBER = frozenset((b"", b"[", b":", b",", b"-", b" ", b"\t", b"\r", b"\n"))
_FEW_BRACKETS = 16 * 1024
_CONTAINERS = frozenset((dict, list, tuple))

# Of a text that is JSON: its colons and brackets, which are then of one kind. One pass of this is
# faster than to count one character that occurs often.
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{}:"))
_NO_BEGINNING = bytes(set(range(256)) - set(b'[{,"'))
_SAME_BRACKETS = bytes.maketrans(b"{}", b"[]")


class JsonCodec:
    """JSON text to plain data and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        """Parse `raw`. Raises BadMessage with line and column, TooLarge when nested too deep."""
        return loads(raw)

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write `data`. Raises RouteFailure for what JSON has no form for."""
        return dumps(data)


def loads(raw: bytes, line: int = 1) -> Any:
    """The data of a JSON text, exact. line: the number of its first, for errors.

    Raises BadMessage, naming line and column, when it is not JSON; TooLarge over `MAX_DEPTH`.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
    if len(raw) > MAX_VALUES:
        _check_large(raw)
    try:
        data = _decode(raw)
    except RecursionError as e:
        raise _too_deep() from e
    except ArithmeticError as e:
        raise BadMessage("the JSON has a number out of range") from e
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise BadMessage(_explain(raw, e, line)) from e
    structure = raw.translate(_SAME_BRACKETS, _NO_STRUCTURE)
    colons = structure.count(b":")
    if len(structure) - colons > 2 * MAX_DEPTH and _may_be_too_deep(structure, data):
        raise _too_deep()
    # Written back, the data has one colon a member and one for each in a string. A member that a
    # duplicate key displaced is missing from that sum, and nothing can make up for it but an
    # escaped colon.
    if colons > 1 and (written := _encode(data)) != raw:
        again = written.translate(_SAME_BRACKETS, _NO_STRUCTURE).count(b":")
        if again != colons or b"\\u003" in raw:
            _refuse_duplicate_keys(raw)
    return data


def dumps(data: Any) -> bytes:
    """The JSON text of `data`, in UTF-8 without spaces.

    Raises RouteFailure for what JSON has no form for: NaN, Infinity, XML, objects.
    """
    try:
        raw = _encode(data)
    except RecursionError as e:
        raise RouteFailure("the body cannot be written as JSON: it is nested too deep") from e
    except TypeError as e:
        raise RouteFailure(f"the body cannot be written as JSON: it holds {_kind(e)}") from e
    except UnicodeEncodeError as e:
        raise RouteFailure(
            "the body cannot be written as JSON: a text holds half of a surrogate pair"
        ) from e
    except (msgspec.MsgspecError, ValueError, OverflowError) as e:
        raise RouteFailure(f"the body cannot be written as JSON: {e}") from e
    # msgspec writes a float NaN as null and a Decimal NaN as NaN.
    if (
        (b"null" in raw and _may_hold_nan(data)) or b"NaN" in raw or b"Infinity" in raw
    ) and not all(isfinite(v) for v in _leaves(data) if isinstance(v, float | Decimal)):
        raise RouteFailure("the body cannot be written as JSON: it holds a NaN or an Infinity")
    return raw


def _check_large(raw: bytes) -> None:
    """Refuse what takes far more to read than it takes to send."""
    if _begun(raw) > MAX_VALUES:
        bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_BEGINNING)
        if _begun(b"".join(bare.split(b'"')[::2])) > MAX_VALUES:
            raise TooLarge(f"the JSON has more than {MAX_VALUES} values")
    # To read digits takes time by the square of their number.
    digits = raw.translate(_DIGITS)
    at = digits.find(_MANY_DIGITS)
    while at >= 0:
        if raw[at - 1 : at] in _BEFORE_A_NUMBER:
            raise TooLarge("a JSON of this size has a number with more than 500 digits")
        run = _ZEROS.match(digits, at)
        at = digits.find(_MANY_DIGITS, run.end() if run else at + 1)


def _begun(raw: bytes) -> int:
    """At most how many values there are: each is the first of its container, or behind a comma."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _explain(raw: bytes, error: Exception, line: int) -> str:
    for mark, name in _FOREIGN:
        if raw.startswith(mark) or (mark == b"\x00" and raw[1:2] == mark):
            return f"the JSON is {name}, it must be UTF-8 (RFC 8259, section 8.1)"
    if not raw.strip():
        return "the body is empty, JSON was expected"
    try:
        raw.decode()
    except UnicodeDecodeError as e:
        return f"the JSON is not valid UTF-8{_place(raw, e.start, line)}"
    found = _BYTE_OFFSET.match(str(error))
    reason, offset = (found[1], found[2]) if found else (str(error), None)
    if "truncated" in reason:
        if _HALF_PAIR.search(raw):
            return "the JSON has half of a surrogate pair"
        return f"the JSON ends too early{_place(raw, len(raw), line)}"
    if offset is None:
        return f"the body is not valid JSON: {reason[:1].lower()}{reason[1:]}"
    # msgspec points behind the first of these.
    at = int(offset) - (reason == "trailing characters")
    return f"the body is not valid JSON{_place(raw, at, line)}: {reason}"


def _place(raw: bytes, offset: int, line: int) -> str:
    before = raw[:offset]
    line += before.count(b"\n")
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return f" at line {line}, column {column}"


def _too_deep() -> TooLarge:
    return TooLarge(f"the JSON is nested deeper than {MAX_DEPTH} levels")


def _may_be_too_deep(structure: bytes, data: Any) -> bool:
    brackets = structure.replace(b":", b"")
    if len(brackets) > _FEW_BRACKETS:
        return _is_too_deep(data)
    for _ in range(MAX_DEPTH):
        # The innermost pairs go, one level each time. What does not stood in a text.
        fewer = brackets.replace(b"[]", b"")
        if not fewer:
            return False
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return _is_too_deep(data)


def _is_too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return False
        level = [
            v
            for c in level
            for v in (c.values() if type(c) is dict else c)
            if type(v) in _CONTAINERS
        ]
    return True


def _refuse_duplicate_keys(raw: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadMessage(f"the JSON has the key {key[:60]!r} twice in one object")
            seen.add(key)

    json.loads(raw, object_pairs_hook=check, parse_float=str, parse_int=str)


def _may_hold_nan(data: Any) -> bool:
    # MessagePack shows a float's bits; a text with the same bytes is a false alarm. Ten times
    # faster than to look at every value here.
    try:
        return _NAN_OR_INFINITY.search(_pack(data)) is not None
    except OverflowError:
        return True  # an integer over 64 bits


def _leaves(data: Any) -> Iterator[Any]:
    pending = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            pending.extend(value)
        else:
            yield value


def _kind(error: TypeError) -> str:
    found = re.search(r"objects of type (\S+)", str(error))
    kind = found[1].rpartition(".")[2] if found else "something else than plain data"
    return "XML" if kind == "_Element" else f"a value of type {kind}" if found else kind


format = Format(
    lambda options: JsonCodec(),
    lambda options: "application/json",
    NoOptions,
    types=("application/json", "text/json", "+json"),
    stream=Stream(read_items, ItemsOptions),
)
