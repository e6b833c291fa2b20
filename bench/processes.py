"""Processes on cores of their own, and what they cost, from /proc (proc(5))."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

T = TypeVar("T")


class BenchFailed(Exception):
    """There is no figure, or it would be none: the text says why."""


@dataclass(frozen=True)
class Cores:
    """Where the load, the backend and the broker run, and where what is measured does."""

    load: int
    measured: int

    @property
    def shared(self) -> bool:
        """Whether there was but one core for both."""
        return self.load == self.measured


def choose_cores() -> Cores:
    """The first and the last core this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[-1])


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], T], what: str, timeout: float = 60.0, every: float = 0.005) -> T:
    """What `condition` returns once it is true. Raises BenchFailed after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise BenchFailed(f"not within {timeout:.0f} s: {what}")
        time.sleep(every)
    return found


class Process:
    """A program pinned to a core. It is stopped when the block ends, and dies with this process."""

    def __init__(
        self,
        command: Sequence[str | Path],
        core: int,
        log: Path,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self.started = time.monotonic()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order
                preexec_fn=die_with_parent,
            )

    def alive(self) -> None:
        """Raises BenchFailed, with the end of what it wrote, if it has ended."""
        if self._process.poll() is not None:
            wrote = self._log.read_text(errors="replace").strip()[-1500:]
            raise BenchFailed(f"{self._process.args[3]!s} has ended:\n{wrote}")  # type: ignore[index]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def cpu(self) -> float:
        """Seconds on a processor, of it and its children."""
        return sum(_cpu(pid) for pid in self.tree())

    def memory(self) -> int:
        """Resident bytes (RSS), of it and its children."""
        return sum(_resident(pid) for pid in self.tree())

    def tree(self) -> Iterator[int]:
        """The ids of it and its children."""
        found = [self._process.pid]
        for pid in found:
            with suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += [int(child) for child in children.read_text().split()]
        yield from found


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """The process, stopped at the end."""
    try:
        yield process
    finally:
        process.stop()


def core_busy(core: int) -> float:
    """Seconds that a core has worked for anybody, the hypervisor's other guests included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) * _TICK
    raise BenchFailed(f"/proc/stat has no cpu{core}")


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has just ended
    return (int(fields[11]) + int(fields[12])) * _TICK


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def die_with_parent() -> None:
    """For `preexec_fn`: the process is stopped when its parent ends (prctl(2))."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
