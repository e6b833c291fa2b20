"""What `esb check` finds although each part is right: each at its line, with a hint that helps.

In each case `#!` marks the lines that must be named, `#E` those of errors; nothing else may be.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest
from support.bus import load_text
from typer.testing import CliRunner

from esb.analysis.conditions import constant, implies, terms
from esb.cli import app
from esb.errors import Diagnostic

SCHEMA = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"enum": ["car", "home"]},
        "amount": {"type": "number"},
        "customer": {"$ref": "#/$defs/customer"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "$defs": {
        "customer": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "additionalProperties": False,
        },
        "line": {"type": "object", "properties": {"sku": {"type": "string"}}},
    },
}
CLAIMS = """
        routes:
          claims:
            from: {http: {path: "/claims/:id", method: POST, schema: claim.schema.json}}
            steps:"""
ANY = """
        routes:
          any:
            from: {http: /any}
            steps:"""

FOUND = {
    # --- targets
    "a field to take out, named as in expressions": ("target", "its own name: card", f"""{ANY}
              - remove: [id, body.card] #!
              - log: done
        """),
    "a field to write, named as in expressions": ("target", "its own name: total", f"""{ANY}
              - set: {{fields: {{body.total: 3 + 4}}}} #!
              - map: {{body.total: body.sum}} #!
              - enrich: {{steps: [{{map: {{a: 1}}}}], into: body.total}} #!
        """),
    # --- branches
    "a filter that lets nothing through": ("constant|dead", "no message", f"""{ANY}
              - filter: 1 > 2 #!
              - log: never #!
        """),
    "a filter that asks nothing": ("constant", "every message", f"""{ANY}
              - filter: "'a' == 'a'" #!
        """),
    "a condition that is always true": ("constant|dead", "always true", f"""{ANY}
              - choose:
                  - when: 1 == 1 #!
                    steps: [log]
                  - when: body.a #!
                    steps: [log]
        """),
    "a condition that is never true": ("constant", "never true", f"""{ANY}
              - choose:
                  - when: "'x' in ['a', 'b']" #!
                    steps: [log]
        """),
    "the same condition twice": ("dead", "is the same", f"""{ANY}
              - choose:
                  - when: body.a == 1
                    steps: [log]
                  - when: body.a == 1 #!
                    steps: [log]
        """),
    "a wider condition first": ("dead", "narrower condition first", f"""{ANY}
              - choose:
                  - when: body.a > 10
                    steps: [log]
                  - when: body.a >= 100 and body.b #!
                    steps: [log]
        """),
    "a value that was taken in a list": ("dead", "narrower", f"""{ANY}
              - choose:
                  - when: body.kind in ['car', 'home']
                    steps: [log]
                  - when: body.kind == 'car' #!
                    steps: [log]
        """),
    "steps behind a failure": ("dead", "'fail' above", f"""{ANY}
              - fail: no
              - log: never #!
        """),
    "steps behind branches that all fail": ("dead", "'choose' above", f"""{ANY}
              - choose:
                  - when: body.a
                    steps: [{{fail: one}}]
                  - otherwise:
                    steps: [{{fail: other}}]
              - log: never #!
        """),
    # --- rounds
    "a loop without an end": ("endless", "no end", f"""{ANY}
              - loop:
                  while: 1 == 1 #!
                  steps: [log]
        """),
    "sub-routes that run each other": ("endless", "one -> two -> one", """
        routes:
          first:
            from: {http: /first}
            steps: [{run: one}]
          one:
            steps:
              - run: two #E
          two:
            steps:
              - run: one
        """),
    "a message that waits for itself": ("endless", "wait here for itself: one -> two -> one", """
        routes:
          first:
            from: {http: /first}
            steps: [{run: one}]
          one:
            steps:
              - choose: [{when: body.n > 0, steps: [{run: two}]}]
          two: #E
            concurrency: 3
            steps: [{run: one}]
        """),
    "queues that feed each other": ("endless", "go round", """
        routes:
          first:
            from: {queue: a}
            steps:
              - send: {queue: b} #!
          second:
            from: {queue: b}
            steps:
              - send: {queue: a}
        """),
    # --- channels
    "a queue nobody reads": ("unread", "no route reads queue b", f"""{ANY}
              - send: {{queue: b}} #!
        """),
    "a queue nobody feeds": ("unfed", "no route sends to queue a", """
        routes:
          first:
            from: {queue: a} #!
            steps: [log]
        """),
    "a queue misspelt": ("unread|unfed", "did you mean 'orders'|did you mean 'ordres'", """
        routes:
          first:
            from: {http: /a}
            steps:
              - send: {queue: ordres} #!
          second:
            from: {queue: orders} #!
            steps: [log]
        """),
    "a queue of a broker misspelt": ("unread|unfed", "did you mean", """
        routes:
          first:
            from: {http: /a}
            steps:
              - send: {amqp: {url: "amqp://127.0.0.1/", queue: ordres}} #!
          second:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: orders}} #!
            steps: [log]
        """),
    # --- fields
    "a field the schema does not have": ("unknown-field", "did you mean 'amount'", f"""{CLAIMS}
              - filter: body.amuont > 1 #!
        """),
    "a field of a closed object": ("unknown-field", "did you mean 'name'", f"""{CLAIMS}
              - log: "{{{{ body.customer.nam }}}}" #E
        """),
    "a field that always is missing": ("unknown-field", "did you mean 'name'", f"""{CLAIMS}
              - filter: body.customer.nam is defined #!
        """),
    "a field of a number": ("unknown-field", "there is a number", f"""{CLAIMS}
              - set: {{headers: {{x-a: body.amount.value}}}} #E
        """),
    "a field of the items": ("unknown-field", "did you mean 'sku'", f"""{CLAIMS}
              - split:
                  each: body.lines
                  steps:
                    - log: "{{{{ body.skuu }}}}" #!
        """),
    "a field that no step set": ("unknown-field", "did you mean 'total'", f"""{CLAIMS}
              - set: {{body: {{total: body.amount}}}}
              - log: "{{{{ body.totl }}}}" #E
        """),
    "a field behind a validate": ("unknown-field", "did you mean 'kind'", f"""{ANY}
              - validate: {{json_schema: claim.schema.json}}
              - log: "{{{{ body.knd }}}}" #!
        """),
    "a value that cannot be": ("impossible", "did you mean 'car'", f"""{CLAIMS}
              - filter: body.kind == 'cra' #!
        """),
    "a parameter the path lacks": ("unknown-field", "the source gives: id", f"""{CLAIMS}
              - log: "{{{{ path.number }}}}" #E
        """),
    "a field of the answer": ("unknown-field", "did you mean 'total'", """
        routes:
          claims:
            from:
              http:
                path: /claims
                headers: {x-total: "{{ body.totl }}"} #E
            steps:
              - set: {body: {total: 1}}
        """),
    "a field of a reply": ("unknown-field", "did you mean", f"""{ANY}
              - call: {{soap: {{wsdl: calculator.wsdl, operation: Add}}}}
              - log: "{{{{ body.Resultt }}}}" #E
        """),
    "a fault no call has": ("fault", "did you mean", """
        routes:
          any:
            from:
              http:
                path: /any
                faults:
                  PartnerNotFoundd: 422 #!
            steps:
              - call: {soap: {wsdl: partner.wsdl, operation: getPartner, bind: [id]}}
        """),
}  # fmt: skip

RIGHT = {
    "a field that is called body": f"""{ANY}
              - filter: body.body.id > 0
              - remove: [body.secret]
        """,
    "a place in a field that is called body": f"""{ANY}
              - remove: [/body/secret]
        """,
    "branches that differ": f"""{ANY}
              - choose:
                  - when: body.a > 100
                    steps: [log]
                  - when: body.a > 10
                    steps: [log]
                  - when: body.a > 10 or body.b
                    steps: [log]
                  - when: body.b == 'x'
                    steps: [log]
                  - otherwise:
                    steps: [{{fail: none}}]
              - log: some
        """,
    "sub-routes that end": """
        routes:
          first:
            from: {http: /first}
            steps: [{run: one}]
          one:
            steps:
              - choose:
                  - when: body.more
                    steps: [{run: one}]
        """,
    "queues that feed each other now and then": """
        routes:
          first:
            from: {queue: a}
            steps: [{send: {queue: b}}]
          second:
            from: {queue: b}
            steps:
              - filter: body.again
              - send: {queue: a}
        """,
    "a queue whose name comes with the message": """
        routes:
          first:
            from: {http: "/:kind"}
            steps: [{send: {queue: "orders-{{ path.kind }}"}}]
          second:
            from: {queue: orders-new}
            steps: [log]
        """,
    "letters for the dead that people read": """
        routes:
          first:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: a}}
            steps: [log]
            dead_letter: {queue: letters}
        """,
    "queues of a broker that others feed": """
        routes:
          first:
            from: {amqp: {url: "amqp://127.0.0.1/", queue: orders1}}
            steps: [{send: {amqp: {url: "amqp://127.0.0.1/", queue: orders2}}}]
        """,
    "what a schema has, and what steps make": f"""{CLAIMS}
              - filter: body.kind in ['car', 'home'] and body.customer.name is defined
              - set: {{fields: {{reason: "'large'"}}}}
              - log: "{{{{ body.reason }}}} {{{{ body.lines[0].sku }}}} {{{{ path.id }}}}"
              - transform: {{jinja: "{{}}\\n", content_type: application/json}}
              - log: "{{{{ body.anything }}}}"
        """,
    "what branches make": f"""{CLAIMS}
              - choose:
                  - when: body.kind == 'car'
                    steps: [{{set: {{body: {{a: 1}}}}}}]
              - log: "{{{{ body.a }}}}"
        """,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "claim.schema.json").write_text(json.dumps(SCHEMA))
    wsdl = Path(__file__).parents[1] / "support" / "calculator.wsdl"
    (tmp_path / "calculator.wsdl").write_bytes(wsdl.read_bytes())
    partner = Path(__file__).parents[2] / "examples" / "legacy" / "partner.wsdl"
    (tmp_path / "partner.wsdl").write_bytes(partner.read_bytes())
    return tmp_path


def found_in(text: str, folder: Path) -> list[Diagnostic]:
    project = load_text(text, folder)
    return sorted([*project.diagnostics, *project.warnings])


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_at_its_line(name: str, folder: Path) -> None:
    code, says, text = FOUND[name]
    text = textwrap.dedent(text.replace("\n        ", "\n")).lstrip("\n")
    marked = [
        (i, "error" if "#E" in line else "warning")
        for i, line in enumerate(text.splitlines(), 1)
        if "#!" in line or "#E" in line
    ]
    found = found_in(text, folder)
    shown = [str(one) for one in found]
    assert [(one.line, one.severity) for one in found] == marked, shown
    assert marked
    for one in found:
        assert one.column > 1
        assert re.fullmatch(code, one.code), shown
    assert any(re.search(says, f"{one.message} {one.hint}") for one in found), shown


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_left_alone(name: str, folder: Path) -> None:
    assert found_in(RIGHT[name], folder) == []


def test_a_template_is_told_where_it_is_wrong_and_who_uses_it(folder: Path) -> None:
    (folder / "claim.xml.j2").write_text(
        "<claim>\n{% for line in body.lines %}\n<l>{{ line.skuu }}</l>\n{% endfor %}\n"
        "{% set c = body.customer %}<n>{{ c.name }}</n>{{ body.cind }}\n</claim>\n"
    )
    text = f"{CLAIMS}\n              - transform: {{jinja: claim.xml.j2}}\n"
    found = found_in(text, folder)
    assert [(Path(one.file).name, one.line) for one in found] == [
        ("claim.xml.j2", 3),
        ("claim.xml.j2", 5),
    ]
    assert "did you mean 'sku'" in found[0].hint
    assert "did you mean 'kind'" in found[1].hint
    assert "used at" in found[0].hint
    assert found[0].hint.endswith("routes.yaml:6")


def test_a_column_is_that_of_the_field(folder: Path) -> None:
    text = textwrap.dedent(f"{CLAIMS}\n              - filter: body.kind and body.amuont > 1\n")
    [found] = found_in(text, folder)
    line = text.splitlines()[found.line - 1]
    assert "filter" in line
    assert line[found.column - 1 :].startswith(".amuont")


def test_warnings_fail_a_strict_check_only(folder: Path) -> None:
    file = folder / "routes.yaml"
    file.write_text("routes: {a: {from: {http: /a}, steps: [{send: {queue: b}}]}}")
    run = CliRunner().invoke
    usual = run(app, ["check", str(file)])
    assert usual.exit_code == 0
    assert "warning: no route reads queue b" in usual.stderr
    assert "1 warning" in usual.stderr
    assert run(app, ["check", "--strict", str(file)]).exit_code == 1
    [found] = json.loads(run(app, ["check", "--json", str(file)]).stdout)
    assert (found["severity"], found["code"]) == ("warning", "unread")


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        ("body.a > 10", "body.a > 5", True),
        ("body.a > 5", "body.a > 10", False),
        ("body.a > 5", "body.a >= 5", True),
        ("body.a >= 5", "body.a > 5", False),
        ("body.a < 5", "body.a <= 5", True),
        ("5 < body.a", "body.a > 3", True),
        ("body.a == 7", "body.a > 3 and body.a < 9", True),
        ("body.a == 7", "body.b == 7", False),
        ("body.a in [1, 2]", "body.a < 3", True),
        ("body.a in [1, 4]", "body.a < 3", False),
        ("body.a < 3", "body.a != 3", True),
        ("body.a and body.b", "body.a", True),
        ("body.a", "body.a and body.b", False),
        ("body.a or body.b", "body.a", False),
        ("body.a > 10", "body.a < 20", False),
        ("body.a == 'x'", "body.a in ['x', 'y']", True),
        ("body.a > -5", "body.a > -6", True),
    ],
)
def test_conditions_that_imply_others(one: str, other: str, is_so: bool) -> None:
    assert implies(terms(one), terms(other)) is is_so


def test_conditions_that_depend_on_nothing() -> None:
    assert constant("1 + 1 == 2") is True
    assert constant("not true") is False
    assert constant("body") is None
    assert constant("now()") is None
    assert constant("'a' | int == 1") is None  # it fails, whatever comes
