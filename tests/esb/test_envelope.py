"""The canonical message: headers that cannot be smuggled, bodies that are parsed only when read."""

from __future__ import annotations

import encodings
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import esb.codecs  # noqa: F401 - registers what bodies are read with
from esb.envelope import (
    NO_BODY,
    NO_HEADERS,
    PIECE,
    Body,
    ContentType,
    Envelope,
    Headers,
    Outcome,
    new_id,
    parse_content_type,
    register_codec,
)
from esb.errors import (
    BadMessage,
    Permanent,
    RouteFailure,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from esb.redaction import Redactor
from esb.traces import Snapshot
from esb.tracing import snapshot

names = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,8}\Z")
values = st.text(st.characters(exclude_characters="\r\n\0")) | st.integers() | st.binary()
pairs = st.lists(st.tuples(names, values))


# --- headers -------------------------------------------------------------------------------------


@given(pairs)
def test_headers_keep_order_case_and_repeats(given_pairs: list[tuple[str, Any]]) -> None:
    headers = Headers(given_pairs)
    assert list(headers) == given_pairs
    assert len(headers) == len(given_pairs)
    for name, _ in given_pairs:
        same = [v for n, v in given_pairs if n.lower() == name.lower()]
        for spelling in (name, name.lower(), name.upper()):
            assert headers.get_all(spelling) == same
            assert headers.get(spelling) == same[0]
            assert spelling in headers


@given(pairs, st.dictionaries(names, values | st.none(), max_size=3))
def test_replace_leaves_exactly_one_or_none(
    given_pairs: list[tuple[str, Any]], changes: dict[str, Any]
) -> None:
    before = Headers(given_pairs)
    after = before.replace(changes)
    assert list(before) == given_pairs
    changed = {name.lower() for name in changes}
    kept = [pair for pair in given_pairs if pair[0].lower() not in changed]
    assert list(after)[: len(kept)] == kept
    for name, value in changes.items():
        if sum(other.lower() == name.lower() for other in changes) == 1:
            assert after.get_all(name) == ([] if value is None else [value])


def test_headers_that_are_absent() -> None:
    headers = Headers([("A", ""), ("B", None)])
    assert headers.get("c") is None
    assert headers.get("c", 7) == 7
    assert headers.get("a", 7) == ""
    assert "b" in headers
    assert "c" not in headers
    assert 7 not in headers
    assert headers.get_all("c") == []
    assert headers.replace({}) is headers
    assert list(headers.keep(lambda name: name == "a")) == [("A", "")]
    assert headers == Headers([("A", ""), ("B", None)])
    assert headers != Headers([("a", ""), ("B", None)])
    assert hash(headers) == hash(Headers([("A", "x"), ("B", None)]))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a:b",
        "a\r\nX",
        "a\n",
        "a\0",
        "é",
        "a\t",
        "(a)",
        "a/b",
        "a,b",
        "\uff41",
        " a",
        "a ",
    ],
)
def test_what_is_no_header_name_is_refused(name: str) -> None:
    with pytest.raises(BadMessage, match="no header name"):
        Headers([(name, "1")])
    with pytest.raises(BadMessage):
        NO_HEADERS.replace({name: "1"})


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "a\rb", "a\0b", "\n"])
def test_no_value_starts_another_header(value: str) -> None:
    with pytest.raises(BadMessage, match="line break or a NUL") as e:
        Headers([("A", value)])
    assert "Admin" not in str(e.value)
    with pytest.raises(BadMessage):
        NO_HEADERS.replace({"A": value})


def test_headers_never_show_their_values() -> None:
    headers = Headers([("Authorization", "Bearer hunter2")])
    assert "Authorization" in repr(headers)
    assert "hunter2" not in repr(headers)
    assert "hunter2" not in repr(Envelope(headers=headers))


# --- bodies --------------------------------------------------------------------------------------


