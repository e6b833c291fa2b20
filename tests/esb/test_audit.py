"""Who did what: what is told of those who use the admin API, of signals and of changed files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from structlog.testing import capture_logs
from support.waiting import until

from esb.audit import Audit, AuditOptions, Refusals
from esb.auth.keys import new_key
from esb.envelope import Envelope
from esb.errors import Denied, EsbError
from esb.middleware.trace import traced
from esb.service import Service
from esb.step import pipeline

HEAD = "listen: {port: 0}\nstore: {path: bus.db}\n"
ROUTES = """
routes:
  in:
    from: {http: {path: /, method: POST, auth: public}}
    accept: durable
    steps: [{fail: "it is no good"}]
"""
OPEN = ROUTES.replace(", auth: public", "") + "admin: {port: 0}\n"


def lines(folder: Path, name: str = "audit.jsonl") -> list[dict[str, Any]]:
    file = folder / "data" / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class Asking:
    def __init__(self, service: Service, http: aiohttp.ClientSession, folder: Path) -> None:
        self.service = service
        self.http = http
        self.folder = folder

    async def ask(self, method: str, path: str, **more: Any) -> int:
        at = f"http://127.0.0.1:{self.service.admin.port}{path}"
        async with self.http.request(method, at, **more) as answer:
            await answer.read()
            return answer.status

    def told(self) -> list[tuple[str, str, str]]:
        return [(one["action"], one["by"], one["result"]) for one in lines(self.folder)]


@contextlib.asynccontextmanager
async def audited(
    folder: Path, text: str, audit: str = "audit: {file: data/audit.jsonl}\n", head: str = HEAD
) -> AsyncIterator[Asking]:
    file = folder / "routes.yaml"
    file.write_text(head + audit + textwrap.dedent(text))
    service = Service([file], root=folder)
    running = asyncio.create_task(service.run())
    try:
        async with aiohttp.ClientSession() as http:
            await until(lambda: service.up.is_set() or running.done())
            yield Asking(service, http, folder)
    finally:
        service.stopping.set()
        await running


async def test_what_changes_something_and_what_shows_messages_is_told(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        web: Any = bus.service.shared.objects["web"]
        async with bus.http.post(web.url, data=b"the-secret-body") as answer:
            assert answer.status == 202
        store = bus.service.bus.store
        assert store is not None
        [dead] = await until(lambda: store.browse("dead"))
        key = dead.key
        assert await bus.ask("GET", "/routes") == 200  # shows no message
        assert await bus.ask("GET", f"/dead/{key}/body") == 200
        assert await bus.ask("GET", "/messages?q=the-secret-query") == 200
        assert await bus.ask("POST", "/routes/in/stop") == 200
        assert await bus.ask("POST", "/routes/none/stop") == 404
        assert await bus.ask("POST", "/dead/drop", json={"keys": [key]}) == 200
        assert await bus.ask("GET", "/routes", headers={"Host": "evil.example"}) == 403
        assert bus.told() == [
            ("configuration", bus.told()[0][1], "done"),
            (f"GET /dead/{key}/body", "loopback", "done"),
            ("GET /messages", "loopback", "done"),
            ("POST /routes/in/stop", "loopback", "done"),
            ("POST /routes/none/stop", "loopback", "refused"),
            ("POST /dead/drop", "loopback", "done"),
            ("GET /routes", "loopback", "denied"),
        ]
        assert lines(tmp_path)[1]["from"] == "127.0.0.1"
        assert "the-secret" not in (tmp_path / "data/audit.jsonl").read_text()


async def test_who_it_was_is_known_and_so_is_who_was_not_let_in(tmp_path: Path) -> None:
    (op, op_hash), (reader, reader_hash) = new_key(), new_key()
    keys = [
        {"name": "anna", "sha256": op_hash, "roles": ["operator"]},
        {"name": "rita", "sha256": reader_hash, "roles": ["reader"]},
    ]
    (tmp_path / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    text = ROUTES + "auth: {it: {api_keys: {file: keys.yml}}}\nadmin: {port: 0, auth: it}\n"
    async with audited(tmp_path, text) as bus:
        assert await bus.ask("POST", "/reload", headers={"X-API-Key": op}) == 200
        assert await bus.ask("POST", "/reload", headers={"X-API-Key": reader}) == 403
        assert await bus.ask("GET", "/routes", headers={"X-API-Key": "wrong"}) == 401
        assert bus.told()[1:] == [
            ("POST /reload", "anna", "done"),
            ("POST /reload", "rita", "denied"),
            ("GET /routes", "nobody", "denied"),
        ]
        text = (tmp_path / "data/audit.jsonl").read_text()
        assert op not in text
        assert "wrong" not in text


async def test_whoever_looks_on_is_told_when_it_begins(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        at = f"http://127.0.0.1:{bus.service.admin.port}/routes/in/trace"
        async with bus.http.get(at) as answer:
            await answer.content.readline()
            assert bus.told()[1:] == [("GET /routes/in/trace", "loopback", "begun")]


async def test_changed_configurations_are_told_whoever_had_them_loaded(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        file = tmp_path / "routes.yaml"
        more = "routes:\n  more: {from: {http: {path: /more}}, steps: []}"
        file.write_text(file.read_text().replace("routes:", more, 1))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(bus.told()) == 2)
        last = lines(tmp_path)[1]
        assert (last["action"], last["by"], last["changes"]["added"]) == (
            "configuration", "SIGHUP", ["more"],
        )  # fmt: skip
        file.write_text("routes: [")
        await bus.service.reload(cause="watch")
        assert bus.told()[2] == ("configuration", "files", "refused")


async def test_without_a_file_the_log_has_it(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN, audit="") as bus:
        with capture_logs() as logs:
            assert await bus.ask("POST", "/routes/in/stop") == 200
    told = [one for one in logs if one["event"] == "audit"]
    assert [(one["action"], one["by"]) for one in told] == [("POST /routes/in/stop", "loopback")]


def test_the_file_is_appended_to_and_opened_anew_when_it_was_moved(tmp_path: Path) -> None:
    audit = Audit(AuditOptions(file=Path("data/audit.jsonl")), tmp_path)
    audit.tell("a", "me", "done")
    file = tmp_path / "data/audit.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    file.rename(tmp_path / "data/audit.1")
    audit.tell("b\r\nforged", "me\x1b", "done")
    audit.tell("c", "me", "done")
    audit.close()
    assert [one["action"] for one in lines(tmp_path, "audit.1")] == ["a"]
    assert [one["action"] for one in lines(tmp_path)] == ["b\r\nforged", "c"]
    assert file.read_bytes().count(b"\n") == 2


def test_what_cannot_be_written_is_told_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with capture_logs() as logs:
        Audit(AuditOptions(file=Path("data/audit.jsonl")), tmp_path).tell("a", "me", "done")
    assert [(one["log_level"], one["action"]) for one in logs] == [("error", "a")]


async def test_how_it_ended_is_told_and_who_had_it_so(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        os.kill(os.getpid(), signal.SIGTERM)
        await until(bus.service.stopping.is_set)
    assert bus.told()[1:] == [("stop", "SIGTERM", "begun"), ("stop", "SIGTERM", "done")]
    async with audited(tmp_path, OPEN) as bus:
        pass
    assert bus.told()[4:] == [("stop", "the program", "begun"), ("stop", "the program", "done")]


async def test_a_reload_by_a_signal_is_told_also_if_nothing_has_changed(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(bus.told()) == 2)
        assert bus.told()[1] == ("configuration", "SIGHUP", "done")


async def test_a_bus_that_cannot_start_says_why(tmp_path: Path) -> None:
    async with audited(tmp_path, OPEN) as bus:
        taken: Any = bus.service.shared.objects["web"]
        port = taken.url.rpartition(":")[2]
        other = tmp_path / "other"
        other.mkdir()
        file = other / "routes.yaml"
        own = (tmp_path / "routes.yaml").read_text().replace("bus.db", str(other / "bus.db"))
        file.write_text(own.replace("listen: {port: 0}", f"listen: {{port: {port}}}"))
        with pytest.raises(EsbError):
            await Service([file], root=other).run((), ())
        [said] = lines(other)
        assert (said["action"], said["by"], said["result"]) == ("stop", "an error", "failed")
        assert port in said["why"]


REFUSING = """
admin: {port: 0}
auth: {it: {api_keys: {file: keys.yml}}}
listen: {port: 0, auth: it}
routes:
  orders:
    from: {http: {path: /orders, method: POST, auth: it}}
    allow: {roles: clerk}
    rate_limit: {limit: 2/1h, per: principal}
    steps: []
  open:
    from: {http: {path: /open, method: POST}}
    steps: []
