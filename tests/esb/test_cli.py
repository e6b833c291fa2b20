"""The command line as its users call it: in a process of its own, with real signals and ports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ESB = str(Path(sys.executable).with_name("esb"))


def esb(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [ESB, *args], cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method, data=body)
    if body is not None:
        request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


class Running:
    """A bus in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.admin = f"http://127.0.0.1:{admin}"
        self.log = log

    def wait(self, condition: Any, what: str) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if condition():
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not in time: {what}\n{self.log.read_text()}")

    def admin_json(self, path: str, method: str = "GET") -> Any:
        status, body = get(self.admin + path, method)
        assert status < 300, body
        return json.loads(body) if body else None


@contextlib.contextmanager
def bus(folder: Path, routes: str, *args: str) -> Iterator[Running]:
    """`esb run` in `folder`, until the block ends; it then must stop in order."""
    port, admin = free_port(), free_port()
    head = f"listen: {{port: {port}}}\nadmin: {{port: {admin}}}\n"
    (folder / "routes").mkdir(exist_ok=True)
    (folder / "routes" / "bus.yaml").write_text(head + routes)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([ESB, "run", *args], cwd=folder, stderr=output)
    running = Running(process, port, admin, log)
    try:
        running.wait(lambda: get(running.admin + "/readyz")[0] == 200, "ready")
        yield running
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


ROUTES = """
routes:
  hello:
    from: {http: {path: /hello/:name, method: GET}}
    steps: [{set: {body: {hello: path.name}}}]
  in:
    from: {http: {path: /in}}
    steps: [{send: {queue: work}}]
  work:
    from: {queue: work}
    steps: [{filter: body.nothing == 1}]
"""


