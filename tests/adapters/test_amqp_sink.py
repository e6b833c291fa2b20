"""Publishing: what leaves, confirms and returns, what the broker refuses, request and reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit, unique
from support.waiting import until

import esb.codecs  # noqa: F401 - what a bus has
from esb.adapter import BuildFailed
from esb.envelope import Body, Envelope, Headers
from esb.errors import (
    BadMessage,
    Fault,
    OutcomeUnknown,
    Rejected,
    RouteFailure,
    TimedOut,
    Transient,
    Unreachable,
)
from esb_amqp import link
from esb_amqp.client import Connection, Nacked
from esb_amqp.options import parse_url
from esb_amqp.properties import Properties
from esb_amqp.sink import delay_queue

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def made(broker_url: str) -> AsyncIterator[Endpoints]:
    async with endpoints(broker_url) as made:
        yield made


def message(body: bytes = b"{}", **attributes: Any) -> Envelope:
    return Envelope(body=Body(body, "application/json"), **attributes)


# --- what leaves ----------------------------------------------------------------------------------


async def test_every_property_is_set(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    sink = made.sink(
        queue=queue, priority=5, expiration="1m", headers={"x-kind": "{{ kind }}", "x-a": "own"}
    )
    await made.open()
    envelope = message(
        b'{"a":1}',
        id="m-1",
        type="order.created",
        correlation_id="c-1",
        time=datetime(2026, 1, 2, tzinfo=UTC),
        headers=Headers([("X-A", "from the message"), ("x-tag", "1"), ("x-tag", "2")]),
        params={"kind": "big"},
        traceparent=TRACE,
        tracestate="v=1",
    )
    await sink.send(envelope)
    got = await rabbit.take(queue)
    assert got.body == b'{"a":1}'
    assert got.content_type == "application/json"
    assert got.message_id == "m-1"
    assert got.correlation_id == "c-1"
    assert got.type == "order.created"
    assert got.timestamp == datetime(2026, 1, 2, tzinfo=UTC)
    assert got.delivery_mode == 2
    assert got.priority == 5
    assert got.expiration == 60
    assert got.reply_to is None
    assert got.user_id is None
    assert got.headers == {
        "x-kind": "big",
        "x-a": "own",
        "x-tag": "1, 2",
        "traceparent": TRACE,
        "tracestate": "v=1",
    }


async def test_a_message_chooses_among_queues_that_are_allowed(
    rabbit: Rabbit, made: Endpoints
) -> None:
    allowed, victim = await rabbit.queue("allowed"), await rabbit.queue("victim")
    with pytest.raises(BuildFailed, match="allow_queues"):
        made.sink(queue="{{ path.q }}")
    sink = made.sink(queue="{{ path.q }}", allow_queues=["allowed-"])
    await made.open()
    await sink.send(message(params={"path": {"q": allowed}}))
    assert (await rabbit.take(allowed)).body
    for queue in (victim, "amq.rabbitmq.reply-to.x", f" {allowed}", "ALLOWED-x"):
        with pytest.raises(BadMessage, match="does not allow"):
            await sink.send(message(params={"path": {"q": queue}}))
    assert await rabbit.ready(victim) == 0


async def test_it_may_be_forgotten_by_a_broker_that_restarts(
    rabbit: Rabbit, made: Endpoints
) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue, persistent=False)
    await made.open()
    await sink.send(message())
    assert (await rabbit.take(queue)).delivery_mode == 1


async def test_which_headers_go_on(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    some = made.sink(queue=queue, forward_headers=["X-A"])
    none = made.sink(queue=queue, forward_headers=False)
    await made.open()
    envelope = message(headers=Headers([("x-a", "1"), ("x-b", "2")]))
    await some.send(envelope)
    assert (await rabbit.take(queue)).headers == {"x-a": "1"}
    await none.send(envelope)
    assert (await rabbit.take(queue)).headers == {}


async def test_headers_that_steer_a_broker_stay(rabbit: Rabbit, made: Endpoints) -> None:
    queue, other = await rabbit.queue(), await rabbit.queue("other")
    sink = made.sink(queue=queue)
    await made.open()
    steering = [("CC", other), ("BCC", [other]), ("x-delay", 1000), ("x-death", []), ("host", "h")]
    await sink.send(message(headers=Headers([*steering, ("x-ok", "1")])))
    assert (await rabbit.take(queue)).headers == {"x-ok": "1"}
    assert await rabbit.ready(other) == 0


async def test_routing_keys_and_queues_are_text(rabbit: Rabbit, made: Endpoints) -> None:
    exchange, queue = await rabbit.exchange(), await rabbit.queue()
    await rabbit.bind(queue, exchange, "order.at.*")
    by_key = made.sink(exchange=exchange, routing_key="order.{{ country }}.{{ kind }}")
    by_queue = made.sink(queue="{{ target }}", allow_queues=["orders-", "nowhere-"])
    await made.open()
    await by_key.send(message(b"1", params={"country": "at", "kind": "new"}))
    assert (await rabbit.take(queue)).routing_key == "order.at.new"
    await by_queue.send(message(b"2", params={"target": queue}))
    assert (await rabbit.take(queue)).body == b"2"
    with pytest.raises(RouteFailure):
        await by_queue.send(message(params={"target": ""}))


@pytest.mark.parametrize(
    "envelope",
    [
        message(id="x" * 256),
        message(headers=Headers([("n", 2**64)])),
        message(headers=Headers([("h" * 300, "1")])),
        message(params={"target": "q" * 256}),
        message(headers=Headers([("h", "x" * 140_000)])),
    ],
    ids=["id", "integer", "name", "routing key", "headers"],
)
async def test_what_amqp_cannot_hold_harms_nobody_else(
    rabbit: Rabbit, made: Endpoints, envelope: Envelope
) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue="{{ target }}", allow_queues=["orders-", "nowhere-"])
    await made.open()
    good = [message(params={"target": queue}) for _ in range(20)]
    bad = envelope.replace(params={"target": queue, **envelope.params})
    results = await asyncio.gather(
        *(sink.send(e) for e in [*good[:10], bad, *good[10:]]), return_exceptions=True
    )
    assert isinstance(results.pop(10), BadMessage)
    assert results == [None] * 20
    assert await rabbit.ready(queue) == 20


async def test_large_bodies_are_cut_into_frames(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue)
    await made.open()
    for size in (131_063, 131_064, 131_065, 5_000_000):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        await sink.send(message(body))
        assert (await rabbit.take(queue)).body == body


# --- confirms and returns -------------------------------------------------------------------------


async def test_ten_thousand_all_arrive_once(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    sink = made.sink(queue=queue)
    await made.open()
    numbers = iter(range(10_000))

    async def sender() -> None:
        for number in numbers:
            await sink.send(message(b"%d" % number))

    await asyncio.gather(*(sender() for _ in range(200)))
    bodies = [int(m.body) for m in await rabbit.take_all(queue, 10_000)]
    assert sorted(bodies) == list(range(10_000))
    assert await rabbit.ready(queue) == 0


async def test_what_no_queue_takes_is_refused(rabbit: Rabbit, made: Endpoints) -> None:
    exchange, nowhere = await rabbit.exchange(), unique("nowhere")
    by_exchange = made.sink(exchange=exchange, routing_key="no.one.listens")
    by_queue = made.sink(queue=nowhere)
    silent = made.sink(exchange=exchange, routing_key="x", mandatory=False)
    await made.open()
    for sink, reason in (
        (by_exchange, f"no queue is bound to exchange '{exchange}' for routing key 'no.one."),
        (by_queue, f"there is no queue '{nowhere}'"),
    ):
        with pytest.raises(Rejected) as caught:
            await sink.send(message())
        # Names are for operators, as everywhere below.
        assert str(caught.value) == "no queue takes the message"
        assert reason in caught.value.notes[0]
    await silent.send(message())


async def test_the_message_that_was_returned_is_the_one_told(
    rabbit: Rabbit, made: Endpoints
) -> None:
    """The same message goes to several places at once: only who failed fails."""
    queue = await rabbit.queue()
    sink = made.sink(queue="{{ target }}", allow_queues=["orders-", "nowhere-"])
    await made.open()
    targets = [queue if number % 3 else unique("nowhere") for number in range(300)]
    results = await asyncio.gather(
        *(sink.send(message(id="the-same", params={"target": t})) for t in targets),
        return_exceptions=True,
    )
    assert [isinstance(r, Rejected) for r in results] == [t != queue for t in targets]
    assert await rabbit.ready(queue) == 200


async def test_a_queue_that_is_full_may_have_room_later(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    sink = made.sink(queue=queue)
    await made.open()
    await sink.send(message(b"1"))
    with pytest.raises(Transient, match="could not take"):
        await sink.send(message(b"2"))
    await rabbit.take(queue)
    await sink.send(message(b"3"))


async def test_a_channel_that_refuses_is_replaced_and_what_is_on_it_harmed_by_nothing(
    rabbit: Rabbit, made: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that met a quorum queue without a leader goes on refusing after there is one again."""
    monkeypatch.setattr(link, "RENEWED_AFTER", 0.0)
    full = await rabbit.queue(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    queue = await rabbit.queue()
    sink = made.sink(queue="{{ target }}", allow_queues=["orders-", "nowhere-"])
    await made.open()
    await sink.send(message(params={"target": full}))
    first = sink._lane.current
    targets = [queue if number % 10 else full for number in range(500)]
    results = await asyncio.gather(
        *(sink.send(message(params={"target": t})) for t in targets), return_exceptions=True
    )
    assert [isinstance(r, Nacked) for r in results] == [t == full for t in targets]
    assert await rabbit.ready(queue) == 450
    assert first is not None
    await until(lambda: not first.is_open)
    assert sink._lane.current is not None
    await rabbit.take(full)
    await sink.send(message(params={"target": full}))


# --- delayed --------------------------------------------------------------------------------------


async def test_a_delayed_message_comes_later_as_it_was(rabbit: Rabbit, made: Endpoints) -> None:
    exchange, queue = await rabbit.exchange(), await rabbit.queue()
    await rabbit.bind(queue, exchange, "order.*.at")
    by_key = made.sink(exchange=exchange, routing_key="order.{{ n }}.at", delay="300ms")
    by_queue = made.sink(queue="{{ target }}", allow_queues=["orders-", "nowhere-"], delay="300ms")
    at_once = made.sink(queue=queue)
    await made.open()
    began = time.monotonic()
    late = message(
        b"late",
        id="m-1",
        headers=Headers([("x-own", "1")]),
        params={"n": "7", "target": queue, "amqp": {"priority": 3}},
    )
    await by_key.send(late)
    await by_queue.send(late)
    await at_once.send(message(b"early"))
    assert (await rabbit.take(queue)).body == b"early"
    for key in sorted(["order.7.at", queue]):
        got = await rabbit.take(queue)
        assert (got.body, got.message_id, got.headers["x-own"]) == (b"late", "m-1", "1")
        assert got.priority == 3
        assert got.routing_key in ("order.7.at", queue), key
    assert time.monotonic() - began >= 0.3
    assert await rabbit.ready(queue) == 0


async def test_each_target_and_time_has_a_delay_queue(rabbit: Rabbit, made: Endpoints) -> None:
    assert delay_queue("", "orders", 0.2).startswith("esb.delay.200ms.orders.")
    names = {
        delay_queue(exchange, key, delay)
        for exchange, key in [("", "a.b"), ("a", "b"), ("a.b", ""), ("", ""), ("", "k ů n")]
        for delay in (1.0, 86_400.0)
    }
    assert len(names) == 10
    # It is an exchange, too, and those have 127 characters.
    long = await rabbit.exchange(name="e" * 100)
    sink = made.sink(exchange=long, routing_key="ů" * 100, delay="50ms")
    queue = await rabbit.queue()
    await rabbit.bind(queue, long)
    await made.open()
    await sink.send(message(b"1"))
    assert (await rabbit.take(queue)).routing_key == "ů" * 100


# --- what the broker refuses ----------------------------------------------------------------------


async def test_an_exchange_that_is_missing_is_waited_for(rabbit: Rabbit, made: Endpoints) -> None:
    exchange = unique("later")
    sink = made.sink(exchange=exchange, mandatory=False)
    await made.open()
    with pytest.raises(Unreachable) as caught:
        await sink.send(message())
    assert str(caught.value) == "the broker is not ready for this message now"
    assert "NOT_FOUND" in caught.value.notes[0]
    assert any(exchange in t.health().detail for t in made.build.objects.values())
    await rabbit.channel.declare_exchange(exchange, "fanout", durable=True)
    await until(lambda: all(t.health().up for t in made.build.objects.values()))
    await sink.send(message())


async def test_an_exchange_that_goes_harms_no_other_endpoint(
    rabbit: Rabbit, made: Endpoints
) -> None:
    exchange, queue = await rabbit.exchange(), await rabbit.queue()
    gone, fine = made.sink(exchange=exchange, mandatory=False), made.sink(queue=queue)
    await made.open()
    await gone.send(message())
    await rabbit.channel.exchange_delete(exchange)
    results = await asyncio.gather(
        gone.send(message()), *(fine.send(message()) for _ in range(100)), return_exceptions=True
    )
    assert isinstance(results[0], Transient)
    assert results[1:] == [None] * 100
    with pytest.raises(Unreachable, match="NOT_FOUND"):
        await gone.send(message())


async def test_it_declares_what_it_is_told(rabbit: Rabbit, made: Endpoints) -> None:
    exchange, queue = unique("shop"), unique("orders")
    to_exchange = made.sink(exchange=exchange, declare={"type": "topic"}, mandatory=False)
    to_queue = made.sink(
        queue=queue, declare={"type": "quorum", "bind": [{"exchange": exchange, "type": "topic"}]}
    )
    await made.open()
    await to_exchange.send(message())
    await to_queue.send(message(b"x"))
    assert (await rabbit.take(queue)).body == b"x"


async def test_endpoints_share_connections_and_channels(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    sinks = [made.sink(queue=queue) for _ in range(5)]
    made.source(queue=queue)
    made.source(queue=queue)
    other = made.sink(queue=queue, name="another")
    assert other is not sinks[0]
    names = [str(key[0]).split(" at ")[0] for key in made.build.objects if isinstance(key, tuple)]
    assert sum(name.startswith("amqp out") for name in names) == 2
    assert sum(name.startswith("amqp in") for name in names) == 1
    assert sum(name == f"amqp queue '{queue}'" for name in names) == 2


# --- without a broker -----------------------------------------------------------------------------


async def test_without_a_broker_it_fails_fast(made: Endpoints) -> None:
    sink = made.sink(url="amqp://user:s3cr3t@127.0.0.1:1/vhost", queue="q", timeout="30s")
    await made.open()
    began = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        await sink.send(message())
    assert time.monotonic() - began < 5
    # Who sends the message need not know where the broker is; who runs the bus must.
    assert str(caught.value) == "the broker cannot be reached now"
    assert caught.value.notes == ("waiting for amqp://127.0.0.1:1/vhost: connection refused",)
    assert "s3cr3t" not in repr(list(made.build.objects))


async def test_wrong_credentials_are_told(made: Endpoints, broker_url: str) -> None:
    source = made.source(queue="q", username="nobody", password="s3cr3t")
    sink = made.sink(queue="q", username="nobody", password="s3cr3t")
    await made.open()
    await source.start(lambda e: None)  # type: ignore[arg-type, return-value]
    await until(lambda: "ACCESS_REFUSED" in source.health().detail)
    assert "s3cr3t" not in source.health().detail
    with pytest.raises(Unreachable) as caught:
        await sink.send(message())
    assert str(caught.value) == "the broker cannot be reached now"
    assert "ACCESS_REFUSED" in caught.value.notes[0]


async def test_an_exchange_that_we_may_not_publish_to(rabbit: Rabbit, made: Endpoints) -> None:
    """The bus's credentials are at fault, so a caller must not be told that his are."""
    exchange = unique("internal")
    await rabbit.channel.declare_exchange(exchange, "fanout", durable=True, internal=True)
    sink = made.sink(exchange=exchange, mandatory=False)
    await made.open()
    with pytest.raises(Rejected) as caught:
        await sink.send(message())
    assert str(caught.value) == "the broker does not let the bus publish there"
    assert exchange in caught.value.notes[0]


async def test_what_is_no_broker_is_told(made: Endpoints) -> None:
    async def answer(reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = made.sink(url=f"amqp://127.0.0.1:{port}", queue="q")
    await made.open()
    with pytest.raises(Unreachable) as caught:
        await sink.send(message())
    assert str(port) not in str(caught.value)
    assert "does not speak AMQP" in caught.value.notes[0]
    server.close()


async def test_a_broker_that_says_nothing_is_told(made: Endpoints) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sink = made.sink(url=f"amqp://127.0.0.1:{port}", queue="q", connect_timeout="200ms")
    await made.open()
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        await sink.send(message())
    server.close()


# --- request and reply ----------------------------------------------------------------------------


async def echo_service(rabbit: Rabbit, queue: str) -> None:
    """A service in another client's words: it answers with the request, upside down."""

    async def on_request(request: Any) -> None:
        reply = aio_pika.Message(
            request.body[::-1],
            correlation_id=request.correlation_id,
            content_type="text/plain",
            headers={"x-asked": request.headers.get("x-a", "")},
        )
        await rabbit.channel.default_exchange.publish(reply, request.reply_to)
        await request.ack()

    await (await rabbit.channel.get_queue(queue)).consume(on_request)


async def test_a_call_brings_the_reply(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    await echo_service(rabbit, queue)
    caller = made.caller(queue=queue)
    await made.open()
    bodies = [b"question %d" % number for number in range(100)]
    replies = await asyncio.gather(
        *(
            caller.call(message(body, id=f"m{body!r}", headers=Headers([("x-a", "1")])))
            for body in bodies
        )
    )
    assert [reply.body.raw for reply in replies] == [body[::-1] for body in bodies]
    assert replies[0].headers.get("x-asked") == "1"
    assert replies[0].content_type == "text/plain"
    assert replies[0].outcome.value == "reply"
    assert replies[0].correlation_id == replies[0].id


async def test_the_bus_asks_and_the_bus_answers(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()

    async def step(envelope: Envelope) -> Envelope:
        if envelope.body.raw == b"bad":
            raise BadMessage("this is no question", [{"pointer": "", "detail": "bad"}])
        return envelope.reply(Body(b"fine", "text/plain"))

    source, caller = made.source(queue=queue), made.caller(queue=queue)
    await made.open()
    await source.start(step)
    assert (await caller.call(message(b"good"))).body.raw == b"fine"
    with pytest.raises(Fault, match="this is no question") as caught:
        await caller.call(message(b"bad"))
    assert caught.value.party == "sender"
    assert caught.value.type == "urn:esb:problem:bad-message"


async def test_no_reply_is_unknown_or_safe_to_ask_again(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    careful = made.caller(queue=queue, timeout="1s")
    idempotent = made.caller(queue=queue, timeout="1s", idempotent=True)
    await made.open()
    with pytest.raises(OutcomeUnknown, match=r"no reply within 1 s"):
        await careful.call(message())
    with pytest.raises(TimedOut):
        await idempotent.call(message())
    # Nobody answers what nobody waits for: the requests expired.
    await until(lambda: _empty(rabbit, queue))


async def _empty(rabbit: Rabbit, queue: str) -> bool:
    return await rabbit.ready(queue) == 0


async def test_a_call_to_nobody_is_refused(made: Endpoints) -> None:
    caller = made.caller(queue=unique("nobody"))
    await made.open()
    with pytest.raises(Rejected, match="there is no queue"):
        await caller.call(message())


async def test_a_late_reply_is_nobody_elses(rabbit: Rabbit, made: Endpoints) -> None:
    queue = await rabbit.queue()
    requests: list[Any] = []

    async def on_request(request: Any) -> None:
        requests.append(request)

    await (await rabbit.channel.get_queue(queue)).consume(on_request)
    caller = made.caller(queue=queue, timeout="300ms")
    await made.open()
    with pytest.raises(OutcomeUnknown):
        await caller.call(message(b"slow"))
    late = aio_pika.Message(b"late", correlation_id=requests[0].correlation_id)
    await rabbit.channel.default_exchange.publish(late, requests[0].reply_to)
    with pytest.raises(OutcomeUnknown):
        await caller.call(message(b"another"))


async def test_messages_can_be_published_by_hand(broker_url: str, rabbit: Rabbit) -> None:
    """The client alone: a publish on a closed connection fails at once, and never hangs."""
    queue = await rabbit.queue()
    connection = await Connection.open(parse_url(broker_url))
    channel = await connection.channel(confirms=True)
    await channel.publish("", queue, Properties(), b"1")
    await connection.close()
    with pytest.raises(Unreachable):
        await channel.publish("", queue, Properties(), b"2")
    with pytest.raises(Unreachable):
        await connection.channel()
    await connection.close()
