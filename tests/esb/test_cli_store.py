"""The commands for those who run a bus, as they are typed: beside a bus, and without one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from support.processes import Process, lasting_ports, request
from support.stores import Place, database, opened, setting
from typer.testing import CliRunner

from esb import record
from esb.cli import app
from esb.durable import DEAD, Failure, Put
from esb.envelope import Body, Envelope

ESB = str(Path(sys.executable).with_name("esb"))
ROUTES = """
routes:
  orders:
    from: {queue: in}
    business_key: body.number
    steps:
      - filter: body.good
      - send: {queue: out}
  repairs:
    from: {queue: broken}
    steps: [{send: {queue: repaired}}]
  asked:
    from: {http: {path: /asked}}
    steps: [{set: {body: "'yes'"}}]
"""


class Project:
    """A folder with routes in it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        self.web, self.port = lasting_ports(2)
        self.admin = f"http://127.0.0.1:{self.port}"
        (folder / "routes").mkdir()
        self.write(f"listen: {{port: {self.web}}}\nadmin: {{port: {self.port}}}\n")

    def write(self, head: str) -> None:
        (self.folder / "routes" / "bus.yaml").write_text(head + ROUTES + setting(self.place))

    def esb(self, *args: str, status: int = 0) -> tuple[str, str]:
        """What a command writes to its outputs."""
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, args, env={"http_proxy": "http://127.0.0.1:9"})
        assert done.exit_code == status, (done.exit_code, done.output, done.exception)
        return done.stdout, done.stderr

    def typed(self, answer: str, *args: str) -> tuple[int, str]:
        """The exit status of a command that is run from a terminal, and what it says there."""
        terminal, far_end = pty.openpty()
        os.write(terminal, answer.encode())
        try:
            done = subprocess.run(
                [ESB, *args], cwd=self.folder, stdin=far_end, capture_output=True, timeout=60,
                check=False,
            )  # fmt: skip
        finally:
            os.close(terminal)
            os.close(far_end)
        return done.returncode, done.stderr.decode()

    def json(self, *args: str, **more: Any) -> Any:
        return json.loads(self.esb(*args, "--json", **more)[0])

    @contextlib.contextmanager
    def running(self) -> Iterator[Process]:
        command = [ESB, "run", "--log-level", "warning"]
        with Process(command, cwd=self.folder) as bus:
            bus.wait_for(f"{self.admin}/readyz")
            yield bus
            if bus.ended is None:
                assert bus.stop() == 0

    def keep(self, *bodies: str, route: str = "orders", **fields: Any) -> None:
        """Dead letters with these bodies, in a store that no bus is at work on."""

        async def put() -> None:
            failure = Failure("unreachable", "away", route, "steps[1].send", 5, datetime.now(UTC))
            async with opened(self.place) as store:
                for body in bodies:
                    one = Envelope(body=Body(body.encode(), "application/json"), **fields)
                    await store.commit([Put(DEAD, one, attempts=5, failure=failure)])

        asyncio.run(put())

    def lying(self) -> dict[str, int]:
        async def counts() -> dict[str, int]:
            async with opened(self.place) as store:
                return dict(await store.counts())

        return asyncio.run(counts())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, tmp_path / "bus.db")


GOOD = '{"number": "A-1", "good": true}'


@pytest.mark.parametrize("with_bus", [True, False], ids=["bus", "no bus"])
def test_dead_letters_are_listed_shown_replayed_and_dropped(
    project: Project, with_bus: bool
) -> None:
    project.keep(GOOD, '{"number": "A-2"}', id="order-7")
    project.keep('{"n": 3}', route="repairs", correlation_id="batch-1")
    with project.running() if with_bus else contextlib.nullcontext():
        out, err = project.esb("dead", "list")
        said = f"asking the bus at {project.admin}" if with_bus else "opened the store"
        assert said in err
        assert "3 of 3" in err
        assert [line.split()[0] for line in out.splitlines()] == ["KEY", "1", "2", "3"]
        assert out.splitlines()[1].split()[3:] == ["orders", "unreachable", "5", "order-7", "away"]
        assert [d["key"] for d in project.json("dead", "list", "-r", "repairs", "-t", "ch-1")] == [
            3
        ]
        assert project.esb("dead", "list", "--until", "1h")[0] == "no dead letters\n"
        assert "go on with --after 2" in project.esb("dead", "list", "--limit", "2")[1]

        out, _ = project.esb("dead", "show", "1")
        for line in ("step  steps[1].send", "id  order-7", "tries  5", GOOD):
            assert line in out
        assert project.esb("dead", "show", "1", "--body")[0] == GOOD
        assert project.json("dead", "show", "1")["code"] == "unreachable"
        assert "there is no dead letter 9" in project.esb("dead", "show", "9", status=1)[1]

        wrong = project.esb("dead", "replay", "--all", "--to", "repair", status=1)[1]
        assert "there is no route 'repair': did you mean 'repairs'?" in wrong
        out, err = project.esb("dead", "replay", "1", "9", status=1)
        assert out == "replayed 1 dead letter\n"
        assert "not 1 dead letter (9): there is no dead letter 9" in err
        assert project.esb("dead", "replay", "-r", "repairs", "--to-queue", "broken")
        assert project.esb("dead", "drop", "2")[0] == "dropped 1 dead letter\n"
        assert project.json("dead", "list") == []
    if not with_bus:
        assert project.lying() == {"accept:orders": 1, "queue:broken": 1}
        with project.running() as bus:
            bus.until(lambda: _channels(project) == {"queue:out": 1, "queue:repaired": 1})
        assert "is through orders: delivered" in project.esb("find", "order-7")[0]


