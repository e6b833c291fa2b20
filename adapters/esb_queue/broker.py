"""Queues and topics on RabbitMQ, through the adapter `amqp`.

A queue is three of the broker's, for what a quorum queue cannot tell apart: messages with a key,
which one consumer at a time must get to keep them in order; those with a priority, which must not
stand behind others; and the rest. A topic is a fanout exchange for each of the three, a
subscription a queue that is bound to each.

    esb.queue.orders    esb.queue.orders:keyed    esb.queue.orders:urgent
    esb.topic.prices    ->  esb.topic.prices/billing    (and so on)

Body, headers and id are in the broker's message as AMQP has them; the envelope's other attributes
go along in a header. So whoever may publish to these queues is trusted like the bus itself; what
senders of the bus's messages put into headers of that name is overwritten.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, NamedTuple

from esb import record
from esb.adapter import Admitting, Build, Health, Sink, Source
from esb.envelope import NO_HEADERS, Body, Envelope, Headers, HeaderValue, Outcome
from esb.errors import Permanent, TooLarge, Transient, Unreachable
from esb.step import Step, identity
from esb_queue.options import Broker, Queues, QueueSink, QueueSource, TopicSink, TopicSource
from esb_queue.stored import full, queue_name

ATTRIBUTES: Final = "esb-envelope"
KEY: Final = "esb-key"
EXPIRES: Final = "esb-expires"
NAME: Final = "esb-queue"
"""Where the queue is of the message's making, its name on the way to the sink of amqp."""

_OF_MESSAGES: Final = frozenset({ATTRIBUTES, KEY, EXPIRES})

LARGEST: Final = 64 * 1024
"""Of the attributes: a header has to fit into one frame (AMQP 0-9-1, section 4.2.6.1)."""

AHEAD_OF_KEYS: Final = 1000
"""So many messages with keys may be at hand, so that a key that waits does not hold up others."""

AHEAD_OF_OTHERS: Final = 10
"""So many urgent messages may be at hand besides, so that there is one when a turn comes."""

NO_LIMIT: Final = 1_000_000
"""Deliveries of a message. Without any limit a quorum queue puts what is given back behind all
others, and by RabbitMQ 4's own, of 20, it would drop it."""

_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")


class Lane(NamedTuple):
    """One of the three queues. rank: who goes first, the lower."""

    suffix: str
    rank: int


PLAIN: Final = Lane("", 1)
KEYED: Final = Lane(":keyed", 1)
URGENT: Final = Lane(":urgent", 0)
LANES: Final = (KEYED, URGENT, PLAIN)


# --- a message on its way -------------------------------------------------------------------------


def packed(envelope: Envelope, key: str = "", expires: float = 0.0) -> Envelope:
    """A message with its attributes, key and end of time in headers. Raises TooLarge, BadMessage or
    RouteFailure."""
    bare = envelope.replace(
        body=Body(b"", envelope.content_type),
        headers=NO_HEADERS,
        outcome=Outcome.MESSAGE,
        attempt=1,
        reply_to="",
    )
    attributes = record.encode(bare)
    if len(attributes) > LARGEST:
        raise TooLarge("what is known of the message beside its body is too large for the broker")
    own: list[tuple[str, HeaderValue]] = [(ATTRIBUTES, attributes)]
    if key:
        own.append((KEY, _short(key)))
    if expires:
        own.append((EXPIRES, expires))
    others = (one for one in envelope.headers if one[0].lower() not in _OF_MESSAGES)
    return envelope.replace(headers=Headers.trusted((*others, *own)))


def unpacked(envelope: Envelope) -> tuple[Envelope, float]:
    """The message as it was sent, and the Unix time at which it expires (0: never). One that the
    bus did not send is what the broker tells of it."""
    attributes, expires = envelope.headers.get(ATTRIBUTES), envelope.headers.get(EXPIRES)
    headers = envelope.headers.keep(lambda name: name not in _OF_MESSAGES and name != NAME)
    message = envelope.replace(headers=headers)
    if isinstance(attributes, bytes):
        with suppress(record.Damaged):
            sent = record.decode(attributes)
            message = sent.replace(headers=headers)
            if sent.content_type or not envelope.body.is_empty:
                message = message.replace(body=Body(envelope.body.raw, sent.content_type))
    return message, float(expires) if isinstance(expires, int | float) else 0.0


def _short(key: str) -> str:
    """A key as a header can hold it: equal for equal keys."""
    if not key or _PLAIN.fullmatch(key):
        return key
    return blake2b(key.encode(errors="backslashreplace"), digest_size=16).hexdigest()


# --- sinks ----------------------------------------------------------------------------------------