class Counting:
    """A codec that counts what is asked of it."""

    def __init__(self) -> None:
        self.decoded = 0
        self.encoded = 0

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        self.decoded += 1
        return raw.decode()

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        self.encoded += 1
        return str(data).encode()


@pytest.fixture
def counting() -> Counting:
    codec = Counting()
    register_codec(codec, "application/x-counting")
    return codec


def test_a_body_that_nobody_reads_is_never_parsed(counting: Counting) -> None:
    raw = b"  as it came \xff"
    body = Body(raw, "application/x-counting")
    message = Envelope(body=body).replace(subject="s").reply(body)
    assert message.body.raw is raw
    assert not message.body.is_parsed
    assert not body.is_empty
    assert repr(body) == f"<Body application/x-counting {len(raw)} bytes>"
    assert (counting.decoded, counting.encoded) == (0, 0)


def test_a_body_is_parsed_and_written_at_most_once(counting: Counting) -> None:
    read = Body(b"x", "application/x-counting; v=1")
    assert [read.data, read.data, read.raw] == ["x", "x", b"x"]
    assert (counting.decoded, counting.encoded) == (1, 0)
    made = Body.of("y", "application/x-counting")
    assert not made.is_written
    assert [made.raw, made.raw, made.data] == [b"y", b"y", "y"]
    assert (counting.decoded, counting.encoded) == (1, 1)


def test_bytes_pass_untouched_even_when_read() -> None:
    raw = b'{ "a" : 1.10 ,\n "b":"\\u00e9" }'
    body = Body(raw, "application/json")
    assert body.data["b"] == "é"
    assert body.raw is raw


def test_a_body_that_cannot_be_read_can_still_be_passed_on() -> None:
    body = Body(b"{", "application/json")
    for _ in range(2):
        with pytest.raises(BadMessage):
            _ = body.data
    assert body.raw == b"{"
    with pytest.raises(UnsupportedMedia):
        _ = Body(b"x", "weird/type").data
    with pytest.raises(RouteFailure):
        _ = Body.of(object()).raw


def test_text_is_in_the_declared_charset() -> None:
    assert Body(b"\xe9", "text/plain; charset=ISO-8859-1").text == "é"
    assert Body.of({"a": "é"}).text == '{"a":"é"}'
    for content_type in (
        "text/plain",
        'text/plain; charset="nope"',
        "text/plain; charset=undefined",
    ):
        with pytest.raises(BadMessage):
            _ = Body(b"\xe9", content_type).text


@pytest.mark.parametrize(
    "name",
    [
        "utf-7",
        "utf_7",
        "UTF-7",
        "unicode-1-1-utf-7",
        "punycode",
        "idna",
        "unicode_escape",
        "raw-unicode-escape",
        "undefined",
        "rot13",
        "base64",
        "zip",
        "bz2",
        "hex",
        "uu",
        "quopri",
        "mbcs",
        "oem",
        "hz",
        "iso-2022-jp",
        "iso2022_kr",
        "palmos",
        "../../etc/passwd",
        "encodings.utf_8",
        "x" * 5000,
        "",
    ],
)
def test_charsets_that_two_would_read_differently_are_not_read(name: str) -> None:
    before = dict(encodings._cache)
    for _ in range(2):
        with pytest.raises(BadMessage, match="is not read here"):
            _ = Body(b"+ADw-", f"text/plain; charset={name}").text
    assert encodings._cache == before, "Python remembers every name that it is asked for"


@pytest.mark.parametrize(
    "name", ["UTF8", "latin1", "ISO_8859-15", "windows-1252", "IBM037", "big5", "us-ascii"]
)
def test_charsets_that_are_read(name: str) -> None:
    assert Body("a".encode(name), f"text/plain; charset={name}").text == "a"


def test_empty_bodies() -> None:
    assert NO_BODY.is_empty
    assert NO_BODY.data is None
    assert NO_BODY.raw == b""
    assert Body.of(None).is_empty
    for body in (Body.of(0), Body.of(""), Body.of([]), Body(b"x", "")):
        assert not body.is_empty


