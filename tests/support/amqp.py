"""AMQP endpoints for tests, made as a bus would make them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from esb.adapter import Resource
from esb_amqp import adapter
from esb_amqp.sink import AmqpCaller, AmqpSink
from esb_amqp.source import AmqpSource
from support.fake_build import FakeBuild


class Endpoints:
    """Makes endpoints against one broker, or a cluster of many URLs; `open` opens what those made
    so far share."""

    def __init__(self, url: str | list[str], folder: Path | None = None, **options: Any) -> None:
        self.build = FakeBuild(folder)
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
    made = Endpoints(url, **options)
    try:
        yield made
    finally:
        await made.close()


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
