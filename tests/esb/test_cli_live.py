"""The commands for a bus that runs, as their users call them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import free_ports

ESB = str(Path(sys.executable).with_name("esb"))
ROUTES = """\
routes:
  orders: {from: {http: {path: /orders, method: GET}}, steps: [{set: {body: "'one'"}}]}
  work: {from: {queue: work}}
profiles:
  quiet: {routes: {more: {from: {queue: more}}}}
"""


def esb(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ESB, *args], cwd=cwd, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def bus(folder: Path, *args: str) -> Iterator[Path]:
    """A bus in `folder`; yields its file of routes."""
    port, admin = free_ports(2)
    (folder / "routes").mkdir(parents=True)
    (folder / "routes" / "bus.yaml").write_text(
        f"listen: {{port: {port}}}\nadmin: {{port: {admin}}}\n"
    )
    file = folder / "routes" / "all.yaml"
    file.write_text(ROUTES)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ESB, "run", *args], cwd=folder, stderr=log)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                url = f"http://127.0.0.1:{admin}/configuration"
                if json.loads(urllib.request.urlopen(url).read())["version"]:
                    break
            time.sleep(0.05)
        yield file
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_routes_and_versions_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with bus(folder) as file:
        listed = esb("routes", "list", cwd=folder).stdout.splitlines()
        assert [line.split()[:2] for line in listed[1:]] == [
            ["orders", "running"], ["work", "running"]
        ]  # fmt: skip
        assert esb("routes", "stop", "orders", cwd=folder).stdout == "orders: stopped\n"
        wrong = esb("routes", "stop", "order", cwd=folder)
        assert (wrong.returncode, wrong.stderr) == (
            1, "there is no route 'order'; did you mean 'orders'?\n"
        )  # fmt: skip
        file.write_text(ROUTES.replace("'one'", "'two'"))
        assert esb("reload", cwd=folder).stdout == "version 2: ~orders\n"
        assert esb("routes", "restart", "orders", cwd=folder).stdout == "orders: running\n"
        changed = esb("versions", "diff", "1", cwd=folder).stdout
        assert "-  orders" in changed
        assert "+  orders" in changed
        assert (
            esb("versions", "show", "1", cwd=folder).stdout == "routes/all.yaml\nroutes/bus.yaml\n"
        )
        assert esb("versions", "show", "1", "routes/all.yaml", cwd=folder).stdout == ROUTES
        file.write_text("routes: {a: {form: {queue: a}, from: {queue: b}}}\n")
        broken = esb("reload", cwd=folder)
        assert broken.returncode == 1
        assert "routes/all.yaml:1:14: unknown key 'form'" in broken.stderr
        assert esb("versions", "roll-back", "1", cwd=folder).stdout == "version 4: ~orders\n"
        assert file.read_text() == ROUTES
        listed = esb("versions", "list", cwd=folder).stdout.splitlines()
        assert [line.split()[0] for line in listed[1:]] == ["4", "3", "2", "1"]
        # Another project does not meddle with it because its file says the same port.
        other = tmp_path / "other"
        other.mkdir()
        (other / "routes").symlink_to(folder / "routes")
        refused = esb("routes", "stop", "work", cwd=other)
        assert (refused.returncode, "runs the project in" in refused.stderr) == (1, True)
    away = esb("routes", "list", cwd=folder)
    assert (away.returncode, "no bus answers at" in away.stderr) == (1, True)


def test_a_profile_from_the_command_line(tmp_path: Path) -> None:
    with bus(tmp_path, "--profile", "quiet") as file:
        listed = json.loads(esb("routes", "list", "--json", cwd=tmp_path).stdout)
        assert [one["name"] for one in listed] == ["orders", "work", "more"]
        file.write_text(ROUTES.replace("queue: more", "queue: others"))
        assert "~more" in esb("reload", cwd=tmp_path).stdout
    assert "3 routes" in esb("check", "--profile", "quiet", cwd=tmp_path).stdout
    wrong = esb("check", "--profile", "quite", cwd=tmp_path)
    assert "there is no profile 'quite'  (did you mean 'quiet'?)" in wrong.stderr


@pytest.mark.parametrize("command", [("routes", "list"), ("versions", "list"), ("reload",)])
def test_without_a_bus_it_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [ESB, *command, "--url", "http://127.0.0.1:1"], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ,
    )  # fmt: skip
    assert (done.returncode, "no bus answers at http://127.0.0.1:1" in done.stderr) == (1, True)


def test_a_command_for_a_running_bus_says_how_to_name_it(tmp_path: Path) -> None:
    done = esb("reload", cwd=tmp_path)
    assert done.returncode == 2
    assert "--project" in done.stderr
    assert "--url" in done.stderr
