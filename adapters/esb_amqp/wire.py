"""The socket below aio-pika: what the broker sends is seen here before the library reads it.

aiormq, the lower half of aio-pika, lets its user make the socket. That is used to know at once, and
in words for people, why a connection is lost; to know when the broker blocks publishers; to notice
silence as soon as we promise; and to keep from the library what would take it down, whoever wrote
it into a message.

Source: the AMQP 0-9-1 specification, sections 4.2.3 (frames) and 4.2.7 (heartbeats), and RabbitMQ's
connection.blocked (https://www.rabbitmq.com/docs/connection-blocked).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import msgspec
import pamqp.frame
import structlog
from aiormq.connection import TransportFactory
from pamqp.commands import Connection as Said
from pamqp.constants import FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD

from esb.errors import Overloaded, Unreachable
from esb_amqp.properties import readable

log = structlog.get_logger("esb.amqp")

_BUFFER: Final = 262_144
_FRAMES: Final = frozenset({FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT})
_OF_THE_CONNECTION: Final = bytes((FRAME_METHOD, 0, 0))
_REFUSALS: Final = frozenset({403, 530})


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
        self._writer: asyncio.StreamWriter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._looked = self._loop.time()
        self.blocked = ""
        """Why the broker takes no messages now, "" while it does."""
        self.refused = ""
        """Why the broker does not let us in."""
        self.closed: asyncio.Future[str] = self._loop.create_future()

    async def create(self, *_: Any, **__: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, for aiormq. Raises Unreachable."""
        frames = _Frames(self)
        protocol = asyncio.StreamReaderProtocol(frames)
        try:
            transport, _protocol = await self._loop.create_connection(
                lambda: protocol, self.address.host, self.address.port, ssl=self._tls
            )
        except (OSError, UnicodeError) as e:
            raise Unreachable(_why(e)) from e
        self._writer = asyncio.StreamWriter(transport, protocol, frames, self._loop)
        if self._heartbeat:
            self._watch()
        return frames, self._writer

    def check(self) -> None:
        """Raises Unreachable if the connection is lost."""
        if self.closed.done():
            raise Unreachable("the connection to the broker is lost").noted(self.closed.result())

    async def writable(self, timeout: float) -> None:
        """Wait while the socket takes no more bytes. Raises Unreachable if it is lost, Overloaded
        if it or the broker takes nothing."""
        self.check()
        assert self._writer is not None
        if self.blocked:
            raise Overloaded("the broker takes no messages now").noted(self.blocked)
        try:
            async with asyncio.timeout(timeout):
                await self._writer.drain()
        except TimeoutError:
            raise Overloaded(f"the broker took no bytes for {timeout:.3g} s") from None
        except OSError as e:
            self.abort(_why(e))
        self.check()

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

    def on_frame(self, frame: bytes) -> bytes:
        """See a frame; returns what aiormq shall see. Raises ValueError if it is none."""
        self._heard = self._loop.time()
        if frame[0] == FRAME_HEADER:
            frame, left_out = readable(frame)
            if left_out:
                log.warning(
                    "properties of a message cannot be read and are left out",
                    broker=str(self.address),
                    properties=left_out,
                )
        elif frame.startswith(_OF_THE_CONNECTION):
            match pamqp.frame.unmarshal(frame)[2]:
                case Said.Blocked(reason=reason):
                    self.blocked = reason or "an alarm"
                case Said.Unblocked():
                    self.blocked = ""
                case Said.Close(reply_code=code, reply_text=text):
                    if code in _REFUSALS:
                        self.refused = f"the broker refuses: {text}"
                    # aiormq says good-bye and hangs up.
                    self._end(f"the broker closed the connection: {code} {text}")
        return frame

    def on_failure(self, error: BaseException) -> None:
        """Nothing more can be read or understood: drop the connection."""
        if isinstance(error, asyncio.IncompleteReadError):
            self.abort("closed by the broker")
        elif isinstance(error, OSError):
            self.abort(_why(error))
        else:
            self.abort(f"{self.address} does not speak AMQP 0-9-1 as it should")

    def _watch(self) -> None:
        """Expect to hear something within two heartbeats; aiormq would wait for three."""
        now = self._loop.time()
        # After a stall of our own, what the broker said meanwhile is still waiting to be read.
        stalled = now - self._looked > self._heartbeat
        self._looked = now
        if now - self._heard > 2 * self._heartbeat and not stalled:
            self.abort(f"nothing heard for {now - self._heard:.0f} s")
        else:
            self._timer = self._loop.call_later(self._heartbeat / 2, self._watch)


class _Frames(asyncio.StreamReader):
    """Hands on whole frames, after the wire has seen them."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(limit=_BUFFER)
        self._wire = wire
        self._frame = b""

    def at_eof(self) -> bool:
        """Never: an end is found by reading, so that the wire sees it."""
        return False

    async def readexactly(self, n: int) -> bytes:
        """The next piece of a frame, as aiormq asks for it."""
        if not self._frame:
            try:
                head = await super().readexactly(7)
                if head[0] not in _FRAMES:
                    raise ValueError("no frame of AMQP 0-9-1")
                size = int.from_bytes(head[3:])
                self._frame = self._wire.on_frame(head + await super().readexactly(size + 1))
            except Exception as e:
                self._wire.on_failure(e)
                raise
        piece, self._frame = self._frame[:n], self._frame[n:]
        return piece


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
