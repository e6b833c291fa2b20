"""One request and its answer, and how an answer is written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from esb.envelope import Headers

if TYPE_CHECKING:
    from esb.http.connection import Connection

MANY: Final = 1000
"""Names of headers are few, so that each is looked at once: as many are kept, none longer than"""
LONG: Final = 64

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
UNSAFE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no header value may have (RFC 9110, section 5.5), and halves of characters."""

_APART: Final = 16 * 1024
"""Bytes of a body from which to write it beside its head; a smaller one is sooner copied."""

_STATUS: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}

_WRITTEN: Final = {"connection": "", "content-length": "", "transfer-encoding": "", "date": ""}
"""Names of an answer: what its line begins with; nothing for those that are written here."""


class HungUp(ConnectionError):
    """The caller is gone."""


class Exchange:
    """One request and its answer.

    method, path, query: as they were written, the query without its "?".
    headers: their names are in lower case.
    connection: tells the caller's address, the scheme and whom the caller's certificate names.
    complete: whether the whole body has arrived.
    answered: whether an answer is given, or has begun: the first one counts, others are ignored.
    task: what works on it, if its app does not answer at once.
    site: for the app, which may note here what of it this belongs to.
    """

    __slots__ = (
        "_chunked",
        "_late",
        "_left",
        "_parts",
        "_waiter",
        "answered",
        "complete",
        "connection",
        "due",
        "ended",
        "expects",
        "headers",
        "hung_up",
        "keep_alive",
        "method",
        "path",
        "query",
        "site",
        "steady",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.complete = False
        self.answered = False
        self.ended = False  # the answer is written up to its end
        self.hung_up = False
        self.expects = False  # the caller waits for a 100 before he sends the body
        self.steady = False  # the body is passed on as it comes: slow is who stops sending
        self.task: asyncio.Task[None] | None = None
        self.site: Any = None
        self.due = 0.0
        self._late: Callable[[Exchange], None] | None = None
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._chunked = False
        self._left: int | None = None  # bytes of the answer that are still to be written

    # --- the request's body ---

    def taken(self) -> bytes:
        """What has arrived of the body since the last time."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def receive(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises HungUp if they will never come."""
        while not self._parts:
            if self.complete:
                return b""
            if self.hung_up:
                raise HungUp
            self.connection.wanted(self)
            await self._woken()
        return self.taken()

    async def gone(self) -> None:
        """Return when the caller has hung up."""
        while not self.hung_up:
            await self._woken()

    async def _woken(self) -> None:
        self._waiter = self.connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def arrived(self, data: bytes) -> None:
        """For the connection: a piece of the body."""
        self._parts.append(data)
        if self._waiter is not None:
            self.wake()

    def wake(self) -> None:
        """For the connection: there is something new for who waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def lying(self) -> int:
        """How many bytes of the body wait for somebody to take them."""
        return sum(map(len, self._parts))

    # --- the answer ---

    def answer_by(self, due: float, late: Callable[[Exchange], None]) -> None:
        """Call `late` if no answer has begun when `due` is over, on the clock of the event loop."""
        self.due = due
        self._late = late
        self.connection.deadlines.add(self)

    def expired(self) -> None:
        """For the deadlines."""
        if self._late is not None and not self.answered:
            self._late(self)

    def answer(
        self, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        """Give the answer. Its framing and its date are written here, whatever `headers` say.

        Raises ValueError for a header that cannot be written; then nothing is.
        """
        if self.answered:
            return
        if self.hung_up:
            self.answered = self.ended = True
            return
        if status in (204, 304):
            head, body = self._head(status, headers, ""), b""
        else:
            head = self._head(status, headers, f"content-length: {len(body)}\r\n")
            if self.method == "HEAD":
                body = b""
        connection = self.connection
        if len(body) < _APART:
            connection.outbox.put(connection.transport, head + body)
        else:
            connection.outbox.flush()
            connection.transport.writelines((head, body))
        self._end()

    def begin(
        self, status: int, headers: Iterable[tuple[str, str]] = (), size: int | None = None
    ) -> None:
        """Begin an answer whose body is written piece by piece: `size` bytes, or None if nobody
        knows. Raises as `answer` does; HungUp if there is nobody to answer any more."""
        if self.answered or self.hung_up:
            raise HungUp
        framing = ""
        if status in (204, 304):
            size = 0  # and no word about it (RFC 9112, section 6.1)
        elif size is not None:
            framing = f"content-length: {size}\r\n"
        elif self.connection.speaks_chunks:
            framing = "transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
        self._left = size
        head = self._head(status, headers, framing)
        self._chunked = size is None and self.connection.speaks_chunks
        self.connection.outbox.flush()
        self.connection.transport.write(head)

    async def write(self, data: bytes) -> None:
        """Write a piece of the body that was begun, and wait until the caller takes more. Raises
        HungUp if he is gone, ValueError if there are more bytes than were told."""
        if self.hung_up or self.ended:
            raise HungUp
        if not data or self.method == "HEAD":
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the body of an answer is longer than was told")
        if self._chunked:
            self.connection.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self.connection.transport.write(data)
        await self.connection.drained()

    def end(self) -> None:
        """End the body that was begun; one that is shorter than was told is cut off."""
        if self.ended:
            return
        if self.method != "HEAD":
            if self._left:
                self.fail()
                return
            if self._chunked and not self.hung_up:
                self.connection.transport.write(b"0\r\n\r\n")
        self._end()

    def fail(self) -> None:
        """What nobody answered gets a 500; what was begun is cut off, for all to see."""
        if not self.answered:
            self.answer(*problem(500, "the server failed"))
        elif not self.ended:
            self.ended = True
            self.connection.transport.abort()

    def _head(self, status: int, headers: Iterable[tuple[str, str]], framing: str) -> bytes:
        connection = self.connection
        parts = [_STATUS.get(status) or f"HTTP/1.1 {status} \r\n", connection.server.date, framing]
        for name, value in headers:
            start = _WRITTEN.get(name)
            if start is None:
                start = _written(name)
            # What is printable is safe; what is not may be a tab, or one of the rarer letters.
            if not value.isprintable() and UNSAFE.search(value):
                raise ValueError(f"the value of {name} cannot be written")
            if start:
                parts.append(f"{start}{value}\r\n")
            elif value.lower() == "close" and name.lower() == "connection":
                self.keep_alive = False
        if connection.server.leaving and not connection.waiting:
            self.keep_alive = False
        if not self.complete:
            self.keep_alive = False  # what still arrives cannot be told from a body
        parts.append("\r\n" if self.keep_alive else "connection: close\r\n\r\n")
        head = "".join(parts).encode()
        self.answered = True
        if self._late is not None:
            connection.deadlines.discard(self)
        return head

    def _end(self) -> None:
        self.ended = True
        self.connection.answered(self)


def problem(status: int, detail: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body (RFC 9457) of a refusal by the server itself."""
    members = {
        "type": "about:blank",  # the title is the status's own
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return status, [("content-type", "application/problem+json")], msgspec.json.encode(members)


def _written(name: str) -> str:
    if not _TOKEN.match(name):
        raise ValueError(f"{name[:40]!r} is no name of a header")
    start = _WRITTEN.get(name.lower(), f"{name}: ")
    if len(_WRITTEN) < MANY and len(name) <= LONG:
        _WRITTEN[name] = start
    return start