class BrokerSink:
    """`send: {queue: ...}` and `send: {topic: ...}`.

    lanes: what publishes to the queues or exchanges that this sink needs.
    """

    def __init__(
        self, options: QueueSink | TopicSink, build: Build, lanes: dict[Lane, Sink]
    ) -> None:
        self._key = build.text(options.key, "key")
        self._expires = options.expires
        self._other = URGENT if options.priority else PLAIN
        self._lanes = lanes

    async def send(self, envelope: Envelope) -> None:
        """Return once the broker has confirmed the message.

        Raises what the `send` of amqp raises, and what `packed` does.
        """
        key = self._key(envelope)
        expires = time.time() + self._expires if self._expires else 0.0
        await self._lanes[KEYED if key else self._other].send(packed(envelope, key, expires))


class BrokerQueueSink(BrokerSink):
    """`send: {queue: ...}`."""

    def __init__(self, options: QueueSink, build: Build, queues: Queues, on: Broker) -> None:
        self._name = build.text(options.name, "name")
        self._queues = queues
        self._fixed = "{{" not in options.name
        name = options.name if self._fixed else f"{{{{ headers['{NAME}'] }}}}"
        made = build.made()
        lanes = {}
        for lane in _needed(options):
            target: dict[str, Any] = {"queue": _queue(on, name, lane)}
            if self._fixed:
                target["declare"] = _queue_declaration(queues, name, lane)
            lanes[lane] = made.sink(_amqp(on, **target, **_delay(options)))
        super().__init__(options, build, lanes)

    async def send(self, envelope: Envelope) -> None:
        """As that of BrokerSink. Raises Overloaded if the queue is full, RouteFailure if it has no
        name, Rejected if its name is of the message's making and nobody reads it."""
        name = queue_name(self._name, envelope)
        if not self._fixed:
            envelope = envelope.replace(headers=envelope.headers.replace({NAME: name}))
        try:
            await super().send(envelope)
        except Transient as e:
            # Of a message that a full queue refuses the broker says no more than "no" (basic.nack).
            if e.code == Transient.code and self._queues.of(name).max_messages is not None:
                raise full(name) from e
            raise


class BrokerTopicSink(BrokerSink):
    """`send: {topic: ...}`."""

    def __init__(self, options: TopicSink, build: Build, on: Broker) -> None:
        made = build.made()
        lanes = {
            lane: made.sink(
                _amqp(
                    on,
                    exchange=_topic(on, options.name, lane),
                    declare={"type": "fanout"},
                    mandatory=options.mandatory,
                    **_delay(options),
                )
            )
            for lane in _needed(options)
        }
        super().__init__(options, build, lanes)
        self._subscribers = _subscribers(build, options.name)

    async def send(self, envelope: Envelope) -> None:
        """As that of BrokerSink. Raises Rejected if nobody subscribed."""
        self._subscribers.check()
        await super().send(envelope)


def _needed(options: QueueSink | TopicSink) -> list[Lane]:
    return [URGENT if options.priority else PLAIN, *([KEYED] if options.key else [])]


def _delay(options: QueueSink | TopicSink) -> dict[str, Any]:
    return {"delay": options.delay} if options.delay else {}


# --- sources --------------------------------------------------------------------------------------


class Gate:
    """Lets so many in at a time; who waits enters by rank, then in turn."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._turns = count()
        self._closed = False

    async def enter(self, rank: int) -> None:
        """Wait for a turn, which is given back by `leave`. Raises Transient once it is closed."""
        if self._closed:
            raise _stops()
        if self._free:
            self._free -= 1
        else:
            await self._wait(rank)

    async def _wait(self, rank: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (rank, next(self._turns), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a turn to who waits for one."""
        while self._waiting:
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for _, _, turn in waiting:
            if not turn.done():
                turn.set_exception(_stops())


def _stops() -> Transient:
    return Transient("the route stops")


class _Arrival(NamedTuple):
    admit: Step
    expires: float


_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)
"""How the message of this run came; None for one that is run again from the store."""


class BrokerSource:
    """`from: {queue: ...}` and `from: {topic: ...}`: what the three queues bring, so many at a
    time as `concurrency` says."""

    waits = False

    def __init__(
        self,
        where: str,
        lanes: Sequence[tuple[Lane, Source]],
        concurrency: int,
        subscribers: Subscribers | None = None,
    ) -> None:
        self.where = where
        self._lanes = lanes
        self._concurrency = concurrency
        self._gate = Gate(concurrency)
        self._subscribers = subscribers

    async def start(self, step: Step) -> None:
        """Begin to take messages; a broker that is not there yet is waited for."""
        self._gate = Gate(self._concurrency)
        if self._subscribers is not None:
            self._subscribers.add(self)
        for lane, source in self._lanes:
            await source.start(self._through(step, lane, source))

    async def stop(self, grace: float) -> None:
        """Stop taking, let what is in the step finish for `grace` seconds, give the rest back."""
        self._gate.close()
        if self._subscribers is not None:
            self._subscribers.discard(self)
        await asyncio.gather(*(source.stop(grace) for _, source in self._lanes))

    def health(self) -> Health:
        """Whether messages arrive from all three; those with keys may be another bus's to take."""
        told = [source.health() for _, source in self._lanes]
        return next((health for health in told if not health.up), told[0])

    def _through(self, step: Step, lane: Lane, source: Source) -> Step:
        admit = source.admit if isinstance(source, Admitting) else identity

        async def run(envelope: Envelope) -> Envelope:
            gate = self._gate
            await gate.enter(lane.rank)
            try:
                message, expires = unpacked(envelope)
                token = _arrival.set(_Arrival(admit, expires))
                try:
                    return await step(message)
                finally:
                    _arrival.reset(token)
            finally:
                gate.leave()

        return run

    async def admit(self, envelope: Envelope) -> Envelope:
        """Refuses a message whose time is over. Raises Permanent."""
        arrival = _arrival.get()
        if arrival is None:
            return envelope
        if 0 < arrival.expires <= time.time():
            error = Permanent("nobody took the message before its time was over")
            error.code = "expired"
            raise error
        return await arrival.admit(envelope)


