"""Publishing: one-way with the broker's confirm, and request-reply."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from esb.adapter import Build, Text
from esb.clock import current
from esb.envelope import Envelope, parse_content_type
from esb.errors import BadMessage, Fault, OutcomeUnknown, RouteFailure, TimedOut, Unreachable
from esb.step import SpanFacts
from esb_amqp.answers import PROBLEM
from esb_amqp.client import Channel, Delivery, Nacked
from esb_amqp.events import as_event
from esb_amqp.link import Lane, Link, shared_link
from esb_amqp.mapping import from_delivery, refused_header, to_properties
from esb_amqp.options import (
    CallerOptions,
    ExchangeDeclaration,
    QueueDeclaration,
    SinkOptions,
    TargetOptions,
    milliseconds,
)
from esb_amqp.properties import Properties
from esb_amqp.rehearsal import PlayedBroker

REPLIES: Final = "amq.rabbitmq.reply-to"
"""The pseudo-queue of https://www.rabbitmq.com/docs/direct-reply-to."""


async def declare_queue(channel: Channel, name: str, declaration: QueueDeclaration) -> None:
    """Declare a queue and its bindings."""
    queue = await channel.declare_queue(
        name,
        durable=declaration.durable,
        exclusive=declaration.exclusive,
        auto_delete=declaration.auto_delete,
        arguments=declaration.all_arguments(),
    )
    for binding in declaration.bind:
        if binding.type is not None:
            await channel.declare_exchange(binding.exchange, binding.type)
        await channel.bind_queue(queue, binding.exchange, binding.routing_key, binding.arguments)


def spans(what: str, kind: str, name: str) -> SpanFacts:
    """What telemetry tells of an endpoint (Semantic Conventions, RabbitMQ). A name that a message
    makes is none of few, so it is told as its template."""
    return SpanFacts(
        kind,
        f"{what} {name or '(default)'}",
        {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": what,
            "messaging.operation.type": what,
            "messaging.destination.name": name,
        },
    )


class _Target:
    """Where and how an endpoint publishes, compiled from its options."""

    def __init__(self, options: TargetOptions, build: Build, kind: str) -> None:
        self.options = options
        self.exchange = options.exchange or ""
        by_queue = options.queue is not None
        self._key: Text = (
            build.text(options.queue or "", "queue")
            if by_queue
            else build.text(options.routing_key, "routing_key")
        )
        where = f"queue {options.queue}" if by_queue else f"exchange {options.exchange}"
        build.channel(f"amqp {where}", outside=True)
        build.span(spans("send", kind, (options.queue if by_queue else options.exchange) or ""))
        build.promises("repeats", better="`skip_seen` where it is read")
        self._by_queue = by_queue
        self._allowed: tuple[str, ...] | None = None
        if by_queue and (options.queue or "").startswith("{{"):
            self._allowed = tuple(options.allow_queues)
            if not self._allowed:
                build.problem(
                    "a message would choose the queue", "queue",
                    hint="name the queues it may choose in `allow_queues`",
                )  # fmt: skip
        self._own: list[tuple[str, Text]] = []
        for name, value in options.headers.items():
            if refused_header(name):
                build.problem(f"{name} cannot be set here", "headers", name, key=True)
                continue
            self._own.append((name, build.text(value, "headers", name)))
        self._forward = _forward(options.forward_headers)
        self.what = f"exchange '{self.exchange}'" if self.exchange else f"queue '{options.queue}'"
        self.id = options.declare.model_dump_json() if options.declare else ""

    def key(self, envelope: Envelope) -> str:
        """The routing key. Raises RouteFailure; BadMessage for a queue that is not allowed."""
        key = self._key(envelope)
        if self._by_queue and not key:
            raise RouteFailure("the name of the queue to publish to is empty")
        if self._allowed is not None and not key.startswith(self._allowed):
            raise BadMessage("the message asked for a queue that the route does not allow")
        return key

    def message(
        self, envelope: Envelope, expiration: float | None = None
    ) -> tuple[Properties, bytes]:
        """Properties and body to publish. Raises RouteFailure, and what writing a body raises."""
        headers: dict[str, Any] = {}
        if self.options.cloudevents is not None:
            envelope, headers = as_event(envelope, self.options.cloudevents)
        headers.update((name, text(envelope)) for name, text in self._own)
        properties = to_properties(
            envelope,
            forward=self._forward,
            own=headers,
            persistent=self.options.persistent,
            priority=self.options.priority,
            expiration=expiration,
        )
        return properties, envelope.body.raw

    async def prepare(self, channel: Channel) -> None:
        """Declare what is to be declared; otherwise check that the exchange exists."""
        declaration = self.options.declare
        if isinstance(declaration, QueueDeclaration):
            await declare_queue(channel, self.options.queue or "", declaration)
        elif isinstance(declaration, ExchangeDeclaration):
            await channel.declare_exchange(
                self.exchange,
                declaration.type,
                durable=declaration.durable,
                auto_delete=declaration.auto_delete,
                arguments=declaration.all_arguments(),
            )
        elif self.exchange:
            await channel.declare_exchange(self.exchange, passive=True)


