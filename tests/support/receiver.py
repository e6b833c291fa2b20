"""Receivers in a process of their own, with a ledger: what stands behind the bus.

    python receiver.py http LEDGER                an HTTP backend; prints its port
    python receiver.py amqp LEDGER QUEUE URL...   a consumer of a queue; prints "ready"

The backend's mode can be changed while it runs: a line on its standard input names the new one
(`MODES`), the same line on its standard output says that it is in place. Whatever the mode, the
fate that a message tells of itself is heeded (`support.ledger.FATES`).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program it knows the folder `support`, not the package
    sys.path.insert(0, str(Path(__file__).parent.parent))

from support.ledger import Ledger, sha256

SLOW = 0.5
RETRY_AFTER = 1
PUT_OFF = 2
"""How often a message with the fate "busy" is put off."""

MODES = {
    "ok": "takes and answers 200",
    "slow": "answers half a second late",
    "error": "500, not taken",
    "busy": "429 with Retry-After, not taken",
    "reject": "422, not taken",
    "gateway": "an HTML page with 502, not taken",
    "refuse": "nobody listens, connections are reset",
    "reset": "taken, then the connection is reset",
    "silent": "taken, then the connection stays open without a word (half-open)",
    "truncated": "taken; the body of the answer breaks off",
    "endless": "taken; the body of the answer has no end",
    "drip": "taken; the answer comes one byte a second",
    "html": "taken; the answer is a web page",
    "bomb": "taken; the answer is 200 MB of zeros in 200 KB of gzip",
}

_NEVER_DONE = ("silent", "endless", "drip")
_WITHHELD = (*_NEVER_DONE, "reset", "truncated", "bomb")
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_CHUNK = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"


class Backend(asyncio.Protocol):
    """One connection: HTTP/1.1, as much of it as a client with Content-Length needs."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._data = b""
        self._told = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._house.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            size = int(headers.get(b"content-length", 0))
            if not self._told and b'"id": "' in rest[:200]:
                self._told = True
                ident = rest.split(b'"id": "', 1)[1].split(b'"', 1)[0].decode()
                self._house.ledger.note(f"S {ident}")
            if len(rest) < size:
                return
            self._data, self._told = rest[size:], False
            key = headers.get(b"idempotency-key", b"-").decode()
            self._house.take(self, rest[:size], key or "-")

    def reset(self) -> None:
        """End the connection with a RST, if it is still there."""
        if self.transport.is_closing():
            return
        peer = self.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class House:
    """The backend: its ledger, its mode, and what came."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.mode = "ok"
        self.connections: set[Backend] = set()
        self._seen: Counter[str] = Counter()
        self._waiting: list[tuple[str, Backend, str]] = []
        self._server: asyncio.Server | None = None
        self._port = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._stuck: set[asyncio.Task[None]] = set()

    @cached_property
    def _bomb(self) -> bytes:
        return gzip.compress(bytes(200_000_000), 9)

    async def listen(self) -> int:
        """Take connections, at the port that it had before; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Backend(self), "127.0.0.1", self._port, backlog=512
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self._port

    async def turn(self, mode: str) -> None:
        """Change the mode."""
        if mode not in MODES:
            raise ValueError(f"{mode} is none of {', '.join(MODES)}")
        if mode == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self.connections):
                connection.reset()
        elif self._server is None:
            await self.listen()
        if mode == "ok":  # whoever still waits for an answer that does not come is let go
            for task in list(self._stuck):
                task.cancel()
        self.mode = mode

    def take(self, connection: Backend, body: bytes, idempotency_key: str) -> None:
        """A whole request: decide, note it, and answer when that is on the disk."""
        message = json.loads(body)
        ident = message["id"]
        self._seen[ident] += 1
        mode, fate = self.mode, message["fate"]
        if fate == "reject" or mode == "reject":
            line, how = f"R {ident} 422", "reject"
        elif (fate == "busy" and self._seen[ident] <= PUT_OFF) or mode == "busy":
            status = 429 if mode == "busy" else 503
            line, how = f"R {ident} {status}", str(status)
        elif mode in ("error", "gateway"):
            line, how = f"R {ident} {500 if mode == 'error' else 502}", mode
        else:
            about = f"{ident} {message['key']} {message['seq']} {sha256(body)}"
            line, how = f"D {about} {self._seen[ident]} - {idempotency_key}", mode
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((line, connection, how))

    def _flush(self) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        lines = [line for line, _, _ in batch]
        lines += [
            f"W {line.split()[1]}" for line, _, how in batch if line[0] == "D" and how in _WITHHELD
        ]
        self.ledger.note(*lines, sync=True)
        for _, connection, how in batch:
            task = asyncio.ensure_future(self._answer(connection, how))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            if how in _NEVER_DONE:
                self._stuck.add(task)
                task.add_done_callback(self._stuck.discard)

    async def _answer(self, connection: Backend, how: str) -> None:
        write = connection.transport.write
        try:
            match how:
                case "ok":
                    write(_OK)
                case "slow":
                    await asyncio.sleep(SLOW)
                    write(_OK)
                case "reject":
                    write(_response("422 Unprocessable Content", b"no"))
                case "503":
                    write(_response("503 Service Unavailable", b"later"))
                case "429":
                    after = f"Retry-After: {RETRY_AFTER}\r\n"
                    write(_response("429 Too Many Requests", b"later", after))
                case "error":
                    write(_response("500 Internal Server Error", b"broken"))
                case "gateway":
                    page = b"<html><h1>Bad gateway</h1></html>"
                    write(_response("502 Bad Gateway", page, "Content-Type: text/html\r\n"))
                case "html":
                    page = b"<html><h1>Welcome</h1></html>"
                    write(_response("200 OK", page, "Content-Type: text/html\r\n"))
                case "bomb":
                    kind = "Content-Encoding: gzip\r\nContent-Type: application/json\r\n"
                    write(_response("200 OK", self._bomb, kind))
                case "reset":
                    connection.reset()
                case "truncated":
                    write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all")
                    connection.transport.close()
                case "silent":
                    await asyncio.sleep(3600)
                case "drip":
                    for byte in _OK:
                        write(bytes([byte]))
                        await asyncio.sleep(1)
                case "endless":
                    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while not connection.transport.is_closing():
                        if connection.transport.get_write_buffer_size() < 1_000_000:
                            write(_CHUNK)
                        await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            connection.reset()


