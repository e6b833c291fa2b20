"""Consuming: what a message becomes, concurrency and order, what the broker refuses, replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import structlog
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from support.amqp import UNREADABLE, Endpoints, Raw, endpoints, put_raw
from support.backend import backend
from support.broker import Rabbit, unique
from support.bus import running
from support.contract import Recorder, started
from support.proxy import proxy
from support.waiting import until

import esb.codecs  # noqa: F401 - what a bus has
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, Permanent, Transient
from esb_amqp.client import Channel, Connection
from esb_amqp.link import Lane, Link
from esb_amqp.options import parse_url
from esb_amqp.properties import Properties

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def made(broker_url: str) -> AsyncIterator[Endpoints]:
    async with endpoints(broker_url) as made:
        yield made


async def consumed(made: Endpoints, queue: str, count: int = 1, **options: Any) -> list[Envelope]:
    """The next `count` messages of a queue as a route gets them."""
    step = Recorder()
    source = made.source(queue=queue, **options)
    await made.open()
    async with started(source, step):
        await until(lambda: len(step.finished) >= count)
    return step.got


# --- what a message becomes -----------------------------------------------------------------------


async def test_every_property_is_shown(rabbit: Rabbit, made: Endpoints) -> None:
    exchange, queue = await rabbit.exchange(), await rabbit.queue()
    await rabbit.bind(queue, exchange, "order.#")
    await rabbit.publish(
        exchange,
        "order.new",
        b'{"a": 1}',
        content_type="application/json",
        content_encoding="utf-8",
        message_id="m-1",
        correlation_id="c-1",
        reply_to="somewhere",
        expiration=60,
        priority=7,
        type="order.created",
        app_id="shop",
        user_id="guest",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        headers={"X-Tenant": "acme", "n": 3, "nested": {"list": [1, "2"]}, "traceparent": TRACE},
    )
    (envelope,) = await consumed(made, queue)
    assert envelope.id == "m-1"
    assert envelope.correlation_id == "c-1"
    assert envelope.type == "order.created"
    assert envelope.subject == "order.new"
    assert envelope.source == f"amqp:{queue}"
    assert envelope.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert envelope.content_type == "application/json"
    assert envelope.body.raw == b'{"a": 1}'
    assert envelope.traceparent == TRACE
    assert dict(envelope.headers) == {"X-Tenant": "acme", "n": 3, "nested": {"list": [1, "2"]}}
    assert envelope.params["amqp"] == {
        "queue": queue,
        "exchange": exchange,
        "routing_key": "order.new",
        "redelivered": False,
        "delivery_mode": 2,
        "priority": 7,
        "expiration": "60000",
        "content_encoding": "utf-8",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "reply_to": "somewhere",
        "timestamp": 1767323045,
        "type": "order.created",
        "user_id": "guest",
        "app_id": "shop",
        "headers": {},
    }
    assert envelope.reply_to == ""


async def test_a_bare_message_is_one_too(rabbit: Rabbit, made: Endpoints, broker_url: str) -> None:
    queue = await rabbit.queue()
    await put_raw(broker_url, queue, (Properties(), b""))
    (envelope,) = await consumed(made, queue)
    assert envelope.body.is_empty
    assert envelope.type == "message"
    assert envelope.id
    assert envelope.params["amqp"]["priority"] is None


HOSTILE = {
    "a time beyond the calendar": Properties(timestamp=2**62),
    "a time before it": Properties(timestamp=-(2**62)),
    "an id with a line break": Properties(message_id="a\r\nSet-Cookie: b", correlation_id="\0"),
    "a content type with a line break": Properties(content_type="text/plain\r\nx: y"),
    "an expression for a type": Properties(type="{{ 1/0 }}", app_id="${HOME}"),
    "headers that no other protocol has": Properties(
        headers={"two words": 1, "": 2, "ok": "line\nbreak", "žluť": "kůň", "\r\nevil": "x"}
    ),
    "a broken trace": Properties(headers={"traceparent": "00-0-0-0", "tracestate": "x=1"}),
    "control by header": Properties(
        headers={
            "x-death": [{"count": 99, "queue": "q"}],
            "x-delivery-count": 1000,
            "esb-attempt": 99,
            "reply_to": "amq.gen-evil",
            "id": "forged",
        }
    ),
    "5,000 headers": Properties(headers={f"x-{number}": [number] for number in range(5000)}),
    "names of our own": Properties(
        headers=dict.fromkeys(Envelope.__struct_fields__, "forged")
        | {"principal": {"name": "admin", "roles": ["admin"]}, "params": {"principal": {}}}
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_a_stranger_writes_stops_nothing(
    rabbit: Rabbit, made: Endpoints, broker_url: str, case: str
) -> None:
    queue = await rabbit.queue()
    await put_raw(broker_url, queue, (HOSTILE[case], b"odd"), (Properties(), b"next"))
    odd, following = await consumed(made, queue, 2, prefetch=1)
    assert (odd.body.raw, following.body.raw) == (b"odd", b"next")
    Headers(odd.headers)  # nothing that could be smuggled on
    for text in (odd.id, odd.correlation_id, odd.content_type, odd.traceparent, odd.reply_to):
        assert not set(text) & set("\r\n\0")
    assert odd.attempt == 1
    assert odd.reply_to == ""
    assert odd.id not in ("forged", "")
    assert odd.principal == ""
    assert odd.params.keys() == {"amqp"}
    assert await rabbit.ready(queue) == 0


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_the_library_cannot_read_is_left_out_and_told(
    rabbit: Rabbit, made: Endpoints, name: str
) -> None:
    """Else the connection would go down with each redelivery, and the queue stop for good."""
    queue = await rabbit.queue()
    flag, raw = UNREADABLE[name]
    below = await rabbit.channel.get_underlay_channel()
    await below.basic_publish(b"odd", routing_key=queue, properties=Raw(flag, raw))
    await rabbit.put(queue, b"next", message_id="m-2")
    with structlog.testing.capture_logs() as logs:
        odd, following = await consumed(made, queue, 2, prefetch=1)
    assert (odd.body.raw, following.body.raw) == (b"odd", b"next")
    assert following.id == "m-2"
    assert not odd.params["amqp"]["redelivered"]
    assert [entry["properties"] for entry in logs if "properties" in entry] == [[name]]
    assert await rabbit.ready(queue) == 0


class _KeyOfBytes(Basic.Publish):
    """A routing key as no client would write it."""

    def marshal(self) -> bytes:
        exchange = str(self.exchange).encode()
        return b"\0\0%c%b\x02\xff\xfe\0" % (len(exchange), exchange)


async def test_a_routing_key_that_is_no_text_stops_nothing(rabbit: Rabbit, made: Endpoints) -> None:
    queue, exchange = await rabbit.queue(), await rabbit.exchange("fanout")
    await rabbit.bind(queue, exchange)
    async with rabbit.connection.channel(publisher_confirms=False) as channel:
        below = await channel.get_underlay_channel()
        header = ContentHeader(body_size=3, properties=Basic.Properties())
        publish = _KeyOfBytes(exchange=exchange)
        frames: list[Any] = [publish, header, ContentBody(b"odd")]
        await below.write_queue.put(ChannelFrame.marshall(below.number, frames))
        await rabbit.publish(exchange, "good", b"next")
        both = await consumed(made, queue, 2, prefetch=1)
    assert {one.body.raw: one.subject for one in both} == {b"odd": "\ufffd\ufffd", b"next": "good"}


async def test_amqp_to_amqp_keeps_what_may_be_kept(
    rabbit: Rabbit, made: Endpoints, broker_url: str
) -> None:
    queue, target = await rabbit.queue(), await rabbit.queue("target")
    headers = {
        "X-Tenant": "acme",
        "double": 0.1,
        "big": 2**60,
        "price": Decimal("1.10"),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "raw": b"\xff\x00",
        "none": None,
        "yes": True,
        "table": {"list": [1, "two", None]},
        "two words": "line\nbreak",
    }
    forged = {"x-death": [{"count": 9}], "x-delay": 10**9, "x-delivery-count": 7}
    sent = Properties(
        content_type="text/plain",
        content_encoding="gzip",
        headers=headers | forged,
        delivery_mode=1,
        priority=3,
        correlation_id="c",
        reply_to="amq.gen-x",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000_123,
        type="t",
        user_id="guest",
        app_id="a",
    )
    await put_raw(broker_url, queue, (sent, b"\x1f\x8bx"))
    source, sink = made.source(queue=queue), made.sink(queue=target)
    await made.open()

    async def step(envelope: Envelope) -> Envelope:
        await sink.send(envelope)
        return envelope

    await source.start(step)
    got: list[Any] = []
    connection = await Connection.open(parse_url(broker_url))
    await (await connection.channel()).consume(target, got.append, tag="t", no_ack=True)
    await until(lambda: got)
    await connection.close()
    arrived = got[0]
    assert arrived.body == b"\x1f\x8bx"
    expected = Properties(
        content_type="text/plain",
        content_encoding="gzip",
        headers=headers,
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        message_id="m",
        timestamp=1_700_000_000_123,
        type="t",
        app_id="a",
    )
    assert arrived.properties == expected
    found = arrived.properties.headers
    assert [type(found[name]) for name in headers] == [type(v) for v in headers.values()]


# --- concurrency and order ------------------------------------------------------------------------


async def test_prefetch_bounds_what_is_in_the_route(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    for _ in range(12):
        await rabbit.put(queue)
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    source = made.source(queue=queue, prefetch=5)
    await made.open()
    async with started(source, step):
        await until(lambda: step.running == 5)
        assert await rabbit.ready(queue) == 7
        gate.set()
        await until(lambda: len(step.finished) == 12)
    assert step.most == 5


async def test_in_order_one_at_a_time_and_none_overtakes(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    bodies = [b"%d" % number for number in range(10)]
    for body in bodies:
        await rabbit.put(queue, body)
    step = Recorder([Transient("first one fails twice"), Transient("again")])
    source = made.source(queue=queue, order=True)
    await made.open()
    async with started(source, step):
        await until(lambda: len(step.finished) == 10)
    assert [e.body.raw for e in step.finished] == bodies
    assert step.most == 1


async def put_keyed(rabbit: Rabbit, queue: str, keys: str, count: int) -> None:
    for number in range(count):
        for key in keys:
            body = json.dumps({"key": key, "n": number})
            await rabbit.put(queue, body, content_type="application/json")


def numbers_of(key: str, envelopes: list[Envelope]) -> list[int]:
    return [e.body.data["n"] for e in envelopes if e.body.data["key"] == key]


async def test_in_order_of_a_key_and_one_that_fails_stops_its_own_alone(
    rabbit: Rabbit, made: Endpoints
) -> None:
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "abc", 5)
    healed = asyncio.Event()
    recorder = Recorder()

    async def step(envelope: Envelope) -> Envelope:
        if envelope.body.data == {"key": "a", "n": 0} and not healed.is_set():
            raise Transient("not yet")
        return await recorder(envelope)

    source = made.source(queue=queue, order={"by": "body.key"})
    await made.open()
    async with started(source, step):
        await until(lambda: len(recorder.finished) == 10)
        assert numbers_of("a", recorder.got) == []
        healed.set()
        await until(lambda: len(recorder.finished) == 15)
    for key in "abc":
        assert numbers_of(key, recorder.finished) == list(range(5))
    assert not any(e.params["amqp"]["redelivered"] for e in recorder.got)
    assert await rabbit.ready(queue) == 0


async def test_of_a_key_one_at_a_time_of_many_at_once(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "abc", 4)
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    source = made.source(queue=queue, order={"by": "body.key"})
    await made.open()
    async with started(source, step):
        await until(lambda: step.running == 3)
        assert {e.body.data["n"] for e in step.got} == {0}
        gate.set()
        await until(lambda: len(step.finished) == 12)
    assert step.most == 3


async def test_order_of_a_key_holds_over_a_loss(rabbit: Rabbit, broker_url: str) -> None:
    """What comes again waits for what still runs; what waited and comes again is not run twice."""
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "ab", 6)
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    async with (
        proxy(parse_url(broker_url).port) as wire,
        endpoints(f"amqp://127.0.0.1:{wire.port}") as made,
    ):
        source = made.source(queue=queue, order={"by": "body.key"})
        await made.open()
        async with started(source, step):
            await until(lambda: step.running == 2)
            wire.cut()
            await until(lambda: wire.connections == 2 and source.health().up)
            gate.set()
            await until(lambda: _empty(rabbit, queue, step))
    for key in "ab":
        # The first was in the route when the connection went, and so came again.
        assert numbers_of(key, step.finished) == [0, *range(6)]


async def _empty(rabbit: Rabbit, queue: str, step: Recorder) -> bool:
    return await rabbit.ready(queue) == 0 and step.running == 0 and len(step.finished) >= 14


async def test_order_holds_over_a_reload(rabbit: Rabbit, made: Endpoints) -> None:
    """The new route starts before the old one stops, and must not take what comes behind."""
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "a", 3)
    old, new = (made.source(queue=queue, order=True) for _ in range(2))
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    await made.open()
    async with started(old, step):
        await until(lambda: step.running)
        async with started(new, step):
            await until(lambda: "another one on the same store" in new.health().detail)
            stopping = asyncio.ensure_future(old.stop(10))
            gate.set()
            await stopping
            await until(lambda: len(step.finished) == 3)
    assert numbers_of("a", step.finished) == [0, 1, 2]
    assert step.most == 1


async def test_messages_without_the_key_are_in_order_too(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    bodies = [b"no JSON", b"1 2", b"", b"{"]
    for body in bodies:
        await rabbit.put(queue, body, content_type="application/json")
    step = Recorder()
    source = made.source(queue=queue, order={"by": "body.key"})
    await made.open()
    async with started(source, step):
        await until(lambda: len(step.finished) == 4)
    assert [e.body.raw for e in step.finished] == bodies


async def test_stopping_gives_back_what_waits_for_its_turn(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "a", 5)
    gate = asyncio.Event()
    step = Recorder(gate=gate)
    source = made.source(queue=queue, order={"by": "body.key"})
    await made.open()
    await source.start(step)
    await until(lambda: step.running)
    stopping = asyncio.ensure_future(source.stop(10))
    gate.set()
    await stopping
    assert numbers_of("a", step.finished) == [0]
    again = Recorder()
    async with started(source, again):
        await until(lambda: len(again.finished) == 4)
    assert numbers_of("a", again.finished) == [1, 2, 3, 4]


@pytest.mark.parametrize("order", ["true", "{by: body.key}"])
async def test_a_retry_in_order_keeps_its_place(
    rabbit: Rabbit, broker_url: str, tmp_path: Path, order: str
) -> None:
    """A message that is parked between two tries is acknowledged, and the next would overtake."""
    queue = await rabbit.queue()
    await put_keyed(rabbit, queue, "a", 4)
    with backend() as service:
        service.statuses.extend([503, 503])
        routes = f"""
        routes:
          in-order:
            from: {{amqp: {{url: "{broker_url}", queue: {queue}, order: {order}}}}}
            steps: [{{send: {{http: {service.url}}}}}]
            retry: {{attempts: 5, backoff: 10ms..50ms, park_after: 0s}}
        """
        async with running(routes, tmp_path):
            await until(lambda: len(service.asked) == 6)
    assert [asked.json["n"] for asked in service.asked] == [0, 0, 0, 1, 2, 3]
    assert await rabbit.counts(queue) == (0, 0)


async def test_an_exclusive_consumer_waits_for_the_other(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    first, second = Recorder(), Recorder()
    one = made.source(queue=queue, exclusive=True)
    two = made.source(queue=queue, exclusive=True)
    await made.open()
    async with started(one, first):
        await until(lambda: one.health().up)
        async with started(two, second):
            await until(lambda: "ACCESS_REFUSED" in two.health().detail)
            await rabbit.put(queue)
            await until(lambda: first.finished)
            await one.stop(5)
            await until(lambda: two.health().up)
            await rabbit.put(queue)
            await until(lambda: second.finished)


async def test_a_backoff_asked_for_is_obeyed_and_capped(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue)
    step = Recorder([Transient("later", retry_after=3600)])
    source = made.source(queue=queue, hold="50ms..400ms")
    await made.open()
    began = asyncio.get_running_loop().time()
    async with started(source, step):
        await until(lambda: step.finished)
    assert 0.3 < asyncio.get_running_loop().time() - began < 5


async def test_stopping_does_not_wait_for_held_messages(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue)
    step = Recorder([Transient("later")])
    source = made.source(queue=queue, hold="1h")
    await made.open()
    await source.start(step)
    await until(lambda: step.got)
    async with asyncio.timeout(5):
        await source.stop(60)
    assert await rabbit.ready(queue) == 1


async def test_stopping_while_it_starts_leaves_no_consumer(rabbit: Rabbit, made: Endpoints) -> None:
    """It would be handed messages, and give them back, for as long as the connection lives."""
    queue = await rabbit.queue()
    made.source(queue=queue)
    link, _ = (thing for thing in made.build.objects.values() if isinstance(thing, Link))
    consuming = asyncio.Event()

    async def prepare(channel: Channel) -> None:
        await channel.consume(queue, lambda delivery: None, tag="t")
        consuming.set()
        await asyncio.Event().wait()

    lane = Lane(link, "a lane", prepare)
    await made.open()
    await lane.open()
    await consuming.wait()
    assert await rabbit.counts(queue) == (0, 1)
    await lane.close()
    assert await rabbit.counts(queue) == (0, 0)


async def test_a_refused_message_may_be_put_back_instead(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await rabbit.put(queue)
    step = Recorder([Permanent("no")])
    source = made.source(queue=queue, reject="requeue")
    await made.open()
    async with started(source, step):
        await until(lambda: step.finished)
    assert [e.params["amqp"]["redelivered"] for e in step.got] == [False, True]


# --- what the broker refuses ----------------------------------------------------------------------


async def test_a_queue_that_is_missing_is_waited_for(
    rabbit: Rabbit, made: Endpoints, broker_url: str
) -> None:
    queue = unique("later")
    source, step = made.source(queue=queue), Recorder()
    await made.open()
    async with started(source, step):
        await until(lambda: "NOT_FOUND" in source.health().detail)
        assert queue in source.health().detail
        assert not source.health().up
        await rabbit.channel.declare_queue(queue, durable=True)
        await until(lambda: source.health().up)
        await rabbit.put(queue)
        await until(lambda: step.finished)


async def test_a_queue_that_is_deleted_is_waited_for(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    source, step = made.source(queue=queue), Recorder()
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        await rabbit.delete(queue)
        await until(lambda: "NOT_FOUND" in source.health().detail)
        await rabbit.channel.declare_queue(queue, durable=True)
        await until(lambda: source.health().up)
        await rabbit.put(queue)
        await until(lambda: step.finished)


async def test_it_declares_what_it_is_told(rabbit: Rabbit, made: Endpoints) -> None:
    queue, exchange, dead = unique("orders"), unique("shop"), await rabbit.queue("dead")
    declare = {
        "type": "quorum",
        "bind": [{"exchange": exchange, "type": "topic", "routing_key": "order.*"}],
        "dead_letter": {"exchange": "", "routing_key": dead},
    }
    step = Recorder([Permanent("no")])
    source = made.source(queue=queue, declare=declare)
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        await rabbit.publish(exchange, "order.new", b"refused")
        assert (await rabbit.take(dead)).body == b"refused"
        await rabbit.publish(exchange, "order.old", b"taken")
        await until(lambda: step.finished)


async def test_a_declaration_that_differs_is_told(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    source = made.source(queue=queue, declare={"type": "quorum"})
    await made.open()
    async with started(source, Recorder()):
        await until(lambda: "PRECONDITION_FAILED" in source.health().detail)
        assert not source.health().up


async def test_one_endpoint_that_is_refused_harms_no_other(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    bad, good = made.source(queue=unique("missing")), made.source(queue=queue)
    step = Recorder()
    await made.open()
    async with started(bad, Recorder()), started(good, step):
        await until(lambda: not bad.health().up and "NOT_FOUND" in bad.health().detail)
        for _ in range(100):
            await rabbit.put(queue)
        await until(lambda: len(step.finished) == 100)
    assert len(step.got) == 100


# --- replies --------------------------------------------------------------------------------------


async def asked(rabbit: Rabbit, queue: str, body: bytes, **properties: Any) -> Any:
    """What a client over direct reply-to gets back."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def on_reply(message: Any) -> None:
        answered.set_result(message)

    replies = await rabbit.channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    tag = await replies.consume(on_reply, no_ack=True)
    await rabbit.put(
        queue, body, reply_to="amq.rabbitmq.reply-to", correlation_id="c-7", **properties
    )
    async with asyncio.timeout(10):
        message = await answered
    await replies.cancel(tag)
    return message


