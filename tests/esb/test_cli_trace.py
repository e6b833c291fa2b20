"""`esb trace` and `esb why`, as they are typed, of a bus that runs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import Process, lasting_ports, request
from typer.testing import CliRunner

from esb.cli import app

ESB = str(Path(sys.executable).with_name("esb"))
ROUTES = """
trace: {errors: true}
routes:
  orders:
    from: {http: {path: /orders, method: POST}}
    business_key: body.number
    steps:
      - run: price
      - filter: body.n > 1
      - set: {body: "{'sum': body.price / body.n}"}
  price:
    steps: [{set: {fields: {price: "10"}, headers: {x-secret-token: "'abc'"}}}]
"""


class Bus:
    """One that runs, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.web, self.port = lasting_ports(2)
        self.admin = f"http://127.0.0.1:{self.port}"
        (folder / "routes").mkdir()
        head = f"listen: {{port: {self.web}}}\nadmin: {{port: {self.port}}}\n"
        (folder / "routes" / "bus.yaml").write_text(head + ROUTES)

    def order(self, number: str, n: Any) -> int:
        body = {"number": number, "n": n}
        return request("POST", f"http://127.0.0.1:{self.web}/orders", body).status

    def esb(self, *args: str, status: int = 0) -> tuple[str, str]:
        """What a command writes to its outputs."""
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, args)
        assert done.exit_code == status, (done.exit_code, done.output, done.exception)
        return done.stdout, done.stderr

    def looking(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ESB, "trace", *args], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    made = Bus(tmp_path_factory.mktemp("project"))
    with Process([ESB, "run"], cwd=made.folder) as process:
        waited(lambda: "the bus is up" in process.output)
        yield made


def waited(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(bus: Bus, *args: str, count: int, orders: list[tuple[str, Any]]) -> list[Any]:
    """What `esb trace --json` shows of orders that come in while it looks."""
    looking = bus.looking("orders", "--json", "--limit", str(count), *args)
    with looking:
        while looking.poll() is None:
            for one in orders:
                bus.order(*one)
            time.sleep(0.05)
        assert looking.stdout is not None
        return [json.loads(line) for line in looking.stdout]


def test_what_passes_is_shown(bus: Bus) -> None:
    [one] = lines(bus, count=1, orders=[("A-1", 4)])
    assert one["business_key"] == "A-1"
    assert one["given"]["text"] == '{"number": "A-1", "n": 4}'
    assert [(v["depth"], v.get("route"), v["place"]) for v in one["visits"]] == [
        (0, None, "steps[0].run"),
        (1, "price", "steps[0].set"),
        (0, None, "steps[1].filter"),
        (0, None, "steps[2].set"),
    ]
    run, price, *_, last = one["visits"]
    assert "returned" not in run  # the step within it made it
    assert price["headers"] == {"x-secret-token": "***"}
    assert last["returned"]["text"].startswith('{"sum":')


def test_only_what_was_asked_for_is_shown(bus: Bus) -> None:
    orders = [("A-1", 2), ("A-2", 0), ("A-3", 3)]
    [one] = lines(bus, "--where", "body.n > 2", count=1, orders=orders)
    assert one["business_key"] == "A-3"
    [one] = lines(bus, "--key", "A-1", "--no-bodies", count=1, orders=orders)
    assert one["business_key"] == "A-1"
    assert "given" not in one


def test_only_what_fails_is_shown(bus: Bus) -> None:
    [one] = lines(bus, "--errors", count=1, orders=[("B-1", 5), ("B-2", "many")])
    assert one["business_key"] == "B-2"
    assert one["step"] == "steps[1].filter"


def test_of_what_never_came_in_nothing_is_known(bus: Bus) -> None:
    out, err = bus.esb("why", "nobody", status=1)
    assert "nothing is known of 'nobody'" in err
    assert out.strip() == ""


def test_for_people_it_is_a_tree(bus: Bus) -> None:
    looking = bus.looking("orders", "--limit", "1")
    with looking:
        while looking.poll() is None:
            bus.order("C-1", 2)
            time.sleep(0.05)
        assert looking.stdout is not None
        shown = looking.stdout.read()
        assert looking.returncode == 0
    assert "  C-1  from POST /orders" in shown
    assert "  steps[0].run" in shown
    assert "    price: steps[0].set" in shown
    assert "      + x-secret-token: ***" in shown
    assert '> {"sum":' in shown


def test_ctrl_c_ends_it_and_nobody_looks_any_more(bus: Bus) -> None:
    looking = bus.looking("orders")
    with looking:
        assert looking.stderr is not None
        assert "Ctrl-C ends it" in looking.stderr.readline()
        looking.send_signal(signal.SIGINT)
        assert looking.wait(20) == 0
        assert "Traceback" not in looking.stderr.read()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nothing"], "there is no route 'nothing'"),
        (["price"], "'price' is a sub-route"),
        (["orders", "--where", "body.n >"], "where: "),
        (["orders", "--url", "http://127.0.0.1:1"], "no bus answers at"),
    ],
)
def test_what_cannot_be_looked_at(bus: Bus, args: list[str], told: str) -> None:
    _, err = bus.esb("trace", *args, status=1)
    assert told in err


def test_the_story_as_it_is_told_in_a_terminal(bus: Bus) -> None:
    assert bus.order("D-1", "many") == 500

    def kept() -> bool:
        with contextlib.chdir(bus.folder):
            return CliRunner().invoke(app, ["why", "D-1"]).exit_code == 0

    waited(kept)
    out, _ = bus.esb("why", "D-1")
    assert "came in from POST /orders, into route orders" in out
    assert "price: steps[0].set: set header x-secret-token: ***" in out
    assert "failed at steps[1].filter after" in out
    assert "nothing of it lies in the store" in out
    story = json.loads(bus.esb("why", "D-1", "--json")[0])
    assert [event["route"] for event in story["events"]] == ["orders"]


@pytest.mark.parametrize("kept", ["with a store", "without one"])
def test_the_story_when_no_bus_runs_any_more(kept: str, tmp_path: Path) -> None:
    made = Bus(tmp_path)
    if kept == "with a store":
        (tmp_path / "routes" / "more.yaml").write_text("routes: {q: {from: {queue: q}}}")
    with Process([ESB, "run"], cwd=tmp_path) as process:
        waited(lambda: "the bus is up" in process.output)
        assert made.order("E-1", "many") == 500
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert (tmp_path / "data" / "bus.db").exists() == (kept == "with a store")
    out, err = made.esb("why", "E-1")
    assert "no bus is at work" in err
    assert "failed at steps[1].filter after" in out