def test_a_body_in_a_file_is_read_when_it_is_asked_for(tmp_path: Path, counting: Counting) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"from a file")
    body = Body.from_file(file, "application/x-counting")
    assert not body.is_parsed
    assert body.is_written
    assert not body.is_empty
    assert repr(body) == "<Body application/x-counting 11 bytes>"
    with body.open() as stream:
        assert stream.read(4) == b"from"
    assert body.data == "from a file"
    file.unlink()  # what was read stays
    assert [body.raw, body.open().read()] == [b"from a file"] * 2
    assert counting.decoded == 1
    file.touch()
    assert Body.from_file(file, "").is_empty


def test_a_large_file_is_read_as_a_stream_only(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"x" * 11)
    body = Body.from_file(file, "text/plain", max_whole=10)
    for read in (lambda: body.raw, lambda: body.data, lambda: body.text):
        with pytest.raises(TooLarge, match="has 11 bytes; at most 10"):
            read()
    with body.open() as stream:
        assert len(stream.read()) == 11


async def test_any_body_comes_piece_by_piece(tmp_path: Path, counting: Counting) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"x" * (PIECE + 1))
    lying = Body.from_file(file, "", max_whole=10)
    assert [len(piece) async for piece in lying.chunks()] == [PIECE, 1]
    assert [piece async for piece in Body(b"raw", "").chunks()] == [b"raw"]
    assert [piece async for piece in Body.of("data", "application/x-counting").chunks()] == [
        b"data"
    ]
    assert [piece async for piece in NO_BODY.chunks()] == []
    await lying.close()
    assert [len(piece) async for piece in lying.chunks()] == [PIECE, 1]  # as often as one likes


async def arriving(*pieces: bytes, over: list[str]) -> AsyncIterator[bytes]:
    try:
        for piece in pieces:
            yield piece
    finally:
        over.append("over")


async def test_what_is_still_arriving_passes_once_and_nobody_reads_it() -> None:
    over: list[str] = []
    body = Body.from_stream(arriving(b"a", b"b", over=over), "text/plain", 2)
    again = body.typed("text/html")
    assert [one.is_stream for one in (body, again, NO_BODY)] == [True, True, False]
    assert (again.content_type, again.size) == ("text/html", 2)
    assert (body.is_empty, body.is_written, body.is_parsed) == (False, False, False)
    for read in (
        lambda: body.raw,
        lambda: body.data,
        lambda: body.text,
        lambda: body.written_as("text/html"),
        body.open,
    ):
        with pytest.raises(RouteFailure, match="as it arrives"):
            read()
    assert [piece async for piece in again.chunks()] == [b"a", b"b"]
    assert over == ["over"]
    with pytest.raises(Permanent, match="a second time"):
        body.chunks()
    assert Body.from_stream(arriving(over=over), "", 0).is_empty
    assert not Body.from_stream(arriving(over=over), "").is_empty


def test_for_people_a_stream_is_told_in_words() -> None:
    body = Body.from_stream(arriving(over=[]), "text/plain", 5)
    redact = Redactor([], set)
    assert snapshot(body, redact, 100) == Snapshot("text/plain", 5, "(passed as it arrived)")


async def test_a_stream_that_nobody_takes_to_its_end_is_given_up() -> None:
    over: list[str] = []
    body = Body.from_stream(arriving(b"a", b"b", over=over), "")
    async for piece in body.chunks():
        assert piece == b"a"
        break
    await body.typed("text/plain").close()
    assert over == ["over"]
    with pytest.raises(Permanent):
        body.chunks()


