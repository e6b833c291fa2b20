"""Queues and topics in the bus's store, where each message is one row until it is through."""

from __future__ import annotations

from esb.adapter import Build, Health, Source, Text
from esb.consumer import Consumer
from esb.durable import Publish, Put, Store, change, subscription
from esb.envelope import Envelope
from esb.errors import Overloaded, Rejected, RouteFailure
from esb_queue.options import NAME, Queues, QueueSink, QueueSource, TopicSink, TopicSource

RETRY_AFTER = 5.0


def channel(name: str) -> str:
    """Where in the store the messages of a queue lie."""
    return f"queue:{name}"


def queue_name(text: Text, envelope: Envelope) -> str:
    """The name that a route's text makes of a message. Raises RouteFailure if it is none."""
    name = text(envelope)
    if not NAME.fullmatch(name):
        raise RouteFailure(f"{name[:60]!r} cannot be the name of a queue")
    return name


def full(name: str) -> Overloaded:
    """The error of a queue that is at its limit."""
    return Overloaded("the queue is full", retry_after=RETRY_AFTER).noted(f"queue '{name}'")


class _Terms:
    """When and in which order a message is to be taken."""

    def __init__(self, options: QueueSink | TopicSink, build: Build) -> None:
        self._options = options
        self._clock = build.clock
        self._key = build.text(options.key, "key")

    def of(self, envelope: Envelope) -> tuple[float, float, int, str]:
        """due, expires, priority and group of a Put. Raises RouteFailure."""
        options = self._options
        now = self._clock.time() if options.delay or options.expires else 0.0
        due = now + options.delay if options.delay else 0.0
        expires = now + options.expires if options.expires else 0.0
        return due, expires, options.priority, self._key(envelope)


class StoredQueueSink:
    """`send: {queue: name}`."""

    def __init__(self, options: QueueSink, build: Build, queues: Queues) -> None:
        build.promises("once")
        self._store = build.store
        self._name = build.text(options.name, "name")
        self._terms = _Terms(options, build)
        self._queues = queues

    async def send(self, envelope: Envelope) -> None:
        """Return once the message is on the disk, or sure to be, once the route is through.

        Raises Overloaded or Transient if it is not, RouteFailure if its queue has no name.
        """
        name = queue_name(self._name, envelope)
        due, expires, priority, group = self._terms.of(envelope)
        await self._check_room(name)
        put = Put(channel(name), envelope, due, priority=priority, expires=expires, group=group)
        await change(self._store, put)

    async def _check_room(self, name: str) -> None:
        most = self._queues.of(name).max_messages
        if most is None:
            return
        # Those that are being sent at this moment are not counted, so it may hold a few more.
        counts = await self._store.counts()
        if counts.get(channel(name), 0) >= most:
            raise full(name)


class StoredTopicSink:
    """`send: {topic: name}`."""

    def __init__(self, options: TopicSink, build: Build) -> None:
        build.promises("once")
        self._store = build.store
        self._options = options
        self._terms = _Terms(options, build)

    async def send(self, envelope: Envelope) -> None:
        """Return once a copy for each subscription is on the disk, or sure to be, once the route
        is through: all or none.

        Raises Overloaded or Transient if they are not, and Rejected if nobody subscribed.
        """
        topic = self._options.name
        due, expires, priority, group = self._terms.of(envelope)
        if self._options.mandatory and not await self._store.subscriptions(topic):
            raise nobody(topic)
        publish = Publish(topic, envelope, due, priority, expires, group)
        await change(self._store, publish)


def nobody(topic: str) -> Rejected:
    """The error of a topic without subscriptions."""
    return Rejected("nobody subscribed to what is published").noted(f"topic '{topic}'")


class Subscription:
    """A durable subscription (EIP: Durable Subscriber). A Resource, so that it is there before any
    source can publish."""

    inside = True

    def __init__(self, store: Store, topic: str, name: str) -> None:
        self._store = store
        self._topic = topic
        self._name = name

    async def open(self) -> None:
        """Subscribe, unless it was done before. Raises what the store raises: a bus that went on
        without would lose messages."""
        await self._store.subscribe(self._topic, self._name)

    async def close(self) -> None:
        """It stays."""

    def health(self) -> Health:
        """It works when the store does."""
        return Health(True)


def queue_source(options: QueueSource, build: Build) -> Source:
    """A consumer of the queue's channel."""
    return _consumer(channel(options.name), options, build)


def topic_source(options: TopicSource, name: str, build: Build) -> Source:
    """A consumer of the channel of subscription `name`."""
    store, topic = build.store, options.name
    where = subscription(topic, name)
    build.shared((where,), lambda: Subscription(store, topic, name))
    return _consumer(where, options, build)


def _consumer(where: str, options: QueueSource | TopicSource, build: Build) -> Consumer:
    build.promises("once")
    return Consumer(
        build.store,
        where,
        route=build.route,
        concurrency=options.concurrency,
        order=options.order,
        backoff=options.backoff,
    )
