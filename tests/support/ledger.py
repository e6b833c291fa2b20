"""Both ends of a bus, in processes of their own that share no code with it, and their ledgers.

    python ledger.py serve LEDGER              a backend; prints its port
    python ledger.py post LEDGER URL COUNT     a sender of COUNT messages, many at a time

The backend notes "D number sha256" and puts it on the disk before it answers. The sender notes
"I number sha256" before it sends, "A number" when the message was taken (a 2xx) and "U number
status" when it was not or nobody knows; it tries again until it is taken.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SENDERS = 32


def body_of(number: int) -> bytes:
    """The message with that number; no two are alike."""
    filling = hashlib.sha256(b"%d" % number).hexdigest() * (1 + number % 20)
    return json.dumps({"number": number, "filling": filling}).encode()


def sha256(body: bytes) -> str:
    """What a ledger knows a body by."""
    return hashlib.sha256(body).hexdigest()


class Ledger:
    """A file to which whole lines are added."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *lines: str, sync: bool = False) -> None:
        """Add lines; with `sync`, return when they are on the disk."""
        os.write(self._file, "".join(line + "\n" for line in lines).encode())
        if sync:
            os.fsync(self._file)


class Backend(asyncio.Protocol):
    """HTTP/1.1, as much of it as a client with Content-Length and keep-alive needs."""

    waiting: list[tuple[str, asyncio.Transport]] = []  # noqa: RUF012 - of the process
    ledger: Ledger

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            size = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            if len(rest) < size:
                return
            self._take(rest[:size])
            self._data = rest[size:]

    def _take(self, body: bytes) -> None:
        line = f"D {json.loads(body)['number']} {sha256(body)}"
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self.waiting.append((line, self._transport))  # type: ignore[arg-type]

    @classmethod
    def _flush(cls) -> None:
        batch = list(cls.waiting)
        cls.waiting.clear()
        cls.ledger.note(*(line for line, _ in batch), sync=True)
        for _, transport in batch:
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def _serve(path: str) -> None:
    Backend.ledger = Ledger(path)
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _post(path: str, url: str, count: int) -> None:
    ledger = Ledger(path)
    host, _, target = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    numbers = iter(range(count))

    async def sender() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            body = body_of(number)
            ledger.note(f"I {number} {sha256(body)}")
            while True:
                status = 0
                try:
                    connection = connection or await asyncio.open_connection(name, int(port))
                    reader, writer = connection
                    writer.write(
                        f"POST /{target} HTTP/1.1\r\nHost: {host}\r\n"
                        "Content-Type: application/json\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n".encode()
                        + body
                    )
                    head = await reader.readuntil(b"\r\n\r\n")
                    status = int(head.split(b" ", 2)[1])
                    for line in head.lower().split(b"\r\n"):
                        if line.startswith(b"content-length:"):
                            await reader.readexactly(int(line.partition(b":")[2]))
                except (OSError, EOFError, ValueError):
                    connection = None
                if 200 <= status < 300:
                    ledger.note(f"A {number}")
                    break
                ledger.note(f"U {number} {status}")
                await asyncio.sleep(0.1)

    await asyncio.gather(*(sender() for _ in range(_SENDERS)))


# --- for tests ------------------------------------------------------------------------------------


@contextmanager
def backend(ledger: Path) -> Iterator[str]:
    """The URL of a backend that keeps `ledger`."""
    command = [sys.executable, __file__, "serve", str(ledger)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


@contextmanager
def sender(ledger: Path, url: str, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """A sender that keeps `ledger`; it ends when all is sent."""
    command = [sys.executable, __file__, "post", str(ledger), url, str(count)]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def read(ledger: Path, kind: str) -> list[list[str]]:
    """The lines of one kind, each without it."""
    if not ledger.exists():
        return []
    lines = (line.split() for line in ledger.read_text().splitlines())
    return [line[1:] for line in lines if line[0] == kind]


class Watch:
    """Counts the lines of a growing ledger, reading each once."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._offset = 0
        self._counts: Counter[str] = Counter()

    def count(self, kind: str) -> int:
        """How many lines of that kind there are now."""
        if self._ledger.exists():
            with self._ledger.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            self._counts.update(line[:1].decode() for line in whole.splitlines())
        return self._counts[kind]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(sys.argv[2]))
    else:
        asyncio.run(_post(sys.argv[2], sys.argv[3], int(sys.argv[4])))
