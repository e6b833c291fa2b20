"""What every adapter promises, kept by AMQP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from support.amqp import Endpoints, endpoints
from support.broker import Rabbit, unique
from support.contract import (
    Arrived,
    QueueFarSide,
    QueueSourceContract,
    SinkContract,
    SinkFarSide,
)

from esb.adapter import Sink, Source


class Queue(QueueFarSide):
    """A durable queue with a dead-letter queue."""

    def __init__(self, rabbit: Rabbit, made: Endpoints, queue: str, dead: str) -> None:
        self.rabbit, self.made, self.queue, self.dead = rabbit, made, queue, dead
        self.dead_bodies: list[bytes] = []

    def source(self) -> Source:
        return self.made.source(queue=self.queue)

    async def put(
        self,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        await self.rabbit.put(
            self.queue, body, content_type=content_type, message_id=id or None, headers=headers
        )

    async def left(self) -> int:
        return await self.rabbit.ready(self.queue)

    async def refused(self) -> list[bytes]:
        for _ in range(await self.rabbit.ready(self.dead)):
            self.dead_bodies.append((await self.rabbit.take(self.dead)).body)
        return self.dead_bodies


class TestSource(QueueSourceContract):
    @pytest.fixture
    async def far_side(self, rabbit: Rabbit, broker_url: str) -> AsyncIterator[QueueFarSide]:
        dead = await rabbit.queue("dead")
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        queue = await rabbit.queue("orders", arguments=arguments)
        async with endpoints(broker_url) as made:
            made.source(queue=queue)
            await made.open()
            yield Queue(rabbit, made, queue, dead)


class TestQuorumSource(QueueSourceContract):
    @pytest.fixture
    async def far_side(self, rabbit: Rabbit, broker_url: str) -> AsyncIterator[QueueFarSide]:
        dead = await rabbit.queue("dead")
        arguments = {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
        }
        queue = await rabbit.queue("orders", arguments=arguments)
        async with endpoints(broker_url) as made:
            made.source(queue=queue)
            await made.open()
            yield Queue(rabbit, made, queue, dead)


class Target(SinkFarSide):
    """A durable queue that a sink publishes to."""

    def __init__(self, rabbit: Rabbit, made: Endpoints, queue: str) -> None:
        self.rabbit, self.made, self.queue = rabbit, made, queue
        self._sink = made.sink(queue=queue)
        self._refusing = made.sink(queue=unique("nowhere"))
        self._unreachable = made.sink(url="amqp://127.0.0.1:1", queue=queue)

    def sink(self) -> Sink:
        return self._sink

    def unreachable(self) -> Sink:
        return self._unreachable

    def refusing(self) -> Sink:
        return self._refusing

    async def arrived(self, count: int) -> list[Arrived]:
        return [
            Arrived(m.body, m.content_type or "", m.message_id or "", m.headers)
            for m in await self.rabbit.take_all(self.queue, count)
        ]

    async def more(self) -> int:
        return await self.rabbit.ready(self.queue)


class TestSink(SinkContract):
    @pytest.fixture
    async def far_side(self, rabbit: Rabbit, broker_url: str) -> AsyncIterator[SinkFarSide]:
        queue = await rabbit.queue("target")
        async with endpoints(broker_url) as made:
            target = Target(rabbit, made, queue)
            await made.open()
            yield target
