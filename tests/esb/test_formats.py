"""Formats beside JSON and XML: what is written comes back, and what is wrong is told with its
place."""

from __future__ import annotations

import io
import json
import string
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from esb.codecs import FORMATS, MAX_PIECE, format_of
from esb.codecs._format import Piece
from esb.codecs._xml_elements import ElementsOptions, read_elements
from esb.envelope import Body, codec_for, parse_content_type
from esb.errors import BadMessage, RouteFailure, TooLarge
from esb.xml import MAX_ELEMENTS

FEWER = settings(max_examples=50)
text = st.text(st.characters(exclude_categories=["Cs"]))
printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cn", "Co"]))
numbers = st.integers() | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=Decimal("-1e300"), max_value=Decimal("1e300")
)


def write(name: str, data: Any, **options: Any) -> Body:
    """What `convert: {to: {name: options}}` makes of data."""
    found = FORMATS[name]
    given = found.options(**options)
    content_type = found.written(given)
    raw = found.make(given).encode(data, parse_content_type(content_type))
    return Body(raw, content_type)


def read(name: str, body: Body | bytes, **options: Any) -> Any:
    """What `convert: {from: {name: options}}` reads."""
    found = FORMATS[name]
    body = Body(body, "") if isinstance(body, bytes) else body
    codec = found.make(found.options(**options))
    return codec.decode(body.raw, parse_content_type(body.content_type))


def pieces(name: str, raw: bytes, content_type: str = "", **options: Any) -> list[Piece]:
    """What `split: {stream: {name: options}}` finds."""
    stream = FORMATS[name].stream
    assert stream is not None
    given = stream.options(**options)
    return list(stream.read(io.BytesIO(raw), given, parse_content_type(content_type)))


def data_of(found: list[Piece]) -> list[Any]:
    for piece in found:
        if piece.error is not None:
            raise piece.error
    return [piece.body.data for piece in found]


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types and digits."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, Decimal) or isinstance(b, Decimal):
        return Decimal(a).as_tuple() == Decimal(b).as_tuple()
    return type(a) is type(b) and bool(a == b)


def test_each_format_reads_the_types_it_writes() -> None:
    for name, one in FORMATS.items():
        if one.types:
            written = one.written(one.options())
            assert format_of(written) is one, name
            assert type(codec_for(written)) in (type(one.body), type(one.make(one.options())))
    assert format_of("application/problem+json") is FORMATS["json"]
    assert format_of("weird") is None


# --- CSV ------------------------------------------------------------------------------------------

ROWS = st.lists(st.fixed_dictionaries({"name": text, "b;c": text}), min_size=1)


@FEWER
@given(
    ROWS,
    st.sampled_from([",", ";", "\t", "|", "é"]),
    st.sampled_from(['"', "'"]),
    st.sampled_from(["utf-8", "utf-16", "utf-32-le"]),
)
def test_csv_comes_back(
    rows: list[dict[str, str]], delimiter: str, quote: str, charset: str
) -> None:
    options = {"delimiter": delimiter, "quote": quote, "charset": charset}
    body = write("csv", rows, **options)
    assert read("csv", body, **options) == rows
    assert body.data == rows  # its content type tells
    assert data_of(pieces("csv", body.raw, body.content_type)) == rows


@given(st.lists(st.lists(text, min_size=2, max_size=4), min_size=1))
def test_csv_without_a_header_comes_back(rows: list[list[str]]) -> None:
    body = write("csv", rows, header=False)
    assert body.content_type == "text/csv; charset=utf-8; header=absent"
    assert body.data == rows


