"""Messages in queues: whoever may publish says what the bus reads, and to whom it answers."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import gzip
import struct
from decimal import Decimal
from typing import Any

from support.amqp import UNREADABLE

from hostile.case import Bytes, Case, Queued

MB = 1024 * 1024
JSON = "application/json"
_DOCTYPE = '<!DOCTYPE order [<!ENTITY x SYSTEM "file://PLANTED">]><order><name>&x;</name></order>'
_LAUGHS = "".join(
    f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_CONTROL = rb"header '(?i:cc|bcc|x-death|x-delay|x-first-death-queue|x-delivery-count|connection|transfer-encoding|authorization|content-length|host)'"
"""What must never go on: it would steer what happens to the message, or to another request."""

_UNHEARD = "broker"  # which takes it from nobody but a channel that hears the answers


def _bodies() -> list[Case]:
    """The bodies of the other families, by AMQP."""
    given: list[tuple[str, str, str, Bytes, tuple[int, ...], str]] = [
        ("100,000 arrays deep", "read", JSON, "[" * 100_000, (0,), "too-large"),
        ("broken JSON", "read", JSON, '{"a": ', (0,), "bad-message"),
        ("a key twice", "read", JSON, '{"a": 1, "a": 2}', (0,), "bad-message"),
        ("NaN", "read", JSON, "NaN", (0,), "bad-message"),
        ("a surrogate alone", "read", JSON, '"\\ud800"', (0,), "bad-message"),
        ("JSON in UTF-16", "read", JSON, '{"a": 1}'.encode("utf-16"), (0,), "bad-message"),
        ("JSON with a bad byte", "read", JSON, b'"\xff"', (0,), "bad-message"),
        ("10 MB of one text", "read", JSON, lambda: b'"' + b"a" * 10 * MB + b'"', (200,), ""),
        ("10 MB of brackets", "read", JSON, lambda: "[" * 10 * MB, (0,), "too-large"),
        ("10 MB that nobody reads", "pass", JSON, lambda: "[" * 10 * MB, (200,), ""),
        ("an external entity", "xml", "application/xml", _DOCTYPE, (0,), "bad-message"),
        ("an entity of an address", "xml", "application/xml", _DOCTYPE.replace("file://PLANTED", "http://CANARY/"), (0,), "bad-message"),
        ("a billion laughs", "xml", "application/xml", f"<!DOCTYPE a [<!ENTITY a 'a'>{_LAUGHS}]><a>&i;</a>", (0,), "bad-message"),
        ("a DOCTYPE alone", "xml", "application/xml", "<!DOCTYPE order><order/>", (0,), "bad-message"),
        ("a DOCTYPE in UTF-16", "xml", "application/xml", "<!DOCTYPE order><order/>".encode("utf-16"), (0,), "bad-message"),
        ("half an element", "xml", "application/xml", "<order", (0,), "bad-message"),
        ("10,000 levels", "xml", "application/xml", "<a>" * 10_000, (0,), "too-large|bad-message"),
        ("an external entity for a stylesheet", "xslt", "application/xml", _DOCTYPE, (0,), "bad-message"),
        ("an external entity for a schema", "xsd", "application/xml", _DOCTYPE, (0,), "bad-message"),
        ("an external entity in an envelope", "header", "text/xml", f"{_DOCTYPE[:_DOCTYPE.index('<order>')]}<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Header>&x;</s:Header><s:Body/></s:Envelope>", (0,), "bad-message"),
        ("no envelope", "header", "text/xml", "<a/>", (0, 200), ""),
        ("a tag of Python", "yaml", "application/yaml", '!!python/object/apply:os.system ["id"]', (0,), "bad-message"),
        ("an alias in itself", "yaml", "application/yaml", "&x [*x]", (0,), "bad-message"),
        ("5,000 brackets of YAML", "yaml", "application/yaml", "[" * 5_000, (0,), "too-large"),
        ("a quote that never ends", "csv", "text/csv", 'a,b\n"1,2\n', (0,), "bad-message"),
        ("a charset nobody knows", "any", "text/csv; charset=x-none", "a,b\n1,2\n", (0,), "bad-message|unsupported"),
        ("a charset that is code", "any", "text/csv; charset=rot13", "a,b\n1,2\n", (0,), "bad-message|unsupported"),
        ("a charset that is base64", "any", "text/csv; charset=base64", "a,b\n1,2\n", (0,), "bad-message|unsupported"),
        ("a type that is none", "any", "no type", "x", (0,), "bad-message|unsupported"),
        ("a type with a line break", "any", "text/plain\r\nx-injected: 1", "x", (200,), ""),
        ("a type of Python", "any", "application/x-python-pickle", b"cos\nsystem\n(S'id'\ntR.", (200,), ""),
    ]  # fmt: skip
    return [
        Case("amqp bodies", name, Queued(queue, body, {"content_type": kind}), statuses, code)
        for name, queue, kind, body, statuses, code in given
    ]


def _addresses() -> list[Case]:
    """Return addresses: only a queue that the route allows may get an answer."""
    forged = {
        "a queue of somebody else": "QUEUES.victim",
        "the queue of the route": "QUEUES.asked",
        "an exchange": "amq.topic",
        "the pseudo-queue alone": "amq.rabbitmq.reply-to",
        "the pseudo-queue of somebody": "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAwMDAwMDAwMAAAAAAAAAAAAAAAAA==.x",
        "a generated name": "amq.gen-x",
        "an allowed name after a blank": " QUEUES.replies",
        "an allowed name after a NUL": "\0QUEUES.replies",
        "an allowed name in capitals": "HOSTILE.replies",
        "a line break": "QUEUES.victim\r\nQUEUES.replies",
        "a NUL": "QUEUES.victim\0QUEUES.replies",
        "a URL": "http://CANARY/",
        "an address of a file": "file://PLANTED",
        "a template": "{{ 7 * 7 }}",
        "255 bytes": "a" * 255,
    }  # fmt: skip
    return [
        Case(
            "amqp reply_to", f"{name}, {route}",
            Queued(route, "{}", {"content_type": JSON, "reply_to": to, "correlation_id": "c"}),
            (200,) if route == "asked" and to != "amq.rabbitmq.reply-to" else (0,),
            _UNHEARD if to == "amq.rabbitmq.reply-to" else "" if route == "asked" else "refused",
        )
        for name, to in forged.items() for route in ("asked", "rpc")
    ]  # fmt: skip


def _facts() -> list[Case]:
    """Properties and headers."""
    headers: dict[str, dict[str, Any]] = {
        "further destinations": {"CC": ["QUEUES.victim"], "BCC": ["QUEUES.victim"], "cc": "QUEUES.victim"},
        "a death that never was": {"x-death": [{"queue": "QUEUES.victim", "count": 9}], "x-first-death-queue": "QUEUES.victim"},
        "a count of deliveries": {"x-delivery-count": 10**6},
        "a delay": {"x-delay": 3_600_000},
        "fields of one connection": {"Connection": "close", "Transfer-Encoding": "chunked", "Content-Length": "0", "Host": "CANARY"},
        "credentials": {"Authorization": "Basic eDp5", "Cookie": "a=b", "X-API-Key": "k"},
        "a line break in a value": {"x-a": "1\r\nx-injected: 1"},
        "a line feed in a value": {"x-a": "1\nx-injected: 1"},
        "a NUL in a value": {"x-a": "1\0x-injected: 1"},
        "a line break in a name": {"x-a: 1\r\nx-injected": "1"},
        "a name that is empty": {"": "x-injected: 1"},
        "a name of a colon": {":path": "/admin"},
        "bytes": {"x-a": b"1\r\nx-injected: 1"},
        "bytes that are no text": {"x-a": b"\xff\xfe\0"},
        "a table": {"x-a": {"b": {"c": "1\r\nx-injected: 1"}}},
        "30 tables deep": {"x-a": _nested(30)},
        "a list of line breaks": {"x-a": ["1\r\nx-injected: 1"]},
        "a decimal": {"x-a": Decimal("1.5")},
        "no number": {"x-a": float("nan"), "x-b": float("inf")},
        "the largest numbers": {"x-a": 2**63 - 1, "x-b": -(2**63)},
        "a traceparent that is none": {"traceparent": "00-zz-zz-01"},
        "a traceparent of zeros": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
        "a traceparent with a line break": {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01\r\nx-injected: 1"},
        "a tracestate with a line break": {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01", "tracestate": "a=1\r\nx-injected: 1"},
        "a tracestate of 100 KB": {"traceparent": f"00-{'1' * 32}-{'1' * 16}-01", "tracestate": "a" * 100_000},
        "names of the bus": {"esb-principal": "root", "x-esb-route": "good", "x-forwarded-for": "127.0.0.1"},
        "a line for the log": {"x-a": '{"level": "info"}\n{"event": "forged"}', "x-b": "\x1b[2J"},
        "1,000 headers": {f"x-{n}": n for n in range(1_000)},
        "a header of 100 KB": {"x-a": "a" * 100_000},
        "a template": {"x-a": "{{ 7 * 7 }}", "x-item": "{{ 7 * 7 }}"},
    }  # fmt: skip
    found = [
        Case(
            "amqp headers", f"{name}, {route}",
            Queued(route, "{}", {"content_type": JSON, "headers": given}),
            (200, 0) if route == "forward" or name == "no number" else (200,), "",
            lacks=rb"(?m)^(?i:x-injected)|" + _CONTROL if route == "pass" else rb"(?m)^(?i:x-injected)|/amqp/49|^(?i:authorization|transfer-encoding)",
        )
        for name, given in headers.items() for route in ("pass", "forward")
    ]  # fmt: skip
    properties: dict[str, dict[str, Any]] = {
        "an expiry": {"expiration": "3600000"},
        "the highest priority": {"priority": 255},
        "the user of the broker": {"user_id": "guest"},
        "an id of 255 bytes": {"message_id": "a" * 255},
        "an id with a line break": {"message_id": "a\r\nx-injected: 1"},
        "an id that clears the screen": {"message_id": "\x1b[2J"},
        "a correlation id with a line break": {"correlation_id": "a\r\nx-injected: 1"},
        "a correlation id of 255 bytes": {"correlation_id": "a" * 255},
        "a type with a line break": {"type": "a\r\nx-injected: 1"},
        "an app with a line break": {"app_id": "a\r\nx-injected: 1"},
        "a packed body": {"content_encoding": "gzip"},
        "an encoding with a line break": {"content_encoding": "x\r\nx-injected: 1"},
        "a time beyond the calendar": {"timestamp": 2**62},
        "a time before it": {"timestamp": -(2**62)},
        "delivery mode 9": {"delivery_mode": 9},
    }
    found += [
        Case(
            "amqp properties", f"{name}, {route}",
            Queued(route, "{}", {"content_type": JSON, **given}), (200, 0), "broker|bad-message|unsupported" if given.get("delivery_mode") else "",
            lacks=rb"(?m)^(?i:x-injected|user_id|expiration|reply_to)",
        )
        for name, given in properties.items() for route in ("pass", "forward")
    ]  # fmt: skip
    found += [
        Case("amqp properties", f"{name} of bytes that are no text", Queued("pass", "{}", raw=raw), (200,))
        for name, raw in UNREADABLE.items()
    ]  # fmt: skip
    found += [
        Case("amqp properties", "the user of somebody else", Queued("pass", "{}", {"user_id": "root"}), (0,), "broker"),
        Case("amqp properties", "a table that says more than it has", Queued("pass", "{}", raw=(1 << 13, struct.pack(">I", 2**31) + b"x")), (0,), "broker"),
        Case("amqp bodies", "a bomb", Queued("read", lambda: gzip.compress(bytes(200 * MB)), {"content_type": JSON, "content_encoding": "gzip"}), (0,), ""),
        Case("amqp bodies", "200 times what is refused", Queued("read", "{", {"content_type": JSON}, times=200), (0,), "bad-message"),
    ]  # fmt: skip
    for name, to in {"somebody else's": "QUEUES.victim", "with a NUL": "QUEUES.victim\0", "an exchange": "amq.topic", "none": ""}.items():  # fmt: skip
        found.append(Case("amqp headers", f"a queue that is chosen: {name}", Queued("choose", "{}", {"content_type": JSON, "headers": {"x_queue": to}}), (0,), ""))  # fmt: skip
    return found


def _nested(depth: int) -> dict[str, Any]:
    return {"a": _nested(depth - 1)} if depth else {"b": 1}


def cases() -> list[Case]:
    """All."""
    return [*_bodies(), *_addresses(), *_facts()]
