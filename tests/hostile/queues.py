"""The broker of the arena: what an attacker puts into its queues, and what the bus makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import aio_pika
import msgspec
from support.amqp import Raw
from support.broker import unique

from esb.errors import EsbError
from esb_amqp.client import Channel, Connection, Delivery
from esb_amqp.options import parse_url
from esb_amqp.properties import Properties
from hostile.case import Queued

_ROUTES: Final = (
    "good", "pass", "read", "any", "text", "csv", "form", "yaml", "xml", "xslt", "xsd", "header",
    "event", "forward", "choose", "asked", "rpc", "reader",
)  # fmt: skip
"""What the routes of project/amqp.yaml read."""

_ENDS: Final = ("out", "good-out", "replies", "victim", "refused")
"""What nobody but the arena reads. victim: a queue of somebody else; refused: where the broker puts
what the bus has refused."""


class Queues:
    """Queues of one arena; `prefix` is how their names begin."""

    def __init__(self, url: str) -> None:
        self.prefix = unique("hostile")
        self.came: dict[str, list[Delivery]] = {name: [] for name in _ENDS}
        self._address = parse_url(url)
        self._url = url
        self._channel: Channel | None = None
        self._goods = 0
        self._moved = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Declare all, and read what only the arena reads."""
        self._connection = await Connection.open(self._address)
        self._stack.push_async_callback(self._connection.close)
        channel = await self._connection.channel()
        refused = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{self.prefix}.refused",
        }
        for name in (*_ROUTES, *_ENDS):
            await channel.declare_queue(
                f"{self.prefix}.{name}", durable=True, arguments=refused if name in _ROUTES else {}
            )
        self._stack.push_async_callback(self._delete)
        for name in _ENDS:
            await channel.consume(f"{self.prefix}.{name}", self._taker(name), tag=name, no_ack=True)

    async def close(self) -> None:
        """Delete all."""
        await self._stack.aclose()

    async def _delete(self) -> None:
        async with await aio_pika.connect(self._url) as connection:
            channel = await connection.channel()
            for name in (*_ROUTES, *_ENDS):
                await channel.queue_delete(f"{self.prefix}.{name}")

    def _taker(self, name: str) -> Callable[[Delivery], None]:
        def take(delivery: Delivery) -> None:
            self.came[name].append(delivery)
            self._moved.set()

        return take

    def clear(self) -> None:
        """Forget what came."""
        for came in self.came.values():
            came.clear()

    async def moved(self, timeout: float) -> None:
        """Wait until something comes, or that long."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._moved.wait(), timeout)

    def named(self, text: str) -> str:
        """With the names of these queues: QUEUES stands for their beginning."""
        return text.replace("QUEUES", self.prefix)

    async def put(self, wire: Queued, content: bytes) -> str:
        """Publish, on a connection of its own: a broker that finds fault with a message may end
        it. Why the broker refuses the message, if it does."""
        queue = f"{self.prefix}.{wire.queue}"
        try:
            if wire.raw is not None:
                async with await aio_pika.connect(self._url) as theirs:
                    below = await (await theirs.channel()).get_underlay_channel()
                    await below.basic_publish(content, routing_key=queue, properties=Raw(*wire.raw))
                return ""
            connection = await Connection.open(self._address)
            try:
                channel = await connection.channel(confirms=True)
                for _ in range(wire.times):
                    properties = Properties(**self._told(wire.properties))
                    await channel.publish("", queue, properties, content)
            finally:
                await connection.close()
        except (aio_pika.exceptions.AMQPError, EsbError) as e:
            return str(e)
        return ""

    def _told(self, given: Any) -> Any:
        if isinstance(given, str):
            return self.named(given)
        if isinstance(given, dict):
            return {name: self._told(value) for name, value in given.items()}
        return given

    async def _publish(self, queue: str, properties: Properties, content: bytes) -> None:
        if self._channel is None:
            self._channel = await self._connection.channel(confirms=True)
        await self._channel.publish("", queue, properties, content)

    async def ask_well(self, timeout: float) -> bool:
        """Whether a good message comes through."""
        self._goods += 1
        own = f"good-{self._goods}"
        good = Properties(content_type="application/json", message_id=own)
        await self._publish(f"{self.prefix}.good", good, b'{"a": 1}')
        end = asyncio.get_running_loop().time() + timeout
        while all(one.properties.message_id != own for one in self.came["good-out"]):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self.moved(left)
        return True


def shown(delivery: Delivery) -> bytes:
    """All that a message says beside its body, a line each."""
    told = msgspec.structs.asdict(delivery.properties)
    headers = told.pop("headers") or {}
    lines = [f"{name}: {value!r}" for name, value in told.items() if value not in (None, "")]
    lines += [f"header {name!r}: {value!r}" for name, value in headers.items()]
    return "\n".join(lines).encode(errors="backslashreplace")
