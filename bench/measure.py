"""One measurement: a contestant is started on its core, warmed up, loaded, counted and stopped."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import load
import nginx
from backend import backend, witness
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
    """Where a measurement is made: the port of the backend, the broker, certificate and key of a
    listener with TLS, a folder that is removed afterwards."""

    cores: Cores
    folder: Path
    backend: int
    broker: str
    certificate: tuple[Path, Path] | None = None


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
    """Something that takes a scenario's requests and passes them on to the backend.

    kinds: the kinds of scenarios that it does, and does right. warm_up: seconds of load before it
    counts, at the least; what compiles as it runs needs more of them.
    """

    name: str
    kinds: Collection[str]
    warm_up: int

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """The command that runs it in the foreground on `port`, and its environment."""
        ...

    def version(self) -> str:
        """Its version, for the results."""
        ...

    def missing(self) -> str:
        """How to get what it needs and is not there; "" if it can run."""
        ...


class Bus:
    """This bus, as it is by default."""

    name = "esb"
    kinds = ("direct", "header", "header-soap", "cbr", "xslt", "secure", "tls", "soap-as-rest",
             "rest-as-soap", "amqp-to-http", "http-to-amqp", "durable-accept",
             "queue-to-queue")  # fmt: skip
    warm_up = 0

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """`esb run` with the scenario's routes; logs are written, at the default level."""
        esb = str(Path(sys.executable).with_name("esb"))
        settings = "settings-tls" if scenario.tls else "settings"
        if place.certificate is not None:
            for file in place.certificate:
                shutil.copy(file, place.folder)
        files = [str(BENCH / "routes" / f"{name}.yaml") for name in (settings, scenario.routes)]
        return [esb, "run", "--json", *files], {
            "PORT": str(port),
            "DATA": str(place.folder),
            "BACKEND": f"http://127.0.0.1:{place.backend}",
            "AMQP_URL": place.broker,
            # Compiled once, as where it is installed, whatever this environment says about that.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(BENCH.parent / ".tools" / "bench-bytecode"),
        }

    def version(self) -> str:
        """Told with the versions of its parts."""
        return ""

    def missing(self) -> str:
        """Nothing: it is here."""
        return ""


