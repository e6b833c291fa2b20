"""The edge to aio-pika: one connection and its channels, which die once and stay dead.

Reconnecting is the business of `link.py`; here a loss is an event that every waiting caller hears
at once, whatever the library still has to tidy up. Its errors become the bus's, typed by what is
known about the message:

    Unreachable   nothing was written: there is no connection or channel any more
    TimedOut      written, and no confirm came; publishing again is safe with the same message id
    Overloaded    nothing was written: the broker blocks publishers (its alarms)
    Rejected      the broker returned the message, no queue takes it; or we may not publish there
    Nacked        the broker answered with a nack (a Transient)
    ChannelClosed the broker closed the channel and said why (a Transient with its reply code)

What a publisher hears is written for the sender of the message; what the broker said, and names of
exchanges and queues, are in a note (`EsbError.noted`). What goes wrong while a connection or a
channel is made is told in full, because it goes to health and logs alone.

Connections, channels and declarations are aio-pika's. Messages, confirms and acknowledgements go
between `frames.py` and the wire, past aiormq, its lower half: there a message costs ten times as
much, not every property stays as it was sent, and one that cannot be read ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeVar

import aio_pika
import structlog
from aio_pika.abc import AbstractQueue, ConnectionParameter
from aiormq import exceptions as theirs
from pamqp.commands import Channel as Said
from yarl import URL

from esb import __version__
from esb.deadlines import TimeLimit
from esb.errors import (
    BadMessage,
    Denied,
    EsbError,
    Overloaded,
    Rejected,
    TimedOut,
    TooLarge,
    Transient,
    Unreachable,
)
from esb_amqp.frames import MAX_BODY, Frames, Settlements, publishing
from esb_amqp.properties import Properties
from esb_amqp.wire import Address, Wire

for _name in ("aiormq.connection", "aiormq.channel"):
    # A loss is told by the link, once; they tell it with a traceback for each channel.
    logging.getLogger(_name).setLevel(logging.CRITICAL)

log = structlog.get_logger("esb.amqp")

RPC_TIMEOUT: Final = 20.0
CLOSE_TIMEOUT: Final = 3.0
_LARGE: Final = 65_536
_TOO_LARGE: Final = re.compile(r"message size (\d+)")
_REPLY_CODES: Final = {
    theirs.ChannelAccessRefused: 403,
    theirs.ChannelNotFoundEntity: 404,
    theirs.ChannelLockedResource: 405,
    theirs.ChannelPreconditionFailed: 406,
}

T = TypeVar("T")


class ChannelClosed(Transient):
    """The broker closed the channel; `reply_code` is its reason (404 not found, ...)."""

    code = "channel-closed"

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(text or f"the broker closed the channel ({reply_code})")
        self.reply_code = reply_code

    @classmethod
    def told_by(cls, error: BaseException | None) -> ChannelClosed | None:
        """What the broker said, from aiormq's error, whose class tells some reply codes; None for
        any other error, and for the end of a channel that we closed."""
        if not isinstance(error, theirs.ChannelClosed):
            return None
        *code, text = error.args
        reply_code = _REPLY_CODES.get(type(error)) or (code[0] if code else 0)
        return cls(reply_code, text) if reply_code else None


class Nacked(Transient):
    """The broker could not take responsibility for the message."""


class Delivery(NamedTuple):
    """A message from a queue. Settle it on the channel that brought it, and once."""

    channel: Channel
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


class _Gone(Exception):
    """The connection or channel ended while something on it was waited for."""


async def _bounded(doing: Awaitable[T], end: asyncio.Future[Any], timeout: float) -> T:
    """What the library does, but no longer than until `end` is done. Raises _Gone, TimeoutError.

    In a task of its own: some calls never return once a connection hangs, and some end as if they
    were cancelled when it is lost, which would look like a cancellation of ours.
    """
    task = _heeded(doing)
    try:
        await asyncio.wait({task, end}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    if task.done() and not task.cancelled():
        return task.result()
    if task.done() or end.done():
        raise _Gone
    raise TimeoutError


def _heeded(doing: Awaitable[T]) -> asyncio.Future[T]:
    """A task, whose error nobody else may look at."""
    task = asyncio.ensure_future(doing)
    task.add_done_callback(lambda t: t.cancelled() or t.exception())
    return task


class _AioPikaConnection(aio_pika.Connection):
    """One whose socket is made by us."""

    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter("transport_factory", parser=lambda wire: wire, is_kwarg=True),
    )


class Connection:
    """One connection. `closed` is done, with the reason, when it is no more."""

    def __init__(self, wire: Wire, connection: aio_pika.Connection) -> None:
        self._wire = wire
        self._connection = connection
        self._number = 0
        self._tidying: asyncio.Future[None] | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self.closed = wire.closed
        self._below.closing.add_done_callback(lambda _: wire.abort("closed by the broker"))
        wire.closed.add_done_callback(lambda _: self._tidy())

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        heartbeat: float = 30.0,
        name: str = "esb",
        timeout: float = 10.0,
    ) -> Connection:
        """Connect and log in. Raises Unreachable, or Denied when the broker refuses to let us in;
        the detail is for people and holds no secret."""
        try:
            return await cls._open(address, tls, int(heartbeat), name, timeout)
        except theirs.AuthenticationError as e:
            if "EXTERNAL" not in str(e.args[0]):
                raise Denied("the broker offers no way to log in that we know") from e
        # A broker that knows the user by the client certificate alone.
        return await cls._open(address, tls, int(heartbeat), name, timeout, auth="external")

    @classmethod
    async def _open(
        cls,
        address: Address,
        tls: ssl.SSLContext | None,
        heartbeat: int,
        name: str,
        timeout: float,
        **query: str,
    ) -> Connection:
        wire = Wire(address, tls, heartbeat)
        connection = _AioPikaConnection(
            URL.build(
                scheme="amqp",  # where the broker is, the wire knows
                host="broker",
                user=address.user,
                password=address.password,
                path=f"/{address.vhost}",
                query={"heartbeat": heartbeat, **query},
            ),
            client_properties={"product": "esb", "version": __version__, "connection_name": name},
            transport_factory=wire,
        )
        opened = None
        try:
            await _bounded(connection.connect(), wire.closed, timeout)
            opened = cls(wire, connection)
            return opened
        except (EsbError, theirs.AuthenticationError):
            raise
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout:g} s") from None
        except Exception as e:
            wire.on_failure(e)
            if wire.refused:
                raise Denied(wire.refused) from e
            raise Unreachable(wire.closed.result()) from e
        finally:
            if opened is None:
                wire.abort("given up")
                await connection.close()

    @property
    def _below(self) -> Any:
        """aiormq's connection."""
        assert self._connection.transport is not None
        return self._connection.transport.connection

    @property
    def address(self) -> Address:
        """Where the broker is."""
        return self._wire.address

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that the broker takes."""
        return self._wire.frame_max

    @property
    def blocked(self) -> str:
        """Why the broker takes no messages now, "" while it does."""
        return self._wire.blocked

    def check(self) -> None:
        """Raises Unreachable if the connection is lost."""
        self._wire.check()

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Open a channel, with publisher confirms if wanted. Raises Unreachable, Overloaded."""
        self.check()
        opening = asyncio.ensure_future(self._channel(confirms))
        try:
            return await self.ask("channel.open", opening, self.closed)
        except asyncio.CancelledError:
            opening.add_done_callback(self._unwanted)
            raise

    def _unwanted(self, opening: asyncio.Future[Channel]) -> None:
        """A channel is open that nobody waits for any more."""
        if not opening.cancelled() and opening.exception() is None:
            closing = asyncio.ensure_future(opening.result().close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _channel(self, confirms: bool) -> Channel:
        channel = await self._connection.channel(
            self._free_number(), publisher_confirms=confirms, on_return_raises=confirms
        )
        return Channel(self, self._wire, channel, await channel.get_underlay_channel())

    def _free_number(self) -> int:
        """The next free one after the last: a channel that took a number over at once might get
        what was meant for the one before."""
        most = self._below.connection_tune.channel_max or 65_535
        for _ in range(most):
            self._number = self._number % most + 1
            if self._number not in self._below.channels:
                return self._number
        raise Overloaded(f"all {most} channels of the connection are in use")

    async def ask(self, what: str, doing: Awaitable[T], end: asyncio.Future[Any]) -> T:
        """The broker's answer to a method, while `end` is not done. Raises ChannelClosed if the
        broker refuses, Unreachable, Overloaded if its alarms keep it from answering, BadMessage.

        Who no longer waits for the answer does not end the question: the library would then close
        the channel without reading what is still on its way to it, and what nobody reads blocks the
        whole connection.
        """
        asked = asyncio.shield(_heeded(doing))
        try:
            return await _bounded(asked, end, RPC_TIMEOUT)
        except TimeoutError:
            if self.blocked:
                raise Overloaded(f"the broker takes no messages now: {self.blocked}") from None
            self._wire.abort(f"no answer to {what} within {RPC_TIMEOUT:g} s")
            raise Unreachable(f"no answer to {what}") from None
        except (TypeError, ValueError) as e:
            raise BadMessage(f"AMQP cannot hold what {what} says: {e}") from e
        except EsbError:
            raise
        except Exception as e:
            self.check()
            why = ChannelClosed.told_by(e) or (end.result() if end.done() else None)
            if isinstance(why, ChannelClosed):
                raise ChannelClosed(why.reply_code, why.detail) from e
            raise Unreachable(f"the channel was closed before the answer to {what}") from e

    async def close(self) -> None:
        """Say goodbye and close; never raises."""
        await asyncio.wait({self._tidy()}, timeout=CLOSE_TIMEOUT)
        self._wire.abort("closed by the bus")

    def _tidy(self) -> asyncio.Future[None]:
        """Let aio-pika close what is its own: after a loss too, or it would when collected."""
        if self._tidying is None:
            self._tidying = _heeded(self._connection.close())
        return self._tidying


class _Consumer(NamedTuple):
    on_delivery: Callable[[Delivery], None]
    on_too_large: Callable[[Delivery], None]
    settles: bool
    most: int
    """Of its messages that are not settled yet, 0 if any number."""


def _left_out(delivery: Delivery) -> None:
    log.warning("a message is too large and left out", exchange=delivery.exchange)


async def _nobody(message: Any) -> None:
    """Gets what aiormq hears of messages: nothing."""


class _Returned(NamedTuple):
    """A message came back: no queue takes it."""

    reason: str
    exchange: str
    routing_key: str

    def told(self, exchange: str, routing_key: str) -> EsbError:
        """What the publisher hears of one to there."""
        if (self.exchange, self.routing_key) != (exchange, routing_key):
            # One with the same id that was given up before; what became of this is not known.
            return TimedOut("another message with the same id came back instead of a confirm")
        where = (
            f"no queue is bound to exchange '{exchange}' for routing key '{routing_key}'"
            if exchange
            else f"there is no queue '{routing_key}'"
        )
        return Rejected("no queue takes the message").noted(
            f"unroutable: {where} ({self.reason or 'NO_ROUTE'})"
        )


_TAKEN, _NACKED, _LOST = "taken", "nacked", "lost"
_Answer = str | _Returned
"""What becomes of a message that was published. LOST: the channel ended before it was told."""


class Channel:
    """One channel. `closed` is done when it is no more: with why, or None if the connection went.

    Consumers get each Delivery as a plain call, in order.
    """

    def __init__(
        self, connection: Connection, wire: Wire, channel: aio_pika.abc.AbstractChannel, below: Any
    ) -> None:
        self._connection = connection
        self._wire = wire
        self._channel = channel
        self._below = below
        self._number: int = below.number
        self._frame_max: int = connection.frame_max
        self._consumers: dict[bytes, _Consumer] = {}
        self._settlements = Settlements(self._number)
        self._telling: asyncio.Handle | asyncio.Task[None] | None = None
        self._published = 0
        # By the numbers that the broker gives them, which grow.
        self._unconfirmed: dict[int, asyncio.Future[_Answer]] = {}
        self._by_id: dict[str, asyncio.Future[_Answer]] = {}
        self._leaving = False  # it is being closed: what the broker hears of it now is a mistake
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[ChannelClosed | None] = self._loop.create_future()
        self._frames = Frames(self)
        self._take = wire.channels[self._number] = self._frames.take
        wire.closed.add_done_callback(self._on_end)
        below.closing.add_done_callback(self._on_closed)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.closed.done()

    def check(self) -> None:
        """Raises Unreachable if the channel is no more."""
        if self.closed.done() or self._leaving:
            self._connection.check()
            why = str((self.closed.done() and self.closed.result()) or "by the bus")
            raise Unreachable("the broker closed the channel").noted(why)

    def _on_end(self, _: asyncio.Future[Any]) -> None:
        self._end(None)

    def _on_closed(self, end: asyncio.Future[Any]) -> None:
        """Nothing comes any more: aiormq is through with it, too."""
        if self._wire.channels.get(self._number) == self._take:
            del self._wire.channels[self._number]
        self._end(None if end.cancelled() else ChannelClosed.told_by(end.exception()))

    def _end(self, why: ChannelClosed | None) -> None:
        self._wire.closed.remove_done_callback(self._on_end)
        if self.closed.done():
            return
        self.closed.set_result(why)
        if self._telling is not None:
            self._telling.cancel()
        for confirm in self._unconfirmed.values():
            if not confirm.done():
                confirm.set_result(_LOST)

    # --- asking the broker ---

    async def _ask(self, what: str, doing: Awaitable[T]) -> T:
        return await self._connection.ask(what, doing, self.closed)

    async def qos(self, prefetch: int) -> None:
        """At most `prefetch` unsettled messages for each consumer that follows."""
        await self._ask("basic.qos", self._channel.set_qos(prefetch))

    async def declare_queue(self, name: str, **options: Any) -> AbstractQueue:
        """Make sure that the queue exists; the options are aio-pika's."""
        return await self._ask("queue.declare", self._channel.declare_queue(name, **options))

    async def declare_exchange(self, name: str, type: str = "direct", **options: Any) -> None:
        """Make sure that the exchange exists, durable unless the options say otherwise."""
        declaring = self._channel.declare_exchange(name, type, **{"durable": True} | options)
        await self._ask("exchange.declare", declaring)

    async def bind_queue(
        self, queue: AbstractQueue, exchange: str, routing_key: str, arguments: dict[str, Any]
    ) -> None:
        """Bind a queue to an exchange."""
        await self._ask("queue.bind", queue.bind(exchange, routing_key, arguments=arguments))

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        tag: str,
        on_cancel: Callable[[], None] = lambda: None,
        on_too_large: Callable[[Delivery], None] = _left_out,
        max_body: int = MAX_BODY,
        most: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a consumer. `on_cancel` is called when the broker ends it (its queue is gone),
        `on_too_large` with a message, without its body, of more than `max_body` bytes: of all on
        this channel, from now on. most: more that are not settled end the connection."""
        self._frames.max_body = max_body
        self._consumers[tag.encode()] = _Consumer(on_delivery, on_too_large, not no_ack, most)
        self._below.on_consumer_cancel_callbacks.add(lambda _: on_cancel())
        consuming = self._below.basic_consume(
            queue,
            _nobody,
            no_ack=no_ack,
            exclusive=exclusive,
            arguments=dict(arguments or {}),
            consumer_tag=tag,
        )
        await self._ask("basic.consume", consuming)

    async def cancel(self, tag: str) -> None:
        """End a consumer; no delivery comes after this returned."""
        await self._ask("basic.cancel", self._below.basic_cancel(tag))

    async def close(self) -> None:
        """Close in order: what was settled before is settled. Never raises."""
        if not self.closed.done() and not self._leaving:
            self._tell()
            self._wire.flush()
        self._leaving = True
        if not self.closed.done():
            # It goes on after that time: to end it in the middle is to close the channel twice.
            closing = asyncio.shield(_heeded(self._channel.close()))
            with contextlib.suppress(Exception):
                await _bounded(closing, self._wire.closed, CLOSE_TIMEOUT)
            self._end(None)

    # --- what the broker says (frames.Receiver) ---

    def delivered(
        self,
        consumer: bytes,
        tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes | None,
    ) -> None:
        """A message; while the channel is being closed it goes back."""
        taking = self._consumers.get(consumer)
        if taking is None or self._leaving:
            return
        if taking.settles:
            self._settlements.expect(tag)
            if 0 < taking.most < self._settlements.expected:
                raise ValueError("more messages than were asked for")
        take = taking.on_delivery
        if body is None:
            take, body = taking.on_too_large, b""
        take(Delivery(self, tag, redelivered, exchange, routing_key, properties, body))

    def returned(
        self,
        reason: str,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes | None,
    ) -> None:
        """The answer to a message that no queue takes; its confirm tells nothing more."""
        confirm = self._by_id.get(properties.message_id)
        if confirm is not None and not confirm.done():
            confirm.set_result(_Returned(reason, exchange, routing_key))

    def confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        """The answer to one message, or to all up to that one."""
        unconfirmed = self._unconfirmed
        tags = [tag]
        if multiple:
            tags = list(takewhile(lambda one: one <= tag, unconfirmed))
        for one in tags:
            confirm = unconfirmed.pop(one, None)
            if confirm is not None and not confirm.done():
                confirm.set_result(_TAKEN if taken else _NACKED)

    def ended(self, frame: bytes) -> None:
        """The broker closes the channel; aiormq agrees, and not a word may be said before."""
        closing = Said.Close()
        try:
            closing.unmarshal(frame[4:])
        except Exception as e:
            raise ValueError("an end that cannot be read") from e
        self._end(ChannelClosed(closing.reply_code or 0, closing.reply_text or ""))

    def unreadable(self, names: list[str]) -> None:
        """A message has lost properties."""
        log.warning(
            "properties of a message cannot be read and are left out",
            broker=str(self._wire.address),
            properties=names,
        )

    # --- settling: on a channel that is gone nothing happens, and the message comes again ---

    def ack(self, tag: int) -> None:
        """Acknowledge."""
        if not self._leaving:
            self._settlements.ack(tag)
            self._tell_soon()

    def nack(self, tag: int) -> None:
        """Give a message back to its queue."""
        self._reject(tag, requeue=True)

    def reject(self, tag: int) -> None:
        """Refuse a message: to the queue's dead-letter exchange, or to nowhere if it has none."""
        self._reject(tag, requeue=False)

    def _reject(self, tag: int, *, requeue: bool) -> None:
        if not self._leaving:
            self._settlements.reject(tag, requeue)
            self._tell_soon()

    def _tell_soon(self) -> None:
        """At the end of this turn of the loop: those that are settled in it are told together."""
        if self._telling is None:
            if self._wire.paused:
                self._telling = self._loop.create_task(self._tell_when_writable())
            else:
                self._telling = self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        if not self._leaving and not self.closed.done() and self._settlements:
            self._wire.write((self._settlements.frames(),))
            self._wire.flush()

    async def _tell_when_writable(self) -> None:
        try:
            await self._wire.drained(RPC_TIMEOUT)
        except TimeoutError:
            self._wire.abort(f"no byte was taken for {RPC_TIMEOUT:g} s")
        self._tell()

    # --- publishing ---

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
        *,
        mandatory: bool = True,
        timeout: float = 10.0,
    ) -> None:
        """Return when the broker has confirmed the message; many may wait at the same time.

        Raises what the module's docstring lists, and BadMessage when AMQP cannot hold it, TooLarge
        when the broker would not.
        """
        try:
            frames = publishing(
                self._number, exchange, routing_key, mandatory, properties, body, self._frame_max
            )
        except ValueError as e:
            raise BadMessage(f"AMQP cannot hold the message: {e}") from e
        loop, own = self._loop, properties.message_id
        until = loop.time() + timeout
        late = f"the broker did not confirm within {timeout:.3g} s"
        while self._wire.busy or own in self._by_id:
            await self._wire.writable(until - loop.time())
            # One that comes back is known by its id: those with the same one take turns.
            if (other := self._by_id.get(own)) is not None:
                await asyncio.wait((other,), timeout=max(0.0, until - loop.time()))
                if not other.done():
                    raise TimedOut(late)
        self.check()
        confirm = loop.create_future()
        self._published += 1
        self._unconfirmed[self._published] = self._by_id[own] = confirm
        self._wire.write(frames)
        if len(body) > _LARGE:
            self._wire.flush()  # the next one is to hear of a socket that takes no more
        try:
            with TimeLimit(until - loop.time()):
                answer = await confirm
        except TimeoutError:
            raise TimedOut(late) from None
        finally:
            del self._by_id[own]
        if answer is not _TAKEN:
            raise self._told(answer, exchange, routing_key, len(body))

    async def idle(self) -> None:
        """Return when nobody waits for a confirm any more."""
        while self._by_id:
            await asyncio.wait(tuple(self._by_id.values()))

    def _told(self, answer: _Answer, exchange: str, routing_key: str, size: int) -> EsbError:
        """What a publisher hears whose message was not taken."""
        if answer is _NACKED:
            return Nacked("the broker could not take the message")
        if isinstance(answer, _Returned):
            return answer.told(exchange, routing_key)
        return self._gone(size)

    def _gone(self, size: int) -> EsbError:
        """What a publisher hears that waits for its confirm when the channel goes."""
        why = self.closed.result()
        if why is None:
            lost = self._wire.closed
            if not lost.done():
                return TimedOut("the channel was closed before the broker confirmed the message")
            text = "the connection to the broker was lost before it confirmed the message"
            return TimedOut(text).noted(lost.result())
        too_large = _TOO_LARGE.search(why.detail)
        if why.reply_code == 406 and too_large and int(too_large[1]) == size:
            return TooLarge("the message is larger than the broker takes").noted(why.detail)
        if why.reply_code == 403:
            return Rejected("the broker does not let the bus publish there").noted(why.detail)
        text = "the broker closed the channel before it confirmed the message"
        return ChannelClosed(why.reply_code, text).noted(why.detail)
