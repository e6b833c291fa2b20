"""One RabbitMQ for all tests that run at the same time, and an outside view of it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from support.shared import shared


@contextlib.contextmanager
def shared_broker() -> Iterator[str]:
    """The URL of a broker that other test processes use too: keep to queues of your own."""
    with shared("rabbitmq", _answers) as url:
        yield url


def _answers(url: str) -> bool:
    from rabbitmq import speaks_amqp

    return speaks_amqp(urlsplit(url).port or 0)


def unique(name: str) -> str:
    """A name nobody else uses."""
    return f"{name}-{uuid.uuid4().hex[:10]}"


class Rabbit:
    """What an outsider sees and does, through aio-pika. `rabbit(url)` opens one."""

    def __init__(self, connection: Any, channel: Any) -> None:
        self.connection = connection
        self.channel = channel

    async def queue(self, name: str = "orders", **options: Any) -> str:
        """Declare a durable queue of a unique name."""
        name = unique(name)
        await self.channel.declare_queue(name, durable=True, **options)
        return name

    async def exchange(self, kind: str = "topic", name: str = "exchange") -> str:
        """Declare a durable exchange of a unique name."""
        name = unique(name)
        await self.channel.declare_exchange(name, kind, durable=True)
        return name

    async def bind(self, queue: str, exchange: str, key: str = "#") -> None:
        """Bind a queue to an exchange."""
        await (await self.channel.get_queue(queue)).bind(exchange, key)

    async def put(self, queue: str, body: bytes | str = b"{}", **properties: Any) -> None:
        """Publish a persistent message to a queue."""
        await self.publish("", queue, body, **properties)

    async def publish(
        self, exchange: str, key: str, body: bytes | str = b"{}", **properties: Any
    ) -> None:
        """Publish a persistent message."""
        import aio_pika

        raw = body.encode() if isinstance(body, str) else body
        message = aio_pika.Message(raw, **{"delivery_mode": 2, **properties})
        where = (
            await self.channel.get_exchange(exchange, ensure=False)
            if exchange
            else self.channel.default_exchange
        )
        await where.publish(message, key)

    async def put_many(self, queue: str, bodies: Sequence[bytes]) -> None:
        """Publish many, with the confirms awaited together."""
        for at in range(0, len(bodies), 500):
            await asyncio.gather(
                *(
                    self.put(queue, body, message_id=f"m{at + i}")
                    for i, body in enumerate(bodies[at : at + 500])
                )
            )

    async def take(self, queue: str, timeout: float = 10.0) -> Any:
        """The next message of a queue, acknowledged. Fails after `timeout` seconds."""
        found = await self.channel.get_queue(queue)
        return await found_message(found, timeout)

    async def take_all(self, queue: str, count: int, timeout: float = 60.0) -> list[Any]:
        """`count` messages of a queue, acknowledged."""
        got: list[Any] = []
        enough = asyncio.Event()

        async def on_message(message: Any) -> None:
            await message.ack()
            got.append(message)
            if len(got) >= count:
                enough.set()

        await self.channel.set_qos(500)
        found = await self.channel.get_queue(queue)
        tag = await found.consume(on_message)
        try:
            async with asyncio.timeout(timeout):
                await enough.wait()
        except TimeoutError:
            raise AssertionError(f"{len(got)} of {count} messages in {queue}") from None
        finally:
            await found.cancel(tag)
        return got

    async def ready(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return (await self.counts(queue))[0]

    async def counts(self, queue: str) -> tuple[int, int]:
        """Messages that wait in a queue, and its consumers."""
        async with self.connection.channel() as channel:
            declared = (await channel.declare_queue(queue, passive=True)).declaration_result
            return declared.message_count, declared.consumer_count

    async def delete(self, queue: str) -> None:
        """Delete a queue with all in it."""
        await self.channel.queue_delete(queue)


async def found_message(queue: Any, timeout: float) -> Any:
    """The next message of an aio-pika queue, acknowledged."""
    deadline = asyncio.get_running_loop().time() + timeout
    while asyncio.get_running_loop().time() < deadline:
        message = await queue.get(fail=False)
        if message is not None:
            await message.ack()
            return message
        await asyncio.sleep(0.02)
    raise AssertionError(f"no message in {queue.name} within {timeout} s")


@contextlib.asynccontextmanager
async def rabbit(url: str) -> AsyncIterator[Rabbit]:
    """An outside view of the broker at `url`."""
    import aio_pika

    connection = await aio_pika.connect(url)
    try:
        yield Rabbit(connection, await connection.channel())
    finally:
        await connection.close()