def _channels(project: Project) -> Any:
    return request("GET", f"{project.admin}/store").json["channels"]


def test_many_are_dropped_only_if_that_is_meant(project: Project) -> None:
    project.keep(*[GOOD] * 3)
    assert "say which" in project.esb("dead", "drop", status=2)[1]
    assert "say which" in project.esb("dead", "replay", "1", "--all", status=2)[1]
    assert "say --yes" in project.esb("dead", "drop", "--all", status=2)[1]
    assert (
        "not both"
        in project.esb("dead", "replay", "1", "--to", "a", "--to-queue", "b", status=2)[1]
    )
    status, err = project.typed("n\n", "dead", "drop", "--since", "1h")
    assert status == 1
    assert "forget 3 dead letters for good?" in err
    assert len(project.json("dead", "list")) == 3
    assert project.esb("dead", "drop", "--since", "1h", "--yes")[0] == "dropped 3 dead letters\n"


def test_what_comes_with_messages_does_not_steer_the_terminal(project: Project) -> None:
    project.keep("\x1b]0;pwned\x07\x1b[2J\r\nnext", id="a\x1b[31m\u202eb")
    for command in (("dead", "list"), ("dead", "show", "1")):
        out, _ = project.esb(*command)
        assert "a [31mb" in out
        assert not set(out) & set("\x1b\x07\r\u202e")


def test_what_became_of_a_message(project: Project) -> None:
    project.keep('{"number": "A-1", "good": []', id="order-7", business_key="A-1")
    out, _ = project.esb("find", "A-1")
    assert "order-7 (A-1) is a dead letter, key 1; tries: 5; last failure: unreachable" in out
    assert project.json("find", "order-7")[0]["state"] == "dead"
    assert "nothing is known of 'A-2'" in project.esb("find", "A-2", status=1)[1]
    assert project.json("find", "A-2", status=1) == []


def test_it_is_told_when_there_is_no_bus_to_ask(project: Project) -> None:
    nowhere = f"http://127.0.0.1:{project.port}"
    told = project.esb("dead", "list", "--url", nowhere, status=1)[1]
    assert told == f"no bus answers at {nowhere}: connection refused\n"
    for wrong in ("http://", "ftp://h/", "localhost:port"):
        assert "Error" not in project.esb("dead", "list", "--url", wrong, status=1)[1]
    assert "there is no store at" in project.esb("dead", "list", status=1)[1]
    assert not (project.folder / "bus.db").exists(), "asking makes none"
    (project.folder / "routes" / "bus.yaml").write_text("rotes: {}\n")
    assert "did you mean 'routes'?" in project.esb("dead", "list", status=1)[1]


def test_what_answers_may_be_no_bus_or_another_one(project: Project, tmp_path: Path) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = project.esb("dead", "list", "--url", f"127.0.0.1:{server.server_port}", status=1)[1]
        assert "is not the admin API of a bus" in told
        server.shutdown()
    project.keep(GOOD)
    other = tmp_path / "other"
    other.mkdir()
    with project.running():
        told = project.esb("dead", "list", "--url", f"http://127.0.0.1:{project.web}", status=1)[1]
        assert "is not the admin API of a bus" in told
        # A project whose admin API is said to be where that of another one is.
        second = Project(other, other / "bus.db")
        second.keep(GOOD, GOOD)
        second.write(f"admin: {{port: {project.port}}}\n")
        assert len(second.json("dead", "list")) == 2, "its own, from its store"
        # And the other way round: a bus that has the store, and is not where it is said to be.
        project.write(f"admin: {{port: {second.port}}}\n")
        told = project.esb("dead", "drop", "1", status=1)[1]
        assert "is in use by process" in told
        assert "say where it is: --url" in told
        assert len(project.json("dead", "list", "--url", project.admin)) == 1
        project.write("admin: {enabled: false}\n")
        told = project.esb("dead", "list", status=1)[1]
        assert "whose admin API is off" in told


