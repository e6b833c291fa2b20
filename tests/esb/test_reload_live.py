"""A live bus: reloads on request and by watching, versions and the way back, single routes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import textwrap
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.waiting import until

from esb.service import Service

HEAD = "listen: {port: 0}\nadmin: {port: 0}\nstore: {path: bus.db}\n"
ROUTES = """
    routes:
      a: {from: {http: {path: /a, method: GET}}, steps: [{transform: {jinja: a.json.j2}}]}
      b: {from: {http: {path: /b, method: GET}}}
"""


class Live:
    """A service in this process, and its admin API."""

    def __init__(self, service: Service, http: aiohttp.ClientSession, folder: Path) -> None:
        self.service = service
        self.http = http
        self.folder = folder

    async def get(self, path: str) -> tuple[int, str]:
        web: Any = self.service.shared.objects["web"]
        async with self.http.get(web.url + path) as r:
            return r.status, await r.text()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.service.admin.port}{path}"
        async with self.http.request(method, url, json=body) as r:
            text = await r.text()
            return r.status, json.loads(text) if "json" in r.content_type else text

    async def told(self, method: str, path: str, body: Any = None) -> Any:
        status, told = await self.ask(method, path, body)
        assert status == 200, told
        return told

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))


@contextlib.asynccontextmanager
async def live(folder: Path, routes: str = ROUTES, *, watch: bool = False) -> AsyncIterator[Live]:
    files = folder / "routes"
    if not files.exists():
        files.mkdir()
        (folder / "transforms").mkdir()
        (folder / "transforms" / "a.json.j2").write_text('"one"')
        (files / "all.yaml").write_text(HEAD + textwrap.dedent(routes))
    service = Service([files], root=folder, watch=watch)
    running = asyncio.create_task(service.run())
    try:
        async with aiohttp.ClientSession() as http:
            await until(lambda: service.up.is_set() or running.done())
            yield Live(service, http, folder)
    finally:
        service.stopping.set()
        await running


async def test_what_is_loaded_is_out_of_the_collectors_sight_and_goes_when_it_is_replaced(
    tmp_path: Path,
) -> None:
    async with live(tmp_path) as bus:
        assert gc.get_freeze_count() > 1000
        for round_ in range(3):
            replaced = weakref.ref(bus.service.bus.routes["b"])
            project = weakref.ref(bus.service.project)
            bus.write(
                "routes/all.yaml", HEAD + textwrap.dedent(ROUTES).replace("/b", f"/b{round_}")
            )
            await bus.told("POST", "/reload")
            await until(lambda r=replaced, p=project: r() is None and p() is None)
            assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


async def test_mistakes_leave_the_old_routes_running_and_are_told(tmp_path: Path) -> None:
    async with live(tmp_path) as bus:
        assert (await bus.told("GET", "/configuration"))["current"] is True
        bus.write("transforms/a.json.j2", '"two"')
        bus.write("routes/more.yaml", "")
        state = await bus.told("GET", "/configuration")
        assert (state["current"], state["problems"]) == (False, [])
        names = [Path(name).name for name in state["changed"]]
        assert names == ["more.yaml", "a.json.j2"]
        bus.write("transforms/a.json.j2", '"one"')
        bus.write("routes/more.yaml", "routes:\n  c:\n    form: {http: /c}\n    from: {queue: c}\n")
        status, told = await bus.ask("POST", "/admin/reload")
        assert (status, told["reloaded"]) == (422, False)
        assert [(d["line"], d["code"]) for d in told["diagnostics"]] == [(3, "unknown-key")]
        state = await bus.told("GET", "/configuration")
        assert (state["current"], state["diagnostics"]) == (False, told["diagnostics"])
        ready = await bus.told("GET", "/readyz")
        assert (ready["status"], ready["not_loaded"]) == ("degraded", told["problems"])
        assert "esb_configuration_current 0.0" in (await bus.told("GET", "/metrics"))
        assert await bus.get("/a") == (200, '"one"')
        (tmp_path / "routes" / "more.yaml").unlink()
        assert (await bus.told("POST", "/reload"))["reloaded"] is True
        assert (await bus.told("GET", "/readyz"))["status"] == "ok"
        assert (await bus.told("GET", "/configuration"))["current"] is True


async def test_a_change_concerns_the_routes_that_are_made_of_it(tmp_path: Path) -> None:
    text = """
        connections:
          one: {http: {url: "http://127.0.0.1:1/"}}
          two: {http: {url: "http://127.0.0.1:2/"}}
        routes:
          a: {from: {queue: a}, steps: [{send: {http: {connection: one}}}]}
          b: {from: {queue: b}, steps: [{send: {http: {connection: two}}}]}
          c: {from: {queue: c}, steps: [{run: shared}]}
          shared: {steps: [{transform: {jinja: a.json.j2}}]}
    """
    async with live(tmp_path, text) as bus:
        file = tmp_path / "routes" / "all.yaml"
        for old, new, changed in (
            ("127.0.0.1:2", "127.0.0.1:3", ["b"]),
            ("127.0.0.1:1", "127.0.0.1:4", ["a"]),
            ("  shared: {", "  shared: {timeout: 5s, ", ["c", "shared"]),
            # A listener is nobody's business who does not listen.
            ("  shared: {", "  d: {from: {http: {path: /d}}}\n  shared: {", []),
        ):
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
            assert (await bus.told("POST", "/reload"))["changed"] == changed, new
        bus.write("transforms/a.json.j2", '"two"')
        assert (await bus.told("POST", "/reload"))["changed"] == ["c", "shared"]
        (tmp_path / "transforms" / "a.json.j2").touch()
        assert (await bus.told("POST", "/reload"))["changed"] == []


async def test_versions_are_kept_compared_and_gone_back_to(tmp_path: Path) -> None:
    async with live(tmp_path) as bus:
        bus.write("transforms/a.json.j2", '"two"')
        bus.write("routes/more.yaml", "routes: {c: {from: {http: {path: /c, method: GET}}}}")
        told = await bus.told("POST", "/reload", {"by": "ann"})
        assert (told["added"], told["changed"], told["version"]) == (["c"], ["a"], 2)
        assert (await bus.told("POST", "/reload"))["version"] == 2
        second, first = await bus.told("GET", "/versions")
        assert (second["cause"], second["by"], second["runs"]) == ("reload", "ann", True)
        assert (first["version"], first["cause"], first["runs"]) == (1, "start", False)
        changes = await bus.told("GET", "/versions/1/diff")
        assert [(c["path"], c["kind"]) for c in changes] == [
            ("routes/more.yaml", "added"), ("transforms/a.json.j2", "changed")
        ]  # fmt: skip
        assert '-"one"\n+"two"' in changes[1]["diff"]
        assert await bus.told("GET", "/versions/1/files/transforms/a.json.j2") == '"one"'
        bus.write("routes/all.yaml", "routes: {broken: 1}")
        told = await bus.told("POST", "/versions/1/roll-back", {"by": "bob"})
        assert (told["rolled_back"], told["removed"], told["version"]) == (True, ["c"], 4)
        assert await bus.get("/a") == (200, '"one"')
        assert not (tmp_path / "routes" / "more.yaml").exists()
        causes = [(v["version"], v["cause"]) for v in await bus.told("GET", "/versions")]
        assert causes == [(4, "roll-back"), (3, "found"), (2, "reload"), (1, "start")]
        # What was about to be overwritten is kept as well.
        assert await bus.told("GET", "/versions/3/files/routes/all.yaml") == "routes: {broken: 1}"
        assert (await bus.told("GET", "/readyz"))["status"] == "ok"
    async with live(tmp_path) as bus:
        assert (await bus.told("GET", "/configuration"))["version"] == 4


async def test_a_way_back_that_leads_nowhere_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'routes: {a: {from: {http: {path: "${A_PATH}", method: GET}}}}'
    monkeypatch.setenv("A_PATH", "/a")
    async with live(tmp_path, text) as bus:
        bus.write("routes/all.yaml", HEAD + text.replace("${A_PATH}", "/b"))
        await bus.told("POST", "/reload")
        monkeypatch.delenv("A_PATH")
        status, told = await bus.ask("POST", "/versions/1/roll-back")
        assert (status, told["rolled_back"]) == (422, False)
        assert "A_PATH is not set" in told["problems"][0]
        assert await bus.get("/b") == (200, "")
        assert (await bus.told("POST", "/reload"))["changed"] == []
        assert (await bus.ask("POST", "/versions/9/roll-back")) == (
            404, {"detail": "there is no version 9: there are 1 to 2"}
        )  # fmt: skip
        monkeypatch.setattr(Path, "replace", _read_only)
        status, told = await bus.ask("POST", "/versions/1/roll-back")
        assert (status, told["detail"]) == (
            409, "the files cannot be written: Read-only file system"
        )  # fmt: skip


@pytest.mark.parametrize("leads_somewhere", [True, False])
async def test_what_no_route_names_any_more_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leads_somewhere: bool
) -> None:
    text = """
        routes:
          a:
            from: {http: {path: "${A_PATH}", method: GET}}
            steps: [{transform: {jinja: a.json.j2, content_type: application/json}}]
    """
    monkeypatch.setenv("A_PATH", "/a")
    template = tmp_path / "transforms" / "a.json.j2"
    async with live(tmp_path, text) as bus:
        bus.write("routes/all.yaml", HEAD + "routes: {b: {from: {http: /b}}}")
        await bus.told("POST", "/reload")
        template.write_text('"mine"')
        if not leads_somewhere:
            monkeypatch.delenv("A_PATH")
        status, told = await bus.ask("POST", "/versions/1/roll-back")
        assert told["rolled_back"] is leads_somewhere
        if leads_somewhere:
            assert await bus.get("/a") == (200, '"one"')
            assert await bus.told("GET", "/versions/3/files/transforms/a.json.j2") == '"mine"'
        else:
            assert status == 422
            assert template.read_text() == '"mine"'


def _read_only(self: Path, target: Path) -> Path:
    raise OSError(30, "Read-only file system")


async def test_secrets_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cr3t")
    text = """
        connections:
          crm: {http: {url: "http://127.0.0.1:1/", auth: {bearer: "${file:../password}"}}}
        routes: {a: {from: {queue: a}, steps: [{send: {http: {connection: crm}}}]}}
    """
    async with live(tmp_path, text) as bus:
        (tmp_path / "password").write_text("s3cr3t too")
        assert (await bus.told("POST", "/reload"))["changed"] == ["a"]
        assert list((await bus.told("GET", "/versions/1"))["files"]) == ["routes/all.yaml"]
        kept = [p for p in (tmp_path / "data" / "versions").rglob("*") if p.is_file()]
        assert kept
        assert not any(b"s3cr3t" in p.read_bytes() for p in kept)
        assert not any(p.stat().st_mode & 0o077 for p in kept)


async def test_the_past_of_a_bus_that_was_given_the_folder_it_runs_in(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(HEAD + "routes: {r: {from: {queue: q}, steps: []}}\n")
    service = Service([tmp_path], root=tmp_path)
    service.stopping.set()
    await service.run((), ())
    [past] = (tmp_path / "data" / "versions").iterdir()
    assert past.name.isalnum(), "it can be given to any command as it is"


async def test_the_oldest_versions_go_first(tmp_path: Path) -> None:
    async with live(tmp_path, "versions: {keep: 2}" + ROUTES.replace("\n    ", "\n")) as bus:
        for number in range(3):
            bus.write("transforms/a.json.j2", f'"{number}"')
            await bus.told("POST", "/reload")
        assert [v["version"] for v in await bus.told("GET", "/versions")] == [4, 3]
        files = (tmp_path / "data" / "versions").glob("routes-*/files/*")
        assert len(list(files)) == 3  # one of all.yaml, two of the template
        # Going back to the oldest must not forget it before it is read.
        await bus.told("POST", "/versions/3/roll-back")
        assert await bus.get("/a") == (200, '"1"')


async def test_what_runs_from_the_same_folder_has_versions_of_its_own(tmp_path: Path) -> None:
    async with live(tmp_path) as bus:
        (tmp_path / "other.yaml").write_text("routes: {o: {from: {queue: o}, steps: [log: o]}}")
        other = Service([tmp_path / "other.yaml"], root=tmp_path)
        assert other.versions.all() == []
        other.versions.add({tmp_path / "other.yaml": b""}, "start")
        assert [v["version"] for v in await bus.told("GET", "/versions")] == [1]
        assert list((await bus.told("GET", "/versions/1"))["files"]) == [
            "routes/all.yaml", "transforms/a.json.j2"
        ]  # fmt: skip


async def test_a_project_may_keep_none(tmp_path: Path) -> None:
    async with live(tmp_path, "versions: {keep: 0}" + ROUTES.replace("\n    ", "\n")) as bus:
        assert (await bus.told("POST", "/reload"))["version"] is None
        status, told = await bus.ask("GET", "/versions")
        assert (status, "no versions are kept" in told["detail"]) == (409, True)
        assert not (tmp_path / "data").exists()


async def test_a_route_that_is_stopped_stays_so_over_reload_and_restart(tmp_path: Path) -> None:
    async with live(tmp_path) as bus:
        told = await bus.told("POST", "/routes/a/stop")
        assert (told["name"], told["state"], told["up"]) == ("a", "stopped", False)
        bus.write("transforms/a.json.j2", '"two"')
        assert (await bus.told("POST", "/reload"))["changed"] == ["a"]
        assert (await bus.get("/a"))[0] == 503
    async with live(tmp_path) as bus:
        assert (await bus.get("/a"))[0] == 503
        assert (await bus.told("GET", "/readyz"))["stopped"] == ["a"]
        assert [r["state"] for r in await bus.told("GET", "/routes")] == ["stopped", "running"]
        assert (await bus.told("POST", "/routes/a/start"))["state"] == "running"
        assert await bus.get("/a") == (200, '"two"')
        assert (await bus.told("POST", "/routes/a/restart"))["state"] == "running"
        assert await bus.ask("POST", "/routes/aa/stop") == (
            404, {"detail": "there is no route 'aa'; did you mean 'a'?"}
        )  # fmt: skip
    async with live(tmp_path) as bus:
        assert (await bus.get("/a"))[0] == 200


async def test_a_route_that_is_removed_is_stopped_no_longer(tmp_path: Path) -> None:
    async with live(tmp_path) as bus:
        await bus.told("POST", "/routes/a/stop")
        text = (tmp_path / "routes" / "all.yaml").read_text()
        bus.write("routes/all.yaml", text.replace("  a: {", "  aa: {"))
        assert (await bus.told("POST", "/reload"))["removed"] == ["a"]
    (tmp_path / "routes" / "all.yaml").write_text(text)
    async with live(tmp_path) as bus:
        assert (await bus.get("/a"))[0] == 200


async def test_a_change_of_python_code_is_one_of_the_routes_that_call_it(tmp_path: Path) -> None:
    text = """
        routes:
          a: {from: {http: {path: /a, method: GET}}, steps: [{python: "answers:answer"}]}
          b: {from: {http: {path: /b, method: GET}}}
    """
    code = tmp_path / "python"
    code.mkdir()
    (code / "answers.py").write_text(
        "from . import words\n\ndef answer(envelope):\n    return {'says': words.WORD}\n"
    )
    (code / "words.py").write_text("WORD = 'one'\n")
    async with live(tmp_path, text) as bus:
        assert await bus.get("/a") == (200, '{"says":"one"}')
        (code / "words.py").write_text("WORD = 'another'\n")
        assert (await bus.told("POST", "/reload"))["changed"] == ["a"]
        assert await bus.get("/a") == (200, '{"says":"another"}')
        assert "python/words.py" in (await bus.told("GET", "/versions/2"))["files"]


async def test_a_sub_route_cannot_be_stopped(tmp_path: Path) -> None:
    text = "routes: {a: {from: {queue: a}, steps: [{run: s}]}, s: {steps: [{log: hello}]}}"
    async with live(tmp_path, text) as bus:
        status, told = await bus.ask("POST", "/routes/s/stop")
        assert (status, "has no messages of its own" in told["detail"]) == (409, True)


async def test_a_watched_bus_sees_files_wherever_its_routes_use_them(tmp_path: Path) -> None:
    text = """
        routes:
          a:
            from: {http: {path: /a, schema: ../schemas/a.json}}
            steps: [{transform: {jinja: a.json.j2}}]
          b: {from: {http: {path: /b, method: GET}}}
    """
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    (schemas / "a.json").write_text("{}")

    async def version(number: int) -> bool:
        return bool(bus.service.version and bus.service.version.number == number)

    async with live(tmp_path, text, watch=True) as bus:
        await until(lambda: bus.service.watching)
        (schemas / "a.json").write_text('{"type": "object"}')
        await until(lambda: version(2))
        bus.write("transforms/a.json.j2", '"two"')
        await until(lambda: version(3))
        # A folder that is new, with a file that uses a file of another that is new.
        (tmp_path / "routes" / "more").mkdir()
        await until(lambda: tmp_path / "routes" / "more" in bus.service.watching)
        bus.write("routes/more/c.yaml", "routes: {c: {from: {http: {path: /c, schema: c.json}}}}")
        await until(lambda: bus.service.bus.faults)
        # What is missing comes: that mends it.
        bus.write("routes/more/c.json", "{}")
        await until(lambda: version(4))
        (tmp_path / "routes" / "more" / "c.yaml").unlink()
        await until(lambda: "c" not in bus.service.bus.routes)