async def test_who_asks_gets_the_answer(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()

    async def step(envelope: Envelope) -> Envelope:
        assert envelope.reply_to.startswith("amq.rabbitmq.reply-to.")
        return envelope.reply(Body(b"42", "text/plain"), Headers([("x-answer", "yes")]))

    source = made.source(queue=queue)
    await made.open()
    await source.start(step)
    reply = await asked(rabbit, queue, b"?")
    assert (reply.body, reply.content_type, reply.correlation_id) == (b"42", "text/plain", "c-7")
    assert reply.headers == {"x-answer": "yes"}
    assert await rabbit.counts(queue) == (0, 1)


@pytest.mark.parametrize(
    ("error", "status", "type"),
    [
        (BadMessage("no", [{"pointer": "/a", "detail": "is missing"}]), 400, "bad-message"),
        (Transient("the backend is away"), 500, "transient"),
        (RuntimeError("secret internals"), 500, "error"),
    ],
)
async def test_who_asks_is_told_what_went_wrong(
    rabbit: Rabbit, made: Endpoints, error: Exception, status: int, type: str
) -> None:
    queue = await rabbit.queue()
    source = made.source(queue=queue)
    await made.open()
    await source.start(Recorder([error]))
    reply = await asked(rabbit, queue, b"?", message_id="m-1")
    assert reply.content_type == "application/problem+json"
    problem = json.loads(reply.body)
    assert (problem["status"], problem["type"]) == (status, f"urn:esb:problem:{type}")
    assert problem["id"] == "m-1"
    assert "secret" not in reply.body.decode()
    await source.stop(5)
    assert await rabbit.counts(queue) == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "body"),
    [
        (Outcome.ACCEPTED, b'{"id":"m-1"}'),
        (Outcome.FILTERED, b""),
        (Outcome.MESSAGE, b"?"),
    ],
)
async def test_every_outcome_is_an_answer(
    rabbit: Rabbit, made: Endpoints, outcome: Outcome, body: bytes
) -> None:
    queue = await rabbit.queue()
    source = made.source(queue=queue)
    await made.open()

    async def step(envelope: Envelope) -> Envelope:
        return envelope.replace(outcome=outcome)

    await source.start(step)
    assert (await asked(rabbit, queue, b"?", message_id="m-1")).body == body


