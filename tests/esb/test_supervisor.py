"""What goes wrong around the processes of a bus: those that cannot be made, that are told to stop
before they are there, and what they leave to others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from support.processes import Process, lasting_ports, request
from support.waiting import until

from esb.store import SqliteStore
from esb.store.remote import StoreServer

ROUTES = """
listen: {{port: {port}}}
admin: {{port: {admin}}}
routes:
  whoever:
    from: {{http: {{path: /whoever, method: GET}}}}
    steps: [{{python: calls:who}}]
  waits:
    from: {{http: {{path: /waits, method: GET}}}}
    steps: [{{python: calls:wait}}]
  opens:
    from: {{http: {{path: /opens, method: GET}}}}
    steps: [{{python: calls:open_some}}]
"""

CALLS = """
import os
import time
from pathlib import Path

opened = []

def who(envelope):
    return {"process": os.getpid()}

def wait(envelope):
    Path("waits").touch()
    while not Path("goes-on").exists():
        time.sleep(0.02)
    return {}

def open_some(envelope):
    for number in range(50):
        opened.append(open(f"opened-{os.getpid()}-{number}", "w"))
    return {}
"""

MAIN = """
import os, selectors, sys
from pathlib import Path
{fault}
from esb.cli import main
sys.argv[0] = "esb"
main()
"""

NO_FORK = """
fork = os.fork

def seldom():
    if Path("no-fork").exists():
        Path("no-fork").unlink()
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

os.fork = seldom
"""

NO_LOAD = """
from esb.workers.supervisor import Supervisor

loaded = Supervisor._loaded

def seldom(self):
    if Path("no-load").exists():
        raise ValueError("nobody thought of that")
    return loaded(self)

Supervisor._loaded = seldom
"""

COUNTING = """
class Counting(selectors.DefaultSelector):
    idle = 0

    def select(self, timeout=None):
        found = super().select(timeout)
        self.idle = self.idle + 1 if timeout == 0 and not found else 0
        if self.idle > 100:
            Path("spins").touch()
        return found

selectors.DefaultSelector = Counting
"""


class Bus:
    """One that runs in two workers."""

    def __init__(self, process: Process, temp: Path, port: int, admin: int) -> None:
        self.process = process
        self.temp = temp
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.admin = f"http://127.0.0.1:{admin}"

    def ready(self) -> bool:
        """Whether all is well."""
        with contextlib.suppress(OSError):
            return bool(request("GET", f"{self.admin}/readyz").json["status"] == "ok")
        return False

    def workers(self) -> set[int]:
        """The ids of the processes that answer."""
        return {request("GET", f"{self.url}/whoever").json["process"] for _ in range(30)}

    def keeper(self) -> int:
        """The id of the process that is no worker."""
        [keeper] = set(self.process.children) - self.workers()
        return keeper


@contextlib.contextmanager
def started(folder: Path, fault: str = "") -> Iterator[Bus]:
    port, admin = lasting_ports(2)
    (folder / "routes.yaml").write_text(ROUTES.format(port=port, admin=admin))
    (folder / "python").mkdir()
    (folder / "python" / "calls.py").write_text(CALLS)
    run = [sys.executable, "-c", MAIN.format(fault=fault)]
    command = [*run, "run", "routes.yaml", "--workers", "2", "--grace", "20"]
    # The address of a socket in it must not be too long (unix(7)).
    with (
        tempfile.TemporaryDirectory(prefix="t") as temp,
        Process(command, cwd=folder, environ={"TMPDIR": temp}) as process,
    ):
        yield Bus(process, Path(temp), port, admin)
        (folder / "goes-on").touch()
        if process.ended is None:
            process.stop()


async def test_where_no_process_can_be_made_it_is_tried_again(tmp_path: Path) -> None:
    with started(tmp_path, NO_FORK) as bus:
        await until(bus.ready)
        for one in (min(bus.workers()), bus.keeper()):
            (tmp_path / "no-fork").touch()
            os.kill(one, signal.SIGKILL)
            await until(lambda: not (tmp_path / "no-fork").exists())
            await until(bus.ready)
            assert len(bus.workers()) == 2
        assert bus.process.stop() == 0


async def test_where_no_worker_can_be_made_the_old_ones_go_on(tmp_path: Path) -> None:
    with started(tmp_path, NO_FORK) as bus:
        await until(bus.ready)
        before = bus.workers()
        (tmp_path / "no-fork").touch()
        text = (tmp_path / "routes.yaml").read_text()
        (tmp_path / "routes.yaml").write_text(text.replace("/waits", "/changed"))
        answer = request("POST", f"{bus.admin}/reload").json
        assert "Resource temporarily unavailable" in answer["detail"]
        assert bus.workers() == before
        assert request("POST", f"{bus.admin}/reload").json["changed"] == ["waits"]
        assert bus.process.stop() == 0


async def test_whatever_goes_wrong_in_a_load_the_old_ones_go_on(tmp_path: Path) -> None:
    with started(tmp_path, NO_LOAD) as bus:
        await until(bus.ready)
        before = bus.workers()
        (tmp_path / "no-load").touch()
        text = (tmp_path / "routes.yaml").read_text()
        (tmp_path / "routes.yaml").write_text(text.replace("/waits", "/changed"))
        assert not request("POST", f"{bus.admin}/reload").json["reloaded"]
        assert bus.workers() == before
        (tmp_path / "no-load").unlink()
        assert request("POST", f"{bus.admin}/reload").json["changed"] == ["waits"]
        assert bus.process.stop() == 0


async def test_one_that_is_told_to_stop_while_it_starts_ends(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(lambda: len(bus.process.children) == 2)
        worker = bus.process.children[1]
        os.kill(worker, signal.SIGSTOP)  # it is not there yet, and will not be
        bus.process.signal(signal.SIGTERM)
        await until(lambda: told_to_stop(worker))
        with contextlib.suppress(ProcessLookupError):  # it had no say in it
            os.kill(worker, signal.SIGCONT)
        assert bus.process.wait() == 0


def told_to_stop(process: int) -> bool:
    """Whether SIGUSR1 waits for it, or it has ended (proc_pid_status(5))."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{process}/status").read_text()
        pending = int(status.split("ShdPnd:")[1].split()[0], 16)
        return bool(pending >> (signal.SIGUSR1 - 1) & 1)
    return True


