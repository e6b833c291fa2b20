"""A TCP proxy that fails as networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator


class Proxy:
    """Forwards a port of its own to another one, until told otherwise.

    latency: seconds that each piece is late, in both directions.
    piece: the most bytes that pass at once, in both directions (a slicer); 0 for no limit.
    cut_after: how many bytes of answers pass on a connection before it is reset; -1 for all.
    """

    def __init__(self, target: int) -> None:
        self.latency = 0.0
        self.piece = 0
        self.cut_after = -1
        self._target = target
        self._server: asyncio.Server | None = None
        self._callers: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._accepting = True
        self.port = 0
        self.connections = 0

    async def open(self) -> None:
        """Listen, at the port that it had before."""
        self._accepting = True
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop and cut everything."""
        self.refuse()
        self._flowing.set()
        if self._serving:
            await asyncio.wait(self._serving)

    def refuse(self) -> None:
        """Listen no more and reset every connection, until `open`."""
        self._accepting = False
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection (RST); new ones are taken again."""
        for writer in self._writers:
            _reset(writer)

    def finish(self) -> None:
        """End every connection one way: callers see its end (FIN), and what they send still
        arrives."""
        for writer in self._callers:
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    writer.write_eof()
        self._callers.clear()

    def freeze(self) -> None:
        """Swallow silence: connections stay, nothing passes any more in either direction."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held passes on."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        self._callers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        pumps: list[asyncio.Task[None]] = []
        try:
            if self._accepting:
                there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(there)
                pumps.append(asyncio.ensure_future(self._requests(reader, there)))
                pumps.append(asyncio.ensure_future(self._answers(there_reader, writer)))
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                there.transport.abort()
                self._writers.discard(there)
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._callers.discard(writer)
            self._writers.discard(writer)
            self._serving.discard(task)
            writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await self._next(reader):
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await self._next(reader):
            if writer not in self._callers:
                continue  # they were told that nothing more comes
            passed += len(data)
            if 0 <= self.cut_after < passed:
                writer.write(data[: len(data) - (passed - self.cut_after)])
                _reset(writer)
                return
            writer.write(data)
            await writer.drain()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(self.piece or 65_536)
        # Pieces that leave at once would be put together again on their way.
        await asyncio.sleep(self.latency or (0.0005 if self.piece else 0))
        await self._flowing.wait()
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        with contextlib.suppress(OSError, ValueError):
            option = struct.pack("ii", 1, 0)
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine."""
    made = Proxy(target)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
