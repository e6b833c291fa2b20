"""The socket below aio-pika: what the broker sends is seen here before the library reads it.

aiormq, the lower half of aio-pika, lets its user make the socket. That is used to know at once, and
in words for people, why a connection is lost; to know when the broker blocks publishers; to notice
silence as soon as we promise; and to keep from the library the messages, which are ours to read
(`frames.py`): the library is asked for all that is said about them.

Source: the AMQP 0-9-1 specification, sections 4.2.3 (frames) and 4.2.7 (heartbeats), and RabbitMQ's
connection.blocked (https://www.rabbitmq.com/docs/connection-blocked).
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import pamqp.frame
from aiormq.connection import TransportFactory
from pamqp.commands import Connection as Said
from pamqp.constants import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD
from pamqp.exceptions import PAMQPException
from pamqp.heartbeat import Heartbeat

from esb.errors import Overloaded, Unreachable

_BUFFER: Final = 262_144
_FRAMES: Final = frozenset({FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT})
_HEARTBEAT: Final = pamqp.frame.marshal(Heartbeat(), 0)
_REFUSALS: Final = frozenset({403, 530})

FRAME_MAX: Final = 131_072
"""Bytes of the largest frame that we agree to: of a frame, what it says of its size is gathered."""
_FRAME_MIN: Final = 4096
"""Bytes of a frame that every broker takes (AMQP 0-9-1, constant frame-min-size)."""

_METHOD_MAX: Final = 16_384
"""Bytes of the largest method that anybody reads. Of those a broker sends, Connection.Start alone
has a table, and RabbitMQ's takes 500 bytes; what nests in one costs the library, which has no bound
of its own, far more than its size."""

_TURN: Final = 2000
"""Frames of one connection that are read before others have their turn: a quarter of a megabyte, as
one read of the socket gives it, may hold thirty thousand."""

_head: Final = struct.Struct(">BHI")

Take = Callable[[int, bytes, int, int], bool]
"""Gets a frame's type and where its payload is; whether nobody else need see the frame."""


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