def test_csv_options() -> None:
    rows = [{"a": "1", "b": "x"}, {"a": "2", "b": 'y"'}]
    assert read("csv", b'1,x\n2,y"\n', header=False, columns=["a", "b"], quote="") == rows
    assert write("csv", rows, columns=["b", "a"]).raw == b'b,a\r\nx,1\r\n"y""",2\r\n'
    assert write("csv", [], columns=["a"]).raw == b"a\r\n"
    assert write("csv", [[1, None], [Decimal("1.50"), True]]).raw == b"1,\r\n1.50,true\r\n"
    assert read("csv", b"\xef\xbb\xbfa\r1\r\r2") == [{"a": "1"}, {"a": "2"}]
    assert read("csv", "ä\nö\n".encode("cp1252"), charset="cp1252") == [{"ä": "ö"}]
    # What the content type tells counts where the options don't say.
    told = Body(b"a;b\n1;2\n", 'text/csv; delimiter=";"; header=present')
    assert told.data == [{"a": "1", "b": "2"}]
    assert read("csv", told, delimiter=",") == [{"a;b": "1;2"}]


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        (b"a,b\n1,2\n\n1\n", {}, "row 3 of the CSV (line 4) has 1 values, there are 2 columns"),
        (b'a,b\n"x\ny",2\n1,2,3\n', {}, "row 3 of the CSV (line 4) has 3 values"),
        (b"a,a\n1,2\n", {}, "the column 'a' twice"),
        (b"a\n1\n", {"columns": ["b"]}, "no column 'b'"),
        (b'a\n1\n"x', {}, "at line 3: unexpected end of data"),
        (b"a\n1\n\xff\n", {}, "not valid utf-8 at line 3"),
        (b"a\n" + b"x" * 200_000, {}, "at line 2: field larger"),
    ],
)
def test_csv_that_is_wrong(raw: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadMessage) as found:
        read("csv", raw, **options)
    assert message in str(found.value)


@pytest.mark.parametrize("charset", ["nope", "rot13", "base64", "undefined"])
def test_charsets_that_are_none(charset: str) -> None:
    with pytest.raises(ValueError, match="no charset"):
        FORMATS["lines"].options(charset=charset)


def test_a_content_type_that_makes_no_sense() -> None:
    with pytest.raises(BadMessage, match="has a delimiter that is none"):
        _ = Body(b"a", 'text/csv; delimiter="ab"').data
    with pytest.raises(BadMessage, match="has a charset that is none"):
        _ = Body(b"a", "text/csv; charset=nope").data
    with pytest.raises(RouteFailure):
        _ = Body.of([["a"]], "text/csv; charset=nope").raw


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"a": 1}, {}, "a list of rows"),
        ([{"a": 1}, 5], {}, "row 2 is no row"),
        ([{"a": 1}, {"b": 1}], {}, "row 2 has 'b', which is none of the columns"),
        ([["a"], {"b": 1}], {}, "row 2 has names"),
        ([{"a": 1}, ["x", "y"]], {}, "row 2 has 2 values, there are 1 columns"),
        ([{"a": [1]}], {}, "row 1 is nested data"),
        ([["a,b"]], {"quote": ""}, "row 1 cannot be written as CSV without quotes"),
        ([["€"]], {"charset": "latin-1"}, "cannot be written in latin-1"),
    ],
)
def test_what_is_no_csv(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouteFailure) as found:
        write("csv", data, **options)
    assert message in str(found.value)


def test_a_stream_of_csv_goes_on_behind_a_bad_row() -> None:
    found = pieces("csv", b'a,b\n1,2\n"x\ny"\n3,4\n')
    assert [piece.error is None for piece in found] == [True, False, True]
    assert found[1].body.raw == b'"x\ny"\n'
    assert "row 3 of the CSV (line 3)" in str(found[1].error)


# --- fixed width ----------------------------------------------------------------------------------

LAYOUT = [
    {"id": {"width": 6, "type": "int", "pad": "0"}},
    {"name": 10},
    {"amount": {"width": 12, "type": "decimal", "decimals": 2, "pad": "0"}},
    {"rate": {"width": 8, "type": "decimal"}},
    {"code": {"width": 4, "align": "right", "pad": "*"}},
]


@FEWER
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "id": st.integers(-99_999, 999_999),
                "name": printable.filter(lambda t: len(t) <= 10 and t == t.rstrip(" ")),
                "amount": st.none()
                | st.decimals(-1_000_000, 10_000_000, places=2, allow_nan=False),
                "rate": st.none() | st.decimals(-999, 999, places=3, allow_nan=False),
                "code": st.text("ab *", max_size=4).map(lambda t: t.lstrip("*")),
            }
        )
    ),
    st.sampled_from(["utf-8", "utf-16"]),
)
def test_fixed_width_comes_back(records: list[dict[str, Any]], charset: str) -> None:
    body = write("fixed", records, layout=LAYOUT, charset=charset)
    found = read("fixed", body, layout=LAYOUT, charset=charset)
    assert found == records
    assert all(type(a["id"]) is int for a in found)
    assert data_of(pieces("fixed", body.raw, layout=LAYOUT, charset=charset)) == records


