"""Callers who take their time, thousands of them, while good traffic goes on.

`PYTHONPATH=tests python -m hostile.slow` runs a bus, measures good requests when all is calm, and
again beside each kind of slow caller: heads that never end, bodies a byte at a time, answers that
nobody reads, ranges, and connections that are kept for nothing. The callers are a process of their
own, `slowhttptest` where it is installed (Debian has it) beside our own. What must come of it: the
99th percentile is at most three times the calm one, and every good request is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

from support.processes import Process, free_ports

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "slow.md"
MOST: float = 3.0
"""Times the calm 99th percentile."""

ROUTES = """
listen: {{port: {port}, max_connections: 8000}}
admin: {{enabled: false}}
routes:
  good:
    from: {{http: {{path: /good, method: GET}}}}
    steps: [{{set: {{body: {{ok: "true"}}}}}}]
  taken:
    from: {{http: {{path: /taken}}}}
    steps: [{{set: {{body: {{read: body}}}}}}]
  large:
    from: {{http: {{path: /large, method: GET}}}}
    steps: [{{set: {{body: "'x' * 500000"}}}}]
"""

_HEAD = b"POST /taken HTTP/1.1\r\nHost: bus\r\n"
OWN = ("head", "body", "read", "idle")
TOOLS = {
    "slowhttptest -H": ("-H", "-i", "1"),
    "slowhttptest -B": ("-B", "-i", "1", "-s", "8192", "-u", "{url}/taken"),
    "slowhttptest -X": ("-X", "-w", "10", "-y", "20", "-z", "4", "-n", "5", "-u", "{url}/large"),
    "slowhttptest -R": ("-R", "-a", "10", "-b", "3000"),
}


# --- the slow callers, in a process of their own --------------------------------------------------


async def hold(mode: str, port: int, count: int, seconds: float) -> None:
    """Keep `count` connections busy with very little."""
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        await asyncio.sleep(number / count * min(5.0, seconds / 3))
        while time.monotonic() < end:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await _caller(mode, port, end)
            await asyncio.sleep(random.uniform(0.5, 1.5))

    await asyncio.gather(*(one(number) for number in range(count)))


async def _caller(mode: str, port: int, end: float) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    if mode == "read":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    begin = {
        "head": _HEAD,
        "body": _HEAD + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n[",
        "read": b"GET /large HTTP/1.1\r\nHost: bus\r\n\r\n",
        "idle": b"GET /good HTTP/1.1\r\nHost: bus\r\n\r\n",
    }
    try:
        writer.write(begin[mode])
        while time.monotonic() < end:
            if mode == "idle":
                await asyncio.wait_for(reader.read(1024), end - time.monotonic())
            elif mode == "read":
                await reader.readexactly(1)
            else:
                writer.write(b"X-a: b\r\n" if mode == "head" else b" ")
                await writer.drain()
            if mode != "idle":
                await asyncio.sleep(1.0)
            elif reader.at_eof():
                return
    finally:
        writer.close()


# --- the good ones --------------------------------------------------------------------------------


async def good(port: int, seconds: float, callers: int = 4, every: float = 0.02) -> list[float]:
    """How long each good request took, in milliseconds; inf for one that was not answered."""
    took: list[float] = []

    async def one() -> None:
        end = time.monotonic() + seconds
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            begun = time.perf_counter()
            writer.write(b"GET /good HTTP/1.1\r\nHost: bus\r\n\r\n")
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                await reader.readexactly(len(b'{"ok":true}'))
                answered = head.startswith(b"HTTP/1.1 200")
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                answered = False
            took.append((time.perf_counter() - begun) * 1000 if answered else float("inf"))
            if not answered:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(every)
        writer.close()

    await asyncio.gather(*(one() for _ in range(callers)))
    return took


@contextlib.asynccontextmanager
async def _beside(command: Sequence[str]) -> AsyncIterator[None]:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _open(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def measure(count: int, idle: int, seconds: float) -> list[list[str]]:
    """The rows of the table."""
    (port,) = free_ports(1)
    rows = [["beside", "connections", "good requests", "unanswered", "p50 ms", "p99 ms", "to calm"]]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "routes.yaml").write_text(ROUTES.format(port=port))
        esb = Path(sys.executable).with_name("esb")
        with Process([esb, "run", "routes.yaml", "--log-level", "error"], cwd=Path(folder)) as bus:
            await asyncio.to_thread(bus.wait_for, f"http://127.0.0.1:{port}/readyz")
            await good(port, 2.0)
            at_rest, calm = _open(bus.pid), 0.0
            commands: dict[str, list[str]] = {"nobody": ["sleep", "60"]}
            for mode in OWN:
                many = str(idle if mode == "idle" else count)
                own = [sys.executable, "-m", "hostile.slow", "--hold", mode, str(port), many]
                commands[mode] = [*own, "120"]
            for name, given in TOOLS.items() if shutil.which("slowhttptest") else ():
                url = f"http://127.0.0.1:{port}"
                options = [one.format(url=url) for one in given]
                where = [] if "-u" in options else ["-u", f"{url}/good"]
                commands[name] = [
                    "slowhttptest", "-c", str(count), "-r", "500", "-l", "120", *options, *where
                ]  # fmt: skip
            commands["nobody, again"] = ["sleep", "60"]
            for name, command in commands.items():
                async with _beside(command):
                    await asyncio.sleep(0 if command[0] == "sleep" else 7.0)
                    took = await good(port, seconds)
                    most = _open(bus.pid) - at_rest
                p50, p99 = (quantiles(took, n=100)[at] for at in (49, 98))
                calm = calm or p99
                rows.append([
                    name, str(max(0, most)), str(len(took)), str(took.count(float("inf"))),
                    f"{p50:.1f}", f"{p99:.1f}", f"{p99 / calm:.1f}",
                ])  # fmt: skip
                print("  ".join(cell.ljust(16) for cell in rows[-1]), flush=True)
                await asyncio.sleep(3.0)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or (`--hold`) be the slow callers; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hostile.slow", description=__doc__)
    parser.add_argument("--hold", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--idle", type=int, default=2_560)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if given.hold:
        mode, port, count, seconds = given.hold
        asyncio.run(hold(mode, int(port), int(count), float(seconds)))
        return 0
    rows = asyncio.run(measure(given.connections, given.idle, given.seconds))
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "| --- |" + " --: |" * (len(rows[0]) - 1))
    given.out.write_text(
        "# Slow callers\n\n"
        f"On {datetime.now(UTC).date().isoformat()}, by `python -m hostile.slow`: "
        "good requests (four callers, fifty a second each) beside callers who take their time. "
        "`connections` are those open at the end; slow ones are given up at their deadlines and "
        f"come back.\n\n{chr(10).join(table)}\n"
    )
    return 0 if all(float(row[-1]) <= MOST and row[3] == "0" for row in rows[1:]) else 1


if __name__ == "__main__":
    sys.exit(main())
