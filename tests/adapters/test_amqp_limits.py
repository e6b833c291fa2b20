"""What a broker may hand out: how large a message is, and how many there are."""

from __future__ import annotations

import pytest
import structlog
from hostile.rogue import Rogue, delivery
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit, unique
from support.contract import Recorder, started
from support.waiting import until

from esb_amqp.source import TOO_LARGE


async def test_what_is_too_large_is_refused_and_the_next_one_is_read(
    rabbit: Rabbit, broker_url: str
) -> None:
    dead = await rabbit.queue()
    told = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    queue = await rabbit.queue(arguments=told)
    await rabbit.put(queue, bytes(300_001), message_id="large")
    await rabbit.put(queue, bytes(300_000), message_id="good")
    step = Recorder()
    async with endpoints(broker_url) as made:
        source = made.source(queue=queue, max_body="300000B", reject="requeue")
        await made.open()
        with structlog.testing.capture_logs() as logs:
            async with started(source, step):
                await until(lambda: step.finished)
                assert len((await rabbit.take(dead)).body) == 300_001
    assert [one.id for one in step.got] == ["good"]
    [refused] = [one for one in logs if one["event"] == "message refused"]
    assert (refused["message"], refused["queue"]) == ("large", queue)
    assert "max_body" in refused["reason"]
    assert TOO_LARGE.labels(queue).value == 1


async def test_a_stream_goes_on_after_what_is_too_large(rabbit: Rabbit, broker_url: str) -> None:
    queue = await rabbit.queue(arguments={"x-queue-type": "stream"})
    for body, own in ((bytes(2_000), "large"), (b"{}", "good")):
        await rabbit.put(queue, body, message_id=own)
    step = Recorder()
    async with endpoints(broker_url) as made:
        source = made.source(queue=queue, offset="first", max_body="1KB")
        await made.open()
        async with started(source, step):
            await until(lambda: step.finished)
    assert [one.id for one in step.got] == ["good"]


@pytest.mark.parametrize("prefetch", [1, 5])
async def test_a_broker_that_hands_out_more_than_was_asked_for_is_left(prefetch: int) -> None:
    """Else it would decide how much is held."""
    async with Rogue() as rogue, endpoints(rogue.url) as made:
        made_of: Endpoints = made
        source = made_of.source(queue=unique("q"), prefetch=prefetch, reconnect="20ms..50ms")
        step = Recorder()
        await made.open()
        async with started(source, step):
            many = b"".join(delivery(tag) for tag in range(1, prefetch + 2))
            assert await rogue.overtake("delivery", many) == "new"
            fitting = b"".join(delivery(tag) for tag in range(1, prefetch))  # and a good one
            assert await rogue.overtake("delivery", fitting) == "same"