def test_run_serves_tells_and_stops(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        assert get(running.url + "/hello/world") == (200, b'{"hello":"world"}')
        assert get(running.url + "/healthz")[0] == 200
        status, metrics = get(running.admin + "/metrics")
        assert status == 200
        assert re.search(rb'esb_messages_total\{outcome="message",route="hello"\} 1\.0', metrics)
    log = running.log.read_text()
    assert "the bus is up" in log
    assert "stopped" in log


def test_the_admin_api_shows_and_handles_dead_letters(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        assert [r["name"] for r in running.admin_json("/routes")] == ["hello", "in", "work"]
        for n in range(2):
            assert get(running.url + "/in", "POST", b'{"n": %d}' % n)[0] == 202
        running.wait(lambda: len(running.admin_json("/dead")) == 2, "two dead letters")
        first, second = running.admin_json("/dead")
        assert (first["route"], first["code"]) == ("work", "route-failure")
        one = running.admin_json(f"/dead/{first['key']}")
        assert one["body"] == '{"n": 0}'
        assert running.admin_json(f"/dead/{first['key']}/replay", "POST")["route"] == "work"
        assert get(running.admin + f"/dead/{second['key']}", "DELETE")[0] == 204
        assert get(running.admin + f"/dead/{second['key']}", "DELETE")[0] == 404
        assert get(running.admin + f"/dead/{2**70}")[0] == 422
        assert get(running.admin + f"/dead?after={2**70}")[0] == 422
        ids = lambda: [d["id"] for d in running.admin_json("/dead")]  # noqa: E731
        running.wait(lambda: ids() == [first["id"]], "the replayed one dead again")


def test_the_admin_api_refuses_names_and_origins_that_are_not_its_own(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            request = urllib.request.Request(running.admin + "/routes", headers=header)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            assert caught.value.code == 403


def test_watch_reloads_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES, "--watch") as running:
        file = tmp_path / "routes" / "more.yaml"
        running.wait(lambda: "watching" in running.log.read_text(), "watching")
        file.write_text(
            "routes:\n  more:\n    from: {http: {path: /more, method: GET}}\n"
            "    steps: [{set: {body: \"'one'\"}}]\n"
        )
        running.wait(lambda: get(running.url + "/more")[0] == 200, "the new route")
        file.write_text("routes:\n  more:\n    form: {http: {path: /more}}\n")
        running.wait(lambda: "more.yaml:3:5" in running.log.read_text(), "the mistake told")
        assert get(running.url + "/more")[0] == 200
        file.unlink()
        running.wait(lambda: get(running.url + "/more")[0] == 404, "the route gone")
        told = running.admin_json("/reload", "POST")
        assert told == {
            "reloaded": True, "added": [], "changed": [], "removed": [], "version": told["version"]
        }  # fmt: skip


def test_the_admin_api_tells_what_it_has(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        told = running.admin_json("/")
        assert {"GET /metrics", "POST /reload", "GET /dead", "POST /dead/{key}/replay"} <= set(told)
        for path in (one.removeprefix("GET ") for one in told if one.startswith("GET ")):
            if "{" not in path:
                assert get(running.admin + path)[0] in (200, 404, 422), path
        assert all(told.values())


def test_what_a_running_bus_cannot_change_is_not_reloaded(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        file = tmp_path / "routes" / "bus.yaml"
        before = file.read_text()
        file.write_text(before.replace("listen: {", "listen: {base_path: /x, "))
        status, told = get(running.admin + "/reload", "POST")
        assert status == 422
        assert json.loads(told)["problems"] == ["'listen' changed: that takes a restart"]
        assert get(running.url + "/hello/you")[0] == 200
        file.write_text(before.replace("/hello/", "/hi/"))
        assert running.admin_json("/reload", "POST")["changed"] == ["hello"]
        assert get(running.url + "/hi/you")[0] == 200


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "a.yaml").write_text(
            f"listen: {{port: {port}}}\nadmin: {{enabled: false}}\n"
            "routes: {a: {from: {http: {path: /a}}}}\n"
        )
        done = esb("run", "a.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_with_mistakes_lists_them_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routes:\n  a:\n    from: {quue: q}\n")
    done = esb("run", "a.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "a.yaml:3:12: there is no adapter 'quue'  (did you mean 'queue'?)" in done.stderr


def test_help_names_each_command() -> None:
    from typer.testing import CliRunner

    from esb.cli import COMMANDS, app

    told = CliRunner().invoke(app, ["--help"]).stdout
    assert [name for name in COMMANDS if not re.search(rf"^\W*{name}  ", told, re.MULTILINE)] == []


def test_check_says_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routes: {a: {from: {queue: q}}}\n")
    done = esb("check", "a.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 route in 1 file: no mistakes\n")
    assert not (tmp_path / "data").exists()


def test_check_without_the_secrets(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routes: {a: {from: {queue: '${QUEUE}'}}}\n")
    assert "QUEUE is not set" in esb("check", "a.yaml", cwd=tmp_path).stderr
    assert esb("check", "a.yaml", cwd=tmp_path, QUEUE="q").returncode == 0


def test_init_makes_a_project_that_checks(tmp_path: Path) -> None:
    assert esb("init", "p", cwd=tmp_path).returncode == 0
    assert esb("check", cwd=tmp_path / "p").returncode == 0
    tested = esb("test", "--min-coverage", "100", cwd=tmp_path / "p")
    assert (tested.returncode, tested.stdout[:21]) == (0, "1 test, none failed; ")
    again = esb("init", "p", cwd=tmp_path)
    assert again.returncode == 1
    assert "exists already" in again.stderr


@pytest.mark.parametrize("args", [("init", "file"), ("schema", "-o", "file/x")])
def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    done = esb(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"file/\w+: Not a directory\n", done.stderr)


def test_send_puts_a_message_into_a_queue(tmp_path: Path) -> None:
    done = esb("send", "{queue: work}", '{"n": 1}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with bus(tmp_path, ROUTES) as running:
        running.wait(lambda: len(running.admin_json("/dead")) == 1, "the message")
        (dead,) = running.admin_json("/dead")
        assert running.admin_json(f"/dead/{dead['key']}")["body"] == '{"n": 1}'


def test_send_tells_what_is_wrong_with_the_endpoint(tmp_path: Path) -> None:
    done = esb("send", "{quue: work}", "{}", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'queue'?" in done.stderr


def test_send_knows_the_connections_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "all.yaml").write_text(
        "connections: {crm: {http: {url: 'http://127.0.0.1:1/'}}}\n"
    )
    done = esb("send", "{http: {connection: crm, path: /orders}}", "{}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    told = done.stderr.splitlines()
    assert told[0] == "not sent (unreachable): the service cannot be reached"
    assert re.fullmatch(r"  POST http://127\.0\.0\.1:1/orders: .*refused.*", told[1])
    soap = "{soap: {wsdl: calculator.wsdl, operation: Add}}"
    (tmp_path / "calculator.wsdl").write_bytes(WSDL.read_bytes())
    done = esb("send", soap, '{"a": "x"}', cwd=tmp_path)
    assert [line.partition(":")[0] for line in done.stderr.splitlines()[1:]] == ["  /a", "  /b"]
    wrong = esb("send", "{http: {connection: [}}", "{}", cwd=tmp_path)
    assert wrong.stderr.splitlines()[1:] == ["1 mistake"]


def test_call_prints_the_reply(tmp_path: Path) -> None:
    with bus(tmp_path, ROUTES) as running:
        endpoint = f"{{http: {{url: '{running.url}/hello/you', method: GET}}}}"
        done = esb("send", "--call", endpoint, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, '{"hello":"you"}')
        nowhere = f"{{http: {{url: '{running.url}/in', method: PUT}}}}"
        failed = esb("send", nowhere, "{}", cwd=tmp_path)
        assert failed.returncode == 1
        assert "not sent (rejected)" in failed.stderr


def test_the_version_is_told(tmp_path: Path) -> None:
    from esb import __version__

    assert esb("--version", cwd=tmp_path).stdout.strip() == __version__


WSDL = Path(__file__).parent.parent / "support" / "calculator.wsdl"


def test_what_a_start_does_not_need_is_not_loaded(tmp_path: Path) -> None:
    """Importing is most of the time that a start takes."""
    program = (
        "import sys, esb.cli\n"
        "esb.cli.logs.configure(json=False)\n"
        "print(*sorted({'rich', 'pygments', 'aiohttp', 'fastapi', 'zeep'} & set(sys.modules)))\n"
        "import rich.console  # but what makes the help finds it"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)


def test_expose_serves_a_wsdl_with_no_file_written(tmp_path: Path) -> None:
    wsdl = tmp_path / "calculator.wsdl"
    wsdl.write_bytes(WSDL.read_bytes())
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ESB, "expose", str(wsdl), "--at", "/calc", "--port", str(port)],
            cwd=tmp_path,
            stderr=output,
        )
    running = Running(process, port, 0, log)
    try:
        running.wait(lambda: get(running.url + "/healthz")[0] == 200, "ready")
        status, body = get(running.url + "/calc/openapi.json")
        assert status == 200
        assert "/calc/Add" in json.loads(body)["paths"]
        assert get(running.url + "/calc/docs")[0] == 200
        status, body = get(running.url + "/calc/Add", "POST", b'{"a": "x"}')
        assert status == 400
        assert {e["pointer"] for e in json.loads(body)["errors"]} == {"/a", "/b"}
        assert get(running.url + "/calc/Add", "POST", b'{"a": 1, "b": 2}')[0] == 503
        assert sorted(p.name for p in tmp_path.iterdir()) == ["calculator.wsdl", "log"]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_expose_prints_yaml_that_loads(tmp_path: Path) -> None:
    (tmp_path / "calculator.wsdl").write_bytes(WSDL.read_bytes())
    printed = esb("expose", "calculator.wsdl", "--print", cwd=tmp_path)
    (tmp_path / "routes.yaml").write_text(printed.stdout)
    assert esb("check", "routes.yaml", cwd=tmp_path).returncode == 0


def test_expose_says_why_a_wsdl_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "page.wsdl").write_text("<html><body>404</body></html>")
    done = esb("expose", "page.wsdl", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "page.wsdl" in done.stderr
