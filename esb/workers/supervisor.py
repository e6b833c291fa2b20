"""The process that all others of a bus are copies of: it forks them, and forks them again."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from esb.clock import Clock
from esb.durable import Store
from esb.errors import EsbError
from esb.link import Line
from esb.logs import log
from esb.redaction import shown
from esb.service import Service
from esb.store import StoreOptions, open_store
from esb.store.remote import RemoteStore, RemoteTraces
from esb.store.traces import TraceFile, beside, open_traces
from esb.traces import TraceStore
from esb.workers.sockets import addresses, bound

STEADY: Final = 10.0
"""Seconds after which a process that has died had not died at once."""

LONGEST_PAUSE: Final = 30.0
"""Seconds at most before one that dies again and again is started again."""

STOP: Final = signal.SIGUSR1
"""What the others are sent to drain, and once more to hurry: not what a terminal, or who starts and
stops services, may send to all of a group, so that nobody is told twice."""

_LONGEST_REASON: Final = 4000
"""Characters of a reason that the keeper is told: it reads lines."""

LEAVE: Final = signal.SIGUSR2
"""What a worker is sent whose place another has taken."""

_SIGNALS: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD
)  # fmt: skip


class RemoteStores:
    """`esb.loading.Stores` of a process beside the keeper: what is a file is reached through it."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def store(self, settings: StoreOptions, folder: Path, clock: Clock) -> Store:
        """See Stores."""
        if settings.url is not None:
            return open_store(settings, folder, clock)
        return RemoteStore(self._line, folder / settings.path, clock=clock)

    def traces(self, settings: StoreOptions, folder: Path, clock: Clock) -> TraceStore:
        """See Stores."""
        if settings.url is not None:
            return open_traces(settings, folder, clock)
        return RemoteTraces(self._line, TraceFile(beside(folder / settings.path), clock))


@dataclass(eq=False)
class Child:
    """A process that was forked. slot: which worker it is; 0 for the keeper. told: where it writes
    b"up" once it is, or why it cannot start. service: what it runs. leaving: it was told to go.
    asked: the keeper wants workers."""

    pid: int
    slot: int
    told: int
    service: Service
    born: float = field(default_factory=time.monotonic)
    said: bytes = b""
    up: bool = False
    leaving: bool = False
    asked: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.slot}" if self.slot else "the keeper"


def supervise(make: Callable[[RemoteStores], Service], count: int) -> int:
    """Run a bus in `count` workers until SIGTERM or SIGINT, and return the exit status. `make`
    loads the project. Raises EsbError if it cannot start."""
    # A path below the project might be too long for a socket's address (unix(7)).
    with tempfile.TemporaryDirectory(prefix="esb-") as folder:
        return Supervisor(make, count, Path(folder) / "keeper").run()


