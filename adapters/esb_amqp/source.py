"""Consuming a queue: each message is settled after the route is through with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from esb.adapter import Build, Expression, Health, keeps_order
from esb.durable import Unit
from esb.envelope import Envelope
from esb.errors import BadMessage, EsbError, Permanent, Transient
from esb.metrics import Counter, Gauge
from esb.step import Step
from esb_amqp.answers import Answers
from esb_amqp.client import Channel, Delivery
from esb_amqp.events import adopt
from esb_amqp.link import Backoff, Lane, shared_link
from esb_amqp.mapping import from_delivery, stream_offset
from esb_amqp.options import KeyOrder, SourceOptions
from esb_amqp.position import Position
from esb_amqp.sink import declare_queue, spans
from esb_amqp.suspects import Suspects, poison

log = structlog.get_logger("esb.amqp")

_TAG: Final = "esb"

WAITING: Final = Gauge(
    "esb_amqp_queue_messages",
    "Messages that wait in a queue which the bus reads, as the broker tells every 15 seconds.",
    ("queue",),
)
TOO_LARGE: Final = Counter(
    "esb_amqp_too_large_total",
    "Messages of a queue that were refused for their size before a route saw them.",
    ("queue",),
)
_MEASURE_EVERY: Final = 15.0
_REMEMBERED: Final = 10_000

_refusal: ContextVar[EsbError | None] = ContextVar("refusal", default=None)
"""Why the message of this run may not reach the route's steps."""