"""


def refused(folder: Path) -> list[tuple[str, str, str, int]]:
    told = [one for one in lines(folder) if one["action"].startswith(("route", "listener"))]
    return [(one["action"], one["by"], one["result"], one.get("times", 1)) for one in told]


async def test_whom_routes_refuse_is_told_once_and_then_counted(tmp_path: Path) -> None:
    (clerk, clerk_hash), (guest, guest_hash) = new_key(), new_key()
    keys = [
        {"name": "anna", "sha256": clerk_hash, "roles": ["clerk"]},
        {"name": "rita", "sha256": guest_hash},
    ]
    (tmp_path / "keys.yml").write_text(yaml.safe_dump({"keys": keys}))
    with_refusals = "audit: {file: data/audit.jsonl, refusals: true}\n"
    text = REFUSING.replace("listen: {port: 0, auth: it}\n", "")
    head = HEAD.replace("port: 0", "port: 0, auth: it")
    async with audited(tmp_path, text, audit=with_refusals, head=head) as bus:
        web: Any = bus.service.shared.objects["web"]

        async def post(path: str, key: str = "") -> int:
            headers = {"X-API-Key": key} if key else {}
            async with bus.http.post(f"{web.url}{path}?secret=q", headers=headers) as answer:
                await answer.read()
                return answer.status

        assert [await post("/orders", guest) for _ in range(3)] == [403] * 3
        assert [await post("/orders", clerk) for _ in range(4)] == [200, 200, 429, 429]
        assert [await post("/orders") for _ in range(2)] == [401] * 2
        assert await post("/open", "wrong-key") == 401
        assert refused(tmp_path) == [
            ("route orders", "rita", "denied", 1),
            ("route orders", "anna", "throttled", 1),
            ("route orders", "nobody", "unauthenticated", 1),
            ("listener", "nobody", "unauthenticated", 1),
        ]
        assert {one["from"] for one in lines(tmp_path) if "route" in one["action"]} == {"127.0.0.1"}
    assert refused(tmp_path)[4:] == [
        ("route orders", "rita", "denied", 2),
        ("route orders", "anna", "throttled", 1),
        ("route orders", "nobody", "unauthenticated", 1),
    ]
    text = (tmp_path / "data/audit.jsonl").read_text()
    assert not any(secret in text for secret in (clerk, guest, "wrong-key", "secret=q"))


async def test_without_the_option_no_refusal_is_told_and_nobody_asks(tmp_path: Path) -> None:
    (tmp_path / "keys.yml").write_text("keys: []")
    text = REFUSING.replace("listen: {port: 0, auth: it}\n", "").replace(
        "path: /open, method: POST", "path: /open, method: POST, auth: public"
    )
    async with audited(tmp_path, text) as bus:
        web: Any = bus.service.shared.objects["web"]
        async with bus.http.post(f"{web.url}/orders") as answer:
            assert answer.status == 401
        assert ("audit of refusals",) not in bus.service.shared.objects
    assert refused(tmp_path) == []


async def test_what_a_far_side_denies_the_bus_is_no_refusal_of_the_sender() -> None:
    async def denied(envelope: Envelope) -> Envelope:
        raise Denied("no")

    told: list[str] = []
    layer = traced("r", refusal=lambda envelope, why: told.append(why))
    with pytest.raises(Denied):
        await layer(pipeline([("steps[0].call", denied)]))(Envelope())
    assert told == []
    with pytest.raises(Denied):
        await layer(denied)(Envelope())  # as `allow` does
    assert told == ["denied"]


async def test_a_flood_of_refusals_is_a_few_lines_a_minute(tmp_path: Path) -> None:
    audit = Audit(AuditOptions(file=Path("data/audit.jsonl")), tmp_path)
    refusals = Refusals(audit, every=0.01)
    for n in range(20_000):
        refusals.tell("route r", "unauthenticated", address=f"10.{n % 7}.{n % 251}.{n % 241}",
                      user=f"u{n}\r\nforged" * 1000)  # fmt: skip
    first = lines(tmp_path)
    assert len(first) == 100
    assert len(first[0]["user"]) == 500
    assert (tmp_path / "data/audit.jsonl").read_bytes().count(b"\n") == 100
    await until(lambda: len(lines(tmp_path)) > 100)
    rest = lines(tmp_path)[100:]
    assert sum(one["times"] for one in rest) + 100 == 20_000
    assert rest[-1]["action"] == "others"
    assert len(rest) <= 101
    refusals.tell("route r", "unauthenticated", address="10.0.0.0")
    assert lines(tmp_path)[-1]["from"] == "10.0.0.0", "the next is a first again"
    await refusals.close()