class Supervisor:
    """See `supervise`. hub: where the keeper listens."""

    def __init__(self, make: Callable[[RemoteStores], Service], count: int, hub: Path) -> None:
        self._line = Line(hub)
        self._make = make
        self._service = self._loaded()
        self._proven: Service | None = None  # what ran before, until all run what is loaded now
        self._count = count
        self._sockets: dict[tuple[str, int], list[socket.socket]] = {}
        self._children: dict[int, Child] = {}
        self._due: list[int] = []  # slots whose worker is to be replaced
        self._starting: Child | None = None  # the worker whose turn it is
        self._asked = False  # whether the keeper waits for them
        self._renews = False  # whether there were workers before these
        self._again: dict[int, float] = {}  # when to start a slot
        self._pauses: dict[int, float] = {}  # the last ones, of those that keep dying
        self._stopping = False
        self._stopped_by = "an error"
        self._status = 0
        self._failed = ""  # why it cannot start
        self._hub = socket.socket(socket.AF_UNIX)
        self._hub.bind(str(hub))
        self._hub.listen(128)
        self._wake, wake = socket.socketpair()
        for one in (self._wake, wake):
            one.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # they are read from the socket
        self._kept_awake = wake
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._wake, selectors.EVENT_READ, self._signalled)
        self._keeper: socket.socket | None = None

    def run(self) -> int:
        """Until all is over; the exit status. Raises EsbError if it cannot start."""
        structlog.contextvars.bind_contextvars(process="supervisor")
        self._bind(self._service)
        self._freeze()
        self._fork_keeper()
        while self._children or not self._stopping:
            soonest = min((self._again[slot] for slot in self._startable()), default=None)
            timeout = None if soonest is None else max(0.0, soonest - time.monotonic())
            for key, _ in self._ready.select(timeout):
                if self._ready.get_map().get(key.fd) is key:  # else one before it has closed it
                    key.data()
            self._start_again()
        how = "failed" if self._failed or self._status else "done"
        why = {"why": shown(self._failed)} if self._failed else {}
        self._service.audit.tell("stop", self._stopped_by, how, status=self._status, **why)
        if self._failed:
            raise EsbError(self._failed)
        return self._status

    def _loaded(self) -> Service:
        return self._make(RemoteStores(self._line))

    # --- what it holds for the others

    def _bind(self, service: Service) -> None:
        """Bind a socket for each worker at each address that is new. Raises EsbError."""
        for address in addresses(service) - self._sockets.keys():
            self._sockets[address] = bound(*address, self._count)

    def _unbind(self) -> None:
        """Let go of the addresses that nobody needs any more."""
        for address in self._sockets.keys() - addresses(self._service):
            for one in self._sockets.pop(address):
                one.close()

    def _close(self) -> None:
        """Let go of all: nobody is to wait for who will not come."""
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()

    def _freeze(self) -> None:
        """What is there now is in memory once, as long as nobody writes to it as the collector
        does."""
        if threading.active_count() > 1:
            names = [one.name for one in threading.enumerate()]
            log.warning("the project started threads, which workers do not have", threads=names)
        gc.collect()
        gc.freeze()

    # --- forking

    def _fork(self, slot: int, run: Callable[[int], None]) -> Child:
        reads, writes = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are meant for us
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if not pid:
                self._become(slot, writes, run, blocked)
        except OSError:
            os.close(reads)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(writes)
        os.set_blocking(reads, False)
        child = self._children[pid] = Child(pid, slot, reads, self._service)
        self._ready.register(reads, selectors.EVENT_READ, lambda: self._heard(child))
        return child

    def _become(
        self, slot: int, told: int, run: Callable[[int], None], mask: set[int | signal.Signals]
    ) -> NoReturn:
        """In the child: it never returns to where the supervisor goes on."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._ready.close()
            for child in self._children.values():
                with contextlib.suppress(OSError):
                    os.close(child.told)
            for one in (self._wake, self._kept_awake, *([self._keeper] if self._keeper else [])):
                one.close()
            run(told)
            status = 0
        except EsbError as e:
            try:
                os.write(told, e.detail.encode())
            except OSError:  # it was up, so nobody reads why
                log.error("a process of the bus failed", why=e.detail)
        except BaseException as e:  # noqa: BLE001 - whatever it is, it ends here
            log.error("a process of the bus failed", exc_info=e)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _begin(self, slot: int) -> None:
        try:
            self._fork_worker(slot) if slot else self._fork_keeper()
        except OSError as e:  # no process can be had now, or no file: as if it had died
            child = Child(0, slot, -1, self._service)
            self._starting = child if slot else self._starting
            self._died(child, str(e))

    def _fork_keeper(self) -> None:
        from esb.workers.keeper import keep

        ours, theirs = socket.socketpair()

        def run(told: int) -> None:
            ours.close()
            self._close()
            keep(self._service, self._hub, theirs, self._count, told)

        self._fork(0, run)
        theirs.close()
        self._keeper = ours
        self._ready.register(ours, selectors.EVENT_READ, self._asked_for)

    def _fork_worker(self, slot: int) -> None:
        from esb.workers.worker import work

        def run(told: int) -> None:
            self._hub.close()
            mine = {address: all_[slot - 1] for address, all_ in self._sockets.items()}
            for sockets in self._sockets.values():
                for number, other in enumerate(sockets, 1):
                    if number != slot:
                        other.close()
            work(self._service, self._line, mine, slot, told)

        self._starting = self._fork(slot, run)

    # --- what happens

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wake.recv(64):
                if number == signal.SIGCHLD:
                    self._reap()
                elif number in (signal.SIGHUP, signal.SIGUSR2):
                    self._tell_keeper({"reload": signal.Signals(number).name})
                else:
                    if not self._stopping:
                        self._stopped_by = signal.Signals(number).name
                        self._service.audit.tell("stop", self._stopped_by, "begun")
                    self._stop()

    def _heard(self, child: Child) -> None:
        try:
            said = os.read(child.told, 65536)
        except BlockingIOError:
            return
        child.said += said
        if said and child.said != b"up":
            return  # why it cannot start: the rest comes when it is gone
        if not said:
            self._deaf(child)
            return
        child.up = True
        self._deaf(child)
        if child is self._starting:
            self._starting = None
            self._again.pop(child.slot, None)
            for old in self._children.values():
                if old.slot == child.slot and old is not child and not old.leaving:
                    old.leaving = True
                    os.kill(old.pid, LEAVE)
            self._next()

    def _asked_for(self) -> None:
        assert self._keeper is not None
        try:
            said = self._keeper.recv(64)
        except OSError:  # it died before it had read what it was told
            said = b""
        if said:
            self._asked = True
            if (keeper := self._keeping()) is not None:
                keeper.asked = True
            self._replace()
        else:
            self._ready.unregister(self._keeper)
            self._keeper.close()
            self._keeper = None

    def _keeping(self) -> Child | None:
        return next((one for one in self._children.values() if not one.slot), None)

    def _tell_keeper(self, what: dict[str, Any]) -> None:
        if self._keeper is not None:
            with contextlib.suppress(OSError):
                self._keeper.sendall(json.dumps(what).encode() + b"\n")

    # --- replacing

    def _replace(self) -> None:
        """New workers, one by one, from what lies in the files now."""
        if self._stopping:
            self._stop_keeper()
            return
        if any(child.slot for child in self._children.values()):
            self._renews = True
            gc.unfreeze()
            try:
                service = self._loaded()
                self._bind(service)
            except Exception as e:  # noqa: BLE001 - whatever it is, what runs goes on
                known = isinstance(e, EsbError)
                why = e.detail if isinstance(e, EsbError) else "internal error"
                log.error("the workers are not replaced", why=why, exc_info=None if known else e)
                self._unbind()
                self._replaced(why)
                return
            finally:
                self._freeze()
            self._proven = self._proven or self._service
            self._service = service
        self._due = list(range(1, self._count + 1))
        self._next()

    def _next(self) -> None:
        if self._starting is not None or self._stopping:
            return
        if not self._due:
            self._proven = None
            self._unbind()
            self._replaced("")
            return
        slot = self._due.pop(0)
        self._again.pop(slot, None)
        self._begin(slot)

    def _replaced(self, problem: str) -> None:
        self._due.clear()
        if self._renews and not self._stopping:
            why = {"why": shown(problem)} if problem else {}
            result = "refused" if problem else "done"
            self._service.audit.tell("replace workers", "keeper", result, **why)
        self._renews = False
        if self._asked:
            self._asked = False
            told = problem[:_LONGEST_REASON]
            self._tell_keeper({"failed": told} if problem else {"replaced": True})

    def _go_back(self) -> None:
        """What cannot be started is not started: neither now nor when somebody dies later."""
        if self._proven is None:
            return
        self._service, self._proven = self._proven, None
        self._due = sorted(
            child.slot
            for child in self._children.values()
            if child.slot and not child.leaving and child.service is not self._service
        )

    # --- ends

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (child := self._children.pop(pid, None)) is not None:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, status: int) -> None:
        while child.told >= 0:
            before = child.said
            self._heard(child)
            if before == child.said:
                break
        self._deaf(child)
        if self._stopping:
            if child.up:  # else it was to go before it was there
                self._status = self._status or abs(status)
            self._stop_keeper()
        elif not child.leaving:
            self._died(child, f"signal {-status}" if status < 0 else f"exit status {status}")

    def _deaf(self, child: Child) -> None:
        if child.told >= 0:
            self._ready.unregister(child.told)
            os.close(child.told)
            child.told = -1

    def _died(self, child: Child, how: str) -> None:
        why = "" if child.up else child.said.decode(errors="replace")
        if child is self._starting:
            self._starting = None
            log.error(f"{child.name} did not start", how=how, why=why)
            self._replaced(f"{child.name} did not start: {why or how}")
            self._go_back()
            if any(one.slot == child.slot and not one.leaving for one in self._children.values()):
                self._next()
                return  # the old one goes on
        if child.slot:
            if (keeper := self._keeping()) is None or not keeper.asked:
                return  # it asks for all of them when it is there
        elif not child.up and child.slot not in self._pauses:
            self._failed = why or f"{child.name} failed ({how})"
            self._stop()
            return
        else:
            self._go_back()
            self._due.clear()
            self._again.clear()  # the others end as well
            self._asked = False
        lived = time.monotonic() - child.born
        last = 0.0 if lived > STEADY else self._pauses.get(child.slot, 0.0)
        pause = self._pauses[child.slot] = min(max(last * 2, 0.1), LONGEST_PAUSE)
        log.error(f"{child.name} has died and is started again", how=how, why=why, pause=pause)
        self._service.audit.tell(f"{child.name} died", how, "started again", pause=pause)
        self._again[child.slot] = time.monotonic() + pause

    def _startable(self) -> list[int]:
        """Slots to be started again: one worker after the other."""
        return [slot for slot in self._again if not slot or self._starting is None]

    def _start_again(self) -> None:
        """Those whose time has come."""
        now = time.monotonic()
        for slot in self._startable():
            if self._again.get(slot, now + 1) > now:
                continue
            if not slot:
                del self._again[slot]
                self._begin(slot)
            elif self._starting is None:
                del self._again[slot]
                self._due.append(slot)
                self._next()

    # --- stopping

    def _stop(self) -> None:
        """Drain, or hurry if that has begun."""
        self._stopping = True
        self._again.clear()
        self._due.clear()
        self._close()
        for child in self._children.values():
            if child.slot:
                os.kill(child.pid, STOP)
        self._stop_keeper()

    def _stop_keeper(self) -> None:
        """It goes last: the others settle what they have in hand."""
        if not any(child.slot for child in self._children.values()):
            self._replaced("the bus stops")
            for child in self._children.values():
                if not child.leaving:
                    child.leaving = True
                    os.kill(child.pid, STOP)
