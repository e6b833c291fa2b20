"""A bus for tests of projects: it runs as long as its block, wherever that ends."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from support.processes import request

from esb.errors import ConfigError, EsbError
from esb.testing import running

HELLO = {
    "from": {"http": {"path": "/hello/:name", "method": "GET"}},
    "steps": [{"set": {"body": "{'hello': path.name}"}}],
}


def test_routes_run_until_the_block_ends(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("routes: {more: {from: {http: {path: '/${WHERE}'}}, steps: []}}")
    with running(
        {"routes": {"hello": HELLO}}, [more], root=tmp_path, environ={"WHERE": "more"}
    ) as bus:
        assert request("GET", f"{bus.url}/hello/you").json["hello"] == "you"
        assert request("POST", f"{bus.url}/more", {"a": 1}).json == {"a": 1}
        assert set(bus.bus.routes) == {"hello", "more"}
    with pytest.raises(OSError):
        request("GET", f"{bus.url}/hello/you")
    assert "esb" not in {thread.name for thread in threading.enumerate()}


def test_a_failing_test_stops_it_too() -> None:
    with pytest.raises(ZeroDivisionError), running({"routes": {"hello": HELLO}}) as bus:
        _ = 1 / 0
    with pytest.raises(OSError):
        request("GET", f"{bus.url}/hello/you")


def test_what_is_wrong_with_the_routes_is_raised() -> None:
    with (
        pytest.raises(ConfigError, match="there is no adapter 'htp'"),
        running({"routes": {"hello": {**HELLO, "from": {"htp": {"path": "/"}}}}}),
    ):
        pass


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        document = {"routes": {"hello": HELLO}, "listen": {"port": taken.getsockname()[1]}}
        with pytest.raises(EsbError, match="cannot listen"), running(document):
            pass
    assert "esb" not in {thread.name for thread in threading.enumerate()}
