"""An AMQP 0-9-1 client: one connection and its channels, which die once and stay dead.

Reconnecting is the business of `link.py`; here a loss is an event that every waiting caller hears
at once. Errors are the bus's own, typed by what is known about the message:

    Unreachable   nothing was written: there is no connection or channel any more
    TimedOut      written, and no confirm came; publishing again is safe with the same message id
    Overloaded    nothing was written: the broker blocks publishers (its alarms)
    Rejected      the broker returned the message: no queue takes it
    Transient     the broker answered with a nack
    ChannelClosed the broker closed the channel and said why (a Transient with its reply code)

Own rather than a library's, for what a bus cannot do without: the message that was returned is
found even when two with the same id are in flight, no property that a publisher may write breaks
the connection, header values keep their type and precision, and a lost connection never hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from esb import __version__
from esb.errors import Denied, Overloaded, Rejected, TimedOut, TooLarge, Transient, Unreachable
from esb_amqp import wire
from esb_amqp.wire import Method, Properties

RPC_TIMEOUT: Final = 20.0
CLOSE_TIMEOUT: Final = 3.0
FRAME_MAX: Final = 131_072
_TOO_LARGE = re.compile(r"message size (\d+)")
_Waiter = asyncio.Future[list[Any]]


class Address(msgspec.Struct, frozen=True):
    """Where a broker is and how to log in."""

    host: str
    port: int
    vhost: str = "/"
    user: str = "guest"
    password: str = "guest"  # noqa: S105 - RabbitMQ's own default, for localhost only
    tls: bool = False

    def __str__(self) -> str:
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.vhost.lstrip('/')}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


class ChannelClosed(Transient):
    """The broker closed the channel; `reply_code` is its reason (404 not found, ...)."""

    code = "channel-closed"

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(text or f"the broker closed the channel ({reply_code})")
        self.reply_code = reply_code


class Delivery(NamedTuple):
    """A message from a queue. Settle it on the channel that brought it, and once."""

    channel: Channel
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


class _Publish:
    """A message on its way to the broker."""

    __slots__ = ("confirmed", "exchange", "message_id", "returned", "routing_key", "size")

    def __init__(
        self,
        confirmed: asyncio.Future[None],
        exchange: str,
        routing_key: str,
        message_id: str,
        size: int,
    ) -> None:
        self.confirmed = confirmed
        self.exchange = exchange
        self.routing_key = routing_key
        self.message_id = message_id
        self.size = size
        self.returned = ""


class Connection(asyncio.Protocol):
    """One connection. `closed` is done, with the reason, when it is no more."""

    def __init__(self, address: Address, heartbeat: float, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._name = name
        self._heartbeat = heartbeat
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._channels: dict[int, Channel] = {}
        self._channel_max = 2047
        self._waiting: _Waiter | None = None
        self._wanted: Method = wire.CONNECTION_START
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._said = self._loop.time()
        self._paused: asyncio.Future[None] | None = None
        self.frame_max = FRAME_MAX
        self.blocked = ""
        """Why the broker takes no messages now, "" while it does."""
        self.closed: asyncio.Future[str] = self._loop.create_future()

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
        loop = asyncio.get_running_loop()
        connection = cls(address, heartbeat, name)
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(
                    lambda: connection, address.host, address.port, ssl=tls
                )
                await connection._log_in()
        except TimeoutError:
            connection.abort("no answer")
            raise Unreachable(f"no answer within {timeout:g} s") from None
        except (OSError, UnicodeError) as e:
            raise Unreachable(_why(e)) from e
        except BaseException:
            connection.abort("given up")
            raise
        return connection

    async def _log_in(self) -> None:
        """The handshake of section 2.2.4."""
        self._send(wire.PROTOCOL_HEADER)
        start = await self._wait(wire.CONNECTION_START)
        mechanisms = start[3].split() if isinstance(start[3], str) else []
        plain = f"\0{self._address.user}\0{self._address.password}"
        # A broker that knows the user by the client certificate alone offers only EXTERNAL.
        mechanism = "PLAIN" if "PLAIN" in mechanisms else "EXTERNAL"
        properties = {
            "product": "esb",
            "version": __version__,
            "connection_name": self._name,
            "capabilities": {
                "authentication_failure_close": True,
                "basic.nack": True,
                "connection.blocked": True,
                "consumer_cancel_notify": True,
                "publisher_confirms": True,
            },
        }
        response = plain if mechanism == "PLAIN" else ""
        self._method(0, wire.CONNECTION_START_OK, properties, mechanism, response, "en_US")
        channel_max, frame_max, heartbeat = await self._wait(wire.CONNECTION_TUNE)
        self._channel_max = min(channel_max or 65_535, 65_535)
        self.frame_max = min(frame_max or FRAME_MAX, FRAME_MAX)
        beats = [beat for beat in (int(self._heartbeat), heartbeat) if beat]
        self._heartbeat = min(beats, default=0)
        self._method(
            0, wire.CONNECTION_TUNE_OK, self._channel_max, self.frame_max, int(self._heartbeat)
        )
        self._method(0, wire.CONNECTION_OPEN, self._address.vhost, "", False)
        await self._wait(wire.CONNECTION_OPEN_OK)
        if self._heartbeat:
            self._beat()

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Open a channel, with publisher confirms if wanted. Raises Unreachable."""
        self.check()
        number = next((n for n in range(1, self._channel_max + 1) if n not in self._channels), 0)
        if not number:
            raise Overloaded(f"all {self._channel_max} channels of the connection are in use")
        channel = self._channels[number] = Channel(self, number)
        await channel.rpc(wire.CHANNEL_OPEN, wire.CHANNEL_OPEN_OK, "")
        if confirms:
            await channel.rpc(wire.CONFIRM_SELECT, wire.CONFIRM_SELECT_OK, False)
        return channel

    async def close(self) -> None:
        """Say goodbye and close; never raises."""
        if not self.closed.done():
            self._method(0, wire.CONNECTION_CLOSE, 200, "the bus closes", 0, 0)
            self._reason = self._reason or "closed by the bus"
            await asyncio.wait([self.closed], timeout=CLOSE_TIMEOUT)
        self.abort("closed by the bus")

    def abort(self, reason: str) -> None:
        """Drop the connection now; everything on it fails with `reason`."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def check(self) -> None:
        """Raises Unreachable if the connection is lost."""
        if self.closed.done():
            raise Unreachable(f"the connection to the broker is lost: {self._reason}")

    async def writable(self) -> None:
        """Wait while the broker takes no more bytes. Raises Unreachable if it is lost."""
        self.check()
        if self._paused is not None:
            await asyncio.wait([self._paused])
            self.check()

    def write(self, data: bytes) -> None:
        """Write whole frames; nothing happens on a lost connection."""
        if not self.closed.done():
            self._send(data)

    def forget(self, number: int) -> None:
        """The broker knows the channel no more: its number is free."""
        self._channels.pop(number, None)

    # What asyncio calls:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP (and TLS) connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._reason = self._reason or (_why(exc) if exc else "closed by the broker")
        self._end()

    def pause_writing(self) -> None:
        """The peer takes no more bytes for now."""
        self._paused = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)
        self._paused = None

    def data_received(self, data: bytes) -> None:
        """Cut frames from the stream and hand them on."""
        self._heard = self._loop.time()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= wire.FRAME_OVERHEAD:
                kind, number, size = wire.unpack_frame(data, at)
                stop = at + 7 + size
                if kind not in (1, 2, 3, 8) or size > self.frame_max:
                    raise wire.WireError("no AMQP 0-9-1 frame")
                if stop >= end:
                    break
                if data[stop] != wire.FRAME_END:
                    raise wire.WireError("a frame without its end")
                self._frame(kind, number, data[at + 7 : stop])
                at = stop + 1
        except (wire.WireError, struct.error, LookupError, ValueError) as e:
            self.abort(f"{self._address} does not speak AMQP 0-9-1 as it should: {e}")
            return
        self._rest = data[at:]

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if number:
            channel = self._channels.get(number)
            if channel is not None:
                channel.on_frame(kind, payload)
        elif kind == wire.METHOD:
            self._on_method(*wire.read_method(payload))

    def _on_method(self, method: Method, values: list[Any]) -> None:
        if method is wire.CONNECTION_CLOSE:
            code, text = values[0], values[1]
            self._reason = self._reason or f"the broker closed the connection: {code} {text}"
            self._method(0, wire.CONNECTION_CLOSE_OK)
            if self._waiting is not None and not self._waiting.done() and code in (403, 530):
                self._waiting.set_exception(Denied(f"the broker refuses: {text}"))
            self._hang_up()
        elif method is wire.CONNECTION_CLOSE_OK:
            self._hang_up()
        elif method is wire.CONNECTION_BLOCKED:
            self.blocked = values[0] or "an alarm"
        elif method is wire.CONNECTION_UNBLOCKED:
            self.blocked = ""
        elif method is self._wanted and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(values)

    async def _wait(self, method: Method) -> list[Any]:
        self._wanted = method
        self._waiting = self._loop.create_future()
        try:
            if self.closed.done():
                raise Unreachable(self._reason)
            return await self._waiting
        finally:
            self._waiting = None

    def _method(self, number: int, method: Method, *values: Any) -> None:
        self.write(wire.method_frame(number, method, *values))

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._said = self._loop.time()
        self._transport.write(data)

    def _beat(self) -> None:
        """Heartbeats (4.2.7): speak each half interval, expect to hear within two."""
        now = self._loop.time()
        if now - self._heard > 2 * self._heartbeat:
            self.abort(f"nothing heard for {now - self._heard:.0f} s")
            return
        if now - self._said >= self._heartbeat / 2 - 0.1:
            self.write(wire.HEARTBEAT_FRAME)
        self._timer = self._loop.call_later(self._heartbeat / 2, self._beat)

    def _hang_up(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _end(self) -> None:
        """Tell everyone, once."""
        if self.closed.done():
            return
        self.closed.set_result(self._reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Unreachable(self._reason))
        self.resume_writing()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.end(None)


class Channel:
    """One channel. `closed` is done when it is no more: with why, or None if the connection went.

    Consumers get each Delivery as a plain call, in order.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._reply: tuple[Method, _Waiter] | None = None
        self._consumers: dict[str, Callable[[Delivery], None]] = {}
        self._on_cancel: dict[str, Callable[[], None]] = {}
        self._sequence = 0
        self._unconfirmed: dict[int, _Publish] = {}
        # A message being received: its method's fields, then its header, then pieces of its body.
        self._incoming: tuple[Method, list[Any]] | None = None
        self._properties = Properties()
        self._missing = 0
        self._pieces: list[bytes] = []
        self.closed: asyncio.Future[ChannelClosed | None] = self._loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.closed.done()

    @property
    def connection(self) -> Connection:
        """The connection it is on."""
        return self._connection

    def check(self) -> None:
        """Raises Unreachable if the channel is no more."""
        if self.closed.done():
            self._connection.check()
            raise Unreachable(f"the channel is closed: {self.closed.result() or 'by the bus'}")

    # --- asking the broker ---

    async def rpc(self, method: Method, answer: Method, *values: Any) -> list[Any]:
        """Send a method and wait for its answer. Raises ChannelClosed, Unreachable, and
        BadMessage for a value that AMQP cannot hold."""
        async with self._lock:
            self.check()
            data = wire.method_frame(self._number, method, *values)
            waiter: _Waiter = self._loop.create_future()
            self._reply = (answer, waiter)
            self._connection.write(data)
            try:
                async with asyncio.timeout(RPC_TIMEOUT):
                    return await waiter
            except TimeoutError:
                self._connection.abort(f"no answer to {method.name} within {RPC_TIMEOUT:g} s")
                raise Unreachable(f"no answer to {method.name}") from None
            except asyncio.CancelledError:
                # The answer may still come and would be taken for the next one's.
                self._shut()
                raise
            finally:
                self._reply = None

    async def qos(self, prefetch: int) -> None:
        """At most `prefetch` unsettled messages for each consumer that follows."""
        await self.rpc(wire.BASIC_QOS, wire.BASIC_QOS_OK, 0, prefetch, False)

    async def declare_queue(
        self,
        name: str,
        *,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> tuple[str, int, int]:
        """Name, messages ready and consumers of the queue."""
        bits = (passive, durable, exclusive, auto_delete, False)
        values = await self.rpc(
            wire.QUEUE_DECLARE, wire.QUEUE_DECLARE_OK, 0, name, *bits, arguments or {}
        )
        return values[0], values[1], values[2]

    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",
        *,
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Make sure that the exchange exists (`passive`: only check)."""
        bits = (passive, durable, auto_delete, False, False)
        await self.rpc(
            wire.EXCHANGE_DECLARE, wire.EXCHANGE_DECLARE_OK, 0, name, type, *bits, arguments or {}
        )

    async def bind_queue(
        self,
        queue: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind a queue to an exchange."""
        await self.rpc(
            wire.QUEUE_BIND,
            wire.QUEUE_BIND_OK,
            *(0, queue, exchange, routing_key, False, arguments or {}),
        )

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        tag: str,
        on_cancel: Callable[[], None] = lambda: None,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a consumer. `on_cancel` is called when the broker ends it (its queue is gone)."""
        self._consumers[tag] = on_delivery
        self._on_cancel[tag] = on_cancel
        bits = (False, no_ack, exclusive, False)
        await self.rpc(
            wire.BASIC_CONSUME, wire.BASIC_CONSUME_OK, 0, queue, tag, *bits, arguments or {}
        )

    async def cancel(self, tag: str) -> None:
        """End a consumer; no delivery comes after this returned."""
        await self.rpc(wire.BASIC_CANCEL, wire.BASIC_CANCEL_OK, tag, False)

    async def close(self) -> None:
        """Close in order: what was settled before is settled. Never raises."""
        if not self.closed.done():
            with contextlib.suppress(Transient):
                await self.rpc(
                    wire.CHANNEL_CLOSE, wire.CHANNEL_CLOSE_OK, 200, "the bus closes", 0, 0
                )
            self._connection.forget(self._number)
            self.end(None)

    # --- settling ---

    def ack(self, tag: int) -> bool:
        """Acknowledge; False if the channel is gone, and so the message will come again."""
        return self._settle(wire.BASIC_ACK, tag, False)

    def nack(self, tag: int) -> bool:
        """Give a message back to its queue."""
        return self._settle(wire.BASIC_REJECT, tag, True)

    def reject(self, tag: int) -> bool:
        """Refuse a message: to the queue's dead-letter exchange, or to nowhere if it has none."""
        return self._settle(wire.BASIC_REJECT, tag, False)

    def _settle(self, method: Method, tag: int, flag: bool) -> bool:
        if self.closed.done():
            return False
        self._connection.write(wire.method_frame(self._number, method, tag, flag))
        return True

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

        Raises what the module's docstring lists, and BadMessage when AMQP cannot hold it.
        """
        written = False
        try:
            async with asyncio.timeout(timeout):
                await self._connection.writable()
                self.check()
                if self._connection.blocked:
                    why = self._connection.blocked
                    raise Overloaded(f"the broker takes no messages now: {why}")
                # Encoded before it is counted: what cannot be written has no sequence number.
                data = self._content(exchange, routing_key, properties, body, mandatory)
                self._sequence += 1
                publish = _Publish(
                    self._loop.create_future(),
                    exchange,
                    routing_key,
                    properties.message_id,
                    len(body),
                )
                self._unconfirmed[self._sequence] = publish
                self._connection.write(data)
                written = True
                await publish.confirmed
        except TimeoutError:
            if written:
                raise TimedOut(f"the broker did not confirm within {timeout:.3g} s") from None
            raise Overloaded(f"the broker took no bytes for {timeout:.3g} s") from None

    def _content(
        self, exchange: str, routing_key: str, properties: Properties, body: bytes, mandatory: bool
    ) -> bytes:
        """The frames of a message (4.2.6)."""
        number = self._number
        frames = [
            wire.method_frame(
                number, wire.BASIC_PUBLISH, 0, exchange, routing_key, mandatory, False
            ),
            wire.header_frame(number, len(body), properties),
        ]
        step = self._connection.frame_max - wire.FRAME_OVERHEAD
        frames += [
            wire.frame(wire.BODY, number, body[at : at + step]) for at in range(0, len(body), step)
        ]
        return b"".join(frames)

    # --- what the broker sends ---

    def on_frame(self, kind: int, payload: bytes) -> None:
        """A frame for this channel."""
        if kind == wire.METHOD:
            self._on_method(*wire.read_method(payload))
        elif kind == wire.HEADER:
            self._missing, self._properties = wire.read_header(payload)
            self._pieces = []
            if not self._missing:
                self._whole(b"")
        elif kind == wire.BODY:
            self._pieces.append(payload)
            self._missing -= len(payload)
            if self._missing <= 0:
                self._whole(payload if len(self._pieces) == 1 else b"".join(self._pieces))

    def _whole(self, body: bytes) -> None:
        incoming, self._incoming = self._incoming, None
        self._pieces = []
        if incoming is None:
            raise wire.WireError("content without a method")
        method, values = incoming
        if method is wire.BASIC_DELIVER:
            tag, number, redelivered, exchange, routing_key = values
            consumer = self._consumers.get(tag)
            if consumer is not None and not self.closed.done():
                consumer(
                    Delivery(
                        self, number, redelivered, exchange, routing_key, self._properties, body
                    )
                )
        else:
            self._on_return(values)

    def _on_return(self, values: list[Any]) -> None:
        """A message that no queue takes. Its confirm comes later, for its number; here only what
        was published is known, and two that agree in all of it share their fate in order."""
        _, text, exchange, routing_key = values
        message_id = self._properties.message_id
        for publish in self._unconfirmed.values():
            if (
                publish.message_id == message_id
                and publish.routing_key == routing_key
                and publish.exchange == exchange
                and not publish.returned
            ):
                publish.returned = text or "NO_ROUTE"
                return

    def _on_method(self, method: Method, values: list[Any]) -> None:
        if method is wire.BASIC_DELIVER or method is wire.BASIC_RETURN:
            self._incoming = (method, values)
        elif method is wire.BASIC_ACK:
            self._confirm(values[0], values[1], ok=True)
        elif method is wire.BASIC_NACK:
            self._confirm(values[0], values[1], ok=False)
        elif method is wire.CHANNEL_CLOSE:
            self._connection.write(wire.method_frame(self._number, wire.CHANNEL_CLOSE_OK))
            self._connection.forget(self._number)
            self.end(ChannelClosed(values[0], values[1]))
        elif method is wire.BASIC_CANCEL:
            self._consumers.pop(values[0], None)
            self._on_cancel.pop(values[0], lambda: None)()
        elif method is wire.CHANNEL_FLOW:
            self._connection.write(wire.method_frame(self._number, wire.CHANNEL_FLOW_OK, values[0]))
        elif self._reply is not None and method is self._reply[0]:
            if not self._reply[1].done():
                self._reply[1].set_result(values)
        elif method is wire.CHANNEL_CLOSE_OK:
            self._connection.forget(self._number)

    def _confirm(self, number: int, multiple: bool, *, ok: bool) -> None:
        if multiple:
            numbers = []
            for sequence in self._unconfirmed:  # in rising order
                if number and sequence > number:
                    break
                numbers.append(sequence)
        else:
            numbers = [number]
        for sequence in numbers:
            publish = self._unconfirmed.pop(sequence, None)
            if publish is None or publish.confirmed.done():
                continue
            if not ok:
                publish.confirmed.set_exception(Transient("the broker could not take the message"))
            elif publish.returned:
                publish.confirmed.set_exception(Rejected(_unroutable(publish)))
            else:
                publish.confirmed.set_result(None)

    def _shut(self) -> None:
        """Close without waiting; the number stays taken until the broker says it is free."""
        if not self.closed.done():
            frame = wire.method_frame(self._number, wire.CHANNEL_CLOSE, 200, "given up", 0, 0)
            self._connection.write(frame)
            self.end(None)

    def end(self, why: ChannelClosed | None) -> None:
        """Tell everyone who waits, once; `why` is None when the connection went or we closed."""
        if self.closed.done():
            return
        self.closed.set_result(why)
        lost = "the connection to the broker was lost"
        if self._connection.closed.done():
            lost += f": {self._connection.closed.result()}"
        if self._reply is not None and not self._reply[1].done():
            self._reply[1].set_exception(why or Unreachable(lost))
        waiting = deque(self._unconfirmed.values())
        self._unconfirmed = {}
        while waiting:
            publish = waiting.popleft()
            if not publish.confirmed.done():
                publish.confirmed.set_exception(_unconfirmed(publish, why, lost))


def _unroutable(publish: _Publish) -> str:
    if publish.exchange:
        return (
            f"unroutable: no queue is bound to exchange '{publish.exchange}' "
            f"for routing key '{publish.routing_key}' ({publish.returned})"
        )
    return f"unroutable: there is no queue '{publish.routing_key}' ({publish.returned})"


def _unconfirmed(publish: _Publish, why: ChannelClosed | None, lost: str) -> Exception:
    """What a publisher hears that waits for its confirm when the channel goes."""
    if why is None:
        return TimedOut(f"{lost}, before it confirmed the message")
    size = _TOO_LARGE.search(why.detail)
    if why.reply_code == 406 and size and int(size[1]) == publish.size:
        return TooLarge(f"the broker refuses the message: {why.detail}")
    if why.reply_code == 403:
        return Denied(f"the broker refuses the message: {why.detail}", authenticated=True)
    return ChannelClosed(why.reply_code, why.detail)


def _why(error: BaseException) -> str:
    """What went wrong on the way to the broker, in words for people."""
    if isinstance(error, UnicodeError):
        return "this host name cannot exist"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message or 'the certificate is not valid'}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    text = str(error)
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in text:
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return text or type(error).__name__
