"""Reload a bus again and again under load, and count what came of every message.

    bench/reload.py [--reloads 1000] [--rate 500] [--json] [-o FILE]

A quarter of the messages each: an HTTP caller who waits for the answer; `accept: durable`; a queue
of the bus between two routes; RabbitMQ. Each reload changes every route. What is looked for:

    errors      a caller who got anything but his answer, or no answer
    lost        a message that was accepted (a 202, a confirm) and never arrived
    stale       an answer of routes that were replaced before the request was sent
    twice       a message that arrived more than once (allowed, delivery is at-least-once)
    memory      of the bus's process, through the run
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from processes import BenchFailed, die_with_parent, free_port

ESB = Path(sys.executable).with_name("esb")
WARM = 0.2
"""The share of the reloads after which memory counts."""

HEAD = """\
listen: {{port: {port}}}
admin: {{port: {admin}}}
"""
ROUTES = """\
routes:
  waits:
    from: {{http: {{path: /waits}}}}
    steps:
      - set: {{body: {{version: "{version}", n: body.n}}}}
  accepted:
    from: {{http: {{path: /accepted}}}}
    accept: durable
    steps:
      - send: {{http: {{url: "{far}/accepted?v={version}"}}}}
  queued:
    from: {{http: {{path: /queued}}}}
    steps:
      - set: {{headers: {{x-version: "'{version}'"}}}}
      - send: {{queue: work}}
  worker:
    from: {{queue: work}}
    steps:
      - send: {{http: {{url: "{far}/queued?v={version}"}}}}
  consumed:
    from: {{amqp: {{url: "{amqp}", queue: "{queue}"}}}}
    steps:
      - send: {{http: {{url: "{far}/consumed?v={version}"}}}}
"""


@dataclass
class Tally:
    """What came of the messages, by kind."""

    sent: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    taken: dict[str, set[int]] = field(default_factory=dict)
    arrived: dict[str, Counter[int]] = field(default_factory=dict)
    stale: int = 0
    slowest: float = 0.0
    late: float = 0.0  # seconds that the load was behind its schedule at most

    def lost(self) -> int:
        return sum(
            len(taken - self.arrived.get(kind, Counter()).keys())
            for kind, taken in self.taken.items()
        )

    def twice(self) -> int:
        return sum(n > 1 for counts in self.arrived.values() for n in counts.values())


@contextlib.asynccontextmanager
async def far_side(tally: Tally) -> AsyncIterator[str]:
    """Takes what the routes send, and remembers it."""

    async def take(request: web.Request) -> web.Response:
        number = json.loads(await request.read())["n"]
        tally.arrived.setdefault(request.path[1:], Counter())[number] += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{kind}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Load:
    """Sends messages at a rate, whatever becomes of them, until it is told to stop."""

    def __init__(self, url: str, publish: Callable[[bytes], Awaitable[None]], tally: Tally) -> None:
        self.url = url
        self.publish = publish
        self.tally = tally
        self.version = 0  # the last that was loaded
        self.over = False
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, rate: float) -> None:
        kinds = ("waits", "accepted", "queued", "consumed")
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=200), timeout=aiohttp.ClientTimeout(60)
        ) as http:
            begun = time.monotonic()
            number = 0
            while not self.over:
                due = begun + number / rate
                pause = due - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                else:
                    self.tally.late = max(self.tally.late, -pause)
                    await asyncio.sleep(0)
                kind = kinds[number % 4]
                task = asyncio.create_task(self._send(http, kind, number))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
                number += 1
            while self._sending:
                await asyncio.wait(self._sending)

    async def _send(self, http: aiohttp.ClientSession, kind: str, number: int) -> None:
        tally, at_least, begun = self.tally, self.version, time.monotonic()
        tally.sent[kind] += 1
        body = json.dumps({"n": number}).encode()
        try:
            if kind == "consumed":
                await self.publish(body)
                tally.taken.setdefault(kind, set()).add(number)
                return
            async with http.post(
                f"{self.url}/{kind}", data=body, headers={"content-type": "application/json"}
            ) as r:
                answer = json.loads(await r.read())
                if r.status != (200 if kind == "waits" else 202):
                    tally.errors.append(f"{kind}: {r.status} {answer.get('detail')}")
                elif kind != "waits":
                    tally.taken.setdefault(kind, set()).add(number)
                elif answer["n"] != number:
                    tally.errors.append(f"{kind}: the answer of another message")
                elif answer["version"] < at_least:
                    tally.stale += 1
            tally.slowest = max(tally.slowest, time.monotonic() - begun)
        except Exception as e:  # noqa: BLE001 - whatever a caller sees is what is counted
            tally.errors.append(f"{kind}: {type(e).__name__} {e}")


async def measure(reloads: int, rate: float, amqp: str, every: float) -> dict[str, Any]:
    """Reload that often; at least `every` seconds lie between two."""
    import aio_pika

    tally = Tally()
    queue = f"reload-{random.getrandbits(40):x}"
    connection = await aio_pika.connect(amqp)
    with tempfile.TemporaryDirectory() as folder:
        async with connection, far_side(tally) as far:
            channel = await connection.channel(publisher_confirms=True)
            await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})

            async def publish(body: bytes) -> None:
                message = aio_pika.Message(
                    body, content_type="application/json",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )  # fmt: skip
                await channel.default_exchange.publish(message, routing_key=queue, mandatory=True)

            ports = {"port": free_port(), "admin": free_port()}
            project = Path(folder)

            def write(version: int) -> None:
                text = ROUTES.format(version=version, far=far, amqp=amqp, queue=queue)
                new = project / ".new"
                new.write_text(text)
                new.replace(project / "routes" / "all.yaml")

            (project / "routes").mkdir()
            (project / "routes" / "bus.yaml").write_text(HEAD.format(**ports))
            write(0)
            log = (project / "log").open("wb")
            bus = await asyncio.create_subprocess_exec(
                ESB,
                "run",
                "--json",
                "--log-level",
                "warning",
                cwd=project,
                stderr=log,
                preexec_fn=die_with_parent,
            )
            load = Load(f"http://127.0.0.1:{ports['port']}", publish, tally)
            loading: asyncio.Task[None] | None = None
            try:
                async with aiohttp.ClientSession() as http:
                    admin = f"http://127.0.0.1:{ports['admin']}"
                    await _ready(http, f"{admin}/readyz", bus)
                    loading = asyncio.create_task(load.run(rate))
                    figures = await _reload(http, admin, reloads, every, write, load, bus.pid)
                    load.over = True
                    await loading
                    begun = time.monotonic()
                    await _arrived(tally)
                    figures["drained"] = round(time.monotonic() - begun, 1)
            finally:
                load.over = True
                if loading is not None:
                    await loading
                bus.terminate()
                status = await bus.wait()
                with contextlib.suppress(Exception):
                    await channel.queue_delete(queue)
            told = (project / "log").read_text().splitlines()
    return {
        "reloads": reloads,
        "rate": rate,
        "messages": sum(tally.sent.values()),
        "errors": len(tally.errors),
        "first_errors": tally.errors[:5],
        "lost": tally.lost(),
        "sent": dict(tally.sent),
        "stale": tally.stale,
        "twice": tally.twice(),
        "slowest": round(tally.slowest, 3),
        "late": round(tally.late, 3),
        "exit": status,
        "log": told[:5],
        **figures,
    }


async def _reload(
    http: aiohttp.ClientSession,
    admin: str,
    reloads: int,
    every: float,
    write: Callable[[int], None],
    load: Load,
    pid: int,
) -> dict[str, Any]:
    memory, took = [_memory(pid)], []
    begun = time.monotonic()
    for version in range(1, reloads + 1):
        turn = time.monotonic()
        write(version)
        async with http.post(f"{admin}/reload") as r:
            told = await r.json()
            if not told.get("reloaded") or len(told["changed"]) != 5:
                raise BenchFailed(f"reload {version}: {told}")
        took.append(time.monotonic() - turn)
        load.version = version
        memory.append(_memory(pid))
        await asyncio.sleep(max(0.0, every - took[-1]))
    warm = memory[int(len(memory) * WARM) :]
    third = max(1, len(warm) // 3)
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "reload_ms": round(1000 * sorted(took)[len(took) // 2], 1),
        "reload_ms_most": round(1000 * max(took), 1),
        "memory_mb": {
            "begin": memory[0],
            "warm": round(sum(warm[:third]) / third, 1),
            "end": round(sum(warm[-third:]) / third, 1),
            "most": max(memory),
        },
    }


async def _ready(http: aiohttp.ClientSession, url: str, bus: Any) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if bus.returncode is not None:
            break
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(url) as r:
                if r.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise BenchFailed("the bus did not start")


async def _arrived(tally: Tally) -> None:
    """Return when all is there, or nothing has come for a minute."""
    missing, since = tally.lost(), time.monotonic()
    while missing and time.monotonic() < since + 60:
        await asyncio.sleep(0.5)
        if (now := tally.lost()) < missing:
            missing, since = now, time.monotonic()


def _memory(pid: int) -> float:
    """Resident memory in MB (proc(5))."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, 1)


