"""The http adapter in a real bus: requests in, requests out, and every way they fail."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bus import load_text, running, url
from support.fake_build import FakeBuild
from support.web import ask, backend, read_request

from esb.adapter import Build, BuildFailed
from esb.bus import Bus
from esb.envelope import Body, Envelope, Headers
from esb.errors import BadMessage, BadReply, Overloaded, Permanent, RouteFailure, Transient
from esb_http.endpoint import CallerOptions, SinkOptions, make_caller, make_sink
from esb_http.target import make_target

Answer = tuple[int, Headers, bytes]


async def post(
    bus: Bus, path: str, body: bytes = b"{}", *headers: str, method: str = "POST"
) -> Answer:
    """One request; JSON unless a header says otherwise."""
    lines = ["Host: bus.example", f"Content-Length: {len(body)}", *headers]
    if body and not any(h.lower().startswith("content-type") for h in headers):
        lines.append("Content-Type: application/json")
    text = f"{method} {path} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return await ask(url(bus), text.encode() + body)


class Far:
    """A far side: `seen` is what it got, `answers` what it says next (200 when empty)."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, Headers, bytes]] = []
        self.answers: list[bytes] = []

    def will(self, status: int, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
        self.answers.append("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.seen.append(await read_request(reader))
            if not self.answers:
                self.will(200)
            answer = self.answers.pop(0)
            if not answer:
                return
            writer.write(answer)


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    found = Far()
    async with backend(found.behave) as found.url:
        yield found


async def closed(build: FakeBuild) -> None:
    """Close what was made for it."""
    for shared in build.objects.values():
        await shared.close()


def told(answer: Answer) -> Any:
    return json.loads(answer[2])


# --- in ------------------------------------------------------------------------------------------


async def test_path_query_headers_and_body_reach_the_route(tmp_path: Path) -> None:
    routes = """
    routes:
      orders:
        from: {http: {path: "/orders/:id/*rest", method: [put, POST], status: 201,
                      headers: {X-Id: "{{ path.id }}"}}}
        steps:
          - set:
              body:
                id: path.id
                rest: path.rest
                q: query.q
                agent: headers['user-agent']
                amount: body.amount
    """
    async with running(routes, tmp_path) as bus:
        status, headers, body = await post(
            bus, "/orders/a%20b/c/d?q=1&q=2", b'{"amount": 12.50}', "User-Agent: me", method="PUT"
        )
        assert status == 201, body
        assert json.loads(body, parse_float=str) == {
            "id": "a b", "rest": "c/d", "q": ["1", "2"], "agent": "me", "amount": "12.50"
        }  # fmt: skip
        assert headers.get("x-id") == "a b"
        assert headers.get("user-agent") is None
        assert (await post(bus, "/orders/1/2", method="GET"))[0] == 405


SCHEMA = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"$ref": "#/$defs/amount"}},
    "$defs": {"amount": {"type": "number", "minimum": 0}},
}


async def test_the_body_is_checked_before_the_steps(tmp_path: Path) -> None:
    (tmp_path / "claim.schema.json").write_text(json.dumps(SCHEMA))
    routes = """
    routes:
      claims:
        from: {http: {path: /claims, schema: claim.schema.json, max_body: 1KB}}
        steps:
          - set: {body: {taken: body.amount}}
    """
    async with running(routes, tmp_path) as bus:
        assert told(await post(bus, "/claims", b'{"amount": 1}')) == {"taken": 1}
        assert told(
            await post(bus, "/claims", b'{"amount": 1}', "Content-Type: application/x+json")
        ) == {"taken": 1}
        for body, content_type, status, code in (
            (b'{"amount": -1}', "application/json", 400, "bad-message"),
            (b'{"amount": 1', "application/json", 400, "bad-message"),
            (b"", "application/json", 400, "bad-message"),
            (b'{"amount": 1}', "text/plain", 415, "unsupported-media-type"),
            (b'{"amount": 1}', "application/jsonx", 415, "unsupported-media-type"),
            (b" " * 1025, "application/json", 413, "too-large"),
        ):
            answer = await post(bus, "/claims", body, f"Content-Type: {content_type}")
            assert answer[0] == status, answer
            assert told(answer)["type"] == f"urn:esb:problem:{code}"
        wrong = told(await post(bus, "/claims", b'{"amount": -1}'))
        assert wrong["errors"][0]["pointer"] == "/amount"
        assert wrong["instance"] == "/claims"
        document = told(await post(bus, "/openapi.json", b"", method="GET"))
        operation = document["paths"]["/claims"]["post"]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert schema["required"] == ["amount"]


