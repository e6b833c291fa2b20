"""AMQP endpoints for tests, made as a bus would make them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pamqp.commands import Basic

from esb.adapter import Resource, Sink
from esb.envelope import Envelope
from esb.errors import Transient
from esb.store import SqliteStore
from esb_amqp import adapter
from esb_amqp.client import Connection
from esb_amqp.options import parse_url
from esb_amqp.properties import Properties
from esb_amqp.sink import AmqpCaller, AmqpSink
from esb_amqp.source import AmqpSource
from support.fake_build import FakeBuild
from support.stores import opened


class Endpoints:
    """Makes endpoints against one broker, or a cluster of many URLs; `open` opens what those made
    so far share."""

    def __init__(self, url: str | list[str], store: SqliteStore, **options: Any) -> None:
        self.build = FakeBuild(store=store)
        self._options = {"url": url, "reconnect": "50ms..500ms", **options}
        self._opened: list[Resource] = []
        self._sources: list[AmqpSource] = []

    def source(self, **options: Any) -> AmqpSource:
        """`from: {amqp: ...}`"""
        assert adapter.source is not None
        given = {"hold": "50ms..200ms", **self._options, **options}
        source = adapter.source.make(adapter.source.options(**given), self.build)
        assert isinstance(source, AmqpSource)
        self._sources.append(source)
        return source

    def sink(self, **options: Any) -> AmqpSink:
        """`send: {amqp: ...}`"""
        assert adapter.sink is not None
        sink = adapter.sink.make(adapter.sink.options(**self._options | options), self.build)
        assert isinstance(sink, AmqpSink)
        return sink

    def caller(self, **options: Any) -> AmqpCaller:
        """`call: {amqp: ...}`"""
        assert adapter.caller is not None
        caller = adapter.caller.make(adapter.caller.options(**self._options | options), self.build)
        assert isinstance(caller, AmqpCaller)
        return caller

    async def open(self) -> None:
        """Open what the endpoints made so far share, as the bus does before it starts sources."""
        for thing in self.build.objects.values():
            if isinstance(thing, Resource) and thing not in self._opened:
                self._opened.append(thing)
                await thing.open()

    async def close(self) -> None:
        """Stop and close everything."""
        for source in self._sources:
            await source.stop(0)
        for thing in reversed(self._opened):
            await thing.close()


@contextlib.asynccontextmanager
async def endpoints(url: str | list[str], **options: Any) -> AsyncIterator[Endpoints]:
    """Endpoints against the broker at `url`; everything is closed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder) / "bus.db") as store:
            made = Endpoints(url, store, **options)
            try:
                yield made
            finally:
                await made.close()


async def persistently(sink: Sink, envelope: Envelope) -> int:
    """Send as a route with retries does; returns how often it had to."""
    deadline = time.monotonic() + 60
    attempt = 0
    while time.monotonic() < deadline:
        attempt += 1
        try:
            await sink.send(envelope)
        except Transient:
            await asyncio.sleep(0.05)
        else:
            return attempt
    raise AssertionError("the broker did not come back")


async def put_raw(url: str, queue: str, *messages: tuple[Properties, bytes]) -> None:
    """Publish with properties that a client library would not let pass."""
    connection = await Connection.open(parse_url(url))
    channel = await connection.channel(confirms=True)
    for properties, body in messages:
        await channel.publish("", queue, properties, body)
    await connection.close()


class Raw(Basic.Properties):
    """Properties of any bytes, as no client would write them."""

    def __init__(self, flags: int, raw: bytes) -> None:
        super().__init__()
        self._written = struct.pack(">H", flags) + raw

    def marshal(self) -> bytes:
        return self._written


def a_table(raw: bytes) -> bytes:
    """A field table (AMQP 0-9-1, section 4.2.5.5) of these bytes."""
    return struct.pack(">I", len(raw)) + raw


UNREADABLE: dict[str, tuple[int, bytes]] = {
    "content_type": (1 << 15, b"\x02\xff\xfe"),
    "headers": (1 << 13, a_table(b"\x01\xffV")),
    "message_id": (1 << 7, b"\x02\xffx"),
    "timestamp": (1 << 6, struct.pack(">Q", 2**62)),
}
"""By name: flag and bytes of properties that RabbitMQ takes and pamqp cannot read."""
