"""What a bus does not load: start-up and memory are for what its routes need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOADED = """
import json, os, signal, sys, threading, time, urllib.request
from pathlib import Path
from esb.cli import serve

def look():
    while True:
        try:
            urllib.request.urlopen(sys.argv[2] + "/readyz").read()
            break
        except OSError:
            time.sleep(0.02)
    print(json.dumps(sorted(sys.modules)))
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=look).start()
serve([Path(sys.argv[1])], log_level="error")
"""

NEVER = {
    "FastAPI, which the pages and the admin API are made with": ("fastapi", "starlette"),
    "other servers and clients": ("uvicorn", "aiohttp", "httpx", "requests"),
    "adapters that no route names, and their libraries": (
        "esb_soap", "esb_amqp", "esb_file", "esb_schedule", "zeep", "aio_pika", "aiormq",
    ),
    "the other store": ("asyncpg",),
    "what commands are for": (
        "rich", "esb.commands.test", "esb.testing", "esb.graph", "esb.explain", "esb.catalogue",
        "esb.reference",
    ),
    "what watches files": ("watchfiles",),
    "what nobody asked for yet": ("prometheus_client", "esb.admin", "esb.story"),
    "several processes": ("esb.workers", "esb.store.remote", "esb.link"),
    "forms": ("python_multipart",),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of a bus of ten HTTP routes that has begun to serve."""
    from support.processes import lasting_ports

    folder = tmp_path_factory.mktemp("imports")
    port, admin = lasting_ports(2)
    routes = "".join(
        f"  r{number}:\n    from: {{http: {{path: /r{number}}}}}\n"
        "    steps: [{set: {headers: {x-a: \"'1'\"}}}, {call: {http: {url: 'http://far.example/'}}}]\n"
        for number in range(10)
    )
    file = folder / "routes.yaml"
    file.write_text(f"listen: {{port: {port}}}\nadmin: {{port: {admin}}}\nroutes:\n{routes}")
    command = [sys.executable, "-c", LOADED, str(file), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, cwd=folder, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("what", NEVER)
def test_a_bus_of_http_routes_does_not_load(loaded: set[str], what: str) -> None:
    assert "esb.service" in loaded
    assert not loaded & set(NEVER[what])