def test_fixed_width_as_it_is_written() -> None:
    record = {"id": -7, "name": "Ada", "amount": Decimal("12.5"), "rate": "1.25", "code": "x"}
    raw = write("fixed", [record], layout=LAYOUT).raw
    assert raw == b"-00007Ada       000000001250    1.25***x\n"
    assert read("fixed", raw, layout=LAYOUT)[0]["amount"] == Decimal("12.50")
    ebcdic = write("fixed", [{"a": "Z"}], layout=[{"a": 3}], charset="cp037").raw
    assert ebcdic == "Z  \n".encode("cp037")
    assert read("fixed", ebcdic, layout=[{"a": 3}], charset="cp037") == [{"a": "Z"}]
    short = {"layout": [{"a": 2}, {"b": {"width": 3, "type": "int"}}], "short": True}
    assert read("fixed", b"x\nyy  1\r\n", **short) == [{"a": "x", "b": None}, {"a": "yy", "b": 1}]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"ab  1\nab 1\n", "record 2 has 4 characters, the layout has 5"),
        (b"ab  1\nab  12\n", "record 2 has 6 characters"),
        (b"ab x1\n", "record 1, 'b' (column 3): ' x1' is no whole number".replace(" x1", "x1")),
    ],
)
def test_records_that_are_wrong(raw: bytes, message: str) -> None:
    layout = [{"a": 2}, {"b": {"width": 3, "type": "int"}}]
    with pytest.raises(BadMessage) as found:
        read("fixed", raw, layout=layout)
    assert message in str(found.value)
    [*_, last] = pieces("fixed", raw, layout=layout)
    assert str(last.error) == str(found.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": "abc"}, "record 1, 'a': 'abc' is longer than 2 characters"),
        ({"b": Decimal("1.5")}, "record 1, 'b': 1.5 has more decimals than its place"),
        ({"b": "x"}, "record 1, 'b': 'x' is no number"),
        ({"a": ["x"]}, "record 1, 'a' is neither a text nor a number"),
        ({"a": "\n"}, "record 1, 'a' has a line break"),
        ({"c": 1}, "record 1: the layout has no 'c'"),
    ],
)
def test_what_has_no_place_in_a_record(record: dict[str, Any], message: str) -> None:
    with pytest.raises(RouteFailure) as found:
        write("fixed", [record], layout=[{"a": 2}, {"b": {"width": 3, "type": "int"}}])
    assert message in str(found.value)


@pytest.mark.parametrize(
    "layout",
    [
        [],
        [{"a": 0}],
        [{"a": 1}, {"a": 2}],
        [{"a": 1, "b": 2}],
        [{"a": {"width": 1, "decimals": 2}}],
        [{"a": {"width": 1, "pad": "xx"}}],
    ],
)
def test_layouts_that_are_none(layout: Any) -> None:
    with pytest.raises(ValueError):
        FORMATS["fixed"].options(layout=layout)


# --- YAML -----------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=8,
)


@given(plain)
@example({"on": "no", "1": "1", "~": "null", "a: b": "- c", "": "", "e": "1e3", "o": "0o17"})
@example({"multi": "a\n  b\n\n", "tab": "\t", "next": "\x85\u2028", "bell": "\x07", "#": "#"})
@example([Decimal("1E+3"), Decimal("1.10"), Decimal("-0.0"), Decimal(5), 10**30, [], {}, [[]]])
@example({"a" * 200: {"b" * 200: ["c" * 2000]}})
def test_yaml_comes_back(data: Any) -> None:
    assert same(write("yaml", data).data, data)


@FEWER
@given(st.lists(st.dictionaries(printable, numbers | printable | st.booleans() | st.none())))
def test_yaml_reads_json(data: Any) -> None:
    raw = json.dumps(data, default=str, ensure_ascii=False).encode()
    assert same(read("yaml", raw), read("json", raw))


