"""One measurement: a contestant is started on its core, warmed up, loaded, counted and stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import load
import nginx
from processes import BenchFailed, Cores, Process, core_busy, free_port, running, until
from scenarios import Scenario

BENCH = Path(__file__).resolve().parent
IN, OUT = "bench.in", "bench.out"
"""The queues that the routes name."""


@dataclass(frozen=True)
class Settings:
    """How long and how hard. messages: of a run from a queue."""

    rounds: int
    seconds: int
    warm_up: int
    connections: int
    messages: int


@dataclass(frozen=True)
class Place:
    """Where a measurement is made: the backend's port and counter, the broker, a folder that is
    removed afterwards."""

    cores: Cores
    folder: Path
    backend: int
    delivered: nginx.Counter
    broker: str


@dataclass(frozen=True)
class Figures:
    """What came out. None: does not apply, or cannot be told.

    rate: messages a second. p50, p99, p999: milliseconds. cpu: milliseconds per 1,000 messages.
    busy: the share of its core that the contestant had, 1 if it was the limit. others: the share
    that somebody else had, which should be nearly nothing. memory: MB resident at the end. start:
    seconds from start to the first message served.
    """

    rate: float
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    cpu: float | None = None
    busy: float | None = None
    others: float | None = None
    memory: float | None = None
    start: float | None = None


class Contestant(Protocol):
    """Something that takes a scenario's requests and passes them on to the backend."""

    name: str

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """The command that runs it in the foreground on `port`, and its environment."""
        ...


class Bus:
    """This bus, as it is by default."""

    name = "esb"

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """`esb run` with the scenario's routes; logs are written, at the default level."""
        esb = str(Path(sys.executable).with_name("esb"))
        files = [str(BENCH / "routes" / f"{name}.yaml") for name in ("settings", scenario.routes)]
        return [esb, "run", "--json", *files], {
            "PORT": str(port),
            "DATA": str(place.folder),
            "BACKEND": f"http://127.0.0.1:{place.backend}",
            "AMQP_URL": place.broker,
            # Compiled once, as where it is installed, whatever this environment says about that.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(BENCH.parent / ".tools" / "bench-bytecode"),
        }


class Proxy:
    """nginx as a reverse proxy."""

    name = "nginx"

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """One worker with a configuration of its own."""
        return nginx.write_proxy(place.folder / "nginx", port, place.backend), {}


def backend_alone(scenario: Scenario, settings: Settings, place: Place) -> Figures:
    """The load on the backend with nothing between: no contestant can be faster."""
    found = load.wrk(
        place.backend, scenario.request, settings.connections, settings.seconds, place.folder
    )
    return Figures(found.requests / found.seconds, found.p50, found.p99, found.p999)


def measure(
    contestant: Contestant, scenario: Scenario, settings: Settings, place: Place
) -> Figures:
    """One contestant in one scenario, once.

    nginx speaks no AMQP and stores nothing: it passes the same requests on. Raises BenchFailed if
    an answer is not what it should be, or if messages are missing or there twice.
    """
    way = scenario.way if isinstance(contestant, Bus) else "http"
    if way == "consumed":
        load.fill(place.broker, OUT, scenario.request.body, settings.messages)
    if way == "queued":
        load.fill(place.broker, IN, b"", 0)
    before = place.delivered()
    port = free_port()
    command, environ = contestant.command(scenario, port, place)
    log = place.folder / "log.txt"
    with running(Process(command, place.cores.measured, log, environ)) as process:
        if way == "consumed":
            return _consumed(process, before, settings, place)
        start = _first_answer(process, port, scenario, checked=isinstance(contestant, Bus))
        if settings.warm_up:
            load.wrk(port, scenario.request, settings.connections, settings.warm_up, place.folder)
        count = _counter(way, place)
        if count is not None:
            _settle(count)
        return _loaded(process, port, scenario, settings, place, count, start)


