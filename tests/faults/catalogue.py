"""The faults. Each makes something fail under load, again and again, and proves that it did."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from support.ledger import read
from support.processes import request
from support.receiver import MODES

from faults.arena import AMQP_FLOWS, HTTP_FLOWS, Arena
from faults.judge import Evidence, Verdict
from faults.places import PostgresServer


class Vacuous(Exception):
    """The fault did not happen as it should have: the run proves nothing."""


class Fault(ABC):
    """A kind of failure.

    rounds: how often it is made to happen, unless the command line says otherwise; short: in the
    tests (0: not there), for the stores `short_places`. places, engines: where it applies.
    must_lose: the bus is a mutant that the judge has to convict.
    """

    name: str
    about: str
    rounds: int = 10
    short: int = 0
    short_places: ClassVar[Sequence[str]] = ("sqlite",)
    places: ClassVar[Sequence[str]] = ("sqlite", "postgres")
    engines: ClassVar[Sequence[str]] = ("store", "rabbitmq")
    flows: Sequence[str] = HTTP_FLOWS
    routes: ClassVar[Mapping[str, Any]] = {}
    proxied = False
    clustered = False
    disk = 0
    sabotage = ""
    must_lose = False

    def lacks(self) -> str:
        """Why it cannot be made here; "" if it can."""
        return ""

    def environ(self, arena: Arena) -> Mapping[str, str]:
        """What the bus finds in its environment."""
        return {}

    @abstractmethod
    async def happen(self, arena: Arena, rounds: int) -> int:
        """Make it happen, and return how often it did; what is under way is waited for later."""

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """Raise Vacuous if what is known from outside does not show that it happened."""
        if rounds < 1:
            raise Vacuous("no round was run")


def _needs(*programs: str) -> str:
    lacking = [program for program in programs if not shutil.which(program)]
    return f"{', '.join(lacking)} not installed" if lacking else ""


# --- the bus dies ---------------------------------------------------------------------------------


class Kill(Fault):
    """SIGKILL at instants that are spread over everything a message goes through."""

    name = "kill9"
    about = "SIGKILL of the bus at random instants of every stage"
    rounds = 200
    short = 3
    short_places: ClassVar[Sequence[str]] = ("sqlite", "postgres")
    stages: ClassVar[Mapping[str, str]] = {
        "accept": "I",
        "take": "A",
        "send": "S",
        "done": "D",
        "park": "",
        "bury": "R 422",
    }
    """By name: the event in a ledger after which the bus must be in that stage; "": what plain SQL
    sees in the store says so."""

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        names = [*self.stages, "idle", "start"]
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                stage = names[done % len(names)]
                if stage == "start":
                    await arena.kill()
                    arena.launch()
                    await asyncio.sleep(arena.dice.uniform(0.05, 0.6))
                elif stage == "idle":
                    await asyncio.sleep(arena.dice.uniform(0, 0.3))
                elif event := self.stages[stage]:
                    await arena.more(event)
                    await asyncio.sleep(arena.dice.uniform(0, 0.005))
                else:
                    await arena.until(arena.place.parked, "a message is parked")
                await arena.kill()
                arena.stages[stage] = arena.stages.get(stage, 0) + 1
                await arena.recovered()
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if arena.kills < rounds:
            raise Vacuous(f"{arena.kills} kills in {rounds} rounds")
        if not verdict.unknown:
            raise Vacuous("no sender was ever in doubt")
        if rounds >= 10 and not verdict.redeliveries:
            raise Vacuous("nothing ever came again")


class KillAmqp(Kill):
    """The same between HTTP and a broker."""

    name = "kill9-amqp"
    about = "SIGKILL of the bus while it takes from RabbitMQ and publishes to it"
    short = 0
    engines = ("store",)
    flows = AMQP_FLOWS


class KillMutant(Kill):
    """A bus that tells before it commits must be convicted by the same fault."""

    name = "mutant-commit"
    about = "kill9 of a bus that acknowledges before it commits"
    rounds = 12
    short = 1
    places = ("sqlite",)
    engines = ("store",)
    flows = ("durable",)
    stages: ClassVar[Mapping[str, str]] = {"take": "A"}
    sabotage = "accept_before_commit"
    must_lose = True


class KillAmqpMutant(KillAmqp):
    """A bus that acknowledges first must be convicted by the same fault."""

    name = "mutant-ack"
    about = "kill9-amqp of a bus that acknowledges before its steps"
    rounds = 12
    places = ("sqlite",)
    stages: ClassVar[Mapping[str, str]] = {"send": "S"}
    sabotage = "settle_before_step"
    must_lose = True


class CrashPoints(Fault):
    """Death within the N-th call of each kind, for every N, until a life passes without reaching
    it: of a start, and of messages that are delivered, put off and buried."""

    name = "crash-points"
    about = "SIGKILL in the N-th write and fsync of a start and a few messages' lives, all N"
    rounds = 100_000
    short = 1
    places = ("sqlite",)
    engines = ("store",)
    calls = ("fdatasync", "pwrite64", "fsync", "ftruncate", "unlink")

    def lacks(self) -> str:
        """See Fault."""
        return _needs("strace")

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        for call, number in self._points(arena, rounds):
            if done == rounds:
                break
            if call in self._passed:
                continue
            if await self._dies_at(arena, call, number):
                arena.stages[call] = arena.stages.get(call, 0) + 1
                done += 1
            else:
                self._passed.add(call)
        return done

    def _points(self, arena: Arena, rounds: int) -> Iterator[tuple[str, int]]:
        self._passed: set[str] = set()
        self._all = rounds >= self.rounds
        if self._all:
            for call in self.calls:
                yield from ((call, number) for number in range(1, 10_000))
        for at in range(rounds):
            yield self.calls[at % 2], arena.dice.randint(2, 12)

    async def _dies_at(self, arena: Arena, call: str, number: int) -> bool:
        """Whether the bus came to that call, which was its last."""
        arena.prefix = _strace(call, f"signal=SIGKILL:when={number}")
        arena.launch()
        arena.prefix = []
        async with arena.load(rate=0, count=3, keys=1, fates=_ONE_OF_EACH, patience=3):
            died = not await self._outlives(arena)
            if died:
                arena.died()
                await arena.start()
        await arena.settled()
        return died

    async def _outlives(self, arena: Arena) -> bool:
        """Whether it does outlive the messages that are sent."""
        wanted = arena.watch.count("A") + 3 * len(arena.flows)
        quiet = 0
        while quiet < 3:
            if arena.bus.ended is not None:
                return False
            through = arena.watch.count("A") >= wanted and not arena.place.waiting()
            quiet = quiet + 1 if through else 0
            await asyncio.sleep(0.02)
        return True

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if arena.kills < rounds:
            raise Vacuous(f"{arena.kills} kills at {rounds} crash points")
        if self._all and min(arena.stages.get(call, 0) for call in self.calls[:2]) < 5:
            raise Vacuous(f"a life has more writes than {arena.stages}")


_ONE_OF_EACH = dict.fromkeys(HTTP_FLOWS, ("deliver", "busy", "reject"))


class FirstStart(CrashPoints):
    """The same while the store is made."""

    name = "first-start"
    about = "SIGKILL in the N-th write and fsync of the start that makes the store, all N"
    short = 0

    async def _dies_at(self, arena: Arena, call: str, number: int) -> bool:
        await arena.kill()
        shutil.rmtree(arena.folder / "data")
        arena.prefix = _strace(call, f"signal=SIGKILL:when={number}")
        arena.launch()
        arena.prefix = []
        await arena.until(
            lambda: arena.ready() or arena.bus.ended is not None, "it starts", alive=False
        )
        died = arena.bus.ended is not None
        if died:
            arena.died()
            async with arena.load(fates={}):
                await arena.recovered()
        await arena.settled()
        return died


def _strace(calls: str, fault: str) -> list[str]:
    # With --seccomp-bpf it would be faster, and strace 6.1 then counts wrongly.
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    return ["strace", "-f", "-qq", "-o", "/dev/null", *inject]


class Poison(Fault):
    """Messages that kill the process that handles them."""

    name = "poison"
    about = "messages that kill the process as often as they are tried"
    rounds = 5
    sabotage = "poison"
    engines = ("store",)  # on a broker a sender in doubt leaves copies that go on killing
    flows = ("queue",)

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        deadly = dict.fromkeys(arena.flows, ("deliver",) * 5 + ("poison",))
        done = 0
        while done < rounds:
            wanted = (done + 1) * len(arena.flows)
            async with arena.load(rate=0, count=6, keys=1, fates=deadly):
                end = time.monotonic() + 120
                while await self._buried(arena) < wanted:
                    assert time.monotonic() < end, "it is tried again and again"
                    if arena.bus.ended is not None:
                        arena.died()
                        arena.launch()
                    await asyncio.sleep(0.02)
            done += 1
        return done

    async def _buried(self, arena: Arena) -> int:
        with suppress(OSError):  # it may die at any time
            return sum(one["code"] == "poison" for one in await asyncio.to_thread(arena.dead))
        return 0

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if arena.kills < 2 * rounds:
            raise Vacuous(f"{arena.kills} deaths by {rounds} rounds of poison")


# --- the disk -------------------------------------------------------------------------------------


_REFUSED = ("U 500", "U 502", "U 503")


class SyncFails(Fault):
    """One fsync fails. What it was for is not acknowledged, and nothing is from then on: the kernel
    may have dropped the pages, so that asking again would find "success"."""

    rounds = 10
    places = ("sqlite",)
    engines = ("store",)  # a broker goes on taking

    def __init__(self, error: str) -> None:
        self.name = f"fsync-{error.lower()}"
        self.about = f"{error} of one fsync: nothing is acknowledged until a restart"
        self.short = int(error == "EIO")
        self._error = error

    def lacks(self) -> str:
        """See Fault."""
        return _needs("strace")

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                async with _attached(arena, "fdatasync", f"error={self._error}:when=1"):
                    await arena.more(*_REFUSED)
                before = arena.watch.count("A")
                await arena.more(*_REFUSED, count=50)
                # What was acknowledged before the failure may be noted after it.
                late = arena.watch.count("A") - before
                assert late <= arena.in_hand, f"{late} accepted by a store that has failed"
                await arena.more(*_REFUSED, count=50)
                assert arena.watch.count("A") == before + late, "accepted by a failed store"
                told = arena.ask("GET", "/readyz")
                assert "failed" in json.dumps(told), f"it says nothing of its failed store: {told}"
                arena.bus.signal(signal.SIGTERM)
                await asyncio.to_thread(arena.bus.wait, 40)
                arena.allowance.duplicates += arena.in_hand
                await arena.recovered()
                done += 1
        return done


@asynccontextmanager
async def _attached(arena: Arena, calls: str, fault: str) -> Any:
    """Inject a fault into the running bus, for as long as the block runs."""
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    command = ["strace", "-f", "-o", "/dev/null", *inject, "-p", str(arena.bus.pid)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        assert "attached" in line, f"strace: {line}"
        yield
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


class DiskFull(Fault):
    """No room is left: nothing is accepted, nothing is lost, and it goes on by itself once there is
    room again."""

    name = "disk-full"
    about = "the store's disk runs full and is freed again, without a restart"
    rounds = 5
    places = ("sqlite",)
    engines = ("store",)
    disk = 24

    def lacks(self) -> str:
        """See Fault."""
        return _needs("mount") or ("" if os.geteuid() == 0 else "only root can mount a small disk")

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        filler = arena.folder / "data" / "filler"
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                _fill(filler)
                await arena.more("U 503", count=50)
                filler.unlink()
                begun = time.monotonic()
                await arena.more("A", count=20)
                arena.recovery = max(arena.recovery, time.monotonic() - begun)
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if arena.starts != 1:
            raise Vacuous("it was started again")


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as out:
        for size in (1_000_000, 4096, 1):
            while True:
                try:
                    out.write(bytes(size))
                except OSError:
                    break


class FlippedBit(Fault):
    """A bit of a stored body changes while nobody looks: the message is set aside and told, never
    delivered."""

    name = "flipped-bit"
    about = "one bit of a stored message is flipped while the bus is down"
    rounds = 10
    engines = ("store",)
    flows = ("durable", "queue")

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        while done < rounds:
            arena.backend.turn("refuse")
            async with arena.load(rate=0, count=40, keys=4, fates={}):
                await arena.until(lambda: arena.place.waiting() >= 80, "messages wait")
            arena.bus.signal(signal.SIGTERM)
            assert await asyncio.to_thread(arena.bus.wait, 40) == 0
            victim = arena.dice.choice(list(read(arena.sent_ledger, "I"))[-80:])
            arena.place.flip(victim[1], arena.dice)
            arena.allowance.damaged += 1
            arena.backend.turn("ok")
            await arena.start()
            evidence = await arena.settled()
            if evidence.damaged != done + 1:
                raise Vacuous(f"{evidence.damaged} of {done + 1} damaged messages were found")
            done += 1
        return done


# --- the far side ---------------------------------------------------------------------------------


class BackendMode(Fault):
    """The backend misbehaves for a while."""

    rounds = 5

    def __init__(self, mode: str) -> None:
        self.name = f"backend-{mode}"
        self.about = f"backend: {MODES[mode]}"
        self.short = int(mode == "reset")
        self._mode = mode
        self._shown_by = {
            "error": "R 500", "gateway": "R 502", "busy": "R 429", "reject": "R 422",
            "refuse": "A", "slow": "D", "html": "D",
        }.get(mode, "W")  # fmt: skip

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                arena.backend.turn(self._mode)
                if self._mode == "refuse":  # some of its answers were still on their way
                    arena.allowance.duplicates += arena.in_hand
                await arena.more(self._shown_by, count=20)
                # Who sends is not concerned: what the bus cannot deliver now, it keeps.
                await arena.more("A", count=20)
                arena.backend.turn("ok")
                await arena.more("D", count=20)
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if verdict.unknown:
            raise Vacuous("senders were in doubt, though only the backend failed")
        if self._mode in ("reset", "silent", "drip") and not verdict.duplicates:
            raise Vacuous("nothing was tried again")


class Network(Fault):
    """The network between the bus and the backend misbehaves for a while."""

    rounds = 10
    proxied = True
    kinds: ClassVar[Mapping[str, str]] = {
        "latency": "every piece is 150 ms late",
        "slices": "what is sent arrives seven bytes at a time",
        "cut": "connections are reset in the middle of an answer",
        "reset": "connections are reset at random instants",
        "black-hole": "connections stay and nothing passes",
        "fin": "connections are ended one way: requests arrive, answers do not",
        "refuse": "nobody listens",
    }

    def __init__(self, kind: str) -> None:
        self.name = f"network-{kind}"
        self.about = f"network: {self.kinds[kind]}"
        self._kind = kind

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        proxy = arena.proxy
        # An answer that was lost asks for another try; its one effect is what counts.
        arena.allowance.duplicates = 1_000_000
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                match self._kind:
                    case "latency":
                        proxy.latency = 0.15
                        await arena.more("D", count=40)
                        proxy.latency = 0.0
                    case "slices":
                        proxy.piece = 7
                        await arena.more("D", count=40)
                        proxy.piece = 0
                    case "cut":
                        proxy.cut_after = 20
                        await arena.more("D", count=10)
                        proxy.cut_after = -1
                    case "reset":
                        for _ in range(5):
                            await arena.more("S")
                            proxy.cut()
                    case "black-hole":
                        proxy.freeze()
                        await arena.more("A", count=400)
                        proxy.cut()
                        proxy.thaw()
                    case "fin":
                        for _ in range(5):
                            await arena.more("S")
                            proxy.finish()
                    case "refuse":
                        proxy.refuse()
                        await arena.more("A", count=100)
                        await proxy.open()
                await arena.more("D", count=20)
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        lossy = self._kind in ("cut", "reset", "fin")
        if lossy and not verdict.redeliveries:
            raise Vacuous("no answer was lost")


# --- the broker -----------------------------------------------------------------------------------


class BrokerGoes(Fault):
    """The broker dies, or stops, and comes back."""

    rounds = 10
    flows = (*AMQP_FLOWS, "queue", "ordered")

    def __init__(self, how: Literal["kill9", "stop"]) -> None:
        self.name = f"broker-{how}"
        self.about = {
            "kill9": "SIGKILL of RabbitMQ, and its return",
            "stop": "RabbitMQ stops in order, and returns",
        }[how]
        self._hard = how == "kill9"

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=40)
            while done < rounds:
                await asyncio.sleep(arena.dice.uniform(0, 0.5))
                await asyncio.to_thread(arena.broker.restart, hard=self._hard)
                begun = time.monotonic()
                await arena.more("D", count=40)
                arena.recovery = max(arena.recovery, time.monotonic() - begun)
                # What it had handed out, it hands out again; the receiver's share too.
                arena.allowance.duplicates += arena.in_hand + 50
                arena.kills += self._hard
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if not verdict.unknown:
            raise Vacuous("no sender was ever in doubt")


class NodesGo(Fault):
    """One node after the other of a broker of three dies and comes back."""

    name = "cluster-rolling"
    about = "SIGKILL of one node after the other of a RabbitMQ of three, with quorum queues"
    rounds = 9
    flows = (*AMQP_FLOWS, "queue", "ordered")
    clustered = True

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load(rate=100):
            await arena.more("D", count=40)
            while done < rounds:
                node = arena.cluster.nodes[done % len(arena.cluster.nodes)]
                await asyncio.to_thread(node.kill)
                arena.kills += 1
                begun = time.monotonic()
                await arena.more("D", count=40)
                arena.recovery = max(arena.recovery, time.monotonic() - begun)
                await asyncio.to_thread(arena.cluster.settle)
                await arena.more("D", count=40)
                arena.allowance.duplicates += arena.in_hand + 50
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if not verdict.unknown:
            raise Vacuous("no sender was ever in doubt")


# --- the database ---------------------------------------------------------------------------------


class DatabaseGoes(Fault):
    """The database is lost, in the middle of commits, and comes back."""

    rounds = 10
    places = ("postgres",)
    short_places = ("postgres",)
    kinds: ClassVar[Mapping[str, str]] = {
        "kill9": "SIGKILL of all processes of PostgreSQL, and its return",
        "stop": "PostgreSQL stops in order, and returns",
        "terminate": "every connection of the bus is terminated, again and again",
    }

    def __init__(self, how: str) -> None:
        self.name = f"postgres-{how}"
        self.about = self.kinds[how]
        self.short = int(how == "terminate")
        self._how = how

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        assert isinstance(arena.place, PostgresServer)
        server = arena.place.server
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                await asyncio.sleep(arena.dice.uniform(0, 0.3))
                if self._how == "terminate":
                    for _ in range(5):
                        await arena.more("A")
                        await asyncio.to_thread(server.psql, _TERMINATE)
                else:
                    await asyncio.to_thread(server.restart, hard=self._how == "kill9")
                    arena.kills += self._how == "kill9"
                begun = time.monotonic()
                await arena.more("A", count=20)
                arena.recovery = max(arena.recovery, time.monotonic() - begun)
                await arena.more("D", count=20)
                # What was in hand, and could not be settled, is somebody's again.
                arena.allowance.duplicates += 5 * arena.in_hand
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        if arena.starts != 1:
            raise Vacuous("the bus was started again")
        if self._how != "terminate" and not verdict.unknown:
            raise Vacuous("no sender noticed anything")


_TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'esb'"
)


class Stalled(Fault):
    """A bus stops for longer than its lease and wakes again, while another works on the same store:
    what it had in hand is the other's, and it can settle nothing of that any more."""

    name = "stalled"
    about = "SIGSTOP of one of two buses on one store until its lease has ended, then SIGCONT"
    rounds = 10
    places = ("postgres",)

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        assert isinstance(arena.place, PostgresServer)
        done = 0
        async with arena.second(), arena.load(patience=2):
            await arena.more("D", count=20)
            while done < rounds:
                arena.backend.turn("slow")
                await arena.more("S", count=10)
                arena.bus.signal(signal.SIGSTOP)
                arena.backend.turn("ok")
                await asyncio.sleep(arena.place.lease * 2.5)
                arena.bus.signal(signal.SIGCONT)
                arena.allowance.duplicates += arena.in_hand
                await arena.more("A", count=20)
                await arena.more("D", count=20)
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        told = arena.bus.output.count("taken for dead")
        if told < rounds:
            raise Vacuous(f"its lease ended {told} times in {rounds} rounds")
        if not verdict.redeliveries:
            raise Vacuous("nothing was taken over")