class Wire(TransportFactory):
    """The socket of one connection. `closed` is done, with the reason, when it is no more."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, heartbeat: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.address = address
        self._tls = tls
        self._heartbeat = heartbeat
        self.left = asyncio.StreamReader(limit=_BUFFER)
        """What aiormq reads: the frames that nobody took."""
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._part = bytearray()  # of a frame that is still coming
        self._unsent: list[bytes | memoryview] = []
        self.channels: dict[int, Take] = {0: self._of_the_connection}
        """Who takes the frames of a channel first."""
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._looked = self._loop.time()
        self.paused = False
        """Whether the socket takes no more bytes now."""
        self.blocked = ""
        """Why the broker takes no messages now, "" while it does."""
        self.refused = ""
        """Why the broker does not let us in."""
        self.frame_max = FRAME_MAX
        """Bytes of the largest frame that the broker may send: what was agreed on with it."""
        self.closed: asyncio.Future[str] = self._loop.create_future()

    async def create(self, *_: Any, **__: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, for aiormq. Raises Unreachable."""
        protocol = _Protocol(self, self.left)
        try:
            transport, _protocol = await self._loop.create_connection(
                lambda: protocol, self.address.host, self.address.port, ssl=self._tls
            )
        except (OSError, UnicodeError) as e:
            raise Unreachable(_why(e)) from e
        self._transport = transport
        self._writer = asyncio.StreamWriter(transport, protocol, self.left, self._loop)
        if self._heartbeat:
            self._watch()
        return self.left, self._writer

    def check(self) -> None:
        """Raises Unreachable if the connection is lost."""
        if self.closed.done():
            raise Unreachable("the connection to the broker is lost").noted(self.closed.result())

    def write(self, frames: Iterable[bytes | memoryview]) -> None:
        """Send whole frames, of a channel that is open, at the end of this turn of the loop: many
        messages are one call of the system then, which costs more than the rest of one."""
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent += frames

    def flush(self) -> None:
        """Send now what is to be sent. Nothing on a connection that is lost."""
        frames, self._unsent = self._unsent, []
        if frames and self._transport is not None and not self.closed.done():
            self._transport.writelines(frames)

    @property
    def busy(self) -> bool:
        """Whether `writable` is to be asked before anything is published."""
        return self.paused or self.blocked != "" or self.closed.done()

    async def writable(self, timeout: float) -> None:
        """Wait while the socket takes no more bytes. Raises Unreachable if it is lost, Overloaded
        if it or the broker takes nothing."""
        self.check()
        if self.blocked:
            raise Overloaded("the broker takes no messages now").noted(self.blocked)
        try:
            await self.drained(timeout)
        except TimeoutError:
            raise Overloaded(f"the broker took no bytes for {timeout:.3g} s") from None
        self.check()

    async def drained(self, timeout: float) -> None:
        """Wait while the socket takes no more bytes, or until it is lost. Raises TimeoutError."""
        assert self._writer is not None
        async with asyncio.timeout(timeout):
            try:
                await self._writer.drain()
            except OSError as e:
                self.abort(_why(e))

    def abort(self, reason: str) -> None:
        """Drop the connection now, because of `reason`."""
        self._end(reason)
        if self._writer is not None:
            self._writer.transport.abort()

    def _end(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(reason)

    def on_bytes(self, data: bytes) -> None:
        """Take what came, frame by frame."""
        self._heard = self._loop.time()
        part, channels = self._part, self.channels
        try:
            if part:
                part += data
                if not self._is_whole(part):
                    return
                data = bytes(part)
                part.clear()
            at, end, turns = 0, len(data), _TURN
            while end - at >= _head.size and turns:
                turns -= 1
                kind, channel, size = self._head_of(data, at)
                payload = at + _head.size
                last = payload + size
                if last >= end:
                    break
                if data[last] != FRAME_END:
                    raise ValueError("a frame without its end")
                take = channels.get(channel, self._unclaimed)
                if not take(kind, data, payload, last):
                    self.left.feed_data(data[at : last + 1])
                at = last + 1
        except (ValueError, IndexError, struct.error, PAMQPException) as e:
            self.on_failure(e)
            return
        if at < end:
            part += data[at:] if at else data
            if not turns and self._transport is not None:
                self._transport.pause_reading()
                self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take the next of what came, after others had their turn."""
        if self.closed.done() or self._transport is None:
            return
        self._transport.resume_reading()
        self.on_bytes(b"")  # which stops the reading again if that was not all

    def _head_of(self, data: bytes | bytearray, at: int) -> tuple[int, int, int]:
        """Type, channel and size of the frame that begins there. Raises ValueError if none does, or
        a larger one than was agreed on: what it says of its size, we would gather."""
        kind, channel, size = _head.unpack_from(data, at)
        most = _METHOD_MAX if kind == FRAME_METHOD else self.frame_max
        if kind not in _FRAMES or size > most:
            raise ValueError("no frame of AMQP 0-9-1")
        return kind, channel, size

    def _is_whole(self, part: bytearray) -> bool:
        return len(part) >= _head.size and len(part) > _head.size + self._head_of(part, 0)[2]

    def _unclaimed(self, kind: int, data: bytes, at: int, end: int) -> bool:
        # Content for a channel that has gone is nobody's, least of all the library's.
        return kind in (FRAME_HEADER, FRAME_BODY)

    def _of_the_connection(self, kind: int, data: bytes, at: int, end: int) -> bool:
        if kind in (FRAME_HEADER, FRAME_BODY):
            raise ValueError("content of the connection")
        if kind == FRAME_METHOD:
            match understood(data[at - _head.size : end + 1]):
                case Said.Tune() as tune:
                    self._agree(tune)
                    return True
                case Said.Blocked(reason=reason):
                    self.blocked = reason or "an alarm"
                case Said.Unblocked():
                    self.blocked = ""
                case Said.Close(reply_code=code, reply_text=text):
                    if code in _REFUSALS:
                        self.refused = f"the broker refuses: {text}"
                    # aiormq says good-bye and hangs up.
                    self._end(f"the broker closed the connection: {code} {text}")
        return False

    def _agree(self, tune: Said.Tune) -> None:
        """Let aiormq read a bound that holds: 0 is none, and it answers with what it reads. Raises
        ValueError for one that no frame with content would stay below."""
        if 0 < tune.frame_max < _FRAME_MIN:
            raise ValueError("frames that hold nothing")
        tune.frame_max = self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self.left.feed_data(pamqp.frame.marshal(tune, 0))

    def on_hang_up(self) -> None:
        """The other side sends no more; it is not its doing where aiormq has hung up before."""
        if self._transport is not None and not self._transport.is_closing():
            self.abort("closed by the broker")

    def on_failure(self, error: BaseException) -> None:
        """Nothing more can be read or understood: drop the connection."""
        if isinstance(error, EOFError):
            self.abort("closed by the broker")
        elif isinstance(error, OSError):
            self.abort(_why(error))
        else:
            self.abort(f"{self.address} does not speak AMQP 0-9-1 as it should")

    def _watch(self) -> None:
        """Expect to hear something within two heartbeats; aiormq would wait for three."""
        now = self._loop.time()
        # After a stall of our own, what the broker said meanwhile is still waiting to be read.
        looked, self._looked = self._looked, now
        stalled = now - looked > self._heartbeat
        if now - self._heard > 2 * self._heartbeat and not stalled:
            self.abort(f"nothing heard for {now - self._heard:.0f} s")
        else:
            if self._heard > looked and len(self.channels) > 1:
                # aiormq counts silence by the frames that are left to it, and a broker that sends
                # messages sends no heartbeats.
                self.left.feed_data(_HEARTBEAT)
            self._timer = self._loop.call_later(self._heartbeat / 2, self._watch)


class _Protocol(asyncio.StreamReaderProtocol):
    """Shows the wire all that happens on the socket, and leaves to aiormq what it need see."""

    def __init__(self, wire: Wire, left: asyncio.StreamReader) -> None:
        super().__init__(left)
        self._wire = wire

    def data_received(self, data: bytes) -> None:
        self._wire.on_bytes(data)

    def eof_received(self) -> bool | None:
        self._wire.on_hang_up()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._wire.on_failure(exc)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._wire.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._wire.paused = False
        super().resume_writing()


def understood(frame: bytes) -> Any:
    """What the library makes of a whole frame. Raises ValueError, whatever it trips over: it trusts
    the other side, and tells what is wrong by errors of all kinds (KeyError, RecursionError)."""
    try:
        return pamqp.frame.unmarshal(frame)[2]
    except Exception as e:
        raise ValueError("a method that cannot be read") from e


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
