"""Bytes that nobody would think of, for every parser and codec: `python -m hostile.fuzz`.

What counts as broken: an exception that is none of the bus's own, and an input that takes longer
than a second of work. Inputs are made from good ones, from each other and from words of the format;
one whose outcome was not seen before is kept to make more of. The same seed tries the same. With
--atheris the same targets are led by coverage, which finds more and needs Linux: see `guided.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gzip
import json
import random
import re
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade

import esb.codecs  # noqa: F401 - registers them
from esb.cloudevents import binary, structured
from esb.cloudevents import read as read_event
from esb.deadlines import Deadlines
from esb.envelope import Body, Envelope, Headers, parse_content_type
from esb.errors import EsbError
from esb.expressions import ExpressionError, compile_expression, compile_text
from esb.http import Connection, Exchange, HttpServer, Limits
from esb.outbox import Outbox
from esb.record import Damaged
from esb.record import decode as read_record
from esb.secrets import References
from esb.strict_yaml import read_yaml
from esb.templates import TemplateError, compile_jinja
from esb.xml import parse_soap_header, parse_xml
from esb_amqp.frames import Frames
from esb_amqp.mapping import from_delivery
from esb_amqp.properties import read as read_properties
from esb_amqp.wire import Address, Wire
from esb_soap.addressing import read_addressing
from esb_soap.envelope import HeaderFault, read_envelope, read_fault
from esb_soap.wsdl import load_wsdl
from esb_web.connection import Connection as Answering

SLOW: Final = 1.0
"""Seconds of work for one input, which is at most 4 KB."""

LONGEST: Final = 4096
"""Bytes of one input."""

_PARTNER: Final = Path(__file__).parents[1] / "support" / "peers" / "partner.wsdl"


class Hang(BaseException):
    """It took too long. No Exception: nothing is to catch it."""


@dataclass
class Target:
    """Something that reads bytes. refusals: what it may raise. words: of its format."""

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    refusals: tuple[type[Exception], ...] = (EsbError,)


@dataclass
class Found:
    """What was tried, how much of it was new, and what broke: the input and how."""

    tried: int = 0
    kept: int = 0
    broken: list[tuple[bytes, str]] = field(default_factory=list)


# --- what is tried --------------------------------------------------------------------------------


def _codec(content_type: str) -> Callable[[bytes], object]:
    def run(raw: bytes) -> object:
        data = Body(raw, content_type).data
        return Body.of(data, content_type).raw

    return run


def _event(raw: bytes) -> object:
    head, _, rest = raw.partition(b"\n\n")
    if not rest:
        return structured(read_event(Envelope(body=Body(raw, "application/cloudevents+json"))))
    pairs = [line.decode("latin-1").partition(":") for line in head.splitlines()]
    headers = Headers([(name, value.strip()) for name, _, value in pairs])
    return binary(read_event(Envelope(body=Body(rest, "application/json"), headers=headers)))


class _Transport(asyncio.Transport):
    """A socket that takes everything."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """It comes all at once."""

    resume_reading = pause_reading

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0


def _app(exchange: Exchange) -> None:
    told = f"{exchange.method} {exchange.path} {exchange.query} {len(list(exchange.headers))}"
    exchange.answer(200, [("content-type", "text/plain")], told.encode("utf-8", "replace"))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()

    def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        _late.append(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(failed)
    return loop


_late: Final[list[BaseException]] = []
"""What failed in a turn of the loop of its own."""


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _request(raw: bytes) -> object:
    loop = _loop()
    server = HttpServer(_app, Limits())  # type: ignore[arg-type]
    transport = _Transport()

    async def feed() -> None:
        deadlines = Deadlines(loop)
        connection = Connection(server, loop, deadlines, Outbox(loop))
        connection.connection_made(transport)
        cut = len(raw) // 3
        for piece in (raw[:cut], raw[cut:]):
            if piece and not transport.closed:
                connection.data_received(piece)
                await _turns()
        connection.connection_lost(None)
        await _turns()
        deadlines.close()

    loop.run_until_complete(feed())
    if _late:
        raise _late.pop()
    return [(m[1], m[2][-30:]) for m in _ANSWER.finditer(transport.written)]


class _Nobody:
    def returned(self, connection: Answering) -> None:
        """There is no second request."""

    gone = returned


def _answer(raw: bytes) -> object:
    loop = _loop()

    async def feed() -> object:
        deadlines = Deadlines(loop)
        connection = Answering(deadlines, Outbox(loop), _Nobody())
        connection.connection_made(_Transport())
        answer = connection.ask(
            "GET", b"GET / HTTP/1.1\r\n\r\n", None, due=loop.time() + 60, silence=None,
            limit=100_000, want_body=True, may_stream=False,
        )  # fmt: skip
        for at in range(0, len(raw), 100):
            if not answer.done():
                connection.data_received(raw[at : at + 100])
        if not answer.done():
            connection.eof_received()
            connection.connection_lost(None)
        deadlines.close()
        reply = await asyncio.wait_for(answer, 1)
        return reply.status, len(reply.headers), len(reply.body)

    return loop.run_until_complete(feed())


_ANSWER: Final = re.compile(rb"HTTP/1.1 (\d+).*?\r\n\r\n([^\0]{0,200})", re.DOTALL)


class _Deaf:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def delivered(self, *about: Any) -> None:
        from esb_amqp.client import Delivery

        consumer, tag, redelivered, exchange, key, properties, body = about
        del consumer
        channel: Any = None
        taken = Delivery(channel, tag, redelivered, exchange, key, properties, body)
        self.heard.append(len(from_delivery(taken, "q").headers))

    def returned(self, *about: Any) -> None:
        """Nobody asked."""

    confirmed = ended = unreadable = returned


def _frames(raw: bytes) -> object:
    async def feed() -> str:
        wire = Wire(Address("localhost", 0), None, heartbeat=0)
        deaf = _Deaf()
        wire.channels[1] = Frames(deaf).take
        for at in range(0, len(raw), 50):
            wire.on_bytes(raw[at : at + 50])
            if wire.closed.done():
                break
        return f"{wire.closed.done()} {len(wire._part)} {deaf.heard}"

    return _loop().run_until_complete(feed())


def _properties(raw: bytes) -> object:
    return read_properties(raw, 0, len(raw))[1]


_MESSAGE: Final = Envelope(
    body=Body(b'{"a": 1, "b": [1, "x", null], "c": {"d": 1.5}}', "application/json"),
    headers=Headers([("x-a", "1")]),
)


def _expression(raw: bytes) -> object:
    return compile_expression(raw.decode("utf-8", "replace"))(_MESSAGE)


def _text(raw: bytes) -> object:
    return compile_text(raw.decode("utf-8", "replace"))(_MESSAGE)


def _template(raw: bytes) -> object:
    text = raw.decode("utf-8", "replace") + "\n"
    return compile_jinja(text, "text/plain", folders=[])(_MESSAGE).raw


@functools.cache
def _operations() -> dict[str, Any]:
    (service,) = load_wsdl(_PARTNER).services.values()
    port = next(iter(service.ports.values()))
    return dict(port.operations)


def _soap(raw: bytes) -> object:
    message = read_envelope(raw)
    read_addressing(message)
    if message.fault is not None:
        return read_fault(message.fault).code
    operation = _operations().get(message.body.tag.rpartition("}")[2].removesuffix("Response"))
    if operation is None:
        return "none"
    part = operation.output if str(message.body.tag).endswith("Response") else operation.input
    data = part.read(message.body, message.header)
    return part.write(data)


def _to_soap(raw: bytes) -> object:
    data = Body(raw, "application/json").data
    told = []
    for operation in _operations().values():
        try:
            operation.input.write(data)
        except EsbError as e:
            told.append(e.detail[:20])
    return told


def _yaml_file(raw: bytes) -> object:
    text = raw.decode("utf-8", "replace")
    document = read_yaml(text, "a.yaml", Path(), References({"A": "1"}))
    return " ".join(found.message[:20] for found in document.diagnostics)


_NS: Final = b"urn:example:partner"
_ENVELOPE: Final = (
    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header xmlns:a="http://'
    b'www.w3.org/2005/08/addressing"><a:Action>a</a:Action><a:MessageID>1</a:MessageID></s:Header>'
    b'<s:Body><getPartner xmlns="%b"><id>1</id></getPartner></s:Body></s:Envelope>' % _NS
)


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


_DELIVERY: Final = (
    _frame(1, struct.pack(">HH", 60, 60) + b"\3esb" + struct.pack(">QB", 1, 0) + b"\0\1q")
    + _frame(2, struct.pack(">HHQ", 60, 0, 2) + b"\xa0\x00\x0atext/plain\0\0\0\x08\1aS\0\0\0\1b")
    + _frame(3, b"{}")
)


def targets() -> list[Target]:
    """All of them."""
    from hostile.small import targets as small

    xml = [b"<a>", b"</a>", b"<!DOCTYPE a [", b"<![CDATA[", b"]]>", b"&#0;", b"&x;", b"xmlns:",
           b'xml:space="preserve"', b"<?xml version='1.0' encoding='utf-16'?>", b"<!--", b"-->",
           b"\xff\xfe", b"\xef\xbb\xbf"]  # fmt: skip
    js = [b"{", b"}", b"[", b"]", b":", b",", b'"', b"null", b"1e999", b"-0", b"0.1", b"\\ud800",
          b"\\u0000", b"9" * 400, b"[" * 150, b'"a":', b"NaN"]  # fmt: skip
    form = [b"&", b"=", b"%", b"%00", b"%zz", b"+", b"[]", b";"]
    part = [b"--b", b"--b--", b"\r\n", b"Content-Disposition: form-data; name=", b'"',
            b"filename*=", b"''%00", b"Content-Type: ",
            b"Content-Transfer-Encoding: base64"]  # fmt: skip
    yaml = [b": ", b"- ", b"&a ", b"*a", b"!!python/object", b"|\n", b">\n", b"? ", b"<<: ", b"{",
            b"}", b"[", b"]", b"%YAML 1.2\n", b"---\n", b"...\n", b"\t", b"'", b"0x1"]  # fmt: skip
    http = [b"\r\n", b"\n", b"Content-Length: ", b"Transfer-Encoding: chunked", b"Host: a", b" ",
            b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"Upgrade: h2c\r\nConnection: upgrade", b"\0",
            b"Expect: 100-continue", b"5;a=b\r\n", b"GET ", b"OPTIONS *", b"CONNECT a:1", b"\x80",
            b"http://a/", b"/..;/", b"%2e%2e/", b"-1", b"99999999999999999999"]  # fmt: skip
    code = [b"body.", b"headers", b"['", b"']", b"(", b")", b"{{", b"}}", b"{%", b"%}", b"|", b"~",
            b"**", b"//", b" if ", b" else ", b" for x in ", b"endfor", b"xpath('", b"jmespath('",
            b"'", b'"', b"\\", b"0x", b"1e9", b"loop.", b"macro m(", b"endmacro", b"set x = ",
            b"[::", b"not in", b"is defined", b"{#", b"#}", b"-%}", b"raw", b"endraw"]  # fmt: skip
    wire = [struct.pack(">I", n) for n in (0, 1, 60 << 16 | 60, 2**31, 2**32 - 1)]
    wire += [b"\xce", b"F", b"A", b"S", b"T", b"D", b"\xff\xff", b"\1\0\1", b"\2\0\1", b"\3\0\1"]
    properties = (
        b"\xff\xfc\1a\1b\0\0\0\x0b\1aF\0\0\0\4\1bt\1\1\2\1c\1d\1e\1f" + b"\0" * 8 + b"\1g" * 4
    )
    event = b'{"specversion":"1.0","id":"1","source":"/a","type":"t","time":"2020-01-01T00:00:00Z"'
    parts = b'--b\r\nContent-Disposition: form-data; name="a"; filename="x"\r\n\r\n1\r\n--b--\r\n'
    syntax = (EsbError, ExpressionError, TemplateError)
    return [
        Target("json", _codec("application/json"), [b'{"a": [1, 2.5, "x", null, true]}'], js),
        Target("ndjson", _codec("application/x-ndjson"), [b'{"a": 1}\n[2]\n'], [*js, b"\n"]),
        Target("xml", _codec("application/xml"), [b'<a b="c" xmlns="u"><d>e</d>&#65;</a>'], xml),
        Target("xml parser", parse_xml, [b'<?xml version="1.0"?><a b="c"><d>e</d></a>'], xml),
        Target("soap header", parse_soap_header, [_ENVELOPE], [*xml, b"<s:Body", b"<s:Header>"]),
        Target("form", _codec("application/x-www-form-urlencoded"), [b"a=1&b=2&a=3&c[d]=%41"],
               form),
        Target("multipart", _codec('multipart/form-data; boundary="b"'), [parts], part),
        Target("mixed", _codec('multipart/mixed; boundary="b"'), [parts], part),
        Target("csv", _codec("text/csv"), [b'a,b\n1,"2\n3"\n'], [b'"', b",", b"\n", b"\r", b'""']),
        Target("yaml", _codec("application/yaml"), [b"a: 1\nb: [x, {y: z}]\nc: |\n  t\n"], yaml),
        Target("yaml of projects", _yaml_file, [b"routes:\n  a:\n    from: {http: {path: /}}\n"],
               [*yaml, b"${A}"]),
        Target("text", _codec("text/plain; charset=utf-16"), [b"\xff\xfea\0"], [b"\xd8\x00"]),
        Target("events", _event, [event + b',"data":{"a":1}}', event + b',"data_base64":"YQ=="}',
               b"ce-id: 1\nce-source: a\nce-type: t\nce-specversion: 1.0\n\n{}"], [*js, *form]),
        Target("content types", lambda raw: parse_content_type(raw.decode("latin-1")).charset,
               [b'text/xml; charset="utf-8"; a=b'], [b";", b"=", b'"', b"\\", b"charset=", b"/"]),
        Target("http", _request, [
            b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 1"
            b"\r\n\r\naGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ], http),
        Target("answers", _answer, [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 No\r\n\r\nto the end",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"a" * 999),
            b"HTTP/1.1 304 Same\r\nETag: a\r\n\r\n",
        ], [*http, b"Content-Encoding: deflate", b"Connection: close", b"HTTP/1.1 101 x\r\n\r\n"],
            (EsbError, OSError, HttpParserError, HttpParserUpgrade)),
        Target("amqp", _frames, [_DELIVERY, _DELIVERY * 2], wire),
        Target("amqp properties", _properties, [properties], wire, (ValueError,)),
        Target("expressions", _expression, [
            b"body.a + 1 if body.b | length > 2 else headers['x-a'] ~ 'z'",
            b"jmespath('b[?@ == `1`]') | first", b"body.b[1:] == [1] and not body.c.d is defined",
        ], code, syntax),
        Target("texts", _text, [b"a {{ body.a }} b {{ body['b'][0] | string }}"], code, syntax),
        Target("templates", _template, [
            b"{% for x in body.b %}{{ loop.index }}{{ x | default('n', true) }}{% endfor %}",
            b"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1) }}{% set x = 1 %}{{ x }}",
        ], code, syntax),
        Target("soap", _soap, [
            _ENVELOPE, _ENVELOPE.replace(b"getPartner", b"dropPartner"),
            _ENVELOPE.replace(b"<getPartner", b"<a").replace(b"</getPartner", b"</a"),
        ], [*xml, b"<id>", b"xsi:nil='true'", b"<tag>", b"<partner>", b"<s:Fault>"],
            (EsbError, HeaderFault)),
        Target("to soap", _to_soap, [b'{"id": 1}', b'{"partner": {"name": "a", "kind": "person"}}'],
               [*js, b'"id"', b'"partner"', b'"name"', b'"@id"', b'"#text"', b'"$type"']),
        Target("records", read_record, [_record()], wire, (Damaged,)),
        *small(),
    ]  # fmt: skip


def _record() -> bytes:
    from esb.record import encode

    return encode(_MESSAGE.replace(params={"query": {"a": "b"}}))


# --- trying ---------------------------------------------------------------------------------------


def mutated(random: random.Random, pool: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Another input, made from those in the pool."""
    raw = bytearray(random.choice(pool))
    for _ in range(1 << random.randrange(5)):
        at = random.randrange(len(raw) + 1)
        match random.randrange(8):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << random.randrange(8)
            case 1:
                raw[at:at] = random.choice(words or [b"\0"])
            case 2:
                del raw[at : at + random.randrange(1, 16)]
            case 3:
                raw[at:at] = raw[at : at + random.randrange(1, 64)] * random.randrange(1, 8)
            case 4:
                other = random.choice(pool)
                begin = random.randrange(len(other) + 1)
                raw[at:at] = other[begin : begin + random.randrange(64)]
            case 5:
                raw[at : at + 1] = bytes([random.randrange(256)])
            case 6:
                raw[at : at + 4] = random.choice((b"\0", b"\xff\xff\xff\xff", b"\x7f", b"-1", b"0"))
            case _:
                raw[at:at] = random.choice(words or [b"a"]) * random.randrange(1, 20)
    return bytes(raw[:LONGEST])


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises Hang after so much work, in the main thread; at the end, if something caught it."""
    over = False

    def late(number: int, frame: FrameType | None) -> None:
        nonlocal over
        over = True
        raise Hang

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    if over:
        raise Hang


def attempt(target: Target, raw: bytes) -> tuple[str, str]:
    """What came of an input, in short and without its details; and how it broke, if it did."""
    try:
        with deadline(SLOW):
            made = target.run(raw)
        return f"ok {type(made).__name__} {str(made)[:24]!r}", ""
    except target.refusals as e:
        return f"{type(e).__name__} {re.sub(r'[^a-z ]+', '.', str(e).lower())[:60]}", ""
    except Hang:
        return "hang", f"more than {SLOW:g} s"
    except BaseException as e:  # noqa: BLE001 - that is what is looked for
        where = traceback.extract_tb(e.__traceback__)[-1]
        return f"{type(e).__name__} {where.lineno}", "".join(traceback.format_exception(e)[-4:])


def fuzz(target: Target, *, seed: int = 0, seconds: float = 0, tries: int = 0) -> Found:
    """Try inputs for so long, or so many. Stops early when ten broke in different ways."""
    chance = random.Random(f"{target.name} {seed}")
    pool, outcomes, ways = list(target.seeds), set[str](), set[str]()
    found = Found()
    end = time.monotonic() + seconds if seconds else float("inf")
    while len(ways) < 10 and time.monotonic() < end and (not tries or found.tried < tries):
        raw = pool[found.tried] if found.tried < len(target.seeds) else mutated(
            chance, pool, target.words
        )  # fmt: skip
        found.tried += 1
        outcome, broken = attempt(target, raw)
        if broken and outcome not in ways:
            ways.add(outcome)
            found.broken.append((raw, broken))
        if outcome not in outcomes and len(outcomes) < 2000:
            outcomes.add(outcome)
            pool.append(raw)
    found.kept = len(outcomes)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Try all targets, or those that are named; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-k", "--only", default="", help="a pattern of names")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage")
    parser.add_argument("--jobs", type=int, default=1, help="at a time, with --atheris")
    given = parser.parse_args(argv)
    chosen = [target for target in targets() if re.search(given.only, target.name)]
    if given.atheris:
        from hostile.guided import run

        names = [target.name for target in chosen]
        runs = run(names, seconds=given.seconds, seed=given.seed, jobs=given.jobs)
        return 1 if any(one.broken or one.ended for one in runs) else 0
    bad = 0
    for target in chosen:
        found = fuzz(target, seed=given.seed, seconds=given.seconds)
        bad += len(found.broken)
        print(f"{target.name:18} {found.tried:9} inputs {found.kept:5} outcomes "
              f"{len(found.broken):2} broken", flush=True)  # fmt: skip
        for raw, how in found.broken:
            print(f"    {json.dumps(raw.decode('latin-1'))}\n{how}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