def _response(status: str, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _serve(path: str) -> None:
    house = House(Ledger(path))
    print(await house.listen(), flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := (await orders.readline()).decode().strip():
        await house.turn(line)
        print(line, flush=True)


async def _consume(path: str, queue: str, *urls: str) -> None:
    import aio_pika

    ledger = Ledger(path)

    async def take(message: Any) -> None:
        told = json.loads(message.body)
        about = f"{told['id']} {told['key']} {told['seq']} {sha256(message.body)}"
        again = "redelivered" if message.redelivered else "-"
        ledger.note(f"D {about} 0 {again} {message.message_id or '-'}", sync=True)
        await message.ack()

    ready = False
    for url in cycle(urls):
        try:
            connection = await aio_pika.connect(url, timeout=5)
            channel = await connection.channel()
            await channel.set_qos(50)
            await (await channel.get_queue(queue)).consume(take)
            if not ready:
                print("ready", flush=True)
                ready = True
            while not (connection.is_closed or channel.is_closed):
                await asyncio.sleep(0.1)
        except Exception:  # noqa: BLE001 - whatever the broker's trouble, it is waited for
            await asyncio.sleep(0.1)


# --- for tests ------------------------------------------------------------------------------------


class Controlled:
    """A backend's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def turn(self, mode: str) -> None:
        """Change its mode (`MODES`), and return when that is in place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(mode + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline().strip()
        assert told == mode, f"the backend has ended instead of changing to {mode}"


@contextmanager
def backend(ledger: Path) -> Iterator[Controlled]:
    """An HTTP backend that keeps `ledger`."""
    command = [sys.executable, __file__, "http", str(ledger)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Controlled(process)
        finally:
            process.kill()


@contextmanager
def consumer(ledger: Path, queue: str, *urls: str) -> Iterator[None]:
    """A consumer of a queue that keeps `ledger`; it comes back when the broker does. urls: the
    nodes of one broker."""
    command = [sys.executable, __file__, "amqp", str(ledger), queue, *urls]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    logging.disable()  # aio-pika tells of each attempt to connect
    if sys.argv[1] == "http":
        asyncio.run(_serve(sys.argv[2]))
    else:
        asyncio.run(_consume(*sys.argv[2:]))
