"""Senders in a process of their own, with a ledger. Run as `python sender.py LEDGER LOAD`.

LOAD is a `Load` as JSON. Each key of each flow has a sender that begins with a message only when
the one before was taken or refused for good. SIGTERM ends it: no message is begun any more, and
what was tried last has its outcome in the ledger.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program it knows the folder `support`, not the package
    sys.path.insert(0, str(Path(__file__).parent.parent))

from support.ledger import Ledger, Message, message_at


@dataclass(frozen=True)
class Load:
    """What to send, and how fast.

    flows: the target of each by its name: "http://host:port/path" gets a POST, and in
        "amqp://user:password@host:port/queue" the queue a persistent, mandatory message; several
        of these, parted by spaces, are the nodes of one broker.
    count: how many messages of each flow; 0 for no end.
    rate: messages a second in all; 0 for as many as are taken.
    fates: what is mixed in, by flow (`support.ledger.FATES`).
    patience: seconds to wait for an answer.
    again: whether a message that was not taken is sent again until it is; else each is sent once.
    copies: how often each is sent at the same time.
    sync: whether the ledger is on the disk each time before anything goes on; without, it outlives
        any process, and not the machine.
    start: the number of the first message of each key.
    """

    flows: Mapping[str, str]
    keys: int = 8
    count: int = 0
    rate: float = 0.0
    fates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patience: float = 10.0
    again: bool = True
    copies: int = 1
    sync: bool = True
    start: int = 0


PAUSE = 0.05
"""Before a message is sent again."""


class Http:
    """Posts to one URL, over connections that are kept."""

    def __init__(self, url: str) -> None:
        self._host, _, self._target = url.removeprefix("http://").partition("/")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, message: Message) -> int:
        """The status of the answer. Raises ConnectionRefusedError if nothing was sent, OSError or
        EOFError if nobody knows."""
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        try:
            writer.write(
                f"POST /{self._target} HTTP/1.1\r\nHost: {self._host}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(message.body)}\r\n\r\n"
                "".encode()
                + message.body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            for line in head.split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
        except BaseException:
            writer.transport.abort()
            raise
        if b"\r\nconnection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name, _, port = self._host.partition(":")
        try:
            return await asyncio.open_connection(name, int(port))
        except OSError as e:
            raise ConnectionRefusedError from e

    async def close(self) -> None:
        """End the connections."""
        for _, writer in self._idle:
            writer.close()


class Amqp:
    """Publishes to one queue, and waits for the broker's confirm."""

    def __init__(self, urls: str) -> None:
        self._urls = [url.rpartition("/")[0] for url in urls.split()]
        self._queue = urls.rpartition("/")[2]
        self._connecting = asyncio.Lock()
        self._connection: Any = None
        self._exchange: Any = None

    async def send(self, message: Message) -> int:
        """202 once it is confirmed, 404 if it reached no queue. Raises as `Http.send`."""
        import aio_pika
        from aio_pika.exceptions import DeliveryError

        async with self._connecting:
            if self._connection is None or self._connection.is_closed:
                try:
                    self._connection = await aio_pika.connect(self._urls[0], timeout=5)
                    channel = await self._connection.channel(publisher_confirms=True)
                except Exception as e:
                    self._connection = None
                    self._urls.append(self._urls.pop(0))
                    raise ConnectionRefusedError from e
                self._exchange = channel.default_exchange
        outgoing = aio_pika.Message(
            message.body,
            message_id=message.id,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            await self._exchange.publish(outgoing, self._queue, mandatory=True)
        except DeliveryError as e:
            return 404 if e.frame is not None and e.frame.name == "Basic.Return" else 503
        except Exception as e:
            await self.close()
            raise OSError from e
        return 202

    async def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                await asyncio.wait_for(connection.close(), 1)


class _Together:
    """A ledger for many tasks: what they note in one turn of the loop is written at once."""

    def __init__(self, path: str, *, sync: bool) -> None:
        self._ledger = Ledger(path)
        self._sync = sync
        self._lines: list[str] = []
        self._written: asyncio.Future[None] | None = None

    async def note(self, line: str) -> None:
        """Return when it is written."""
        self._lines.append(line)
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(self._write)
        await asyncio.shield(self._written)

    def _write(self) -> None:
        assert self._written is not None
        self._ledger.note(*self._lines, sync=self._sync)
        self._lines.clear()
        self._written.set_result(None)
        self._written = None


class _Sender:
    """Sends a load."""

    def __init__(self, path: str, load: Load) -> None:
        self._ledger = _Together(path, sync=load.sync)
        self._load = load
        self._pause = load.keys * len(load.flows) / load.rate if load.rate else 0.0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Return when all is sent, or SIGTERM came."""
        load = self._load
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        targets = {
            flow: Http(url) if url.startswith("http:") else Amqp(url)
            for flow, url in load.flows.items()
        }
        async with asyncio.TaskGroup() as tasks:
            for flow, target in targets.items():
                for key in range(load.keys):
                    tasks.create_task(self._send_all(target, flow, key))
        for target in targets.values():
            await target.close()

    async def _send_all(self, target: Http | Amqp, flow: str, key: int) -> None:
        load = self._load
        count = len(range(key, load.count, load.keys)) if load.count else sys.maxsize
        for seq in range(load.start, load.start + count):
            if self._stopping.is_set():
                return
            await self._send(target, message_at(flow, key, seq, load.fates.get(flow, ())))
            if self._pause:
                await asyncio.sleep(self._pause)

    async def _send(self, target: Http | Amqp, message: Message) -> None:
        about = f"{message.key} {message.seq} {message.sha256} {message.fate}"
        await self._ledger.note(f"I {message.id} {about}")
        copies = (self._insist(target, message) for _ in range(self._load.copies))
        await asyncio.gather(*copies)

    async def _insist(self, target: Http | Amqp, message: Message) -> None:
        while True:
            status = 0
            kind = "U"
            try:
                status = await asyncio.wait_for(target.send(message), self._load.patience)
                kind = "A" if status < 300 else "F" if status < 500 else "U"
            except ConnectionRefusedError:
                kind = "F"
            except (OSError, EOFError, ValueError):
                pass
            if kind == "A":
                await self._ledger.note(f"A {message.id}")
                return
            await self._ledger.note(f"{kind} {message.id} {status}")
            refused_for_good = 400 <= status < 500
            if refused_for_good or not self._load.again or self._stopping.is_set():
                return
            await asyncio.sleep(PAUSE)


@contextmanager
def sender(ledger: Path, load: Load) -> Iterator[subprocess.Popen[bytes]]:
    """A sender that keeps `ledger`; it ends when all is sent, on SIGTERM, or with the block."""
    command = [sys.executable, __file__, str(ledger), json.dumps(asdict(load))]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    logging.disable()  # aio-pika tells of each attempt to connect
    asyncio.run(_Sender(sys.argv[1], Load(**json.loads(sys.argv[2]))).run())
