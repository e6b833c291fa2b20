"""A bus in several processes, run as its users run it: what they share, what is asked of all of
them, how they are replaced, and what becomes of those that die."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast

import pytest
from support.processes import Answer, Process, lasting_ports, request
from support.stores import Place
from support.waiting import until

from esb.link import Link
from esb.workers import keeper as keeper_module
from esb.workers import summing

ESB = Path(sys.executable).parent / "esb"
WORKERS = 2

ROUTES = """
listen: {{port: {port}}}
admin: {{port: {admin}}}
store: {store}
audit: {{file: audit.jsonl}}
routes:
  hello:
    from: {{http: {{path: /hello, method: GET}}}}
    steps: [{{set: {{body: "'one'"}}}}]
  whoever:
    from: {{http: {{path: /whoever, method: GET}}}}
    steps: [{{python: calls:who}}]
  kept:
    from: {{http: {{path: /kept, method: GET}}}}
    cache: 1h
    steps: [{{python: calls:who}}]
  stored:
    from: {{http: {{path: /stored}}}}
    steps: [{{send: {{queue: {{name: work, key: "{{{{ body.key }}}}"}}}}}}]
  tick:
    from: {{schedule: {{every: 200ms}}}}
    steps: [{{python: calls:note}}]
  found:
    from: {{file: {{folder: in}}}}
    steps: [{{python: calls:note}}]
  work:
    from: {{queue: work}}
    steps: [{{python: calls:work}}]
"""

CALLS = """
import json
import os
from pathlib import Path

def who(envelope):
    return {"process": os.getpid()}

def note(envelope):
    with open("noted", "a") as noted:
        noted.write(f"{envelope.source} {envelope.id}\\n")

def work(envelope):
    body = json.loads(envelope.body.raw)
    if body.get("deadly") and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), 9)
    with open("done", "a") as done:
        done.write(f"{body['key']} {body['number']}\\n")
"""


class Bus:
    """One that runs."""

    def __init__(self, process: Process, folder: Path, port: int, admin: int) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.admin = f"http://127.0.0.1:{admin}"

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Ask the admin API."""
        return request(method, self.admin + path, body)

    def ready(self) -> bool:
        """Whether all is well."""
        with contextlib.suppress(OSError):
            return bool(self.ask("GET", "/readyz").json["status"] == "ok")
        return False

    def workers(self) -> set[int]:
        """The ids of the processes that answer."""
        return {request("GET", f"{self.url}/whoever").json["process"] for _ in range(30)}

    def done(self) -> list[list[str]]:
        """What the route `work` did: key and number."""
        file = self.folder / "done"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@contextlib.contextmanager
def started(
    folder: Path, place: Place | None = None, run: Sequence[str | Path] = (ESB,)
) -> Iterator[Bus]:
    port, admin = lasting_ports(2)
    store = json.dumps({"url": place} if isinstance(place, str) else {"path": "bus.db"})
    (folder / "routes.yaml").write_text(ROUTES.format(port=port, admin=admin, store=store))
    for name in ("python", "in"):
        (folder / name).mkdir()
    (folder / "python" / "calls.py").write_text(CALLS)
    command = [*run, "run", "routes.yaml", "--workers", str(WORKERS), "--grace", "10"]
    with Process(command, cwd=folder) as process:
        yield Bus(process, folder, port, admin)
        if process.ended is None:
            process.stop()