class Proxy:
    """nginx as a reverse proxy: whatever the kind, it passes on what comes."""

    name = "nginx"
    kinds = Bus.kinds
    warm_up = 0

    def command(
        self, scenario: Scenario, port: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """One worker with a configuration of its own."""
        certificate = place.certificate if scenario.tls else None
        return nginx.write_proxy(place.folder / "nginx", port, place.backend, certificate), {}

    def version(self) -> str:
        """Told with the versions of the tools."""
        return ""

    def missing(self) -> str:
        """Nothing: the bench does not start without it."""
        return ""


def backend_alone(scenario: Scenario, settings: Settings, place: Place) -> Figures:
    """The load on the backend with nothing between: no contestant can be faster."""
    with backend(place.backend, scenario, place.cores.load, place.folder):
        found = load.wrk(
            place.backend, scenario.request, settings.connections, settings.seconds, place.folder
        )
    return Figures(found.requests / found.seconds, found.p50, found.p99, found.p999)


def measure(
    contestant: Contestant, scenario: Scenario, settings: Settings, place: Place
) -> Figures:
    """One contestant in one scenario, once.

    nginx speaks no AMQP and stores nothing: it passes the same requests on. Raises BenchFailed if
    an answer is not what it should be, if what arrives behind is not, or if messages are missing or
    there twice.
    """
    proxy = isinstance(contestant, Proxy)
    way = "http" if proxy else scenario.way
    if way == "queued":
        load.fill(place.broker, IN, b"", 0)
    port = free_port()
    command, environ = contestant.command(scenario, port, place)
    log = place.folder / "log.txt"
    if way == "consumed":
        return _consumed(contestant, scenario, settings, place, (command, environ))
    with running(Process(command, place.cores.measured, log, environ)) as process:
        start = _first_answer(process, port, scenario, place, way, strict=not proxy)
        with backend(place.backend, scenario, place.cores.load, place.folder) as (_, delivered):
            _again(process, port, scenario)
            if warm_up := max(settings.warm_up, contestant.warm_up):
                load.wrk(
                    port, scenario.request, settings.connections, warm_up, place.folder,
                    scenario.tls,
                )  # fmt: skip
            count = _counter(way, place, delivered)
            if count is not None:
                _settle(count)
            return _loaded(process, port, scenario, settings, place, count, start)


def _first_answer(
    process: Process, port: int, scenario: Scenario, place: Place, way: str, strict: bool
) -> float:
    """Seconds from the start until a message was served; `strict`: served right, and what arrived
    at the backend was right too."""
    last = "none"

    def served() -> float | None:
        nonlocal last
        process.alive()
        with suppress(OSError):
            status, body = load.ask(port, scenario.request, scenario.tls)
            took = time.monotonic() - process.started
            last = f"{status} {body[:500]!r}"
            if status < 300 and (not strict or scenario.good(status, body)):
                return took
        return None  # nobody listens yet, or what is behind is not there yet

    with witness(place.backend, scenario) as seen:
        try:
            took = until(served, f"{scenario.name}: a good answer", 60.0) or 0.0
        except BenchFailed as e:
            raise BenchFailed(f"{e}; the last was {last}, behind came {seen.came!r}") from None
        if strict and way != "queued":
            until(lambda: seen.came, f"{scenario.name}: something arrives behind")
            assert seen.came is not None
            if not scenario.arrives(*seen.came):
                raise BenchFailed(f"{scenario.name}: {seen.came!r:.2000} is not what should arrive")
        return took


def _again(process: Process, port: int, scenario: Scenario) -> None:
    """Wait until the contestant has found the backend that took the witness's place."""

    def served() -> bool:
        process.alive()
        with suppress(OSError):
            status, _ = load.ask(port, scenario.request, scenario.tls)
            return status < 300
        return False

    until(served, f"{scenario.name}: an answer from the backend", 30.0, every=0.1)


def _counter(way: str, place: Place, delivered: Callable[[], int]) -> Callable[[], int] | None:
    if way == "stored":
        return delivered
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
            port, scenario.request, settings.connections, settings.seconds, place.folder,
            scenario.tls,
        )  # fmt: skip
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


def _consumed(
    contestant: Contestant,
    scenario: Scenario,
    settings: Settings,
    place: Place,
    command: tuple[list[str], dict[str, str]],
) -> Figures:
    """Measured between a start, which leaves time to warm up, and nine tenths of the queue."""
    # What compiles as it runs gets more messages before it counts, as it gets more seconds above.
    total = settings.messages * (1 + contestant.warm_up // 2)
    skipped = 1 - 0.9 * settings.messages / total
    load.fill(place.broker, OUT, scenario.request.body, total)
    log = place.folder / "log.txt"
    with (
        backend(place.backend, scenario, place.cores.load, place.folder) as (_, delivered),
        running(Process(command[0], place.cores.measured, log, command[1])) as process,
    ):

        def arrived(share: float) -> int:
            def look() -> int | None:
                process.alive()
                got = delivered()
                return got if got >= max(1, share * total) else None

            return until(look, f"{share:.0%} of the queue delivered", 300.0, 0.002) or 0

        arrived(0)
        start = time.monotonic() - process.started
        first = arrived(skipped)
        began = time.monotonic()
        with _costs(process, place.cores) as cost:
            last = arrived(1 - 0.1 * settings.messages / total)
            seconds = time.monotonic() - began
        arrived(1)
        if _settle(delivered) != total or load.depth(place.broker, OUT):
            raise BenchFailed(f"{delivered()} of {total} messages arrived")
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
