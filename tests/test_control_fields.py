"""No name that a sender makes up reaches a field by which the bus goes: every field of the
envelope, in a hundred spellings, by every wire."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import pytest
from hostile.spellings import (
    CONTROL,
    GROUPS,
    MARK,
    NAMES,
    OBEYED,
    TRACE,
    holds,
    odd,
    snapshot,
    tokens,
    values,
)
from support.contract import Recorder
from support.fake_build import FakeBuild
from support.soap import GET, hosted, soap
from support.stores import opened
from support.waiting import until
from support.web import ask

import esb.codecs  # noqa: F401 - registers the codecs
from esb.adapter import Build
from esb.cloudevents import read as read_event
from esb.envelope import NO_HEADERS, Body, Envelope, Headers
from esb.errors import BadMessage
from esb.record import decode, encode
from esb_amqp.client import Delivery
from esb_amqp.mapping import from_delivery, to_properties
from esb_amqp.properties import Properties, read, written
from esb_file import adapter as file_adapter
from esb_http import adapter as http_adapter
from esb_web import ClientOptions, ListenOptions, OutboundHeaders, WebServer

STANDARDS: Final = frozenset({"traceparent", "tracestate"})
"""Names of W3C Trace Context, by which a trace is told; every other spelling is none."""


def test_there_are_enough() -> None:
    assert {"id", "principal", "reply_to", "attempt", "deadline", "outcome"} <= set(CONTROL)
    assert len({*tokens("reply_to")}) >= 50
    assert len({*odd("reply_to")}) >= 50
    assert len(NAMES) == len({*CONTROL, *GROUPS, *OBEYED})


@pytest.mark.parametrize("name", [n for n in CONTROL if n not in ("time", "deadline")])
def test_what_got_through_would_be_seen(name: str) -> None:
    changed = Envelope().replace(**{name: {MARK: {}} if name == "params" else MARK})
    assert snapshot(changed) != snapshot(Envelope())
    assert holds(snapshot(changed))


# --- HTTP ----------------------------------------------------------------------------------------


@dataclass
class Http:
    """A listener with one route; `seen` are the messages that it got."""

    server: WebServer
    seen: list[Envelope] = field(default_factory=list)

    async def sends(self, path: str, body: bytes, kind: str, *headers: str) -> Envelope | None:
        """What became of a request; None if it was refused."""
        lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Type: {kind}",
                 f"Content-Length: {len(body)}", *headers, "", ""]  # fmt: skip
        self.seen.clear()
        status, _, _ = await ask(self.server.url, "\r\n".join(lines).encode() + body)
        assert status in (200, 400, 404, 413, 431), status
        assert (status == 200) == bool(self.seen)
        return self.seen[0] if self.seen else None


@contextlib.asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Http]:
    build = FakeBuild(listen=ListenOptions.model_validate({"port": 0}))
    role = http_adapter.source
    assert role is not None
    raw = {"path": "/a/:free", "method": "POST", **options}
    source = role.make(role.options.model_validate(raw), build)
    found = Http(build.objects["web"])

    async def run(envelope: Envelope) -> Envelope:
        found.seen.append(envelope)
        return envelope

    await found.server.open()
    await source.start(run)
    found.server.serve()
    try:
        yield found
    finally:
        await source.stop(5)
        await found.server.close()


async def test_headers_of_http() -> None:
    async with listening() as http:
        plain = await http.sends("/a/1", b"{}", "application/json")
        assert plain is not None
        for name in NAMES:
            wanted = [one for one in tokens(name) if one.lower() not in STANDARDS]
            wanted = [one for one in wanted if one.lower() not in ("te", "host", "expect")]
            sent = [f"{one}: {value}" for one in wanted for value in values(name)]
            for part in (sent[:60], sent[60:]):  # a listener has a limit for their number
                got = await http.sends("/a/1", b"{}", "application/json", *part, *part[:3])
                assert got is not None, name
                assert snapshot(got) == snapshot(plain), name
        for name in CONTROL:
            for one in odd(name):
                got = await http.sends("/a/1", b"{}", "application/json", f"{one}: {MARK}")
                assert got is None or snapshot(got) == snapshot(plain), one


async def test_what_proxies_and_frameworks_obey() -> None:
    async with listening() as http:
        plain = await http.sends("/a/1", b"{}", "application/json")
        assert plain is not None
        for header in (
            "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix",
            "X-Forwarded-User", "Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP",
            "X-Original-URL", "X-Rewrite-URL", "X-Original-Method", "X-HTTP-Method-Override",
            "X-HTTP-Method", "X-Method-Override", "X-Remote-User", "Remote-User", "X-User",
            "X-SSL-Client-Cert", "X-SSL-Client-DN", "X-Client-Cert", "X-Forwarded-Client-Cert",
            "SSL_CLIENT_S_DN", "X-Request-ID", "X-Correlation-ID", "X-B3-TraceId", "b3",
            "baggage", "Idempotency-Key", "X-Message-Id", "Message-ID", "Reply-To", "From",
            "Date", "Prefer", "X-Timeout", "X-Request-Deadline", "grpc-timeout", "ce-id",
            "ce-source", "ce-principal", "SOAPAction", "X-Esb-Principal", "CamelHttpUri",
        ):  # fmt: skip
            for value in (MARK, "DELETE", "/admin", "127.0.0.1", "1"):
                got = await http.sends("/a/1", b"{}", "application/json", f"{header}: {value}")
                assert got is not None, header
                assert snapshot(got) == snapshot(plain), (header, value)
        for target in ("http://evil.test/a/1", "//evil.test/a/1"):
            got = await http.sends(target, b"{}", "application/json")
            assert got is None or snapshot(got) == snapshot(plain), target


OVERRIDES: Final = (
    "X-HTTP-Method-Override", "X-HTTP-Method", "x-method-override", "X-Original-URL",
    "X-Rewrite-URL", "X-ORIGINAL-METHOD", "X-Forwarded-For", "X-Forwarded-User", "Forwarded",
    "X-Real-IP", "X-Client-IP", "True-Client-IP", "Remote-User", "X-Remote-User", "Via",
    "X-SSL-Client-DN", "SSL-Client-Cert", "X-Client-Cert-Chain", "Host", "Content-Length",
    "Transfer-Encoding", "Connection", "Authorization", "Cookie", "Idempotency-Key", "traceparent",
)  # fmt: skip


def test_what_a_far_side_might_obey_is_not_passed_on() -> None:
    """Names that would make it another request than the route's, or another caller's."""
    odd = [name for one in OVERRIDES for name in (one, one.lower(), one.upper(), one.title())]
    headers = Headers([*((name, MARK) for name in odd), ("x-mine", "1")])
    leaves = OutboundHeaders(cast(Build, FakeBuild()), ClientOptions())
    assert leaves(Envelope(headers=headers), "POST") == [("x-mine", "1")]


async def test_queries_paths_and_bodies_of_http() -> None:
    async with listening() as http:
        plain = await http.sends("/a/1", b"{}", "application/json")
        assert plain is not None
        for name in NAMES:
            every = [*tokens(name), *odd(name)]
            pairs = [(one, value) for one in every for value in values(name)]
            plain_pairs = [pair for pair in pairs if pair[0].isprintable()]  # others are refused
            nested: Any = {one: {name: {one: MARK}, "params": {name: MARK}} for one in every}
            form = urlencode(pairs).encode()
            parts = "".join(
                f'--b\r\nContent-Disposition: form-data; name="{quote(one)}"; '
                f'filename="../{quote(one)}"\r\n{one if one in tokens(name) else "X"}: {MARK}'
                f"\r\n\r\n{MARK}\r\n"
                for one in every[:80]
            )
            for path, kind, body in (
                *(
                    (f"/a/1?{urlencode(plain_pairs[at : at + 40])}", "application/json", b"{}")
                    for at in range(0, len(plain_pairs), 40)
                ),
                ("/a/1", "application/x-www-form-urlencoded", form),
                ("/a/1", 'multipart/form-data; boundary="b"', f"{parts}--b--\r\n".encode()),
                ("/a/1", "application/json", json.dumps({**dict(pairs), **nested}).encode()),
                ("/a/1", f"application/json; {name}={MARK}; {tokens(name)[5]}={MARK}", b"{}"),
            ):
                got = await http.sends(path, body, kind)
                assert got is not None, (name, kind, path[:200])
                with contextlib.suppress(BadMessage):
                    assert got.body.data is not None
                assert snapshot(got, "query") == snapshot(plain, "query"), (name, kind)
                assert got.params.keys() == plain.params.keys()
        for name in CONTROL:
            for one in odd(name)[:60]:
                got = await http.sends(f"/a/{quote(one, safe='')}", b"{}", "application/json")
                expected = {**snapshot(plain, "path"), "subject": None}
                if got is not None:
                    assert {**snapshot(got, "path"), "subject": None} == expected, one
                    assert got.params["path"].keys() == {"free"}


# --- CloudEvents ---------------------------------------------------------------------------------

EVENT: Final = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t"}
OWN: Final = frozenset({
    "id", "source", "type", "subject", "time", "correlationid", "traceparent", "tracestate",
    "specversion", "datacontenttype", "data", "data_base64",
})  # fmt: skip
"""What the specification, and our page of it, says that an event is told by."""


def test_attributes_of_events() -> None:
    def structured(event: dict[str, Any]) -> Envelope:
        raw = json.dumps(event).encode()
        return read_event(Envelope(body=Body(raw, "application/cloudevents+json")))

    def binary(event: dict[str, Any]) -> Envelope:
        pairs = [(f"ce-{name}", value) for name, value in event.items()]
        return read_event(Envelope(headers=Headers(pairs)))

    for way, names in ((structured, (tokens, odd)), (binary, (tokens,))):
        plain = way(EVENT)
        for name in NAMES:
            for one in [one for make in names for one in make(name)]:
                if one in OWN or (way is binary and one.lower() in OWN):
                    continue
                try:
                    got = way({**EVENT, one: MARK})
                except BadMessage:
                    continue
                assert snapshot(got, "cloudevents") == snapshot(plain, "cloudevents"), one
                assert got.params.keys() <= {"cloudevents"}


# --- AMQP ----------------------------------------------------------------------------------------


def delivery(properties: Properties) -> Delivery:
    raw = written(properties)
    again, left_out = read(raw, 0, len(raw))
    assert not left_out
    return Delivery(None, 1, False, "exchange", "key", again, b"{}")  # type: ignore[arg-type]


def test_headers_of_amqp() -> None:
    plain = from_delivery(delivery(Properties(message_id="1")), "orders")
    for name in NAMES:
        every = [one for one in (*tokens(name), *odd(name)) if one not in STANDARDS]
        table: dict[str, Any] = {}
        for index, one in enumerate(every):
            nested = {one: MARK, name: {one: MARK}, "list": [{one: MARK}]}
            table[one] = (MARK, nested, TRACE, 99, True)[index % 5]
        got = from_delivery(delivery(Properties(message_id="1", headers=table)), "orders")
        assert snapshot(got, "amqp") == snapshot(plain, "amqp"), name
        assert got.params.keys() == {"amqp"}
        facts = {k: v for k, v in got.params["amqp"].items() if k != "headers"}
        assert facts == {k: v for k, v in plain.params["amqp"].items() if k != "headers"}
        # Nor does any of it steer what is published next.
        out = to_properties(got)
        assert not holds({f: getattr(out, f) for f in out.__struct_fields__ if f != "headers"})


STEERING: Final = {
    "CC": ["elsewhere"], "BCC": ["elsewhere"], "cc": ["elsewhere"], "Bcc": ["elsewhere"],
    "x-delay": 86_400_000, "X-Delay": 1, "x-death": [{"count": 99, "queue": "q", "reason": "r"}],
    "x-first-death-exchange": "e", "x-last-death-queue": "q", "x-delivery-count": 99,
    "x-acquired-count": 99, "x-received-from": [{"uri": "a"}], "x-stream-offset": 7,
    "x-first-death-reason": "r", "x-first-death-queue": "q", "x-last-death-exchange": "e",
    "x-last-death-reason": "r",
}  # fmt: skip
"""What RabbitMQ obeys or writes."""


def test_what_the_broker_obeys_is_not_passed_on() -> None:
    properties = Properties(
        message_id="1", headers={**STEERING, "mine": "1"}, reply_to="victim", expiration="1",
        user_id="admin", delivery_mode=1, cluster_id="c", correlation_id="7",
    )  # fmt: skip
    got = from_delivery(delivery(properties), "orders")
    assert got.reply_to == ""  # the source says whether it may be
    assert got.principal == ""
    assert got.attempt == 1
    out = to_properties(got)
    assert out.headers == {"mine": "1"}
    assert (out.reply_to, out.expiration, out.user_id, out.cluster_id) == ("", "", "", "")
    assert out.delivery_mode == 2
    again = to_properties(from_delivery(delivery(properties), "orders"), forward=lambda name: True)
    assert again.headers == {"mine": "1"}


def test_what_came_by_http_does_not_steer_the_broker() -> None:
    pairs = [(name, MARK) for header in STEERING for name in (header, header.upper())]
    pairs += [(one, MARK) for name in OBEYED for one in tokens(name)]
    out = to_properties(Envelope(headers=Headers(pairs)))
    assert not {name.lower() for name in out.headers or {}} & {name.lower() for name in STEERING}
    assert not holds({f: getattr(out, f) for f in out.__struct_fields__ if f != "headers"})


# --- SOAP ----------------------------------------------------------------------------------------


async def test_headers_of_soap() -> None:
    async with hosted() as client:
        assert (await client.post(soap(GET)))[0] == 200
        plain = client.seen[-1]
        for name in NAMES:
            blocks = []
            for one in tokens(name):
                safe = one if one.replace("_", "").isalnum() else f"h{len(blocks)}"
                safe = f"n{safe}" if safe[0].isdigit() else safe
                blocks.append(f'<{safe} xmlns="urn:esb" {safe}="{MARK}">{MARK}</{safe}>')
            blocks += [f'<p name="{escape(one)}" xmlns="urn:esb">{MARK}</p>'
                       for one in odd(name) if one.isprintable()]  # fmt: skip
            header = f"<s:Header>{''.join(blocks)}</s:Header>"
            client.seen.clear()
            status, raw = await client.post(soap(GET, header=header))
            assert status == 200, raw
            assert snapshot(client.seen[-1]) == snapshot(plain), name


# --- files, and what lies in the store -----------------------------------------------------------


async def test_names_of_files(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    names = sorted({one[:200] for name in CONTROL for one in (*tokens(name)[:5], *odd(name)[::3])
                    if "/" not in one and "\0" not in one})  # fmt: skip
    role = file_adapter.source
    assert role is not None
    async with opened(tmp_path / "bus.db") as store:
        options = role.options.model_validate(
            {"folder": "inbox", "settle": "0s", "poll": "50ms", "then": "delete"}
        )
        source = role.make(options, FakeBuild(tmp_path, store=store))
        for name in names:
            (inbox / f"{name}.json").write_text("{}")
        step = Recorder()
        await source.start(step)
        try:
            await until(lambda: len(step.got) >= len(names), timeout=60)
        finally:
            await source.stop(5)
    for got in step.got:
        assert got.params.keys() == {"file"}
        told = {**snapshot(got, "file"), "subject": "", "id": ""}
        plain = Envelope(source="file:inbox", time=got.time)
        assert told == {**snapshot(plain), "subject": "", "id": "", "params": {}}
        assert "/" not in got.subject


def test_what_lies_in_the_store() -> None:
    plain = decode(encode(Envelope(id="1")))
    for name in NAMES:
        pairs = [(one, MARK) for one in tokens(name)]
        nested = dict.fromkeys((*tokens(name), *odd(name)), MARK)
        got = Envelope(
            id="1", time=plain.time, headers=Headers(pairs), params={"query": nested},
            body=Body.of({**nested, name: MARK}),
        )  # fmt: skip
        back = decode(encode(got))
        assert snapshot(back, "query") == snapshot(plain, "query"), name
        assert back.headers == got.headers
        assert back.params["query"] == nested
    assert plain.headers is NO_HEADERS


@pytest.mark.parametrize("name", [*CONTROL, *GROUPS])
def test_headers_that_steps_set_are_headers(name: str) -> None:
    """What a route copies from a message into headers is no control either."""
    changed = Envelope().headers.replace(dict.fromkeys(tokens(name), MARK))
    assert not holds(snapshot(Envelope(id="1", headers=changed)))
