"""The bus under attack, in a process of its own, and who is around it: a backend that answers what
it is told, a canary that nobody must ask, a file that nobody must see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import re
import shutil
import struct
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from support.broker import shared_broker
from support.processes import Process, free_ports, request

from hostile.bus import SIZE
from hostile.case import (
    CANARY,
    FILE,
    PLACES,
    Case,
    Dropped,
    Overtaken,
    Post,
    Queued,
    Raw,
    Reply,
    made,
)
from hostile.queues import Queues, shown
from hostile.rogue import Rogue

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "project"
_GOOD = b"GET /good HTTP/1.1\r\nHost: bus\r\n\r\n"
_LONGEST = 30.0
_NO_PLACES = 1024**2
_SETTLED = 64 * 1024**2


@dataclass(frozen=True)
class Answer:
    """What came back: status 0 is a connection that was closed without a word. For what nobody
    waits for it is the dead letter, with its code as body."""

    status: int
    head: bytes = b""
    body: bytes = b""


@dataclass
class Seen:
    """What one case did. lag: seconds in which the event loop was kept from its work."""

    answer: Answer
    lag: float
    memory: int
    asked: int
    forwarded: list[bytes]
    good: bool


@dataclass
class Far:
    """The backend: it answers `answer`, if there is one, and keeps what it got."""

    answer: bytes = b""
    got: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                self.got.append(head + body)
                if self.answer:
                    writer.write(self.answer)
                    await writer.drain()
                    break
                content = b'{"ok": true}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"\r\n%b" % (len(content), content)
                )
        writer.close()


class Arena:
    """Everything, for as long as the block lasts. sabotage: how the bus is broken."""

    def __init__(self, folder: Path, *, sabotage: str = "-") -> None:
        self.folder = folder
        self.far = Far()
        self.asked = 0
        self.token = f"planted-{uuid.uuid4().hex}"
        self.idle = 0
        self._last_dead = 0
        self._sabotage = sabotage
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        port, admin = free_ports(2)
        self.port, self.admin = port, f"http://127.0.0.1:{admin}"
        self.planted = self.folder / "planted.txt"
        self.planted.write_text(self.token)
        self.dropped = self.folder / "dropped"
        self.dropped.mkdir()
        shutil.copytree(PROJECT, self.folder / "project")
        lags = self.folder / "lags"
        lags.write_bytes(bytes(SIZE))
        with lags.open("r+b") as file:
            self._lags = mmap.mmap(file.fileno(), SIZE)
        self._far_port = await self._listen(self.far.serve)
        self._canary_port = await self._listen(self._canary)
        PLACES.update({CANARY: f"127.0.0.1:{self._canary_port}", FILE: str(self.planted)})
        broker = await asyncio.to_thread(self._stack.enter_context, shared_broker())
        self.queues = Queues(broker)
        self._stack.push_async_callback(self.queues.close)
        await self.queues.open()
        self.rogue = await self._stack.enter_async_context(Rogue())
        environ = {
            "RABBIT": broker,
            "QUEUES": self.queues.prefix,
            "ROGUE": self.rogue.url,
            "PORT": str(port),
            "ADMIN": str(admin),
            "STORE": str(self.folder / "bus.db"),
            "FAR": f"http://127.0.0.1:{self._far_port}",
            "FOLDER": str(self.dropped),
            "PYTHONPATH": str(HERE.parent),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "hostile.bus", lags, self._sabotage]
        process = Process(
            [*command, "run", ".", "--json", "--log-level", "error"],
            cwd=self.folder / "project",
            environ=environ,
        )
        self.process = self._stack.enter_context(process)
        await asyncio.to_thread(process.wait_for, f"http://127.0.0.1:{port}/readyz")
        await asyncio.to_thread(self._dead)  # loads what serves the admin API
        self._good = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._good[1].close()
        if self.process.ended is None and kind is None:
            await asyncio.to_thread(self.process.stop)
        await self._stack.aclose()

    async def _listen(self, serve: object) -> int:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)  # type: ignore[arg-type]
        self._stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _canary(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        writer.close()

    # --- one case

    def content(self, given: object) -> bytes:
        """What is sent, with the places of canary and file in it, in whatever encoding."""
        raw = made(given)  # type: ignore[arg-type]
        if len(raw) > _NO_PLACES:
            return raw
        for name, value in PLACES.items():
            for coding in ("ascii", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "cp500"):
                raw = raw.replace(name.encode(coding), value.encode(coding))
        return raw

    async def attack(self, case: Case) -> Seen:
        """Send it, and a good request at the same time and after it."""
        for _ in range(10):  # what the one before had is given back
            if self.memory - self.idle < _SETTLED or not self.idle:
                break
            await asyncio.sleep(0.1)
        self._clear()
        self.queues.clear()
        asked, self.far.got, self.far.answer = self.asked, [], b""
        wire = case.wire
        content = self.content(getattr(wire, "answer", None) or getattr(wire, "content", b""))
        if isinstance(wire, Post):
            content = self.content(wire.body)
        elif isinstance(wire, Reply):
            self.far.answer = content
        sent = asyncio.ensure_future(self._send(case, content))
        await asyncio.sleep(0)
        good = await self._ask_well()
        answer = await asyncio.wait_for(sent, 2 * _LONGEST)
        good = good and await self._ask_well()
        return Seen(answer, self.lag, self._memory("VmHWM"), self.asked - asked, self.far.got, good)

    async def _send(self, case: Case, content: bytes) -> Answer:
        wire = case.wire
        if isinstance(wire, Raw):
            port = urlsplit(self.admin).port if wire.admin else self.port
            return await self.exchange(content, wire.patience, port)
        if isinstance(wire, Post):
            told = "".join(f"{name}: {value}\r\n" for name, value in wire.headers)
            if wire.kind:
                told += f"Content-Type: {wire.kind}\r\n"
            told = told.replace(CANARY, f"127.0.0.1:{self._canary_port}")
            head = f"{wire.method} {wire.path} HTTP/1.1\r\nHost: bus\r\n{told}"
            length = f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            return await self.exchange((head + length).encode() + content)
        if isinstance(wire, Reply):
            head = f"POST {wire.path} HTTP/1.1\r\nHost: bus\r\nContent-Type: {wire.kind}\r\n"
            length = f"Content-Length: {len(wire.body)}\r\nConnection: close\r\n\r\n"
            return await self.exchange((head + length).encode() + wire.body)
        if isinstance(wire, Queued):
            return await self._queue(wire, content)
        if isinstance(wire, Overtaken):
            where = await self.rogue.overtake(wire.place, content)
            return Answer(200 * (where == "same"), "\n".join(self.rogue.settled).encode())
        return await self._drop(wire, content)

    async def exchange(
        self, content: bytes, patience: float = _LONGEST, port: int | None = None
    ) -> Answer:
        """Send bytes while reading, until the bus closes the connection."""
        port = port or self.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)

        async def send() -> None:
            with contextlib.suppress(OSError):
                writer.write(content)
                await writer.drain()

        sending = asyncio.ensure_future(send())
        got = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience):
                while piece := await reader.read(2**16):
                    got += piece
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        writer.close()
        return _answer(got)

    async def _drop(self, wire: Dropped, content: bytes) -> Answer:
        await asyncio.to_thread(self._dead)
        hidden = self.dropped / f".{wire.name}"
        hidden.write_bytes(content)
        hidden.rename(self.dropped / wire.name)
        async with asyncio.timeout(_LONGEST):
            while True:
                await asyncio.sleep(0.05)
                for one in await asyncio.to_thread(self._dead):
                    return Answer(0, b"", json.dumps(one).encode())

    async def _queue(self, wire: Queued, content: bytes) -> Answer:
        """Publish it, and a good message after it; what came of it."""
        await asyncio.to_thread(self._dead)
        queues = self.queues
        if why := await queues.put(wire, content):
            return Answer(0, b"", json.dumps({"code": "broker", "detail": why}).encode())
        if not await queues.ask_well(_LONGEST):
            raise AssertionError("a good message beside it did not come through")
        async with asyncio.timeout(_LONGEST):
            while len(came := queues.came[wire.end]) < wire.times:
                if queues.came["victim"]:
                    break
                if refused := queues.came["refused"]:
                    return Answer(0, shown(refused[0]), b'{"code": "refused"}')
                for one in await asyncio.to_thread(self._dead):
                    return Answer(0, b"", json.dumps(one).encode())
                await queues.moved(0.05)
        # What it was answered has come when the next message is through.
        if not await queues.ask_well(_LONGEST):
            raise AssertionError("a good message after it did not come through")
        if queues.came["victim"]:
            raise AssertionError("a queue of somebody else got a message")
        return Answer(200, shown(came[0]), came[0].body)

    def _dead(self) -> list[dict[str, Any]]:
        """The dead letters since the last time."""
        where = f"{self.admin}/dead?limit=1000&after={self._last_dead}"
        found: list[dict[str, Any]] = request("GET", where).json
        if found:
            self._last_dead = found[-1]["key"]
        return found

    async def _ask_well(self) -> bool:
        reader, writer = self._good
        writer.write(_GOOD)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _LONGEST)
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            with contextlib.suppress(OSError):
                self._good = await asyncio.open_connection("127.0.0.1", self.port)
            return False
        return head.startswith(b"HTTP/1.1 200 ")

    # --- the process

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.ended is None

    @property
    def lag(self) -> float:
        """Seconds of its own work in which its event loop looked after nothing else, at most."""
        longest: float = struct.unpack("ddQ", self._lags[:SIZE])[0]
        return longest

    @property
    def memory(self) -> int:
        """What it holds now, in bytes."""
        return self._memory("VmRSS")

    def rest(self) -> None:
        """Take what it holds now for what it holds when idle."""
        self.idle = self.memory

    def _memory(self, name: str) -> int:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{self.process.pid}/status").read_text()
            found = re.search(rf"{name}:\s*(\d+) kB", text)
            return int(found[1]) * 1024 if found else 0
        return 0

    def _clear(self) -> None:
        count = struct.unpack("ddQ", self._lags[:SIZE])[2]
        self._lags[:SIZE] = struct.pack("ddQ", 0.0, 0.0, count)
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def _answer(got: bytes) -> Answer:
    """The last answer on a connection."""
    found = [*re.finditer(rb"HTTP/1\.1 (\d{3}) ", got)]
    if not found:
        return Answer(0, b"", got)
    final = found[-1]
    head, _, body = got[final.start() :].partition(b"\r\n\r\n")
    return Answer(int(final[1]), head, body)
