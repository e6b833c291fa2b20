"""What puts load on: wrk over HTTP, and a small AMQP driver on aio-pika."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractChannel
from processes import BenchFailed

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT = 10.0
_IN_FLIGHT = 500


@dataclass(frozen=True)
class Request:
    """What a client asks: POST `body` to `path`."""

    path: str
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What wrk counted; latencies in milliseconds, of all requests at full load."""

    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float


def wrk(
    port: int, request: Request, connections: int, seconds: int, folder: Path, tls: bool = False
) -> Load:
    """Ask as fast as answers come, over `connections` connections.

    Raises BenchFailed if anything but a good answer comes: such a figure would be none.
    """
    body = folder / "body"
    body.write_bytes(request.body)
    options = f"-t1 -c{connections} -d{seconds}s --timeout {_TIMEOUT:.0f}s --latency -s".split()
    url = f"http{'s' if tls else ''}://127.0.0.1:{port}{request.path}"
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    done = subprocess.run(
        ["wrk", *options, _SCRIPT, url, "--", "POST", request.content_type, body, *headers],
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise BenchFailed(f"wrk: {(done.stderr or done.stdout).strip()[-500:]}")
    found = json.loads(lines[-1])
    errors = found.pop("errors")
    if errors or not found["requests"]:
        raise BenchFailed(f"{url}: {found['requests']} answers, {errors} errors")
    return Load(**found)


def ask(port: int, request: Request, tls: bool = False) -> tuple[int, bytes]:
    """Ask once; status and body. Raises OSError if nobody answers."""
    headers = {"Content-Type": request.content_type, **request.headers}
    return _ask(port, "POST", request.path, request.body, headers, tls)


def get(port: int, path: str) -> bytes:
    """The body of a page. Raises BenchFailed if there is none."""
    status, body = _ask(port, "GET", path)
    if status != 200:
        raise BenchFailed(f"GET {path}: {status}")
    return body


def _ask(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    tls: bool = False,
) -> tuple[int, bytes]:
    connection = (
        http.client.HTTPSConnection(
            # The certificate is made for this run; whether it is checked costs the client, not us.
            "127.0.0.1", port, timeout=_TIMEOUT, context=ssl._create_unverified_context()
        )
        if tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    )  # fmt: skip
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as e:
        raise OSError(f"no answer: {e!r}") from e
    finally:
        connection.close()


# --- AMQP ----------------------------------------------------------------------------------------


def fill(url: str, queue: str, body: bytes, count: int) -> None:
    """Put `count` persistent messages into a durable, empty queue; all confirmed."""

    async def publish() -> None:
        async with _channel(url) as channel:
            await (await channel.declare_queue(queue, durable=True)).purge()
            message = aio_pika.Message(
                body,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            for at in range(0, count, _IN_FLIGHT):
                some = range(at, min(at + _IN_FLIGHT, count))
                await asyncio.gather(
                    *(channel.default_exchange.publish(message, queue) for _ in some)
                )

    asyncio.run(publish())


def depth(url: str, queue: str) -> int:
    """How many messages are ready in a queue."""

    async def look() -> int:
        async with _channel(url) as channel:
            found = await channel.declare_queue(queue, durable=True)
            return found.declaration_result.message_count or 0

    return asyncio.run(look())


@asynccontextmanager
async def _channel(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()