def test_a_file_that_is_gone_cannot_come_back(tmp_path: Path) -> None:
    file = tmp_path / "secret" / "body"
    with pytest.raises(Permanent) as found:
        Body.from_file(file, "text/plain")
    file.parent.mkdir()
    file.write_bytes(b"x")
    body = Body.from_file(file, "text/plain")
    file.unlink()
    with pytest.raises(Permanent) as later:
        _ = body.raw
    for error in (found.value, later.value):
        assert "secret" not in str(error)
        assert "secret" in error.notes[0]
    file.mkdir()
    with pytest.raises(Unavailable):
        body.open()


def test_a_body_can_be_opened_and_named_anew_whatever_it_is_made_of(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b'"a"')
    for body in (Body(b'"a"', "x/y"), Body.of("a"), Body.from_file(file, "x/y")):
        named = body.typed("application/json")
        assert [named.data, named.open().read(), body.open().read()] == ["a", b'"a"', b'"a"']


@pytest.mark.parametrize(
    ("value", "essence", "params"),
    [
        ("Text/XML", "text/xml", {}),
        ("a/b; Charset=UTF-8;q=1", "a/b", {"charset": "UTF-8", "q": "1"}),
        ('a/b ; charset="x y"', "a/b", {"charset": "x y"}),
        ("a/b;;charset", "a/b", {}),
        ("a/b;;charset;q=1;", "a/b", {"q": "1"}),
        (
            r'a/b; delimiter=";"; quote = "\""; q=1',
            "a/b",
            {"delimiter": ";", "quote": '"', "q": "1"},
        ),
        ('a/b; x="open; y="z"w; z="', "a/b", {"x": "open", "y": 'z"w', "z": ""}),
        ("a/b; x==;y", "a/b", {"x": "="}),
        ("", "", {}),
    ],
)
def test_content_types(value: str, essence: str, params: dict[str, str]) -> None:
    parsed = parse_content_type(value)
    assert (parsed.essence, parsed.params) == (essence, params)


# --- the envelope --------------------------------------------------------------------------------


def test_an_envelope_is_never_changed_in_place() -> None:
    envelope = Envelope(id="1")
    with pytest.raises(AttributeError):
        envelope.id = "2"  # type: ignore[misc]
    changed = envelope.replace(id="2", subject="s")
    assert (envelope.id, envelope.subject, changed.id, changed.subject) == ("1", "", "2", "s")


def test_a_reply_belongs_to_its_message() -> None:
    message = Envelope(
        id="1",
        traceparent="t",
        deadline=5.0,
        params={"path": {"id": "7"}},
        headers=Headers([("A", "1")]),
    )
    reply = message.reply(Body(b"r", "text/plain"))
    assert reply.outcome is Outcome.REPLY
    assert (reply.correlation_id, reply.traceparent, reply.deadline) == ("1", "t", 5.0)
    assert reply.params["path"] == {"id": "7"}
    assert len(reply.headers) == 0
    assert message.replace(correlation_id="c").reply(NO_BODY).correlation_id == "c"


def test_what_a_protocol_told_of_a_reply_is_that_of_the_last_one() -> None:
    reply = Envelope().reply(NO_BODY, facts={"status": 201})
    assert reply.params["reply"] == {"status": 201}
    assert reply.reply(NO_BODY).params["reply"] == {}


def test_ids_are_unique_and_in_order_of_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for each in ids[:10]:
        parsed = uuid.UUID(each)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    stamp = uuid.UUID(ids[-1]).int >> 80
    assert abs(stamp - time.time() * 1000) < 60_000
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)
    for place in (*range(15, 18), *range(19, 23), *range(24, 36)):  # all but the version is random
        assert len({one[place] for one in ids}) == (4 if place == 19 else 16)


def test_a_process_and_its_fork_make_ids_of_their_own() -> None:
    script = (
        "import os; from esb.envelope import new_id; new_id(); ours, theirs = os.pipe()\n"
        "if os.fork() == 0: os.write(theirs, new_id().encode()); os._exit(0)\n"
        "assert new_id()[14:] != os.read(ours, 100).decode()[14:]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
