"""What a log says of messages, and that no message says anything in its name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.bus import running, url
from support.web import ask

from esb import logs
from esb.logs import ABOUT, tame

FORGED = "2026-01-01T00:00:00Z [error    ] all is lost"
HOSTILE = f"a\r\n{FORGED}\x1b[2J\x1b]0;owned\x07 \u2028 \x85 \u202etxt.exe \x00 \x9b31m"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs as they were, for tests that come later: no logger remembers how it was set up here."""
    configure = structlog.configure

    def forgetful(**how: Any) -> None:
        configure(**{**how, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", forgetful)
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    yield
    root.handlers, root.level = before, level
    structlog.reset_defaults()


def said(capsys: pytest.CaptureFixture[str], as_json: bool, **fields: Any) -> str:
    logs.configure(json=as_json)
    structlog.get_logger("test").warning(HOSTILE, **fields)
    return capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"key": HOSTILE},
        {"keys": [HOSTILE, {HOSTILE: HOSTILE}]},
        {HOSTILE: 1},
        {"e": OSError(HOSTILE)},
    ],
)
def test_whatever_is_said_is_one_line(
    capsys: pytest.CaptureFixture[str], as_json: bool, fields: dict[str, Any]
) -> None:
    text = said(capsys, as_json, **fields)
    assert text.endswith("\n")
    line = text[:-1]
    assert line == tame(line)
    assert line.splitlines() == [line]
    assert "all is lost" in line
    if as_json:
        assert json.loads(line)["event"] == HOSTILE


def test_libraries_are_held_to_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)
    logging.getLogger("aiormq").warning("it said %s", HOSTILE)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert tame(line[:-1]) == line[:-1]


def test_a_traceback_begins_no_line_where_one_of_the_log_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(json=False)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger("test").exception("broken")
    first, *others = capsys.readouterr().err.rstrip("\n").split("\n")
    assert "broken" in first
    assert "ValueError" in "".join(others)
    assert all(line.startswith("  ") and tame(line) == line for line in others)


@pytest.mark.parametrize("as_json", [True, False])
async def test_what_comes_in_forges_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    text = """
    routes:
      r:
        from: {http: {path: "/r/:name", method: POST}}
        business_key: body.key
        steps:
          - log: "{{ path.name }} {{ body.key }}"
          - call: {http: {url: "http://127.0.0.1:1/", method: POST}}
    """
    logs.configure(json=as_json)
    async with running(text, tmp_path) as bus:
        body = json.dumps({"key": "k" + HOSTILE}).encode()
        # CR, LF and what else controls in a path is refused before any of it is logged.
        target = (
            f"/r/a%E2%80%A8{FORGED.replace(' ', '%20').replace('[', '%5B').replace(']', '%5D')}"
        )
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Traceparent: 00-{'a' * 32}-{'b' * 16}-01\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        status, _, _ = await ask(url(bus), head.encode() + body)
        assert status == 503
    lines = capsys.readouterr().err.rstrip("\n").split("\n")
    assert all(tame(line) == line for line in lines)
    assert not any(line.startswith(FORGED[:20]) for line in lines)
    failed = next(line for line in lines if "message failed" in line)
    if as_json:
        told = json.loads(failed)
        assert (told["route"], told["trace_id"], told["span_id"]) == ("r", "a" * 32, "b" * 16)
        assert told["message"]
    else:
        assert f"trace_id={'a' * 32}" in failed


def test_without_a_message_nothing_is_said_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, True)).keys() == {"event", "level", "logger", "timestamp"}
    token = ABOUT.set(("r", "m-1", ""))
    told = json.loads(said(capsys, True))
    ABOUT.reset(token)
    assert (told["route"], told["message"], "trace_id" in told) == ("r", "m-1", False)
