"""Whoever asks the broker and does not wait for the answer leaves the connection as it was for the
others on it: a route may be replaced at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

import pytest
from support.broker import Rabbit
from support.waiting import until

from esb_amqp import client
from esb_amqp.client import Connection, Delivery
from esb_amqp.options import parse_url

MOMENTS = range(12)
"""How many turns of the event loop pass before it is interrupted."""


@pytest.fixture
async def connection(broker_url: str) -> AsyncIterator[Connection]:
    opened = await Connection.open(parse_url(broker_url))
    try:
        yield opened
    finally:
        await opened.close()


async def interrupted(asking: Awaitable[object], moment: int) -> None:
    task = asyncio.ensure_future(asking)
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_consumer_that_is_stopped_while_it_begins(
    connection: Connection, rabbit: Rabbit
) -> None:
    queue = await rabbit.queue()
    await rabbit.put_many(queue, [b"x"] * 200)
    for moment in MOMENTS:
        channel = await asyncio.wait_for(connection.channel(), 10)
        await channel.qos(100)
        await interrupted(channel.consume(queue, lambda delivery: None, tag="t"), moment)
        await asyncio.wait_for(channel.close(), 10)
    # Nobody has any of them, and the connection is as good as new.
    connection.check()
    await until(lambda: _ready(rabbit, queue, 200))


async def test_a_channel_that_nobody_waits_for_is_closed(connection: Connection) -> None:
    for moment in MOMENTS:
        await interrupted(connection.channel(), moment)
    channel = await asyncio.wait_for(connection.channel(), 10)
    await until(lambda: sum(map(bool, connection._below.channels.values())) == 1)
    await channel.close()


async def test_a_channel_that_takes_its_time_to_close_is_not_closed_twice(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CLOSE_TIMEOUT", 0.0)
    for _ in MOMENTS:
        await (await asyncio.wait_for(connection.channel(), 10)).close()
    await until(lambda: not any(connection._below.channels.values()))
    await asyncio.wait_for(connection.channel(), 10)
    connection.check()


async def _ready(rabbit: Rabbit, queue: str, count: int) -> bool:
    return await rabbit.ready(queue) == count


async def test_what_is_settled_while_its_channel_closes_comes_again(
    connection: Connection, rabbit: Rabbit
) -> None:
    """To settle it then would be a mistake that costs the connection (AMQP 0-9-1, 504)."""
    queue = await rabbit.queue()
    await rabbit.put_many(queue, [b"x"] * 500)
    settling: set[asyncio.Task[None]] = set()

    def settle(delivery: Delivery) -> None:
        async def later() -> None:
            for _ in range(delivery.tag % 50):
                await asyncio.sleep(0)
            delivery.channel.ack(delivery.tag)

        settling.add(asyncio.ensure_future(later()))

    for moment in MOMENTS:
        channel = await asyncio.wait_for(connection.channel(), 10)
        await channel.qos(30)
        await channel.consume(queue, settle, tag="t")
        for _ in range(moment):
            await asyncio.sleep(0)
        await asyncio.wait_for(channel.close(), 10)
        await asyncio.gather(*settling)
    await asyncio.wait_for(connection.channel(), 10)
    connection.check()