class AmqpSource:
    """Channel adapter, inbound: `from: {amqp: ...}`.

    The step returning acknowledges; Transient holds the message a while and gives it back;
    Permanent refuses it. What is settled is always settled on the channel that brought it: after a
    loss the broker hands it out again. Where order is kept, and in a stream, a message that failed
    for now stays, and is run again.
    """

    def __init__(self, options: SourceOptions, build: Build) -> None:
        self.waits = options.rpc
        self._options = options
        self._route = build.route
        self._store = build.store
        self.where = f"amqp queue {options.queue}"
        build.channel(self.where, outside=True)
        build.span(spans("process", "consumer", options.queue))
        build.gives(anonymous=options.principal is None)
        if options.rpc:
            build.promises("answered")
        settings, tls = options.settings(build)
        link = shared_link(build, "in", settings, tls)
        self._lane = Lane(link, f"queue '{options.queue}'", self._consume)
        self._step: Step | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._measuring: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._failures: OrderedDict[str, Backoff] = OrderedDict()
        self._key: Expression | None = None
        if options.order:
            keeps_order(build, "order")
        if isinstance(options.order, KeyOrder):
            self._key = build.expression(options.order.by, "order", "by")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._position: Position | None = None
        if options.begin is not None:
            self._position = Position(self._store, self._route, options.queue, options.begin)
        self._early = 0
        self._stays = bool(options.order) or self._position is not None
        self._suspects = Suspects(self._store, self._route, options.queue)
        out = shared_link(build, "out", settings, tls)
        self._answers = Answers(out, options.reply_to, self._route)

    async def start(self, step: Step) -> None:
        """Begin to consume; a broker that is not there yet is waited for."""
        self._step = step
        self._early = self._options.prefetch
        self._stopping.clear()
        await self._lane.open()

    async def stop(self, grace: float) -> None:
        """Cancel the consumer, let what is in the route finish, give the rest back."""
        self._stopping.set()
        channel = self._lane.current
        if channel is not None:
            # A channel that is gone has taken all it had brought back to the queue.
            with contextlib.suppress(Transient):
                await channel.cancel(_TAG)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()  # each gives its message back
        await asyncio.gather(*unfinished, return_exceptions=True)
        await self._lane.close()
        if self._position is not None:
            await self._position.stop()
        await self._suspects.stop()
        await self._answers.close()

    def health(self) -> Health:
        """Whether the queue is being consumed."""
        health = self._lane.health()
        if health.up and self._position is not None and self._position.missing:
            return Health(False, f"queue '{self._options.queue}': {self._position.missing}")
        return health

    # --- consuming ---

    async def _measure(self, channel: Channel) -> None:
        """Ask the broker now and then how many messages wait."""
        level = WAITING.labels(self._options.queue)
        with contextlib.suppress(EsbError):  # its end is the lane's to tell
            while channel.is_open and not self._stopping.is_set():
                queue = await channel.declare_queue(self._options.queue, passive=True)
                level.value = queue.declaration_result.message_count or 0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _MEASURE_EVERY)

    async def _consume(self, channel: Channel) -> None:
        options = self._options
        if self._stopping.is_set():
            return
        if options.declare is not None:
            await declare_queue(channel, options.queue, options.declare)
        # Of messages that are here already, the later ones would overtake one that goes back.
        prefetch = 1 if options.order is True else options.prefetch
        await channel.qos(prefetch)
        arguments = dict(options.arguments)
        # Two would know nothing of each other's order, nor of each other's place in a stream.
        await self._suspects.start(channel, only_one=self._stays)
        if self._position is not None:
            arguments["x-stream-offset"] = await self._position.start()

        def cancelled() -> None:
            # A queue that is deleted or moves: the lane opens a new channel and says what it sees.
            asyncio.ensure_future(channel.close())  # noqa: RUF006 - the lane watches the channel

        await channel.consume(
            options.queue,
            self._on_delivery,
            tag=_TAG,
            on_cancel=cancelled,
            on_too_large=self._on_too_large,
            max_body=options.max_body,
            # A stream may hand out the rest of a chunk beyond what was asked for.
            most=prefetch if self._position is None else 0,
            exclusive=options.exclusive,
            arguments=arguments,
        )
        measuring = asyncio.create_task(self._measure(channel))
        self._measuring.add(measuring)
        measuring.add_done_callback(self._measuring.discard)

    def _on_too_large(self, delivery: Delivery) -> None:
        TOO_LARGE.labels(self._options.queue).value += 1
        log.warning(
            "message refused",
            route=self._route,
            queue=self._options.queue,
            message=delivery.properties.message_id,
            reason=f"its body is larger than max_body ({self._options.max_body} bytes)",
        )
        if self._position is None:
            delivery.channel.reject(delivery.tag)
            return
        # A stream takes nothing back: it is passed over, and not read again.
        offset = self._offset(delivery)
        if offset is not None and self._position.begin(offset):
            self._position.ended(offset)
        delivery.channel.ack(delivery.tag)

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._position is not None:
            offset = self._offset(delivery)
            if offset is not None and not self._position.begin(offset):
                delivery.channel.ack(delivery.tag)
                return
            # A stream tells nobody what it has handed out before; the first ones it may have.
            self._early -= 1
            delivery = delivery._replace(redelivered=self._early >= 0)
        self._spawn(self._handle(delivery))

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, delivery: Delivery) -> None:
        """Run the step on one message and settle it."""
        try:
            envelope = from_delivery(delivery, self._options.queue, self._offset(delivery))
            if self._options.principal is not None:
                envelope = envelope.replace(principal=delivery.properties.user_id)
            async with self._turn(envelope):
                if self._stopping.is_set():
                    await self._give_back(delivery)
                # After a loss it comes again; what ran already must not run beside it.
                elif delivery.channel.is_open or self._position is not None:
                    await self._run(delivery, envelope)
        except asyncio.CancelledError:
            await self._give_back(delivery)
            raise

    def _turn(self, envelope: Envelope) -> AbstractAsyncContextManager[Any]:
        """A message's turn: at once, or after those before it that are of its key."""
        if not self._options.order:
            return contextlib.nullcontext()
        key = ""
        if self._key is not None:
            try:
                key = str(self._key(envelope))
            except EsbError as e:
                # The steps will tell what is wrong with it, in order with others of the kind.
                log.warning("a message has no key", **self._about(envelope), reason=e.detail)
        return self._turns.setdefault(key, asyncio.Lock())

    async def _run(self, delivery: Delivery, envelope: Envelope) -> None:
        envelope = envelope.replace(reply_to=self._answers.address(delivery))
        while True:
            failure = await self._attempt(delivery, envelope)
            if failure is None:
                await self._ack(delivery)
                return
            if isinstance(failure, Permanent) and self._options.reject == "dead":
                await self._refuse(delivery, envelope, failure)
                return
            await self._hold(delivery, envelope, failure)
            lost = self._position is None and not delivery.channel.is_open
            if not self._stays or lost or self._stopping.is_set():
                await self._give_back(delivery)
                return

    async def _attempt(self, delivery: Delivery, envelope: Envelope) -> EsbError | None:
        failure: EsbError | None = None
        answer = envelope
        try:
            answer = await self._guarded(delivery, envelope)
        except EsbError as e:
            failure = e
        except Exception as e:
            log.error("the route broke on a message", **self._about(envelope), exc_info=e)
            failure = EsbError("the route broke on the message")
        if envelope.reply_to:
            # Who asked is told, also of a failure, and may ask again: nothing is left to do.
            return await self._answers.send(delivery, envelope, failure or answer)
        return failure

    async def _guarded(self, delivery: Delivery, envelope: Envelope) -> Envelope:
        """Run the step, unless the message is one that the bus keeps dying of."""
        assert self._step is not None
        refusal = self._delivered_too_often(delivery)
        if self.waits and not envelope.reply_to:
            refusal = BadMessage("the message names no queue that may be answered to")
        suspect = self._suspects.may_be(delivery)
        if not (refusal or suspect or self._stays):
            return await self._step(envelope)
        async with contextlib.AsyncExitStack() as around:
            if suspect:
                trying = self._suspects.trying(self._identity(delivery))
                refusal = await around.enter_async_context(trying) or refusal
            unit = await around.enter_async_context(Unit(self._store, in_order=self._stays))
            token = _refusal.set(refusal)
            try:
                answer = await self._step(envelope)
            finally:
                _refusal.reset(token)
            await unit.commit()
            return answer

    def _delivered_too_often(self, delivery: Delivery) -> EsbError | None:
        declare = self._options.declare
        # In any other queue, and on the way the first time, the header is the sender's.
        if declare is None or declare.type != "quorum" or not delivery.redelivered:
            return None
        count = (delivery.properties.headers or {}).get("x-delivery-count")
        if not isinstance(count, int) or count < self._options.max_deliveries:
            return None
        return poison(f"the message was handed out {count} times without success")

    async def admit(self, envelope: Envelope) -> Envelope:
        """What comes before the route's first step: messages that may not reach it are refused,
        events are read. Raises Permanent."""
        if (refusal := _refusal.get()) is not None:
            raise refusal
        return adopt(envelope) if self._options.cloudevents else envelope

    # --- settling ---

    async def _ack(self, delivery: Delivery) -> None:
        delivery.channel.ack(delivery.tag)
        if self._failures:
            self._failures.pop(self._identity(delivery), None)
        self._ended(delivery)

    async def _refuse(self, delivery: Delivery, envelope: Envelope, failure: Permanent) -> None:
        log.warning("message refused", **self._about(envelope), reason=failure.detail)
        if self._position is None:
            delivery.channel.reject(delivery.tag)
        else:
            await self._ack(delivery)

    async def _give_back(self, delivery: Delivery) -> None:
        # A stream takes nothing back, nor needs to: what did not end is read again.
        if self._position is None:
            delivery.channel.nack(delivery.tag)

    def _ended(self, delivery: Delivery) -> None:
        if self._position is not None and (offset := self._offset(delivery)) is not None:
            self._position.ended(offset)

    def _about(self, envelope: Envelope) -> dict[str, Any]:
        return {"route": self._route, "queue": self._options.queue, "message": envelope.id}

    async def _hold(self, delivery: Delivery, envelope: Envelope, failure: EsbError) -> None:
        """Keep a message a while, longer each time, so that it does not spin."""
        identity = self._identity(delivery)
        backoff = self._failures.get(identity)
        if backoff is None:
            backoff = self._failures[identity] = Backoff(self._options.hold)
            if len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)
        pause = backoff.next()
        if isinstance(failure, Transient) and failure.retry_after is not None:
            pause = min(max(pause, failure.retry_after), self._options.hold.longest)
        log.warning(
            "message held, then tried again",
            **self._about(envelope),
            reason=failure.detail,
            pause=round(pause, 1),
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()

    def _offset(self, delivery: Delivery) -> int | None:
        return None if self._position is None else stream_offset(delivery)

    def _identity(self, delivery: Delivery) -> str:
        """What a message that comes again is known by, also after a restart."""
        if (offset := self._offset(delivery)) is not None:
            return str(offset)
        if delivery.properties.message_id:
            return delivery.properties.message_id
        return f"{delivery.routing_key} {hashlib.sha256(delivery.body).hexdigest()}"