# --- time -----------------------------------------------------------------------------------------


class ClockJumps(Fault):
    """The clock of the bus is set forth and back, and stays wrong."""

    name = "clock"
    about = "the bus's clock jumps an hour back, hours forth, a day back"
    rounds = 8
    offsets = ("-1h", "+2h", "-1d", "+1d", "+0", "-90s", "+3h", "-1h")

    def lacks(self) -> str:
        """See Fault."""
        return "" if _faketime() else "libfaketime not installed"

    def environ(self, arena: Arena) -> Mapping[str, str]:
        """See Fault."""
        self._file = arena.folder / "clock"
        self._file.write_text("+0\n")
        return {
            "LD_PRELOAD": _faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # read for each call, the file would slow all down
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                self._file.write_text(self.offsets[done % len(self.offsets)] + "\n")
                await asyncio.sleep(1)  # by then it has seen it
                await arena.more("R 503", count=3)
                await arena.more("D", count=60)
                done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        times = sorted(letter.time for letter in evidence.dead)
        if not times or times[-1] - times[0] < timedelta(hours=2):
            raise Vacuous("the bus has not seen its clock jump")


def _faketime() -> str:
    spec = find_spec("libfaketime")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [so for folder in folders or () for so in Path(folder).rglob("libfaketime.so*")]
    return str(found[0]) if found else ""


# --- those who run it -----------------------------------------------------------------------------


class Stop(Fault):
    """SIGTERM at full load: what was accepted is finished or kept, nothing comes twice."""

    name = "sigterm"
    about = "SIGTERM at full load: exit 0, and no duplicates"
    rounds = 10

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load(rate=0):
            await arena.more("D", count=100)
            while done < rounds:
                await asyncio.sleep(arena.dice.uniform(0, 0.3))
                arena.bus.signal(signal.SIGTERM)
                status = await asyncio.to_thread(arena.bus.wait, 40)
                assert status == 0, f"exit status {status} after SIGTERM"
                await arena.recovered()
                done += 1
        return done


class StopTwice(Fault):
    """A second SIGTERM while the far side keeps everything in flight: it hurries."""

    name = "sigterm-twice"
    about = "SIGTERM while nothing gets through, and a second one: exit 0 within 5 s"
    rounds = 10

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                arena.backend.turn("silent")
                await arena.more("S", count=10)
                arena.bus.signal(signal.SIGTERM)
                await asyncio.sleep(arena.dice.uniform(0, 0.5))
                if arena.bus.ended is None:
                    arena.bus.signal(signal.SIGTERM)
                status = await asyncio.to_thread(arena.bus.wait, 5)
                assert status == 0, f"exit status {status} after a second SIGTERM"
                arena.backend.turn("ok")
                await arena.recovered()
                done += 1
        return done


class Reload(Fault):
    """The routes are read again under load, mistakes among them."""

    name = "reload"
    about = "routes are changed and reloaded under load; every third time with a mistake"
    rounds = 20

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        async with arena.load():
            await arena.more("D", count=20)
            while done < rounds:
                wrong = done % 3 == 2
                more = {"nonsense": 1} if wrong else {"description": f"version {done}"}
                routes = {n: {**route, **more} for n, route in arena.project["routes"].items()}
                arena.write({**arena.project, "routes": routes})
                answer = await asyncio.to_thread(arena.ask, "POST", "/reload")
                assert answer["reloaded"] is not wrong, answer
                if not wrong:
                    assert len(answer["changed"]) >= len(arena.flows), answer
                await arena.more("D", count=20)
                done += 1
        return done


class Replay(Fault):
    """Dead letters are replayed, and the bus is killed in the middle of it."""

    name = "replay"
    about = "dead letters are replayed with a SIGKILL in the middle"
    rounds = 10

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done, count = 0, 8 * len(arena.flows)
        while done < rounds:
            arena.backend.turn("reject")
            async with arena.load(rate=0, count=8, keys=4, fates={}):
                await arena.until(lambda: arena.place.counts().get("dead") == count, "all are dead")
            arena.backend.turn("ok")
            at = arena.dice.randrange(4, count - 4)
            for number, one in enumerate(arena.dead()):
                if number == at:
                    await arena.kill()
                    await arena.start()
                await asyncio.to_thread(arena.ask, "POST", f"/dead/{one['key']}/replay")
            await arena.settled()
            left = len(arena.dead())
            assert not left, f"{left} dead letters after all were replayed"
            done += 1
        return done


class Copies(Fault):
    """A sender sends the same message a thousand times, many at the same time, while the bus is
    killed: one effect."""

    name = "copies"
    about = "each message is sent 100 times at once to a route with skip_seen, with SIGKILLs"
    rounds = 10
    engines = ("store",)
    flows = ("once",)
    at_once = 100

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        while done < rounds:
            async with arena.load(rate=0, count=10, keys=2, fates={}, copies=self.at_once):
                await arena.more("A", count=arena.dice.randint(20, 500))
                await arena.kill()
                await arena.recovered()
            done += 1
        return done

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        taken = sum(line[0] == "A" for line in evidence.sent)
        if taken < rounds * 10 * self.at_once:
            raise Vacuous(f"only {taken} copies were accepted")


class Backlog(Fault):
    """Very many messages wait: memory stays what it was, and a crash among them is over as fast as
    any. A round is a thousand messages."""

    name = "backlog"
    about = "a million messages wait in a queue: memory stays flat, a crash is soon over"
    rounds = 1000
    engines = ("store",)
    flows = ("durable",)
    routes: ClassVar[Mapping[str, Any]] = {
        "bulk": {
            "from": {"http": {"path": "/bulk", "method": "POST"}},
            "accept": "durable",
            "steps": [{"split": {"each": "body.items", "steps": [{"send": {"queue": "pile"}}]}}],
        }
    }
    at_once = 1000

    async def happen(self, arena: Arena, rounds: int) -> int:
        """See Fault."""
        done = 0
        filling = "x" * 400
        async with arena.load(rate=50):
            await arena.more("D", count=20)
            arena.weigh("0")
            while done < rounds:
                numbers = range(done * self.at_once, (done + 1) * self.at_once)
                batch = {"items": [{"number": number, "filling": filling} for number in numbers]}
                url = f"http://127.0.0.1:{arena.listen}/bulk"
                answer = await asyncio.to_thread(request, "POST", url, batch)
                assert answer.status == 202, answer
                done += 1
                if done * 10 % rounds == 0:
                    wanted = done * self.at_once
                    await self._piled(arena, wanted)
                    arena.weigh(str(wanted))
            arena.allowance.waiting = rounds * self.at_once
            await arena.kill()
            await arena.recovered()
            await arena.more("D", count=20)
            arena.weigh("after a crash")
        return done

    async def _piled(self, arena: Arena, wanted: int) -> None:
        def there() -> bool:
            return arena.place.counts().get("queue:pile", 0) >= wanted

        await arena.until(there, f"{wanted} are piled up")

    def prove(self, arena: Arena, evidence: Evidence, verdict: Verdict, rounds: int) -> None:
        """See Fault."""
        super().prove(arena, evidence, verdict, rounds)
        [_, few, *_, many, _] = arena.memory.values()
        assert many < few * 1.25, f"memory grows with what waits: {arena.memory}"


def catalogue() -> list[Fault]:
    """All of them, in the order in which they run."""
    return [
        Kill(),
        KillMutant(),
        CrashPoints(),
        FirstStart(),
        Poison(),
        SyncFails("EIO"),
        SyncFails("ENOSPC"),
        DiskFull(),
        FlippedBit(),
        *(BackendMode(mode) for mode in MODES if mode != "ok"),
        *(Network(kind) for kind in Network.kinds),
        ClockJumps(),
        Stop(),
        StopTwice(),
        Reload(),
        Replay(),
        Copies(),
        Backlog(),
        *(DatabaseGoes(how) for how in DatabaseGoes.kinds),
        Stalled(),
        KillAmqp(),
        KillAmqpMutant(),
        BrokerGoes("kill9"),
        BrokerGoes("stop"),
        NodesGo(),
    ]
