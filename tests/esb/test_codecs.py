"""Codecs: what is read is what would be written, and what two readers would read differently is
refused."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from esb.codecs.binary import BinaryCodec
from esb.codecs.json import MAX_DEPTH, MAX_VALUES, JsonCodec, dumps, loads
from esb.codecs.text import TextCodec
from esb.codecs.xml import XmlCodec
from esb.envelope import Body, codec_for, parse_content_type
from esb.errors import BadMessage, RouteFailure, TooLarge, UnsupportedMedia

FORM = "application/x-www-form-urlencoded"

text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=Decimal("-1e300"), max_value=Decimal("1e300")
)
plain = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=30,
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types and digits: 1, 1.0 and 1.00 are three things."""
    if isinstance(a, Decimal) or isinstance(b, Decimal):
        return Decimal(a) == Decimal(b) and Decimal(a).as_tuple() == Decimal(b).as_tuple()
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


def decode(raw: bytes, content_type: str) -> Any:
    return Body(raw, content_type).data


def encode(data: Any, content_type: str) -> bytes:
    return Body.of(data, content_type).raw


# --- JSON ----------------------------------------------------------------------------------------


@given(plain)
def test_json_comes_back_as_it_was_written(data: Any) -> None:
    assert same(loads(dumps(data)), data)


@given(plain)
def test_json_reads_what_the_standard_library_writes(data: Any) -> None:
    raw = json.dumps(data, default=str, indent=1)
    expected = json.loads(raw, parse_float=Decimal)
    assert same(loads(raw.encode()), expected)


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        ("1.10", Decimal("1.10")),
        ("-0.0", Decimal("-0.0")),
        ("1e400", Decimal("1E+400")),
        ("1E-6143", Decimal("1E-6143")),
        ("0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("18446744073709551616", 2**64),
        ("1", 1),
    ],
)
def test_json_numbers_are_exact(raw: str, data: Any) -> None:
    assert same(loads(raw.encode()), data)
    assert loads(dumps(loads(raw.encode()))) == data


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[1,\n2,\n x]", "line 3, column 2"),
        ('{"ä":"ü", x}'.encode(), "line 1, column 11"),
        (b'{"a":1', "ends too early at line 1, column 7"),
        (b'{"a":1} {}', "line 1, column 9: trailing characters"),
        (b'{"a":1,}', "trailing comma"),
        (b"[01]", "number"),
        (b"[1.]", "number"),
        (b"[+1]", "invalid character"),
        (b"{'a':1}", "line 1, column 2"),
        (b'["\t"]', "invalid character"),
        (b"NaN", "invalid character"),
        (b"[Infinity]", "invalid character"),
        (b"[-Infinity]", "invalid"),
        (b"[1e9999]", "out of range"),
        (b"[1e99999999999999999999]", "out of range"),
        (b"[0e-100000000]", "out of range"),
        (b"1" * 5000, "out of range"),
        (b"0." + b"1" * 5000, "out of range"),
        (b'["\xff"]', "not valid UTF-8 at line 1, column 3"),
        (b'["\xed\xa0\x80"]', "not valid UTF-8"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\ud800 and more text"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-be"), "UTF-16"),
        ('{"a":1}'.encode("utf-32"), "UTF-16"),
    ],
)
def test_json_that_is_none_is_refused_with_its_place(raw: bytes, message: str) -> None:
    with pytest.raises(BadMessage) as e:
        loads(raw)
    assert message in str(e.value)


@pytest.mark.parametrize(
    "raw",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"a" :1,"a":"::::"}',
        '{"a":"x:y","a":"x:y","b":":"}',
        '[{"x":{"d":1,"e":":","d":2}}]',
        '{"\\u0061":1,"a":2}',
        '{"a":1,"a":2,"\\u003a":3}',  # the escaped colon makes up for the lost member
        '{"a":1,"a":2,"x":"\\u003A"}',
        '{"a":{"b":":"},"a":null,"\\u003a\\u003a\\u003a":3}',
        '{"":1,"":2}',
    ],
)
def test_duplicate_keys_are_refused(raw: str) -> None:
    with pytest.raises(BadMessage, match="twice in one object"):
        loads(raw.encode())


