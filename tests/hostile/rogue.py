"""A broker that was taken over: it lets the bus log in and consume as it should, and sends what it
was told in place of one of its answers, or to a consumer that waits for messages."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Final, Self

import pamqp.frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Connection, Queue
from pamqp.header import ContentHeader

_PATIENCE: Final = 0.3
"""Seconds in which the bus may hang up, or go on, before the connection is dropped."""
_LONGEST: Final = 30.0
_GOOD: Final = 2**40
"""Tags of good messages: tags grow, and attacks have the lower ones."""

_ANSWERS: Final[dict[str, Any]] = {
    "Connection.StartOk": Connection.Tune(2047, 131_072, 0),
    "Connection.Open": Connection.OpenOk(),
    "Connection.Close": Connection.CloseOk(),
    "Channel.Open": Channel.OpenOk(),
    "Channel.Close": Channel.CloseOk(),
    "Confirm.Select": Confirm.SelectOk(),
    "Basic.Qos": Basic.QosOk(),
    "Queue.Declare": Queue.DeclareOk("q", 0, 1),
}


def frame(said: Any, channel: int = 1) -> bytes:
    """As it goes over the wire."""
    return pamqp.frame.marshal(said, channel)


def delivery(tag: int, body: bytes = b"{}", consumer: str = "esb", own: str = "") -> bytes:
    """A message for a consumer: its three frames."""
    properties = Basic.Properties(content_type="application/json", message_id=own or f"m-{tag}")
    said = [
        Basic.Deliver(consumer, tag, False, "", "q"),
        ContentHeader(body_size=len(body), properties=properties),
        *(ContentBody(body[at : at + 131_000]) for at in range(0, len(body), 131_000)),
    ]
    return b"".join(map(frame, said))


class Rogue:
    """It listens for as long as the block lasts; `settled` is what the bus said of messages."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self._goods = 0
        self._place, self._content = "", b""
        self._sent = asyncio.Event()
        self._consuming = asyncio.Event()
        self._acked = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._attacked: asyncio.StreamWriter | None = None
        self._by: asyncio.StreamWriter | None = None  # whose consumer read the good message
        self._connections: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"amqp://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self._drop()

    async def overtake(self, place: str, content: bytes) -> str:
        """Send `content` on a new connection, in place of the answer to the method `place` or, for
        "delivery", to the consumer, and a good message after it. Where that one was acknowledged:
        on the "same" connection or on a "new" one. Raises TimeoutError if it never is."""
        self.settled.clear()
        self._sent.clear()
        self._place, self._content = place, content
        self._drop()
        async with asyncio.timeout(_LONGEST):
            await self._sent.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._good()
                return "same" if self._by is self._attacked else "new"
        self._drop()
        async with asyncio.timeout(_LONGEST):
            await self._good()
        return "new"

    async def _good(self) -> None:
        """Hand out a good message until it is acknowledged."""
        self._goods += 1
        self._acked.clear()
        while not self._acked.is_set():
            await self._consuming.wait()
            asked = self._writer
            self._write(delivery(_GOOD + self._goods, own=f"good-{self._goods}"))
            while asked is self._writer and not self._acked.is_set():
                await asyncio.sleep(0.005)

    def _drop(self) -> None:
        self._writer = None
        self._consuming.clear()
        for writer in self._connections:
            writer.transport.abort()

    def _write(self, content: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(content)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await reader.readexactly(8)
            start = Connection.Start(server_properties={"capabilities": {"basic.nack": True}})
            await self._say(writer, "Header", frame(start, 0))
            while True:
                head = await reader.readexactly(7)
                raw = head + await reader.readexactly(int.from_bytes(head[3:]) + 1)
                _, channel, said = pamqp.frame.unmarshal(raw)
                await self._hear(writer, channel, said)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            if self._writer is writer:
                self._writer = None
                self._consuming.clear()
            writer.close()

    async def _hear(self, writer: asyncio.StreamWriter, channel: int, said: Any) -> None:
        if isinstance(said, Basic.Consume):
            answer = frame(Basic.ConsumeOk(said.consumer_tag), channel)
            await self._say(writer, "Basic.Consume", answer)
            self._writer = writer
            await self._say(writer, "delivery", b"")
            self._consuming.set()
        elif isinstance(said, Basic.Cancel):
            await self._say(writer, said.name, frame(Basic.CancelOk(said.consumer_tag), channel))
        elif isinstance(said, Basic.Ack):
            self.settled.append(f"ack {said.delivery_tag}")
            if said.delivery_tag == _GOOD + self._goods:
                self._by = writer
                self._acked.set()
        elif isinstance(said, Basic.Reject):
            back = "back" if said.requeue else "dead"
            self.settled.append(f"reject {said.delivery_tag} {back}")
        elif said.name in _ANSWERS:
            await self._say(writer, said.name, frame(_ANSWERS[said.name], channel))

    async def _say(self, writer: asyncio.StreamWriter, place: str, right: bytes) -> None:
        """The right thing, or once what is to be said in its place."""
        if place != self._place:
            writer.write(right)
            return
        self._place, self._attacked = "", writer
        writer.write(self._content)
        try:
            await writer.drain()
        finally:
            self._sent.set()