def test_yaml() -> None:
    raw = b"on: no\nn: [1, 0x10, 1.50, .5, ~]\ntext: |\n  a\n  b\nquoted: '1'\n"
    assert read("yaml", raw) == {
        "on": "no",
        "n": [1, 16, Decimal("1.50"), Decimal("0.5"), None],
        "text": "a\nb\n",
        "quoted": "1",
    }
    assert read("yaml", b"") is None
    assert write("yaml", {"b": 1, "a": ["x y", "2"]}).raw == b'b: 1\na:\n- x y\n- "2"\n'
    assert Body(b"a: 1", "application/vnd.x+yaml").data == {"a": 1}
    shared = [1]
    assert write("yaml", [shared, shared]).data == [[1], [1]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: &x 1\nb: *x", "line 1, column 4: aliases and anchors"),
        (b"a: *x", "aliases and anchors"),
        (b"a: !!python/object:os.system x", "line 1, column 4: tags are not allowed"),
        (b"a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands twice"),
        (b"[1]: 2", "line 1, column 1: a key is a plain word"),
        (b"a: 1\n---\nb: 2", "line 2, column 1: a body is one document"),
        (b"a: 1\n b: 2", "line 2"),
        (b"a: 1e9999", "number is out of range"),
        (b"a: " + b"1" * 5000, "number is out of range"),
        (b"\xff", "not valid utf-8"),
        (b"a: \x01", "character"),
        (b"[" * 100_000, "nested deeper"),
        (b"- " * 100_000, "nested deeper"),
        (b"x" * (4 * 1024 * 1024 + 1), "larger than 4 MB"),
        (b"- 1\n" * 100_001, "more than 100000 values"),
    ],
)
def test_yaml_that_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BadMessage) as found:
        read("yaml", raw)
    assert message in str(found.value)


@pytest.mark.parametrize("data", [Decimal("NaN"), float("inf"), {1, 2}, object(), "\ud800"])
def test_what_yaml_has_no_form_for(data: Any) -> None:
    with pytest.raises(RouteFailure):
        write("yaml", data)


# --- lines, newline-delimited JSON ----------------------------------------------------------------


@given(st.lists(text.filter(lambda t: "\n" not in t and "\r" not in t)))
def test_lines_come_back(lines: list[str]) -> None:
    for charset in ("utf-8", "utf-16"):
        found = read("lines", write("lines", lines, charset=charset), charset=charset)
        assert found == [line.removeprefix("\ufeff") if i == 0 else line
                         for i, line in enumerate(lines)]  # fmt: skip


def test_lines() -> None:
    assert read("lines", b"a\r\n\r\nb\rc\nd") == ["a", "", "b", "c", "d"]
    assert [p.body.content_type for p in pieces("lines", b"a\n")] == ["text/plain; charset=utf-8"]
    for data in ("a", ["a\nb"], [1]):
        with pytest.raises(RouteFailure):
            write("lines", data)
    with pytest.raises(BadMessage, match="not valid utf-8 at line 2"):
        read("lines", b"a\n\xff\n")


@FEWER
@given(st.lists(plain, max_size=4))
def test_ndjson_comes_back(data: list[Any]) -> None:
    body = write("ndjson", data)
    assert same(body.data, data)
    assert same(data_of(pieces("ndjson", body.raw)), data)


def test_ndjson_that_is_wrong() -> None:
    with pytest.raises(BadMessage, match="at line 4, column 6"):
        read("ndjson", b'{"a":1}\n\n{"a":2}\n{"a":}\n')
    found = pieces("ndjson", b'{"a":1}\n\n{"a":}\n[]')
    assert [piece.body.raw for piece in found] == [b'{"a":1}', b'{"a":}', b"[]"]
    with pytest.raises(BadMessage):
        _ = found[1].body.data
    with pytest.raises(RouteFailure):
        write("ndjson", {"a": 1})


# --- multipart ------------------------------------------------------------------------------------

name = printable.filter(lambda t: "%" not in t and "\\" not in t)
file = st.fixed_dictionaries(
    {
        "content_type": st.sampled_from(["text/csv", "image/png", "application/json"]),
        "content": st.binary(),
    },
    optional={"filename": name},
)
field = text | file


@FEWER
@given(st.dictionaries(name, field | st.lists(field, min_size=2)))
def test_form_data_comes_back(fields: dict[str, Any]) -> None:
    assert write("multipart", fields).data == fields


part = st.fixed_dictionaries(
    {
        "headers": st.dictionaries(
            st.text(string.ascii_lowercase, min_size=1).map(lambda n: f"x-{n}"),
            printable.map(str.strip),
        ),
        "content_type": st.just("application/pdf"),
        "content": st.binary(),
    }
) | st.fixed_dictionaries(
    {"headers": st.just({}), "content_type": st.just("text/plain"), "content": text}
)


