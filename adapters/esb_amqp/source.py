"""Consuming a queue: each message is settled after the route is through with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import Any, Final

import msgspec
import structlog

from esb.adapter import Build, Health
from esb.envelope import NO_BODY, Body, Envelope, Outcome
from esb.errors import BadMessage, EsbError, Permanent, Rejected, Transient
from esb.step import Step
from esb_amqp.client import Channel, Delivery
from esb_amqp.link import Backoff, Lane, shared_link
from esb_amqp.mapping import from_delivery, to_properties
from esb_amqp.options import SourceOptions
from esb_amqp.sink import PROBLEM, declare_queue

log = structlog.get_logger("esb.amqp")

_TAG: Final = "esb"
_REMEMBERED: Final = 10_000
_REPLY_TIMEOUT: Final = 10.0


class AmqpSource:
    """Channel adapter, inbound: `from: {amqp: ...}`.

    The step returning acknowledges; Transient holds the message a while and gives it back;
    Permanent refuses it. What is settled is always settled on the channel that brought it: after a
    loss the broker hands it out again.
    """

    waits = False

    def __init__(self, options: SourceOptions, build: Build) -> None:
        self._options = options
        self._route = build.route
        self.where = f"amqp queue {options.queue}"
        settings, tls = options.settings(build)
        link = shared_link(build, "in", settings, tls)
        self._lane = Lane(link, f"queue '{options.queue}'", self._consume)
        self._step: Step | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._failures: OrderedDict[object, Backoff] = OrderedDict()
        self._turn = asyncio.Lock() if options.order else None
        # Opened when the first reply is due.
        out = shared_link(build, "out", settings, tls)
        self._replies = Lane(out, "replies", _nothing, confirms=True)

    async def start(self, step: Step) -> None:
        """Begin to consume; a broker that is not there yet is waited for."""
        self._step = step
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
        await self._replies.close()

    def health(self) -> Health:
        """Whether the queue is being consumed."""
        return self._lane.health()

    # --- consuming ---

    async def _consume(self, channel: Channel) -> None:
        options = self._options
        if self._stopping.is_set():
            return
        if options.declare is not None:
            await declare_queue(channel, options.queue, options.declare)
        # Of messages that are here already, the later ones would overtake one that goes back.
        await channel.qos(1 if options.order else options.prefetch)

        def cancelled() -> None:
            # A queue that is deleted or moves: the lane opens a new channel and says what it sees.
            asyncio.ensure_future(channel.close())  # noqa: RUF006 - the lane watches the channel

        await channel.consume(
            options.queue,
            self._on_delivery,
            tag=_TAG,
            on_cancel=cancelled,
            exclusive=options.exclusive,
            arguments=options.arguments,
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        task = asyncio.ensure_future(self._handle(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, delivery: Delivery) -> None:
        """Run the step on one message and settle it."""
        try:
            if self._stopping.is_set():
                await delivery.channel.nack(delivery.tag)
            elif self._turn is None:
                await self._run(delivery)
            else:
                # After a loss the message comes again while its first run may still be going on.
                async with self._turn:
                    await self._run(delivery)
        except asyncio.CancelledError:
            await delivery.channel.nack(delivery.tag)
            raise

    async def _run(self, delivery: Delivery) -> None:
        assert self._step is not None
        reply_to = self._reply_to(delivery)
        envelope = from_delivery(delivery, self._options.queue).replace(reply_to=reply_to)
        failure: EsbError | None = None
        answer = envelope
        try:
            answer = await self._step(envelope)
        except EsbError as e:
            failure = e
        except Exception as e:
            log.error("the route broke on a message", **self._about(envelope), exc_info=e)
            failure = EsbError("the route broke on the message")
        if reply_to:
            # Who asked is told, also of a failure, and may ask again: nothing is left to do.
            failure = await self._reply(delivery, envelope, failure or answer)
        await self._settle(delivery, envelope, failure)

    async def _settle(
        self, delivery: Delivery, envelope: Envelope, failure: EsbError | None
    ) -> None:
        channel, tag = delivery.channel, delivery.tag
        if failure is None:
            await channel.ack(tag)
            if self._failures:
                self._failures.pop(_identity(delivery), None)
        elif isinstance(failure, Permanent) and self._options.reject == "dead":
            log.warning("message refused", **self._about(envelope), reason=failure.detail)
            await channel.reject(tag)
        else:
            await self._hold(delivery, envelope, failure)

    def _about(self, envelope: Envelope) -> dict[str, Any]:
        return {"route": self._route, "queue": self._options.queue, "message": envelope.id}

    async def _hold(self, delivery: Delivery, envelope: Envelope, failure: EsbError) -> None:
        """Give a message back after a while, longer each time, so that it does not spin."""
        identity = _identity(delivery)
        backoff = self._failures.get(identity)
        if backoff is None:
            backoff = self._failures[identity] = Backoff(self._options.hold)
            if len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)
        pause = backoff.next()
        if isinstance(failure, Transient) and failure.retry_after is not None:
            pause = min(max(pause, failure.retry_after), self._options.hold.longest)
        log.warning(
            "message held, then given back to its queue",
            **self._about(envelope),
            reason=failure.detail,
            pause=round(pause, 1),
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()
        await delivery.channel.nack(delivery.tag)

    # --- answering ---

    def _reply_to(self, delivery: Delivery) -> str:
        """The queue to answer to: only one of a kind that was allowed, never any other."""
        wanted = delivery.properties.reply_to
        if not wanted:
            return ""
        if wanted.startswith(tuple(self._options.reply_to)):
            return wanted
        log.warning(
            "reply_to of a sender ignored: its queue is none that the route allows",
            route=self._route,
            queue=self._options.queue,
            reply_to=wanted,
        )
        return ""

    async def _reply(
        self, delivery: Delivery, envelope: Envelope, result: Envelope | EsbError
    ) -> EsbError | None:
        """Publish what came of the message to who asked; returns why that failed, if it did."""
        try:
            try:
                body = _answer_body(envelope, result)
                raw = body.raw
            except EsbError as e:
                body = _problem(envelope, e)
                raw = body.raw
            answer = result if isinstance(result, Envelope) else envelope.reply(body)
            properties = to_properties(answer.replace(body=body), persistent=False)
            properties.correlation_id = delivery.properties.correlation_id or envelope.id
            properties.priority = delivery.properties.priority
            await self._replies.open()
            channel = await self._replies.channel(_REPLY_TIMEOUT)
            await channel.publish("", envelope.reply_to, properties, raw, timeout=_REPLY_TIMEOUT)
        except Rejected:
            log.info("nobody waits for the reply any more", **self._about(envelope))
        except EsbError as e:
            return e
        return None


def _answer_body(envelope: Envelope, result: Envelope | EsbError) -> Body:
    if isinstance(result, EsbError):
        return _problem(envelope, result)
    if result.outcome is Outcome.DEAD:
        kept = EsbError("the message was set aside with the reason; it is not lost")
        kept.code = "dead-letter"
        return _problem(envelope, kept)
    if result.outcome is Outcome.ACCEPTED:
        return Body(msgspec.json.encode({"id": envelope.id}), "application/json")
    if result.outcome is Outcome.FILTERED:
        return NO_BODY
    return result.body


def _problem(envelope: Envelope, error: EsbError) -> Body:
    """An error as problem+json (RFC 9457)."""
    problem: dict[str, Any] = {
        "type": f"urn:esb:problem:{error.code}",
        "title": "The message could not be processed",
        "status": 400 if isinstance(error, BadMessage) else 500,
        "detail": error.detail,
        "id": envelope.id,
    }
    if isinstance(error, BadMessage) and error.errors:
        problem["errors"] = error.errors
    return Body(msgspec.json.encode(problem, enc_hook=str), PROBLEM)


def _identity(delivery: Delivery) -> object:
    """What a message that comes again is known by."""
    return delivery.properties.message_id or (delivery.routing_key, hash(delivery.body))


async def _nothing(channel: Channel) -> None:
    """There is nothing to prepare."""
