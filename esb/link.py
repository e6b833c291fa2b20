"""Calls between the processes of one bus, in both directions, over a Unix socket.

A frame is its length and a MessagePack array: what it is, the number of its call, and what belongs
to it. Calls are answered in any order. Either end may call; a call whose caller is cancelled is
cancelled at the far end as well. Both ends are this bus, of one version, run by one user: nobody
else gets into the folder of the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from esb.errors import EsbError, Unavailable

log = structlog.get_logger("esb.link")

Handler = Callable[..., "Awaitable[Any] | AsyncIterator[Any]"]
"""Answers a call: what it is awaited for, or each of what it yields."""

_CALL, _CANCEL, _ITEM, _RESULT, _ERROR = range(5)
_LENGTH: Final = 4
_MOST_ITEMS: Final = 1000
"""Of a call that yields, so many may wait for whoever made it; more are dropped."""

_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode = msgspec.msgpack.Decoder().decode


class Link(asyncio.Protocol):
    """One end of a connection.

    handlers: what the far end may call, by name; the arguments and what comes back are plain data
    and bytes. lost: told when the connection is gone.
    """

    transport: asyncio.Transport

    def __init__(self, handlers: Mapping[str, Handler], lost: Callable[[Link], None]) -> None:
        self.handlers = handlers
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out: list[bytes] = []
        self._number = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, asyncio.Queue[Any]] = {}
        self._working: dict[int, asyncio.Task[None]] = {}

    # --- calling

    def call(self, name: str, *arguments: Any) -> asyncio.Future[Any]:
        """Call the far end: it is on its way once this returns, in the order of the calls.

        What the far end raises is raised here if it is an EsbError; Unavailable if it is gone or
        fails otherwise. A future that is cancelled cancels the call.
        """
        number, future = self._begin(name, arguments)
        future.add_done_callback(lambda done: self._over(number, done))
        return future

    async def stream(self, name: str, *arguments: Any) -> AsyncIterator[Any]:
        """Call what yields: each of that. Raises as `call` does."""
        number, future = self._begin(name, arguments)
        queue = self._streams[number] = asyncio.Queue(_MOST_ITEMS)
        future.add_done_callback(lambda done: queue.put_nowait(_END) if not queue.full() else None)
        try:
            while not (future.done() and queue.empty()):
                if (item := await queue.get()) is not _END:
                    yield item
            future.result()
        finally:
            del self._streams[number]
            if not future.done():
                future.cancel()
            self._over(number, future)

    def _begin(self, name: str, arguments: tuple[Any, ...]) -> tuple[int, asyncio.Future[Any]]:
        self._number += 1
        number = self._number
        future = self._calls[number] = self._loop.create_future()
        if self.transport.is_closing():
            self._fail(future)
        else:
            self._write(_CALL, number, (name, arguments))
        return number, future

    def _over(self, number: int, future: asyncio.Future[Any]) -> None:
        if self._calls.pop(number, None) is not None and future.cancelled():
            self._write(_CANCEL, number, None)

    def _fail(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            gone = "the process of the bus that keeps its messages is gone"
            future.set_exception(Unavailable(gone, for_good=True))

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        for future in list(self._calls.values()):
            self._fail(future)
        for task in self._working.values():
            task.cancel()  # a commit that is on its way to the disk is made all the same
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        self._in += data
        begin = 0
        while len(self._in) >= begin + _LENGTH:
            start = begin + _LENGTH
            end = start + int.from_bytes(self._in[begin:start], "little")
            if len(self._in) < end:
                break
            self._received(*_decode(memoryview(self._in)[start:end]))
            begin = end
        del self._in[:begin]

    def _write(self, kind: int, number: int, content: Any) -> None:
        if self.transport.is_closing():
            return
        frame = _encode((kind, number, content))
        if not self._out:
            # What one turn of the loop has to say is one write.
            self._loop.call_soon(self._flush)
        self._out += (len(frame).to_bytes(_LENGTH, "little"), frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self.transport.is_closing():
            self.transport.write(b"".join(out))

    def close(self) -> None:
        """Write what is to be written, and close the connection."""
        self._flush()
        self.transport.close()

    # --- what arrives

    def _received(self, kind: int, number: int, content: Any) -> None:
        if kind == _CALL:
            task = self._loop.create_task(self._work(number, *content))
            self._working[number] = task
            task.add_done_callback(lambda _: self._working.pop(number))
        elif kind == _CANCEL:
            if (working := self._working.get(number)) is not None:
                working.cancel()
        elif kind == _ITEM:
            if (queue := self._streams.get(number)) is not None and not queue.full():
                queue.put_nowait(content)
        elif (future := self._calls.get(number)) is not None and not future.done():
            if kind == _RESULT:
                future.set_result(content)
            else:
                future.set_exception(_error(*content))

    async def _work(self, number: int, name: str, arguments: list[Any]) -> None:
        try:
            work = self.handlers[name](*arguments)
            if isinstance(work, AsyncIterator):
                async for item in work:
                    self._write(_ITEM, number, item)
                self._write(_RESULT, number, None)
            else:
                self._write(_RESULT, number, await work)
        except EsbError as e:
            self._write(_ERROR, number, (type(e).__name__, e.detail, vars(e)))
        except Exception as e:
            log.error("a call between processes failed", call=name, exc_info=e)
            failed = Unavailable("another process of the bus failed")
            self._write(_ERROR, number, ("Unavailable", failed.detail, vars(failed)))


class _End:
    """Ends a queue."""


_END: Final = _End()


def _error(name: str, detail: str, facts: dict[str, Any]) -> EsbError:
    """The error that was raised at the far end."""
    kinds = [EsbError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((one for one in kinds if one.__name__ == name), EsbError)
    error = kind.__new__(kind, detail)
    error.args = (detail,)
    vars(error).update(facts)
    return error


class Line:
    """Leads to the process that listens at `path`, once it is open. It can be handed to whatever is
    to use it before that, and before the process that uses it has begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._link: Link | None = None

    @property
    def link(self) -> Link:
        """The connection. Raises Unavailable if there is none."""
        if self._link is None:
            raise Unavailable("the process of the bus that keeps its messages is not there")
        return self._link

    async def open(self, handlers: Mapping[str, Handler], lost: Callable[[Link], None]) -> Link:
        """Connect. Raises Unavailable if nobody listens."""
        loop = asyncio.get_running_loop()
        try:
            _, self._link = await loop.create_unix_connection(
                lambda: Link(handlers, lost), str(self._path)
            )
        except OSError as e:
            raise Unavailable("the process of the bus that keeps its messages is not there") from e
        return self._link