async def test_the_documents_tell_only_answers_that_come(tmp_path: Path) -> None:
    routes = """
    routes:
      waits: {from: {http: {path: /waits, status: 201}}}
      stored: {from: {http: /stored}, accept: durable, steps: [{send: {queue: q}}]}
    """
    async with running(routes, tmp_path) as bus:
        paths = told(await post(bus, "/openapi.json", b"", method="GET"))["paths"]
        assert set(paths["/waits"]["post"]["responses"]) == {"201", "202", "204", "default"}
        assert set(paths["/stored"]["post"]["responses"]) == {"202", "default"}


async def test_what_the_route_returns_is_the_answer(tmp_path: Path) -> None:
    routes = """
    routes:
      echo: {from: {http: /echo}, steps: []}
      sent: {from: {http: /sent}, steps: [{send: {queue: q}}]}
      filtered: {from: {http: /filtered}, steps: [{filter: "false"}]}
      broken: {from: {http: /broken}, steps: [{set: {body: body.nope}}]}
      durable: {from: {http: /durable}, accept: durable, steps: [{send: {queue: q}}]}
    """
    async with running(routes, tmp_path) as bus:
        raw = b'{"a":  1.10 }'
        status, headers, body = await post(bus, "/echo", raw, "X-Secret: mine", "Cookie: a=b")
        assert (status, body, headers.get("content-type")) == (200, raw, "application/json")
        assert {n.lower() for n, _ in headers} == {"date", "content-type", "content-length"}
        for path in ("/sent", "/durable"):
            answer = await post(bus, path)
            assert answer[0] == 202
            assert re.fullmatch(r"[0-9a-f-]{36}", told(answer)["id"])
        assert (await post(bus, "/filtered"))[0] == 204
        answer = await post(bus, "/broken")
        assert (answer[0], told(answer)["type"]) == (500, "urn:esb:problem:route-failure")


async def test_a_reload_leaves_no_gap(tmp_path: Path) -> None:
    from esb.config import load

    async with running("routes: {a: {from: {http: /a}, steps: []}}", tmp_path) as bus:
        assert (await post(bus, "/a"))[0] == 200
        file = tmp_path / "new.yaml"
        file.write_text("""
routes:
  a: {from: {http: /a}, steps: [{filter: "false"}]}
  b: {from: {http: /b}, steps: []}
listen: {port: 0}
""")
        bus.shared.begin()
        project = load([file], shared=bus.shared, root=tmp_path).check()
        await bus.replace(project.routes)
        assert (await post(bus, "/a"))[0] == 204
        assert (await post(bus, "/b"))[0] == 200


