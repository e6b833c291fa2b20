"""One connection to a server: HTTP/1.1 (RFC 9112) on httptools' parser, one request at a time.

What is sent and what comes back have their limits and deadlines here. llhttp, the parser, is strict
about framing; what it leaves to us: which answers have no body, bytes that nobody asked for, the
sizes of heads, and transfer codings other than chunked.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

from esb.envelope import PIECE, Body, Headers
from esb.errors import BadReply, EsbError, Permanent, RouteFailure
from esb.outbox import Outbox
from esb_web.client import ClientReply
from esb_web.messages import HOP_BY_HOP, decoded

if TYPE_CHECKING:
    from esb.deadlines import Deadlines

MAX_FIELD: Final = 32 * 1024
MAX_FIELDS: Final = 256
MAX_HEAD: Final = 256 * 1024
"""Bytes without a byte of the body: of a head with the informational answers before it, of the
trailers, of the extensions of a chunk."""

WHOLE: Final = 1024 * 1024
"""Bytes of an answer from which on it is handed over as it arrives, where that is wanted."""

_HELD: Final = 256 * 1024
"""Bytes of such an answer that wait for whoever takes it, before reading pauses."""

_DRAINED: Final = 64 * 1024
_DRAIN_TIME: Final = 1.0
"""How much of a body that nobody wants is read, so that its connection can be used again."""

_JOINED: Final = 64 * 1024
"""Bytes of a body that are copied behind the head, so that both leave at once on any loop."""

_IDLE, _HEAD, _BODY, _DONE = range(4)

_PLAIN, _LENGTH, _CODING, _PACKING, _TYPE, _DROPPED = range(6)
_ROLES: Final = dict.fromkeys(HOP_BY_HOP, _DROPPED) | {
    "content-length": _LENGTH,
    "transfer-encoding": _CODING,
    "content-encoding": _PACKING,
    "content-type": _TYPE,
}


class _Names(dict[bytes, tuple[str, int]]):
    """What the names of header fields are as text, and what they mean here."""

    def __missing__(self, name: bytes) -> tuple[str, int]:
        text = decoded(name)
        known = (text, _ROLES.get(text.lower(), _PLAIN))
        if len(self) < 1024:  # names are few; the far side may make up as many as it likes
            self[name] = known
        return known


_names: Final = _Names()


class Owner(Protocol):
    """Whose connections these are."""

    def returned(self, connection: Connection) -> None:
        """It can be used again."""

    def gone(self, connection: Connection) -> None:
        """It is closed."""


class Connection(asyncio.Protocol):
    """One connection; whoever has it asks once, and it goes back to its owner by itself.

    status: of the answer under way, 0 before there is one.
    """

    __slots__ = (
        "_answer", "_chunks", "_deadlines", "_discarded", "_fields", "_held_back", "_keep",
        "_left", "_length", "_limit", "_may_stream", "_method", "_outbox", "_owner", "_parser",
        "_parser_ended",
        "_pouring", "_reply_headers", "_reply_type", "_silence", "_state", "_stream",
        "_to_end", "_total", "_unpack", "_unproductive", "_want_body", "_writable", "due", "loop",
        "lost", "status", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, deadlines: Deadlines, outbox: Outbox, owner: Owner) -> None:
        self.loop = deadlines.loop
        self.due = float("inf")
        self.status = 0
        self.lost = False
        self._deadlines = deadlines
        self._outbox = outbox
        self._owner = owner
        self._state = _IDLE
        self._answer: asyncio.Future[ClientReply] | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._stream: Arriving | None = None
        self._unpack: Unpacker | None = None
        self._pouring: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._discarded = False
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = HttpResponseParser(self)
        # A single LF may end a line (RFC 9112, section 2.2), and old servers pad sizes of chunks.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    # --- asking

    def ask(
        self,
        method: str,
        head: bytes,
        body: bytes | Body | None,
        *,
        due: float,
        silence: float | None,
        limit: int,
        want_body: bool,
        may_stream: bool,
    ) -> asyncio.Future[ClientReply]:
        """Send a request; the future is its answer.

        due: when all of the answer must be there, on the loop's clock. silence: the longest wait
        for the next byte, in seconds. limit: of the body, unpacked. want_body: see
        `WebClient.request`. may_stream: whether a 2xx answer may be handed over as it arrives.

        The future fails with TimeoutError, OSError, HttpParserError or BadReply; with what the
        body fails with, if it was still arriving.
        """
        answer = self.loop.create_future()
        self._answer = answer
        self._state = _HEAD
        self._method = method
        self._limit = self._left = limit
        self._want_body = want_body
        self._may_stream = may_stream
        self._silence = silence
        self._unproductive = 0
        self._parser_ended = False
        self.status = 0
        self.due = self._total = due
        self._held_back = -1
        if body is None:
            self._held_back = self._outbox.put(self.transport, head)
        elif isinstance(body, Body):
            self.transport.write(head)
            self._pouring = self.loop.create_task(self._pour(body))
        elif len(body) <= _JOINED:
            self._held_back = self._outbox.put(self.transport, head + body)
        else:
            self.transport.writelines((head, body))
        if silence is not None and self._pouring is None:
            self._heard()
        self._deadlines.add(self)
        return answer

    async def _pour(self, body: Body) -> None:
        """Send a body piece by piece, as fast as the far side takes it."""
        size, sent = body.size, 0
        write = self.transport.write
        error: Exception | None = None
        try:
            async for piece in body.chunks():
                if not piece:
                    continue
                sent += len(piece)
                if size is None:
                    self.transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                elif sent > size:
                    break
                else:
                    write(piece)
                if self._writable is not None:
                    await self._writable
            if size is None:
                write(b"0\r\n\r\n")
            elif sent != size:
                raise Permanent("the body has another size than it had at first")
        except EsbError as e:
            error = e
        except Exception as e:  # noqa: BLE001 - it is nothing that the far side did
            error = RouteFailure("the body to send broke off").noted(f"{type(e).__name__}: {e}")
        finally:
            # Before the next wait: from here on an answer may let the connection be used again.
            self._pouring = None
            if error is not None:
                self._fail(error)
            elif self._silence is not None and self._state in (_HEAD, _BODY):
                self._heard()
            await body.close()

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    # --- what comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._state == _IDLE:
            self.abort()  # nobody asked: a late error, or an answer for somebody else
            return
        self._unproductive += len(data)
        error: BaseException | None = None
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as e:
            error = e.__context__ or e
        except (HttpParserError, HttpParserUpgrade) as e:
            error = e
        if self._state == _DONE:
            if error is not None:
                self._keep = False  # there is more than was asked for
            self._finish()
        elif error is not None:
            self._fail(error)
        elif self._unproductive > MAX_HEAD:
            self._fail(_too_large())
        else:
            if self._silence is not None and self._pouring is None:
                stream = self._stream
                if stream is None or not stream.paused:
                    self._heard()
            if self._state == _BODY:
                self._hand_over()

    def _heard(self) -> None:
        """The next silence begins now."""
        assert self._silence is not None
        self.due = min(self._total, self.loop.time() + self._silence)
        self._deadlines.add(self)

    def on_message_begin(self) -> None:
        if self._state != _HEAD:
            raise BadReply("the service answered more than it was asked")
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        parser, fields = self._parser, self._fields
        self._fields = []  # trailers come into a list that nobody looks at
        status = parser.get_status_code()
        if len(fields) > MAX_FIELDS or (
            # Bytes that came so far: no field can be longer.
            self._unproductive > MAX_FIELD
            and any(len(name) + len(value) > MAX_FIELD for name, value in fields)
        ):
            raise _too_large()
        if status < 200:
            if status < 100 or status == 101:  # nobody asked to change the protocol
                raise BadReply("the service answered something that is not HTTP")
            return
        length = -1
        coding = packing = kind = ""
        pairs = []
        names = _names
        for name, value in fields:
            text, role = names[name]
            if role == _LENGTH:
                length = int(value)
                continue
            try:
                said = value.decode().rstrip(" \t")
            except UnicodeDecodeError:
                said = value.decode("latin-1").rstrip(" \t")
            if role == _PLAIN:
                pairs.append((text, said))
            elif role == _TYPE:
                kind = kind or said
                pairs.append((text, said))
            elif role == _CODING:
                coding = f"{coding},{said.lower()}" if coding else said.lower()
            elif role == _PACKING:
                packing = f"{packing},{said}" if packing else said
        if coding and coding != "chunked":
            # Nor one sent twice: who undoes chunks twice sees another body (RFC 9112, 11.2).
            raise BadReply("the service answered with a transfer coding that was not asked for")
        self.status = status
        self._keep = parser.should_keep_alive() and not (
            coding and parser.get_http_version() != "1.1"  # RFC 9112, section 6.1
        )
        self._reply_headers = Headers.trusted(pairs)
        self._reply_type = kind
        if status == 204 or status == 304 or self._method == "HEAD":
            self._state = _DONE
            return
        if self._method == "CONNECT" and status < 300:
            self._state = _DONE
            self._keep = True  # whatever is said of it: from here on it is a tunnel
            return
        self._state = _BODY
        self._length = length
        self._to_end = length < 0 and not coding
        if not self._want_body and status < 300:
            self._discarded = True
            self._left = _DRAINED
            return
        if status >= 300:
            self._may_stream = False
        if length > self._limit:
            raise _over(self._limit)
        if packing:
            self._unpack = Unpacker(packing, self._limit)

    def on_body(self, chunk: bytes) -> None:
        if self._state != _BODY:
            raise BadReply("the service answered more than it was asked")
        self._unproductive = 0
        if self._stream is not None:
            self._stream.put(chunk)
            return
        if self._discarded:
            self._left -= len(chunk)
            if self._left < 0:
                raise _over(_DRAINED)
            return
        unpack = self._unpack
        if unpack is not None and not self._may_stream:
            chunk = unpack(chunk)  # counts by itself
        else:
            self._left -= len(chunk)
            if self._left < 0:
                raise _over(self._limit)
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        self._parser_ended = self.status != 0
        if self._state == _BODY:
            self._state = _DONE

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadlines.discard(self)
        self.resume_writing()
        self.lost = True
        if self._state == _BODY and self._to_end and exc is None:
            self._keep = False
            self._finish()
        elif self._state != _IDLE:
            self._fail(exc or ConnectionError("it hung up"))
        self._owner.gone(self)

    # --- how it ends

    def _hand_over(self) -> None:
        """Answer before all of the body is there, where that is possible."""
        answer = self._answer
        if answer is None or answer.done():
            return
        if self._discarded:
            answer.set_result(self._reply(b""))
            self.due = min(self._total, self.loop.time() + _DRAIN_TIME)
            self._silence = None
            self._deadlines.add(self)
        elif self._may_stream and self._limit - self._left > WHOLE:
            self._stream = stream = Arriving(self, self._unpack, self._limit)
            for chunk in self._chunks:
                stream.put(chunk)
            self._chunks = []
            size = self._length if self._unpack is None and self._length >= 0 else None
            answer.set_result(self._reply(b"", stream, size))

    def _finish(self) -> None:
        """All of the answer is here."""
        answer, stream, transport = self._answer, self._stream, self.transport
        reply: ClientReply | BadReply | None = None
        if answer is not None and not answer.done():
            try:
                reply = self._whole()
            except BadReply as e:
                reply, self._keep = e, False  # who packs badly may frame badly
        self._answer = self._stream = self._unpack = None
        self._discarded = False
        self._state = _IDLE
        if stream is not None and stream.paused:
            transport.resume_reading()
        if (
            not self._keep
            or self._pouring is not None
            or transport.is_closing()
            or transport.get_write_buffer_size()
            or self._held_back == self._outbox.flushed  # what was asked has not even left
        ):
            self._hang_up()
        else:
            if not self._parser_ended:
                self._new_parser()  # it waits for a body that there is none of
            if self._method != "CONNECT":
                self._owner.returned(self)
        if stream is not None:
            stream.end(None)
        if answer is not None and reply is not None:
            if isinstance(reply, BadReply):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    def _whole(self) -> ClientReply:
        """The answer, all of which is here. Raises BadReply if it cannot be unpacked."""
        chunks, unpack = self._chunks, self._unpack
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if chunks:
            self._chunks = []
        if unpack is None:
            return self._reply(body)
        if self._may_stream:
            # Of what is small while it is packed no more than may be held.
            body = unpack(body, WHOLE)
            if len(body) == WHOLE and not unpack.ended:
                stream = Arriving(self, unpack, self._limit, body)
                stream.end(None)
                return self._reply(b"", stream)
        unpack.end()
        return self._reply(body)

    def _reply(
        self, body: bytes, stream: Arriving | None = None, size: int | None = None
    ) -> ClientReply:
        return ClientReply(self.status, self._reply_headers, body, self._reply_type, stream, size)

    def _fail(self, error: BaseException) -> None:
        """The exchange under way ends with an error, and the connection with it."""
        answer, stream, taken = self._answer, self._stream, self._discarded
        self._answer = self._stream = self._unpack = None
        self._chunks = []
        self._discarded = False
        self._hang_up()
        if stream is not None:
            stream.end(error)
        elif answer is not None and not answer.done():
            if taken:  # however the rest of such an answer ends
                answer.set_result(self._reply(b""))
            else:
                answer.set_exception(error)

    def expired(self) -> None:
        """The deadline is over: of an answer, or of a wait for the next request."""
        self._fail(TimeoutError())

    def give_up(self, answer: asyncio.Future[ClientReply]) -> None:
        """Nobody waits for an answer any longer; hang up, unless it is over and somebody else is
        being served."""
        if self._answer is answer:
            self.abort()

    def abort(self) -> None:
        """Hang up; whoever waits for an answer waits no longer."""
        self._fail(ConnectionError("it was closed"))

    def _hang_up(self) -> None:
        self._state = _IDLE
        self._deadlines.discard(self)
        if self._pouring is not None:
            self._pouring.cancel()
        self.transport.abort()

    # --- answers that pass as they arrive

    def hold(self, held: bool) -> None:
        """Read no more, or go on; meanwhile the far side cannot be silent."""
        if self._state != _BODY or self.transport.is_closing():
            return
        if held:
            self.transport.pause_reading()
            self.due = self._total
        else:
            self.transport.resume_reading()
            if self._silence is not None:
                self._heard()


class Arriving:
    """The body of an answer, unpacked, as it arrives; `aclose` hangs up.

    told: makes of an error of the connection what whoever takes the body is to see. paused: whether
    the connection reads no more, because nobody takes what came.
    """

    def __init__(
        self, connection: Connection, unpack: Unpacker | None, limit: int, first: bytes = b""
    ) -> None:
        self.told: Callable[[Exception], Exception] = lambda error: error
        self._connection = connection
        self._unpack = unpack
        self._limit = self._left = limit
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self.paused = self._ended = False
        self._error: BaseException | None = None
        self._more: asyncio.Future[None] | None = None
        self._first = first

    def put(self, chunk: bytes) -> None:
        """More of it came."""
        if self._unpack is None:  # else it is counted unpacked
            self._left -= len(chunk)
            if self._left < 0:
                raise _over(self._limit)
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._held > _HELD and not self.paused:
            self.paused = True
            self._connection.hold(True)
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """No more will come, because of an error or because this is all."""
        self._ended, self._error = True, error
        self.paused = False  # the connection is no longer its own
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def __aiter__(self) -> Arriving:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next()
        except Exception as e:  # noqa: BLE001 - `told` says what it means
            await self.aclose()
            raise self.told(e) from None
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes:
        if self._first:
            piece, self._first = self._first, b""
            return piece
        unpack = self._unpack
        while True:
            if unpack is not None and (piece := unpack(b"", PIECE)):
                return piece
            if self._chunks:
                chunk = self._chunks.popleft()
                self._held -= len(chunk)
                if self.paused and self._held < _HELD // 2:
                    self.paused = False
                    self._connection.hold(False)
                if unpack is None:
                    return chunk
                if piece := unpack(chunk, PIECE):
                    return piece
            elif self._error is not None:
                raise self._error
            elif self._ended:
                if unpack is not None:
                    unpack.end()
                return b""
            else:
                self._more = self._connection.loop.create_future()
                await self._more

    async def aclose(self) -> None:
        """Whoever took it takes no more."""
        self._chunks.clear()
        if not self._ended:
            self._ended = True
            self._error = ConnectionError("it was closed")
            self._connection.abort()
            self._wake()


class Unpacker:
    """Undoes a Content-Encoding (RFC 9110, section 8.4) and counts, so that memory is bounded.

    Raises BadReply for one that was not asked for, for what cannot be unpacked, and for more than
    `limit` bytes.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        self._left = limit
        self._limit = limit
        self._inflate: Any = None
        self._raw_deflate = encoding == "deflate"
        self._rest = b""
        if encoding in ("gzip", "x-gzip"):
            self._inflate = zlib.decompressobj(wbits=31)
        elif encoding == "deflate":
            self._inflate = zlib.decompressobj()
        elif encoding != "identity":
            raise BadReply("the answer of the service is packed in a way that was not asked for")

    def __call__(self, chunk: bytes, room: int | None = None) -> bytes:
        """What a chunk holds. room: the most that is given at once; more comes with the next."""
        if self._inflate is not None:
            chunk = self._inflated(self._rest + chunk, room)
        self._left -= len(chunk)
        if self._left < 0:
            raise _over(self._limit)
        return chunk

    def _inflated(self, chunk: bytes, room: int | None) -> bytes:
        # One byte more than is left, so that going over the limit shows.
        most = self._left + 1 if room is None else min(self._left + 1, room)
        try:
            out: bytes = self._inflate.decompress(chunk, most)
            self._rest = self._inflate.unconsumed_tail
        except zlib.error as e:
            if self._raw_deflate:
                # Some servers send "deflate" without the zlib wrapper that it is defined with.
                self._raw_deflate = False
                self._inflate = zlib.decompressobj(wbits=-15)
                return self._inflated(chunk, room)
            raise BadReply("the answer of the service cannot be unpacked") from e
        return out

    @property
    def ended(self) -> bool:
        """Whether all of it was given."""
        return self._inflate is None or bool(self._inflate.eof)

    def end(self) -> None:
        """Nothing more comes."""
        if not self.ended:
            raise BadReply("the packed answer of the service is incomplete")


def _too_large() -> BadReply:
    return BadReply("the head of the answer of the service is too large")


def _over(limit: int) -> BadReply:
    return BadReply(f"the answer of the service is larger than {limit} bytes")