async def test_a_dead_letter_is_told_as_a_problem(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    source = made.source(queue=queue)
    await made.open()

    async def step(envelope: Envelope) -> Envelope:
        return envelope.replace(outcome=Outcome.DEAD)

    await source.start(step)
    reply = await asked(rabbit, queue, b"?")
    assert json.loads(reply.body)["type"] == "urn:esb:problem:dead-letter"


async def test_an_answer_that_cannot_be_written_is_told(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    source = made.source(queue=queue)
    await made.open()

    async def step(envelope: Envelope) -> Envelope:
        return envelope.reply(Body.of({"a": 1}, "application/x-nobody-writes-this"))

    await source.start(step)
    reply = await asked(rabbit, queue, b"?")
    problem = json.loads(reply.body)
    # The route's fault, not the sender's.
    assert (problem["status"], problem["type"]) == (500, "urn:esb:problem:route-failure")
    assert "application/x-nobody-writes-this" in problem["detail"]


async def test_only_allowed_queues_are_answered(rabbit: Rabbit, made: Endpoints) -> None:
    queue, victim = await rabbit.queue(), await rabbit.queue("victim")
    step = Recorder()
    source = made.source(queue=queue)
    await made.open()
    async with started(source, step):
        await rabbit.put(queue, reply_to=victim)
        await rabbit.put(queue, reply_to="amq.rabbitmq.reply-tofu")
        await until(lambda: len(step.finished) == 2)
    assert [e.reply_to for e in step.got] == ["", ""]
    assert await rabbit.ready(victim) == 0

    allowed = made.source(queue=queue, reply_to=["victim-"])
    await made.open()
    async with started(allowed, step):
        await rabbit.put(queue, b"answer", reply_to=victim)
        assert (await rabbit.take(victim)).body == b"answer"


async def test_an_asker_who_left_keeps_nothing_back(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    step = Recorder()
    source = made.source(queue=queue)
    await made.open()
    async with started(source, step):
        await rabbit.put(queue, reply_to="amq.gen-gone")
        await until(lambda: step.finished)
    assert await rabbit.ready(queue) == 0


async def test_the_client_of_another_make_gets_along(rabbit: Rabbit, made: Endpoints) -> None:
    """aio-pika's own RPC pattern: an exclusive server-named reply queue."""
    queue = await rabbit.queue()
    source = made.source(queue=queue)
    await made.open()
    await source.start(Recorder())
    replies = await rabbit.channel.declare_queue("", exclusive=True)
    message = aio_pika.Message(b"echo", reply_to=replies.name, correlation_id="1")
    await rabbit.channel.default_exchange.publish(message, queue)
    reply = await until(lambda: replies.get(fail=False))
    assert (reply.body, reply.correlation_id) == (b"echo", "1")