@given(st.lists(st.tuples(st.sampled_from([":", "a", "b\\u003a", 'q\\"', "::"]), plain)))
def test_duplicate_keys_are_found_by_counting(members: list[tuple[str, Any]]) -> None:
    raw = "{" + ",".join(f'"{k}" : {dumps(v).decode()}' for k, v in members) + "}"
    if len({k for k, _ in members}) == len(members):
        assert len(loads(raw.encode())) == len(members)
    else:
        with pytest.raises(BadMessage, match="twice in one object"):
            loads(raw.encode())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_deep_json_is_too_large_and_never_a_recursion_error(opening: str) -> None:
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    levels = len(closing)
    for times in (MAX_DEPTH // levels + 1, 2_000, 100_000):
        with pytest.raises(BadMessage):
            loads((opening * times + "1" + closing * times).encode())
        with pytest.raises(BadMessage):
            loads((opening * times).encode())
    times = MAX_DEPTH // levels
    loads((opening * times + "1" + closing * times).encode())


@pytest.mark.parametrize("text", ["", "[", "}}", "[]", "{:[", "]", "{[" * 300])
@pytest.mark.parametrize("beside", [0, 1, 300])
def test_what_is_wide_or_has_brackets_in_its_texts_is_not_deep(text: str, beside: int) -> None:
    wide: list[Any] = [{"a": [text]}] * beside
    deep: Any = text
    for level in range(MAX_DEPTH - 1):
        deep = [deep] if level % 2 else {text: deep}
    for spaces in (None, (" , ", " : ")):
        raw = json.dumps([*wide, deep], separators=spaces or (",", ":")).encode()
        assert loads(raw) == [*wide, deep]
        with pytest.raises(TooLarge, match="deeper"):
            loads(b"[" + raw + b"]")


def test_a_byte_order_mark_is_ignored() -> None:
    assert loads(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), Decimal("NaN"), Decimal("Infinity")],
)
def test_no_nan_is_written(value: Any) -> None:
    for data in (value, [None, {"a": value}], [2**80, value], ["NaN", value]):
        with pytest.raises(RouteFailure, match="NaN or an Infinity"):
            dumps(data)
    assert dumps(["NaN", None, 2**80, "Infinity"]) == (
        b'["NaN",null,1208925819614629174706176,"Infinity"]'
    )


def test_what_else_json_writes() -> None:
    moment = datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert dumps({"at": moment, "raw": b"ab", "n": 1.5}) == (
        b'{"at":"2025-01-02T03:04:05Z","raw":"YWI=","n":1.5}'
    )


def test_what_json_cannot_hold_names_what_it_is() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for data, message in [
        (etree.fromstring("<a/>"), "XML"),
        ([object()], "type object"),
        ("\ud800", "surrogate"),
        (deep, "nested too deep"),
    ]:
        with pytest.raises(RouteFailure, match=message):
            dumps(data)


def test_hostile_json_takes_no_time() -> None:
    started = time.perf_counter()
    for raw in (
        b'{"a":1,' * 50_000,
        b'{"' + b"a" * 1_000_000 + b'":1}',
        b"[" + b"1e6000," * 50_000 + b"1]",
        b'{"k":":::::::"' + b',"k":1' * 100_000 + b"}",
    ):
        with contextlib.suppress(BadMessage):
            loads(raw)
    assert time.perf_counter() - started < 5


# --- XML, text, forms, CSV, bytes ----------------------------------------------------------------


def test_xml_is_an_element_and_back() -> None:
    root = decode(b"<a b='1'><c/></a>", "application/soap+xml; charset=utf-8")
    assert isinstance(root, etree._Element)
    assert encode(root, "text/xml") == (
        b"<?xml version='1.0' encoding='utf-8'?>\n<a b=\"1\"><c/></a>"
    )
    assert encode(root[0], "image/svg+xml").endswith(b"<c/>")


def test_xml_from_text_gets_the_charset_it_says() -> None:
    raw = encode("<?xml version='1.0' encoding='utf-16'?><a>é</a>", "text/xml; charset=iso-8859-1")
    assert raw == b"<?xml version='1.0' encoding='iso-8859-1'?>\n<a>\xe9</a>"
    with pytest.raises(RouteFailure, match="not well-formed"):
        encode("<a>", "text/xml")
    with pytest.raises(RouteFailure, match="DOCTYPE"):
        encode("<!DOCTYPE a><a/>", "text/xml")
    with pytest.raises(RouteFailure, match="dict data cannot be written as XML"):
        encode({"a": 1}, "text/xml")


@given(text)
def test_text_comes_back(value: str) -> None:
    assert decode(encode(value, "text/plain"), "text/plain") == value.removeprefix("\ufeff")


def test_text_obeys_its_charset() -> None:
    assert decode(b"\xe9", "text/plain; charset=ISO-8859-1") == "é"
    assert encode("é", 'text/html; charset="iso-8859-1"') == b"\xe9"
    assert encode(Decimal("1.10"), "text/plain") == b"1.10"
    assert encode(True, "text/plain") == b"true"
    for raw, content_type in [(b"\xe9", "text/plain"), (b"a", "text/plain; charset=nope")]:
        with pytest.raises(BadMessage):
            decode(raw, content_type)
    with pytest.raises(RouteFailure):
        encode("€", "text/plain; charset=us-ascii")
    with pytest.raises(RouteFailure):
        encode({"a": 1}, "text/plain")