def _first_answer(process: Process, port: int, scenario: Scenario, checked: bool) -> float:
    """Seconds from the start until a message was served; `checked`: served right."""
    last = "none"

    def served() -> float | None:
        nonlocal last
        process.alive()
        with suppress(OSError):
            status, body = load.ask(port, scenario.request)
            took = time.monotonic() - process.started
            last = f"{status} {body[:500]!r}"
            if status < 300 and (not checked or scenario.good(status, body)):
                return took
        return None  # nobody listens yet, or what is behind is not there yet

    try:
        return until(served, f"{scenario.name}: a good answer", 30.0) or 0.0
    except BenchFailed as e:
        raise BenchFailed(f"{e}; the last was {last}") from None


def _counter(way: str, place: Place) -> Callable[[], int] | None:
    if way == "stored":
        return place.delivered
    if way == "queued":
        return lambda: load.depth(place.broker, IN)
    return None


def _settle(count: Callable[[], int]) -> int:
    """The count, once what was in flight has arrived."""
    seen = [-1]

    def still() -> bool:
        seen.append(count())
        return seen[-1] == seen[-2]

    until(still, "messages in flight arrive", every=0.2)
    return seen[-1]


def _loaded(
    process: Process,
    port: int,
    scenario: Scenario,
    settings: Settings,
    place: Place,
    count: Callable[[], int] | None,
    start: float,
) -> Figures:
    before = count() if count else 0
    with _costs(process, place.cores) as cost:
        found = load.wrk(
            port, scenario.request, settings.connections, settings.seconds, place.folder
        )
        messages, seconds = found.requests, found.seconds
        if count is not None:
            ended = time.monotonic()
            until(lambda: count() - before >= found.requests, f"{scenario.name}: all arrive", 300.0)
            seconds += time.monotonic() - ended
    if count is not None:
        # wrk hangs up at the end: what was in flight then was taken, but not counted by it.
        messages = _settle(count) - before
        if not found.requests <= messages <= found.requests + settings.connections:
            raise BenchFailed(f"{scenario.name}: {found.requests} accepted, {messages} arrived")
    return Figures(
        messages / seconds, found.p50, found.p99, found.p999,
        **cost.per(messages), memory=process.memory() / 1e6, start=start,
    )  # fmt: skip


def _consumed(process: Process, before: int, settings: Settings, place: Place) -> Figures:
    """Measured between a tenth and nine tenths of the queue: neither start nor end counts."""
    total = settings.messages

    def arrived(share: float) -> int:
        def look() -> int | None:
            process.alive()
            got = place.delivered() - before
            return got if got >= max(1, share * total) else None

        return until(look, f"{share:.0%} of the queue delivered", 300.0, 0.002) or 0

    arrived(0)
    start = time.monotonic() - process.started
    first = arrived(0.1)
    began = time.monotonic()
    with _costs(process, place.cores) as cost:
        last = arrived(0.9)
        seconds = time.monotonic() - began
    arrived(1)
    if _settle(place.delivered) - before != total or load.depth(place.broker, OUT):
        raise BenchFailed(f"{place.delivered() - before} of {total} messages arrived")
    return Figures(
        (last - first) / seconds,
        **cost.per(last - first), memory=process.memory() / 1e6, start=start,
    )  # fmt: skip


class _Cost:
    def __init__(self, cpu: float, busy: float) -> None:
        self._began = time.monotonic()
        self._cpu = cpu
        self._busy = busy
        self._seconds = 0.0

    def end(self, cpu: float, busy: float) -> None:
        self._seconds = time.monotonic() - self._began
        self._cpu = cpu - self._cpu
        self._busy = busy - self._busy

    def per(self, messages: int) -> dict[str, float]:
        return {
            "cpu": self._cpu / messages * 1e6,
            "busy": self._cpu / self._seconds,
            "others": max(0.0, self._busy - self._cpu) / self._seconds,
        }


@contextmanager
def _costs(process: Process, cores: Cores) -> Iterator[_Cost]:
    cost = _Cost(process.cpu(), core_busy(cores.measured))
    yield cost
    cost.end(process.cpu(), core_busy(cores.measured))
