"""A large body goes through a bus in a process of its own: what it takes of memory is counted."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from support.processes import Process, free_ports
from support.web import backend, wire

PIECE = bytes(range(256)) * 256
TOTAL = 128 * 1024**2
ENOUGH = 32 * 1024**2
"""Bytes that a bus may need for it: a fourth of the body, and far more than its buffers have."""

ROUTE = """
routes:
  pass-on:
    from: {{http: {{path: /in, max_body: 1GB}}}}
    steps:
      - call: {{http: {{url: "{url}/echo", method: POST, max_reply: 1GB}}}}
listen: {{port: {port}}}
admin: {{enabled: false}}
"""


def most_memory(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, while it comes."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while size:
            piece = await reader.read(min(size, 256 * 1024))
            size -= len(piece)
            writer.write(piece)
            await writer.drain()


async def test_a_body_of_any_size_passes_in_the_same_memory(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with backend(echo) as url:
        routes = tmp_path / "routes.yaml"
        routes.write_text(ROUTE.format(url=url, port=port))
        command = [Path(sys.executable).parent / "esb", "run", routes]
        with Process(command, cwd=tmp_path) as bus:
            at = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(bus.wait_for, at + "/readyz")
            before = 0
            for total in (4 * 1024**2, TOTAL):  # the first fills what is kept for the next
                before = most_memory(bus.pid) if total == TOTAL else 0
                async with wire(at) as one:

                    async def send(total: int = total) -> None:
                        head = f"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n"
                        await one.send(head.encode())
                        for _ in range(total // len(PIECE)):
                            await one.send(PIECE)

                    sending = asyncio.ensure_future(send())
                    head = (await one.reader.readuntil(b"\r\n\r\n")).decode()
                    assert head.startswith("HTTP/1.1 200 ")
                    assert f"content-length: {total}" in head
                    for _ in range(total // len(PIECE)):
                        assert await one.reader.readexactly(len(PIECE)) == PIECE
                    await sending
            assert most_memory(bus.pid) - before < ENOUGH
            assert bus.stop() == 0