def _forward(option: bool | list[str]) -> Callable[[str], bool] | None:
    if option is True:
        return None
    names = frozenset(name.lower() for name in option or ())
    return names.__contains__


class AmqpSink:
    """Channel adapter, one-way: `send: {amqp: ...}`. Many sends wait for their confirms at once."""

    def __init__(self, options: SinkOptions, build: Build) -> None:
        self._options = options
        self._target = _Target(options, build, "producer")
        settings, tls = options.settings(build)
        link = shared_link(build, "out", settings, tls)
        far_side = build.stand_in()
        self._played = PlayedBroker(far_side) if far_side is not None else None
        self._exchange, what = self._target.exchange, self._target.what
        if options.delay is not None:
            # One for each target: what a queue that is missing keeps back must block no other.
            key = options.queue or options.routing_key
            key = "" if "{{" in key else key
            self._exchange = delay_queue(self._target.exchange, key, options.delay)
            what += f" after {options.delay:g} s"
        # The same exchange or queue is one lane, whichever routes publish to it.
        self._lane = build.shared(
            (f"amqp {what} at {settings.broker}", settings, self._target.id),
            lambda: Lane(link, what, self._prepare, confirms=True),
        )

    async def _prepare(self, channel: Channel) -> None:
        await self._target.prepare(channel)
        if self._options.delay is not None:
            await declare_delay(channel, self._exchange, self._target.exchange, self._options.delay)

    async def send(self, envelope: Envelope) -> None:
        """Publish and return when the broker has confirmed.

        Raises Unreachable (nothing was sent), TimedOut (sent, not confirmed: sending again is safe,
        the message id is the same), Overloaded, Rejected (no queue takes it), TooLarge.
        """
        options = self._options
        timeout = _remaining(options.timeout, envelope)
        until = time.monotonic() + timeout
        key = self._target.key(envelope)
        properties, body = self._target.message(envelope, options.expiration)
        if self._played is not None:
            await self._played.publish(self._target.exchange, key, properties, body, timeout)
            return
        channel = await self._lane.channel(timeout)
        try:
            await channel.publish(
                self._exchange,
                key,
                properties,
                body,
                mandatory=options.mandatory,
                timeout=max(0.0, until - time.monotonic()),
            )
        except Nacked:
            self._lane.renew(channel)
            raise


def delay_queue(exchange: str, key: str, delay: float) -> str:
    """The name of the queue, and of the exchange in front of it, where messages for a target wait
    for so long. key: "" where each message has its own."""
    digest = hashlib.sha256(f"{exchange}\0{key}".encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_-]", ".", key or exchange or "queues")[:60]
    return f"esb.delay.{milliseconds(delay)}ms.{readable}.{digest}"


