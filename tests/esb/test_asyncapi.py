"""What routes read and feed, as AsyncAPI 3.0: held to the schema of the specification."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from servers import TOOLS
from support.bus import load_text, running
from support.examples import PROJECT
from support.web import ask
from typer.testing import CliRunner

from esb.api import AdminServer
from esb.asyncapi import document, page
from esb.cli import app
from esb.config import load

SPECS = "@asyncapi/specs@6.11.1"
EXAMPLES = sorted(path.parent for path in (PROJECT / "examples").glob("*/routes.yaml"))
TEXT = """
routes:
  taken:
    description: Orders of the shop
    from: {http: {path: /orders, method: POST}}
    steps:
      - send: {queue: orders}
      - send: {amqp: {url: "amqp://me:s3cr3t-word@mq.example/", exchange: shop, routing_key: new}}
  delivered:
    from: {queue: orders}
    steps:
      - validate: {json_schema: {type: object, required: [number]}}
      - send: {topic: "t<b>"}
    dead_letter: {queue: by-hand}
  heard:
    from: {amqp: {url: "amqp://mq.example/", queue: orders}}
    steps: [{send: {file: {folder: out, name: "{{ message.id }}.json"}}}]
"""


@pytest.fixture(scope="module")
def schema() -> Any:
    """The schema of AsyncAPI 3.0.0, as its makers publish it; fetched once."""
    folder = TOOLS / "asyncapi"
    kept = folder / "3.0.0.json"
    if not kept.exists():
        if shutil.which("npm") is None:
            pytest.skip("the schema of AsyncAPI comes by npm, which is not here")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "pack", SPECS, "--silent"], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"npm gives no {SPECS}: {done.stderr[-200:]}")
        with tarfile.open(folder / done.stdout.strip()) as archive:
            found = archive.extractfile("package/schemas/3.0.0-without-$id.json")
            assert found is not None
            new = folder / "new.json"
            new.write_bytes(found.read())
            new.rename(kept)
    return json.loads(kept.read_text())


def described(folder: Path) -> dict[str, Any]:
    project = load_text(TEXT.replace("t<b>", "told"), folder).check()
    return document(project.routes)


def test_it_is_what_the_specification_says(tmp_path: Path, schema: Any) -> None:
    jsonschema.validate(described(tmp_path), schema)


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_that_of_every_example_is(folder: Path, schema: Any) -> None:
    project = load([folder], environ=None, root=PROJECT)
    jsonschema.validate(document(project.routes), schema)


def test_who_reads_and_who_feeds_what(tmp_path: Path) -> None:
    made = described(tmp_path)
    titles = {key: one["title"] for key, one in made["channels"].items()}
    found = {
        (one["x-esb-route"], one["action"], titles[one["channel"]["$ref"].rpartition("/")[2]])
        for one in made["operations"].values()
    }
    assert found == {
        ("taken", "send", "queue orders"),
        ("taken", "send", "amqp exchange shop"),
        ("delivered", "receive", "queue orders"),
        ("delivered", "send", "topic told"),
        ("delivered", "send", "queue by-hand"),
        ("heard", "receive", "amqp queue orders"),
        ("heard", "send", "folder out"),
    }
    orders = next(one for one in made["channels"].values() if one["title"] == "queue orders")
    assert orders["address"] == "orders"
    [message] = orders["messages"].values()
    assert message["payload"]["schema"] == {"type": "object", "required": ["number"]}
    assert "s3cr3t" not in json.dumps(made)


def test_where_messages_decide_there_is_no_address(tmp_path: Path) -> None:
    text = """
    routes:
      r:
        from: {http: {path: /}}
        steps: [{send: {queue: "{{ path.kind }}"}}]
    """
    project = load_text(text.replace("path: /", 'path: "/:kind"'), tmp_path).check()
    [channel] = document(project.routes)["channels"].values()
    assert channel["address"] is None
    assert "{{ path.kind }}" in channel["description"]


def test_people_see_it_without_a_script(tmp_path: Path) -> None:
    made = described(tmp_path)
    for channel in made["channels"].values():
        channel["title"] += "<script>"
    shown = page(made)
    assert "queue orders&lt;script&gt;" in shown
    assert "<script" not in shown
    assert "http:" not in shown
    assert "taken" in shown


async def test_the_admin_api_serves_both(tmp_path: Path) -> None:
    async with running(TEXT.replace("t<b>", "told"), tmp_path) as bus:
        server = AdminServer(bus, None, "127.0.0.1", 0)
        await server.open()
        at = f"http://127.0.0.1:{server.port}"
        head = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        status, _, body = await ask(at, head.format("/asyncapi.json").encode())
        assert (status, json.loads(body)["asyncapi"]) == (200, "3.0.0")
        status, headers, body = await ask(at, head.format("/asyncapi").encode())
        assert (status, b"amqp exchange shop" in body) == (200, True)
        assert "script-src" not in headers.get("content-security-policy")
        await server.close()


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "routes: {r: {from: {queue: in}, steps: [{send: {queue: out}}]}}"
    )
    done = CliRunner().invoke(app, ["docs", "--asyncapi", "-p", "r.yaml", "-o", "api"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("2 channels")
    made = json.loads((tmp_path / "api/asyncapi.json").read_text())
    assert {one["address"] for one in made["channels"].values()} == {"in", "out"}
