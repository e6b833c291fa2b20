"""What `esb check` finds in policies about callers although each part of them is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bus import load_text

SECRET = "a secret of a hook"
PARTS = "it has name, method, roles, scopes, claims"


@pytest.mark.parametrize(
    ("allow", "method", "at", "told"),
    [
        ("{methods: GTE, roles: [x]}", "GET", "GTE", ""),
        ("{methods: [GET, PUT], roles: [x]}", "GET", "PUT", "it serves GET"),
        ("[{methods: POST, roles: [x]}]", "[GET, PUT]", "POST", "it serves GET, PUT"),
        ("{methods: [HEAD, GET], roles: [x]}", "GET", "", ""),
        ("principal.role == 'x'", "GET", ".role", "did you mean principal.roles?"),
        ("{when: \"'x' in principal['role']\"}", "GET", "", "did you mean principal.roles?"),
        ("principal.groups == 'x'", "GET", ".groups", PARTS),
        ("principal.claims.role == 'x'", "GET", "", ""),
    ],
)
def test_a_slip_that_would_deny_everybody_is_found(
    tmp_path: Path, allow: str, method: str, at: str, told: str
) -> None:
    text = f"""\
auth: {{it: {{hmac: {{secret: "${{S}}"}}}}}}
routes:
  a:
    from: {{http: {{path: /a, auth: it, method: {method}}}}}
    allow: {allow}
"""
    found = load_text(text, tmp_path, environ={"S": SECRET}).diagnostics
    assert [(one.line, one.hint) for one in found] == ([(5, told)] if told or at else [])
    if at:
        assert found[0].column == text.splitlines()[4].index(at) + 1


def test_a_rule_that_routes_share_may_be_about_what_others_serve(tmp_path: Path) -> None:
    text = """
    auth: {it: {hmac: {secret: "${S}"}}}
    policies: {few: {allow: [{methods: GET, roles: [r]}, {methods: POST, roles: [w]}]}}
    routes:
      a: {policy: few, from: {http: {path: /a, auth: it, method: GET}}}
      b: {policy: few, from: {http: {path: /b, auth: it, method: POST}}}
    """
    assert not load_text(text, tmp_path, environ={"S": SECRET}).diagnostics


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        ("rate_limit: {limit: 1/1m, per: principal}", 5),
        ("rate_limit: [9/1m, {limit: 1/1m, per: message.principal}]", 5),
        ("cache: {ttl: 1m, key: message.principal}", 5),
        ("rate_limit: {limit: 1/1m, per: address}", 0),
        ("cache: 1m", 0),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_who_is_told_apart_although_nobody_is_asked(
    tmp_path: Path, rest: str, line: int, known: bool
) -> None:
    text = f"""\
auth: {{it: {{hmac: {{secret: "${{S}}"}}}}}}
routes:
  a:
    from: {{http: {{path: /a, method: GET, auth: {"it" if known else "public"}}}}}
    {rest}
"""
    project = load_text(text, tmp_path, environ={"S": SECRET})
    assert not project.diagnostics
    found = [] if known or not line else [line]
    assert [one.line for one in project.warnings] == found
    assert all(one.message.startswith("nobody is asked who he is") for one in project.warnings)


@pytest.mark.parametrize(("principal", "slips"), [("", 1), (", principal: user_id", 0)])
def test_senders_are_told_apart_by_what_a_broker_says(
    tmp_path: Path, principal: str, slips: int
) -> None:
    text = f"""
    routes:
      a:
        from: {{amqp: {{url: "amqp://localhost", queue: q{principal}}}}}
        rate_limit: {{limit: 1/1m, per: principal}}
    """
    project = load_text(text, tmp_path)
    assert (len(project.diagnostics), len(project.warnings)) == (0, slips)