async def declare_delay(channel: Channel, name: str, exchange: str, delay: float) -> None:
    """Declare what delays messages for an exchange, with no plug-in: a queue where they expire and
    are dead-lettered to that exchange, with the routing key they came with.

    The fanout exchange in front of it leaves them that key. From one queue to the other the broker
    moves them with confirms, which needs a quorum queue that refuses what it cannot hold
    (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering). It is not
    told to expire when idle: idle is also one that holds messages for a target that is away.
    """
    await channel.declare_exchange(name, "fanout")
    queue = await channel.declare_queue(
        name,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-message-ttl": milliseconds(delay),
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    await channel.bind_queue(queue, name, "", {})


class _Replies(Lane):
    """A channel that asks and hears the replies, which the broker ties to the channel that asked.

    waiting: who waits, by correlation id.
    """

    def __init__(self, link: Link, target: _Target) -> None:
        self.waiting: dict[str, asyncio.Future[Delivery]] = {}
        self._target = target
        super().__init__(link, target.what, self._consume, confirms=True)

    async def _consume(self, channel: Channel) -> None:
        await self._target.prepare(channel)
        await channel.consume(REPLIES, self._on_reply, tag="replies", no_ack=True)

    async def _idle(self, channel: Channel) -> None:
        await super()._idle(channel)
        if self.waiting:
            await asyncio.wait(tuple(self.waiting.values()))

    def _on_reply(self, delivery: Delivery) -> None:
        waiting = self.waiting.get(delivery.properties.correlation_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(delivery)


class AmqpCaller:
    """Request-reply: `call: {amqp: ...}`, over the broker's direct reply-to."""

    def __init__(self, options: CallerOptions, build: Build) -> None:
        self._options = options
        self._target = _Target(options, build, "client")
        far_side = build.stand_in()
        self._played = PlayedBroker(far_side) if far_side is not None else None
        settings, tls = options.settings(build)
        link = shared_link(build, "out", settings, tls)
        self._replies = build.shared(
            (f"amqp calls to {self._target.what} at {settings.broker}", settings, self._target.id),
            lambda: _Replies(link, self._target),
        )

    async def call(self, envelope: Envelope) -> Envelope:
        """Publish the request and return its reply.

        Raises what `send` raises; Fault for a reply that is a problem (RFC 9457); and when the
        request was taken and no reply came, OutcomeUnknown, or TimedOut if that is idempotent.
        """
        options = self._options
        timeout = _remaining(options.timeout, envelope)
        until = time.monotonic() + timeout
        key = self._target.key(envelope)
        correlation = uuid.uuid4().hex
        # Nobody waits for the answer any more after the timeout.
        properties, body = self._target.message(envelope, timeout)
        properties.reply_to = REPLIES
        properties.correlation_id = correlation
        if self._played is not None:
            try:
                told = self._played.publish(self._target.exchange, key, properties, body, timeout)
                return _answer(envelope, await told)
            except TimedOut as e:
                if options.idempotent:
                    raise
                raise _unknown(e) from e
        channel = await self._replies.channel(timeout)
        reply = self._replies.waiting[correlation] = asyncio.get_running_loop().create_future()
        try:
            await channel.publish(
                self._target.exchange,
                key,
                properties,
                body,
                timeout=max(0.0, until - time.monotonic()),
            )
            return _answer(envelope, await self._reply(reply, channel, until, timeout))
        except Nacked:
            self._replies.renew(channel)
            raise
        except TimedOut as e:
            if options.idempotent:
                raise
            raise _unknown(e) from e
        finally:
            self._replies.waiting.pop(correlation).cancel()

    async def _reply(
        self, reply: asyncio.Future[Delivery], channel: Channel, until: float, timeout: float
    ) -> Delivery:
        left = max(0.0, until - time.monotonic())
        either: list[asyncio.Future[Any]] = [reply, channel.closed]
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if reply.done():
            return reply.result()
        reply.cancel()
        if not channel.is_open:
            try:
                channel.check()
            except Unreachable as e:
                raise TimedOut(f"{e.detail} before the reply came").noted(*e.notes) from e
        raise TimedOut(f"no reply within {timeout:g} s")


def _unknown(error: TimedOut) -> OutcomeUnknown:
    return OutcomeUnknown(error.detail).noted(*error.notes)


def _answer(envelope: Envelope, delivery: Delivery) -> Envelope:
    answer = from_delivery(delivery, REPLIES)
    if parse_content_type(answer.content_type).essence == PROBLEM:
        problem = answer.body.data if isinstance(answer.body.data, dict) else {}
        raise Fault(
            str(problem.get("detail") or problem.get("title") or "the service answered an error"),
            party="sender" if str(problem.get("status", ""))[:1] == "4" else "receiver",
            type=str(problem.get("type", "")),
            data=problem,
        )
    return envelope.reply(answer.body, answer.headers, answer.params["amqp"])


def _remaining(timeout: float, envelope: Envelope) -> float:
    """Seconds left: `timeout`, or less if the caller's deadline comes first."""
    if envelope.deadline is None:
        return timeout
    return max(0.0, min(timeout, envelope.deadline - current.get().monotonic()))