async def test_one_address_and_one_answer_for_all(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        assert bus.ask("GET", "/readyz").json["workers"] == {"up": WORKERS, "of": WORKERS}
        assert len(bus.workers()) == WORKERS
        told = bus.ask("GET", "/metrics").body.decode()
        assert 'esb_messages_total{outcome="message",route="whoever"} 30.0' in told
        assert re.search(r'esb_message_seconds_count\{route="whoever"\} 30\.0', told)

        kept = {request("GET", f"{bus.url}/kept").json["process"] for _ in range(30)}
        assert bus.ask("DELETE", "/routes/kept/cache").json == {"forgotten": len(kept)}
        assert bus.ask("DELETE", "/cache").json == {"forgotten": 0}
        assert bus.ask("DELETE", "/routes/none/cache").status == 404

        assert bus.ask("POST", "/routes/hello/stop").json["state"] == "stopped"
        assert {request("GET", f"{bus.url}/hello").status for _ in range(10)} == {503}
        assert bus.ask("POST", "/routes/hello/start").json["state"] == "running"
        assert {request("GET", f"{bus.url}/hello").status for _ in range(10)} == {200}

        assert bus.process.stop() == 0


async def test_what_passes_in_any_of_them_can_be_watched(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        seen: list[bytes] = []
        watching = threading.Event()

        def watch() -> None:
            with urllib.request.urlopen(f"{bus.admin}/routes/whoever/trace?limit=20") as lines:
                for line in lines:
                    seen.append(line)
                    watching.set()

        thread = threading.Thread(target=watch)
        thread.start()
        await until(watching.is_set)
        processes = {request("GET", f"{bus.url}/whoever").json["process"] for _ in range(20)}
        thread.join(20)
        assert len(processes) == WORKERS
        assert len([line for line in seen if line.strip()]) == 20


async def test_keys_keep_their_order_across_workers_and_each_message_runs_once(
    tmp_path: Path, place: Place
) -> None:
    with started(tmp_path, place) as bus:
        await until(bus.ready)
        for number in range(60):
            assert request("POST", f"{bus.url}/stored", {"key": f"k{number % 4}", "number": number})
        await until(lambda: len(bus.done()) >= 60)
        of_key: dict[str, list[int]] = {}
        for key, one in bus.done():
            of_key.setdefault(key, []).append(int(one))
        assert of_key == {f"k{key}": list(range(key, 60, 4)) for key in range(4)}


async def test_a_firing_and_a_file_are_handled_once_whoever_has_them(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        for number in range(20):
            (tmp_path / "in" / f"{number}.txt").write_text("x")

        def noted() -> list[str]:
            file = tmp_path / "noted"
            return file.read_text().splitlines() if file.exists() else []

        await until(lambda: not list((tmp_path / "in").glob("*.txt")) and len(noted()) >= 30)
        assert bus.process.stop() == 0
        assert len(set(noted())) == len(noted())
        assert sum("schedule" not in line for line in noted()) == 20


async def test_one_that_dies_is_started_again_and_what_it_had_in_hand_is_done(
    tmp_path: Path,
) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        before = bus.workers()

        def accepted(message: object) -> bool:
            # Whoever dies may have a caller at that moment, who asks again.
            with contextlib.suppress(OSError):
                return request("POST", f"{bus.url}/stored", message).status == 202
            return False

        await until(lambda: accepted({"key": "k", "number": 1, "deadly": True}))
        await until(lambda: accepted({"key": "k", "number": 2}))
        await until(lambda: {number for _, number in bus.done()} == {"1", "2"})
        assert list(dict.fromkeys(number for _, number in bus.done())) == ["1", "2"]
        await until(bus.ready)
        after = bus.workers()
        assert len(after) == WORKERS
        assert len(after & before) == WORKERS - 1
        assert "has died and is started again" in bus.process.output

        bus.process.signal(signal.SIGUSR2)
        await until(lambda: not (after & set(bus.process.children)))
        await until(bus.ready)
        assert bus.process.stop() == 0
    said = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(one["action"], one["by"], one["result"]) for one in said]
    [died] = [one for one in told if one[0].endswith(" died")]
    assert (died[0] in {"worker 1 died", "worker 2 died"}, died[1:]) == (
        True, ("signal 9", "started again"),
    )  # fmt: skip
    assert ("replace workers", "keeper", "done") in told
    assert [one for one in told if one[0] == "configuration"][1:] == [
        ("configuration", "SIGUSR2", "done")
    ]
    assert told[-2:] == [("stop", "SIGTERM", "begun"), ("stop", "SIGTERM", "done")]


async def test_whoever_loses_the_keeper_ends_and_all_of_it_comes_again(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        before = bus.workers()
        [keeper] = set(bus.process.children) - before
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not (before & set(bus.process.children)) and bus.ready())
        assert len(bus.workers()) == WORKERS
        assert bus.process.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGUSR2])