async def test_nothing_is_done_while_one_starts_and_another_waits_for_it(tmp_path: Path) -> None:
    with started(tmp_path, COUNTING) as bus:
        await until(bus.ready)
        before = bus.workers()
        os.kill(min(before), signal.SIGKILL)
        await until(lambda: set(bus.process.children) - before - {bus.process.children[0]})
        new = max(bus.process.children)
        os.kill(new, signal.SIGSTOP)
        os.kill(max(before), signal.SIGKILL)
        await until(lambda: not before & set(bus.process.children))
        await asyncio.sleep(0.5)  # it would have gone round a few thousand times
        assert not (tmp_path / "spins").exists()
        os.kill(new, signal.SIGCONT)
        await until(bus.ready)
        assert bus.process.stop() == 0


async def test_nobody_is_let_in_by_those_who_do_not_serve(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        asking = threading.Thread(target=request, args=("GET", f"{bus.url}/waits"))
        asking.start()
        await until(lambda: (tmp_path / "waits").exists())
        bus.process.signal(signal.SIGTERM)
        await until(lambda: "stopped" in bus.process.output)
        assert {asked(bus.port) for _ in range(30)} == {True}
        (tmp_path / "goes-on").touch()
        assert bus.process.wait() == 0
        asking.join()


def asked(port: int) -> bool:
    """Whether somebody who asks hears something, be it that nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as one:
            one.sendall(b"GET /whoever HTTP/1.1\r\nHost: bus\r\n\r\n")
            one.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_what_went_wrong_at_the_end_is_not_written_into_files_of_others(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        keeper = bus.keeper()
        for _ in range(30):
            request("GET", f"{bus.url}/opens")
        os.kill(keeper, signal.SIGSTOP)
        bus.process.signal(signal.SIGTERM)
        await until(lambda: refused(bus.port))
        await until(lambda: bus.process.output.count("stopped") >= 2)
        os.kill(keeper, signal.SIGKILL)
        assert bus.process.wait() != 0
        opened = list(tmp_path.glob("opened-*"))
        assert len(opened) >= 100
        assert not any(one.stat().st_size for one in opened)


async def test_a_supervisor_that_is_killed_leaves_no_folder(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        assert list(bus.temp.iterdir())
        bus.process.signal(signal.SIGKILL)
        await until(lambda: not list(bus.temp.iterdir()))


async def test_one_that_is_gone_before_it_was_known_has_nothing_to_give_back() -> None:
    await StoreServer(cast(SqliteStore, None)).left(object())
