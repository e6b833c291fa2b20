"""The bus's own durable queues and topics: `queue` and `topic`, in `from` and `send`.

A queue is a Point-to-Point Channel with Guaranteed Delivery (EIP): `send` returns once the message
is safe, and it is forgotten once a route that took it has returned. Routes that read one queue
compete for its messages. A topic is a Publish-Subscribe Channel: each subscription gets a copy, and
is a queue of its own.

Both are in the bus's store, or on RabbitMQ if the section `queues` says so.
"""

from __future__ import annotations

from typing import Literal

from esb.adapter import Adapter, Build, Role, Sink, Source, keeps_order
from esb.step import SpanFacts
from esb_queue import broker, stored
from esb_queue.options import NAME, Queues, QueueSink, QueueSource, TopicSink, TopicSource, section


def queue_source(options: QueueSource, build: Build) -> Source:
    """What takes messages from a queue."""
    _told(build, "queue", options.name, "process")
    if options.order:
        keeps_order(build, "order")
    queues = _queues(build)
    if queues.on is None:
        return stored.queue_source(options, build)
    return broker.queue_source(options, build, queues, queues.on)


def queue_sink(options: QueueSink, build: Build) -> Sink:
    """What puts messages into a queue."""
    _told(build, "queue", options.name, "send")
    queues = _queues(build)
    if queues.on is None:
        return stored.StoredQueueSink(options, build, queues)
    return broker.BrokerQueueSink(options, build, queues, queues.on)


def topic_source(options: TopicSource, build: Build) -> Source:
    """What takes messages from a subscription."""
    name = options.subscription or build.route
    if not NAME.fullmatch(name):
        raise build.problem(
            "the name of this route cannot be that of a subscription", hint="subscription: ..."
        )
    if options.order:
        keeps_order(build, "order")
    _told(build, "topic", options.name, "process")
    queues = _queues(build)
    if queues.on is None:
        return stored.topic_source(options, name, build)
    return broker.topic_source(options, name, build, queues.on)


def _told(build: Build, kind: str, name: str, what: Literal["send", "process"]) -> None:
    """The channel, for the map of the project and for telemetry."""
    build.channel(f"{kind} {name}")
    facts: dict[str, str | int] = {
        "messaging.system": "esb",
        "messaging.operation.name": what,
        "messaging.operation.type": what,
        "messaging.destination.name": name,
    }
    role = "producer" if what == "send" else "consumer"
    build.span(SpanFacts(role, f"{what} {kind} {name}", facts))


def topic_sink(options: TopicSink, build: Build) -> Sink:
    """What publishes messages to a topic."""
    _told(build, "topic", options.name, "send")
    queues = _queues(build)
    if queues.on is None:
        return stored.StoredTopicSink(options, build)
    return broker.BrokerTopicSink(options, build, queues.on)


def _queues(build: Build) -> Queues:
    queues: Queues = build.section("queues")
    # A test of routes has no broker, and what is promised is the same in the store.
    return queues.model_copy(update={"on": None}) if build.rehearsal else queues


queue = Adapter(source=Role(QueueSource, queue_source), sink=Role(QueueSink, queue_sink))
topic = Adapter(source=Role(TopicSource, topic_source), sink=Role(TopicSink, topic_sink))

__all__ = ["queue", "section", "topic"]