async def test_every_request_is_answered_while_all_are_replaced_again_and_again(
    tmp_path: Path, how: signal.Signals
) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        over = threading.Event()
        answers: Counter[int] = Counter()
        failures: list[Exception] = []

        def caller(keeps: bool) -> None:
            connection = HTTPConnection("127.0.0.1", bus.port, timeout=20)
            while not over.is_set():
                try:
                    connection.request("GET", "/whoever")
                    answer = connection.getresponse()
                    answer.read()
                    answers[answer.status] += 1
                    if not keeps:
                        connection.close()
                except Exception as e:  # noqa: BLE001 - whatever it is, a caller saw it
                    failures.append(e)
                    return

        callers = [threading.Thread(target=caller, args=(n % 2 == 0,)) for n in range(6)]
        for thread in callers:
            thread.start()
        for turn in range(3):
            before = await until(lambda: (found := bus.workers()) and bus.ready() and found)
            text = (tmp_path / "routes.yaml").read_text()
            (tmp_path / "routes.yaml").write_text(text.replace("/hello", f"/hello{turn}"))
            bus.process.signal(how)
            await until(lambda before=before: not (before & set(bus.process.children)))
        over.set()
        for thread in callers:
            thread.join(30)
        assert not failures
        assert set(answers) == {200}
        counted = bus.ask("GET", "/metrics").body.decode()
        [total] = re.findall(r'\{outcome="message",route="whoever"\} ([0-9.]+)', counted)
        assert float(total) >= answers[200]  # also what those counted that are gone