@FEWER
@given(st.lists(part))
def test_mixed_comes_back(parts: list[dict[str, Any]]) -> None:
    assert write("multipart", parts, kind="mixed").data == parts


def multipart(*lines: str, kind: str = "form-data") -> Body:
    return Body("\r\n".join(lines).encode(), f"multipart/{kind}; boundary=XX")


def test_a_form_of_a_browser() -> None:
    form = multipart(
        "--XX",
        'Content-Disposition: form-data; name="a ""; filename="C:\\f.txt"'.replace(' "', "%22", 1),
        "Content-Type: text/plain",
        "",
        "one\r\ntwo",
        "--XX",
        'Content-Disposition: form-data; name="t"',
        "",
        "é",
        "--XX--",
        "",
    )
    assert form.data["t"] == "é"
    encoded = multipart(
        "--XX", "Content-Transfer-Encoding: base64", "", "aGFs", "bG8=", "--XX--", kind="mixed"
    )
    assert encoded.data == [{"headers": {}, "content_type": "text/plain", "content": "hallo"}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Body(b"x", "multipart/form-data"), "needs a boundary"),
        (multipart("nothing"), "not valid multipart at part 1"),
        (multipart("--XX", "A: b", "", "x"), "ends too early, in part 1"),
        (multipart("--XX", "A: b", "", "x", "--XX--"), "part 1 does not say which field"),
        (multipart("--XX", "no header", "", "x", "--XX--"), "not valid multipart at part 1"),
        (multipart("--XX", "A: 1", "a: 2", "", "x", "--XX--"), "header 'a' twice"),
        (multipart("--XX", "A: " + "b" * 9000, "", "x", "--XX--"), "too long"),
        (multipart("--XX", *[f"a{i}: b" for i in range(60)], "", "x", "--XX--"), "too many"),
        (multipart(*["--XX", "A: b", "", "x"] * 1001, "--XX--", kind="mixed"), "than 1000 parts"),
        (
            multipart("--XX", "Content-Transfer-Encoding: base64", "", "*", "--XX--", kind="mixed"),
            "part 1 is not valid base64",
        ),
    ],
)
def test_multipart_that_is_refused(
    body: Body, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadMessage) as found:
        _ = body.data
    assert message in str(found.value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([1], "form-data", "an object with its fields"),
        ({"a": {"contents": b""}}, "form-data", "field 'a' has 'contents'"),
        ({"a": {"filename": "x"}}, "form-data", "neither text nor bytes"),
        ({"a": 1}, "mixed", "a list of parts"),
        (["a"], "mixed", "part 1 is no object"),
        ([{"content": "x", "headers": {"a": "b\r\nc: d"}}], "mixed", "line break"),
    ],
)
def test_what_is_no_multipart(data: Any, kind: str, message: str) -> None:
    with pytest.raises(RouteFailure) as found:
        write("multipart", data, kind=kind)
    assert message in str(found.value)


# --- XML as data ----------------------------------------------------------------------------------

tag = st.text(string.ascii_letters, min_size=1, max_size=8)
content = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1).map(
    lambda t: t.replace("\ufffe", "").replace("\uffff", "")
)
element = st.recursive(
    content,
    lambda inner: st.dictionaries(
        tag, inner | st.lists(inner, min_size=2, max_size=3), min_size=1, max_size=4
    ),
    max_leaves=12,
)


@FEWER
@given(st.dictionaries(tag, element, min_size=1, max_size=1), st.dictionaries(tag, content))
def test_data_comes_back_from_xml(data: dict[str, Any], attributes: dict[str, str]) -> None:
    [(root, value)] = data.items()
    if isinstance(value, dict):
        data = {root: {**{f"@{name}": text for name, text in attributes.items()}, **value}}
    assert read("xml", write("xml", data)) == data
    assert read("xml", write("xml", data[root], root=root), root=root) == data[root]


