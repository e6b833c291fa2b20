"""Blocks that break in one line and are noticed in another: the line at fault is named."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from esb.indentation import culprit
from esb.strict_yaml import References, read_yaml

# `#!` marks the line at fault; a comment changes nothing in the blocks.
BROKEN = {
    "a key that is missing": ("a line is missing", """
        routes:
            from: {queue: a} #!
            steps:
              - log: taken
          second:
            from: {queue: b}
            steps:
              - log: taken
        """),
    "a key too far to the left": ("0 spaces, where 2 would fit", """
        routes:
        first: #!
            from: {queue: a}
            steps:
              - log: taken
          second:
            from: {queue: b}
            steps:
              - log: taken
        """),
    "a block too far to the left": ("2 spaces, where 4 would fit", """
        routes:
          first:
            from: {queue: a}
          steps: #!
              - send: {queue: b}
            retry: {attempts: 2}
        """),
    "the first key too far to the right": ("2 spaces, where 0 would fit", """
          routes: #!
          first:
            from: {queue: a}
        listen: {port: 1}
        """),
    "an item without its dash": ("begins with '- '", """
        routes:
          first:
            from: {queue: a}
            steps:
              - choose:
                    when: body.a #!
                    steps:
                      - send: {queue: b}
                  - otherwise:
                    steps:
                      - send: {queue: c}
        """),
    "a dash without its space": ("with a space behind it", """
        steps:
          -split: #!
              each: body
          - log: hello
        """),
    "the first line missing": ("a line is missing", """
          first: #!
            a: 1
          second:
            a: 1
        listen: {port: 1}
        """),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_line_at_fault_is_named(name: str) -> None:
    says, text = BROKEN[name]
    text = textwrap.dedent(text).lstrip("\n")
    marked = [i for i, line in enumerate(text.splitlines(), 1) if "#!" in line]
    document = read_yaml(text, "routes.yaml", Path(), References({}))
    assert [one.line for one in document.diagnostics] == marked, document.diagnostics
    [found] = document.diagnostics
    assert says in f"{found.message} {found.hint}"


def test_what_no_single_line_mends_has_no_culprit() -> None:
    assert culprit("a: {\nb: [\n", 2) is None


def test_a_large_file_takes_no_long_search(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["routes:", *(f"  r{i}: {{from: {{queue: q{i}}}}}" for i in range(3000)), " x: 1"]
    tried: list[str] = []
    compose = yaml.compose

    def counting(text: str, **options: Any) -> Any:
        tried.append(text)
        return compose(text, **options)

    monkeypatch.setattr("esb.indentation.yaml.compose", counting)
    assert read_yaml("\n".join(lines), "routes.yaml", Path(), References({})).diagnostics
    assert 0 < len(tried) <= 5