async def test_mistakes_in_the_files_leave_it_as_it_was(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        before = bus.workers()
        text = (tmp_path / "routes.yaml").read_text()
        (tmp_path / "routes.yaml").write_text(text.replace("steps: [{set", "stepz: [{set"))
        answer = bus.ask("POST", "/reload")
        assert answer.status == 422
        assert "stepz" in json.dumps(answer.json)
        assert bus.workers() == before

        (tmp_path / "routes.yaml").write_text(text.replace("'one'", "'two'"))
        answer = bus.ask("POST", "/reload")
        assert answer.json["changed"] == ["hello"]
        assert not (bus.workers() & before)
        assert request("GET", f"{bus.url}/hello").json == "two"


async def test_a_bus_that_cannot_start_says_why(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        other = Process([ESB, "run", "routes.yaml", "--workers", "2"], cwd=tmp_path)
        with other:
            assert other.wait() == 1
            assert "cannot listen" in other.output
        (tmp_path / "other.yaml").write_text(
            (tmp_path / "routes.yaml").read_text().replace(str(bus.port), "0", 1)
        )
        with Process([ESB, "run", "other.yaml", "--workers", "2"], cwd=tmp_path) as other:
            assert other.wait() == 1
            assert "cannot start" in other.output


async def test_what_was_refused_is_not_started_later(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        before = bus.workers()
        text = (tmp_path / "routes.yaml").read_text()
        (tmp_path / "routes.yaml").write_text(text.replace("'one'", "'two'"))
        old = set(bus.process.children)
        answers: list[Answer] = []
        asking = threading.Thread(target=lambda: answers.append(bus.ask("POST", "/reload")))
        asking.start()
        # The second dies, so that the first is there already with the new files.
        [first] = await until(lambda: set(bus.process.children) - old)
        [second] = await until(lambda: set(bus.process.children) - old - {first})
        os.kill(second, signal.SIGKILL)
        asking.join(30)
        assert answers[0].status == 422, answers[0].body
        # It is not ready as long as the files hold what was refused.
        all_up = {"up": WORKERS, "of": WORKERS}
        await until(lambda: first not in bus.process.children)
        await until(lambda: bus.ask("GET", "/readyz").json["workers"] == all_up)
        assert {request("GET", f"{bus.url}/hello").json for _ in range(30)} == {"one"}

        [victim, *_] = bus.workers() & before
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in bus.process.children)
        await until(lambda: len(bus.process.children) == WORKERS + 1)
        await until(lambda: bus.ask("GET", "/readyz").json["workers"] == all_up)
        assert {request("GET", f"{bus.url}/hello").json for _ in range(30)} == {"one"}
        assert bus.ask("POST", "/reload").json["changed"] == ["hello"]
        assert {request("GET", f"{bus.url}/hello").json for _ in range(30)} == {"two"}


HASTY = """
import selectors
import sys
import time

class Slow(selectors.DefaultSelector):
    '''What comes close together comes at once, and signals first.'''

    def select(self, timeout=None):
        if super().select(timeout):
            time.sleep(0.3)
        return sorted(super().select(0), key=lambda one: one[0].fd)

selectors.DefaultSelector = Slow
from esb.cli import main
sys.argv[0] = "esb"
main()
"""


async def test_a_death_is_heard_of_twice_at_once(tmp_path: Path) -> None:
    with started(tmp_path, run=[sys.executable, "-c", HASTY]) as bus:
        await until(bus.ready)
        before = bus.workers()
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        await until(lambda: not (before & set(bus.process.children)) and bus.ready())
        assert len(bus.workers()) == WORKERS
        assert bus.process.stop() == 0


async def test_a_keeper_that_dies_before_it_has_read_takes_nobody_along(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        before = bus.workers()
        [keeper] = set(bus.process.children) - before
        os.kill(keeper, signal.SIGSTOP)
        bus.process.signal(signal.SIGHUP)
        await until(lambda: waits_unread(keeper))
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not (before & set(bus.process.children)) and bus.ready())
        assert len(bus.workers()) == WORKERS
        assert bus.process.stop() == 0


async def test_nobody_outlives_a_supervisor_that_dies_before_it_has_read(tmp_path: Path) -> None:
    with started(tmp_path) as bus:
        await until(bus.ready)
        left = list(bus.process.children)
        text = (tmp_path / "routes.yaml").read_text()
        (tmp_path / "routes.yaml").write_text(text.replace("'one'", "'two'"))
        supervisor = bus.process.pid
        bus.process.signal(signal.SIGSTOP)

        def ask() -> None:
            with contextlib.suppress(OSError):
                bus.ask("POST", "/reload")

        asking = threading.Thread(target=ask)
        asking.start()
        await until(lambda: waits_unread(supervisor))
        bus.process.signal(signal.SIGKILL)
        await until(lambda: not any(Path(f"/proc/{one}").exists() for one in left))
        asking.join(30)


def waits_unread(process: int) -> bool:
    """Whether `process` has not read what came between keeper and supervisor."""
    for file in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            if not str(file.readlink()).startswith("socket:"):
                continue
            pid = os.pidfd_open(process)
            try:
                fd = pidfd_getfd(pid, int(file.name))
            finally:
                os.close(pid)
            with socket.socket(fileno=fd) as one:
                if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM:
                    found = one.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                    if found.startswith((b"{", b"replace")):
                        return True
    return False


def pidfd_getfd(pid: int, number: int) -> int:
    """A copy of another process's file (pidfd_getfd(2))."""
    found = ctypes.CDLL(None, use_errno=True).syscall(438, pid, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(found)


async def test_who_dies_while_others_are_asked_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper = object.__new__(keeper_module._Keeper)
    slow, dying = cast(Link, "slow"), cast(Link, "dying")
    told = [("passed", "counter", "", [("passed_total", (), 5.0)])]
    keeper._up, keeper._gone, keeper._server = {slow, dying}, summing.Sum(), None
    keeper._counted = {slow: told, dying: told}

    async def ask(name: str) -> dict[Link, Any]:
        keeper._lost(dying)
        return {slow: told, dying: told}

    monkeypatch.setattr(keeper, "_ask", ask)
    for _ in range(2):
        assert b"passed_total 10.0" in await keeper.metrics()