async def test_cloud_events(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      events:
        from: {{http: {{path: /events, cloudevents: true}}}}
        steps:
          - call: {{http: {{url: "{far.url}/b", cloudevents: binary}}}}
      plain:
        from: {{http: {{path: /plain, cloudevents: true}}}}
        steps:
          - send: {{http: {{url: "{far.url}/s", cloudevents: structured, forward_headers: false}}}}
      ignored:
        from: {{http: /ignored}}
        steps: [{{set: {{body: message.id}}}}]
    """
    async with running(routes, tmp_path) as bus:
        event = ("ce-specversion: 1.0", "ce-id: 7", "ce-source: /s", "ce-type: t", "ce-x: %C3%A4")
        await post(bus, "/events", b"[1.0]", *event)
        await post(bus, "/plain", b"[1.0]")
        assert (await post(bus, "/ignored", b"", *event))[2] != b"7"
        wrong = await post(bus, "/events", b"[1.0]", "ce-specversion: 1.0", "ce-id: 7")
        assert (wrong[0], told(wrong)["detail"]) == (
            400, "the CloudEvents attribute source is missing"
        )  # fmt: skip
    (_, headers, body), (_, _, document) = far.seen
    assert body == b"[1.0]"
    names = [name.lower() for name, _ in headers if name.lower().startswith("ce-")]
    assert len(names) == len(set(names))
    sent = {name: headers.get(f"ce-{name}") for name in ("id", "source", "type", "x")}
    assert sent == {"id": "7", "source": "/s", "type": "t", "x": "%C3%A4"}
    assert json.loads(document)["data"] == [1.0]
    assert json.loads(document)["type"] == "http.request"


MISTAKES = {
    "path parameters in braces": ("from: {http: '/a/{id}'}", "write :id instead of {id}"),
    "a path without a slash": ("from: {http: a}", "starts with a slash"),
    "an unknown method": ("from: {http: {path: /a, method: FETCH}}", "must be one of"),
    "a missing schema": ("from: {http: {path: /a, schema: no.json}}", "no file no.json"),
    "a status of a fault": ("from: {http: {path: /a, faults: {A: 200}}}", "from 400 to 599"),
    "a bad text": ("from: {http: {path: /a, headers: {A: '{{ path. }}'}}}", ""),
    "no url": ("send: {http: {method: PUT}}", "'url' is missing"),
    "no scheme": ("send: {http: {url: crm.example}}", "it starts with http:// or https://"),
    "a user in the url": ("send: {http: {url: 'https://u:p@crm.example/'}}", "`auth`"),
    "a free host": ("send: {http: {url: 'https://{{ body.host }}/a'}}", "`allow_hosts`"),
    "a free url": ("send: {http: {url: '{{ body.url }}'}}", "`allow_hosts`"),
    "credentials for anybody": (
        "send: {http: {url: 'https://{{ body.a }}/', allow_hosts: ['*'], auth: {bearer: x}}}",
        "who gets the credentials",
    ),
    "a free end of the host": ("send: {http: {url: 'https://crm{{ body.a }}'}}", "`allow_hosts`"),
    "a space in the url": ("send: {http: {url: 'https://crm.example/a b'}}", "a%20b"),
    "a fragment": ("send: {http: {url: 'https://crm.example/#a'}}", "fragment"),
    "a statement in the url": ("send: {http: {url: 'https://a.b/{% if x %}'}}", "{{ }}"),
    "a managed header": ("send: {http: {url: 'https://a.b', headers: {Host: c}}}", "Host"),
    "a missing certificate": ("send: {http: {url: 'https://a.b', tls: {ca: no.pem}}}", "no.pem"),
    "an option of call": ("send: {http: {url: 'https://a.b', expect: [404]}}", "expect"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found_at_load(text: str, message: str, tmp_path: Path) -> None:
    source, steps = (
        (text, "[]") if text.startswith("from") else ("from: {http: /a}", f"[{{{text}}}]")
    )
    project = load_text(f"routes:\n  a:\n    {source}\n    steps: {steps}\n", tmp_path)
    assert len(project.diagnostics) == 1, project.diagnostics
    (found,) = project.diagnostics
    assert found.line == (3 if text.startswith("from") else 4)
    assert found.column > 1
    assert message in f"{found.message} ({found.hint})"


def test_two_routes_cannot_serve_the_same(tmp_path: Path) -> None:
    project = load_text(
        """
        routes:
          a: {from: {http: {path: "/x/:id", method: [GET, PUT]}}, steps: []}
          b: {from: {http: {path: "/x/:name/", method: [POST, PUT]}}, steps: []}
          c: {from: {http: {path: "/x/:id", method: DELETE}}, steps: []}
        """,
        tmp_path,
    )
    (found,) = project.diagnostics
    assert (found.line, found.code) == (4, "duplicate")
    assert "'a'" in found.message


# --- out -----------------------------------------------------------------------------------------


async def test_a_message_is_sent(tmp_path: Path, far: Far) -> None:
    routes = f"""
    connections:
      crm: {{http: {{url: "{far.url}/v1", auth: {{bearer: "s3cret"}}, headers: {{X-Bus: "1"}}}}}}
    routes:
      orders:
        from: {{http: "/orders/:id"}}
        steps:
          - send:
              http:
                connection: crm
                path: "/o/{{{{ path.id }}}}/{{{{ body.tags }}}}"
                query:
                  a: "{{{{ query.a }}}}"
                  fixed: "x y"
                  none: "{{{{ body.none }}}}"
                  l: ["1", "2"]
                method: put
    """
    async with running(routes, tmp_path) as bus:
        raw = b'{"tags": ["a/b", "c"], "none": null}'
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        answer = await post(
            bus, "/orders/x%20%3Fy?a=%26", raw, "X-A: 1", "Cookie: a=b", "Authorization: Bearer u",
            f"traceparent: {trace}", "X-Forwarded-For: 1.2.3.4",
        )  # fmt: skip
        assert answer[0] == 202
    ((line, headers, body),) = far.seen
    assert line == "PUT /v1/o/x%20%3Fy/a%2Fb/c?a=%26&fixed=x%20y&l=1&l=2 HTTP/1.1"
    assert body == raw
    assert headers.get("authorization") == "Bearer s3cret"
    assert headers.get("traceparent", "").split("-")[1] == "a" * 32
    names = sorted(n.lower() for n, _ in headers if n.lower() != "tracestate")
    assert names == [
        "accept-encoding", "authorization", "content-length", "content-type", "host",
        "traceparent", "user-agent", "x-a", "x-bus",
    ]  # fmt: skip
    assert headers.get("host") == far.url.removeprefix("http://")


async def test_a_reply_is_the_answer(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      orders:
        from: {{http: {{path: "/orders/:id", method: [GET, POST, DELETE]}}}}
        steps:
          - call: {{http: {{url: "{far.url}/o/{{{{ path.id }}}}", method: GET}}}}
    """
    async with running(routes, tmp_path) as bus:
        raw = b'{"b":  1.0}'
        far.will(201, raw, "Content-Type: application/json", "ETag: x", "Set-Cookie: a=b")
        status, headers, body = await post(bus, "/orders/7", b"", method="GET")
        assert (status, body, headers.get("etag")) == (201, raw, "x")
        assert headers.get("content-type") == "application/json"
        assert headers.get("set-cookie") is None
        far.will(204)
        assert (await post(bus, "/orders/7", method="DELETE"))[0] == 204
    # A GET sends no body, whatever the message has.
    assert [(line, body) for line, _, body in far.seen] == [("GET /o/7 HTTP/1.1", b"")] * 2
    assert far.seen[1][1].get("content-type") is None


REFUSALS = {
    "an answer of its own": (404, "application/json", b'{"why": 1}', 404, b'{"why": 1}'),
    "a conflict": (409, "text/plain", b"busy", 409, b"busy"),
    "nothing to say": (422, "", b"", 422, b""),
    "a web page": (404, "text/html", b"<h1>internal</h1>", 404, b'"status":404'),
    "our credentials": (401, "application/json", b'{"secret": 1}', 502, b'"upstream_status":401'),
    "our rights": (403, "text/plain", b"secret", 502, b'"upstream_status":403'),
    "a redirect": (302, "text/plain", b"secret", 502, b"redirect"),
    "a failure": (500, "text/html", b"<h1>secret</h1>", 502, b"status 500"),
    "overload": (503, "text/html", b"secret", 503, b"overloaded"),
    "too many": (429, "", b"", 503, b"overloaded"),
    "a gateway in time": (504, "", b"", 504, b"urn:esb:problem:outcome-unknown"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
async def test_what_a_waiting_caller_gets_of_a_refusal(
    tmp_path: Path, far: Far, case: tuple[int, str, bytes, int, bytes]
) -> None:
    upstream, content_type, content, status, expected = case
    routes = f"""
    routes:
      a: {{from: {{http: /a}}, steps: [{{call: {{http: {{url: "{far.url}"}}}}}}]}}
    """
    async with running(routes, tmp_path) as bus:
        kind = [f"Content-Type: {content_type}"] if content_type else []
        far.will(upstream, content, *kind, "Retry-After: 7", "WWW-Authenticate: Basic")
        got, headers, body = await post(bus, "/a")
        assert got == status, body
        assert expected in body
        assert b"secret" not in body
        assert b"internal" not in body
        assert headers.get("www-authenticate") is None
        if upstream in (503, 429):
            assert headers.get("retry-after") == "7"
        if expected == content:
            assert headers.get("content-type", "") == content_type


async def test_which_refusals_pass_is_an_option(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      none:
        from: {{http: /none}}
        steps: [{{call: {{http: {{url: "{far.url}", pass_errors: false}}}}}}]
      one:
        from: {{http: /one}}
        steps: [{{call: {{http: {{url: "{far.url}", pass_errors: 401}}}}}}]
      seen:
        from: {{http: /seen}}
        steps:
          - call: {{http: {{url: "{far.url}", expect: [404]}}}}
          - choose:
              - {{when: reply.status == 404, steps: [{{set: {{body: "'nobody'"}}}}]}}
    """
    async with running(routes, tmp_path) as bus:
        for path, upstream, status in (
            ("/none", 404, 502), ("/one", 404, 502), ("/one", 401, 401), ("/seen", 404, 404),
        ):  # fmt: skip
            far.will(upstream, b"x", "Content-Type: text/plain")
            answer = await post(bus, path)
            assert answer[0] == status, (path, answer)
        assert b"nobody" in answer[2]


async def test_a_reply_that_is_no_data(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      any: {{from: {{http: /any}}, steps: [{{call: {{http: {{url: "{far.url}"}}}}}}]}}
      read:
        from: {{http: /read}}
        steps: [{{call: {{http: {{url: "{far.url}"}}}}}}, {{set: {{body: body.a}}}}]
      strict:
        from: {{http: /strict}}
        steps: [{{call: {{http: {{url: "{far.url}", accept: [application/json, text/html]}}}}}}]
    """
    async with running(routes, tmp_path) as bus:
        for path, content_type, content, status in (
            ("/any", "text/html", b"<h1>Login</h1>", 502),
            ("/any", "text/plain", b"fine", 200),
            ("/read", "application/json", b'{"a": ', 502),
            ("/read", "application/json", b'{"a": 1}', 200),
            ("/strict", "application/xml", b"<a/>", 502),
            ("/strict", "text/html", b"<a/>", 200),
        ):
            far.will(200, content, f"Content-Type: {content_type}")
            answer = await post(bus, path)
            assert answer[0] == status, (path, answer)
            if status == 502:
                assert told(answer)["type"] == "urn:esb:problem:bad-reply"
    assert far.seen[-1][1].get("accept") == "application/json, text/html"


async def test_an_unreachable_far_side(tmp_path: Path) -> None:
    async with backend(lambda r, w: None) as free:
        pass
    routes = f"""
    routes:
      a: {{from: {{http: /a}}, steps: [{{call: {{http: {{url: "{free}"}}}}}}]}}
    """
    async with running(routes, tmp_path) as bus:
        answer = await post(bus, "/a")
        assert (answer[0], told(answer)["type"]) == (503, "urn:esb:problem:unreachable")
        assert "127.0.0.1" not in str(told(answer))


async def test_retry_obeys_what_can_be_repeated(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      once:
        from: {{http: {{path: /once, timeout: 10s}}}}
        retry: {{attempts: 3, backoff: 1ms}}
        steps: [{{call: {{http: {{url: "{far.url}"}}}}}}]
      again:
        from: {{http: {{path: /again, timeout: 10s}}}}
        retry: {{attempts: 3, backoff: 1ms}}
        steps: [{{call: {{http: {{url: "{far.url}", idempotent: true}}}}}}]
    """
    async with running(routes, tmp_path) as bus:
        far.answers = [b""]  # hangs up when the request is there
        answer = await post(bus, "/once")
        assert (answer[0], told(answer)["type"]) == (504, "urn:esb:problem:outcome-unknown")
        assert len(far.seen) == 1
        far.seen.clear()
        far.answers = [b"", b""]
        far.will(200, b"fine", "Content-Type: text/plain")
        assert (await post(bus, "/again"))[2] == b"fine"
        keys = {headers.get("idempotency-key") for _, headers, _ in far.seen}
        assert len(far.seen) == 3
        assert len(keys) == 1
        assert keys != {None}
        far.seen.clear()
        far.will(503)
        far.will(500)
        far.will(200, b"fine", "Content-Type: text/plain")
        assert (await post(bus, "/once"))[2] == b"fine"


async def test_a_large_file_is_sent_in_pieces_and_again(tmp_path: Path, far: Far) -> None:
    build = FakeBuild(tmp_path)
    options = SinkOptions.model_validate({"url": far.url, "method": "PUT"})
    sink = make_sink(options, cast(Build, build))
    content = bytes(range(256)) * 4096
    (tmp_path / "large").write_bytes(content)
    body = Body.from_file(tmp_path / "large", "text/plain", max_whole=1000)
    far.will(503)
    far.will(200)
    with pytest.raises(Overloaded):
        await sink.send(Envelope(body=body))
    await sink.send(Envelope(body=body))
    assert [one[2] for one in far.seen] == [content, content]
    # One that is cut meanwhile is not sent as if it were whole.
    with (tmp_path / "large").open("r+b") as file:
        file.truncate(300_000)
    with pytest.raises(Permanent, match="another size"):
        await sink.send(Envelope(body=body))
    await closed(build)


async def test_bodies_pass_as_they_arrive_where_the_load_allows_it(
    tmp_path: Path, far: Far
) -> None:
    build = FakeBuild(tmp_path)
    caller = make_caller(CallerOptions.model_validate({"url": far.url}), cast(Build, build))
    large = b"x" * 2_000_000

    def sent() -> Envelope:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"hello"
            yield b"world"

        return Envelope(body=Body.from_stream(pieces(), "text/plain", 10))

    far.will(200, large, "Content-Type: text/plain")
    whole = await caller.call(sent())
    assert not whole.body.is_stream
    assert whole.body.raw == large
    build.passage.open = True
    far.will(200, large, "Content-Type: text/plain")
    answer = await caller.call(sent())
    assert answer.body.is_stream
    assert (answer.body.size, answer.content_type) == (len(large), "text/plain")
    assert b"".join([piece async for piece in answer.body.chunks()]) == large
    for small in (b"", b"small"):
        far.will(200, small, "Content-Type: text/plain")
        assert (await caller.call(sent())).body.raw == small
    # What is no answer for a route is none as a stream either.
    far.will(200, large, "Content-Type: text/html")
    with pytest.raises(BadReply, match="web page"):
        await caller.call(sent())
    far.will(500, large, "Content-Type: text/plain")
    with pytest.raises(Transient):
        await caller.call(sent())
    assert [one[2] for one in far.seen] == [b"helloworld"] * 6
    await closed(build)


@pytest.mark.parametrize(
    ("options", "fates"),
    [
        ({}, ("made", "sent")),
        ({"method": "GET"}, ("made",)),
        ({"method": "GET", "body": True}, ("made", "sent")),
        ({"cloudevents": "binary"}, ("made", "sent")),
        ({"cloudevents": "structured"}, ()),
    ],
)
def test_what_becomes_of_a_body_is_told(
    options: dict[str, Any], fates: tuple[str, ...], tmp_path: Path
) -> None:
    steps = [{"call": {"http": {"url": "http://far.example", **options}}}]
    text = json.dumps({"routes": {"r": {"from": {"http": {"path": "/a"}}, "steps": steps}}})
    [route] = load_text(text, tmp_path).check().routes
    [caller] = [part for part in route.outline.walk() if part.direction == "caller"]
    assert caller.fates == fates


async def test_each_turn_of_a_loop_is_another_request(tmp_path: Path, far: Far) -> None:
    routes = f"""
    routes:
      a:
        from: {{http: /a}}
        steps:
          - loop:
              times: 2
              steps:
                - call: {{http: {{url: "{far.url}", idempotent: true}}}}
                  retry: {{attempts: 2, backoff: 1ms}}
    """
    async with running(routes, tmp_path) as bus:
        far.answers = [b""]
        for _ in range(2):
            far.will(200, b"fine", "Content-Type: text/plain")
        assert (await post(bus, "/a"))[2] == b"fine"
        first, again, second = [headers.get("idempotency-key") for _, headers, _ in far.seen]
        assert first == again != second


async def test_the_callers_deadline_bounds_the_call(tmp_path: Path) -> None:
    def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> Any:
        return reader.read()

    async with backend(silent) as far_url:
        routes = f"""
        routes:
          a:
            from: {{http: {{path: /a, timeout: 200ms}}}}
            steps: [{{call: {{http: {{url: "{far_url}", timeout: 60s, method: GET}}}}}}]
        """
        async with running(routes, tmp_path) as bus, asyncio.timeout(10):
            answer = await post(bus, "/a")
            assert (answer[0], told(answer)["type"]) == (504, "urn:esb:problem:timed-out")


async def test_secrets_stay_where_they_are(
    tmp_path: Path, far: Far, caplog: Any, capsys: Any
) -> None:
    routes = f"""
    routes:
      a:
        from: {{http: /a}}
        steps:
          - call:
              http:
                url: "{far.url}/?key=${{KEY}}"
                auth: {{basic: {{username: u, password: "${{PASSWORD}}"}}}}
    """
    environ = {"KEY": "s3cret-key", "PASSWORD": "s3cret-password"}
    async with running(routes, tmp_path, environ=environ) as bus:
        for answer in (b"nonsense\r\n\r\n", b"", b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"):
            far.answers = [answer]
            assert b"s3cret" not in (await post(bus, "/a"))[2]
    assert "s3cret-key" in far.seen[0][0]
    printed = capsys.readouterr()
    assert "s3cret" not in caplog.text + printed.out + printed.err


# --- urls ----------------------------------------------------------------------------------------


def target(url: str, body: Any = None, *, more: str = "", hosts: tuple[str, ...] = ()) -> str:
    made = make_target(FakeBuild(), url, more, {}, hosts)  # type: ignore[arg-type]
    return made(Envelope(body=Body.of(body)))


HOSTILE = ["\ud800", "", ".", "..", "\0", None, {"a": 1}, ["a", ".."], [[""]]]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_that_would_make_another_path(value: Any) -> None:
    with pytest.raises((BadMessage, RouteFailure)):
        target("https://a.b/x/{{ body.v }}", {"v": value})


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_value_stays_in_its_place(value: str) -> None:
    try:
        made = target("https://a.b/x/{{ body.v }}/y?q={{ body.v }}&z=1", {"v": value})
    except BadMessage:
        assert value in (".", "..") or "\0" in value
        return
    assert re.fullmatch(r"https://a\.b/x/[^/?#&=]+/y\?q=[^/?#&=]+&z=1", made)
    assert made.isascii()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("https://crm.example/x", True), ("https://CRM.example:8443/x", True),
        ("https://a.b.test/x", True), ("https://test/x", False), ("https://crm.example.x/", False),
        ("https://crm.example@evil/x", False), ("https://evil/crm.example", False),
        ("https://evil\\.a.test/x", False), ("https://evil#.a.test/", False),
        ("https://evil?.a.test/", False), ("https://[::1]/x", False), ("http://127.1/", False),
        ("https://crm.example:80@evil/", False), ("gopher://crm.example/", False), ("x", False),
        ("https://crm.example%2eevil/", False), ("//crm.example/", False), ("", False),
    ],
)  # fmt: skip
def test_a_message_chooses_among_allowed_hosts_only(host: str, allowed: bool) -> None:
    hosts = ("crm.example", "*.test")
    if allowed:
        assert target("{{ body.u }}", {"u": host}, hosts=hosts) == host
    else:
        with pytest.raises(BadMessage):
            target("{{ body.u }}", {"u": host}, hosts=hosts)


def test_a_chosen_host_and_encoded_values() -> None:
    made = target(
        "https://{{ body.h }}/x/{{ body.v }}",
        {"h": "crm.example", "v": "a/b"},
        hosts=("crm.example",),
    )
    assert made == "https://crm.example/x/a%2Fb"
    with pytest.raises(BadMessage):
        target("https://{{ body.h }}/x", {"h": "evil/crm.example"}, hosts=("crm.example",))


@pytest.mark.parametrize(
    ("base", "more", "made"),
    [
        ("https://a.b", "", "https://a.b"), ("https://a.b/", "/x", "https://a.b/x"),
        ("https://a.b/v1", "x", "https://a.b/v1/x"), ("https://a.b/{{ body }}", "", "https://a.b/7"),
        ("https://a.b/{{ '}}' }}", "", "https://a.b/%7D%7D"),
        ("https://a.b/x.{{ body }}.json", "", "https://a.b/x.7.json"),
    ],
)  # fmt: skip
def test_urls_are_put_together(base: str, more: str, made: str) -> None:
    assert target(base, 7, more=more) == made


def test_a_url_that_is_none_is_found_at_load() -> None:
    for base in ("", "ftp://a.b/", "https://", "https:///a"):
        with pytest.raises(BuildFailed):
            target(base)
