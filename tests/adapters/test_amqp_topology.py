"""What endpoints declare, and that the broker does what the options say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit, unique
from support.contract import Recorder, started
from support.waiting import until

from esb.envelope import Body, Envelope, Headers
from esb.errors import Rejected, Transient
from esb_amqp.options import QueueDeclaration


@pytest.fixture
async def made(broker_url: str) -> AsyncIterator[Endpoints]:
    async with endpoints(broker_url) as made:
        yield made


def message(body: bytes = b"{}", **attributes: Any) -> Envelope:
    return Envelope(body=Body(body, "application/json"), **attributes)


async def declared(made: Endpoints, **declare: Any) -> tuple[str, Any]:
    """A queue that a sink has declared, and that sink."""
    queue = unique("declared")
    sink = made.sink(queue=queue, declare=declare)
    await made.open()
    await until(lambda: all(thing.health().up for thing in made.build.objects.values()))
    return queue, sink


# --- queues ---------------------------------------------------------------------------------------

EVERYTHING = {
    "classic": {
        "max_length": 10,
        "max_size": "1MB",
        "overflow": "reject-publish",
        "message_ttl": "1h",
        "expires": "1h",
        "max_priority": 3,
        "single_active_consumer": True,
        "dead_letter": {"routing_key": "dead"},
    },
    "quorum": {
        "max_length": 10,
        "max_size": "1MB",
        "overflow": "reject-publish",
        "message_ttl": "1h",
        "expires": "1h",
        "single_active_consumer": True,
        "delivery_limit": 3,
        "dead_letter": {"routing_key": "dead", "strategy": "at-least-once"},
    },
    "stream": {"max_size": "100MB", "max_age": "1d", "segment_size": "1MB"},
}


@pytest.mark.parametrize("kind", EVERYTHING)
async def test_the_broker_takes_every_option(rabbit: Rabbit, made: Endpoints, kind: str) -> None:
    """It would refuse a queue with an argument that this type does not have."""
    queue, sink = await declared(made, type=kind, **EVERYTHING[kind])
    await sink.send(message())
    # Declaring it again with the same arguments is no error, so these are the arguments it has.
    wanted = QueueDeclaration.model_validate({"type": kind, **EVERYTHING[kind]}).all_arguments()
    assert len(wanted) >= len(EVERYTHING[kind]) + 1
    async with rabbit.connection.channel() as channel:
        await channel.declare_queue(queue, durable=True, arguments=wanted)


async def test_more_than_fits_is_refused_for_now(made: Endpoints) -> None:
    _, sink = await declared(made, max_length=1, overflow="reject-publish")
    await sink.send(message())
    with pytest.raises(Transient):
        await sink.send(message())


async def test_a_queue_drops_what_got_too_old_into_its_dead_letters(
    rabbit: Rabbit, made: Endpoints
) -> None:
    dead = await rabbit.queue("dead")
    _, sink = await declared(made, message_ttl="50ms", dead_letter={"routing_key": dead})
    await sink.send(message(b"old"))
    got = await rabbit.take(dead)
    assert (got.body, got.headers["x-first-death-reason"]) == (b"old", "expired")


async def test_a_message_may_be_dropped_before_the_queues_time(
    rabbit: Rabbit, made: Endpoints
) -> None:
    dead = await rabbit.queue("dead")
    queue = unique("declared")
    sink = made.sink(queue=queue, declare={"dead_letter": {"routing_key": dead}}, expiration="50ms")
    await made.open()
    await sink.send(message(b"stale"))
    assert (await rabbit.take(dead)).body == b"stale"


async def test_the_higher_priority_comes_first(rabbit: Rabbit, made: Endpoints) -> None:
    queue, sink = await declared(made, max_priority=3)
    high = made.sink(queue=queue, priority=3)
    await made.open()
    await sink.send(message(b"low"))
    await high.send(message(b"high"))
    assert [(await rabbit.take(queue)).body for _ in range(2)] == [b"high", b"low"]


async def test_one_consumer_is_active_and_the_next_takes_over(
    rabbit: Rabbit, made: Endpoints
) -> None:
    queue = unique("declared")
    declare = {"type": "quorum", "single_active_consumer": True}
    one, two = (made.source(queue=queue, declare=declare) for _ in range(2))
    first, second = Recorder(), Recorder()
    await made.open()
    async with started(one, first):
        await until(lambda: one.health().up)
        async with started(two, second):
            await until(lambda: two.health().up)
            for _ in range(10):
                await rabbit.put(queue)
            await until(lambda: len(first.finished) == 10)
            assert second.got == []
            await one.stop(5)
            await rabbit.put(queue)
            await until(lambda: second.finished)


async def test_a_queue_that_nobody_uses_goes(made: Endpoints) -> None:
    _, sink = await declared(made, expires="100ms")

    async def gone() -> bool:
        try:
            await sink.send(message())  # which is no use, as the broker sees it
        except Rejected:
            return True
        return False

    await until(gone)


# --- exchanges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "binding", "passes", "stays"),
    [
        ("direct", {"routing_key": "a"}, {"key": "a"}, {"key": "b"}),
        ("topic", {"routing_key": "order.*.at"}, {"key": "order.1.at"}, {"key": "order.1.cz"}),
        ("fanout", {}, {"key": "any"}, None),
        (
            "headers",
            {"arguments": {"x-match": "all", "country": "at", "n": 1}},
            {"headers": Headers([("country", "at"), ("n", 1), ("more", "x")])},
            {"headers": Headers([("country", "at")])},
        ),
    ],
)
async def test_each_kind_of_exchange_routes(
    made: Endpoints,
    kind: str,
    binding: dict[str, Any],
    passes: dict[str, Any],
    stays: dict[str, Any] | None,
) -> None:
    exchange, queue = unique("exchange"), unique("bound")
    bound = {"exchange": exchange, "type": kind, **binding}
    source, step = made.source(queue=queue, declare={"bind": [bound]}), Recorder()
    sink = made.sink(exchange=exchange, routing_key="{{ key }}", declare={"type": kind})
    await made.open()

    def sent(given: dict[str, Any]) -> Envelope:
        return message(
            headers=given.get("headers", Headers()), params={"key": given.get("key", "")}
        )

    async with started(source, step):
        await until(lambda: source.health().up)
        await sink.send(sent(passes))
        await until(lambda: step.finished)
        if stays is not None:
            with pytest.raises(Rejected):
                await sink.send(sent(stays))


async def test_what_no_queue_takes_goes_to_the_alternate_exchange(made: Endpoints) -> None:
    exchange, lost, queue = unique("exchange"), unique("lost"), unique("lost")
    source, step = (
        made.source(queue=queue, declare={"bind": [{"exchange": lost, "type": "fanout"}]}),
        Recorder(),
    )
    sink = made.sink(
        exchange=exchange, routing_key="nowhere", declare={"type": "topic", "alternate": lost}
    )
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        await sink.send(message(b"lost"))
        await until(lambda: step.finished)
    assert step.got[0].body.raw == b"lost"
    assert step.got[0].subject == "nowhere"
