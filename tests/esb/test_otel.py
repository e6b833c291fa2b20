"""OpenTelemetry: what a collector is sent, over real OTLP, of messages on their way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from support.backend import backend
from support.broker import Rabbit
from support.bus import load_text, running, url
from support.collector import Collector, Span, collector
from support.peers import HERE
from support.soap import hosted
from support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


async def post(
    at: str, *, flags: str = "", headers: dict[str, str] | None = None, body: str = '{"id": "1"}'
) -> int:
    sent = {"content-type": "application/json", **(headers or {})}
    if flags:
        sent["traceparent"] = f"00-{TRACE}-{CALLER}-{flags}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(at, data=body, headers=sent) as got,
    ):
        await got.read()
        return got.status


def chain(spans: list[Span], last: Span) -> list[Span]:
    """A span and all above it, the first first."""
    by_id = {span.id: span for span in spans}
    found = [last]
    while (above := by_id.get(found[0].parent)) is not None:
        found.insert(0, above)
    return found


async def test_one_trace_from_http_over_a_queue_and_a_broker_to_http_and_soap(
    tmp_path: Path, rabbit: Rabbit, broker_url: str
) -> None:
    queue = await rabbit.queue()
    (tmp_path / "partner.wsdl").write_bytes((HERE / "partner.wsdl").read_bytes())
    with collector() as sink, backend() as far:
        async with hosted() as service:
            text = f"""
            telemetry: {{otlp: "{sink.url}", service_name: shop}}
            connections: {{mq: {{amqp: {{url: "{broker_url}"}}}}}}
            routes:
              taken:
                from: {{http: {{path: /orders, method: POST}}}}
                steps: [{{send: {{queue: orders}}}}]
              passed:
                from: {{queue: orders}}
                steps: [{{send: {{amqp: {{connection: mq, queue: "{queue}"}}}}}}]
              told:
                from: {{amqp: {{connection: mq, queue: "{queue}"}}}}
                steps:
                  - send: {{http: {{url: "{far.url}/told?key=k-1", method: POST}}}}
                  - call:
                      soap: {{wsdl: partner.wsdl, operation: getPartner, url: "{service.url}"}}
            """
            async with running(text, tmp_path) as bus:
                carried = {"tracestate": "a=1, b@c=x y", "baggage": "tenant=7"}
                assert await post(f"{url(bus)}/orders", flags="01", headers=carried) == 202
                await until(lambda: service.seen)
                (asked,) = far.asked
        spans = sink.spans  # the bus has stopped, so all are there

    assert {span.trace for span in spans} == {TRACE}
    rpc = next(span for span in spans if span.attributes.get("rpc.method") == "getPartner")
    above = chain(spans, rpc)
    assert above[0].parent == CALLER
    assert [(span.kind, span.name) for span in above] == [
        ("server", "POST /orders"),
        ("internal", "send"),
        ("producer", "send queue orders"),
        ("consumer", "process queue orders"),
        ("internal", "send"),
        ("producer", f"send {queue}"),
        ("consumer", f"process {queue}"),
        ("internal", "call"),
        ("client", rpc.name),
    ]
    http = next(s for s in spans if s.kind == "client" and s is not rpc)
    assert asked.headers["traceparent"] == f"00-{TRACE}-{http.id}-01"
    assert http.attributes["http.request.method"] == "POST"
    assert http.attributes["server.address"] == "127.0.0.1"
    assert "k-1" not in str(http.attributes)
    assert above[5].attributes["messaging.system"] == "rabbitmq"
    assert above[5].attributes["messaging.destination.name"] == queue
    assert above[0].attributes["http.route"] == "/orders"
    assert above[0].attributes["http.request.method"] == "POST"
    assert above[0].attributes["http.response.status_code"] == 202
    assert above[0].attributes["esb.outcome"] == "accepted"
    assert (rpc.attributes["rpc.system"], service.seen[0].traceparent) == (
        "soap",
        f"00-{TRACE}-{rpc.id}-01",
    )
    assert {span.state for span in spans} == {"a=1,b@c=x y"}
    assert asked.headers["tracestate"] == service.seen[0].tracestate == "a=1,b@c=x y"
    assert asked.headers["baggage"] == "tenant=7"
    assert (
        above[5].attributes["messaging.message.id"] == above[6].attributes["messaging.message.id"]
    )
    assert {span.resource["service.name"] for span in spans} == {"shop"}
    assert all(span.well for span in spans)


def one_route(sink: Collector, far: str, more: str = "") -> str:
    return f"""
    telemetry: {{otlp: "{sink.url}", {more}}}
    routes:
      r:
        from: {{http: {{path: /, method: POST}}}}
        steps: [{{call: {{http: {{url: "{far}/", method: POST}}}}}}]
    """


@pytest.mark.parametrize(
    ("sample", "flags", "sent"),
    [("0", "01", True), ("1", "00", False), ("0", "", False), ("1", "", True)],
)
async def test_who_began_the_trace_decides(
    tmp_path: Path, sample: str, flags: str, sent: bool
) -> None:
    with collector() as sink, backend() as far:
        async with running(one_route(sink, far.url, f"sample: {sample}"), tmp_path) as bus:
            assert await post(f"{url(bus)}/", flags=flags) == 200
        told = far.asked[0].headers["traceparent"]
        assert bool(sink.spans) is sent
        assert told.endswith("-01" if sent else "-00")  # who comes next decides the same
        if flags == "00":
            assert told == f"00-{TRACE}-{CALLER}-00"
        if sent:
            client = next(span for span in sink.spans if span.kind == "client")
            assert told == f"00-{client.trace}-{client.id}-01"
            assert client.attributes["http.response.status_code"] == 200


async def test_errors_are_told_without_what_is_secret(tmp_path: Path) -> None:
    with collector() as sink, backend() as far:
        far.statuses.append(500)
        far.content = ("text/plain", b"the key was s3cr3t-canary")
        text = f"""
        telemetry: {{otlp: "{sink.url}", headers: {{x-key: "${{KEY}}"}}}}
        routes:
          r:
            from: {{http: {{path: /, method: POST}}}}
            steps: [{{call: {{http: {{url: "{far.url}/?k=${{KEY}}", method: GET}}}}}}]
        """
        async with running(text, tmp_path, environ={"KEY": "s3cr3t-canary"}) as bus:
            assert await post(f"{url(bus)}/", headers={"authorization": "s3cr3t-canary"}) == 502
        client = next(span for span in sink.spans if span.kind == "client")
        route = sink.named("POST /")
        assert (client.well, client.attributes["error.type"]) == (False, "transient")
        assert client.attributes["http.response.status_code"] == 500
        assert (route.well, route.why) == (False, "the service failed (status 500)")
        assert route.attributes["http.response.status_code"] == 502
        assert not any(span.events for span in sink.spans)
        assert not any(b"s3cr3t" in asked.body for asked in sink.asked)
        assert sink.asked[0].headers["x-key"] == "s3cr3t-canary"


async def test_what_is_blamed_on_the_caller_is_no_failure_of_the_bus(tmp_path: Path) -> None:
    with collector() as sink:
        text = f"""
        telemetry: {{otlp: "{sink.url}"}}
        routes:
          r:
            from: {{http: {{path: /, method: POST}}}}
            steps: [{{set: {{body: body.there}}}}, {{filter: body.there}}]
        """
        async with running(text, tmp_path) as bus:
            assert await post(f"{url(bus)}/", body="<no json") == 400
            assert await post(f"{url(bus)}/", body='{"there": {"there": false}}') < 300
        refused, passed = (span for span in sink.spans if span.name == "POST /")
        assert refused.well
        assert refused.attributes["http.response.status_code"] == 400
        assert refused.attributes["esb.error"] == "bad-message"
        assert "error.type" not in refused.attributes
        assert passed.attributes["http.response.status_code"] < 300
        assert passed.attributes["esb.outcome"] == "filtered"


async def test_what_was_accepted_has_a_span_of_its_own(tmp_path: Path) -> None:
    with collector() as sink, backend() as far:
        text = f"""
        telemetry: {{otlp: "{sink.url}"}}
        routes:
          r:
            from: {{http: {{path: /, method: POST}}}}
            accept: durable
            business_key: body.id
            steps: [{{send: {{http: {{url: "{far.url}/", method: POST}}}}}}]
        """
        async with running(text, tmp_path) as bus:
            assert await post(f"{url(bus)}/", flags="01") == 202
            await until(lambda: far.asked)
        spans = sink.spans
    client = next(span for span in spans if span.kind == "client")
    above = chain(spans, client)
    assert above[0].parent == CALLER
    assert [(span.kind, span.name) for span in above] == [
        ("server", "POST /"),
        ("consumer", "r"),
        ("internal", "send"),
        ("client", "POST"),
    ]
    assert above[0].attributes["http.response.status_code"] == 202
    assert "http.response.status_code" not in above[1].attributes


async def test_parts_that_run_side_by_side_are_below_the_step_that_made_them(
    tmp_path: Path,
) -> None:
    with collector() as sink, backend() as far:
        text = f"""
        telemetry: {{otlp: "{sink.url}"}}
        routes:
          r:
            from: {{http: {{path: /, method: POST}}}}
            steps:
              - split:
                  each: body
                  steps: [{{run: one}}]
          one:
            steps: [{{send: {{http: {{url: "{far.url}/", method: POST}}}}}}]
        """
        async with running(text, tmp_path) as bus:
            assert await post(f"{url(bus)}/", body="[1, 2, 3]") < 300
        spans = sink.spans
        calls = [span for span in spans if span.kind == "client"]
        assert len(calls) == 3
        for call in calls:
            assert [s.name for s in chain(spans, call)][:3] == ["POST /", "split", "run"]
        ids = {asked.headers["traceparent"].split("-")[2] for asked in far.asked}
        assert ids == {call.id for call in calls}


async def test_a_collector_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    with backend() as gone:
        at = gone.url
    with backend() as far:
        text = f"""
        telemetry: {{otlp: "{at}", timeout: 200ms}}
        routes:
          r:
            from: {{http: {{path: /, method: POST}}}}
            steps: [{{call: {{http: {{url: "{far.url}/", method: POST}}}}}}]
        """
        async with asyncio.timeout(20), running(text, tmp_path) as bus:
            assert await post(f"{url(bus)}/") == 200


def test_without_the_section_nobody_looks_at_a_step(tmp_path: Path) -> None:
    project = load_text("routes: {r: {from: {http: {path: /}}, steps: []}}", tmp_path)
    assert [(r.watch.observer, r.watch.around) for r in project.routes] == [(None, None)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("collector:4318", "a collector has a URL"),
        ("http://u:p@collector", "belong into `headers`"),
    ],
)
def test_what_is_no_collector(tmp_path: Path, value: str, said: str) -> None:
    project = load_text(f"telemetry: {{otlp: '{value}'}}\nroutes: {{}}", tmp_path)
    (found,) = project.diagnostics
    assert said in found.message
    assert found.line == 1
