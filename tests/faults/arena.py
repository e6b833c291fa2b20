"""A bus between two ends that keep ledgers, in processes of their own, and the handles that faults
take hold of."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from rabbitmq import Broker, Cluster
from support.broker import rabbit as outside_view
from support.ledger import Watch, read
from support.processes import Process, lasting_ports, request
from support.proxy import Proxy
from support.receiver import Controlled, backend, consumer
from support.sender import Load, sender

from faults.judge import Allowance, Dead, Evidence, Verdict, judge
from faults.places import ENGINES, PLACES, Place, on_broker

MIX = ("deliver",) * 21 + ("filter", "reject", "busy")
FATES = {"durable": MIX, "queue": MIX, "ordered": ("deliver",) * 23 + ("reject",), "amqp-out": MIX}
"""What is mixed into each flow."""

HTTP_FLOWS = ("durable", "queue", "ordered")
AMQP_FLOWS = ("amqp-out", "amqp-in")

GRACE = 4
CONCURRENCY = 10
PREFETCH = 20
PATIENCE = 60.0
"""Seconds without any progress after which what is missing counts as lost."""


def project(
    flows: Sequence[str],
    *,
    far: str,
    broker: Sequence[str],
    ports: tuple[int, int],
    place: Place,
    engine: str,
) -> dict[str, Any]:
    """The bus under test, one or two routes a flow. What fails is tried again soon and often, so
    that a message that is dead is dead for its own sake; many of the waits are parked."""
    listen, admin = ports
    retry = {"attempts": 200, "backoff": "50ms..500ms", "park_after": "30ms"}

    def deliver(flow: str) -> dict[str, Any]:
        target = {"connection": "far", "path": f"/{flow}", "idempotent": True}
        return {
            "steps": [{"filter": "body.fate != 'filter'"}, {"send": {"http": target}}],
            "retry": retry,
        }

    def posted(flow: str) -> dict[str, Any]:
        return {"http": {"path": f"/{flow}", "method": "POST"}}

    def amqp(queue: str, **options: Any) -> dict[str, Any]:
        return {"amqp": {"connection": "rabbit", "queue": queue, **options}}

    routes: dict[str, Mapping[str, Any]] = {}
    for flow in flows:
        match flow:
            case "durable":
                routes[flow] = {"from": posted(flow), "accept": "durable", **deliver(flow)}
            case "once":
                route = {"from": posted(flow), "accept": "durable", **deliver(flow)}
                routes[flow] = {**route, "steps": [{"skip_seen": "body.id"}, *route["steps"]]}
            case "queue":
                routes["into-queue"] = {
                    "from": posted(flow),
                    "steps": [{"send": {"queue": "work"}}],
                }
                routes[flow] = {"from": {"queue": "work"}, **deliver(flow)}
            case "ordered":
                routes["into-ordered"] = {
                    "from": posted(flow), "steps": [{"send": {"queue": "line"}}]
                }  # fmt: skip
                routes[flow] = {"from": {"queue": {"name": "line", "order": True}}, **deliver(flow)}
            case "amqp-out":
                routes[flow] = {"from": amqp("outgoing", prefetch=PREFETCH), **deliver(flow)}
            case "amqp-in":
                routes[flow] = {"from": posted(flow), "steps": [{"send": amqp("incoming")}]}
            case _:
                raise ValueError(f"there is no flow {flow}")
    connections: dict[str, Any] = {"far": {"http": {"url": far, "timeout": "4s"}}}
    if broker:
        connections["rabbit"] = {"amqp": {"url": list(broker), "reconnect": "50ms..500ms"}}
    return {
        "store": dict(place.settings()),
        "listen": {"port": listen},
        "admin": {"port": admin},
        "connections": connections,
        **ENGINES[engine],
        "routes": routes,
    }


class Arena:
    """Everything for one run of one fault. Entering it starts the ends and the bus.

    place, engine: names of `faults.places`. flows: what passes the bus. proxied: whether the
    backend is reached through `proxy`. sabotage: a name of `faults.sabotage`, for a bus that is
    broken on purpose. disk: megabytes of the disk its store lies on; 0 for the one of `folder`.
    clustered: whether the broker of AMQP flows has three nodes and its queues are quorum queues.
    routes: more routes, beside those of the flows.
    """

    def __init__(
        self,
        folder: Path,
        *,
        place: str,
        engine: str,
        seed: int,
        flows: Sequence[str] = HTTP_FLOWS,
        proxied: bool = False,
        sabotage: str = "",
        disk: int = 0,
        clustered: bool = False,
        routes: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.place = PLACES[place](folder)
        self.dice = random.Random(seed)
        self.flows = flows
        self.allowance = Allowance()
        if engine == "rabbitmq":
            self.allowance.apart = ("amqp-out", "queue", "ordered")
        self.kills = 0
        self.starts = 0
        self.recovery = 0.0
        self.stages: dict[str, int] = {}
        self.memory: dict[str, float] = {}
        self.patience = PATIENCE
        self.sent_ledger, self.got_ledger = folder / "sent", folder / "got"
        self.watch = Watch(self.sent_ledger, self.got_ledger)
        self.environ: Mapping[str, str] = {}
        self.prefix: list[str] = []
        self._engine = engine
        self._proxied = proxied
        self._sabotage = sabotage
        self._disk = disk
        self._clustered = clustered
        self._routes = routes or {}
        self._stack = contextlib.AsyncExitStack()
        self._bus: Process | None = None
        self._dead: dict[int, Dead] = {}
        self._started_sender = 0
        self.backend: Controlled
        self.proxy: Proxy
        self.broker: Broker
        self.cluster: Cluster
        self.nodes: list[str] = []
        self.listen, self.admin = lasting_ports(2)

    # --- beginning and end ------------------------------------------------------------------------

    async def __aenter__(self) -> Arena:
        try:
            await asyncio.to_thread(self._stack.enter_context, self.place.open())
            if self._disk:
                self._stack.enter_context(_small_disk(self.folder / "data", self._disk))
            self.backend = self._stack.enter_context(backend(self.got_ledger))
            far = self.backend.url
            if self._proxied:
                self.proxy = Proxy(self.backend.port)
                await self.proxy.open()
                self._stack.push_async_callback(self.proxy.close)
                far = f"http://127.0.0.1:{self.proxy.port}"
            if self._brokered:
                await self._open_broker()
            self.project = project(
                self.flows,
                far=far,
                broker=self.nodes,
                ports=(self.listen, self.admin),
                place=self.place,
                engine=self._engine,
            )
            self.project["routes"].update(self._routes)
            self.write(self.project)
            await self.start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._bus is not None:
            error.add_note(f"the bus wrote:\n{self._bus.output[-3000:]}")
        self._end()
        await self._stack.aclose()

    def write(self, project: Mapping[str, Any], name: str = "routes.yaml") -> None:
        """Write the file that a bus reads."""
        text = yaml.dump(project, Dumper=_Plain, sort_keys=False)
        (self.folder / name).write_text(text)

    async def _open_broker(self) -> None:
        if self._clustered:
            self.cluster = await asyncio.to_thread(self._stack.enter_context, Cluster())
            self.nodes = self.cluster.urls
        else:
            self.broker = await asyncio.to_thread(self._stack.enter_context, Broker())
            self.nodes = [self.broker.url]
        kind = {"x-queue-type": "quorum" if self._clustered else "classic"}
        async with outside_view(self.nodes[0]) as view:
            for queue in ("outgoing", "incoming"):
                await view.channel.declare_queue(queue, durable=True, arguments=kind)
        got = self.folder / "got-amqp"
        self._stack.enter_context(consumer(got, "incoming", *self.nodes))
        self.watch = Watch(self.sent_ledger, self.got_ledger, got)

    @property
    def _brokered(self) -> bool:
        return self._engine == "rabbitmq" or bool(set(self.flows) & set(AMQP_FLOWS))

    # --- the bus ----------------------------------------------------------------------------------

    @property
    def bus(self) -> Process:
        """Its process."""
        assert self._bus is not None
        return self._bus

    def launch(self) -> None:
        """Start its process."""
        self._end()
        command = [str(Path(sys.executable).parent / "esb")]
        if self._sabotage:
            program = Path(__file__).parent / "sabotage.py"
            command = [sys.executable, str(program), self._sabotage]
        command = [*self.prefix, *command, "run", "routes.yaml", "--log-level", "warning"]
        command += ["--grace", str(GRACE)]
        self._bus = Process(command, cwd=self.folder, environ=self.environ)
        self.starts += 1

    async def start(self) -> None:
        """Start it and return when it is ready."""
        self.launch()
        await self.until(self.ready, "the bus is ready")

    def ready(self) -> bool:
        """Whether it says that it is."""
        with contextlib.suppress(OSError):
            return request("GET", f"http://127.0.0.1:{self.listen}/readyz").status == 200
        return False

    async def revive(self) -> None:
        """Start it if it is not there, and return when it is ready."""
        if self._bus is None or self._bus.ended is not None:
            self.launch()
        await self.until(self.ready, "the bus is ready")

    async def kill(self) -> None:
        """SIGKILL. What it had in hand may come again."""
        assert self.bus.ended is None, f"it ended before it was killed: {self.bus.output[-2000:]}"
        self.bus.kill()
        self.died()

    def died(self) -> None:
        """It was killed, by whatever it was."""
        self.kills += 1
        self.allowance.duplicates += self.in_hand

    def weigh(self, when: str) -> float:
        """Note how many megabytes of memory it takes now (RSS, proc(5))."""
        status = Path(f"/proc/{self.bus.pid}/status").read_text()
        [kilobytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        self.memory[when] = round(int(kilobytes) / 1024, 1)
        return self.memory[when]

    @property
    def in_hand(self) -> int:
        """The most messages that it works on at a time: as many as come again after a crash."""
        return sum(PREFETCH if flow == "amqp-out" else 2 * CONCURRENCY for flow in self.flows)

    async def recovered(self) -> None:
        """Start it under load, and return when a sender is told that a message was accepted."""
        before, begun = self.watch.count("A"), time.monotonic()
        self.launch()
        if "amqp-out" in self.flows:  # what a broker accepts says nothing about the bus
            await self.until(self.ready, "the bus is ready")
            before = self.watch.count("A")
        await self.until(lambda: self.watch.count("A") > before, "a message is accepted")
        self.recovery = max(self.recovery, time.monotonic() - begun)

    def _end(self) -> None:
        if self._bus is not None:
            self._bus.__exit__(None, None, None)
            self._bus = None

    @contextlib.asynccontextmanager
    async def second(self) -> AsyncIterator[Process]:
        """Another bus of the same project and store, at ports of its own."""
        listen, admin = lasting_ports(2)
        project = {**self.project, "listen": {"port": listen}, "admin": {"port": admin}}
        self.write(project, "second.yaml")
        self.starts += 1  # what it counts is not in the first one's metrics
        command = [str(Path(sys.executable).parent / "esb"), "run", "second.yaml"]
        with Process([*command, "--log-level", "warning"], cwd=self.folder) as other:
            other.wait_for(f"http://127.0.0.1:{listen}/readyz")
            yield other

    # --- load -------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def load(self, rate: float = 300.0, **options: Any) -> AsyncIterator[None]:
        """Messages of all flows for as long as the block runs; its end waits for what is in doubt.
        With `count`, the block's end waits until all are sent."""
        start, self._started_sender = self._started_sender, self._started_sender + 1_000_000
        load = Load(
            **{
                "flows": {flow: self.target(flow) for flow in self.flows},
                "rate": rate,
                "fates": FATES,
                "start": start,
                **options,
            }
        )
        with sender(self.sent_ledger, load) as sending:
            yield
            if not load.count:
                sending.terminate()
            assert await asyncio.to_thread(sending.wait, 120) == 0, "the sender failed"

    def target(self, flow: str) -> str:
        """Where a sender sends a flow to."""
        if flow == "amqp-out":
            return " ".join(f"{node}outgoing" for node in self.nodes)
        return f"http://127.0.0.1:{self.listen}/{flow}"

    async def until(
        self, condition: Callable[[], Any], what: str, timeout: float = 60.0, *, alive: bool = True
    ) -> None:
        """Return once `condition` is true; with `alive`, the bus may not end meanwhile."""
        end = time.monotonic() + timeout
        while not condition():
            if alive and self._bus is not None and self._bus.ended is not None:
                raise AssertionError(f"the bus has ended: {self._bus.output[-2000:]}")
            assert time.monotonic() < end, f"not within {timeout:.0f} s: {what}"
            await asyncio.sleep(0.002)

    async def more(self, *events: str, count: int = 1, timeout: float = 60.0) -> None:
        """Return once `count` more of these events are in the ledgers."""
        wanted = self.watch.count(*events) + count
        what = f"{count} more of {', '.join(events)}"
        await self.until(lambda: self.watch.count(*events) >= wanted, what, timeout)

    # --- the end of it ----------------------------------------------------------------------------

    async def settled(self) -> Evidence:
        """Wait until nothing is on its way any more, or nothing moves; everything that both ends,
        the admin API and the store can say."""
        moved, before = time.monotonic(), (-1, -1, -1)
        while True:
            evidence = await self.evidence()
            now = (self.watch.count("D", "R"), evidence.waiting, len(evidence.dead))
            if (
                evidence.waiting == self.allowance.waiting
                and not judge(evidence, self.allowance).lost
            ):
                return evidence
            if now != before:
                moved, before = time.monotonic(), now
            if time.monotonic() - moved > self.patience:
                return evidence
            await asyncio.sleep(0.1)

    async def evidence(self) -> Evidence:
        """What can be said now."""
        await asyncio.to_thread(self._read_dead)
        counts = self.place.counts()
        waiting = self.place.waiting()
        if self._brokered:
            async with outside_view(self.nodes[0]) as view:
                own = on_broker(self.flows) if self._engine == "rabbitmq" else ()
                for queue in ("outgoing", "incoming", *own):
                    waiting += await view.ready(queue)
        return Evidence(
            sent=list(read(self.sent_ledger, "IAFU")),
            got=[*read(self.got_ledger, "DRW"), *read(self.folder / "got-amqp", "D")],
            dead=list(self._dead.values()),
            waiting=waiting,
            damaged=counts.get("damaged", 0),
            whole=self.place.whole(),
        )

    def forget(self, key: int) -> None:
        """A dead letter was replayed or dropped."""
        del self._dead[key]

    def ask(self, method: str, path: str) -> Any:
        """What the admin API answers. Raises OSError if it cannot now."""
        answer = request(method, f"http://127.0.0.1:{self.admin}{path}")
        if answer.status >= 500:
            raise OSError(f"{method} {path}: {answer.status}")
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body[:300]!r}"
        return answer.json if answer.body else None

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters, as the admin API lists them."""
        found: list[dict[str, Any]] = []
        while page := self.ask("GET", f"/dead?limit=1000&after={found[-1]['key'] if found else 0}"):
            found += page
        return found

    def _read_dead(self) -> None:
        listed = {one["key"]: one for one in self.dead()}
        for key in self._dead.keys() - listed.keys():
            del self._dead[key]
        for key in listed.keys() - self._dead.keys():
            self._dead[key] = Dead.of(self.ask("GET", f"/dead/{key}"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = request("GET", f"http://127.0.0.1:{self.admin}/metrics").body.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(name + "{") and all(one in line for one in wanted)
        )

    def against_metrics(self, verdict: Verdict) -> list[str]:
        """Where the bus's own figures differ from the ledgers'; a bus that was started again has
        begun to count anew, so only of one that was not."""
        if self.starts != 1:
            return []
        told = [
            ("dead letters", self.metric("esb_dead_letters_total"), verdict.dead),
            ("filtered", self.metric("esb_messages_total", outcome="filtered"), verdict.filtered),
        ]
        return [
            f"the metrics tell of {said:.0f} {what}, the ledgers of {is_}"
            for what, said, is_ in told
            if not is_ <= said <= is_ + verdict.unknown
        ]


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@contextlib.contextmanager
def _small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    options = f"size={megabytes}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
