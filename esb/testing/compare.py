"""Whether a body is what was expected: by value, whole or in part; and what differs, for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from lxml import etree

from esb.envelope import Body, parse_content_type
from esb.errors import EsbError
from esb.xml import parse_xml

MOST = 20
"""So many differences are told of one body."""

_JSON = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?\Z")


class Difference(NamedTuple):
    """at: where in the body ("lines[1].price", "order/line[2]/@sku"). expected, got: as people read
    them. diff: a diff of lines, where texts are compared."""

    at: str
    expected: str
    got: str
    diff: str = ""

    def __str__(self) -> str:
        where = f"{self.at}: " if self.at else ""
        if self.diff:
            return f"{where}{self.diff}"
        return f"{where}expected {self.expected}, got {self.got}"


def differences(expected: Any, body: Body, *, part: bool = False) -> list[Difference]:
    """How `body` differs from what was expected: data, or a text, which is read as XML or JSON if
    the body is that. part: the body may hold more."""
    kind = parse_content_type(body.content_type).essence
    as_text = isinstance(expected, str) and not kind.endswith(("json", "xml"))
    try:
        data = body.text if as_text else body.data
    except EsbError as e:
        what = kind or "a body without content type"
        return [Difference("", shown(expected), f"{what} that cannot be read: {e.detail}")]
    if isinstance(data, etree._Element):
        return list(_of_xml(expected, data, part))[:MOST]
    if isinstance(expected, str) and isinstance(data, dict | list):
        try:
            expected = Body(expected.encode(), "application/json").data
        except EsbError:
            return [Difference("", shown(expected), shown(data))]
    return list(_of_data(expected, data, "", part))[:MOST]


def differences_of_values(expected: Any, got: Any, *, part: bool = False) -> list[Difference]:
    """How plain data differs from what was expected."""
    return list(_of_data(expected, got, "", part))[:MOST]


def shown(value: Any) -> str:
    """A value as people read it, on one line."""
    if isinstance(value, etree._Element):
        text = etree.tostring(value, encoding="unicode", with_tail=False)
    elif value is _NOTHING:
        return "nothing"
    elif isinstance(value, bytes):
        try:
            text = _JSON.encode(value.decode()).decode()
        except UnicodeDecodeError:
            text = f"{len(value)} bytes"
    else:
        text = _JSON.encode(value).decode()
    return text if len(text) <= 300 else f"{text[:290]}... ({len(text)} characters)"


class _Nothing:
    pass


_NOTHING = _Nothing()


# --- data -----------------------------------------------------------------------------------------


def _of_data(expected: Any, got: Any, at: str, part: bool) -> Iterator[Difference]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for key, value in expected.items():
            inner = f"{at}.{key}" if at else str(key)
            yield from _of_data(value, got.get(key, _NOTHING), inner, part)
        for key in () if part else got.keys() - expected.keys():
            yield Difference(f"{at}.{key}" if at else str(key), "nothing", shown(got[key]))
    elif isinstance(expected, list) and isinstance(got, list | tuple):
        yield from _of_lists(expected, list(got), at, part)
    elif isinstance(expected, str) and isinstance(got, str):
        yield from _of_texts(expected, got, at, part and not at)
    elif not _same(expected, got):
        yield Difference(at, shown(expected), shown(got))


def _of_lists(expected: list[Any], got: list[Any], at: str, part: bool) -> Iterator[Difference]:
    if part:
        left = 0
        for i, value in enumerate(expected):
            found = next(
                (n for n in range(left, len(got)) if not any(_of_data(value, got[n], "", True))),
                None,
            )
            if found is None and len(expected) == len(got):
                yield from _of_data(value, got[i], f"{at}[{i}]", part)  # the one that was meant
                continue
            if found is None:
                rest = got[left:] if i else got
                yield Difference(f"{at}[{i}]", shown(value), f"none such in {shown(rest)}")
                return
            left = found + 1
        return
    for i, value in enumerate(expected):
        yield from _of_data(value, got[i] if i < len(got) else _NOTHING, f"{at}[{i}]", part)
    for i in range(len(expected), len(got)):
        yield Difference(f"{at}[{i}]", "nothing", shown(got[i]))


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, int | float | Decimal) and isinstance(got, int | float | Decimal):
        return _number(expected) == _number(got)
    return type(expected) is type(got) and bool(expected == got)


def _number(value: float | Decimal) -> Decimal:
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _of_texts(expected: str, got: str, at: str, part: bool) -> Iterator[Difference]:
    if expected == got or (part and expected.strip() in got):
        return
    # A file of text ends in a line break that the one who wrote it did not think of.
    if not at and expected.rstrip("\n") == got.rstrip("\n"):
        return
    if "\n" not in expected.strip() and "\n" not in got.strip():
        yield Difference(at, shown(expected), shown(got))
        return
    lines = difflib.unified_diff(
        expected.splitlines(), got.splitlines(), "expected", "got", lineterm="", n=2
    )
    yield Difference(at, shown(expected), shown(got), "\n".join(["", *lines][:60]))


# --- XML ------------------------------------------------------------------------------------------


def _of_xml(expected: Any, got: etree._Element, part: bool) -> Iterator[Difference]:
    if not isinstance(expected, str):
        yield Difference("", shown(expected), f"XML: {shown(got)}")
        return
    try:
        wanted = parse_xml(expected.encode())
    except EsbError as e:
        if part and expected in etree.tostring(got, encoding="unicode"):
            return
        yield Difference("", f"{shown(expected)}, which is no XML ({e.detail})", shown(got))
        return
    yield from _of_elements(wanted, got, f"/{_local(wanted)}", part)


def _word(name: str | bytes) -> str:
    return etree.QName(name).localname


def _local(element: etree._Element) -> str:
    return etree.QName(element).localname


def _of_elements(
    expected: etree._Element, got: etree._Element, at: str, part: bool
) -> Iterator[Difference]:
    if expected.tag != got.tag:
        yield Difference(at, str(expected.tag), str(got.tag))
        return
    for name, value in expected.attrib.items():
        if not _same_text(str(value), got.get(name)):
            yield Difference(f"{at}/@{_word(name)}", shown(value), shown(got.get(name)))
    for name in () if part else set(got.attrib) - set(expected.attrib):
        yield Difference(f"{at}/@{_word(name)}", "nothing", shown(got.get(name)))
    wanted, found = list(expected.iterchildren("*")), list(got.iterchildren("*"))
    text, other = _text(expected), _text(got)
    if not _same_text(text, other) and not (part and not text):
        yield Difference(at, shown(text), shown(other))
    if part:
        yield from _of_some(wanted, found, at)
        return
    for i in range(max(len(wanted), len(found))):
        one = wanted[i] if i < len(wanted) else None
        other_one = found[i] if i < len(found) else None
        inner = _place(wanted if one is not None else found, i, at)
        if one is None or other_one is None:
            yield Difference(
                inner,
                "nothing" if one is None else shown(one),
                "nothing" if other_one is None else shown(other_one),
            )
        else:
            yield from _of_elements(one, other_one, inner, part)


def _of_some(
    wanted: list[etree._Element], found: list[etree._Element], at: str
) -> Iterator[Difference]:
    left = 0
    for i, one in enumerate(wanted):
        inner = _place(wanted, i, at)
        same = [n for n in range(left, len(found)) if found[n].tag == one.tag]
        hit = next((n for n in same if not any(_of_elements(one, found[n], inner, True))), None)
        if hit is not None:
            left = hit + 1
        elif len(same) == 1:
            yield from _of_elements(one, found[same[0]], inner, True)
        else:
            yield Difference(inner, shown(one), "none such" if same else "nothing")


def _place(among: list[etree._Element], i: int, at: str) -> str:
    name = _local(among[i])
    same = [n for n, one in enumerate(among) if _local(one) == name]
    return f"{at}/{name}" + (f"[{same.index(i) + 1}]" if len(same) > 1 else "")


def _text(element: etree._Element) -> str:
    """The text between the children, without the space that only makes it readable."""
    pieces = [element.text or "", *(child.tail or "" for child in element)]
    if len(element):
        return " ".join(piece.strip() for piece in pieces if piece.strip())
    return "".join(pieces)


def _same_text(expected: str, got: str | None) -> bool:
    if got is None:
        return False
    if expected == got or expected.split() == got.split():
        return True
    expected, got = expected.strip(), got.strip()
    # 1.0 and 1.00 are one number; 007 is a name.
    return bool(
        _NUMBER.match(expected) and _NUMBER.match(got) and Decimal(expected) == Decimal(got)
    )
