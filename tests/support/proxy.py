"""A TCP proxy that fails as networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator


class Proxy:
    """Forwards a port of its own to another one, until told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._accepting = True
        self.port = 0
        self.connections = 0

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop and cut everything."""
        self._accepting = False
        self._flowing.set()
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)

    def cut(self) -> None:
        """Reset every connection (RST); new ones are taken again."""
        for writer in self._writers:
            peer = writer.get_extra_info("socket")
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError, ValueError):
                    option = struct.pack("ii", 1, 0)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            writer.transport.abort()

    def freeze(self) -> None:
        """Swallow silence: connections stay, nothing passes any more in either direction."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held passes on."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        pumps: list[asyncio.Task[None]] = []
        try:
            if self._accepting:
                there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(there)
                for source, sink in ((reader, there), (there_reader, writer)):
                    pumps.append(asyncio.ensure_future(self._pump(source, sink)))
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                there.transport.abort()
                self._writers.discard(there)
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers.discard(writer)
            self._serving.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(65_536)
            await self._flowing.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine."""
    made = Proxy(target)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
