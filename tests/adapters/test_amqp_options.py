"""What is wrong under `amqp:` is found at load, at its line, and shows no secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.bus import load_text

from esb_amqp.options import CallerOptions, SinkOptions, SourceOptions, parse_url
from esb_amqp.wire import Address

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://localhost", Address("localhost", 5672)),
        ("amqp://localhost/", Address("localhost", 5672)),
        ("amqps://rabbit.example", Address("rabbit.example", 5671, tls=True)),
        ("amqp://u:p@h:1/v", Address("h", 1, "v", "u", "p")),
        ("amqp://u%40x:p%3A%2F@h/%2Fv%2F", Address("h", 5672, "/v/", "u@x", "p:/")),
        ("amqp://u@h/%2F", Address("h", 5672, "/", "u", "guest")),
        ("amqp://[::1]:99", Address("::1", 99)),
    ],
)
def test_urls_are_understood(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "http://localhost",
        "amqp://",
        f"amqp://u:{SECRET}@h:port/",
        f"amqp://u:{SECRET}@h/?heartbeat=3",
        f"amqp://u:{SECRET}@[::1",
        f"u:{SECRET}@h",
    ],
)
def test_what_is_no_url_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SourceOptions(url=url, queue="q")  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_an_address_shows_no_credentials() -> None:
    address = parse_url(f"amqp://user:{SECRET}@h/v")
    assert str(address) == "amqp://h:5672/v"
    assert SECRET not in repr(address)
    assert "user" not in repr(address)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (SourceOptions, {}, "queue"),
        (SourceOptions, {"queue": ""}, "at least 1 character"),
        (SourceOptions, {"queue": "q" * 256}, "at most 255 bytes"),
        (SourceOptions, {"queue": "a=b"}, "'=' cannot be in an AMQP name"),
        (SourceOptions, {"queue": "kůň"}, "'ů' cannot be"),
        (SinkOptions, {"queue": "a=b", "declare": {}}, "'=' cannot be in an AMQP name"),
        (SinkOptions, {"exchange": "e" * 128}, "at most 127 characters"),
        (
            SourceOptions,
            {"queue": "q", "declare": {"bind": [{"exchange": "a*"}]}},
            "'\\*' cannot be in an AMQP name",
        ),
        (SourceOptions, {"queue": "q", "prefetch": 0}, "greater than or equal to 1"),
        (SourceOptions, {"queue": "q", "prefetsch": 1}, "prefetsch"),
        (SourceOptions, {"queue": "q", "heartbeat": 30}, "a number with its unit"),
        (SourceOptions, {"queue": "q", "reject": "drop"}, "'dead' or 'requeue'"),
        (SourceOptions, {"queue": "q", "tls": {"cert": "a.pem"}}, "cert and key belong together"),
        (SourceOptions, {"queue": "q", "tls": {}}, "tls needs an amqps:// URL"),
        (SourceOptions, {"queue": "q", "declare": {"durable": False}}, "must be exclusive"),
        (
            SourceOptions,
            {"queue": "q", "declare": {"type": "quorum", "exclusive": True}},
            "neither exclusive nor",
        ),
        (SourceOptions, {"queue": "q", "declare": {"type": "topic"}}, "'quorum' or 'stream'"),
        (SourceOptions, {"url": [], "queue": "q"}, "at least one URL"),
        (SourceOptions, {"url": ["amqp://a", "http://b"], "queue": "q"}, "URL 2: an AMQP URL"),
        (SourceOptions, {"url": ["amqps://a", "amqp://b"], "queue": "q", "tls": {}}, "tls needs"),
        (SourceOptions, {"queue": "q", "declare": {"max_age": "1d"}}, "max_age needs type: stream"),
        (
            SourceOptions,
            {"queue": "q", "declare": {"type": "stream", "message_ttl": "1d"}},
            "message_ttl needs type: classic or quorum",
        ),
        (
            SourceOptions,
            {"queue": "q", "declare": {"type": "quorum", "max_priority": 3}},
            "max_priority needs type: classic",
        ),
        (
            SourceOptions,
            {"queue": "q", "declare": {"max_length": 1, "arguments": {"x-max-length": 2}}},
            "the same: give one",
        ),
        (
            SourceOptions,
            {"queue": "q", "declare": {"type": "stream", "dead_letter": {"exchange": "d"}}},
            "a stream has no dead letters",
        ),
        (
            SourceOptions,
            {"queue": "q", "declare": {"dead_letter": {"strategy": "at-least-once"}}},
            "need type: quorum and overflow: reject-publish",
        ),
        (SinkOptions, {}, "either an exchange"),
        (SinkOptions, {"exchange": "e", "queue": "q"}, "either an exchange"),
        (SinkOptions, {"queue": "q", "routing_key": "k"}, "needs no routing_key"),
        (SinkOptions, {"queue": "q", "declare": {"type": "topic"}}, "wrong type"),
        (SinkOptions, {"exchange": "e", "declare": {"type": "quorum"}}, "wrong type"),
        (SinkOptions, {"queue": "{{ a }}", "declare": {}}, "cannot be declared"),
        (SinkOptions, {"queue": "q", "priority": 256}, "less than or equal to 255"),
        (CallerOptions, {"queue": "q", "mandatory": False}, "mandatory"),
    ],
)
def test_mistakes_are_told(model: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        model(**options)


ROUTES = """
connections:
  rabbit: {amqp: {url: "amqp://user:s3cr3t@broker/v", heartbeat: 10s}}
routes:
  in:
    from: {amqp: {connection: rabbit, queue: orders, declare: {type: quorum}}}
    steps:
      - call: {amqp: {connection: rabbit, queue: rpc, timeout: 1s}}
      - send: {amqp: {connection: rabbit, exchange: e, routing_key: "{{ body.kind }}"}}
    dead_letter: {amqp: {connection: rabbit, queue: dead}}
"""


def test_a_route_with_all_roles_loads(tmp_path: Path) -> None:
    project = load_text(ROUTES, tmp_path)
    assert project.diagnostics == []


PAGE = (Path(__file__).parents[2] / "docs" / "amqp.md").read_text()


@pytest.mark.parametrize("routes", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_routes_of_the_page_load(tmp_path: Path, routes: str) -> None:
    assert load_text(routes, tmp_path).diagnostics == []


@pytest.mark.parametrize(
    ("right", "wrong", "line", "told"),
    [
        ("queue: orders", "queu: orders", 6, "queu"),
        ("type: quorum", "type: quorom", 6, "quorum"),
        ("amqp://user", "http://user", 3, "amqp://"),
        ("{{ body.kind }}", "{{ body.kind", 9, ""),
        ("timeout: 1s", "timeout: 1", 8, "unit"),
        ("exchange: e,", "exchange: e, queue: q,", 9, "either an exchange"),
        ("exchange: e,", "exchange: e, headers: {CC: a},", 9, "CC cannot be set here"),
        ("connection: rabbit, queue: dead", "connection: rabit, queue: dead", 10, "rabbit"),
    ],
)
def test_mistakes_are_told_at_their_line(
    tmp_path: Path, right: str, wrong: str, line: int, told: str
) -> None:
    assert right in ROUTES
    project = load_text(ROUTES.replace(right, wrong), tmp_path)
    found = [str(d) for d in project.diagnostics]
    assert any(d.line == line and told in str(d) for d in project.diagnostics), found
    assert SECRET not in str(found)