def passed(found: dict[str, Any]) -> bool:
    """Whether nothing was lost, no caller saw anything, and it stopped in order."""
    return not (found["errors"] or found["lost"] or found["stale"] or found["exit"])


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    memory = found["memory_mb"]
    rows = [
        ("reloads, each of all routes", f"{found['reloads']:,}"),
        ("messages", f"{found['messages']:,}"),
        ("errors to callers", found["errors"]),
        ("messages lost", found["lost"]),
        ("answers of routes that were replaced before", found["stale"]),
        ("messages that arrived twice", found["twice"]),
        ("the last arrived after the load by", f"{found['drained']} s"),
        ("a reload, median and longest", f"{found['reload_ms']} and {found['reload_ms_most']} ms"),
        ("the slowest answer", f"{found['slowest']} s"),
        (
            "memory after a fifth of the run, and at its end",
            f"{memory['warm']} and {memory['end']} MB",
        ),
    ]
    lines = [
        "# Reload under load",
        "",
        "Made by `bench/reload.py`; its first lines tell what is sent and counted. "
        f"{found['rate']:g} messages a second for {found['seconds']:.0f} seconds.",
        "",
        "| | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second")
    parser.add_argument("--every", type=float, default=0.2, help="seconds from reload to reload")
    parser.add_argument("--amqp", help="the URL of a broker; one of its own if left out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-o", "--output", type=Path, help="a file for the page")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if (amqp := given.amqp) is None:
            from rabbitmq import Broker

            amqp = stack.enter_context(Broker()).url
        found = asyncio.run(measure(given.reloads, given.rate, amqp, given.every))
    print(json.dumps(found, indent=2) if given.json else page(found))
    if given.output:
        given.output.write_text(page(found))
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
