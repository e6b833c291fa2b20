"""Mistakes in route files, each found by `esb check` at its line with a hint that helps.

In each case `#!` marks the line that must be named; nothing else may be reported.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest
from support.bus import load_text

from esb.config import load
from esb.errors import Diagnostic

WSDL = Path(__file__).parent.parent / "support" / "calculator.wsdl"

ROUTE = """
routes:
  orders:
    from: {http: {path: /orders, method: POST}}
    steps:
"""

# name: (code, what message and hint must say, the file)
MISTAKES: dict[str, tuple[str, str, str]] = {
    "unknown section": ("unknown-key", "did you mean 'routes'", """
        route: #!
          a: {from: {queue: q}}
        """),
    "typo in a route's key": ("unknown-key", "did you mean 'steps'", """
        routes:
          a:
            from: {queue: q}
            step: #!
              - log: hello
        """),
    "route without a source": ("unreachable", "has no 'from', and no other route runs it", """
        routes:
          a: #!
            steps: [{log: hello}]
        """),
    "a text where options are": ("type", "there are: json_schema, xsd", f"""{ROUTE}
              - validate: order.schema.json #!
        """),
    "a field without a name": ("value", "names no field", f"""{ROUTE}
              - set: {{fields: {{"a..b": body.x}}}} #!
        """),
    "unknown step": ("unknown-step", "did you mean 'transform'", f"""{ROUTE}
              - transfrom: {{jinja: a.j2}} #!
        """),
    "a step by its name in another bus": ("unknown-step", "called 'copy_to' here", f"""{ROUTE}
              - wire-tap: {{queue: copies}} #!
        """),
    "a step by a word that looks like another": ("unknown-step", "called 'delay' here", f"""{ROUTE}
              - sleep: 5s #!
        """),
    "an error by a wrong name": ("value", "no error 'rejectd': did you mean 'rejected'", f"""{ROUTE}
              - try:
                  steps: [{{log: hello}}]
                  catch:
                    - on: [rejectd] #!
                      steps: [{{log: bye}}]
        """),
    "one where a list is": ("type", "must be a list", f"""{ROUTE}
              - try:
                  steps: [{{log: hello}}]
                  catch:
                    - on: rejected #!
                      steps: [{{log: bye}}]
        """),
    "steps where options are": ("type", r"mapping of options steps: \[...\]", f"""{ROUTE}
              - try: #!>
                  - log: hello
        """),
    "options of what has none": ("value", "there are no options of 'json'", f"""{ROUTE}
              - convert: {{to: {{json: {{indent: 2}}}}}} #!
        """),
    "a list with nothing in it": ("value", "must have at least 1 item", f"""{ROUTE}
              - saga:
                  steps: [] #!
        """),
    "endpoint without a verb": ("unknown-step", "send: {http", f"""{ROUTE}
              - http: {{url: "http://localhost/"}} #!
        """),
    "wrong indentation of a step's options": ("unknown-step", "indent it further", f"""{ROUTE}
              - log:
                message: hello #!
        """),
    "wrong indentation of a line": ("yaml", "indentation", """
        routes:
          a:
            from: {queue: q}
           steps: [] #!
        """),
    "a tab": ("yaml", "spaces", """
        routes:
        \ta: {from: {queue: q}} #!
        """),
    "two verbs in one step": ("step", "put '- ' before", f"""{ROUTE}
              - log: one
                send: {{queue: q}} #!
        """),
    "steps that are no list": ("type", "list", """
        routes:
          a:
            from: {queue: q}
            steps: #!>
              log: hello
        """),
    "unknown adapter": ("unknown-adapter", "did you mean 'amqp'", """
        routes:
          a:
            from: {ampq: {queue: q}} #!
        """),
    "unknown option of an endpoint": ("unknown-key", "did you mean 'method'", """
        routes:
          a:
            from:
              http:
                path: /a
                methode: POST #!
        """),
    "missing option of an endpoint": ("missing-key", "'path' is missing", """
        routes:
          a:
            from:
              http: #!
                method: POST
        """),
    "two adapters in one endpoint": ("type", "indent it further", """
        routes:
          a:
            from:
              http:
                path: /a
              method: POST #!
        """),
    "an adapter in the wrong direction": ("adapter", "send", f"""{ROUTE}
              - call: {{queue: q}} #!
        """),
    "wrong type": ("value", "number", """
        routes:
          a:
            from: {queue: q}
            timeout: soon #!
        """),
    "a duration without a unit": ("value", "unit", """
        routes:
          a:
            from: {queue: q}
            timeout: 30 #!
        """),
    "wrong word": ("value", "durable", """
        routes:
          a:
            from: {queue: q}
            accept: durably #!
        """),
    "missing template": ("missing-file", "did you mean 'there.json.j2'", f"""{ROUTE}
              - transform:
                  jinja: ther.json.j2 #!
        """),
    "a file outside the project": ("missing-file|file", "project|no file", f"""{ROUTE}
              - validate: {{json_schema: ../../../../../../etc/passwd}} #!
        """),
    "bad expression": ("expression", "", f"""{ROUTE}
              - filter: body.amount > #!
        """),
    "unknown name in an expression": ("expression", "did you mean body", f"""{ROUTE}
              - filter: boby.amount > 1 #!
        """),
    "a text without quotes in an expression": ("expression", "'crm'", f"""{ROUTE}
              - set:
                  headers:
                    x-target: crm #!
        """),
    "a header name with a minus": ("expression", "headers\\['x-kind'\\]", f"""{ROUTE}
              - filter: headers.x-kind == 'a' #!
        """),
    "a branch without a condition": ("value", "'when' or 'otherwise'", f"""{ROUTE}
              - choose:
                  - steps: [{{log: a}}] #!
        """),
    "otherwise is not last": ("value", "last", f"""{ROUTE}
              - choose:
                  - otherwise: #!
                    steps: [{{log: a}}]
                  - when: body.a
                    steps: [{{log: b}}]
        """),
    "duplicate route": ("duplicate-key", "twice", """
        routes:
          a: {from: {queue: q}}
          a: {from: {queue: r}} #!
        """),
    "two routes on one path": ("duplicate", "served already", """
        routes:
          a: {from: {http: {path: "/a/:id", method: GET}}}
          b: {from: {http: {path: "/a/:name", method: GET}}} #!
        """),
    "path parameters in braces": ("path", "write :id", """
        routes:
          a: {from: {http: {path: "/a/{id}", method: GET}}} #!
        """),
    "unknown connection": ("unknown-connection", "did you mean 'rabbit'", """
        connections:
          rabbit: {amqp: {url: "amqp://localhost/"}}
        routes:
          a:
            from: {amqp: {connection: rabit, queue: q}} #!
        """),
    "a connection of another adapter": ("value", "amqp", """
        connections:
          rabbit: {amqp: {url: "amqp://localhost/"}}
        routes:
          a:
            from: {queue: q}
            steps:
              - send: {http: {connection: rabbit, path: /}} #!
        """),
    "typo in a connection": ("unknown-key", "did you mean 'url'", """
        connections:
          rabbit: {amqp: {urll: "amqp://localhost/"}} #!
        """),
    "a typo in the word connection": ("unknown-key", "did you mean 'connection'", f"""{ROUTE}
              - send:
                  amqp:
                    queue: q
                    conection: rabbit #!
        """),
    "a bracket that is not closed": ("yaml", "not closed by a }", """
        routes:
          a:
            from: {http: {path: /a} #!
            steps: []
        """),
    "a quote that is not closed": ("yaml", "quote that opens here", """
        routes:
          a:
            from: {queue: "q} #!
            steps: []
        """),
    "no space behind a colon": ("unreachable|unknown-key", "'from:'|from: {", """
        routes:
          a:
            from:{queue: q} #!
        """),
    "steps beside the routes": ("unknown-key", "belongs to a route", """
        routes:
          a: {from: {queue: q}}
        steps: #!
          - log: hello
        """),
    "a typo in a policy of a step": ("unknown-step", "did you mean 'retry'", f"""{ROUTE}
              - send: {{queue: q}}
                retri: {{attempts: 2}} #!
        """),
    "a policy within an endpoint": ("type", "beside the verb", f"""{ROUTE}
              - send:
                  queue: q
                  retry: {{attempts: 2}} #!
        """),
    "a step without options that does not exist": ("unknown-step", "did you mean 'log'", f"""{ROUTE}
              - logg #!
        """),
    "choose without a list": ("type", "put '- ' before", f"""{ROUTE}
              - choose: #!>
                  when: body.a
        """),
    "a list without a space": ("type", "put '- ' before", """
        routes:
          a:
            from: {queue: q}
            steps: #!>
              -log: hello
        """),
    "steps behind otherwise": ("value", "follow in 'steps:'", f"""{ROUTE}
              - choose:
                  - otherwise: [{{log: a}}] #!
        """),
    "a number that is none": ("value", "whole number", """
        routes:
          a:
            from: {queue: q}
            concurrency: many #!
        """),
    "a limit without a time": ("value", "a number and a time", """
        routes:
          a:
            from: {http: /a}
            rate_limit: [10/s, {limit: 100}] #!
        """),
    "a quota on Mars": ("value", "there is no time zone 'Mars'", """
        routes:
          a:
            from: {http: /a}
            rate_limit: {limit: 100/day, zone: Mars} #!
        """),
    "a limit for each of nobody": ("expression", "did you mean principal", """
        routes:
          a:
            from: {http: /a}
            rate_limit: {limit: 100/day, per: principle} #!
        """),
    "addresses in a queue": ("value", "has no address of a caller", """
        routes:
          a:
            from: {queue: q}
            rate_limit: {limit: 10/s, per: address} #!
        """),
    "answers to nobody": ("value", "nobody waits for an answer", """
        routes:
          a:
            from: {queue: q}
            cache: 60s #!
        """),
    "answers of a log": ("value", "only the answers of `call` are kept", """
        routes:
          a:
            from: {http: /a}
            steps:
              - log: hello
                cache: 60s #!
        """),
    "a header that answers are not told apart by": ("value", r"vary: .X-Tenant.", """
        routes:
          a:
            from: {http: /a}
            cache: 60s #!
            steps: [{set: {body: "headers['x-tenant']"}}]
        """),
    "no Redis to keep answers in": ("value", "there is no Redis", """
        routes:
          a:
            from: {http: /a}
            cache: {ttl: 60s, where: redis} #!
        """),
    "a Redis that is none": ("value", "starts with redis://", """
        redis: {url: "http://localhost"} #!
        """),
    "braces that are not closed in a URL": ("expression", "}} behind", f"""{ROUTE}
              - send: {{http: {{url: "http://localhost/{{{{ body.id }}"}}}} #!
        """),
    "a typographic quote": ("expression", "write '", f"""{ROUTE}
              - filter: body.a == \u201cx\u201d #!
        """),
    "nothing to set": ("value", "body, headers", f"""{ROUTE}
              - set: {{}} #!
        """),
    "an unset variable": ("reference", "default", """
        routes:
          a:
            from: {queue: q}
            steps:
              - send: {http: {url: "http://localhost/${NOWHERE}"}} #!
        """),
    "a reference in flow style": ("yaml", "quote", """
        routes:
          a:
            from: {queue: ${QUEUE}} #!
        """),
    "absent WSDL": ("missing-file", "calculator.wsdl", f"""{ROUTE}
              - call: {{soap: {{wsdl: calculater.wsdl, operation: Add}}}} #!
        """),
    "a WSDL from the network": ("missing-file", "bring it into the project", f"""{ROUTE}
              - call:
                  soap:
                    wsdl: http://127.0.0.1:1/calculator.wsdl #!
                    operation: Add
        """),
    "absent WSDL operation": ("", "did you mean 'Add'", f"""{ROUTE}
              - call: {{soap: {{wsdl: calculator.wsdl, operation: Ad}}}} #!
        """),
    "absent operation in expose": ("", "did you mean 'Add'", """
        expose:
          calc:
            wsdl: calculator.wsdl
            at: /calc
            operations:
              Addd: GET /add #!
        """),
    "a broken template": ("template", "", f"""{ROUTE}
              - transform: {{jinja: broken.j2}}
        """),
    "an alias": ("yaml", "alias", """
        routes:
          a:
            from: *somewhere #!
        """),
    "retry without options it knows": ("unknown-key", "did you mean 'attempts'", """
        routes:
          a:
            from: {queue: q}
            retry:
              atempts: 5 #!
        """),
    "a connection that is no name": ("type", "a connection is named", f"""{ROUTE}
              - send: {{amqp: {{connection: [rabbit], queue: b}}}} #!
        """),
    "options without their adapter": ("unknown-adapter", "put 'http:' above", f"""{ROUTE}
              - send:
                  url: http://localhost/ #!
                  method: PUT
        """),
    "routes among the connections": ("unknown-key", "put 'routes:' above", """
        connections:
          rabbit: {amqp: {url: amqp://localhost/}}
          a: #!
            from: {amqp: {connection: rabbit, queue: q}}
        """),
    "a connection without a name": ("missing-key", "my-amqp", """
        connections:
          amqp: #!
            url: amqp://localhost/
        routes:
          a:
            from: {amqp: {connection: rabbit, queue: q}}
        """),
    "connections misspelt": ("unknown-key", "did you mean 'connections'", """
        conections: #!
          rabbit: {amqp: {url: amqp://localhost/}}
        routes:
          a:
            from: {amqp: {connection: rabbit, queue: q}}
        """),
    "a key that is needed, misspelt": ("unknown-key", "did you mean 'steps'", f"""{ROUTE}
              - choose:
                  - when: body.a
                    stpes: [] #!
        """),
    "from misspelt": ("unknown-key", "did you mean 'from'", """
        routes:
          a:
            form: {queue: q} #!
        """),
    "a reference that is not closed": ("reference", "both its braces", f"""{ROUTE}
              - send: {{http: "${{URL:-http://localhost/"}} #!
        """),
    "a reference that is not opened": ("reference", "both its braces", f"""{ROUTE}
              - send: {{http: "$URL:-http://localhost/}}"}} #!
        """),
    "a brace too few": ("expression", "only one { opens", f"""{ROUTE}
              - send: {{queue: {{name: b, key: "{{ body.id }}}}"}}}} #!
        """),
    "a comma between texts forgotten": ("expression", "side by side", f"""{ROUTE}
              - filter: body.kind in ['a' 'b'] #!
        """),
    "steps too far to the right, behind otherwise": ("value", "nothing stands behind", f"""{ROUTE}
              - choose:
                  - otherwise:
                      steps: [] #!
        """),
    "a quote in a path": ("path", "no quotes", """
        routes:
          a:
            from: {http: {path: /a"}} #!
        """),
    "no colon behind a key": ("yaml", "no ': ' follows", """
        routes:
          a:
            from: {queue: a}
            steps #!
          b:
            from: {queue: b}
        """),
    "a bad backoff": ("value", "1s..60s", """
        routes:
          a:
            from: {queue: q}
            retry:
              backoff: 60s..1s #!
        """),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "there.json.j2").write_text("{}")
    (tmp_path / "broken.j2").write_text("{\n{% if %}\n}")
    (tmp_path / "calculator.wsdl").write_bytes(WSDL.read_bytes())
    return tmp_path


def found_in(text: str, folder: Path) -> list[Diagnostic]:
    return load_text(text, folder).diagnostics


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_at_its_line(name: str, folder: Path) -> None:
    code, says, text = MISTAKES[name]
    text = textwrap.dedent(text.replace("\n        ", "\n")).lstrip("\n")
    lines = [i for i, line in enumerate(text.splitlines(), 1) if "#!" in line]
    if any("#!>" in line for line in text.splitlines()):
        lines = [line + 1 for line in lines]
    found = found_in(text, folder)
    shown = [str(one) for one in found]
    if lines:
        assert [one.line for one in found] == lines, shown
    else:
        assert [(Path(one.file).name, one.line) for one in found] == [("broken.j2", 2)], shown
    for one in found:
        assert one.column > 0
        assert re.fullmatch(code or ".+", one.code), shown
        assert re.search(says, f"{one.message} {one.hint}"), shown


def test_there_are_enough_cases() -> None:
    assert len(MISTAKES) >= 25


def test_all_mistakes_are_found_at_once(folder: Path) -> None:
    text = """
        routes:
          a:
            from: {http: {path: /a, method: POST, colour: red}}
            steps:
              - transform: {jinja: nowhere.j2}
              - filter: body.x >
              - sned: {queue: q}
          b:
            from: {nothing: {}}
    """
    found = found_in(text, folder)
    assert [one.line for one in found] == [4, 6, 7, 8, 10]
    assert found == sorted(found)


def test_a_correct_file_has_none(folder: Path) -> None:
    text = """
        routes:
          a:
            from: {queue: in}
            steps:
              - transform: {jinja: there.json.j2}
              - choose:
                  - when: body.a == 1
                    steps: [{send: {queue: out}}]
                  - otherwise:
                    steps: [{log: "other {{ body.a }}"}]
            retry: {attempts: 3, backoff: 1s..10s}
    """
    assert found_in(text, folder) == []


def test_a_mistake_of_a_route_hides_none_in_its_steps(tmp_path: Path) -> None:
    text = """
        routes:
          a:
            concurency: 3
            from: {queue: {name: in, ordr: true}}
            steps:
              - run: part
              - splitt: body.lines
          part:
            steps: [{log: "part {{ body.id }}"}]
    """
    found = load_text(textwrap.dedent(text), tmp_path).diagnostics
    assert [d.hint for d in found] == [
        "did you mean 'concurrency'?", "did you mean 'order'?", "did you mean 'split'?",
    ]  # fmt: skip


REFERENCES = """
connections:
  crm: {http: {url: "${CRM}", timeout: "${PATIENCE}"}}
  erp: {http: {url: "https://${ERP_HOST}:${ERP_PORT}"}}
  rabbit: {amqp: {url: "${RABBIT}"}}
listen: {port: "${PORT}"}
routes:
  a:
    from: {amqp: {connection: rabbit, queue: in, prefetch: "${AT_ONCE}"}}
    steps:
      - filter: "${LEAST} < body.total"
      - send: {http: {connection: crm, path: /orders}}
      - send: {http: {connection: erp, path: /orders, methd: PUT}}
"""


def test_without_the_environment_nothing_is_said_of_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(REFERENCES)
    (found,) = load([file], environ=None).diagnostics
    assert (found.line, found.hint) == (13, "did you mean 'method'?")


def test_a_variable_that_is_missing_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(REFERENCES.replace(", methd: PUT", ""))
    found = load([file], environ={}).diagnostics
    assert [d.line for d in found if d.code != "reference"] == []
    assert [d.line for d in found] == [3, 3, 4, 4, 5, 6, 9, 11]


def test_check_writes_json_for_programs(folder: Path) -> None:
    from typer.testing import CliRunner

    from esb.cli import app

    file = folder / "bad.yaml"
    file.write_text("routes:\n  a:\n    from: {quue: q}\n")
    result = CliRunner().invoke(app, ["check", "--json", str(file)])
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert set(found) == {"file", "line", "column", "code", "message", "hint", "severity"}
    assert found["severity"] == "error"
    assert (found["line"], found["column"], found["code"]) == (3, 12, "unknown-adapter")
    assert found["hint"] == "did you mean 'queue'?"


@pytest.mark.parametrize(
    "source", ["queue: {name: a, order: true}", "amqp: {queue: a, order: true}"]
)
def test_an_order_that_acceptance_would_lose_is_a_mistake(tmp_path: Path, source: str) -> None:
    text = f"routes: {{r: {{from: {{{source}}}, accept: durable}}}}"
    [found] = load_text(text, tmp_path).diagnostics
    assert "the order is lost" in found.message
    assert "leave out `accept`" in found.hint