class Subscribers:
    """The subscriptions of a topic that this bus is about to make on the broker: what is published
    before would pass them by."""

    def __init__(self) -> None:
        self._waiting: set[BrokerSource] = set()

    def add(self, source: BrokerSource) -> None:
        """A source starts."""
        self._waiting.add(source)

    def discard(self, source: BrokerSource) -> None:
        """It stopped."""
        self._waiting.discard(source)

    def check(self) -> None:
        """Raises Unreachable while there is one that was never there yet."""
        self._waiting = {source for source in self._waiting if not source.health().up}
        if self._waiting:
            raise Unreachable("a subscription is not ready yet", retry_after=1.0).noted(
                *(f"{source.where}: {source.health().detail}" for source in self._waiting)
            )


def _subscribers(build: Build, topic: str) -> Subscribers:
    return build.shared((f"subscribers of topic {topic}",), Subscribers)


# --- what is made of YAML -------------------------------------------------------------------------


def queue_source(options: QueueSource, build: Build, queues: Queues, on: Broker) -> Source:
    """What takes messages from a queue on the broker."""
    name = options.name
    if options.order and not queues.of(name).one_reader:
        build.problem(
            "on RabbitMQ, order needs a queue that has one reader at a time",
            "order",
            hint=f"queues: {{each: {{{name}: {{one_reader: true}}}}}}",
        )
    made = build.made()
    lanes = [
        (
            lane,
            made.source(
                _amqp(
                    on,
                    queue=_queue(on, name, lane),
                    declare=_queue_declaration(queues, name, lane),
                    **_taking(options, lane),
                )
            ),
        )
        for lane in LANES
    ]
    return BrokerSource(f"queue {name}", lanes, 1 if options.order else options.concurrency)


def topic_source(options: TopicSource, subscription: str, build: Build, on: Broker) -> Source:
    """What takes messages from a subscription on the broker."""
    made = build.made()
    topic = options.name
    lanes = []
    for lane in LANES:
        binding = {"exchange": _topic(on, topic, lane), "type": "fanout"}
        raw = _amqp(
            on,
            queue=f"{on.prefix}.topic.{topic}/{subscription}{lane.suffix}",
            declare={**_declaration(lane, options.order), "bind": [binding]},
            **_taking(options, lane),
        )
        lanes.append((lane, made.source(raw)))
    return BrokerSource(
        f"topic {topic}/{subscription}",
        lanes,
        1 if options.order else options.concurrency,
        _subscribers(build, topic),
    )


def _queue(on: Broker, name: str, lane: Lane) -> str:
    return f"{on.prefix}.queue.{name}{lane.suffix}"


def _topic(on: Broker, name: str, lane: Lane) -> str:
    return f"{on.prefix}.topic.{name}{lane.suffix}"


def _declaration(lane: Lane, one_reader: bool) -> dict[str, Any]:
    return {
        "type": "quorum",
        "single_active_consumer": one_reader or lane is KEYED,
        "delivery_limit": NO_LIMIT,
    }


def _queue_declaration(queues: Queues, name: str, lane: Lane) -> dict[str, Any]:
    each = queues.of(name)
    declaration = _declaration(lane, each.one_reader)
    if each.max_messages is not None:
        declaration |= {"max_length": each.max_messages, "overflow": "reject-publish"}
    return declaration


def _taking(options: QueueSource | TopicSource, lane: Lane) -> dict[str, Any]:
    taking: dict[str, Any] = {"hold": options.backoff, "order": options.order}
    if options.order:
        return taking
    if lane is KEYED:
        taking |= {"order": {"by": f"headers['{KEY}']"}, "prefetch": AHEAD_OF_KEYS}
    else:
        ahead = AHEAD_OF_OTHERS if lane is URGENT else 0
        taking["prefetch"] = options.concurrency + ahead
    return taking


def _amqp(on: Broker, **options: Any) -> dict[str, Any]:
    return {"amqp": {"connection": on.connection, **options}}