def test_the_store_is_copied_checked_and_put_back(project: Project) -> None:
    assert "there is no store at" in project.esb("store", "check", status=1)[1]
    project.keep(GOOD)
    with project.running():
        assert project.esb("store", "backup", "copy.db")[0].startswith("copy.db: ")
        assert "--force replaces it" in project.esb("store", "backup", "copy.db", status=1)[1]
        assert "1 messages, 0 problems" in project.esb("store", "check")[0]
        assert "dead     1" in project.esb("store", "info")[0]
        told = project.esb("store", "restore", "copy.db", "--force", status=1)[1]
        assert "stop that bus first" in told
        project.esb("dead", "drop", "1")
    assert project.json("store", "info")["channels"] == {}
    assert "--force sets it aside" in project.esb("store", "restore", "copy.db", status=1)[1]
    assert "what was there is now" in project.esb("store", "restore", "copy.db", "--force")[0]
    assert project.json("store", "info")["channels"] == {DEAD: 1}
    copy = project.folder / "copy.db"
    spoilt = copy.read_bytes().replace(b"A-1", b"A-2")
    copy.write_bytes(spoilt)
    out, _ = project.esb("store", "check", "copy.db", status=1)
    assert "message 1 in dead: its checksum does not match" in out
    assert project.json("store", "check", "copy.db", status=1)["messages"] == 1
    told = project.esb("store", "restore", "copy.db", "--store", "new.db", status=1)[1]
    assert "was not restored" in told


async def test_on_a_shared_store_a_bus_that_runs_is_asked(
    tmp_path: Path, postgres_url: str
) -> None:
    async with database(postgres_url) as url:
        await asyncio.to_thread(_on_postgres, Project(tmp_path, url))


def _on_postgres(project: Project) -> None:
    project.keep(GOOD)
    assert "opened the store" in project.esb("dead", "list")[1]
    with project.running() as bus:
        assert "asking the bus" in project.esb("dead", "list")[1]
        assert project.esb("dead", "replay", "--all")[0] == "replayed 1 dead letter\n"
        bus.until(lambda: _channels(project) == {"queue:out": 1})
    assert "pg_dump" in project.esb("store", "backup", "copy.db", status=1)[1]


def test_killed_in_the_middle_of_a_replay_each_is_replayed_once(project: Project) -> None:
    """A bus is killed as soon as some of 500 were moved; whoever asked asks again."""
    sent: list[bytes] = []
    for number in range(10):
        bodies = [json.dumps({"number": f"{number}-{n}", "good": True}) for n in range(500)]
        sent += [body.encode() for body in bodies]
        project.keep(*bodies)
        with project.running() as bus:
            asking = threading.Thread(target=_ask_for_replay, args=(project,), daemon=True)
            asking.start()
            with contextlib.closing(apsw.Connection(str(project.place))) as file:
                while _dead(file) == 500:
                    assert bus.ended is None
            bus.kill()
            asking.join()
        left = project.lying().get(DEAD, 0)
        if 0 < left < 500:
            break
    else:
        pytest.fail("the kill was never in the middle")
    with project.running() as bus:
        assert project.esb("dead", "replay", "--all")[0] == f"replayed {left} dead letters\n"
        bus.until(lambda: _channels(project) == {"queue:out": len(sent)})
        assert project.esb("dead", "replay", "--all")[0] == "replayed 0 dead letters\n"
    with contextlib.closing(apsw.Connection(str(project.place))) as file:
        rows = file.execute("SELECT content FROM content").fetchall()
    assert sorted(record.decode(cast(bytes, row[0])).body.raw for row in rows) == sorted(sent)


def _dead(file: apsw.Connection) -> int:
    return cast(int, file.execute("SELECT count(*) FROM message WHERE channel = 'dead'").get)


def _ask_for_replay(project: Project) -> None:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        request("POST", f"{project.admin}/dead/replay", {"all": True})