def test_xml_as_data() -> None:
    raw = (
        b'<o:order xmlns:o="urn:o" id="7"><!-- c --><line>a</line><line>b</line>'
        b"<note/>text <b>more</b></o:order>"
    )
    assert read("xml", raw) == {
        "order": {"@id": "7", "line": ["a", "b"], "note": "", "b": "more", "#text": "text"}
    }
    assert read("xml", raw, root="order", lists=["note"])["note"] == [""]
    with pytest.raises(BadMessage, match="the root element is 'order', not 'x'"):
        read("xml", raw, root="x")
    data = {"@id": 7, "line": [1, Decimal("1.50"), None, True], "nested": [[1], [2]]}
    written = write("xml", data, root="order", namespace="urn:o")
    assert written.raw.partition(b"\n")[2] == (
        b'<order xmlns="urn:o" id="7"><line>1</line><line>1.50</line><line/><line>true</line>'
        b"<nested><item>1</item></nested><nested><item>2</item></nested></order>"
    )
    assert isinstance(written.data, etree._Element)
    assert write("xml", [1, 2], root="a", item="b").raw.endswith(b"<a><b>1</b><b>2</b></a>")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": 1, "b": 2}, "`root` says what to call it"),
        ([1], "`root` says"),
        ({"a": {"b c": 1}}, "a.b c: 'b c' is no name"),
        ({"a": {"b": {"@x y": 1}}}, "a.b.@x y is no attribute"),
        ({"a": {"b": "\0"}}, "a.b has a character"),
        ({"a": {"@b": {}}}, "a.@b is neither a text nor a number"),
    ],
)
def test_what_has_no_form_in_xml(data: Any, message: str) -> None:
    with pytest.raises(RouteFailure) as found:
        write("xml", data)
    assert message in str(found.value)


# --- streams --------------------------------------------------------------------------------------