@given(
    st.dictionaries(
        text,
        text | st.lists(text, min_size=2),
    )
)
def test_a_form_comes_back(fields: dict[str, Any]) -> None:
    assert decode(encode(fields, FORM), FORM) == fields


def test_forms() -> None:
    assert decode(b"a=1&b=2&b=3&c=&d", FORM) == {"a": "1", "b": ["2", "3"], "c": "", "d": ""}
    assert decode(b"a=%E9+x", FORM + "; charset=latin-1") == {"a": "é x"}
    assert encode({"a": [1, Decimal("2.50")], "b": None, "c": True}, FORM) == b"a=1&a=2.50&c=true"
    for raw in (b"a=%ff", b"a=\xff"):
        with pytest.raises(BadMessage):
            decode(raw, FORM)
    with pytest.raises(TooLarge):
        decode(b"a=1&" * 20_000, FORM)
    for data in ([1], {"a": {"b": 1}}, {"a": [[1]]}):
        with pytest.raises(RouteFailure):
            encode(data, FORM)


@given(st.lists(st.fixed_dictionaries({"name": text, "b, c": text}), min_size=1))
def test_csv_comes_back(rows: list[dict[str, str]]) -> None:
    assert decode(encode(rows, "text/csv"), "text/csv") == rows


def test_csv() -> None:
    assert decode(b'a,b\r\n1,"x, ""y"""\r\n', "text/csv") == [{"a": "1", "b": 'x, "y"'}]
    assert decode(b"1,2\n", "text/csv; header=absent") == [["1", "2"]]
    assert decode(b"", "text/csv") == []
    assert encode([[1, None, True]], "text/csv") == b"1,,true\r\n"
    for raw in (b"a,b\n1\n", b"a,a\n1,2\n", b'a\n"x', b"\xff"):
        with pytest.raises(BadMessage):
            decode(raw, "text/csv")
    for data in ({"a": 1}, [1], [{"a": 1}, {"b": 1}], [{"a": [1]}]):
        with pytest.raises(RouteFailure):
            encode(data, "text/csv")


@pytest.mark.parametrize("content_type", ["application/pdf", "image/png", "", "multipart/related"])
def test_what_no_format_claims_is_bytes(content_type: str) -> None:
    assert decode(b"\x00\xff", content_type) == b"\x00\xff" or not content_type
    assert encode(b"\x00\xff", content_type) == b"\x00\xff"
    assert encode("é", content_type) == "é".encode()
    with pytest.raises(RouteFailure):
        encode({"a": 1}, content_type)


def test_codecs_are_found_by_media_type_then_suffix() -> None:
    found = {
        "application/json; charset=utf-8": JsonCodec,
        "application/problem+json": JsonCodec,
        "Application/SOAP+XML": XmlCodec,
        "text/xml": XmlCodec,
        "text/html": TextCodec,
        "application/vnd.x": BinaryCodec,
    }
    for content_type, codec in found.items():
        assert type(codec_for(content_type)) is codec
    with pytest.raises(UnsupportedMedia):
        codec_for("weird")
    assert parse_content_type("text/plain").charset == "utf-8"


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"1," * MAX_VALUES + b"1]",
        b"[" + b"[]," * (MAX_VALUES // 2) + b"1]",
        b"[" + b"{}," * (MAX_VALUES // 2) + b"1]",
        b"{" + b",".join(b'"%d":1' % i for i in range(MAX_VALUES + 1)) + b"}",
        b'["\\\\",' + b"1," * MAX_VALUES + b"1]",
    ],
)
def test_json_of_too_many_values_is_not_read(raw: bytes) -> None:
    with pytest.raises(TooLarge, match="more than 400000 values"):
        loads(raw)


@pytest.mark.parametrize(
    "text", ["," * 1_000_000, "[{" * 500_000, '",' * 300_000, "\\," * 300_000, "7" * 500_000]
)
def test_what_stands_in_a_text_counts_for_no_value(text: str) -> None:
    data = [1, text]
    assert loads(dumps(data)) == data


@pytest.mark.parametrize("number", ["9" * 501, "-" + "9" * 501, "0." + "9" * 600, "1" * 4000])
def test_numbers_of_many_digits_are_read_in_small_bodies_only(number: str) -> None:
    assert loads(f"[{number}]".encode())
    with pytest.raises(TooLarge, match="500 digits"):
        loads(f'["{"x" * MAX_VALUES}", "{"7" * 600}", {number}]'.encode())


def test_brackets_that_close_in_a_text_are_not_counted_one_by_one() -> None:
    deep = "[" * 1_000_000 + "]" * 1_000_000
    assert loads(dumps({"a": deep, "b": [deep]})) == {"a": deep, "b": [deep]}
