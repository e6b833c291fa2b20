"""Consuming a stream: where it begins, where it goes on, and that nothing is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.amqp import Endpoints, Raw, endpoints
from support.broker import Rabbit, unique
from support.contract import Recorder, started
from support.proxy import proxy
from support.waiting import until

from esb.envelope import Envelope
from esb.errors import Permanent, Transient
from esb_amqp import position
from esb_amqp.options import parse_url

STREAM = {"x-queue-type": "stream"}


@pytest.fixture
async def made(broker_url: str) -> AsyncIterator[Endpoints]:
    async with endpoints(broker_url) as made:
        yield made


async def filled(rabbit: Rabbit, count: int = 10) -> str:
    """A stream with the messages 0, 1, 2, ..."""
    stream = await rabbit.queue("stream", arguments=STREAM)
    await more(rabbit, stream, 0, count)
    return stream


async def more(rabbit: Rabbit, stream: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        await rabbit.put(stream, b"%d" % number)


def bodies(envelopes: list[Envelope]) -> list[int]:
    return [int(envelope.body.raw) for envelope in envelopes]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("first", list(range(10))),
        (7, [7, 8, 9]),
        (datetime(2026, 1, 1, tzinfo=UTC).isoformat(), list(range(10))),
        ("next", []),
    ],
)
async def test_it_begins_where_it_is_told(
    rabbit: Rabbit, made: Endpoints, offset: Any, expected: list[int]
) -> None:
    stream = await filled(rabbit)
    source, step = made.source(queue=stream, offset=offset), Recorder()
    await made.open()
    async with started(source, step):
        await until(lambda: source.health().up)
        await rabbit.put(stream, b"10")
        await until(lambda: len(step.finished) == len(expected) + 1)
    assert bodies(step.finished) == [*expected, 10]


async def test_one_that_is_declared_here_begins_with_the_first(
    rabbit: Rabbit, made: Endpoints
) -> None:
    stream = unique("stream")
    sink = made.sink(queue=stream, declare={"type": "stream", "max_age": "1d"})
    source = made.source(queue=stream, declare={"type": "stream", "max_age": "1d"})
    await made.open()
    await sink.send(Envelope())
    step = Recorder()
    async with started(source, step):
        await until(lambda: step.finished)


async def test_a_message_is_known_by_its_place(rabbit: Rabbit, made: Endpoints) -> None:
    """Also over a restart, so that a receiver can tell what it has had already. A place that the
    sender wrote into the message is nothing."""
    stream = await filled(rabbit, 0)
    below = await rabbit.channel.get_underlay_channel()
    await below.basic_publish(b"0", routing_key=stream, properties=Raw(0, b""))
    await rabbit.put(stream, b"1", message_id="own", headers={"x-stream-offset": 77})
    step = Recorder()
    source = made.source(queue=stream, offset="first")
    await made.open()
    async with started(source, step):
        await until(lambda: len(step.finished) == 2)
    assert [e.id for e in step.got] == [f"{stream}:0", "own"]
    assert [e.params["amqp"]["offset"] for e in step.got] == [0, 1]


async def test_it_goes_on_where_it_was(rabbit: Rabbit, made: Endpoints) -> None:
    stream = await filled(rabbit)
    one, two = (made.source(queue=stream, offset="first") for _ in range(2))
    step = Recorder()
    await made.open()
    async with started(one, step):
        await until(lambda: len(step.finished) == 10)
    await more(rabbit, stream, 10, 5)
    async with started(two, step):
        await until(lambda: len(step.finished) == 15)
    assert bodies(step.got) == list(range(15))
    # The same one again, as after a reload.
    async with started(two, step):
        await more(rabbit, stream, 15, 1)
        await until(lambda: len(step.finished) == 16)
    assert bodies(step.got) == list(range(16))


async def test_of_two_on_one_store_one_reads_and_the_next_takes_over(
    rabbit: Rabbit, made: Endpoints
) -> None:
    """As two buses do, or a route before and after a reload."""
    stream = await filled(rabbit)
    one, two = (made.source(queue=stream, offset="first") for _ in range(2))
    first, second = Recorder(), Recorder()
    await made.open()
    async with started(one, first):
        await until(lambda: len(first.finished) == 10)
        async with started(two, second):
            await until(lambda: "another one on the same store" in two.health().detail)
            await one.stop(5)
            await more(rabbit, stream, 10, 5)
            await until(lambda: len(second.finished) == 5)
    assert bodies(second.got) == list(range(10, 15))


async def test_another_offset_begins_anew(rabbit: Rabbit, made: Endpoints) -> None:
    stream = await filled(rabbit)
    step = Recorder()
    sources = [made.source(queue=stream, offset=offset) for offset in ("first", 8)]
    await made.open()
    for source, count in zip(sources, (10, 12), strict=True):
        async with started(source, step):
            await until(lambda n=count: len(step.finished) == n)
    assert bodies(step.got) == [*range(10), 8, 9]


async def test_what_did_not_finish_is_read_again_and_nothing_before_it(
    rabbit: Rabbit, made: Endpoints
) -> None:
    stream = await filled(rabbit)
    one, two = (made.source(queue=stream, offset="first") for _ in range(2))
    got: list[int] = []
    await made.open()

    async def hangs_on_three(envelope: Envelope) -> Envelope:
        number = int(envelope.body.raw)
        if number == 3:
            await asyncio.Event().wait()
        got.append(number)
        return envelope

    await one.start(hangs_on_three)
    await until(lambda: len(got) == 9)
    await one.stop(0)
    again = Recorder()
    async with started(two, again):
        await until(lambda: len(again.finished) == 7)
    assert bodies(again.finished) == list(range(3, 10))


async def test_what_fails_for_now_is_tried_in_its_place(rabbit: Rabbit, made: Endpoints) -> None:
    """A stream takes nothing back: the broker would close the connection of all."""
    stream = await filled(rabbit, 5)
    step = Recorder([Transient("down"), Transient("still"), ZeroDivisionError("a bug")])
    source = made.source(queue=stream, offset="first", order=True)
    await made.open()
    async with started(source, step):
        await until(lambda: len(step.finished) == 5 and source.health().up)
    assert bodies(step.got) == [0, 0, 0, 0, 1, 2, 3, 4]
    assert step.most == 1


async def test_what_fails_for_good_is_passed_over(rabbit: Rabbit, made: Endpoints) -> None:
    stream = await filled(rabbit, 3)
    one, two = (made.source(queue=stream, offset="first") for _ in range(2))
    step = Recorder([Permanent("no")])
    await made.open()
    async with started(one, step):
        await until(lambda: len(step.finished) == 2 and one.health().up)
    after = Recorder()
    async with started(two, after):
        await rabbit.put(stream, b"3")
        await until(lambda: after.finished)
    assert bodies(after.got) == [3]


async def test_a_cut_connection_neither_skips_nor_repeats(rabbit: Rabbit, broker_url: str) -> None:
    count = 300
    stream = await filled(rabbit, count)
    step = Recorder()
    async with (
        proxy(parse_url(broker_url).port) as wire,
        endpoints(f"amqp://127.0.0.1:{wire.port}") as made,
    ):
        source = made.source(queue=stream, offset="first", prefetch=10)
        await made.open()

        async def slow(envelope: Envelope) -> Envelope:
            await asyncio.sleep(0.001)
            return await step(envelope)

        await source.start(slow)
        for share in (count // 3, 2 * count // 3):
            await until(lambda n=share: len(step.finished) > n)
            wire.cut()
        await until(lambda: len(step.finished) >= count)
        await source.stop(5)
    assert wire.connections == 3
    assert sorted(bodies(step.finished)) == list(range(count))


async def test_a_stream_that_was_made_anew_is_told(
    rabbit: Rabbit, made: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first messages would be passed over in silence, up to the place in the old one."""
    monkeypatch.setattr(position, "EXPECTED_WITHIN", 0.2)
    stream = await filled(rabbit)
    one, two, anew = (made.source(queue=stream, offset=o) for o in ("first", "first", 0))
    step = Recorder()
    await made.open()
    async with started(one, step):
        await until(lambda: len(step.finished) == 10)
    await rabbit.delete(stream)
    await rabbit.channel.declare_queue(stream, durable=True, arguments=STREAM)
    await rabbit.put(stream, b"0")
    async with started(two, step):
        await until(lambda: "has no message 9" in two.health().detail)
        assert not two.health().up
    async with started(anew, step):
        await until(lambda: len(step.finished) == 11 and anew.health().up)