class Slow(io.BytesIO):
    """Gives a few bytes at a time, so that everything straddles a border."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size if size is not None and size >= 0 else 7, 7))


def slowly(name: str, raw: bytes, **options: Any) -> list[Piece]:
    stream = FORMATS[name].stream
    assert stream is not None
    return list(stream.read(Slow(raw), stream.options(**options), parse_content_type("")))


@settings(max_examples=40)
@given(
    st.lists(plain, max_size=4), st.dictionaries(st.text('ab"\\[{', max_size=3), text, max_size=3)
)
def test_the_items_of_an_array_are_those_the_codec_reads(items: list[Any], rest: Any) -> None:
    for indent in (None, 1):
        raw = json.dumps(items, default=str, indent=indent).encode()
        assert same(data_of(slowly("json", raw)), read("json", raw))
        whole = {"a": rest, "x.y": rest, "wanted": {"b": rest, "here": items}, "behind": rest}
        raw = json.dumps(whole, default=str, indent=indent, ensure_ascii=False).encode()
        found = data_of(slowly("json", raw, at="wanted.here"))
        assert same(found, read("json", raw)["wanted"]["here"])


@pytest.mark.parametrize(
    ("raw", "at", "message"),
    [
        (b"", "", "line 1, column 1: it is no array"),
        (b"[1,\n2", "", "line 2, column 2"),
        (b"[1,\n2,", "", "line 2, column 3: the JSON ends too early"),
        (b'["a', "", "ends too early"),
        (b"[[1, {", "", "ends too early"),
        (b"[1 2]", "", "line 1, column 4: a comma"),
        (b"[1] x", "", "line 1, column 5: there is something behind the end"),
        (b'{"a": 1}', "", "it is no array"),
        (b'{"a": 1}', "a", "what is at 'a' is no array"),
        (b'{"a": 1}', "b", "no array at 'b': 'b' is missing"),
        (b'{"a": [1]}', "a.b", "no array at 'a.b'"),
        (b'{"a": [1]', "a", "ends too early"),
        (b'{"a": [1], "b": [', "a", "ends too early"),
        (b'{"a": [1], "b": 2, "a": [2]}', "a", "the key 'a' is there twice"),
        (b'{"b": {"a": [1], "a": 2}}', "b.a", "the key 'a' is there twice"),
        (b'{"a": [1] 7}', "a", "a comma or the end of the object"),
        ("[1]".encode("utf-16"), "", "UTF-16"),
    ],
)
def test_json_without_such_an_array(raw: bytes, at: str, message: str) -> None:
    for found_by in (slowly, pieces):
        with pytest.raises(BadMessage) as found:
            found_by("json", raw, at=at)
        assert message in str(found.value)


XML = (
    b'<e xmlns="urn:e" xmlns:p="urn:p"><o i="1">x<o>inner</o>y</o>tail <p:o q="p:z"/>'
    b"<deep><o>2</o></deep></e>"
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("o", ["1", None, None]),
        ("e/o", ["1", None]),
        ("{urn:p}o", [None]),
        ("{urn:e}deep/o", [None]),
        ("/e/o", ["1", None]),
        ("/o", []),
        ("/e/deep/{urn:e}o", [None]),
        ("e", [None]),
        ("nothing", []),
    ],
)
def test_elements_are_found_by_name_and_path(wanted: str, found: list[str | None]) -> None:
    for read_ in (slowly, pieces):
        given_ = read_("xml", XML, element=wanted)
        assert [piece.body.data.get("i") for piece in given_] == found


def test_an_element_is_a_document_of_its_own() -> None:
    first, second, _ = pieces("xml", XML, element="o")
    assert first.body.data.xpath("string()") == "xinnery"
    # What a value refers to by prefix is still declared.
    assert second.body.data.nsmap["p"] == "urn:p"
    utf_16 = "<a><o>é</o></a>".encode("utf-16")
    assert pieces("xml", utf_16, element="o")[0].body.data.text == "é"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no element"),
        (b"<a>", "line 1, column 4"),
        (b"<a><o></a>", "line 1"),
        (b"<a/><b/>", "Extra content"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "DOCTYPE"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "DOCTYPE"),
        (b"<a>&x;</a>", "not well-formed"),
        (b"<a>" * 1000, "depth"),
        (b" " * 2_000_000, "not well-formed"),
        (b"<a>" + b"<!--" + b"x" * 2_000_000, "not well-formed"),
    ],
)
def test_xml_that_is_refused_while_it_streams(raw: bytes, message: str) -> None:
    for read_ in (slowly, pieces) if len(raw) < 10_000 else (pieces,):
        with pytest.raises(BadMessage) as found:
            read_("xml", raw, element="o")
        assert message in str(found.value) or isinstance(found.value, TooLarge)


@pytest.mark.parametrize(
    ("name", "raw", "options"),
    [
        ("lines", b"x" * (MAX_PIECE + 1), {}),
        ("ndjson", b"[" + b"1," * (MAX_PIECE // 2) + b"1]", {}),
        ("json", b'["' + b"x" * (MAX_PIECE + 1) + b'"]', {}),
        ("json", b"[[" + b"1," * (MAX_PIECE // 2) + b"1]]", {}),
        ("xml", b"<a><o>" + b"<b>x</b>" * (MAX_PIECE // 7) + b"</o></a>", {"element": "o"}),
    ],
)
def test_a_piece_has_its_limit(name: str, raw: bytes, options: dict[str, Any]) -> None:
    with pytest.raises(TooLarge):
        pieces(name, raw, **options)


def test_a_large_value_that_is_not_wanted_is_passed_over() -> None:
    raw = (
        b'{"large": ['
        + (b'"' + b"x" * 1000 + b'", {"y": [[[[[]]]]]},') * 20_000
        + b'"x"], "a": [1]}'
    )
    assert data_of(pieces("json", raw, at="a")) == [1]


def test_an_element_of_a_stream_holds_so_many_at_most() -> None:
    raw = io.BytesIO(b"<o><order>" + b"<a/>" * (MAX_ELEMENTS + 100_000) + b"</order></o>")
    with pytest.raises(TooLarge, match=f"'order' holds over {MAX_ELEMENTS} others"):
        list(read_elements(raw, ElementsOptions(element="order"), parse_content_type("")))


@pytest.mark.parametrize(
    ("format", "raw"),
    [
        ("csv", b"a\n" + b"1\n" * 300_000),
        ("csv", b"a,b\n" + b"," * 2_000_001),
        ("csv", b"a\n" + b"\n" * 2_000_001),
        ("lines", b"\n" * 1_000_001),
        ("ndjson", b"{}\n" * 1_000_001),
    ],
)
def test_what_is_more_than_fits_is_not_read_as_a_whole(format: str, raw: bytes) -> None:
    with pytest.raises(TooLarge, match="more values than are read as a whole"):
        read(format, raw)


def test_columns_are_compared_once() -> None:
    names = ",".join(f"c{i}" for i in range(100_000))
    with pytest.raises(BadMessage, match="column 'c99999' twice"):
        read("csv", f"{names},c99999\n".encode())


def test_escapes_of_a_large_form_are_read_wherever_they_stand() -> None:
    text = "".join(f"{'a' * i}ü%" for i in range(1, 600))
    form = quote_plus(text).encode()
    assert len(form) > 64 * 1024
    assert read("form", b"t=" + form + b"&u=%zz%4") == {"t": text, "u": "%zz%4"}
