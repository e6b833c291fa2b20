"""One RabbitMQ for all tests that run at the same time, and an outside view of it.

The broker belongs to nobody: whoever comes first starts a keeper process, and each user holds a
shared lock on a file. The kernel lets go of a lock when its holder dies, however it dies, so the
keeper knows when the last one is gone: it then gets the lock for itself, and stops the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent.parent
_START_TIMEOUT = 120.0


@contextlib.contextmanager
def shared_broker() -> Iterator[str]:
    """The URL of a broker that other test processes use too: keep to queues of your own."""
    folder = _PROJECT / ".tools" / f"rabbitmq-shared-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gate").open("a") as gate, (folder / "users").open("a") as users:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one at a time looks and starts
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for a keeper that is just stopping
        state = folder / "url"
        if not _answers(state):
            _start_keeper(folder, state)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield state.read_text()


def _answers(state: Path) -> bool:
    from rabbitmq import speaks_amqp

    try:
        port = int(state.read_text().rstrip("/").rpartition(":")[2])
    except (OSError, ValueError):
        return False
    return speaks_amqp(port)


def _start_keeper(folder: Path, state: Path) -> None:
    state.unlink(missing_ok=True)
    with (folder / "keeper.log").open("wb") as out:
        keeper = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, "PYTHONPATH": str(_PROJECT / "tools")},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while not state.exists():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no RabbitMQ: {(folder / 'keeper.log').read_text()[-2000:]}")
        time.sleep(0.05)


def _keep(folder: Path) -> None:
    """Run a broker for as long as somebody uses it."""
    from rabbitmq import Broker

    with Broker() as broker, (folder / "users").open("a") as users:
        state = folder / "url"
        (folder / "url.new").write_text(broker.url)
        (folder / "url.new").rename(state)
        while broker.running:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.2)
        state.unlink(missing_ok=True)
        broker.close()  # before the lock is let go


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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _keep(Path(sys.argv[1]))
