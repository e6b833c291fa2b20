"""What routes promise of delivery, and the line that weakens it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from support.bus import load_text
from typer.testing import CliRunner

from esb.analysis.guarantees import Guarantee, guarantees
from esb.cli import app

# `#!` marks the line that weakens the promise most; without one nothing does.
PROMISED = {
    "from queue to queue": ("effectively once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - send: {queue: b}
        """),
    "from queue to a POST": ("at least once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - send: {http: {url: "http://127.0.0.1/", method: POST}} #!
        """),
    "from queue to a PUT": ("effectively once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - send: {http: {url: "http://127.0.0.1/", method: PUT}}
        """),
    "from queue to a POST that may be repeated": ("effectively once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - send: {http: {url: "http://127.0.0.1/", idempotent: true}}
        """),
    "from AMQP to queue": ("at least once", """
        routes:
          r:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: a}} #!
            steps:
              - send: {queue: b}
        """),
    "from AMQP to queue, each once": ("effectively once", """
        routes:
          r:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: a}}
            steps:
              - skip_seen: body.number
              - send: {queue: b}
        """),
    "from AMQP to AMQP": ("at least once", """
        routes:
          r:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: a}}
            steps:
              - skip_seen: body.number
              - send: {amqp: {url: "amqp://127.0.0.1/", queue: b}} #!
        """),
    "from a caller to queue": ("at least once", """
        routes:
          r:
            from: {http: /a} #!
            accept: durable
            steps:
              - send: {queue: b}
        """),
    "from a caller with a key to queue": ("effectively once", """
        routes:
          r:
            from: {http: {path: /a, idempotency_key: required}}
            accept: durable
            steps:
              - send: {queue: b}
        """),
    "a copy aside promises nothing": ("effectively once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - copy_to: {http: "http://127.0.0.1/"}
              - send: {queue: b}
        """),
    "an answer without effects": ("effectively once", """
        routes:
          r:
            from: {http: /a}
            steps:
              - set: {body: {a: 1}}
        """),
    "an error that is swallowed": ("at most once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - try: #!
                  steps:
                    - send: {http: "http://127.0.0.1/"}
                  catch:
                    - on: [transient]
        """),
    "what a sub-route does": ("at least once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - run: sub
          sub:
            steps:
              - send: {http: "http://127.0.0.1/"} #!
        """),
    "within a branch": ("at least once", """
        routes:
          r:
            from: {queue: a}
            steps:
              - choose:
                  - when: body.x
                    steps:
                      - call: {http: "http://127.0.0.1/"} #!
        """),
    "a schedule": ("effectively once", """
        routes:
          r:
            from: {schedule: {every: 1h}}
            steps:
              - send: {queue: b}
        """),
}  # fmt: skip


def promised(text: str, folder: Path) -> list[Guarantee]:
    project = load_text(text, folder)
    assert project.diagnostics == []
    return guarantees([route.outline for route in project.routes])


@pytest.mark.parametrize("name", PROMISED)
def test_a_route_promises_what_its_weakest_part_does(name: str, tmp_path: Path) -> None:
    level, text = PROMISED[name]
    text = textwrap.dedent(text).lstrip("\n")
    marked = [i for i, line in enumerate(text.splitlines(), 1) if "#!" in line]
    [told] = promised(text, tmp_path)
    assert told.level == level
    assert [one.line for one in told.weakened[:1]] == marked
    assert all(one.because and one.hint for one in told.weakened)


def test_an_unknown_outcome_that_is_tried_again_weakens_what_can_be_done_twice(
    tmp_path: Path,
) -> None:
    text = textwrap.dedent("""
        routes:
          r:
            from: {queue: a}
            steps:
              - send: {http: "http://127.0.0.1/"}
                retry: {on: [transient, outcome-unknown]}
        """).lstrip("\n")
    [told] = promised(text, tmp_path)
    assert [one.line for one in told.weakened] == [5, 5]
    assert {one.because for one in told.weakened} == {
        "an unknown outcome is tried again",
        "a try that is repeated does it again",
    }


def test_what_a_promise_depends_on_is_told(tmp_path: Path) -> None:
    [told] = promised(PROMISED["from queue to a POST that may be repeated"][1], tmp_path)
    assert "does no harm" in told.provided[0].because


def test_the_command_shows_them(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(textwrap.dedent(PROMISED["from AMQP to queue"][1]).replace("#!", ""))
    shown = CliRunner().invoke(app, ["check", "--guarantees", str(file)])
    assert shown.exit_code == 0
    assert "r  at least once" in shown.stdout
    assert f"{file}:4: a message may be handed out again (`skip_seen`" in shown.stdout
    told = json.loads(
        CliRunner().invoke(app, ["check", "--guarantees", "--json", str(file)]).stdout
    )
    assert [(one["route"], one["guarantee"]) for one in told] == [("r", "at least once")]
    assert told[0]["weakened"][0]["line"] == 4
