"""The bus's own durable queues, in its store: `send: {queue: orders}`, `from: {queue: orders}`.

Point-to-Point Channel with Guaranteed Delivery (EIP): `send` returns once the message is on the
disk, and it is forgotten once a route that took it has returned. Routes that read one queue
compete for its messages.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, StringConstraints

from esb.adapter import Adapter, Build, Role, Sink, Source
from esb.consumer import Consumer
from esb.durable import Put, Store, change
from esb.envelope import Envelope
from esb.options import Backoff, Duration, Options, Range

QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


def channel(name: str) -> str:
    """Where in the store the messages of a queue lie."""
    return f"queue:{name}"


class SourceOptions(Options):
    """Take messages from a queue of the bus."""

    __shorthand__ = "name"
    name: QueueName = Field(description="The queue.")
    concurrency: int = Field(10, ge=1, le=10_000, description="Messages in the route at a time.")
    order: bool = Field(
        False,
        description="One at a time, in the order they came; one that fails holds up the rest.",
    )
    backoff: Backoff = Field(
        Range(first=1, longest=60), description="How long a message waits that was put back."
    )


class SinkOptions(Options):
    """Put the message into a queue of the bus."""

    __shorthand__ = "name"
    name: QueueName = Field(description="The queue.")
    delay: Duration = Field(0.0, description="How long nobody gets to see it.")


class QueueSink:
    """`send: {queue: name}`."""

    def __init__(self, store: Store, options: SinkOptions) -> None:
        self._store = store
        self._channel = channel(options.name)
        self._delay = options.delay

    async def send(self, envelope: Envelope) -> None:
        """Return once the message is on the disk, or sure to be, once the route is through.

        Raises Overloaded or Transient if it is not.
        """
        due = time.time() + self._delay if self._delay else 0.0
        await change(self._store, Put(self._channel, envelope, due))


def make_source(options: SourceOptions, build: Build) -> Source:
    """A consumer of the queue's channel."""
    return Consumer(
        build.store,
        channel(options.name),
        route=build.route,
        concurrency=options.concurrency,
        order=options.order,
        backoff=options.backoff,
    )


def make_sink(options: SinkOptions, build: Build) -> Sink:
    """A sender to the queue's channel."""
    return QueueSink(build.store, options)


adapter = Adapter(source=Role(SourceOptions, make_source), sink=Role(SinkOptions, make_sink))
